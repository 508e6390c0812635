//! Counter-based random numbers: the same on every platform, for any tiling and any number of threads.
//!
//! A [`Stream`] is keyed by a seed and a name, and is read at coordinates: nothing is consumed, so any block of a
//! random matrix can be made alone. [`Draws`] is a cursor over a stream for algorithms that are sequential by
//! nature. Both rest on [`philox4x32`]. None of this is meant for secrets.
//!
//! ```
//! use ascribe_core::random::Stream;
//! let stream = Stream::new(0, "readme");
//! assert_eq!(stream.words(7, 0), stream.words(7, 0));
//! let mut order = [0, 1, 2, 3, 4];
//! stream.draws().shuffle(&mut order);
//! order.sort_unstable();
//! assert_eq!(order, [0, 1, 2, 3, 4]);
//! ```

mod draws;
mod philox;
mod stream;

pub use draws::Draws;
pub use philox::{bucket, philox4x32};
pub use stream::Stream;

use crate::error::Error;
use crate::scalar::Real;

/// The category that a uniform number in `[0, 1)` falls into, by inverting the cumulative distribution.
///
/// Returns the least `c` with `uniform * total < weights[0] + .. + weights[c]`; the weights need not add up to 1.
/// A category of weight 0 is never returned. Accumulates in f64: the bounds between categories, in `uniform`, are off
/// by at most `len * 2^-52`. Cost: `2 len` additions.
///
/// # Errors
/// [`Error::Empty`] without weights; [`Error::NonFinite`] for a weight that is NaN or infinite;
/// [`Error::Parameter`] for a negative weight, weights whose sum is zero or not finite, or `uniform` outside
/// `[0, 1)`.
///
/// # Examples
/// ```
/// use ascribe_core::random::{Stream, categorical};
/// let stream = Stream::new(0, "labels");
/// let class = categorical(&[0.0_f32, 3.0, 1.0], stream.uniform(12, 0))?;
/// assert!(class == 1 || class == 2);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
pub fn categorical<T: Real>(weights: &[T], uniform: f64) -> Result<usize, Error> {
    if weights.is_empty() {
        return Err(Error::Empty { what: "weights" });
    }
    if !(0.0..1.0).contains(&uniform) {
        return Err(Error::Parameter { what: "uniform", value: uniform, must_be: "in [0, 1)" });
    }
    let mut total = 0.0;
    for (index, weight) in weights.iter().map(|w| w.to_f64()).enumerate() {
        if !weight.is_finite() {
            return Err(Error::NonFinite { what: "weights", index });
        }
        if weight < 0.0 {
            return Err(Error::Parameter { what: "weight", value: weight, must_be: "at least 0" });
        }
        total += weight;
    }
    if total == 0.0 || !total.is_finite() {
        return Err(Error::Parameter { what: "sum of weights", value: total, must_be: "positive and finite" });
    }
    // The product may round up to the total; then no partial sum exceeds it and the last positive weight is meant.
    let target = uniform * total;
    let (mut sum, mut chosen) = (0.0, 0);
    for (index, weight) in weights.iter().map(|w| w.to_f64()).enumerate() {
        if weight > 0.0 {
            sum += weight;
            chosen = index;
            if target < sum {
                break;
            }
        }
    }
    Ok(chosen)
}
