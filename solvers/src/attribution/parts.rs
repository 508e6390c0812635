//! Rows that come in parts: one matrix a layer, or one a checkpoint.

use ascribe_core::score::NORM_FLOOR;
use ascribe_core::{Error as CoreError, MatMut, MatRef, Real, reduce};

use crate::error::check_shape;
use crate::linalg::matmul;
use crate::parallel::Parallelism;

/// Rows of a part that pass through a work space together.
pub(super) const BLOCK: usize = 256;

/// That each of `parts` has `rows` rows and the width that belongs to it.
pub(super) fn check_parts<T>(
    [what, what_rows, what_columns]: [&'static str; 3],
    parts: &[MatRef<'_, T>],
    rows: usize,
    widths: impl ExactSizeIterator<Item = usize>,
) -> Result<(), CoreError> {
    check_shape(what, widths.len(), parts.len())?;
    for (part, width) in parts.iter().zip(widths) {
        check_shape(what_rows, rows, part.rows())?;
        check_shape(what_columns, width, part.cols())?;
    }
    Ok(())
}

/// `out = sum_l train_l query_l^T` with the parts of `query` side by side, `[m, sum of the widths]`.
pub(super) fn part_dots<T: Real>(
    mut out: MatMut<'_, T>,
    train: &[MatRef<'_, T>],
    query: MatRef<'_, T>,
    widths: impl ExactSizeIterator<Item = usize> + Clone,
    par: Parallelism,
) -> Result<(), CoreError> {
    check_parts(["parts of training rows", "training rows", "training columns"], train, out.rows(), widths.clone())?;
    check_shape("prepared query columns", widths.sum(), query.cols())?;
    check_shape("score columns", query.rows(), out.cols())?;
    out.fill(T::ZERO);
    let mut start = 0;
    for part in train {
        let query = query.block(0, query.rows(), start, part.cols())?;
        matmul(out.rb_mut(), T::ONE, T::ONE, *part, query.t(), par)?;
        start += part.cols();
    }
    Ok(())
}

/// `max(|row|, NORM_FLOOR)`; NaN stays NaN.
pub(super) fn floored_norm<T: Real>(row: &[T]) -> T {
    floored(reduce::norm2(row))
}

/// `max(norm, NORM_FLOOR)`; NaN stays NaN.
pub(super) fn floored<T: Real>(norm: T) -> T {
    let floor = T::from_f64(NORM_FLOOR);
    if norm < floor { floor } else { norm }
}
