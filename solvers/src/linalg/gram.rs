//! STAND-IN until the kernel's branch lands.
use crate::parallel::Parallelism;
use ascribe_core::{Error, MatMut, MatRef, Real};
/// Adds `X^T X` to the lower triangle.
///
/// # Errors
/// Shapes.
pub fn gram<S: Real, T: Real>(mut out: MatMut<'_, S>, x: MatRef<'_, T>, par: Parallelism) -> Result<(), Error> {
    let n = x.cols();
    let mut product = vec![T::ZERO; n * n];
    super::matmul(MatMut::new(&mut product, n, n)?, T::ZERO, T::ONE, x.t(), x, par)?;
    out.for_each_row(|i, row| (0..=i).for_each(|j| row[j] += S::from_f64(product[i * n + j].to_f64())));
    Ok(())
}
