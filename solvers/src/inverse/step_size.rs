//! The step size of ASTRA.

use ascribe_core::Error as CoreError;

use super::neumann::check_alpha;
use crate::Error;

/// How far a step of [`Astra`](super::Astra) goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum StepSize {
    /// `1 / (margin rho)`, with `rho` the largest eigenvalue of `W (G_B + damping I)` that
    /// [`SpectralRadius`](super::SpectralRadius) finds on several batches, or at once on the full data.
    ///
    /// On the full data, `1 / rho` is below the bound of stability by the factor `2 (1 + momentum)`. Drawn batches
    /// need more room, because momentum adds up the noise of `1 / (1 - momentum)` of them: `rho` is therefore taken on
    /// batches of `(1 - momentum) batch` examples. With `R` the largest eigenvalue of `W` times one example's
    /// curvature, the mean square of the error in an eigendirection is bounded when
    /// `alpha R / batch < (1 - momentum) (2 - alpha rho / (1 + momentum))`, and `R / ((1 - momentum) batch)` is at most
    /// the largest eigenvalue on such a batch that holds that example.
    ///
    /// Cost: `batches * iterations` products on such batches and applications of `W`, once for all right-hand sides.
    Estimated {
        /// For what the estimate misses: few Lanczos steps, and examples that were not drawn.
        margin: f64,
        /// Batches, of which the largest eigenvalue counts.
        batches: usize,
        /// Lanczos steps on each.
        iterations: usize,
    },
    /// This times the damping: the paper's rule, with 0.1 for its small networks, 0.01 for ResNet-9 and 1 for GPT-2. On
    /// the full data, with the same damping in `W`, it is stable when the largest eigenvalue of the curvature, plus
    /// the damping, is below `2 (1 + momentum)` over this.
    ProportionalToDamping(f64),
    /// This.
    Fixed(f64),
}

impl Default for StepSize {
    /// `Estimated`, margin 1.5, six batches, eight Lanczos steps on each.
    fn default() -> Self {
        Self::Estimated { margin: 1.5, batches: 6, iterations: 8 }
    }
}

impl StepSize {
    /// The step size, with the largest eigenvalue if it rests on one; `spectral_radius` gets the numbers of batches
    /// and of iterations.
    pub(super) fn resolve(
        self,
        damping: f64,
        spectral_radius: impl FnOnce(usize, usize) -> Result<f64, Error>,
    ) -> Result<(f64, Option<f64>), Error> {
        let (alpha, rho) = match self {
            Self::Estimated { margin, batches, iterations } => {
                require("margin", margin, margin > 0.0 && margin.is_finite(), "positive and finite")?;
                require("batches of the estimate", batches as f64, batches > 0, "at least 1")?;
                let rho = spectral_radius(batches, iterations)?;
                (1.0 / (margin * rho), Some(rho))
            }
            Self::ProportionalToDamping(factor) => (factor * damping, None),
            Self::Fixed(alpha) => (alpha, None),
        };
        check_alpha(alpha)?;
        Ok((alpha, rho))
    }
}

/// `valid`, or the error that says what the parameter must be.
pub(super) fn require(what: &'static str, value: f64, valid: bool, must_be: &'static str) -> Result<(), CoreError> {
    if valid { Ok(()) } else { Err(CoreError::Parameter { what, value, must_be }) }
}
