//! DataInf: the mean of inverses in the place of the inverse of a mean.

use ascribe_core::reduce::norm2;
use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};

use super::report::{Solve, SolveReport, check_system};
use crate::Error;
use crate::curvature::Damping;
use crate::error::{check_shape, filled_rows, zeros};
use crate::linalg::matmul;
use crate::network::Linearized;
use crate::parallel::Parallelism;

/// Approximates `(F_l + lambda_l I)^-1 v` for each layer `l`, `F_l` being the mean of `g g^T` over the examples'
/// gradients, by the mean of `(g g^T + lambda_l I)^-1 v`:
/// $x_l = \frac{1}{n \lambda_l} \sum_i \Big[ v_l - \frac{g_{il}^\top v_l}{\lambda_l + |g_{il}|^2}\, g_{il} \Big]$.
///
/// Exact for one example. Otherwise never below the inverse, `v^T x >= v^T (F + lambda)^-1 v`, because the inverse is a
/// convex function of a matrix; how far above depends on the data. Linear in `v` and symmetric.
///
/// Cost: one pass over the gradients to prepare, one for each block of `k` right-hand sides with `4 k n D` flops.
/// Memory: `n` numbers a layer, and a block of gradients if they are streamed.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef};
/// use ascribe_solvers::{curvature::Damping, inverse::{DataInf, Solve}};
/// let gradients = MatRef::new(&[1.0, 0.0, 0.0, 2.0], 2, 2)?;
/// let datainf = DataInf { damping: Damping::Absolute(1.0), ..DataInf::default() };
/// let mut x = [0.0; 2];
/// datainf.prepare(gradients, &[2])?.solve(MatMut::from_row(&mut x), MatRef::from_row(&[1.0, 1.0]))?;
/// assert!((x[0] - 0.75_f64).abs() < 1e-15 && (x[1] - 0.6).abs() < 1e-15); // (1/2 + 1)/2 and (1 + 1/5)/2
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Kwon, Wu, Wu and Zou, arXiv:2310.00902, equation 5; the relative damping is theirs, section 4.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct DataInf {
    /// What is added to the diagonal, and divided by, so that it must be positive. A relative one is relative to the mean
    /// of all squared gradient entries of a layer, which is its mean eigenvalue. Default 0.1 of that.
    pub damping: Damping,
    /// Threads; default one.
    pub parallelism: Parallelism,
}

/// Per-example gradients that come in blocks of rows, so that `[n, D]` need not be in memory.
pub trait GradientSource<T: Real> {
    /// The length `D` of a gradient.
    fn dim(&self) -> usize;
    /// Calls `visit` with one block of rows `[_, D]` after the other, at every call the same ones in the same order.
    ///
    /// # Errors
    /// The first error of `visit`, or one of the source's own.
    fn for_each_block(&self, visit: &mut dyn FnMut(MatRef<'_, T>) -> Result<(), Error>) -> Result<(), Error>;
}

/// Examples of a block of gradients that are in memory: enough for a product at full speed.
const BLOCK: usize = 256;

impl<T: Real> GradientSource<T> for MatRef<'_, T> {
    fn dim(&self) -> usize {
        self.cols()
    }
    fn for_each_block(&self, visit: &mut dyn FnMut(MatRef<'_, T>) -> Result<(), Error>) -> Result<(), Error> {
        // There may be any number of rows without elements: they are one block.
        let size = if self.cols() == 0 { self.rows().max(1) } else { BLOCK };
        (0..self.rows())
            .step_by(size)
            .try_for_each(|start| visit(self.row_range(start, size.min(self.rows() - start))?))
    }
}

impl<T: Real> GradientSource<T> for &Linearized<'_, T> {
    fn dim(&self) -> usize {
        self.network().params()
    }
    fn for_each_block(&self, visit: &mut dyn FnMut(MatRef<'_, T>) -> Result<(), Error>) -> Result<(), Error> {
        let dim = self.network().params();
        let mut block = zeros("block of gradients", dim.checked_mul(BLOCK.min(self.examples())))?;
        for start in (0..self.examples()).step_by(BLOCK) {
            let rows = BLOCK.min(self.examples() - start);
            let block = &mut block[..rows * dim];
            self.example_gradients(start, MatMut::new(block, rows, dim)?)?;
            visit(MatRef::new(block, rows, dim)?)?;
        }
        Ok(())
    }
}

/// [`DataInf`] bound to gradients.
#[derive(Debug, Clone)]
pub struct DataInfInverse<S> {
    source: S,
    layers: Vec<Layer>,
    dim: usize,
    examples: usize,
    parallelism: Parallelism,
}

#[derive(Debug, Clone)]
struct Layer {
    start: usize,
    len: usize,
    damping: f64,
    /// `|g|^2` for each example.
    squares: Vec<f64>,
}

impl DataInf {
    /// Binds the options to gradients whose `D` coordinates fall into layers of these sizes, in this order. The
    /// gradients are each example's own, not divided by their number.
    ///
    /// # Errors
    /// [`CoreError::Damping`] unless the damping is positive and finite; a shape error when the sizes do not add up
    /// to `D` or a block has another width; [`CoreError::Empty`] without examples; [`CoreError::NonFinite`] in a
    /// gradient, with its position in its block; [`CoreError::Overflow`] when a gradient's square does;
    /// [`CoreError::Singular`] with the index of a layer whose damping is 0
    /// or not finite in the precision of `T`: with a relative damping, one whose gradients are all 0.
    pub fn prepare<T: Real, S: GradientSource<T>>(
        &self,
        source: S,
        layers: &[usize],
    ) -> Result<DataInfInverse<S>, Error> {
        let (Damping::Absolute(value) | Damping::Relative(value)) = self.damping;
        if !(value > 0.0 && value.is_finite()) {
            return Err(CoreError::Damping { value }.into());
        }
        let dim = source.dim();
        let mut start = 0_usize;
        let mut layers: Vec<Layer> = layers
            .iter()
            .map(|&len| {
                let layer = Layer { start, len, damping: value, squares: Vec::new() };
                start = start.saturating_add(len);
                layer
            })
            .collect();
        check_shape("sum of the layer sizes", dim, start)?;
        let mut examples = 0;
        source.for_each_block(&mut |block| {
            check_shape("gradient block columns", dim, block.cols())?;
            examples = block.rows().checked_add(examples).ok_or(CoreError::Overflow { what: "gradients" })?;
            for (i, row) in filled_rows(block).enumerate() {
                check_gradient(i, row)?;
                for layer in &mut layers {
                    layer.squares.push(norm2(&row[layer.start..layer.start + layer.len]).to_f64().powi(2));
                }
            }
            Ok(())
        })?;
        if examples == 0 {
            return Err(CoreError::Empty { what: "gradients" }.into());
        }
        for (index, layer) in layers.iter_mut().enumerate().filter(|(_, layer)| layer.len > 0) {
            if let Damping::Relative(factor) = self.damping {
                let entries = examples as f64 * layer.len as f64;
                layer.damping = layer.squares.iter().map(|square| factor * (square / entries)).sum();
            }
            let divisor = T::from_f64(layer.damping);
            if !(divisor > T::ZERO && divisor.is_finite()) {
                return Err(CoreError::Singular { what: "DataInf layer (its damping)", index }.into());
            }
        }
        Ok(DataInfInverse { source, layers, dim, examples, parallelism: self.parallelism })
    }
}

/// Refuses row `i` of a block when it is not finite, or its square is not: it would count for nothing.
fn check_gradient<T: Real>(i: usize, row: &[T]) -> Result<(), CoreError> {
    if let Some(column) = row.iter().position(|x| !x.is_finite()) {
        let index = i.saturating_mul(row.len()).saturating_add(column);
        return Err(CoreError::NonFinite { what: "gradients", index });
    }
    let overflow = CoreError::Overflow { what: "squared norm of a gradient" };
    if norm2(row).to_f64().powi(2).is_finite() { Ok(()) } else { Err(overflow) }
}

impl<S> DataInfInverse<S> {
    /// The damping of each layer.
    pub fn dampings(&self) -> impl Iterator<Item = f64> {
        self.layers.iter().map(|layer| layer.damping)
    }
}

impl<T: Real, S: GradientSource<T>> Solve<T> for DataInfInverse<S> {
    fn dim(&self) -> usize {
        self.dim
    }
    /// Besides the errors of every solver, a shape error when the source gives other blocks than it did before, and
    /// [`Error::NoConvergence`] when the solution overflows.
    fn solve(&self, mut out: MatMut<'_, T>, rhs: MatRef<'_, T>) -> Result<Vec<SolveReport>, Error> {
        check_system(self.dim, &out, &rhs)?;
        let (k, par) = (rhs.rows(), self.parallelism);
        // sum_i g_i g_i^T v / (lambda + |g_i|^2)
        let mut sums = vec![T::ZERO; k * self.dim];
        let mut along: Vec<T> = Vec::new();
        let mut seen = 0;
        self.source.for_each_block(&mut |block| {
            let rows = block.rows();
            check_shape("gradient block columns", self.dim, block.cols())?;
            let total = rows.saturating_add(seen);
            check_shape("gradients (at most those of before)", self.examples.min(total), total)?;
            if self.dim == 0 {
                seen = total;
                return Ok(());
            }
            along.resize(rows * k, T::ZERO);
            for layer in self.layers.iter().filter(|layer| layer.len > 0) {
                let g = block.block(0, rows, layer.start, layer.len)?;
                let v = rhs.block(0, k, layer.start, layer.len)?;
                matmul(MatMut::new(&mut along, rows, k)?, T::ZERO, T::ONE, g, v.t(), par)?;
                for (along, square) in along.chunks_exact_mut(k.max(1)).zip(&layer.squares[seen..]) {
                    let weight = 1.0 / (layer.damping + square);
                    for x in along {
                        *x = T::from_f64(x.to_f64() * weight);
                    }
                }
                let sums = MatMut::new(&mut sums, k, self.dim)?.block(0, k, layer.start, layer.len)?;
                matmul(sums, T::ONE, T::ONE, MatRef::new(&along, rows, k)?.t(), g, par)?;
            }
            seen = total;
            Ok(())
        })?;
        check_shape("gradients", self.examples, seen)?;
        let n = T::from_f64(self.examples as f64);
        for (sum, v) in sums.chunks_exact_mut(self.dim.max(1)).zip(rhs.row_iter()) {
            for layer in &self.layers {
                let (damping, range) = (T::from_f64(layer.damping), layer.start..layer.start + layer.len);
                for (x, &v) in sum[range.clone()].iter_mut().zip(&v[range]) {
                    *x = (v - *x / n) / damping;
                }
            }
        }
        if sums.iter().any(|x| !x.is_finite()) {
            return Err(Error::NoConvergence { what: "DataInf solution (it overflows)" });
        }
        out.copy_from(MatRef::new(&sums, k, self.dim)?)?;
        Ok(vec![SolveReport::direct(); k])
    }
}
