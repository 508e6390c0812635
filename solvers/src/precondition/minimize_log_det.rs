//! `min tr(S Q) - ln det S` over positive definite `S`: the inverse of a matrix, and the model problem of optimisation on
//! that manifold.

use ascribe_core::{Error as CoreError, MatRef, Real, Scalar};

use super::SpectralState;
use crate::Error;

/// What [`minimize_log_det`] did.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LogDetReport {
    /// The objective at the start and after each step.
    pub objective: Vec<f64>,
    /// Steps whose rotation was clipped.
    pub clipped: usize,
}

/// `steps` steps of [`SpectralState::descend`] towards the minimum of $\mathrm{tr}(S Q) - \ln\det S$, which is `Q^-1`.
///
/// The derivative in the eigenbasis is $B^\top Q B - \mathrm{diag}(1/d)$, so neither `S` nor its inverse is formed. With
/// a fixed `rate` the error falls by a constant factor a step, about `1 - rate`; the state's
/// [gaps](super::Spectral::gaps) should be strict or little regularised, since a large `epsilon` slows the last turns down.
///
/// Cost of a step: `4 n^3` flops and the rotation.
///
/// # Errors
/// A shape error, [`CoreError::NonFinite`], or [`CoreError::Parameter`] for the rate; [`Error::Indefinite`] when an
/// eigenvector of the iterate shows that `q` is not positive definite, so that there is no minimum. The state is that of
/// the last step taken.
///
/// # Examples
/// ```
/// use ascribe_core::MatRef;
/// use ascribe_solvers::precondition::{Gaps, Spectral, minimize_log_det};
/// let mut state = Spectral { gaps: Gaps::Strict, ..Spectral::default() }.start::<f64>(2, 1.0)?;
/// minimize_log_det(&mut state, MatRef::new(&[3.0, 1.0, 1.0, 2.0], 2, 2)?, 0.3, 100)?;
/// let s = state.matrix()?;
/// assert!((s[0] - 0.4).abs() < 1e-12 && (s[1] + 0.2).abs() < 1e-12 && (s[3] - 0.6).abs() < 1e-12);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
pub fn minimize_log_det<T: Real>(
    state: &mut SpectralState<T>,
    q: MatRef<'_, T>,
    rate: f64,
    steps: usize,
) -> Result<LogDetReport, Error> {
    let n = state.dim();
    let mut report = LogDetReport { objective: Vec::new(), clipped: 0 };
    for step in 0..=steps {
        let mut g = state.rotate_symmetric("matrix", q)?;
        let mut objective = 0.0;
        for (i, &d) in state.values().iter().enumerate() {
            let curvature = g[i * n + i].to_f64();
            if curvature <= 0.0 {
                return Err(Error::Indefinite { what: "the matrix to invert", curvature });
            }
            objective += d * curvature - Scalar::ln(d);
            g[i * n + i] = T::from_f64(curvature - 1.0 / d);
        }
        if !objective.is_finite() {
            return Err(CoreError::NonFinite { what: "objective", index: step }.into());
        }
        report.objective.push(objective);
        if step < steps {
            report.clipped += usize::from(state.descend_rotated(g, rate)?.clipped);
        }
    }
    Ok(report)
}
