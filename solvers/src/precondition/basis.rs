//! Orthonormal bases as the columns of square matrices.

use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};

use super::polish::repair;
use super::{Cayley, polish};
use crate::Error;
use crate::error::{check_finite, zeros};
use crate::linalg::matmul;
use crate::parallel::Parallelism;

/// `B Cay(N)`, repaired when that is due. So are truncated maps always, and rotations so long (`length` being the norm of
/// `N`) that the solution with `I - N` loses digits.
pub(super) fn turn_basis<T: Real>(
    cayley: Cayley,
    basis: &[T],
    (skew, length): (Vec<T>, f64),
    n: usize,
    due: bool,
    par: Parallelism,
) -> Result<Vec<T>, Error> {
    let mut turned = cayley.rotated(MatRef::new(basis, n, n)?, skew, par)?;
    if due || cayley != Cayley::Exact || length > 1.0 {
        repair(&mut turned, n, par)?;
    }
    Ok(turned)
}

/// `B diag(d) B^T`.
pub(super) fn reconstruct<T: Real>(basis: &[T], values: &[f64], par: Parallelism) -> Result<Vec<T>, Error> {
    let n = values.len();
    let mut scaled = basis.to_vec();
    for row in scaled.chunks_exact_mut(n.max(1)) {
        row.iter_mut().zip(values).for_each(|(x, &d)| *x *= T::from_f64(d));
    }
    let mut out: Vec<T> = zeros("matrix", Some(n * n))?;
    let (scaled, basis) = (MatRef::new(&scaled, n, n)?, MatRef::new(basis, n, n)?);
    matmul(MatMut::new(&mut out, n, n)?, T::ZERO, T::ONE, scaled, basis.t(), par)?;
    Ok(out)
}

/// The unit vectors.
pub(super) fn identity<T: Real>(n: usize) -> Result<Vec<T>, CoreError> {
    let mut basis: Vec<T> = zeros("basis", n.checked_mul(n))?;
    basis.iter_mut().step_by(n + 1).for_each(|x| *x = T::ONE);
    Ok(basis)
}

/// A square basis, finite, and orthonormal to half of the digits: what one repair then makes it fully.
pub(super) fn check_basis<T: Real>(basis: &[T], n: usize, par: Parallelism) -> Result<(), Error> {
    let mut copy = MatRef::new(basis, n, n)?.as_span().to_vec();
    check_finite("basis", &copy)?;
    let defect = polish(MatMut::new(&mut copy, n, n)?, par)?;
    if defect <= (T::EPSILON.to_f64() * n as f64).sqrt() {
        Ok(())
    } else {
        Err(Error::NoConvergence { what: "basis of a preconditioner (its columns are not orthonormal)" })
    }
}
