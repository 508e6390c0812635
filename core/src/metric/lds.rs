//! The linear datamodeling score.

use super::{QueryCorrelations, check_ascending, check_elements, check_not_empty, spearman_columns};
use crate::error::{Error, check_shape};
use crate::scalar::{Real, Scalar};
use crate::view::MatRef;
use alloc::vec;
use alloc::vec::Vec;

/// What [`lds`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct Lds {
    /// The predicted outputs, `[n_subsets, n_query]` row-major: see [`subset_sums`].
    pub prediction: Vec<f64>,
    /// Spearman's correlation of prediction and truth for each query, and the mean.
    pub correlations: QueryCorrelations,
}

/// The linear datamodeling score: how well sums of scores order the models retrained on subsets.
///
/// For query `q`, Spearman's correlation over the subsets `r` of `sum_{i in S_r} scores[i, q]` and `truth[r, q]`.
/// `scores` is `[n_train, n_query]`; `truth` `[n_subsets, n_query]` is the output of the model trained on `S_r`,
/// larger where a query is predicted better, so that helpful examples have positive scores. It does not change
/// under a positive factor on a query's scores or a strictly increasing map of its truth, rounding of near ties aside.
///
/// Cost: `n_query` additions for each member of a subset, and `O(n_subsets log n_subsets)` for each query.
///
/// # Errors
/// As [`subset_sums`]; [`Error::Shape`] when `truth` has another shape; [`Error::NonFinite`] for NaN in `truth` or
/// in a sum that overflows.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, metric::lds};
/// let scores = MatRef::new(&[3.0, 1.0, -2.0], 3, 1)?;
/// let truth = MatRef::new(&[0.9, 0.1, 0.2], 3, 1)?;
/// let lds = lds(scores, &[[0, 1], [1, 2], [0, 2]], truth)?;
/// assert_eq!(lds.prediction, [4.0, -1.0, 1.0]);
/// assert_eq!(lds.correlations.mean.value, 1.0);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
///
/// # References
/// Park et al., "TRAK: attributing model behavior at scale", arXiv:2303.14186.
pub fn lds<T: Real, S: AsRef<[usize]>>(
    scores: MatRef<'_, T>,
    subsets: &[S],
    truth: MatRef<'_, T>,
) -> Result<Lds, Error> {
    check_shape("truth rows", subsets.len(), truth.rows())?;
    check_shape("truth columns", scores.cols(), truth.cols())?;
    let prediction = subset_sums(scores, subsets)?;
    let truth: Vec<f64> = truth.row_iter().flatten().map(|x| x.to_f64()).collect();
    let (rows, cols) = (subsets.len(), scores.cols());
    let correlations = spearman_columns(MatRef::new(&prediction, rows, cols)?, MatRef::new(&truth, rows, cols)?)?;
    Ok(Lds { prediction, correlations })
}

/// The scores summed over each subset, `[n_subsets, n_query]` row-major.
///
/// Added in the order of the indices, so equal subsets have equal sums to the bit. Error: at most
/// `size u sum |scores|` with `u = 2^-53`, to first order.
///
/// # Errors
/// [`Error::Empty`] without examples, queries or subsets; [`Error::NonFinite`] for a score that is NaN or infinite;
/// in a subset [`Error::Index`] for an index outside `0..n_train`, [`Error::Duplicate`] for one that occurs twice,
/// [`Error::Parameter`] where the order is not ascending. A subset may be empty.
pub fn subset_sums<T: Real, S: AsRef<[usize]>>(scores: MatRef<'_, T>, subsets: &[S]) -> Result<Vec<f64>, Error> {
    check_not_empty(scores, "training examples")?;
    if subsets.is_empty() {
        return Err(Error::Empty { what: "subsets" });
    }
    check_elements("scores", scores, Scalar::is_finite)?;
    for subset in subsets {
        let subset = subset.as_ref();
        check_ascending("subset index", subset)?;
        if let Some(&index) = subset.last().filter(|&&index| index >= scores.rows()) {
            return Err(Error::Index { what: "subset index", index, len: scores.rows() });
        }
    }
    let len = subsets.len().checked_mul(scores.cols()).ok_or(Error::Overflow { what: "subset sums" })?;
    let mut sums = vec![0.0; len];
    for (sum, subset) in sums.chunks_exact_mut(scores.cols()).zip(subsets) {
        for &example in subset.as_ref() {
            for (sum, score) in sum.iter_mut().zip(scores.row(example)) {
                *sum += score.to_f64();
            }
        }
    }
    Ok(sums)
}
