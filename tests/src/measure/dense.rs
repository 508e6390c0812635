//! Dense sketches: random signs in the kernel, and the Hadamard transform.

use std::hint::black_box;

use ascribe_core::linop::LinOp;
use ascribe_core::random::Stream;
use ascribe_core::sketch::{Entries, Normals, Projection, Scale, Signs, Srht};
use ascribe_core::{MatMut, MatRef, Real};
use ascribe_solvers::parallel::Parallelism;
use ascribe_solvers::sketch::project;

use super::{Kernel, Measured, Settings, uniform};
use crate::Failure;
use crate::failure::fail;

const SIZES: &[&str] = &["vectors", "cols", "rows"];

pub(super) const RADEMACHER: Kernel = Kernel {
    name: "rademacher",
    about: "sketches vectors with random signs that are made in the kernel",
    sizes: SIZES,
    defaults: &[&[64, 1_000_000, 4096]],
    f32: projection::<f32, Signs>,
    f64: projection::<f64, Signs>,
};

pub(super) const GAUSSIAN: Kernel = Kernel {
    name: "gaussian",
    about: "the same with normal numbers",
    sizes: SIZES,
    defaults: &[&[64, 100_000, 512]],
    f32: projection::<f32, Normals>,
    f64: projection::<f64, Normals>,
};

pub(super) const SRHT: Kernel = Kernel {
    name: "srht",
    about: "sketches vectors with a subsampled Hadamard transform, on one thread",
    sizes: SIZES,
    defaults: &[&[64, 1_000_000, 4096]],
    f32: srht::<f32>,
    f64: srht::<f64>,
};

fn projection<T: Real, E: Entries>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let &[n, cols, rows] = sizes else { return fail("the table names three sizes") };
    let x: Vec<T> = uniform(settings.seed, 0, &[n, cols])?;
    let mut out = vec![T::ZERO; n * rows];
    let sketch = Projection::<E>::new("measure", rows, cols, Scale::InvSqrtRows)?;
    let (x, parallelism) = (MatRef::new(&x, n, cols)?, Parallelism::threads(settings.threads));
    let mut result = Ok(());
    let seconds = settings.time(|| {
        result = MatMut::new(black_box(&mut out), n, rows).and_then(|out| project(out, &sketch, x, parallelism));
    });
    result?;
    Ok(Measured { seconds, flops: 2 * (n * rows * cols) as u64, bytes: (n * (cols + rows) * size_of::<T>()) as u64 })
}

fn srht<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let &[n, cols, rows] = sizes else { return fail("the table names three sizes") };
    let x: Vec<T> = uniform(settings.seed, 0, &[n, cols])?;
    let mut out = vec![T::ZERO; n * rows];
    let sketch = Srht::draw(Stream::new(settings.seed.into(), "measure.srht"), cols, rows)?;
    let (x, padded) = (MatRef::new(&x, n, cols)?, sketch.padded());
    let mut scratch = vec![T::ZERO; padded];
    let mut result = Ok(());
    let seconds = settings.time(|| {
        result = MatMut::new(black_box(&mut out), n, rows).and_then(|out| sketch.apply(out, x, &mut scratch));
    });
    result?;
    let levels = padded.ilog2() as usize;
    let bytes = n * (cols + rows) * size_of::<T>();
    Ok(Measured { seconds, flops: (n * (padded * levels + 2 * cols)) as u64, bytes: bytes as u64 })
}
