//! The gain from one training step on each retrieved proponent.

use super::{QueryValues, check_elements, mean};
use crate::error::{Error, check_shape};
use crate::scalar::{Real, Scalar};
use crate::view::MatRef;
use alloc::vec::Vec;

/// The tail-patch score in percentage points: `100 mean_j (after[q, j] - before[q])` for each query.
///
/// `before[q]` is the probability of the target in the final model, `after[q, j]` (`[n_query, k]`) that after one
/// optimiser step from it on the `j`-th proponent of query `q` alone. Error: at most `100 (depth(k) + 4) u` with
/// [`depth`](crate::reduce::depth) and `u = 2^-53`, to first order, for probabilities; other numbers are allowed, and
/// where their differences overflow the result is not finite.
///
/// # Errors
/// [`Error::Shape`] when `after` does not have one row a query; [`Error::Empty`] without queries or proponents;
/// [`Error::NonFinite`] for NaN or infinities.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, metric::tail_patch};
/// let after = MatRef::new(&[0.5, 0.75, 0.25, 0.25], 2, 2)?;
/// let gain = tail_patch(&[0.5, 0.25], after)?;
/// assert_eq!((gain.per_query, gain.mean), (vec![12.5, 0.0], 6.25));
/// # Ok::<(), ascribe_core::Error>(())
/// ```
///
/// # References
/// Chang et al., "Scalable influence and fact tracing for large language model pretraining", arXiv:2410.17413.
pub fn tail_patch<T: Real>(before: &[T], after: MatRef<'_, T>) -> Result<QueryValues, Error> {
    check_shape("after rows", before.len(), after.rows())?;
    if before.is_empty() {
        return Err(Error::Empty { what: "queries" });
    }
    if after.cols() == 0 {
        return Err(Error::Empty { what: "proponents" });
    }
    check_elements("before", MatRef::from_row(before), Scalar::is_finite)?;
    check_elements("after", after, Scalar::is_finite)?;
    let gain = |(before, after): (&T, &[T])| {
        let gains: Vec<f64> = after.iter().map(|after| after.to_f64() - before.to_f64()).collect();
        100.0 * mean(&gains)
    };
    Ok(QueryValues::new(before.iter().zip(after.row_iter()).map(gain).collect()))
}
