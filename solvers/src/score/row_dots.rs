//! Inner products of stored rows of the same number.

use ascribe_core::{Error as CoreError, reduce};

use super::rows::{RowSource, StoredRows};
use super::scorer::{for_blocks, task_rows};
use crate::Error;
use crate::error::check_shape;
use crate::parallel::{Parallelism, run};

/// Inner products of the rows of two sources: `out[i] = <a_i, b_i>`.
///
/// With `b = H^-1 a` this is the self-influence, and so it is with the same source twice when the rows are already
/// multiplied by `H^(-1/2)`. Cost: `2 N D` flops and one reading of both. Error beyond that of the formats: as of
/// [`reduce::dot`](ascribe_core::reduce::dot). The bits do not depend on blocks or threads.
///
/// # Errors
/// [`Shape`](CoreError::Shape) when a dimension does not fit, and then `out` is untouched; the errors of the sources.
///
/// # Examples
/// ```
/// use ascribe_core::MatRef;
/// use ascribe_solvers::{parallel::Parallelism, score::row_dots};
/// let gradients = MatRef::new(&[1.0_f32, 2.0, 3.0, 4.0], 2, 2)?;
/// let solved = MatRef::new(&[0.5_f32, 1.0, 1.5, 2.0], 2, 2)?;
/// let mut self_influence = [0.0; 2];
/// row_dots(&mut self_influence, &gradients, &solved, Parallelism::Serial)?;
/// assert_eq!(self_influence, [2.5, 12.5]);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
pub fn row_dots(out: &mut [f32], a: &dyn RowSource, b: &dyn RowSource, par: Parallelism) -> Result<(), Error> {
    check_shape("b rows", a.rows(), b.rows())?;
    check_shape("b columns", a.cols(), b.cols())?;
    check_shape("out elements", a.rows(), out.len())?;
    let len = task_rows(a);
    let tasks = (0..out.len()).step_by(len).zip(out.chunks_mut(len)).collect();
    run(
        &mut vec![[Vec::new(), Vec::new()]; par.workers()],
        tasks,
        |[left, right], (start, out): (usize, &mut [f32])| {
            for_blocks(a, start, out.len(), par, |at, x| {
                for_blocks(b, at, x.rows(), par, |from, y| {
                    for i in 0..y.rows() {
                        let (x, y) = (number_row(left, x, from - at + i)?, number_row(right, y, i)?);
                        out[from - start + i] = reduce::dot(x, y)?;
                    }
                    Ok(())
                })
            })
        },
    )
}

/// Row `i` as numbers, decoded if need be.
pub(super) fn number_row<'s>(
    decoded: &'s mut Vec<f32>,
    rows: StoredRows<'s>,
    i: usize,
) -> Result<&'s [f32], CoreError> {
    if let StoredRows::F32(x) = rows {
        return Ok(x.row(i));
    }
    rows.row_range(i, 1)?.decode_into(decoded)?;
    Ok(decoded)
}
