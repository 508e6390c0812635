//! Cholesky factorisation `A = L L^T`, blocked so that nearly all of it is matrix products.

use ascribe_core::scalar::{Typed, TypedMut};
use ascribe_core::{MatMut, Real};
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{LltRegularization, cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::triangular_solve::{solve_lower_triangular_in_place, solve_upper_triangular_in_place};
use faer::reborrow::{Reborrow, ReborrowMut};
use faer::traits::ComplexField;
use faer::{Accum, Par, Spec};

use super::product::view_mut;
use crate::Error;
use crate::error::{check_finite, check_shape};
use crate::parallel::{Parallelism, for_each};

/// Columns factorised at a time.
const BLOCK: usize = 256;
/// Rows of the trailing matrix, or right-hand sides, that one task takes.
const STRIP: usize = 128;

/// The lower factor `L` of a symmetric positive definite matrix.
#[derive(Debug, Clone)]
pub struct Cholesky<T> {
    factor: Vec<T>,
    n: usize,
}

impl<T: Real> Cholesky<T> {
    /// Factorises the symmetric `n x n` matrix `a` (row-major, lower triangle read) in its own memory.
    ///
    /// Cost: `n^3/3` flops, no memory beyond `a`. Backward stable: `L L^T = A + E` with
    /// `|E| <= (n + 1) eps |L| |L^T|`.
    ///
    /// # Errors
    /// [`Error::NotPositiveDefinite`] with the row of the first pivot that is not positive (NaN included);
    /// a shape error when `a.len() != n^2`.
    pub fn new(mut a: Vec<T>, n: usize, par: Parallelism) -> Result<Self, Error> {
        MatMut::new(&mut a, n, n)?;
        match T::typed_mut(&mut a) {
            TypedMut::F32(a) => factorise(view_mut(a, n, n, n), par),
            TypedMut::F64(a) => factorise(view_mut(a, n, n, n), par),
        }
        .map_err(|pivot| Error::NotPositiveDefinite { pivot })?;
        Ok(Self { factor: a, n })
    }

    /// The number of rows of the matrix.
    pub fn dim(&self) -> usize {
        self.n
    }

    /// Replaces each row `v` of `rhs` by `A^-1 v`. Cost: `2 n^2` flops a row.
    ///
    /// # Errors
    /// A shape error when the rows are not of length `n`; [`Error::NoConvergence`] when the result is not finite,
    /// because it overflows or `rhs` was not finite. `rhs` is overwritten in that case.
    pub fn solve_in_place(&self, mut rhs: MatMut<'_, T>, par: Parallelism) -> Result<(), Error> {
        check_shape("right-hand side columns", self.n, rhs.cols())?;
        if self.n == 0 || rhs.rows() == 0 {
            return Ok(());
        }
        let (rows, cols, stride) = (rhs.rows(), rhs.cols(), rhs.row_stride());
        match (T::typed_mut(rhs.rb_mut().into_span()), T::typed(&self.factor)) {
            (TypedMut::F32(rhs), Typed::F32(l)) => solve(view_mut(rhs, rows, cols, stride), l, self.n, par),
            (TypedMut::F64(rhs), Typed::F64(l)) => solve(view_mut(rhs, rows, cols, stride), l, self.n, par),
            _ => unreachable!("factor and right-hand side have one element type"),
        }
        rhs.as_ref()
            .row_iter()
            .try_for_each(|row| check_finite("solution", row))
            .map_err(|_| Error::NoConvergence { what: "solution by Cholesky factors (it overflows)" })
    }

    /// `ln det A`, as a sum of logarithms.
    pub fn log_det(&self) -> f64 {
        (0..self.n).map(|i| 2.0 * self.factor[i * self.n + i].to_f64().ln()).sum()
    }
}

/// Right-looking: factor a diagonal block, solve for the panel below it, subtract the panel's square from what
/// is left. The last step is nearly all of the work and falls apart into strips of rows.
fn factorise<F: ComplexField + Copy + Sync>(mut a: faer::MatMut<'_, F>, par: Parallelism) -> Result<(), usize> {
    let n = a.nrows();
    let minus_one = -F::one_impl();
    let mut memory = MemBuffer::new(cholesky_in_place_scratch::<F>(BLOCK.min(n), Par::Seq, Spec::default()));
    let mut done = 0;
    while done < n {
        let block = BLOCK.min(n - done);
        let (_, _, _, rest) = a.rb_mut().split_at_mut(done, done);
        let (mut diagonal, _, mut panel, trailing) = rest.split_at_mut(block, block);
        cholesky_in_place(
            diagonal.rb_mut(),
            LltRegularization::default(),
            Par::Seq,
            MemStack::new(&mut memory),
            Spec::default(),
        )
        .map_err(|error| match error {
            faer::linalg::cholesky::llt::factor::LltError::NonPositivePivot { index } => done + index,
        })?;
        // faer lets a NaN pivot pass; the factor then has NaN or infinity on its diagonal.
        if let Some(i) = (0..block).find(|&i| !F::is_finite_impl(&diagonal[(i, i)])) {
            return Err(done + i);
        }
        let diagonal = diagonal.rb();
        each(strips(panel.rb_mut()), par, |(_, strip)| {
            solve_lower_triangular_in_place(diagonal, strip.transpose_mut(), Par::Seq);
        });
        let panel = panel.rb();
        let mut tasks = strips(trailing);
        tasks.reverse();
        each(tasks, par, |(start, strip)| {
            let rows = strip.nrows();
            let lower = strip.subcols_mut(0, start + rows);
            let (left, right) = (panel.subrows(start, rows), panel.subrows(0, start + rows));
            faer::linalg::matmul::matmul(lower, Accum::Add, left, right.transpose(), minus_one, Par::Seq);
        });
        done += block;
    }
    Ok(())
}

fn solve<F: ComplexField + Copy + Sync>(rhs: faer::MatMut<'_, F>, factor: &[F], n: usize, par: Parallelism) {
    let lower = faer::MatRef::from_row_major_slice(factor, n, n);
    each(strips(rhs), par, |(_, strip)| {
        let mut columns = strip.transpose_mut();
        solve_lower_triangular_in_place(lower, columns.rb_mut(), Par::Seq);
        solve_upper_triangular_in_place(lower.transpose(), columns, Par::Seq);
    });
}

/// A matrix cut into strips of rows, each with the index of its first row.
fn strips<F>(mut mat: faer::MatMut<'_, F>) -> Vec<(usize, faer::MatMut<'_, F>)> {
    let (rows, mut start) = (mat.nrows(), 0);
    let mut out = Vec::with_capacity(rows.div_ceil(STRIP));
    while start < rows {
        let (head, tail) = mat.split_at_row_mut(STRIP.min(rows - start));
        mat = tail;
        let len = head.nrows();
        out.push((start, head));
        start += len;
    }
    out
}

fn each<K: Send>(tasks: Vec<K>, par: Parallelism, f: impl Fn(K) + Sync) {
    let _: Result<(), std::convert::Infallible> = for_each(par, tasks, |task| {
        f(task);
        Ok(())
    });
}
