//! How few removals flip a prediction.

use super::check_ascending;
use crate::error::{Error, check_shape};
use crate::view::MatRef;
use alloc::vec::Vec;

/// What [`brittleness`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct Brittleness {
    /// For each query the first number of removals that changes the prediction, if one does.
    pub first_k: Vec<Option<usize>>,
    /// For each number of removals the share of queries that have changed at or before it.
    pub fraction: Vec<f64>,
}

/// The number of removed proponents at which each prediction first changes.
///
/// `base[q]` is the prediction of the model trained on everything, `prediction[q, g]` (`[n_query, n_grid]`) that of
/// the model retrained without the `grid[g]` first proponents of query `q`. Predictions are class labels of any
/// type that can be compared. Only the first change counts: a later return to `base` changes nothing.
///
/// # Errors
/// [`Error::Shape`] when the shapes differ; [`Error::Empty`] without queries or grid; [`Error::Duplicate`] and
/// [`Error::Parameter`] where the grid is not ascending.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, metric::brittleness};
/// let prediction = MatRef::new(&[3, 5, 5, 7, 7, 7], 2, 3)?;
/// let found = brittleness(&[3, 7], prediction, &[20, 40, 60])?;
/// assert_eq!(found.first_k, [Some(40), None]);
/// assert_eq!(found.fraction, [0.0, 0.5, 0.5]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
///
/// # References
/// Ilyas et al., "Datamodels: predicting predictions from training data", arXiv:2202.00622.
pub fn brittleness<L: PartialEq>(base: &[L], prediction: MatRef<'_, L>, grid: &[usize]) -> Result<Brittleness, Error> {
    check_shape("prediction rows", base.len(), prediction.rows())?;
    check_shape("prediction columns", grid.len(), prediction.cols())?;
    if base.is_empty() {
        return Err(Error::Empty { what: "queries" });
    }
    if grid.is_empty() {
        return Err(Error::Empty { what: "grid" });
    }
    check_ascending("grid value", grid)?;
    let first_change = |(base, row): (&L, &[L])| row.iter().position(|label| label != base).map(|g| grid[g]);
    let first_k: Vec<_> = base.iter().zip(prediction.row_iter()).map(first_change).collect();
    let changed = |k: usize| first_k.iter().flatten().filter(|&&first| first <= k).count();
    let fraction = grid.iter().map(|&k| changed(k) as f64 / base.len() as f64).collect();
    Ok(Brittleness { first_k, fraction })
}
