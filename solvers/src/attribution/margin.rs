//! The correct-class margin, the model output that TRAK linearises.

use ascribe_core::{MatMut, MatRef, Real};

use crate::Error;
use crate::error::{check_finite, check_shape};

/// The margin $f = \ln \frac{p}{1-p} = z_y - \mathrm{logsumexp}_{c \ne y} z_c$ of one example's outputs `z`, `p`
/// being the probability that their softmax gives to class `y`.
///
/// Computed from the second form, which neither overflows nor loses digits when `p` is near 0 or 1.
///
/// # Errors
/// [`Error::Label`] when there is no such class; a shape error for a single class, which has no margin;
/// [`CoreError::NonFinite`](ascribe_core::Error::NonFinite) in the outputs.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef};
/// use ascribe_solvers::attribution::{margin, margin_cotangents};
/// let z = [2.0_f64, 0.0, 0.0];
/// assert!((margin(&z, 0)? - (2.0 - 2.0_f64.ln())).abs() < 1e-15);
/// let mut cotangents = [0.0; 3];
/// margin_cotangents(MatMut::from_row(&mut cotangents), MatRef::from_row(&z), &[0])?;
/// assert_eq!(cotangents, [1.0, -0.5, -0.5]);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Park et al., arXiv:2303.14186, section 3.
pub fn margin<T: Real>(z: &[T], y: usize) -> Result<T, Error> {
    check(0, z, y)?;
    let (top, sum) = others(z, y);
    Ok(z[y] - top - sum.ln())
}

/// The gradients of the margins in the outputs, one example a row of `out` and `outputs` `[n, classes]`: 1 for the
/// right class `labels[n]`, and minus the softmax over the others.
///
/// A network takes them back to its parameters, by
/// [`Linearized::per_example_pullback`](crate::network::Linearized::per_example_pullback) for ours.
///
/// # Errors
/// As [`margin`]; a shape error when the arguments do not fit.
pub fn margin_cotangents<T: Real>(
    mut out: MatMut<'_, T>,
    outputs: MatRef<'_, T>,
    labels: &[usize],
) -> Result<(), Error> {
    check_shape("labels", outputs.rows(), labels.len())?;
    check_shape("cotangent rows", outputs.rows(), out.rows())?;
    check_shape("cotangent columns", outputs.cols(), out.cols())?;
    outputs.row_iter().zip(labels).enumerate().try_for_each(|(n, (z, &y))| check(n, z, y))?;
    out.for_each_row(|n, cotangent| {
        let (z, y) = (outputs.row(n), labels[n]);
        let (top, sum) = others(z, y);
        for (c, (out, &z)) in cotangent.iter_mut().zip(z).enumerate() {
            *out = if c == y { T::ONE } else { -(z - top).exp() / sum };
        }
    });
    Ok(())
}

fn check<T: Real>(example: usize, z: &[T], y: usize) -> Result<(), Error> {
    if y >= z.len() {
        return Err(Error::Label { example, label: y, classes: z.len() });
    }
    check_shape("classes of a margin (at least two)", 2, z.len().min(2))?;
    Ok(check_finite("outputs", z)?)
}

/// The largest output but that of `y`, and the sum of the exponentials of the others relative to it.
fn others<T: Real>(z: &[T], y: usize) -> (T, T) {
    let others = || z.iter().enumerate().filter(|&(c, _)| c != y).map(|(_, &z)| z);
    let top = others().fold(-T::MAX, |top, z| if z > top { z } else { top });
    (top, others().fold(T::ZERO, |sum, z| sum + (z - top).exp()))
}
