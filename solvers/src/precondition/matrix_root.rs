//! Inverse roots of symmetric positive semidefinite matrices.
//!
//! | function | needs | use it when |
//! |---|---|---|
//! | [`inverse_root`] | an eigendecomposition | any power; the reference, and fastest on a CPU |
//! | [`pseudo_inverse_root`] | the same | a matrix without full rank and no damping |
//! | [`coupled_inverse_root`] | products alone | integer roots, hardware without decompositions |
//! | [`RefinedEigenbasis`] | a basis from last time | a matrix that changes slowly |
//!
//! All compute in f64, whatever the matrix came in.

mod coupled;
mod refined;

pub(super) use coupled::power;
pub use coupled::{CoupledNewton, CoupledRoot, coupled_inverse_root, inverse_root_residual};
pub use refined::RefinedEigenbasis;

use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};

use super::check::{check, check_rate};
use super::transpose::{mirrored, transpose};
use crate::Error;
use crate::linalg::{gram, symmetric_eigen};
use crate::parallel::Parallelism;

/// $(A - \min(\lambda_{\min}, 0) I + \epsilon I)^{-1/p}$: what is negative in the spectrum, by rounding, is shifted away.
///
/// `p` is any number but 0: 2 an inverse square root, 4 a side of Shampoo, -1 the matrix itself.
/// Cost: an eigendecomposition ([`symmetric_eigen`]) and `n^3` flops, `3 n^2` doubles. Relative error at most about
/// `n eps kappa / |p|` for `p >= 1`, `kappa` being the condition number of what is inverted.
///
/// # Errors
/// A shape error when `a` is not square; [`CoreError::NonFinite`]; [`CoreError::Parameter`] for `p = 0` or an `epsilon`
/// that is negative or not finite; [`CoreError::Singular`] with the number of the eigenvalue (ascending) that has no
/// finite power; [`Error::NoConvergence`] of the eigendecomposition.
///
/// # Examples
/// ```
/// use ascribe_core::MatRef;
/// use ascribe_solvers::{parallel::Parallelism, precondition::inverse_root};
/// let x = inverse_root(MatRef::new(&[16.0, 0.0, 0.0, 81.0], 2, 2)?, 4.0, 0.0, Parallelism::Serial)?;
/// assert!((x[0] - 1.0 / 2.0).abs() < 1e-14 && (x[3] - 1.0 / 3.0).abs() < 1e-14);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
pub fn inverse_root<T: Real>(a: MatRef<'_, T>, p: f64, epsilon: f64, par: Parallelism) -> Result<Vec<f64>, Error> {
    check_root(p)?;
    check_rate("epsilon", epsilon)?;
    let eigen = symmetric_eigen(a, par)?;
    let shift = epsilon - eigen.values.first().map_or(0.0, |least| least.min(0.0));
    let powers: Vec<f64> = eigen.values.iter().map(|value| (value + shift).powf(-1.0 / p)).collect();
    assemble(&eigen.vectors, &powers, par)
}

/// `A^(-1/p)` on the eigenvectors whose eigenvalue exceeds `rtol` times the largest, zero on the others.
///
/// Cost, error and errors as for [`inverse_root`]; [`CoreError::Parameter`] for an `rtol` that is negative or not finite.
/// The zero matrix gives zero.
///
/// # Errors
/// See above.
pub fn pseudo_inverse_root<T: Real>(a: MatRef<'_, T>, p: f64, rtol: f64, par: Parallelism) -> Result<Vec<f64>, Error> {
    check_root(p)?;
    check_rate("rtol", rtol)?;
    let eigen = symmetric_eigen(a, par)?;
    let least = rtol * eigen.values.last().map_or(0.0, |largest| largest.max(0.0));
    let power = |&value: &f64| if value <= least { 0.0 } else { value.powf(-1.0 / p) };
    let powers: Vec<f64> = eigen.values.iter().map(power).collect();
    assemble(&eigen.vectors, &powers, par)
}

fn check_root(p: f64) -> Result<(), CoreError> {
    check("p", p, p.is_finite() && p != 0.0, "finite and not 0")
}

/// `Q diag(powers) Q^T` of eigenvectors in columns; no power is negative.
pub(super) fn assemble(vectors: &[f64], powers: &[f64], par: Parallelism) -> Result<Vec<f64>, Error> {
    let n = powers.len();
    if let Some(index) = powers.iter().position(|power| !power.is_finite()) {
        return Err(CoreError::Singular { what: "matrix under a root", index }.into());
    }
    // The rows of diag(powers)^(1/2) Q^T: their Gram matrix takes half the operations of a product.
    let mut rows = vec![0.0; n * n];
    transpose(&mut rows, vectors, n, n, par, |vector, x| powers[vector].sqrt() * x);
    let mut lower = vec![0.0; n * n];
    gram(MatMut::new(&mut lower, n, n)?, MatRef::new(&rows, n, n)?, par)?;
    Ok(mirrored(&lower, n))
}
