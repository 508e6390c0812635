//! Sparse and factorised sketches.

use std::hint::black_box;

use ascribe_core::random::Stream;
use ascribe_core::record::LayerRecord;
use ascribe_core::sketch::{FactGrass, Grass, LoGra, Mask, MaskScale, Sjlt, SjltTable, random_projection};
use ascribe_core::{LinOp, MatMut, MatRef, Real};
use ascribe_solvers::parallel::Parallelism;
use ascribe_solvers::sketch::{apply_rows, logra_records, sketch_records};

use super::{Kernel, Measured, Settings, uniform};
use crate::Failure;
use crate::failure::fail;

pub(super) const SJLT: Kernel = Kernel {
    name: "sjlt",
    about: "sparse Johnson-Lindenstrauss transform of rows, from a table",
    sizes: &["rows", "p", "k", "slots"],
    defaults: &[&[64, 1_000_000, 4096, 1]],
    f32: sjlt::<f32>,
    f64: sjlt::<f64>,
};

pub(super) const GRASS: Kernel = Kernel {
    name: "grass",
    about: "random mask of rows, then a sparse transform",
    sizes: &["rows", "p", "kept", "k"],
    defaults: &[&[64, 1_000_000, 16384, 4096]],
    f32: grass::<f32>,
    f64: grass::<f64>,
};

pub(super) const FACTGRASS: Kernel = Kernel {
    name: "factgrass",
    about: "masked layer gradients from records, then a sparse transform",
    sizes: &["examples", "positions", "width", "kept", "k"],
    defaults: &[&[32, 128, 768, 128, 4096]],
    f32: fact_grass::<f32>,
    f64: fact_grass::<f64>,
};

pub(super) const LOGRA: Kernel = Kernel {
    name: "logra",
    about: "layer gradients projected from both sides, from records",
    sizes: &["examples", "positions", "width", "rank"],
    defaults: &[&[32, 128, 768, 64]],
    f32: logra::<f32>,
    f64: logra::<f64>,
};

/// The time of `apply` on rows of length `p`.
fn rows<T: Real>(settings: &Settings, op: &(impl LinOp<T> + Sync), n: usize) -> Result<Vec<f64>, Failure> {
    let (p, k) = (op.dim_in(), op.dim_out());
    let x: Vec<T> = uniform(settings.seed, 0, &[n, p])?;
    let mut out = uniform(settings.seed, 1, &[n, k])?;
    let (x, parallelism) = (MatRef::new(&x, n, p)?, Parallelism::threads(settings.threads));
    let mut result = Ok(());
    let seconds = settings.time(|| {
        result = MatMut::new(black_box(&mut out), n, k).and_then(|out| apply_rows(out, op, x, parallelism));
    });
    result?;
    Ok(seconds)
}

fn sjlt<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let &[n, p, k, slots] = sizes else { return fail("the table names four sizes") };
    let sjlt = SjltTable::draw(&Sjlt::new(p, k, slots, Stream::new(settings.seed.into(), "sjlt"))?)?;
    let seconds = rows::<T>(settings, &sjlt, n)?;
    let bytes = n * (p + k) * size_of::<T>() + 4 * p * slots;
    Ok(Measured { seconds, flops: (n * p * slots) as u64, bytes: bytes as u64 })
}

fn grass<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let &[n, p, kept, k] = sizes else { return fail("the table names four sizes") };
    let stream = Stream::new(settings.seed.into(), "grass");
    let sjlt = SjltTable::draw(&Sjlt::new(kept, k, 1, stream.child(1))?)?;
    let grass = Grass::new(Mask::random(p, kept, MaskScale::None, stream.child(0))?, sjlt)?;
    let seconds = rows::<T>(settings, &grass, n)?;
    let bytes = n * (kept + k) * size_of::<T>() + (4 + size_of::<usize>()) * kept;
    Ok(Measured { seconds, flops: (n * kept) as u64, bytes: bytes as u64 })
}

fn fact_grass<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let &[n, t, d, kept, k] = sizes else { return fail("the table names five sizes") };
    let stream = Stream::new(settings.seed.into(), "factgrass");
    let mask = |child| Mask::random(d, kept, MaskScale::None, stream.child(child));
    let sjlt = SjltTable::draw(&Sjlt::new(kept * kept, k, 1, stream.child(2))?)?;
    let sketch = FactGrass::new(mask(0)?, mask(1)?, sjlt)?;
    let seconds = records::<T>(settings, [n, t, d, k], |out, record, par| sketch_records(out, &sketch, record, par))?;
    let bytes = (2 * n * t * kept + n * k) * size_of::<T>() + 4 * kept * kept;
    Ok(Measured { seconds, flops: (n * kept * kept * (2 * t + 1)) as u64, bytes: bytes as u64 })
}

fn logra<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let &[n, t, d, rank] = sizes else { return fail("the table names four sizes") };
    let stream = Stream::new(settings.seed.into(), "logra");
    let (mut p_in, mut p_out) = (vec![T::ZERO; rank * d], vec![T::ZERO; rank * d]);
    random_projection(MatMut::new(&mut p_in, rank, d)?, stream.child(0));
    random_projection(MatMut::new(&mut p_out, rank, d)?, stream.child(1));
    let sketch = LoGra::new(MatRef::new(&p_out, rank, d)?, MatRef::new(&p_in, rank, d)?)?;
    let sizes = [n, t, d, rank * rank];
    let seconds = records::<T>(settings, sizes, |out, record, par| logra_records(out, &sketch, record, par))?;
    let bytes = (2 * n * t * d + 2 * rank * d + n * rank * rank) * size_of::<T>();
    Ok(Measured { seconds, flops: (2 * n * t * rank * (2 * d + rank)) as u64, bytes: bytes as u64 })
}

/// The time of `sketch` for a record of `n` examples of `t` positions, with layers `d x d`, to rows of length `k`.
fn records<T: Real>(
    settings: &Settings,
    [n, t, d, k]: [usize; 4],
    sketch: impl Fn(MatMut<'_, T>, &LayerRecord<'_, T>, Parallelism) -> Result<(), ascribe_core::Error>,
) -> Result<Vec<f64>, Failure> {
    let (x, delta): (Vec<T>, Vec<T>) = (uniform(settings.seed, 0, &[n, t, d])?, uniform(settings.seed, 1, &[n, t, d])?);
    let record = LayerRecord::new(n, MatRef::new(&x, n * t, d)?, MatRef::new(&delta, n * t, d)?, None, false)?;
    let mut out = uniform(settings.seed, 2, &[n, k])?;
    let parallelism = Parallelism::threads(settings.threads);
    let mut result = Ok(());
    let seconds = settings.time(|| {
        result = MatMut::new(black_box(&mut out), n, k).and_then(|out| sketch(out, &record, parallelism));
    });
    result?;
    Ok(seconds)
}
