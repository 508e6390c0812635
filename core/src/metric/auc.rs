//! Detection of mislabelled examples: the area under the ROC curve and the average precision.

use super::midranks;
use crate::error::{Error, check_shape};
use crate::rank::{Direction, Ranked};
use crate::scalar::Real;
use alloc::vec::Vec;

/// The probability that a positive example scores higher than a negative one, ties counting one half.
///
/// $(\sum_{i\ \text{positive}} \text{midrank}_i - P(P+1)/2) / (P N)$ for `P` positive and `N` negative examples. A
/// high score means suspicious when `positive` marks mislabelled examples. Reversing the labels or the sign of the
/// scores gives one minus it. Error: one rounding for `n <= 2^26`. Cost: `O(n log n)`.
///
/// # Errors
/// [`Error::Shape`] when the lengths differ; [`Error::NonFinite`] for NaN (infinities are allowed);
/// [`Error::Empty`] when no example is positive or none negative.
///
/// # Examples
/// ```
/// use ascribe_core::metric::auc;
/// assert_eq!(auc(&[0.9, 0.1, 0.5, 0.5], &[true, false, true, false])?, 0.875);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
pub fn auc<T: Real>(scores: &[T], positive: &[bool]) -> Result<f64, Error> {
    let [positives, negatives] = class_sizes(scores, positive)?;
    let ranks = midranks(scores)?;
    let rank_sum: f64 = ranks.iter().zip(positive).filter(|(_, positive)| **positive).map(|(rank, _)| rank).sum();
    Ok((rank_sum - positives * (positives + 1.0) / 2.0) / (positives * negatives))
}

/// The mean precision at the positive examples, in the order of descending scores.
///
/// Sum over the distinct scores, descending, of the step in recall times the precision so far; tied examples enter
/// together, so their order does not matter. Error: at most `(n + 3) u` with `u = 2^-53`, to first order. Cost:
/// `O(n log n)`.
///
/// # Errors
/// As [`auc`].
///
/// # Examples
/// ```
/// use ascribe_core::metric::average_precision;
/// assert_eq!(average_precision(&[0.9, 0.1, 0.5, 0.5], &[true, false, true, false])?, 0.5 + 0.5 * 2.0 / 3.0);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
pub fn average_precision<T: Real>(scores: &[T], positive: &[bool]) -> Result<f64, Error> {
    let [positives, _] = class_sizes(scores, positive)?;
    let mut order: Vec<_> = scores.iter().enumerate().map(|(index, &score)| Ranked { score, index }).collect();
    order.sort_unstable_by(|a, b| Direction::Largest.compare(a, b));
    let (mut found, mut seen, mut sum) = (0.0, 0.0, 0.0);
    for ties in order.chunk_by(|a, b| a.score == b.score) {
        let new = ties.iter().filter(|entry| positive[entry.index]).count() as f64;
        found += new;
        seen += ties.len() as f64;
        sum += new / positives * (found / seen);
    }
    Ok(sum)
}

/// The numbers of positive and negative examples, both at least 1, of scores without NaN.
fn class_sizes<T: Real>(scores: &[T], positive: &[bool]) -> Result<[f64; 2], Error> {
    check_shape("labels", scores.len(), positive.len())?;
    if let Some(index) = scores.iter().position(|score| score.is_nan()) {
        return Err(Error::NonFinite { what: "scores", index });
    }
    let positives = positive.iter().filter(|&&positive| positive).count();
    match (positives, scores.len() - positives) {
        (0, _) => Err(Error::Empty { what: "positive examples" }),
        (_, 0) => Err(Error::Empty { what: "negative examples" }),
        (positives, negatives) => Ok([positives as f64, negatives as f64]),
    }
}
