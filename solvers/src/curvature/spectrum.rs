//! Spectra of positive semidefinite curvature, and the dampings that they suggest.

use ascribe_core::{Error as CoreError, Real};

use crate::Error;
use crate::error::{check_finite, check_shape};

/// The fraction of the mean eigenvalue that is the common heuristic for a damping.
const RELATIVE: f64 = 0.1;

/// The eigenvalues of a positive semidefinite matrix, in f64.
///
/// Negative ones, which only rounding makes, count as zero; how many they were stays known.
///
/// # Examples
/// ```
/// use ascribe_solvers::curvature::Spectrum;
/// let spectrum = Spectrum::new(&[0.0, 1.0, 4.0, -1e-17])?;
/// assert_eq!((spectrum.dim(), spectrum.rank(), spectrum.clamped()), (4, 2, 1));
/// assert_eq!(spectrum.effective_dimension(1.0)?, 0.5 + 0.8);
/// let damping = spectrum.damping_for_effective_dimension(1.3)?.unwrap();
/// assert!((damping - 1.0).abs() < 1e-12);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Spectrum {
    /// The positive eigenvalues, ascending.
    positive: Vec<f64>,
    dim: usize,
    clamped: usize,
    lowest: f64,
}

/// What there is to see of a [`Spectrum`] before a damping is chosen, and what a damping makes of it.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct SpectrumReport {
    /// The number of eigenvalues.
    pub dim: usize,
    /// The number of positive ones.
    pub rank: usize,
    /// The number of negative ones, which count as zero.
    pub clamped: usize,
    /// The lowest eigenvalue given, before negative ones were clamped; 0 without any.
    pub lowest: f64,
    /// The mean.
    pub mean: f64,
    /// Minimum, lower quartile, median, upper quartile and maximum, interpolated linearly.
    pub quantiles: [f64; 5],
    /// Sum over maximum, between 1 and the rank; 0 for a zero matrix.
    pub stable_rank: f64,
    /// The damping that the following three belong to.
    pub damping: f64,
    /// [`Spectrum::effective_dimension`] at that damping.
    pub effective_dimension: f64,
    /// The condition number of the damped matrix; infinite when it is singular.
    pub condition: f64,
    /// A tenth of the mean, the heuristic of arXiv:2308.03296: a damping to start from. It is 0 for a zero matrix, which
    /// needs another.
    pub suggested_damping: f64,
}

impl Spectrum {
    /// From eigenvalues in any order.
    ///
    /// # Errors
    /// [`CoreError::NonFinite`] for NaN or infinity.
    pub fn new<T: Real>(eigenvalues: &[T]) -> Result<Self, Error> {
        check_finite("eigenvalues", eigenvalues)?;
        let values = || eigenvalues.iter().map(|value| value.to_f64());
        let mut positive: Vec<f64> = values().filter(|value| *value > 0.0).collect();
        positive.sort_unstable_by(f64::total_cmp);
        let lowest = values().fold(f64::INFINITY, f64::min);
        Ok(Self {
            positive,
            dim: eigenvalues.len(),
            clamped: values().filter(|value| *value < 0.0).count(),
            lowest: if lowest.is_finite() { lowest } else { 0.0 },
        })
    }

    /// The same spectrum with as many zeros more as a `dim x dim` matrix has: for the eigenvalues of a Gram matrix of
    /// fewer examples than parameters.
    ///
    /// # Errors
    /// A shape error when `dim` is less than the number of eigenvalues.
    pub fn with_dim(self, dim: usize) -> Result<Self, Error> {
        check_shape("dimension (at least the number of eigenvalues)", dim.max(self.dim), dim)?;
        let lowest = if dim > self.dim { self.lowest.min(0.0) } else { self.lowest };
        Ok(Self { dim, lowest, ..self })
    }

    /// The number of eigenvalues, zeros included.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The number of positive eigenvalues.
    pub fn rank(&self) -> usize {
        self.positive.len()
    }

    /// The positive eigenvalues, ascending.
    pub fn positive(&self) -> &[f64] {
        &self.positive
    }

    /// The number of negative eigenvalues, which count as zero.
    pub fn clamped(&self) -> usize {
        self.clamped
    }

    /// The mean eigenvalue; 0 without any.
    pub fn mean(&self) -> f64 {
        // Divided before they are added: the trace may overflow.
        self.positive.iter().map(|value| value / self.dim as f64).sum()
    }

    /// `fraction` times the mean eigenvalue; 0.1 is the usual fraction.
    pub fn relative_damping(&self, fraction: f64) -> f64 {
        fraction * self.mean()
    }

    /// The `p`-quantile for `p` from 0 to 1, interpolated linearly between neighbours; 0 without any eigenvalue.
    pub fn quantile(&self, p: f64) -> f64 {
        let zeros = self.dim - self.rank();
        let at = |i: usize| if i < zeros { 0.0 } else { self.positive.get(i - zeros).copied().unwrap_or(0.0) };
        let place = p.clamp(0.0, 1.0) * self.dim.saturating_sub(1) as f64;
        let (low, part) = ((place as usize).min(self.dim.saturating_sub(1)), place - place.floor());
        if part == 0.0 { at(low) } else { at(low) + part * (at(low + 1) - at(low)) }
    }

    /// The effective dimension $d(\lambda) = \mathrm{tr}\, F (F + \lambda I)^{-1} = \sum_i s_i / (s_i + \lambda)$, between
    /// 0 and the rank, which it is at 0.
    ///
    /// # Errors
    /// [`CoreError::Damping`] when `damping` is negative or not finite.
    pub fn effective_dimension(&self, damping: f64) -> Result<f64, Error> {
        check_damping(damping)?;
        Ok(self.dimension(damping))
    }

    fn dimension(&self, damping: f64) -> f64 {
        // The quotient may overflow, to a term of zero; the sum of value and damping would not be the right zero.
        self.positive.iter().map(|value| 1.0 / (1.0 + damping / value)).sum()
    }

    /// The damping at which the effective dimension is `target`; none when the rank is below the target.
    ///
    /// By bisection between the bounds $s_{min} (r - t)/t \le \lambda \le r\, s_{max} / t$ for rank `r` and target `t`, to
    /// the last bits. Cost: about 60 passes over the spectrum.
    ///
    /// # Errors
    /// [`CoreError::Parameter`] unless `target` is positive and finite.
    pub fn damping_for_effective_dimension(&self, target: f64) -> Result<Option<f64>, Error> {
        if !(target > 0.0 && target.is_finite()) {
            let must_be = "positive and finite";
            return Err(CoreError::Parameter { what: "effective dimension", value: target, must_be }.into());
        }
        let rank = self.rank() as f64;
        let (Some(least), Some(largest)) = (self.positive.first(), self.positive.last()) else { return Ok(None) };
        if target >= rank {
            return Ok((target == rank).then_some(0.0));
        }
        // Half and twice the bounds, so that rounding does not put the solution outside.
        let low = least * (0.5 * (rank - target) / target);
        let high = (largest * (2.0 * rank / target)).min(f64::MAX);
        Ok(Some(bisect(low.min(high), high, |damping| self.dimension(damping) >= target)))
    }

    /// Figures of the spectrum, and of its matrix with `damping` added.
    ///
    /// # Errors
    /// [`CoreError::Damping`] when `damping` is negative or not finite.
    pub fn report(&self, damping: f64) -> Result<SpectrumReport, Error> {
        let (least, largest) = (self.quantile(0.0), self.quantile(1.0));
        let over_largest = self.positive.iter().map(|value| value / largest).sum();
        let effective_dimension = self.effective_dimension(damping)?;
        let condition = (0.5 * largest + 0.5 * damping) / (0.5 * least + 0.5 * damping);
        Ok(SpectrumReport {
            dim: self.dim,
            rank: self.rank(),
            clamped: self.clamped,
            lowest: self.lowest,
            mean: self.mean(),
            quantiles: [0.0, 0.25, 0.5, 0.75, 1.0].map(|p| self.quantile(p)),
            stable_rank: over_largest,
            damping,
            effective_dimension,
            condition: if condition.is_nan() { f64::INFINITY } else { condition },
            suggested_damping: self.relative_damping(RELATIVE),
        })
    }
}

/// A damping that is finite and not negative.
pub(super) fn check_damping(damping: f64) -> Result<(), CoreError> {
    if damping.is_finite() && damping >= 0.0 { Ok(()) } else { Err(CoreError::Damping { value: damping }) }
}

/// The largest number in `low..high` for which `holds`, which is true at `low` and false at `high` and changes once,
/// by halving the interval in the logarithm.
pub(super) fn bisect(mut low: f64, mut high: f64, holds: impl Fn(f64) -> bool) -> f64 {
    loop {
        let middle = if low > 0.0 { low.sqrt() * high.sqrt() } else { 0.5 * high };
        if middle <= low || middle >= high {
            return low;
        }
        if holds(middle) { low = middle } else { high = middle }
    }
}
