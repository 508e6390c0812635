//! Reciprocal rank, recall and precision of known sources.

use super::{check_k, check_not_empty, check_same_shape, indices, mean};
use crate::error::Error;
use crate::rank::{Direction, top_k};
use crate::scalar::Real;
use crate::view::MatRef;
use alloc::vec::Vec;

/// What [`retrieval`] found for one query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueryRetrieval {
    /// The place, from 1, of the first relevant example within the first `list_len`.
    pub first_rank: Option<usize>,
    /// One over that place, or 0.
    pub reciprocal_rank: f64,
    /// 1 when one of the first `k` is relevant, 0 otherwise: the recall of fact tracing.
    pub recall: f64,
    /// The share of the first `k` that is relevant.
    pub precision: f64,
}

/// What [`retrieval`] found for each query, and the means over all of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Retrieval {
    /// One entry a query.
    pub per_query: Vec<QueryRetrieval>,
    /// The mean reciprocal rank.
    pub mrr: f64,
    /// The mean recall.
    pub mean_recall: f64,
    /// The mean precision.
    pub mean_precision: f64,
}

/// Whether known sources come first: reciprocal rank within the first `list_len`, recall and precision at `k`.
///
/// `scores` and `relevant` are `[n_train, n_query]`; the order is that of the [ranking rule](crate::rank), so NaN
/// comes last. A query without relevant examples counts 0. Cost: that of [`top_k`].
///
/// # Errors
/// [`Error::Shape`] when the shapes differ; [`Error::Empty`] without examples or queries; [`Error::Length`] unless
/// `k <= list_len <= n_train`; [`Error::Parameter`] when `k` is 0.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, metric::retrieval};
/// let scores = MatRef::new(&[0.3, 0.9, 0.5], 3, 1)?;
/// let found = retrieval(scores, MatRef::new(&[true, false, true], 3, 1)?, 2, 3)?;
/// assert_eq!(found.per_query[0].first_rank, Some(2));
/// assert_eq!([found.mrr, found.mean_recall, found.mean_precision], [0.5, 1.0, 0.5]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
///
/// # References
/// Akyürek et al., "Towards tracing factual knowledge in language models back to the training data",
/// arXiv:2205.11482.
pub fn retrieval<T: Real>(
    scores: MatRef<'_, T>,
    relevant: MatRef<'_, bool>,
    k: usize,
    list_len: usize,
) -> Result<Retrieval, Error> {
    check_same_shape(["relevant rows", "relevant columns"], scores, relevant)?;
    check_not_empty(scores, "training examples")?;
    check_k("training examples", list_len, scores.rows())?;
    check_k("list", k, list_len)?;
    if k == 0 {
        return Err(Error::Parameter { what: "k", value: 0.0, must_be: "at least 1" });
    }
    let lists = top_k(scores, list_len, Direction::Largest)?;
    let per_query = lists.iter().enumerate().map(|(query, list)| {
        let hits = || indices(list).map(|example| relevant.row(example)[query]);
        let first_rank = hits().position(|hit| hit).map(|place| place + 1);
        let found = hits().take(k).filter(|&hit| hit).count();
        QueryRetrieval {
            first_rank,
            reciprocal_rank: first_rank.map_or(0.0, |rank| 1.0 / rank as f64),
            recall: if found > 0 { 1.0 } else { 0.0 },
            precision: found as f64 / k as f64,
        }
    });
    let per_query: Vec<_> = per_query.collect();
    let mean_of = |value: fn(&QueryRetrieval) -> f64| mean(&per_query.iter().map(value).collect::<Vec<_>>());
    Ok(Retrieval {
        mrr: mean_of(|found| found.reciprocal_rank),
        mean_recall: mean_of(|found| found.recall),
        mean_precision: mean_of(|found| found.precision),
        per_query,
    })
}
