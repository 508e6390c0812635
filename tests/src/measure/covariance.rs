//! Second moments of a batch of activations or gradients.

use std::hint::black_box;

use ascribe_core::{MatRef, Real};
use ascribe_solvers::curvature::Gram;
use ascribe_solvers::parallel::Parallelism;

use super::{Kernel, Measured, Settings, uniform};
use crate::Failure;
use crate::failure::fail;

pub(super) const KERNEL: Kernel = Kernel {
    name: "covariance",
    about: "adds X^T X of a batch to an accumulator in the same precision, checks included",
    sizes: &["rows", "n"],
    defaults: &[&[8192, 768]],
    f32: run::<f32, f32>,
    f64: run::<f64, f64>,
};

pub(super) const GRAM: Kernel = Kernel {
    name: "gram",
    about: "the same with the accumulator in double precision, for many batches of sketches",
    sizes: &["rows", "n"],
    defaults: &[&[4096, 1024]],
    f32: run::<f32, f64>,
    f64: run::<f64, f64>,
};

/// `T` of the rows, `S` of the accumulator.
fn run<T: Real, S: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let &[rows, n] = sizes else { return fail("the table names two sizes") };
    let data: Vec<T> = uniform(settings.seed, 0, &[rows, n])?;
    let x = MatRef::new(&data, rows, n)?;
    let parallelism = Parallelism::threads(settings.threads);
    let mut gram = Gram::<S>::new(n, parallelism)?;
    let mut result = Ok(());
    let seconds = settings.time(|| result = gram.add(black_box(x), None));
    result?;
    black_box(&gram);
    let bytes = rows * n * size_of::<T>() + n * (n + 1) * size_of::<S>();
    Ok(Measured { seconds, flops: (rows * n * (n + 1)) as u64, bytes: bytes as u64 })
}
