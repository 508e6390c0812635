//! Newton's and Schulz' iteration towards the nearest orthogonal matrix, for a basis that is almost one.

use ascribe_core::{MatMut, MatRef, Real};

use super::transpose::mirror;
use crate::Error;
use crate::error::{check_finite, check_shape, zeros};
use crate::linalg::{gram, matmul};
use crate::parallel::Parallelism;

/// Replaces `B` `[n, n]` by `B (3 I - B^T B) / 2` and returns $\lVert B^\top B - I\rVert_F$ of what it was.
///
/// Every singular value `s` becomes `s (3 - s^2) / 2`: a defect of `e` becomes about `3 e^2 / 4`, never below the
/// rounding of the two products. It converges from a defect below 1 (spectral norm) to the orthogonal matrix nearest
/// to `B`; rounding in a long product of rotations is repaired by one step.
///
/// Cost: `3 n^3` flops, memory for `2 n^2` numbers.
///
/// # Errors
/// A shape error; [`Error::NoConvergence`] when the defect is 1 or more, so that the iteration need not come closer, or
/// NaN. `b` is then untouched.
///
/// # Examples
/// ```
/// use ascribe_core::MatMut;
/// use ascribe_solvers::{parallel::Parallelism::Serial, precondition::polish};
/// let mut b = [1.001, 0.0, 0.0, 0.999];
/// assert!(polish(MatMut::new(&mut b, 2, 2)?, Serial)? > 2e-3);
/// assert!(polish(MatMut::new(&mut b, 2, 2)?, Serial)? < 5e-6);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Higham, *Functions of Matrices*, section 8.3.
pub fn polish<T: Real>(mut b: MatMut<'_, T>, par: Parallelism) -> Result<f64, Error> {
    let n = b.rows();
    check_shape("columns of a basis", n, b.cols())?;
    let (mut square, mut out): (Vec<T>, Vec<T>) =
        (zeros("square of a basis", Some(n * n))?, zeros("basis", Some(n * n))?);
    gram(MatMut::new(&mut square, n, n)?, b.as_ref(), par)?;
    let half = T::from_f64(0.5);
    let mut defect = 0.0_f64;
    for i in 0..n {
        for j in 0..=i {
            let entry = square[i * n + j] - if i == j { T::ONE } else { T::ZERO };
            defect += entry.to_f64().powi(2) * if i == j { 1.0 } else { 2.0 };
            // I + (I - B^T B) / 2 less the first I, which is added below: a small defect keeps its digits.
            square[i * n + j] = -half * entry;
        }
    }
    let defect = defect.sqrt();
    if defect.is_nan() || defect >= 1.0 {
        return Err(Error::NoConvergence { what: "repair of a basis (it is too far from orthogonal)" });
    }
    mirror(&mut square, n, |x| x);
    let square = MatRef::new(&square, n, n)?;
    matmul(MatMut::new(&mut out, n, n)?, T::ZERO, T::ONE, b.as_ref(), square, par)?;
    check_finite("basis", &out)?;
    for (i, correction) in out.chunks_exact(n.max(1)).enumerate() {
        b.row_mut(i).iter_mut().zip(correction).for_each(|(b, &x)| *b += x);
    }
    Ok(defect)
}

/// Polishes until rounding is all that is left: once, as a rule.
pub(super) fn repair<T: Real>(b: &mut [T], n: usize, par: Parallelism) -> Result<(), Error> {
    // After a defect of this size the next one is `3 n eps / 4`.
    let enough = (T::EPSILON.to_f64() * n as f64).sqrt();
    while polish(MatMut::new(b, n, n)?, par)? > enough {}
    Ok(())
}
