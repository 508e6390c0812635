//! The normalised discounted cumulative gain.

use super::{QueryValues, check_elements, check_k, check_not_empty, check_same_shape, indices};
use crate::error::Error;
use crate::rank::{Direction, Ranked, top_k};
use crate::scalar::{Real, Scalar};
use crate::view::MatRef;
use alloc::vec::Vec;

/// What an example is worth to [`ndcg`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Relevance {
    /// 1 for the `k` first of the reference by the [ranking rule](crate::rank), 0 for the others.
    BinaryTopK,
    /// The reference itself, linearly; finite and not negative.
    Graded,
}

/// How well the first `k` of a ranking match a reference, early places counting more; in `[0, 1]`.
///
/// For each query `DCG / ideal`, where $\text{DCG} = \sum_{r<k} \text{rel}(\text{example at place } r) /
/// \log_2(r + 2)$ in the order of `scores` by the [ranking rule](crate::rank) and the ideal is the same in the
/// order of relevance; 0 when the ideal is 0. `scores` and `reference` are `[n_train, n_query]`. NaN is allowed
/// where only the ranking rule looks at it.
///
/// Error: at most `(2k + 6) u` with `u = 2^-53`, to first order. Cost: that of [`top_k`], twice.
///
/// # Errors
/// [`Error::Shape`] when the shapes differ; [`Error::Empty`] without examples or queries; [`Error::Length`] when
/// `k > n_train`; for graded relevance [`Error::NonFinite`] when the reference is NaN or infinite and
/// [`Error::Parameter`] when it is negative.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, metric::{Relevance, ndcg}};
/// let reference = MatRef::new(&[0.1, 0.9, 0.5], 3, 1)?;
/// let scores = MatRef::new(&[0.0, 5.0, 7.0], 3, 1)?;
/// assert_eq!(ndcg(scores, reference, 2, Relevance::BinaryTopK)?.mean, 1.0);
/// assert!(ndcg(scores, reference, 2, Relevance::Graded)?.mean < 1.0);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
///
/// # References
/// Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", 2002.
pub fn ndcg<T: Real>(
    scores: MatRef<'_, T>,
    reference: MatRef<'_, T>,
    k: usize,
    relevance: Relevance,
) -> Result<QueryValues, Error> {
    check_same_shape(["reference rows", "reference columns"], scores, reference)?;
    check_not_empty(scores, "training examples")?;
    check_k("training examples", k, scores.rows())?;
    if relevance == Relevance::Graded {
        check_elements("reference", reference, Scalar::is_finite)?;
        if let Some(negative) = reference.row_iter().flatten().find(|&&x| x < T::ZERO) {
            let value = negative.to_f64();
            return Err(Error::Parameter { what: "graded relevance", value, must_be: "at least 0" });
        }
    }
    let order = top_k(scores, k, Direction::Largest)?;
    let ideal = top_k(reference, k, Direction::Largest)?;
    let per_query = order.iter().zip(&ideal).enumerate().map(|(query, (order, ideal))| match relevance {
        Relevance::BinaryTopK => {
            let mut relevant: Vec<usize> = indices(ideal).collect();
            relevant.sort_unstable();
            let gains = indices(order).map(|i| f64::from(u8::from(relevant.binary_search(&i).is_ok())));
            ratio(dcg(gains), dcg(ideal.iter().map(|_| 1.0)))
        }
        Relevance::Graded => {
            // A common factor cancels; without it the sum of large relevances could overflow.
            let scale = ideal.first().map_or(0.0, |best| best.score.to_f64());
            let gain = |score: T| score.to_f64() / scale;
            let gains = indices(order).map(|i| gain(reference.row(i)[query]));
            if scale == 0.0 {
                0.0
            } else {
                ratio(dcg(gains), dcg(ideal.iter().map(|best: &Ranked<T>| gain(best.score))))
            }
        }
    });
    Ok(QueryValues::new(per_query.collect()))
}

/// `sum_r gain_r / log2(r + 2)`.
fn dcg(gains: impl Iterator<Item = f64>) -> f64 {
    gains.enumerate().map(|(place, gain)| gain / libm::log2((place + 2) as f64)).sum()
}

fn ratio(dcg: f64, ideal: f64) -> f64 {
    if ideal == 0.0 { 0.0 } else { (dcg / ideal).min(1.0) }
}
