//! The symmetric eigendecomposition that K-FAC's factors go through.

use std::hint::black_box;

use ascribe_core::{MatMut, MatRef, Real};
use ascribe_solvers::linalg::{matmul, symmetric_eigen};
use ascribe_solvers::parallel::Parallelism;

use super::{Kernel, Measured, Settings, uniform};
use crate::Failure;
use crate::failure::fail;

pub(super) const KERNEL: Kernel = Kernel {
    name: "eigh",
    about: "all eigenvalues and eigenvectors of a covariance of 2 n examples, in f64 whatever it comes in",
    sizes: &["n"],
    defaults: &[&[768], &[2048]],
    f32: run::<f32>,
    f64: run::<f64>,
};

fn run<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let &[n] = sizes else { return fail("the table names one size") };
    let examples: Vec<T> = uniform(settings.seed, 0, &[2, n, n])?;
    let examples = MatRef::new(&examples, 2 * n, n)?;
    let mut a = uniform(settings.seed, 1, &[n, n])?;
    let parallelism = Parallelism::threads(settings.threads);
    // The variance of a number uniform in [-1, 1) is 1/3.
    let scale = T::from_f64(1.5 / n.max(1) as f64);
    matmul(MatMut::new(&mut a, n, n)?, T::ZERO, scale, examples.t(), examples, parallelism)?;
    let a = MatRef::new(&a, n, n)?;
    let mut result = Ok(());
    let seconds =
        settings.time(|| result = symmetric_eigen(black_box(a), parallelism).map(|eigen| drop(black_box(eigen))));
    result?;
    // Reduction, divide and conquer without deflation, and the way back.
    let flops = 14 * (n * n * n) as u64 / 3;
    Ok(Measured { seconds, flops, bytes: (n * n * size_of::<T>() + (n * n + n) * size_of::<f64>()) as u64 })
}
