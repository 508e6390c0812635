//! A confidence interval for a mean over queries.

use super::correlation::normalize_exponent;
use super::{check_elements, mean};
use crate::error::Error;
use crate::random::Stream;
use crate::scalar::{Real, Scalar};
use crate::view::MatRef;
use alloc::vec::Vec;

/// A confidence interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The lower end.
    pub lower: f64,
    /// The upper end.
    pub upper: f64,
}

/// The percentile bootstrap interval of the mean of `values`, one value a query.
///
/// Each resample draws as many values with replacement and takes their mean; the interval reaches from the
/// `(1 - level) / 2` to the `(1 + level) / 2` quantile of these means, interpolated linearly. A thousand resamples
/// at level 0.95 are customary. Resample `b` reads `stream.child(b)`. Leave undefined correlations out of `values`.
///
/// Cost: `resamples * values.len()` draws. The interval is asymptotically exact, and too narrow for few values: by
/// a factor of about `sqrt(1 - 1/n)`.
///
/// # Errors
/// [`Error::Empty`] without values; [`Error::NonFinite`] for NaN or infinities; [`Error::Parameter`] for no
/// resamples or a level outside the open interval from 0 to 1; [`Error::Overflow`] when there is no memory for
/// the resamples.
///
/// # Examples
/// ```
/// use ascribe_core::{metric::bootstrap_interval, random::Stream};
/// let lds = [0.31, 0.42, 0.28, 0.39, 0.35];
/// let interval = bootstrap_interval(&lds, 0.95, 1000, Stream::new(0, "bootstrap"))?;
/// assert!(0.28 < interval.lower && interval.lower < 0.35 && 0.35 < interval.upper && interval.upper < 0.42);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
///
/// # References
/// Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 13.
pub fn bootstrap_interval<T: Real>(
    values: &[T],
    level: f64,
    resamples: usize,
    stream: Stream,
) -> Result<Interval, Error> {
    if values.is_empty() {
        return Err(Error::Empty { what: "values" });
    }
    check_elements("values", MatRef::from_row(values), Scalar::is_finite)?;
    if !(level > 0.0 && level < 1.0) {
        return Err(Error::Parameter { what: "level", value: level, must_be: "between 0 and 1" });
    }
    if resamples == 0 {
        return Err(Error::Parameter { what: "resamples", value: 0.0, must_be: "at least 1" });
    }
    let mut values: Vec<f64> = values.iter().map(|x| x.to_f64()).collect();
    let power = normalize_exponent(&mut values);
    let mut means = Vec::new();
    means.try_reserve_exact(resamples).map_err(|_| Error::Overflow { what: "resamples" })?;
    let mut resample = Vec::with_capacity(values.len());
    for b in 0..resamples {
        let mut draws = stream.child(b as u64).draws();
        resample.clear();
        resample.extend(values.iter().map(|_| values[draws.next_index(values.len())]));
        means.push(mean(&resample));
    }
    means.sort_unstable_by(f64::total_cmp);
    let end = |q: f64| power * quantile(&means, q);
    Ok(Interval { lower: end((1.0 - level) / 2.0), upper: end(f64::midpoint(1.0, level)) })
}

/// The quantile of sorted values, between two of them by linear interpolation.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let position = q * (sorted.len() - 1) as f64;
    let below = position as usize;
    let (low, high) = (sorted[below], sorted[(below + 1).min(sorted.len() - 1)]);
    low + (high - low) * (position - below as f64)
}
