//! LESS: training data for a task, by cosines with the gradients of its validation examples.

use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};

use super::parts::check_parts;
use super::tracin::{add_unit_dots, unit_copy};
use crate::Error;
use crate::error::{check_finite, check_shape, zeros};
use crate::parallel::Parallelism;

/// The validation side of LESS, prepared for any number of blocks of training rows: $s_n = \max_g \frac{1}{|g|}
/// \sum_{q \in g} \sum_c \bar\eta_c \cos(t_{c,n}, v_{c,q})$ over the subtasks `g` of a task, with the checkpoints'
/// learning rates normalised to $\sum_c \bar\eta_c = 1$.
///
/// A cosine is linear in the unit vector of the query, so those of a subtask are averaged once: a training row costs
/// `2 d` flops a *subtask* and checkpoint, however many queries there are. Subtasks may have different sizes.
/// Training features are usually Adam's steps, those of the validation set plain gradients, both sketched. Scores are
/// in [-1, 1]; rows of zeros score 0. Memory: `d` numbers a subtask and checkpoint.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef};
/// use ascribe_solvers::{attribution::{Less, best_subtask}, parallel::Parallelism::Serial};
/// let queries = [MatRef::new(&[2.0, 0.0, 0.0, 3.0, 0.0, 5.0], 3, 2)?]; // one checkpoint, three queries
/// let less = Less::new(&queries, &[0.1], &[0, 0, 1], 2)?;
/// let mut by_subtask = [0.0_f64; 2];
/// less.scores(MatMut::from_row(&mut by_subtask), &[MatRef::from_row(&[3.0, 4.0])], Serial)?;
/// assert!((by_subtask[0] - 0.7).abs() < 1e-15 && (by_subtask[1] - 0.8).abs() < 1e-15);
/// assert_eq!(best_subtask(MatRef::from_row(&by_subtask))?, [by_subtask[1]]);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Xia et al., arXiv:2402.04333, section 3. Their code needs subtasks of equal size.
#[derive(Debug, Clone)]
pub struct Less<T> {
    /// The weighted mean unit vector of each subtask at each checkpoint, `[subtasks, width]`.
    targets: Vec<Vec<T>>,
    widths: Vec<usize>,
    subtasks: usize,
}

impl<T: Real> Less<T> {
    /// From the features of the queries, `query[c]` `[queries, d_c]`, the learning rate of each checkpoint, and the
    /// subtask of each query, a number below `subtasks`.
    ///
    /// # Errors
    /// A shape error; [`CoreError::Parameter`] for a learning rate that is negative, not finite, or when all are 0;
    /// [`CoreError::Index`] for a subtask out of range, [`CoreError::Empty`] when one has no queries;
    /// [`CoreError::NonFinite`] in a feature.
    pub fn new(
        query: &[MatRef<'_, T>],
        learning_rates: &[f64],
        subtask: &[usize],
        subtasks: usize,
    ) -> Result<Self, Error> {
        check_shape("learning rates", query.len(), learning_rates.len())?;
        let widths: Vec<usize> = query.iter().map(MatRef::cols).collect();
        check_parts(
            ["query checkpoints", "query rows", "query columns"],
            query,
            subtask.len(),
            widths.iter().copied(),
        )?;
        for row in query.iter().flat_map(MatRef::row_iter) {
            check_finite("query features", row)?;
        }
        if let Some(&value) = learning_rates.iter().find(|rate| !(rate.is_finite() && **rate >= 0.0)) {
            let must_be = "finite and at least 0";
            return Err(CoreError::Parameter { what: "learning rate", value, must_be }.into());
        }
        let total: f64 = learning_rates.iter().sum();
        if !(total > 0.0 && total.is_finite()) {
            let must_be = "positive and finite";
            return Err(CoreError::Parameter { what: "sum of the learning rates", value: total, must_be }.into());
        }
        let mut counts: Vec<f64> = zeros("subtasks", Some(subtasks))?;
        for &index in subtask {
            *counts.get_mut(index).ok_or(CoreError::Index { what: "subtask", index, len: subtasks })? += 1.0;
        }
        if counts.contains(&0.0) {
            return Err(CoreError::Empty { what: "queries of a subtask" }.into());
        }
        let mut targets = Vec::with_capacity(query.len());
        for (query, rate) in query.iter().zip(learning_rates) {
            let (unit, width) = (unit_copy(*query)?, query.cols());
            let mut sums: Vec<f64> = zeros("subtask targets", subtasks.checked_mul(width))?;
            for (row, &group) in unit.chunks_exact(width.max(1)).zip(subtask) {
                let weight = rate / total / counts[group];
                let sum = &mut sums[group * width..(group + 1) * width];
                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += weight * x.to_f64());
            }
            targets.push(sums.into_iter().map(T::from_f64).collect());
        }
        Ok(Self { targets, widths, subtasks })
    }

    /// Mean cosines `[n, subtasks]` of a block of training features, `train[c]` `[n, d_c]`. NaN and infinity pass on
    /// to the scores of their row.
    ///
    /// # Errors
    /// A shape error.
    pub fn scores(&self, mut out: MatMut<'_, T>, train: &[MatRef<'_, T>], par: Parallelism) -> Result<(), Error> {
        check_shape("score columns", self.subtasks, out.cols())?;
        check_parts(
            ["checkpoints", "training rows", "training columns"],
            train,
            out.rows(),
            self.widths.iter().copied(),
        )?;
        out.fill(T::ZERO);
        for (train, target) in train.iter().zip(&self.targets) {
            add_unit_dots(out.rb_mut(), *train, MatRef::new(target, self.subtasks, train.cols())?, par)?;
        }
        Ok(())
    }
}

/// The largest score of each row of `[n, subtasks]`: an example is worth what it is worth to the subtask it helps
/// most. NaN when one of them is.
///
/// # Errors
/// [`CoreError::Empty`] without subtasks.
pub fn best_subtask<T: Real>(scores: MatRef<'_, T>) -> Result<Vec<T>, Error> {
    if scores.cols() == 0 {
        return Err(CoreError::Empty { what: "subtasks" }.into());
    }
    let largest = |row: &[T]| row.iter().fold(row[0], |best, &x| if best >= x || best.is_nan() { best } else { x });
    let mut best = zeros("scores", Some(scores.rows()))?;
    best.iter_mut().zip(scores.row_iter()).for_each(|(best, row): (&mut T, _)| *best = largest(row));
    Ok(best)
}
