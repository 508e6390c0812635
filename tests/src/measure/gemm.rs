//! What arithmetic can do: the matrix product that the solvers use.

use std::hint::black_box;

use ascribe_core::{MatMut, MatRef, Real};
use ascribe_solvers::linalg;
use ascribe_solvers::parallel::Parallelism;

use super::{Kernel, Measured, Settings, uniform};
use crate::Failure;
use crate::failure::fail;

pub(super) const KERNEL: Kernel = Kernel {
    name: "gemm",
    about: "m x k times k x n, row-major, as the solvers multiply",
    sizes: &["m", "n", "k"],
    defaults: &[&[2048, 2048, 2048]],
    f32: run::<f32>,
    f64: run::<f64>,
};

fn run<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let &[m, n, k] = sizes else { return fail("the table names three sizes") };
    let (a, b): (Vec<T>, Vec<T>) = (uniform(settings.seed, 0, &[m, k])?, uniform(settings.seed, 1, &[k, n])?);
    let mut out = uniform(settings.seed, 2, &[m, n])?;
    let (a, b) = (MatRef::new(&a, m, k)?, MatRef::new(&b, k, n)?);
    let parallelism = Parallelism::threads(settings.threads);
    let mut result = Ok(());
    let seconds = settings.time(|| {
        result = MatMut::new(black_box(&mut out), m, n)
            .and_then(|out| linalg::matmul(out, T::ZERO, T::ONE, a, b, parallelism));
    });
    result?;
    Ok(Measured { seconds, flops: 2 * (m * n * k) as u64, bytes: ((m * k + k * n + m * n) * size_of::<T>()) as u64 })
}
