//! BIDS: a balanced selection of training data over the validation examples.

use ascribe_core::{Error as CoreError, MatMut, MatRef, Real, reduce};

use crate::Error;
use crate::error::{check_rows_finite, zeros};
use crate::parallel::{Parallelism, for_each};

/// The greedy selection of BIDS, prepared for any budget: influences `A` `[n, V]` of training rows on validation
/// examples are standardised in each column, and while `S` grows the next row is $\arg\max_{i \notin S} \max_j
/// (\tilde A_{ij} - \bar a_j)$ with `a_j` the mean of column `j` over `S`, 0 at first: the row that does most for a
/// validation example that the selection has done little for. The smallest index at a tie.
///
/// The two maxima change places: of each column only its largest row that is not selected counts, and a pointer into
/// the sorted column finds it. That gives the same rows as the search over all of them, for `V` operations a pick
/// instead of `n V`. Cost: `O(n V log n)` to prepare, `O(V)` a pick. Memory: `2 n V` numbers.
///
/// A selection is the beginning of every larger one, and does not change when a column is multiplied by a positive
/// number or shifted, beyond rounding.
///
/// # Examples
/// ```
/// use ascribe_core::MatRef;
/// use ascribe_solvers::{attribution::Bids, parallel::Parallelism::Serial};
/// let influence = [9.0, 0.0, 8.0, 0.0, 0.0, 1.0, 0.0, 0.0]; // four rows, two validation examples
/// let bids = Bids::new(MatRef::new(&influence, 4, 2)?, Serial)?;
/// assert_eq!(bids.select(3)?, [2, 0, 1]); // the second example first, in its own units
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// BIDS, arXiv:2501.12147.
#[derive(Debug, Clone)]
pub struct Bids {
    rows: usize,
    cols: usize,
    /// `[rows, cols]`.
    standardized: Vec<f64>,
    /// `[cols, rows]`: the rows by their value in each column descending, then by index.
    sorted: Vec<usize>,
}

impl Bids {
    /// Standardises and sorts the columns of `influence` `[n, V]`: minus the mean, over the standard deviation with
    /// divisor `n`, and 0 throughout where a column is constant. In f64; no finite input overflows.
    ///
    /// # Errors
    /// [`CoreError::NonFinite`] for NaN or infinity, [`CoreError::Overflow`] when there is no memory.
    pub fn new<T: Real>(influence: MatRef<'_, T>, par: Parallelism) -> Result<Self, Error> {
        let (rows, cols) = (influence.rows(), influence.cols());
        if cols == 0 {
            // No data vouch for the number of rows, so that a pass over them could take for ever.
            return Ok(Self { rows, cols, standardized: Vec::new(), sorted: Vec::new() });
        }
        check_rows_finite("influence", influence)?;
        let len = rows.checked_mul(cols);
        let (mut columns, mut sorted): (Vec<f64>, Vec<usize>) =
            (zeros("standardised columns", len)?, zeros("sorted columns", len)?);
        let each = columns.chunks_exact_mut(rows.max(1)).zip(sorted.chunks_exact_mut(rows.max(1))).enumerate();
        for_each(par, each.collect(), |(j, (column, order))| {
            column.iter_mut().zip(influence.row_iter()).for_each(|(x, row)| *x = row[j].to_f64());
            standardize(column);
            order.iter_mut().enumerate().for_each(|(i, place)| *place = i);
            // Two zeros of different sign are equal.
            order.sort_unstable_by(|&a, &b| (column[b] + 0.0).total_cmp(&(column[a] + 0.0)).then(a.cmp(&b)));
            Ok::<_, Error>(())
        })?;
        let mut standardized = zeros("standardised rows", len)?;
        MatMut::new(&mut standardized, rows, cols)?.for_each_row(|i, row| {
            row.iter_mut().zip(columns.chunks_exact(rows)).for_each(|(x, column)| *x = column[i]);
        });
        Ok(Self { rows, cols, standardized, sorted })
    }

    /// The standardised influences, `[n, V]`.
    pub fn standardized(&self) -> &[f64] {
        &self.standardized
    }

    /// The first `budget` rows, in the order in which they are picked. Without columns, the rows in their order.
    ///
    /// # Errors
    /// [`CoreError::Length`] when there are fewer rows.
    pub fn select(&self, budget: usize) -> Result<Vec<usize>, Error> {
        let Self { rows, cols, .. } = *self;
        if budget > rows {
            return Err(CoreError::Length { what: "rows to select from", needed: budget, got: rows }.into());
        }
        let mut picks: Vec<usize> = zeros("picks", Some(budget))?;
        if cols == 0 {
            picks.iter_mut().enumerate().for_each(|(i, pick)| *pick = i);
            return Ok(picks);
        }
        picks.clear();
        let mut selected = vec![false; rows];
        let mut first = vec![0; cols];
        let (mut sums, mut means) = (vec![0.0; cols], vec![0.0; cols]);
        while picks.len() < budget {
            let mut best: Option<(f64, usize)> = None;
            for (j, (first, mean)) in first.iter_mut().zip(&means).enumerate() {
                let column = &self.sorted[j * rows..(j + 1) * rows];
                // Fewer than `rows` are selected, so there is one that is not.
                while selected[column[*first]] {
                    *first += 1;
                }
                let (gain, row) = self.largest(j, &column[*first..], *mean, &selected);
                if best.is_none_or(|(most, index)| gain > most || gain == most && row < index) {
                    best = Some((gain, row));
                }
            }
            let Some((_, pick)) = best else { break };
            selected[pick] = true;
            picks.push(pick);
            let row = &self.standardized[pick * cols..(pick + 1) * cols];
            for ((sum, mean), x) in sums.iter_mut().zip(&mut means).zip(row) {
                *sum += x;
                *mean = *sum / picks.len() as f64;
            }
        }
        Ok(picks)
    }

    /// The largest gain in column `j` and the smallest row that has it, of rows by descending value of which the
    /// first is not selected.
    fn largest(&self, j: usize, rows: &[usize], mean: f64, selected: &[bool]) -> (f64, usize) {
        let value = |row: usize| self.standardized[row * self.cols + j];
        let gain = value(rows[0]) - mean;
        let (mut best, mut rest) = (rows[0], rows);
        // Smaller values may have the same gain once it is rounded. Rows of one value are in the order of their
        // indices, so that the first counts that is not selected.
        loop {
            let current = value(rest[0]);
            rest = &rest[rest.partition_point(|&row| value(row) >= current)..];
            match rest.first() {
                Some(&row) if value(row) - mean == gain => {
                    let equal = rest.iter().take_while(|&&other| value(other) == value(row));
                    best = equal.copied().find(|&row| !selected[row]).map_or(best, |row| best.min(row));
                }
                _ => return (gain, best),
            }
        }
    }
}

/// Minus the mean and over the standard deviation; zeros when all are equal, which rounding in the mean must not hide.
fn standardize(x: &mut [f64]) {
    if x.windows(2).all(|pair| pair[0] == pair[1]) {
        x.fill(0.0);
        return;
    }
    let count = x.len() as f64;
    // The power of two below the largest number, so that squares and sums stay in range and no bit changes.
    let scale = |x: &mut [f64]| {
        let power = f64::from_bits(reduce::max_abs(x).to_bits() & (0x7ff << 52)).max(f64::MIN_POSITIVE);
        for x in x {
            *x /= power;
        }
    };
    scale(x);
    let mean = reduce::sum(x) / count;
    for x in &mut *x {
        *x -= mean;
    }
    scale(x);
    let deviation = (reduce::norm2_squared(x) / count).sqrt();
    for x in x {
        *x /= deviation;
    }
}
