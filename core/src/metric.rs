//! How good attributions are: agreement with retraining, detection, retrieval.
//!
//! Scores are `[n_train, n_query]` and a positive score says that the example helps, as in [`score`](crate::score).
//!
//! | question | metric |
//! |---|---|
//! | do sums of scores order retrained models? | [`lds`], with [`bootstrap_interval`] |
//! | do they order models with one example left out? | [`loo`] |
//! | are mislabelled examples suspicious? | [`auc`], [`average_precision`] |
//! | does a cheap score order as the reference does? | [`ndcg`], [`spearman_columns`] |
//! | do the known sources come first? | [`retrieval`] |
//! | how few removals flip a prediction? | [`brittleness`] |
//! | does one step on the proponents help? | [`tail_patch`] |
//!
//! Arithmetic is in f64 whatever the scores are stored in. Every metric needs at least one query and one example
//! or subset, and refuses NaN, except where only the [ranking rule](crate::rank) decides: there NaN comes last. A
//! correlation with a constant is undefined: its value is reported as 0 and [`Correlation::valid`] as false, and
//! means leave it out.

mod auc;
mod bootstrap;
mod brittleness;
mod correlation;
mod lds;
mod loo;
#[cfg(feature = "libm")]
mod ndcg;
mod retrieval;
mod tail_patch;

pub use auc::{auc, average_precision};
pub use bootstrap::{Interval, bootstrap_interval};
pub use brittleness::{Brittleness, brittleness};
pub use correlation::{Correlation, QueryCorrelations, midranks, pearson, pearson_columns, spearman, spearman_columns};
pub use lds::{Lds, lds, subset_sums};
pub use loo::loo;
#[cfg(feature = "libm")]
pub use ndcg::{Relevance, ndcg};
pub use retrieval::{QueryRetrieval, Retrieval, retrieval};
pub use tail_patch::tail_patch;

use crate::error::{Error, check_shape};
use crate::rank::Ranked;
use crate::scalar::Real;
use crate::view::MatRef;
use alloc::vec::Vec;

/// A number for each query, and their mean.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryValues {
    /// One value a query.
    pub per_query: Vec<f64>,
    /// The mean over all queries.
    pub mean: f64,
}

impl QueryValues {
    /// The caller has checked that there is a query.
    fn new(per_query: Vec<f64>) -> Self {
        let mean = mean(&per_query);
        Self { per_query, mean }
    }
}

/// The mean of a slice that is not empty.
fn mean(x: &[f64]) -> f64 {
    crate::reduce::sum(x) / x.len() as f64
}

/// Column `q` in f64.
fn column<T: Real>(x: MatRef<'_, T>, q: usize) -> Vec<f64> {
    x.row_iter().map(|row| row[q].to_f64()).collect()
}

/// At least one row and one column.
fn check_not_empty<T>(x: MatRef<'_, T>, rows: &'static str) -> Result<(), Error> {
    if x.rows() == 0 {
        return Err(Error::Empty { what: rows });
    }
    if x.cols() == 0 { Err(Error::Empty { what: "queries" }) } else { Ok(()) }
}

/// Two matrices of one shape.
fn check_same_shape<T, U>(what: [&'static str; 2], a: MatRef<'_, T>, b: MatRef<'_, U>) -> Result<(), Error> {
    check_shape(what[0], a.rows(), b.rows())?;
    check_shape(what[1], a.cols(), b.cols())
}

/// Every element satisfies `allowed`; the index in the error counts row-major.
fn check_elements<T: Real>(what: &'static str, x: MatRef<'_, T>, allowed: impl Fn(T) -> bool) -> Result<(), Error> {
    match x.row_iter().flatten().position(|&x| !allowed(x)) {
        Some(index) => Err(Error::NonFinite { what, index }),
        None => Ok(()),
    }
}

/// Indices in ascending order, each once.
fn check_ascending(what: &'static str, indices: &[usize]) -> Result<(), Error> {
    for pair in indices.windows(2) {
        if pair[0] == pair[1] {
            return Err(Error::Duplicate { what, index: pair[0] });
        }
        if pair[0] > pair[1] {
            let must_be = "larger than the one before it";
            return Err(Error::Parameter { what, value: pair[1] as f64, must_be });
        }
    }
    Ok(())
}

/// `k` of `n` examples.
fn check_k(what: &'static str, k: usize, n: usize) -> Result<(), Error> {
    if k > n { Err(Error::Length { what, needed: k, got: n }) } else { Ok(()) }
}

/// The examples of a ranking, without their scores.
fn indices<T>(ranking: &[Ranked<T>]) -> impl Iterator<Item = usize> {
    ranking.iter().map(|ranked| ranked.index)
}
