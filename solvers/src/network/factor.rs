//! A factor `Psi` of the Gauss-Newton matrix, `r Psi^T Psi = G`, and its Gram matrix.

use ascribe_core::linop::{Adjoint, check_apply};
use ascribe_core::{Error as CoreError, LinOp, MatMut, MatRef, Real};

use super::cache::CHUNK;
use super::tangent::Work;
use super::{Jacobian, Linearized};
use crate::Error;
use crate::error::zeros;
use crate::linalg::matmul;
use crate::parallel::{Parallelism, for_each, run};

/// `Psi`, of `N R` rows: row `(n, r)` is `s_{n,r}^T J_n` with `S_n S_n^T` the Hessian of the loss in the outputs,
/// `S_n = [s_{n,1} .. s_{n,R}]`. `R` is the number of outputs, one less for a cross entropy.
///
/// With [`GaussNewtonFactor::gram`] it turns a damped Gauss-Newton solve into one with `N R` unknowns: the
/// Woodbury identity, see [`Woodbury`](crate::inverse::Woodbury).
#[derive(Debug, Clone)]
pub struct GaussNewtonFactor<'l, 'a, T> {
    jacobian: Jacobian<'l, 'a, T>,
    /// The columns of every `S_n`: `[examples, rank, outputs]`.
    columns: Vec<T>,
    rank: usize,
}

impl<'a, T: Real> Linearized<'a, T> {
    /// A factor of the Gauss-Newton matrix. Memory: `N R` numbers for each output.
    ///
    /// # Errors
    /// [`CoreError::Overflow`] when that does not fit.
    pub fn gauss_newton_factor(&self) -> Result<GaussNewtonFactor<'_, 'a, T>, Error> {
        let (rank, outputs) = (self.root_rank(), self.net.outputs());
        let len = self.examples().checked_mul(rank).and_then(|rows| rows.checked_mul(outputs));
        let mut columns = zeros("Gauss-Newton factor", len)?;
        for (n, slot) in columns.chunks_exact_mut((rank * outputs).max(1)).enumerate() {
            self.root_columns(n, slot);
        }
        Ok(GaussNewtonFactor { jacobian: self.jacobian(), columns, rank })
    }
}

impl<T: Real> GaussNewtonFactor<'_, '_, T> {
    /// The number of columns `R` of each example's factor.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The Gram matrix `Psi Psi^T`, row-major `[N R, N R]`; only its lower triangle is filled in.
    ///
    /// No row of `Psi` is formed: layer by layer, an entry is the product of an inner product of back-propagated
    /// columns and one of layer inputs. Cost: `(N R)^2 sum_l outputs_l` flops; memory: the result, and `N R` numbers
    /// for each unit.
    ///
    /// # Errors
    /// [`CoreError::Overflow`] when the result or the numbers for the units do not fit.
    pub fn gram(&self) -> Result<Vec<T>, Error> {
        let (lin, rank) = (self.jacobian.lin, self.rank);
        let size = lin.examples() * rank;
        let deltas = self.back_propagated()?;
        let mut gram = zeros("Gram matrix", size.checked_mul(size))?;
        let mut tasks = Vec::new();
        let mut rest = MatMut::new(&mut gram, size, size)?;
        let strip = STRIP.div_ceil(rank.max(1));
        for start in (0..lin.examples()).step_by(strip) {
            let (head, tail) = rest.split_rows(strip.min(lin.examples() - start) * rank)?;
            rest = tail;
            tasks.push((start, head));
        }
        tasks.reverse();
        let mut spaces = vec![[Vec::new(), Vec::new()]; lin.par.workers()];
        run(&mut spaces, tasks, |[outer, inner], (start, mut out)| {
            let examples = out.rows().checked_div(rank).unwrap_or(0);
            for other in (0..start + examples).step_by(strip) {
                let count = strip.min(lin.examples() - other);
                let mut block = out.rb_mut().block(0, examples * rank, other * rank, count * rank)?;
                for (l, layer) in lin.net.layers().iter().enumerate() {
                    let delta = MatRef::new(&deltas[l], size, layer.outputs)?;
                    outer.resize(examples * rank * count * rank, T::ZERO);
                    let rows = delta.row_range(start * rank, examples * rank)?;
                    let cols = delta.row_range(other * rank, count * rank)?;
                    let product = MatMut::new(outer, examples * rank, count * rank)?;
                    matmul(product, T::ZERO, T::ONE, rows, cols.t(), Parallelism::Serial)?;
                    self.input_products(l, start..start + examples, other..other + count, inner)?;
                    for i in 0..examples * rank {
                        let row = block.row_mut(i);
                        let inner = &inner[i / rank * count..(i / rank + 1) * count];
                        let outer = &outer[i * count * rank..(i + 1) * count * rank];
                        let groups = row.chunks_exact_mut(rank).zip(outer.chunks_exact(rank)).zip(inner);
                        for ((row, outer), &a) in groups {
                            row.iter_mut().zip(outer).for_each(|(x, &d)| *x += a * d);
                        }
                    }
                }
            }
            Ok::<(), Error>(())
        })?;
        Ok(gram)
    }

    /// `dl/ds` of every layer for every row of `Psi`: `[N R, outputs of the layer]` each.
    fn back_propagated(&self) -> Result<Vec<Vec<T>>, Error> {
        let (lin, rank) = (self.jacobian.lin, self.rank);
        let outputs = lin.net.outputs();
        let mut works: Vec<Work<T>> = (0..lin.chunks.len()).map(|_| Work::default()).collect();
        let tasks = works.iter_mut().enumerate().collect();
        for_each(lin.par, tasks, |(c, work): (usize, &mut Work<T>)| {
            // Planes of one column each, as the passes want them.
            let chunk = lin.chunk(c)?;
            work.outputs.clear();
            for r in 0..rank {
                for n in c * CHUNK..c * CHUNK + chunk.cache.rows {
                    work.outputs.extend_from_slice(&self.columns[(n * rank + r) * outputs..][..outputs]);
                }
            }
            work.descend(lin.net, lin.params, chunk)
        })?;
        let mut deltas = Vec::with_capacity(lin.net.layers().len());
        for (l, layer) in lin.net.layers().iter().enumerate() {
            let len = (lin.examples() * rank).checked_mul(layer.outputs);
            let mut all: Vec<T> = zeros("back-propagated columns", len)?;
            for (c, work) in works.iter().enumerate() {
                let rows = lin.chunks[c].rows;
                for (plane, row) in work.cotangents(l).chunks_exact(layer.outputs).enumerate() {
                    let (r, n) = (plane / rows, c * CHUNK + plane % rows);
                    all[(n * rank + r) * layer.outputs..][..layer.outputs].copy_from_slice(row);
                }
            }
            deltas.push(all);
        }
        Ok(deltas)
    }

    /// Inner products of the inputs of layer `l`, with the constant 1 of a bias: `[rows, cols]` into `out`.
    fn input_products(
        &self,
        l: usize,
        rows: core::ops::Range<usize>,
        cols: core::ops::Range<usize>,
        out: &mut Vec<T>,
    ) -> Result<(), Error> {
        let lin = self.jacobian.lin;
        let layer = lin.net.layers()[l];
        out.clear();
        out.resize(rows.len() * cols.len(), if layer.bias { T::ONE } else { T::ZERO });
        let mut out = MatMut::new(out, rows.len(), cols.len())?;
        // The inputs lie in blocks of CHUNK examples: go over the pairs of pieces.
        for (i, a) in pieces(lin, l, rows)? {
            for (j, b) in pieces(lin, l, cols.clone())? {
                let block = out.rb_mut().block(i, a.rows(), j, b.rows())?;
                matmul(block, T::ONE, T::ONE, a, b.t(), Parallelism::Serial)?;
            }
        }
        Ok(())
    }
}

/// Rows of the Gram matrix that one task fills.
const STRIP: usize = 512;

/// The inputs of layer `l` of some examples, in contiguous pieces with the place of each in the range.
fn pieces<'p, T: Real>(
    lin: &'p Linearized<'_, T>,
    l: usize,
    range: core::ops::Range<usize>,
) -> Result<Vec<(usize, MatRef<'p, T>)>, Error> {
    let mut out = Vec::new();
    let mut n = range.start;
    while n < range.end {
        let chunk = lin.chunk(n / CHUNK)?;
        let first = n % CHUNK;
        let count = (chunk.cache.rows - first).min(range.end - n);
        let inputs = chunk.cache.input(lin.net, l, chunk.input)?;
        out.push((n - range.start, inputs.row_range(first, count)?));
        n += count;
    }
    Ok(out)
}

impl<T: Real> LinOp<T> for GaussNewtonFactor<'_, '_, T> {
    fn dim_in(&self) -> usize {
        self.jacobian.dim_in()
    }
    fn dim_out(&self) -> usize {
        self.jacobian.lin.examples() * self.rank
    }
    /// `rows * N * outputs`, for the tangents of the outputs.
    fn scratch_len(&self, rows: usize) -> usize {
        rows.saturating_mul(self.jacobian.dim_out())
    }
    fn apply(&self, mut out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), CoreError> {
        check_apply(self.dim_in(), self.dim_out(), &out, &x)?;
        let tangents = take(scratch, self.scratch_len(x.rows()))?;
        self.jacobian.apply(MatMut::new(tangents, x.rows(), self.jacobian.dim_out())?, x, &mut [])?;
        let outputs = self.jacobian.lin.net.outputs();
        let tangents = MatRef::new(tangents, x.rows(), self.jacobian.dim_out())?;
        out.for_each_row(|j, row| {
            for (i, (y, column)) in row.iter_mut().zip(self.columns.chunks_exact(outputs)).enumerate() {
                let tangent = &tangents.row(j)[i / self.rank * outputs..][..outputs];
                *y = column.iter().zip(tangent).fold(T::ZERO, |sum, (&s, &t)| sum + s * t);
            }
        });
        Ok(())
    }
}

impl<T: Real> Adjoint<T> for GaussNewtonFactor<'_, '_, T> {
    fn apply_transpose(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), CoreError> {
        check_apply(self.dim_out(), self.dim_in(), &out, &x)?;
        let cotangents = take(scratch, self.scratch_len(x.rows()))?;
        cotangents.fill(T::ZERO);
        let outputs = self.jacobian.lin.net.outputs();
        let mut block = MatMut::new(cotangents, x.rows(), self.jacobian.dim_out())?;
        block.for_each_row(|j, row| {
            for (i, (&y, column)) in x.row(j).iter().zip(self.columns.chunks_exact(outputs)).enumerate() {
                let cotangent = &mut row[i / self.rank * outputs..][..outputs];
                cotangent.iter_mut().zip(column).for_each(|(u, &s)| *u += y * s);
            }
        });
        self.jacobian.apply_transpose(out, block.as_ref(), &mut [])
    }
}

fn take<T>(scratch: &mut [T], needed: usize) -> Result<&mut [T], CoreError> {
    let got = scratch.len();
    scratch.get_mut(..needed).ok_or(CoreError::Length { what: "scratch", needed, got })
}
