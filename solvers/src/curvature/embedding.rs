//! K-FAC and EKFAC of an embedding table.

use core::marker::PhantomData;

use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};

use super::gram::checked_sum;
use super::{EigenBlock, Fisher};
use crate::Error;
use crate::error::{check_finite, check_shape, zeros};
use crate::linalg::matmul;
use crate::parallel::Parallelism;

/// What an embedding leaves behind: a token for each position, and the gradients at the embedded vectors
/// `[examples * positions, dim]`. The mask is true where a position counts; a masked one may hold anything, a token
/// outside the table too.
///
/// An embedding is a linear layer whose inputs are unit vectors. Its table, and so a flat gradient, is
/// `[tokens, dim]`: token after token.
#[derive(Debug, Clone, Copy)]
pub struct EmbeddingRecord<'a, T> {
    tokens: &'a [usize],
    output_grads: MatRef<'a, T>,
    mask: Option<&'a [bool]>,
    examples: usize,
    positions: usize,
}

impl<'a, T: Real> EmbeddingRecord<'a, T> {
    /// A record of `examples` examples; tokens and mask have one element a row of `output_grads`.
    ///
    /// # Errors
    /// A shape error when the lengths differ or are no multiple of `examples`.
    pub fn new(
        examples: usize,
        tokens: &'a [usize],
        output_grads: MatRef<'a, T>,
        mask: Option<&'a [bool]>,
    ) -> Result<Self, Error> {
        let positions = tokens.len().checked_div(examples).unwrap_or(0);
        check_shape("tokens (a multiple of the examples)", examples * positions, tokens.len())?;
        check_shape("output gradient rows", tokens.len(), output_grads.rows())?;
        if let Some(mask) = mask {
            check_shape("mask elements", tokens.len(), mask.len())?;
        }
        // Examples without a position add nothing, and may be any number.
        let examples = if positions == 0 { 0 } else { examples };
        Ok(Self { tokens, output_grads, mask, examples, positions })
    }

    /// The positions of an example that count.
    fn rows(&self, example: usize) -> impl Iterator<Item = usize> + use<'a, T> {
        let mask = self.mask;
        let rows = example * self.positions..(example + 1) * self.positions;
        rows.filter(move |&row| mask.is_none_or(|mask| mask[row]))
    }

    /// This record and those of the further draws.
    fn draws(&self, more: &[MatRef<'a, T>]) -> Result<Vec<Self>, Error> {
        let further = more.iter().map(|&draw| Self::new(self.examples, self.tokens, draw, self.mask));
        core::iter::once(Ok(*self)).chain(further).collect()
    }

    fn check(&self, tokens: usize, dim: usize) -> Result<(), Error> {
        check_shape("columns of the output gradients", dim, self.output_grads.cols())?;
        for row in (0..self.examples).flat_map(|n| self.rows(n)) {
            if self.tokens[row] >= tokens {
                return Err(CoreError::Index { what: "token", index: self.tokens[row], len: tokens }.into());
            }
            check_finite("output gradients", self.output_grads.row(row))?;
        }
        // Every sum here is at most the number of positions, times the length of a gradient, squared.
        let rows = (0..self.examples).flat_map(|n| self.rows(n));
        let largest =
            rows.flat_map(|row| self.output_grads.row(row)).fold(0.0_f64, |most, x| most.max(x.to_f64().abs()));
        let bound = largest * largest * dim as f64 * (self.tokens.len() as f64).powi(2);
        if bound <= T::MAX.to_f64() {
            return Ok(());
        }
        let must_be =
            "small enough for its square, times the squared number of positions and the columns, to be finite";
        Err(CoreError::Parameter { what: "largest output gradient", value: largest, must_be }.into())
    }

    /// The output gradients of the positions of some examples that count, next to each other.
    fn gather(&self, examples: core::ops::Range<usize>) -> (Vec<usize>, Vec<T>) {
        let rows: Vec<usize> = examples.flat_map(|n| self.rows(n)).collect();
        let grads = rows.iter().flat_map(|&row| self.output_grads.row(row)).copied().collect();
        (rows, grads)
    }
}

/// Examples that are gathered at once.
const EXAMPLES: usize = 64;

/// Accumulates K-FAC's factors of an embedding: how often each token occurs, which is the whole of the input
/// covariance, and the covariance of the output gradients `[dim, dim]`.
///
/// The block is `diag(a) (x) G`: `a[t]` the occurrences of token `t` over those of all tokens, `G` the sum of
/// `g g^T` over the examples that have any position. Memory: a count for each token and `dim^2` doubles; `64` examples'
/// gradients and `dim^2` numbers of work space. Cost: `2 dim^2` flops a position.
///
/// # Examples
/// ```
/// use ascribe_core::MatRef;
/// use ascribe_solvers::{curvature::*, parallel::Parallelism::Serial};
/// // Two examples of two positions; the token 2 never occurs.
/// let (tokens, grads) = ([0, 1, 1, 1], [1.0, 2.0, 3.0, 4.0]);
/// let record = EmbeddingRecord::new(2, &tokens, MatRef::new(&grads, 4, 1)?, None)?;
/// let mut covariance = EmbeddingCovariance::<Empirical>::new(3, 1, Serial)?;
/// covariance.add(&record, &[])?;
/// let kfac = covariance.finish::<f64>("embedding")?;
/// assert_eq!(kfac.values(), [0.25 * 15.0, 0.75 * 15.0, 0.0]);
/// let mut correction = EmbeddingCorrection::<f64, Empirical>::new(&kfac, Serial)?;
/// correction.add(&record, &[])?;
/// assert_eq!(correction.finish()?.values(), [0.5 * 1.0, 0.5 * (4.0 + 49.0), 0.0]);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct EmbeddingCovariance<F> {
    counts: Vec<u64>,
    /// The sum of the counts, so that none of them overflows.
    positions: u64,
    /// The sum of `g g^T`, `[dim, dim]`.
    sum: Vec<f64>,
    dim: usize,
    examples: u64,
    par: Parallelism,
    fisher: PhantomData<F>,
}

impl<F: Fisher> EmbeddingCovariance<F> {
    /// Of a table `[tokens, dim]`, before any example.
    ///
    /// # Errors
    /// [`CoreError::Overflow`] for a table that does not fit into memory.
    pub fn new(tokens: usize, dim: usize, par: Parallelism) -> Result<Self, Error> {
        let counts = zeros("token counts", Some(tokens))?;
        let sum = zeros("covariance of the output gradients", dim.checked_mul(dim))?;
        Ok(Self { counts, positions: 0, sum, dim, examples: 0, par, fisher: PhantomData })
    }

    /// Adds a record, with `more` draws of the same examples as in
    /// [`EigenvalueCorrection::add`](super::EigenvalueCorrection::add).
    ///
    /// # Errors
    /// A shape error, [`CoreError::Index`] for a token outside the table, [`CoreError::NonFinite`] for a gradient that
    /// is NaN or infinite, [`CoreError::Parameter`] for gradients whose squares may overflow, [`CoreError::Overflow`]
    /// when there are too many positions to count; nothing is added then.
    pub fn add<T: Real>(&mut self, record: &EmbeddingRecord<'_, T>, more: &[MatRef<'_, T>]) -> Result<(), Error> {
        let draws = record.draws(more)?;
        draws.iter().try_for_each(|draw| draw.check(self.counts.len(), self.dim))?;
        let rows = (0..record.examples).flat_map(|n| record.rows(n));
        let positions = checked_sum("positions", self.positions, rows.count() as u64)?;
        let mut sum = zeros("covariance of the output gradients", Some(self.sum.len()))?;
        for start in (0..record.examples).step_by(EXAMPLES) {
            for draw in &draws {
                let (rows, grads) = draw.gather(start..record.examples.min(start + EXAMPLES));
                let grads = MatRef::new(&grads, rows.len(), self.dim)?;
                let out = MatMut::new(&mut sum, self.dim, self.dim)?;
                matmul(out, T::ZERO, T::ONE, grads.t(), grads, self.par)?;
                self.sum.iter_mut().zip(&sum).for_each(|(sum, x)| *sum += x.to_f64());
            }
        }
        self.positions = positions;
        for n in 0..record.examples {
            record.rows(n).for_each(|row| self.counts[record.tokens[row]] += 1);
            self.examples += u64::from(record.rows(n).next().is_some());
        }
        Ok(())
    }

    /// The bytes of the state: a count for each token and `dim^2` doubles.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.counts) + size_of_val(&*self.sum)
    }

    /// Adds what `other` has seen.
    ///
    /// # Errors
    /// A shape error when the tables differ in size, [`CoreError::Overflow`] when there are too many positions to
    /// count; nothing is added then.
    pub fn merge(&mut self, other: &Self) -> Result<(), Error> {
        check_shape("tokens of the table", self.counts.len(), other.counts.len())?;
        check_shape("columns of the table", self.dim, other.dim)?;
        // Every example that counts has a position, so that there are no more of them.
        self.positions = checked_sum("positions", self.positions, other.positions)?;
        self.counts.iter_mut().zip(&other.counts).for_each(|(sum, x)| *sum += x);
        self.sum.iter_mut().zip(&other.sum).for_each(|(sum, x)| *sum += x);
        self.examples += other.examples;
        Ok(())
    }

    /// How often each token occurred, over the occurrences of all.
    ///
    /// # Errors
    /// [`CoreError::Empty`] before any position that counts.
    pub fn frequencies(&self) -> Result<Vec<f64>, Error> {
        if self.positions == 0 {
            return Err(CoreError::Empty { what: "positions" }.into());
        }
        Ok(self.counts.iter().map(|&count| count as f64 / self.positions as f64).collect())
    }

    /// The covariance of the output gradients, `[dim, dim]`: their sum over positions, over the number of examples.
    ///
    /// # Errors
    /// [`CoreError::Empty`] before any position that counts.
    pub fn factor_g(&self) -> Result<Vec<f64>, Error> {
        if self.examples == 0 {
            return Err(CoreError::Empty { what: "examples" }.into());
        }
        Ok(self.sum.iter().map(|sum| sum / self.examples as f64).collect())
    }

    /// K-FAC's block; gradients are `[tokens, dim]`.
    ///
    /// # Errors
    /// [`Error::Block`] with `name` around [`CoreError::Empty`] before any position that counts, or what
    /// [`EigenBlock::diagonal_kronecker`] says.
    pub fn finish<T: Real>(&self, name: &str) -> Result<EigenBlock<T>, Error> {
        let named = |error: Error| error.in_block(name);
        let (frequencies, g) = (self.frequencies().map_err(named)?, self.factor_g().map_err(named)?);
        EigenBlock::diagonal_kronecker(name, &frequencies, MatRef::new(&g, self.dim, self.dim)?, self.par)
    }
}

/// Accumulates EKFAC's eigenvalues of an embedding: for each example, the gradients at the occurrences of a token are
/// summed, rotated and squared. Only tokens that occur are touched.
///
/// Memory: `tokens * dim` doubles. Cost: `2 dim^2` flops a position.
#[derive(Debug, Clone)]
pub struct EmbeddingCorrection<'b, T, F> {
    block: &'b EigenBlock<T>,
    sum: Vec<f64>,
    examples: u64,
    par: Parallelism,
    fisher: PhantomData<F>,
}

impl<'b, T: Real, F: Fisher> EmbeddingCorrection<'b, T, F> {
    /// An empty sum in the basis of a block of [`EmbeddingCovariance::finish`].
    ///
    /// # Errors
    /// [`Error::Mismatch`] when the block's rows are not tokens: its left basis has to be the unit vectors.
    pub fn new(block: &'b EigenBlock<T>, par: Parallelism) -> Result<Self, Error> {
        if block.left().vectors().is_some() {
            return Err(Error::Mismatch { what: "rows of the block and the tokens" }.in_block(block.name()));
        }
        Ok(Self { block, sum: vec![0.0; block.dim()], examples: 0, par, fisher: PhantomData })
    }

    /// Adds a record, with `more` draws of the same examples.
    ///
    /// # Errors
    /// As [`EmbeddingCovariance::add`], in an [`Error::Block`] with the block's name; nothing is added then.
    pub fn add(&mut self, record: &EmbeddingRecord<'_, T>, more: &[MatRef<'_, T>]) -> Result<(), Error> {
        let block = self.block;
        self.add_unnamed(record, more).map_err(|error| error.in_block(block.name()))
    }

    fn add_unnamed(&mut self, record: &EmbeddingRecord<'_, T>, more: &[MatRef<'_, T>]) -> Result<(), Error> {
        let dim = self.block.cols();
        let draws = record.draws(more)?;
        draws.iter().try_for_each(|draw| draw.check(self.block.rows(), dim))?;
        let counted = (0..record.examples).filter(|&n| record.rows(n).next().is_some()).count();
        let examples = checked_sum("examples", self.examples, counted as u64)?;
        if dim == 0 {
            return Ok(());
        }
        for start in (0..record.examples).step_by(EXAMPLES) {
            let block = start..record.examples.min(start + EXAMPLES);
            for draw in &draws {
                let (rows, grads) = draw.gather(block.clone());
                let rotated = super::correction::rotate(grads, self.block.right(), self.par)?;
                let mut first = 0;
                for n in block.clone() {
                    let length = draw.rows(n).count();
                    // The positions of the same token next to each other, in order.
                    let mut order: Vec<usize> = (first..first + length).collect();
                    order.sort_by_key(|&i| record.tokens[rows[i]]);
                    for same in order.chunk_by(|&i, &j| record.tokens[rows[i]] == record.tokens[rows[j]]) {
                        let token = record.tokens[rows[same[0]]];
                        for (j, sum) in self.sum[token * dim..(token + 1) * dim].iter_mut().enumerate() {
                            let along: f64 = same.iter().map(|&i| rotated[i * dim + j].to_f64()).sum();
                            *sum += along * along;
                        }
                    }
                    first += length;
                }
            }
        }
        self.examples = examples;
        Ok(())
    }

    /// The bytes of the state, without those of the block it borrows: `tokens * dim` doubles.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.sum)
    }

    /// Adds what `other` has seen.
    ///
    /// # Errors
    /// As [`EigenvalueCorrection::merge`](super::EigenvalueCorrection::merge).
    pub fn merge(&mut self, other: &Self) -> Result<(), Error> {
        if self.block.right() != other.block.right() || self.block.left() != other.block.left() {
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
    /// As [`EigenvalueCorrection::finish`](super::EigenvalueCorrection::finish).
    pub fn finish(&self) -> Result<EigenBlock<T>, Error> {
        super::correction::finish(self.block, &self.sum, self.examples)
    }
}
