//! Inner products of gradients, summed over checkpoints.

use ascribe_core::score::{Similarity, unit_rows};
use ascribe_core::{Error as CoreError, MatMut, MatRef, Real, reduce};

use super::ghost::tasks;
use super::parts::{BLOCK, check_parts, floored_norm};
use crate::Error;
use crate::error::{check_finite, check_shape, zeros};
use crate::linalg::matmul;
use crate::parallel::{Parallelism, run};

/// TracIn over checkpoints: $s_{nq} = \sum_c \eta_c \langle g_{c,n}, g_{c,q} \rangle$, or the same with unit rows.
///
/// `train[c]` is `[n, p_c]` and `query[c]` `[m, p_c]`: gradients at checkpoint `c`, or sketches of them by the same
/// sketch on both sides, which may differ between checkpoints. `out` is `[n, m]`; large training sets go through in
/// blocks of rows. `weights` are the learning rates `eta`, used as they are.
///
/// | method | checkpoints | weights | similarity |
/// |---|---|---|---|
/// | TracIn | several | learning rates | [`Similarity::Dot`] |
/// | GradDot | the last | 1 | [`Similarity::Dot`] |
/// | GradCos | the last, or several | 1, or learning rates | [`Similarity::Cosine`] |
/// | sum over layers, curvature the identity | one a layer | 1 each | [`Similarity::Dot`] |
///
/// A cosine divides each row by `max(|row|, 1e-12)`: a zero row scores 0, and the scale of an example's gradient does
/// not matter. NaN and infinity pass on to the scores of their row.
///
/// Cost: `2 n m p_c` flops a checkpoint; for cosines a copy of the queries, and `256 m` numbers a thread. Error of a
/// score: `(p_c + 3 + C) u sum |eta_c g g'|` to first order for `C` checkpoints; for cosines
/// `(p_c + depth(p_c) + 12 + C) u sum |eta_c|`, with the [`depth`](reduce::depth) of a sum.
///
/// # Errors
/// A shape error when a part does not fit, [`CoreError::NonFinite`] in the weights.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef, score::Similarity};
/// use ascribe_solvers::{attribution::tracin_scores, parallel::Parallelism::Serial};
/// let train = [MatRef::new(&[3.0, 4.0, 0.0, 2.0], 2, 2)?, MatRef::new(&[1.0, 0.0], 2, 1)?]; // two checkpoints
/// let query = [MatRef::new(&[2.0, 0.0], 1, 2)?, MatRef::new(&[5.0], 1, 1)?];
/// let mut scores = [0.0; 2];
/// tracin_scores(MatMut::new(&mut scores, 2, 1)?, &train, &query, &[0.5, 0.25], Similarity::Dot, Serial)?;
/// assert_eq!(scores, [4.25, 0.0]);
/// tracin_scores(MatMut::new(&mut scores, 2, 1)?, &train, &query, &[0.5, 0.25], Similarity::Cosine, Serial)?;
/// assert_eq!(scores, [0.55, 0.0]);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Pruthi, Liu, Kale and Sundararajan, arXiv:2002.08484, section 3.2 (TracInCP).
pub fn tracin_scores<T: Real>(
    mut out: MatMut<'_, T>,
    train: &[MatRef<'_, T>],
    query: &[MatRef<'_, T>],
    weights: &[T],
    similarity: Similarity,
    par: Parallelism,
) -> Result<(), Error> {
    check_shape("checkpoint weights", train.len(), weights.len())?;
    check_finite("checkpoint weights", weights)?;
    let widths = train.iter().map(MatRef::cols);
    check_parts(["checkpoints", "training rows", "training columns"], train, out.rows(), widths.clone())?;
    check_parts(["query checkpoints", "query rows", "query columns"], query, out.cols(), widths)?;
    out.fill(T::ZERO);
    for ((train, query), &weight) in train.iter().zip(query).zip(weights) {
        match similarity {
            Similarity::Dot => matmul(out.rb_mut(), T::ONE, weight, *train, query.t(), par)?,
            Similarity::Cosine => {
                let mut unit = unit_copy(*query)?;
                reduce::scale(&mut unit, weight);
                add_unit_dots(out.rb_mut(), *train, MatRef::new(&unit, query.rows(), query.cols())?, par)?;
            }
        }
    }
    Ok(())
}

/// The rows divided by their norms, side by side.
pub(super) fn unit_copy<T: Real>(rows: MatRef<'_, T>) -> Result<Vec<T>, CoreError> {
    let mut unit = zeros("unit rows", rows.rows().checked_mul(rows.cols()))?;
    let mut copy = MatMut::new(&mut unit, rows.rows(), rows.cols())?;
    copy.copy_from(rows)?;
    unit_rows(copy);
    Ok(unit)
}

/// `out += unit(train) query^T`. The shapes have to fit. The queries are of moderate size, so that no product
/// overflows before it is divided by the norm of its training row.
pub(super) fn add_unit_dots<T: Real>(
    out: MatMut<'_, T>,
    train: MatRef<'_, T>,
    query: MatRef<'_, T>,
    par: Parallelism,
) -> Result<(), CoreError> {
    let width = out.cols();
    let tasks = tasks(out, BLOCK)?;
    let largest = tasks.first().map_or(0, |(_, out)| out.rows());
    let scratch: Vec<T> = zeros("block of scores", largest.checked_mul(width))?;
    run(&mut vec![scratch; par.workers().min(tasks.len())], tasks, |scratch, (start, mut out)| {
        let train = train.row_range(start, out.rows())?;
        let dots = &mut scratch[..out.rows() * width];
        matmul(MatMut::new(dots, out.rows(), width)?, T::ZERO, T::ONE, train, query.t(), Parallelism::Serial)?;
        out.for_each_row(|i, scores| {
            let norm = floored_norm(train.row(i));
            scores.iter_mut().zip(&dots[i * width..]).for_each(|(score, &dot)| *score += dot / norm);
        });
        Ok(())
    })
}
