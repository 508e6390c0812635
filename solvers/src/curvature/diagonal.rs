//! The diagonal of the empirical Fisher information.

use ascribe_core::record::LayerRecord;
use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};

use crate::Error;
use crate::error::{check_finite, check_rows_finite, check_shape, zeros};
use crate::linalg::matmul;
use crate::parallel::{Parallelism, for_each};

/// Entries of the diagonal that one task accumulates.
const TASK_ENTRIES: usize = 4096;
/// Positions that are converted to f64 at a time, unless an example has more.
const BLOCK_POSITIONS: usize = 1024;

/// The diagonal of the empirical Fisher, $f_j = \frac1N \sum_n g_{nj}^2$, accumulated in f64 over batches of examples.
///
/// The cheapest curvature that knows parameters apart: `p` numbers, and a solve is a division, by
/// [`Damped`](ascribe_core::linop::Damped)`<`[`Diagonal`](ascribe_core::linop::Diagonal)`>`. (Cheaper still is
/// [`Identity`](ascribe_core::linop::Identity), which makes influence a plain inner product.)
///
/// # Examples
/// ```
/// use ascribe_core::linop::{Damped, Diagonal, Invertible};
/// use ascribe_core::{MatMut, MatRef};
/// use ascribe_solvers::{curvature::DiagonalFisher, parallel::Parallelism};
/// let mut fisher = DiagonalFisher::new(2, Parallelism::Serial)?;
/// fisher.add_gradients(MatRef::new(&[1.0, 2.0, 3.0, 0.0], 2, 2)?)?;
/// let diagonal: Vec<f64> = fisher.diagonal()?;
/// assert_eq!(diagonal, [5.0, 2.0]);
/// let mut x = [0.0; 2];
/// let damped = Damped::new(Diagonal::new(&diagonal), 1.0)?;
/// damped.apply_inverse(MatMut::from_row(&mut x), MatRef::from_row(&[6.0, 6.0]), &mut [])?;
/// assert_eq!(x, [1.0, 2.0]);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct DiagonalFisher {
    sums: Vec<f64>,
    examples: usize,
    par: Parallelism,
}

impl DiagonalFisher {
    /// Nothing yet, for `dim` parameters.
    ///
    /// # Errors
    /// [`CoreError::Overflow`] when that many numbers do not fit into memory.
    pub fn new(dim: usize, par: Parallelism) -> Result<Self, Error> {
        Ok(Self { sums: zeros("diagonal", Some(dim))?, examples: 0, par })
    }

    /// The number of parameters.
    pub fn dim(&self) -> usize {
        self.sums.len()
    }

    /// The number of examples seen.
    pub fn examples(&self) -> usize {
        self.examples
    }

    /// Adds gradients `[examples, dim]`. Cost: `2 examples dim` flops.
    ///
    /// # Errors
    /// A shape error, [`CoreError::NonFinite`] for NaN or infinity, [`CoreError::Overflow`] of the count.
    pub fn add_gradients<T: Real>(&mut self, gradients: MatRef<'_, T>) -> Result<(), Error> {
        check_shape("gradient columns", self.dim(), gradients.cols())?;
        let examples = self.count(gradients.rows())?;
        if self.dim() > 0 {
            check_rows_finite("gradients", gradients)?;
        }
        let tasks: Vec<_> = self.sums.chunks_mut(TASK_ENTRIES).enumerate().collect();
        for_each(self.par, tasks, |(chunk, sums)| {
            let part = gradients.block(0, gradients.rows(), chunk * TASK_ENTRIES, sums.len())?;
            for row in part.row_iter() {
                add_squares(sums, row);
            }
            Ok::<_, Error>(())
        })?;
        self.examples = examples;
        Ok(())
    }

    /// Adds the examples of a layer, whose gradients are flattened as in [`LayerRecord`]. An example without an unmasked
    /// position is none.
    ///
    /// With one position the squares of a gradient are products of squares, and all of them together one matrix product:
    /// `2 examples dim` flops. With more, the gradient of each example is formed: `2 (positions + 1) examples dim`.
    ///
    /// # Errors
    /// A shape error when the layer has not [`dim`](Self::dim) parameters, [`CoreError::NonFinite`] for NaN or infinity
    /// at an unmasked position, [`CoreError::Overflow`] of the count.
    pub fn add_record<T: Real>(&mut self, record: &LayerRecord<'_, T>) -> Result<(), Error> {
        check_shape("parameters of the layer", self.dim(), record.dim())?;
        let positions = record.positions();
        if positions == 0 {
            return Ok(());
        }
        let counts = |row: &usize| record.mask().is_none_or(|mask| mask[*row]);
        for row in (0..record.inputs().rows()).filter(counts) {
            check_finite("layer inputs", record.inputs().row(row))?;
            check_finite("output gradients", record.output_grads().row(row))?;
        }
        let examples = self.count((0..record.examples()).filter(|n| record.runs(*n).next().is_some()).count())?;
        let each = (BLOCK_POSITIONS / positions).max(1);
        if self.dim() == 0 {
            self.examples = examples;
            return Ok(());
        }
        for start in (0..record.examples()).step_by(each) {
            self.add_block(&record.example_range(start, each.min(record.examples() - start))?)?;
        }
        self.examples = examples;
        Ok(())
    }

    /// Adds what another accumulator has seen.
    ///
    /// # Errors
    /// A shape error when the dimensions differ, [`CoreError::Overflow`] of the count.
    pub fn merge(&mut self, other: &Self) -> Result<(), Error> {
        check_shape("diagonal to merge", self.dim(), other.dim())?;
        self.examples = self.count(other.examples)?;
        self.sums.iter_mut().zip(&other.sums).for_each(|(sum, other)| *sum += other);
        Ok(())
    }

    /// The mean over the examples, for [`Diagonal`](ascribe_core::linop::Diagonal).
    ///
    /// Error of an entry, relative and to first order: at most `(examples + 4) u` in f64, for records
    /// `2 (positions + 3)` times `u` more relative to `(sum_t |delta_t x_t|)^2`; then it is rounded to `T`.
    ///
    /// # Errors
    /// [`CoreError::Empty`] before the first example; [`CoreError::NonFinite`] with the first entry that overflows `T`.
    pub fn diagonal<T: Real>(&self) -> Result<Vec<T>, Error> {
        if self.examples == 0 {
            return Err(CoreError::Empty { what: "examples of a diagonal Fisher" }.into());
        }
        let diagonal: Vec<T> = self.sums.iter().map(|sum| T::from_f64(sum / self.examples as f64)).collect();
        check_finite("diagonal Fisher", &diagonal)?;
        Ok(diagonal)
    }

    fn count(&self, more: usize) -> Result<usize, CoreError> {
        self.examples.checked_add(more).ok_or(CoreError::Overflow { what: "number of examples" })
    }

    /// Adds examples that have been checked.
    fn add_block<T: Real>(&mut self, record: &LayerRecord<'_, T>) -> Result<(), Error> {
        let (rows, cols, d_out) = (record.inputs().rows(), record.weight_cols(), record.d_out());
        // Both factors in f64, squared where there is one position; masked rows are zero, their appended 1 included.
        let single = record.positions() == 1;
        let power = |x: f64| if single { x * x } else { x };
        let (mut x, mut delta) = (vec![0.0; rows * cols], vec![0.0; rows * d_out]);
        for row in (0..record.examples()).flat_map(|n| record.runs(n)).flatten() {
            let (x, delta) = (&mut x[row * cols..(row + 1) * cols], &mut delta[row * d_out..(row + 1) * d_out]);
            x[record.d_in()..].fill(1.0);
            x.iter_mut().zip(record.inputs().row(row)).for_each(|(x, from)| *x = power(from.to_f64()));
            delta.iter_mut().zip(record.output_grads().row(row)).for_each(|(x, from)| *x = power(from.to_f64()));
        }
        let (x, delta) = (MatRef::new(&x, rows, cols)?, MatRef::new(&delta, rows, d_out)?);
        if single {
            return Ok(matmul(MatMut::new(&mut self.sums, d_out, cols)?, 1.0, 1.0, delta.t(), x, self.par)?);
        }
        // Each task has some outputs of every example, so that nothing is summed across tasks.
        let outputs = (TASK_ENTRIES / cols).max(1);
        let tasks: Vec<_> = self.sums.chunks_mut(outputs * cols).enumerate().collect();
        for_each(self.par, tasks, |(chunk, sums)| {
            let height = sums.len() / cols;
            let mut gradient = vec![0.0; sums.len()];
            for n in 0..record.examples() {
                let first = n * record.positions();
                let delta = delta.block(first, record.positions(), chunk * outputs, height)?;
                let x = x.row_range(first, record.positions())?;
                let out = MatMut::new(&mut gradient, height, cols)?;
                matmul(out, 0.0, 1.0, delta.t(), x, Parallelism::Serial)?;
                add_squares(sums, &gradient);
            }
            Ok(())
        })
    }
}

/// `sums += x^2`.
fn add_squares<T: Real>(sums: &mut [f64], x: &[T]) {
    for (sum, x) in sums.iter_mut().zip(x) {
        let x = x.to_f64();
        *sum += x * x;
    }
}
