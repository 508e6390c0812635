//! EKFAC: the second pass over the records, and the damped inverse.

use std::hint::black_box;

use ascribe_core::record::LayerRecord;
use ascribe_core::{LinOp, MatMut, MatRef, Real};
use ascribe_solvers::curvature::{Basis, Damping, EigenBlock, EigenvalueCorrection, Empirical, Filter};
use ascribe_solvers::linalg::qr;
use ascribe_solvers::parallel::Parallelism;

use super::{Kernel, Measured, Settings, uniform};
use crate::Failure;
use crate::failure::fail;

pub(super) const EIGENVALUES: Kernel = Kernel {
    name: "ekfac_eigenvalues",
    about: "corrected eigenvalues of one layer from its records, without K-FAC's eigendecompositions",
    sizes: &["examples", "positions", "inputs", "outputs"],
    defaults: &[&[8192, 1, 768, 768], &[64, 128, 768, 768]],
    f32: eigenvalues::<f32>,
    f64: eigenvalues::<f64>,
};

pub(super) const APPLY: Kernel = Kernel {
    name: "ekfac_apply",
    about: "EKFAC's damped inverse on a block of gradients of one layer",
    sizes: &["gradients", "inputs", "outputs"],
    defaults: &[&[64, 768, 768]],
    f32: apply::<f32>,
    f64: apply::<f64>,
};

/// A block with random orthonormal bases and positive eigenvalues: what it costs does not depend on them.
pub(super) fn block<T: Real>(settings: &Settings, outputs: usize, inputs: usize) -> Result<EigenBlock<T>, Failure> {
    let basis = |stream, dim: usize| {
        let numbers = uniform::<f64>(settings.seed, stream, &[dim, dim])?;
        let q = qr(MatRef::new(&numbers, dim, dim)?)?.q;
        Ok::<_, Failure>(Basis::Columns { dim, vectors: q.iter().map(|&x| T::from_f64(x)).collect() })
    };
    let values = uniform::<f64>(settings.seed, 2, &[outputs, inputs])?.iter().map(|x| 1.0 + x).collect();
    Ok(EigenBlock::from_parts("layer", basis(0, outputs)?, basis(1, inputs)?, values)?)
}

fn eigenvalues<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let &[examples, positions, inputs, outputs] = sizes else { return fail("the table names four sizes") };
    let block = block::<T>(settings, outputs, inputs)?;
    let Some(rows) = examples.checked_mul(positions) else { return fail("too many positions") };
    let (x, delta) = (uniform(settings.seed, 3, &[rows, inputs])?, uniform(settings.seed, 4, &[rows, outputs])?);
    let record =
        LayerRecord::new(examples, MatRef::new(&x, rows, inputs)?, MatRef::new(&delta, rows, outputs)?, None, false)?;
    let mut result = Ok(());
    let seconds = settings.time(|| {
        let mut correction = EigenvalueCorrection::<T, Empirical>::new(&block, Parallelism::threads(settings.threads));
        result = correction.add(&record, &[]);
        black_box(correction.finish().ok());
    });
    result?;
    // The rotation of both factors, and the cheaper of pairs of positions and gradients of examples.
    let sums =
        (examples * inputs * outputs * (positions + 1)) as u64 * if positions > 2 { 2 } else { positions as u64 };
    let flops = 2 * (rows * (inputs * inputs + outputs * outputs)) as u64 + sums;
    let numbers = rows * (inputs + outputs) + inputs * inputs + outputs * outputs;
    let bytes = numbers * size_of::<T>() + inputs * outputs * size_of::<f64>();
    Ok(Measured { seconds, flops, bytes: bytes as u64 })
}

fn apply<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let &[gradients, inputs, outputs] = sizes else { return fail("the table names three sizes") };
    let block = block::<T>(settings, outputs, inputs)?;
    let filter = Filter { damping: Damping::Relative(0.1), ..Filter::default() };
    let inverse = block.filtered(&filter, Parallelism::threads(settings.threads))?;
    let v = uniform::<T>(settings.seed, 5, &[gradients, outputs, inputs])?;
    let v = MatRef::new(&v, gradients, block.dim())?;
    let mut out = vec![T::ZERO; gradients * block.dim()];
    let mut scratch = vec![T::ZERO; inverse.scratch_len(gradients)];
    let mut result = Ok(());
    let seconds = settings.time(|| {
        let out = MatMut::new(black_box(&mut out), gradients, inputs * outputs);
        result = out.and_then(|out| inverse.apply(out, v, &mut scratch));
    });
    result?;
    let flops = 4 * (gradients * inputs * outputs * (inputs + outputs)) as u64;
    let numbers = 2 * gradients * inputs * outputs + inputs * inputs + outputs * outputs + inputs * outputs;
    Ok(Measured { seconds, flops, bytes: (numbers * size_of::<T>()) as u64 })
}
