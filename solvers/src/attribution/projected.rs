//! Influence functions on sketches: the empirical Fisher of each layer, small enough to be kept whole.

use ascribe_core::derivative::Reduction;
use ascribe_core::{Error as CoreError, MatMut, MatRef, Real, reduce};

use super::parts::{BLOCK, check_parts, part_dots};
use crate::Error;
use crate::curvature::{EigenBlock, Filter, Gram};
use crate::error::{check_shape, zeros};
use crate::linalg::matmul;
use crate::parallel::Parallelism;

/// What [`check_parts`] calls rows of gradients.
const ROWS: [&str; 3] = ["layers", "gradient rows", "gradient columns"];

/// The inverse curvature of every layer in the space of its sketches, and all that influence functions need of it:
/// $f(F_l)$ with $F_l = \frac1n \sum_i g_{il} g_{il}^\top$ and $f$ a [`Filter`], by default $(F_l + d_l I)^{-1}$.
///
/// This is LoGra's influence for Kronecker projections and GraSS's for masked sparse ones: the methods differ in the
/// sketch alone. A relative damping is that of each layer by itself, so that a layer's scores do not depend on the
/// scale of its sketch or of the loss, and a layer without gradients contributes 0.
///
/// Rows of gradients are given as one matrix `[rows, k_l]` a layer (blocks of columns, if they are stored side by
/// side) and come out side by side, `[rows, dim]`. The way with the fewest operations: accumulate a [`Gram`] a layer
/// over the training rows, [`precondition`](Self::precondition) the queries, and let the training rows stream past by
/// [`scores`](Self::scores), or any plain inner product. What the scores are divided by is in
/// [`Normalization`](super::Normalization).
///
/// Cost: an eigendecomposition a layer, and `2 k_l^2` flops a row and layer for each of
/// [`whiten`](Self::whiten) and the norms, `4 k_l^2` for `precondition`. Memory: `k_l^2` numbers a layer.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef};
/// use ascribe_solvers::curvature::{Damping, Filter};
/// use ascribe_solvers::{attribution::ProjectedFisher, parallel::Parallelism::Serial};
/// let train = [MatRef::new(&[2.0, 0.0, 0.0, 4.0], 2, 2)?]; // one layer; F = diag(2, 8)
/// let filter = Filter { damping: Damping::Absolute(2.0), ..Filter::default() };
/// let fisher = ProjectedFisher::of_rows(&train, &filter, Serial)?;
/// let mut solved = [0.0_f64; 2];
/// fisher.precondition(MatMut::from_row(&mut solved), &[MatRef::from_row(&[1.0, 1.0])])?;
/// let mut scores = [0.0; 2];
/// fisher.scores(MatMut::new(&mut scores, 2, 1)?, &train, MatRef::from_row(&solved))?;
/// assert!((scores[0] - 0.5).abs() < 1e-14 && (scores[1] - 0.4).abs() < 1e-14);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Choe et al., arXiv:2405.13954, section 3 (LoGra; their damping is 0.1 times the mean eigenvalue, appendix C); Hu et
/// al., arXiv:2505.18976 (GraSS). LogIX takes the damping of its first layer for all of them, and adds it to the
/// eigenvalues it keeps each time it is asked; here each layer has its own, and nothing kept is changed.
#[derive(Debug, Clone)]
pub struct ProjectedFisher<T> {
    layers: Vec<Layer<T>>,
    par: Parallelism,
}

#[derive(Debug, Clone)]
struct Layer<T> {
    block: EigenBlock<T>,
    /// What the filter makes of each eigenvalue.
    multipliers: Vec<f64>,
}

impl<T: Real> ProjectedFisher<T> {
    /// Of curvatures in their eigenbasis, each a matrix over flat rows: [`EigenBlock::dense`] or
    /// [`EigenBlock::diagonal`].
    ///
    /// # Errors
    /// A shape error for a block of several rows, which is a Kronecker product; the errors of [`Filter::multipliers`].
    pub fn new(blocks: Vec<EigenBlock<T>>, filter: &Filter, par: Parallelism) -> Result<Self, Error> {
        let layer = |block: EigenBlock<T>| {
            check_shape("rows of a block over sketches", 1, block.rows())?;
            Ok(Layer { multipliers: filter.multipliers(&block)?, block })
        };
        Ok(Self { layers: blocks.into_iter().map(layer).collect::<Result<_, Error>>()?, par })
    }

    /// Of the Gram matrices of the layers' training rows, divided by the number of rows. Layers are named `layer 0`,
    /// `layer 1`, .. in errors.
    ///
    /// # Errors
    /// [`CoreError::Empty`] for a Gram matrix of no rows; the errors of [`EigenBlock::dense`] and of
    /// [`ProjectedFisher::new`].
    pub fn from_grams<S: Real>(grams: &[Gram<S>], filter: &Filter, par: Parallelism) -> Result<Self, Error> {
        let matrix = |gram: &Gram<S>| Ok((gram.matrix(Reduction::Mean)?, gram.dim()));
        Self::from_matrices(grams.iter().map(matrix), filter, par)
    }

    /// Of the training rows themselves, when they are in memory: `train[l]` is `[n, k_l]`. The sums are in f64.
    ///
    /// # Errors
    /// A shape error when the layers have different numbers of rows; the errors of [`Gram::add`] and of
    /// [`ProjectedFisher::from_grams`].
    pub fn of_rows(train: &[MatRef<'_, T>], filter: &Filter, par: Parallelism) -> Result<Self, Error> {
        let rows = train.first().map_or(0, MatRef::rows);
        check_parts(ROWS, train, rows, train.iter().map(MatRef::cols))?;
        let gram = |rows: &MatRef<'_, T>| {
            let mut gram = Gram::<f64>::new(rows.cols(), par)?;
            gram.add(*rows, None)?;
            Ok(gram)
        };
        Self::from_grams(&train.iter().map(gram).collect::<Result<Vec<_>, Error>>()?, filter, par)
    }

    /// Of square matrices and their sizes.
    pub(super) fn from_matrices<S: Real>(
        matrices: impl Iterator<Item = Result<(Vec<S>, usize), Error>>,
        filter: &Filter,
        par: Parallelism,
    ) -> Result<Self, Error> {
        let block = |(l, matrix): (usize, Result<(Vec<S>, usize), Error>)| {
            let (matrix, dim) = matrix?;
            EigenBlock::dense(&format!("layer {l}"), MatRef::new(&matrix, dim, dim)?, par)
        };
        Self::new(matrices.enumerate().map(block).collect::<Result<_, Error>>()?, filter, par)
    }

    /// The layers' curvatures.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = &EigenBlock<T>> {
        self.layers.iter().map(|layer| &layer.block)
    }

    /// The length of a row with all layers side by side.
    pub fn dim(&self) -> usize {
        self.widths().sum()
    }

    fn widths(&self) -> impl ExactSizeIterator<Item = usize> + Clone {
        self.layers.iter().map(|layer| layer.block.dim())
    }

    fn check(&self, out: &MatMut<'_, T>, rows: &[MatRef<'_, T>]) -> Result<(), CoreError> {
        check_shape("columns of prepared rows", self.dim(), out.cols())?;
        check_parts(ROWS, rows, out.rows(), self.widths())
    }

    /// `f(F) g` for each row, `out` `[rows, dim]`: what queries become, once. Work space: 256 rows of a layer.
    ///
    /// # Errors
    /// A shape error.
    pub fn precondition(&self, mut out: MatMut<'_, T>, rows: &[MatRef<'_, T>]) -> Result<(), Error> {
        self.check(&out, rows)?;
        let mut start = 0;
        for (layer, rows) in self.layers.iter().zip(rows) {
            let out = out.rb_mut().block(0, rows.rows(), start, rows.cols())?;
            layer.apply(out, *rows, self.par)?;
            start += rows.cols();
        }
        Ok(())
    }

    /// Coordinates whose inner products are the scores: $f(\Lambda)^{1/2} Q^\top g$ for each row, `out` `[rows,
    /// dim]`, with `F = Q Lambda Q^T`. That is $f(F)^{1/2} g$ turned by `Q^T`, which no inner product sees, in half
    /// the flops; the squared norm is the self-influence.
    ///
    /// # Errors
    /// A shape error.
    pub fn whiten(&self, mut out: MatMut<'_, T>, rows: &[MatRef<'_, T>]) -> Result<(), Error> {
        self.check(&out, rows)?;
        let mut start = 0;
        for (layer, rows) in self.layers.iter().zip(rows) {
            let out = out.rb_mut().block(0, rows.rows(), start, rows.cols())?;
            layer.coordinates(out, *rows, f64::sqrt, self.par)?;
            start += rows.cols();
        }
        Ok(())
    }

    /// `out[n, q] = sum_l <train_l[n], solved_l[q]>`, `[n, m]`: the scores of a block of training rows for queries
    /// that are preconditioned, `[m, dim]`. Positive where the plain inner product is; no sign is flipped.
    ///
    /// Cost: `2 n m dim` flops.
    ///
    /// # Errors
    /// A shape error.
    pub fn scores(
        &self,
        out: MatMut<'_, T>,
        train: &[MatRef<'_, T>],
        preconditioned: MatRef<'_, T>,
    ) -> Result<(), Error> {
        Ok(part_dots(out, train, preconditioned, self.widths(), self.par)?)
    }

    /// `g^T f(F) g` for each row: its influence on itself, never negative. Work space: 256 rows of a layer.
    ///
    /// # Errors
    /// A shape error.
    pub fn self_influence(&self, out: &mut [T], rows: &[MatRef<'_, T>]) -> Result<(), Error> {
        self.squared_norms(out, rows, f64::sqrt)
    }

    /// `|f(F) g|` for each row: how far a step on this example moves the parameters, for
    /// [`Normalization::Parameters`](super::Normalization::Parameters). Work space: 256 rows of a layer.
    ///
    /// # Errors
    /// A shape error.
    pub fn step_norms(&self, out: &mut [T], rows: &[MatRef<'_, T>]) -> Result<(), Error> {
        self.squared_norms(out, rows, |multiplier| multiplier)?;
        for x in out {
            *x = x.sqrt();
        }
        Ok(())
    }

    fn squared_norms(&self, out: &mut [T], rows: &[MatRef<'_, T>], power: fn(f64) -> f64) -> Result<(), Error> {
        check_parts(ROWS, rows, out.len(), self.widths())?;
        let widest = self.widths().max().unwrap_or(0);
        let mut scratch: Vec<T> = zeros("block of coordinates", widest.checked_mul(BLOCK.min(out.len())))?;
        out.fill(T::ZERO);
        for (layer, rows) in self.layers.iter().zip(rows) {
            for (block, out) in out.chunks_mut(BLOCK).enumerate() {
                let rows = rows.row_range(block * BLOCK, out.len())?;
                let coordinates = &mut scratch[..rows.rows() * rows.cols()];
                layer.coordinates(MatMut::new(coordinates, rows.rows(), rows.cols())?, rows, power, self.par)?;
                let coordinates = MatRef::new(coordinates, rows.rows(), rows.cols())?;
                out.iter_mut().zip(coordinates.row_iter()).for_each(|(sum, row)| *sum += reduce::norm2_squared(row));
            }
        }
        Ok(())
    }
}

impl<T: Real> Layer<T> {
    /// `power(m) o (Q^T g)` for each row, with the multipliers `m`.
    fn coordinates(
        &self,
        mut out: MatMut<'_, T>,
        rows: MatRef<'_, T>,
        power: fn(f64) -> f64,
        par: Parallelism,
    ) -> Result<(), CoreError> {
        match self.block.right().vectors() {
            Some(vectors) => matmul(out.rb_mut(), T::ZERO, T::ONE, rows, vectors, par)?,
            None => out.copy_from(rows)?,
        }
        let factors: Vec<f64> = self.multipliers.iter().map(|&m| power(m)).collect();
        // In f64: a multiplier may be beyond the range of `T` although what it makes of a coordinate is not.
        out.for_each_row(|_, row| {
            row.iter_mut().zip(&factors).for_each(|(x, factor)| *x = T::from_f64(x.to_f64() * factor));
        });
        Ok(())
    }

    fn apply(&self, mut out: MatMut<'_, T>, rows: MatRef<'_, T>, par: Parallelism) -> Result<(), CoreError> {
        let Some(vectors) = self.block.right().vectors() else {
            return self.coordinates(out, rows, |m| m, par);
        };
        let width = rows.cols();
        // There may be any number of rows without elements.
        if width == 0 {
            return Ok(());
        }
        let mut scratch: Vec<T> = zeros("block of coordinates", width.checked_mul(BLOCK.min(rows.rows())))?;
        for start in (0..rows.rows()).step_by(BLOCK) {
            let count = BLOCK.min(rows.rows() - start);
            let coordinates = &mut scratch[..count * width];
            let rows = rows.row_range(start, count)?;
            self.coordinates(MatMut::new(coordinates, count, width)?, rows, |m| m, par)?;
            let out = out.rb_mut().block(start, count, 0, width)?;
            matmul(out, T::ZERO, T::ONE, MatRef::new(coordinates, count, width)?, vectors.t(), par)?;
        }
        Ok(())
    }
}
