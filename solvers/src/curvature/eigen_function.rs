//! A function of a layer's curvature, as an operator on flat gradients.

use ascribe_core::linop::check_apply;
use ascribe_core::{Error as CoreError, LinOp, MatMut, MatRef, PositiveSemidefinite, Real, SelfAdjoint};

use super::EigenBlock;
use crate::Error;
use crate::error::{check_shape, zeros};
use crate::linalg::matmul;
use crate::parallel::{Parallelism, run};

/// A function of an [`EigenBlock`]'s matrix: `V -> Q_l (M o (Q_l^T V Q_r)) Q_r^T` on each flat row, with multipliers
/// `M` that are not negative.
///
/// Cost: `4 rows cols (rows + cols)` flops a vector. Scratch: two gradients for each thread, and one is enough.
#[derive(Debug, Clone)]
pub struct EigenFunction<'b, T> {
    block: &'b EigenBlock<T>,
    multipliers: Vec<T>,
    par: Parallelism,
}

impl<'b, T: Real> EigenFunction<'b, T> {
    pub(super) fn new(block: &'b EigenBlock<T>, multipliers: &[f64], par: Parallelism) -> Result<Self, Error> {
        let multipliers: Vec<T> = multipliers.iter().map(|&m| T::from_f64(m)).collect();
        match multipliers.iter().position(|m| !m.is_finite()) {
            Some(index) => Err(CoreError::Singular { what: "eigenvalue", index }.into()),
            None => Ok(Self { block, multipliers, par }),
        }
    }

    /// The block it is a function of.
    pub fn block(&self) -> &'b EigenBlock<T> {
        self.block
    }

    /// What each eigenvalue became, `[rows, cols]`.
    pub fn multipliers(&self) -> &[T] {
        &self.multipliers
    }

    /// `x^T f(F) x` for each row `x`: half the cost of applying the operator.
    ///
    /// # Errors
    /// A shape error when a row or `out` does not fit.
    pub fn quadratic_forms(&self, out: &mut [T], x: MatRef<'_, T>) -> Result<(), Error> {
        check_shape("columns of the vectors", self.block.dim(), x.cols())?;
        check_shape("quadratic forms", x.rows(), out.len())?;
        let len = self.block.dim();
        let mut scratch = zeros("work space of a layer", len.checked_mul(2))?;
        let (first, second) = scratch.split_at_mut(len);
        for (out, row) in out.iter_mut().zip(x.row_iter()) {
            let rotated = self.rotate(row, first, second, self.par)?;
            *out = rotated.iter().zip(&self.multipliers).fold(T::ZERO, |sum, (&x, &m)| sum + m * x * x);
        }
        Ok(())
    }

    /// `Q_l^T V Q_r`, in one of the two buffers or, where both bases are units, in `x` itself.
    fn rotate<'s>(
        &self,
        x: &'s [T],
        first: &'s mut [T],
        second: &'s mut [T],
        par: Parallelism,
    ) -> Result<&'s [T], CoreError> {
        let (rows, cols) = (self.block.rows(), self.block.cols());
        let mut current = x;
        if let Some(right) = self.block.right().vectors() {
            matmul(MatMut::new(first, rows, cols)?, T::ZERO, T::ONE, MatRef::new(x, rows, cols)?, right, par)?;
            current = first;
        }
        if let Some(left) = self.block.left().vectors() {
            let v = MatRef::new(current, rows, cols)?;
            matmul(MatMut::new(second, rows, cols)?, T::ZERO, T::ONE, left.t(), v, par)?;
            current = second;
        }
        Ok(current)
    }

    fn apply_row(&self, out: &mut [T], x: &[T], scratch: &mut [T], par: Parallelism) -> Result<(), CoreError> {
        let (rows, cols, len) = (self.block.rows(), self.block.cols(), self.block.dim());
        let (first, second) = scratch.split_at_mut(len);
        // `out` is free until the end, so it holds the first half of the way.
        let rotated = self.rotate(x, first, second, par)?;
        out.iter_mut().zip(rotated).zip(&self.multipliers).for_each(|((out, &x), &m)| *out = m * x);
        if let Some(left) = self.block.left().vectors() {
            let v = MatRef::new(out, rows, cols)?;
            matmul(MatMut::new(first, rows, cols)?, T::ZERO, T::ONE, left, v, par)?;
        } else {
            first.copy_from_slice(out);
        }
        if let Some(right) = self.block.right().vectors() {
            let v = MatRef::new(first, rows, cols)?;
            matmul(MatMut::new(out, rows, cols)?, T::ZERO, T::ONE, v, right.t(), par)
        } else {
            out.copy_from_slice(first);
            Ok(())
        }
    }
}

impl<T: Real> LinOp<T> for EigenFunction<'_, T> {
    fn dim_in(&self) -> usize {
        self.block.dim()
    }
    fn dim_out(&self) -> usize {
        self.block.dim()
    }
    fn scratch_len(&self, rows: usize) -> usize {
        2 * self.block.dim() * self.par.workers().min(rows)
    }
    fn apply(&self, mut out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), CoreError> {
        let dim = self.block.dim();
        check_apply(dim, dim, &out, &x)?;
        let needed = self.scratch_len(x.rows());
        let got = scratch.len();
        let Some(scratch) = scratch.get_mut(..needed) else {
            return Err(CoreError::Length { what: "scratch", needed, got });
        };
        if dim == 0 || x.rows() == 0 {
            return Ok(());
        }
        let workers = self.par.workers();
        if x.rows() < 2 * workers {
            // Too few rows to go around: the threads share each product. Its tiles, and so the bits, are the same.
            for (i, row) in x.row_iter().enumerate() {
                self.apply_row(out.row_mut(i), row, &mut scratch[..2 * dim], self.par)?;
            }
            return Ok(());
        }
        let mut tasks = Vec::with_capacity(x.rows());
        let mut rest = out;
        for row in x.row_iter() {
            let (head, tail) = rest.split_rows(1)?;
            tasks.push((head, row));
            rest = tail;
        }
        let mut spaces: Vec<&mut [T]> = scratch.chunks_exact_mut(2 * dim).collect();
        run(&mut spaces, tasks, |scratch, (mut out, row)| {
            self.apply_row(out.row_mut(0), row, scratch, Parallelism::Serial)
        })
    }
}

impl<T: Real> SelfAdjoint<T> for EigenFunction<'_, T> {}
impl<T: Real> PositiveSemidefinite<T> for EigenFunction<'_, T> {}
