//! EKFAC's eigenvalues: the second moments of the gradients along K-FAC's eigenvectors.

use core::marker::PhantomData;

use ascribe_core::record::LayerRecord;
use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};

use super::gram::checked_sum;
use super::{Basis, EigenBlock, Fisher};
use crate::Error;
use crate::error::{check_finite, check_shape, zeros};
use crate::linalg::matmul;
use crate::parallel::{Parallelism, run};

/// Rows (positions) that are rotated at once.
const ROWS: usize = 1024;
/// Rows of the eigenvalues that one task adds to.
const STRIP: usize = 32;

/// Accumulates the corrected eigenvalues of one layer:
/// $\Lambda = \tfrac{1}{N} \sum_n \big(Q_l^\top V_n Q_r\big)^{\circ 2}$ with `V_n` an example's gradient, summed over its
/// positions **before** it is squared.
///
/// Among all eigenvalues on this basis they are nearest to the exact block in the norm of Frobenius, and they have
/// its trace. `F` says from which law the gradients come; see [`Fisher`].
///
/// Gradients are rotated by their two factors and then either multiplied out for each example, or, where that
/// takes more operations, summed over pairs of positions; [`Route`] has the rule. One position a layer is a single
/// product of squares. Memory: `rows * cols` doubles, and a work space of `1024 * (rows + cols)` numbers, or of
/// the longest example's positions, and `rows * cols` more.
///
/// # References
/// George et al., arXiv:1806.03884, equation 5; Grosse et al., arXiv:2308.03296, equation 20.
#[derive(Debug, Clone)]
pub struct EigenvalueCorrection<'b, T, F> {
    block: &'b EigenBlock<T>,
    sum: Vec<f64>,
    examples: u64,
    par: Parallelism,
    fisher: PhantomData<F>,
}

/// How the squared rotated gradients of examples with `S` positions are summed, `O` and `I` being rows and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// `sum_{s,t} (y_s o y_t) (x_s o x_t)^T` over pairs of positions, all examples in one product; for `S = 1` the
    /// product of the squares. `S (S + 1) O I` flops after the rotation.
    Pairs,
    /// `Y^T X` for each example from its rotated positions, then squared. `2 (S + 1) O I` flops after the rotation.
    Rotated,
    /// The gradient is formed and then rotated: `2 S O I + 2 O I (O + I) + 2 O I` flops, no rotation before; for
    /// sequences longer than the layer is wide.
    Formed,
}

impl Route {
    /// The cheapest for `positions` positions; fewer operations win, ties go to the earlier one.
    pub fn cheapest(positions: usize, rows: usize, cols: usize) -> Self {
        let [s, o, i] = [positions as f64, rows as f64, cols as f64];
        let rotation = 2.0 * s * (i * i + o * o);
        let costs = [
            (Self::Pairs, rotation + s * (s + 1.0) * o * i),
            (Self::Rotated, rotation + 2.0 * (s + 1.0) * o * i),
            (Self::Formed, 2.0 * s * o * i + 2.0 * o * i * (o + i) + 2.0 * o * i),
        ];
        costs.into_iter().reduce(|best, next| if next.1 < best.1 { next } else { best }).map_or(Self::Pairs, |x| x.0)
    }
}

impl<'b, T: Real, F: Fisher> EigenvalueCorrection<'b, T, F> {
    /// An empty sum in the basis of `block`, whose eigenvalues do not matter.
    pub fn new(block: &'b EigenBlock<T>, par: Parallelism) -> Self {
        Self { block, sum: vec![0.0; block.dim()], examples: 0, par, fisher: PhantomData }
    }

    /// The examples so far, those without a position that counts left out.
    pub fn examples(&self) -> u64 {
        self.examples
    }

    /// The block in whose basis it is summed.
    pub fn block(&self) -> &'b EigenBlock<T> {
        self.block
    }

    #[cfg(feature = "safetensors")]
    pub(super) fn sums(&self) -> &[f64] {
        &self.sum
    }

    #[cfg(feature = "safetensors")]
    pub(super) fn resumed(block: &'b EigenBlock<T>, sum: Vec<f64>, examples: u64, par: Parallelism) -> Self {
        Self { block, sum, examples, par, fisher: PhantomData }
    }

    /// The bytes of the state, without those of the block it borrows.
    pub fn bytes(&self) -> usize {
        self.sum.len() * size_of::<f64>()
    }

    /// Adds the examples of `record`, with the output gradients in it and, one matrix
    /// `[examples * positions, d_out]` each, `more` draws of the same examples: the columns of a type-2 root or
    /// further sampled targets, which add to the sum but not to the count. Masked positions may hold anything.
    ///
    /// # Errors
    /// [`Error::Block`] with the block's name around a shape error or, for NaN or infinity in an element that
    /// counts or a square that `T` cannot hold, [`CoreError::NonFinite`], or, when there are too many examples to
    /// count, [`CoreError::Overflow`]; nothing is added then.
    pub fn add(&mut self, record: &LayerRecord<'_, T>, more: &[MatRef<'_, T>]) -> Result<(), Error> {
        let block = self.block;
        self.add_unnamed(record, more).map_err(|error| error.in_block(block.name()))
    }

    fn add_unnamed(&mut self, record: &LayerRecord<'_, T>, more: &[MatRef<'_, T>]) -> Result<(), Error> {
        check_shape("outputs of the record", self.block.rows(), record.d_out())?;
        check_shape("inputs of the record, bias included", self.block.cols(), record.weight_cols())?;
        for draw in more {
            check_shape("rows of a further draw", record.output_grads().rows(), draw.rows())?;
            check_shape("columns of a further draw", record.d_out(), draw.cols())?;
        }
        // There may be any number of examples without one.
        if record.positions() == 0 {
            return Ok(());
        }
        for row in (0..record.examples()).flat_map(|n| record.runs(n)).flatten() {
            check_finite("inputs", record.inputs().row(row))?;
            check_finite("output gradients", record.output_grads().row(row))?;
            more.iter().try_for_each(|draw| check_finite("further output gradients", draw.row(row)))?;
        }
        let mut sum = zeros("eigenvalues of a layer", Some(self.sum.len()))?;
        let (mut start, mut examples) = (0, 0);
        while start < record.examples() {
            let group = Group::gather(record, more, start);
            start += group.gathered;
            examples += group.lengths.len() as u64;
            self.add_group(&mut sum, group, 1 + more.len())?;
        }
        check_finite("squared gradients", &sum)?;
        let examples = checked_sum("examples", self.examples, examples)?;
        self.sum.iter_mut().zip(&sum).for_each(|(sum, x)| *sum += x);
        self.examples = examples;
        Ok(())
    }

    fn add_group(&self, sum: &mut [f64], group: Group<T>, draws: usize) -> Result<(), Error> {
        let (rows, cols) = (self.block.rows(), self.block.cols());
        let longest = group.lengths.iter().copied().max().unwrap_or(0);
        if longest == 0 || rows == 0 || cols == 0 {
            return Ok(());
        }
        let count = group.inputs.len() / cols;
        match Route::cheapest(longest, rows, cols) {
            Route::Formed => {
                let (mut gradient, mut rotated) = (vec![T::ZERO; rows * cols], vec![T::ZERO; rows * cols]);
                let mut first = 0;
                for &length in &group.lengths {
                    let x = MatRef::new(&group.inputs, count, cols)?.row_range(first, length)?;
                    for draw in 0..draws {
                        let y =
                            MatRef::new(&group.grads, draws * count, rows)?.row_range(draw * count + first, length)?;
                        matmul(MatMut::new(&mut gradient, rows, cols)?, T::ZERO, T::ONE, y.t(), x, self.par)?;
                        let x = match self.block.right().vectors() {
                            Some(right) => {
                                let gradient = MatRef::new(&gradient, rows, cols)?;
                                let out = MatMut::new(&mut rotated, rows, cols)?;
                                matmul(out, T::ZERO, T::ONE, gradient, right, self.par)?;
                                MatRef::new(&rotated, rows, cols)?
                            }
                            None => MatRef::new(&gradient, rows, cols)?,
                        };
                        match self.block.left().vectors() {
                            Some(left) => self.add_squares(sum, &[(left, x)])?,
                            None => {
                                for (sum, row) in sum.chunks_exact_mut(cols).zip(x.row_iter()) {
                                    sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x.to_f64() * x.to_f64());
                                }
                            }
                        }
                    }
                    first += length;
                }
                Ok(())
            }
            route => {
                let x = rotate(group.inputs, self.block.right(), self.par)?;
                let y = rotate(group.grads, self.block.left(), self.par)?;
                if route == Route::Pairs {
                    return self.add_pairs(sum, &group.lengths, &x, &y, draws);
                }
                let (x, y) = (MatRef::new(&x, count, cols)?, MatRef::new(&y, draws * count, rows)?);
                let mut products = Vec::with_capacity(draws * group.lengths.len());
                let mut first = 0;
                for &length in &group.lengths {
                    for draw in 0..draws {
                        products.push((y.row_range(draw * count + first, length)?, x.row_range(first, length)?));
                    }
                    first += length;
                }
                self.add_squares(sum, &products)
            }
        }
    }

    /// Adds the squares of each `Y^T X`. Every task has rows of its own, so nothing is summed across threads.
    fn add_squares(&self, sum: &mut [f64], products: &[(MatRef<'_, T>, MatRef<'_, T>)]) -> Result<(), Error> {
        let (rows, cols) = (self.block.rows(), self.block.cols());
        let mut buffers = vec![Vec::new(); self.par.workers()];
        let strips = sum.chunks_mut(STRIP * cols).enumerate().collect();
        run(&mut buffers, strips, |buffer, (strip, sum): (usize, &mut [f64])| {
            let height = STRIP.min(rows - strip * STRIP);
            buffer.resize(height * cols, T::ZERO);
            for (y, x) in products {
                let y = y.block(0, y.rows(), strip * STRIP, height)?;
                matmul(MatMut::new(buffer, height, cols)?, T::ZERO, T::ONE, y.t(), *x, Parallelism::Serial)?;
                sum.iter_mut().zip(&*buffer).for_each(|(sum, x)| *sum += x.to_f64() * x.to_f64());
            }
            Ok::<(), CoreError>(())
        })?;
        Ok(())
    }

    /// One product over all pairs of positions of the same example: a pair `s < t` stands for two.
    fn add_pairs(&self, sum: &mut [f64], lengths: &[usize], x: &[T], y: &[T], draws: usize) -> Result<(), Error> {
        let (rows, cols) = (self.block.rows(), self.block.cols());
        let count = x.len() / cols;
        let (mut x_pairs, mut y_pairs) = (Vec::new(), Vec::new());
        let mut first = 0;
        for &length in lengths {
            for t in first..first + length {
                for s in first..=t {
                    let weight = if s == t { T::ONE } else { T::from_f64(2.0) };
                    let (a, b) = (&x[s * cols..][..cols], &x[t * cols..][..cols]);
                    x_pairs.extend(a.iter().zip(b).map(|(&a, &b)| weight * a * b));
                    let start = y_pairs.len();
                    y_pairs.resize(start + rows, T::ZERO);
                    for draw in 0..draws {
                        let (a, b) = (&y[(draw * count + s) * rows..][..rows], &y[(draw * count + t) * rows..][..rows]);
                        y_pairs[start..].iter_mut().zip(a).zip(b).for_each(|((sum, &a), &b)| *sum += a * b);
                    }
                }
            }
            first += length;
        }
        let pairs = x_pairs.len() / cols;
        let mut product = vec![T::ZERO; rows * cols];
        let (x, y) = (MatRef::new(&x_pairs, pairs, cols)?, MatRef::new(&y_pairs, pairs, rows)?);
        matmul(MatMut::new(&mut product, rows, cols)?, T::ZERO, T::ONE, y.t(), x, self.par)?;
        sum.iter_mut().zip(&product).for_each(|(sum, x)| *sum += x.to_f64());
        Ok(())
    }

    /// Adds what `other` has seen: as if one accumulator had seen it all.
    ///
    /// # Errors
    /// [`Error::Block`] with the block's name around [`Error::Mismatch`] when the two were begun on different bases, or
    /// [`CoreError::Overflow`] when there are too many examples to count; nothing is added then.
    pub fn merge(&mut self, other: &Self) -> Result<(), Error> {
        if (self.block.left(), self.block.right()) != (other.block.left(), other.block.right()) {
            return Err(Error::Mismatch { what: "bases of the eigenvalues" }.in_block(self.block.name()));
        }
        let examples = checked_sum("examples", self.examples, other.examples);
        self.examples = examples.map_err(|error| error.in_block(self.block.name()))?;
        self.sum.iter_mut().zip(&other.sum).for_each(|(sum, x)| *sum += x);
        Ok(())
    }

    /// The block with its corrected eigenvalues.
    ///
    /// # Errors
    /// [`Error::Block`] with the block's name around [`CoreError::Empty`] before any example that counts, and
    /// [`CoreError::NonFinite`] when a sum overflowed.
    pub fn finish(&self) -> Result<EigenBlock<T>, Error> {
        finish(self.block, &self.sum, self.examples)
    }
}

/// The block with the mean of a sum over examples as its eigenvalues.
pub(super) fn finish<T: Real>(block: &EigenBlock<T>, sum: &[f64], examples: u64) -> Result<EigenBlock<T>, Error> {
    let named = |error: CoreError| Error::from(error).in_block(block.name());
    if examples == 0 {
        return Err(named(CoreError::Empty { what: "examples" }));
    }
    check_finite("eigenvalues", sum).map_err(named)?;
    // Pairs of positions cancel where a gradient has no component; what is left of it may be below zero.
    let values = sum.iter().map(|sum| (sum / examples as f64).max(0.0)).collect();
    Ok(block.with_values(values))
}

/// Some examples with the positions that count next to each other, a 1 appended to the inputs of a layer with bias.
#[derive(Debug)]
struct Group<T> {
    inputs: Vec<T>,
    /// Draw after draw.
    grads: Vec<T>,
    /// Positions of each example that has any.
    lengths: Vec<usize>,
    /// Examples looked at.
    gathered: usize,
}

impl<T: Real> Group<T> {
    /// The examples from `start` on, one at least, until there are [`ROWS`] positions.
    fn gather(record: &LayerRecord<'_, T>, more: &[MatRef<'_, T>], start: usize) -> Self {
        let (mut inputs, mut lengths, mut rows, mut gathered) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for n in start..record.examples() {
            let before = rows.len();
            rows.extend(record.runs(n).flatten());
            if gathered > 0 && rows.len() > ROWS {
                rows.truncate(before);
                break;
            }
            gathered += 1;
            if rows.len() > before {
                lengths.push(rows.len() - before);
            }
        }
        for &row in &rows {
            inputs.extend_from_slice(record.inputs().row(row));
            if record.has_bias() {
                inputs.push(T::ONE);
            }
        }
        let mut grads = Vec::with_capacity(rows.len() * record.d_out() * (1 + more.len()));
        for draw in core::iter::once(&record.output_grads()).chain(more) {
            for &row in &rows {
                grads.extend_from_slice(draw.row(row));
            }
        }
        Self { inputs, grads, lengths, gathered }
    }
}

/// Each row in the coordinates of the basis.
pub(super) fn rotate<T: Real>(rows: Vec<T>, basis: &Basis<T>, par: Parallelism) -> Result<Vec<T>, Error> {
    let Some(vectors) = basis.vectors() else { return Ok(rows) };
    let count = rows.len() / vectors.rows();
    let mut out = vec![T::ZERO; rows.len()];
    let rows = MatRef::new(&rows, count, vectors.rows())?;
    matmul(MatMut::new(&mut out, count, vectors.rows())?, T::ZERO, T::ONE, rows, vectors, par)?;
    Ok(out)
}
