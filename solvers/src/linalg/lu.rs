//! LU factorisation with partial pivoting, blocked so that nearly all of it is matrix products.

use std::convert::Infallible;

use ascribe_core::scalar::{Typed, TypedMut};
use ascribe_core::{MatMut, MatRef, Real};
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::lu::partial_pivoting::factor::{lu_in_place, lu_in_place_scratch};
use faer::linalg::triangular_solve::{solve_unit_lower_triangular_in_place, solve_upper_triangular_in_place};
use faer::reborrow::{Reborrow, ReborrowMut};
use faer::traits::ComplexField;
use faer::{Accum, Par, Spec};

use crate::Error;
use crate::error::{check_finite, check_shape};
use crate::parallel::{Parallelism, for_each};

/// Rows of the matrix that are eliminated at a time.
const BLOCK: usize = 64;
/// Right-hand sides that one task takes.
const STRIP: usize = 128;

/// The factors of a square matrix, for equations `x A = v` of row vectors.
///
/// # Examples
/// ```
/// use ascribe_core::MatMut;
/// use ascribe_solvers::{linalg::Lu, parallel::Parallelism::Serial};
/// let lu = Lu::new(vec![0.0, 2.0, 1.0, 0.0], 2, Serial)?;
/// let mut x = [4.0, 6.0];
/// lu.solve_in_place(MatMut::from_row(&mut x), Serial)?;
/// assert_eq!(x, [3.0, 4.0]);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Lu<T> {
    /// `P A^T = L U` by columns, which are the rows of `A`.
    factor: Vec<T>,
    /// The row that each row of `A^T` was exchanged with, one after the other.
    swaps: Vec<usize>,
    n: usize,
}

impl<T: Real> Lu<T> {
    /// Factorises the `n x n` matrix `a` (row-major) in its own memory; pivots are the largest of a row.
    ///
    /// Cost: `2 n^3 / 3` flops, no memory beyond `a`. Backward stable but for the growth of the elements: for `I - N`
    /// with skew `N` they grow by at most `1 + |N|^2`, in practice not at all.
    ///
    /// # Errors
    /// A shape error when `a.len() != n^2`. A singular matrix shows in [`solve_in_place`](Self::solve_in_place).
    pub fn new(mut a: Vec<T>, n: usize, par: Parallelism) -> Result<Self, Error> {
        MatRef::new(&a, n, n)?;
        let swaps = match T::typed_mut(&mut a) {
            TypedMut::F32(a) => factorise(a, n, par),
            TypedMut::F64(a) => factorise(a, n, par),
        };
        Ok(Self { factor: a, swaps, n })
    }

    /// Replaces each row `v` of `rhs` by `v A^-1`. Cost: `2 n^2` flops a row.
    ///
    /// # Errors
    /// A shape error when the rows are not of length `n`; [`Error::NoConvergence`] when the result is not finite,
    /// because the matrix is singular or held NaN. `rhs` is overwritten in that case.
    pub fn solve_in_place(&self, mut rhs: MatMut<'_, T>, par: Parallelism) -> Result<(), Error> {
        check_shape("right-hand side columns", self.n, rhs.cols())?;
        if self.n == 0 || rhs.rows() == 0 {
            return Ok(());
        }
        let stride = rhs.row_stride().max(self.n);
        match (T::typed_mut(rhs.rb_mut().into_span()), T::typed(&self.factor)) {
            (TypedMut::F32(rhs), Typed::F32(lu)) => solve(rhs, stride, lu, &self.swaps, par),
            (TypedMut::F64(rhs), Typed::F64(lu)) => solve(rhs, stride, lu, &self.swaps, par),
            _ => unreachable!("factor and right-hand side have one element type"),
        }
        rhs.as_ref()
            .row_iter()
            .try_for_each(|row| check_finite("solution", row))
            .map_err(|_| Error::NoConvergence { what: "solution by LU factors of a singular matrix" })
    }

    /// `ln |det A|`, as a sum of logarithms; minus infinity for a singular matrix.
    pub fn log_abs_det(&self) -> f64 {
        (0..self.n).map(|i| self.factor[i * self.n + i].to_f64().abs().ln()).sum()
    }
}

/// A matrix of `rows` rows by its columns, which are `stride` elements apart.
fn columns<F>(x: &mut [F], rows: usize, stride: usize) -> faer::MatMut<'_, F> {
    let cols = x.len().div_ceil(stride);
    faer::MatMut::from_column_major_slice_with_stride_mut(x, rows, cols, stride)
}

/// Right-looking: what a panel of columns eliminates is subtracted from strips of the columns behind it. The first of
/// these strips is the next panel, whose own elimination is hard to share: its task goes on with that while other
/// threads still work on the other strips.
fn factorise<F: ComplexField + Copy + Send + Sync>(a: &mut [F], n: usize, par: Parallelism) -> Vec<usize> {
    let mut swaps = vec![0; n];
    if n == 0 {
        return swaps;
    }
    let first = BLOCK.min(n);
    eliminate(&mut a[..n * first], 0, &mut swaps[..first], n);
    let mut start = 0;
    while n - start > BLOCK {
        let end = start + BLOCK;
        let (done, rest) = a.split_at_mut(end * n);
        let (swaps, next) = swaps.split_at_mut(end);
        let (swaps, mut next) = (&swaps[start..], Some(&mut next[..BLOCK.min(n - end)]));
        let panel = faer::MatRef::from_column_major_slice(&done[start * n..], n, BLOCK);
        let (triangle, below) = (panel.subrows(start, BLOCK), panel.subrows(end, n - end));
        let tasks = rest.chunks_mut(BLOCK * n).map(|strip| (strip, next.take())).collect();
        let _: Result<(), Infallible> = for_each(par, tasks, |(strip, next): (&mut [F], Option<&mut [usize]>)| {
            exchange(strip, start, swaps, n);
            let (mut top, bottom) = columns(strip, n, n).subrows_mut(start, n - start).split_at_row_mut(BLOCK);
            solve_unit_lower_triangular_in_place(triangle, top.rb_mut(), Par::Seq);
            faer::linalg::matmul::matmul(bottom, Accum::Add, below, top.rb(), -F::one_impl(), Par::Seq);
            if let Some(swaps) = next {
                eliminate(strip, end, swaps, n);
            }
            Ok(())
        });
        start = end;
    }
    let earlier = a.chunks_mut(BLOCK * n).zip((BLOCK..n).step_by(BLOCK)).collect();
    let _: Result<(), Infallible> = for_each(par, earlier, |(strip, end): (&mut [F], usize)| {
        exchange(strip, end, &swaps[end..], n);
        Ok(())
    });
    swaps
}

/// Eliminates below the diagonal of the panel whose first column is `start`, and says which rows were exchanged.
fn eliminate<F: ComplexField + Copy>(panel: &mut [F], start: usize, swaps: &mut [usize], n: usize) {
    let rows = n - start;
    let (mut order, mut inverse) = (vec![0_usize; rows], vec![0; rows]);
    let mut memory = MemBuffer::new(lu_in_place_scratch::<usize, F>(rows, swaps.len(), Par::Seq, Spec::default()));
    let panel = columns(panel, n, n).subrows_mut(start, rows);
    lu_in_place(panel, &mut order, &mut inverse, Par::Seq, MemStack::new(&mut memory), Spec::default());
    // The order as exchanges, of which most pivots on a diagonal that dominates need none.
    let mut place: Vec<usize> = (0..rows).collect();
    let mut holds = place.clone();
    for (i, swap) in swaps.iter_mut().enumerate() {
        let from = place[order[i]];
        *swap = start + from;
        holds.swap(i, from);
        (place[holds[i]], place[holds[from]]) = (i, from);
    }
}

/// Exchanges row `start + i` of each column with row `swaps[i]`, in order.
fn exchange<F>(strip: &mut [F], start: usize, swaps: &[usize], n: usize) {
    for column in strip.chunks_mut(n) {
        for (i, &swap) in swaps.iter().enumerate() {
            column.swap(start + i, swap);
        }
    }
}

fn solve<F: ComplexField + Copy + Send + Sync>(
    rhs: &mut [F],
    stride: usize,
    factor: &[F],
    swaps: &[usize],
    par: Parallelism,
) {
    let n = swaps.len();
    let factor = faer::MatRef::from_column_major_slice(factor, n, n);
    let tasks = rhs.chunks_mut(STRIP * stride).collect();
    let _: Result<(), Infallible> = for_each(par, tasks, |strip: &mut [F]| {
        for row in strip.chunks_mut(stride) {
            exchange(&mut row[..n], 0, swaps, n);
        }
        let mut x = columns(strip, n, stride);
        solve_unit_lower_triangular_in_place(factor, x.rb_mut(), Par::Seq);
        solve_upper_triangular_in_place(factor, x, Par::Seq);
        Ok(())
    });
}
