//! Agreement with leaving one example out.

use super::{QueryCorrelations, pearson_columns};
use crate::error::Error;
use crate::scalar::Real;
use crate::view::MatRef;

/// Pearson's correlation over the training examples of their scores with the truth, for each query.
///
/// `scores` and `truth` are `[n_train, n_query]`; row `i` of `truth` is the model output with example `i` left
/// out. No baseline is subtracted (a constant changes nothing) and no sign is flipped: scores that are positive
/// for helpful examples correlate *negatively* with an output that is larger where a query is predicted better,
/// and positively with a loss.
///
/// # Errors
/// [`Error::Shape`] when the shapes differ; [`Error::Empty`] without examples or queries; [`Error::NonFinite`] for
/// NaN or infinities.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, metric::loo};
/// let scores = MatRef::new(&[1.0, 7.0, 2.0, 7.0, 4.0, 7.0], 3, 2)?;
/// let loss_without = MatRef::new(&[0.5, 0.1, 0.6, 0.2, 0.8, 0.3], 3, 2)?;
/// let loo = loo(scores, loss_without)?;
/// assert!((loo.mean.value - 1.0).abs() < 1e-12);
/// assert!(!loo.per_query[1].valid);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
///
/// # References
/// Koh and Liang, "Understanding black-box predictions via influence functions", arXiv:1703.04730.
pub fn loo<T: Real>(scores: MatRef<'_, T>, truth: MatRef<'_, T>) -> Result<QueryCorrelations, Error> {
    pearson_columns(scores, truth)
}
