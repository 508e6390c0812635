//! What the laws of the solvers share.

use std::cell::Cell;

use ascribe_core::{Error as CoreError, LinOp, MatMut, MatRef, Real, linop::check_apply};
use ascribe_solvers::Error;
use ascribe_solvers::inverse::{Solve, SolveReport};

use crate::oracle;

/// A square matrix applied row by row, so that a row has the same bits in any block.
#[derive(Debug)]
pub struct ByRow<T> {
    matrix: Vec<T>,
    dim: usize,
    /// The rows that it has been applied to.
    pub applied: Cell<usize>,
}

impl<T: Real> ByRow<T> {
    /// The matrix rounded to `T`.
    pub fn new(matrix: &[f64], dim: usize) -> Self {
        Self { matrix: oracle::narrow(matrix), dim, applied: Cell::new(0) }
    }
}

impl<T: Real> LinOp<T> for ByRow<T> {
    fn dim_in(&self) -> usize {
        self.dim
    }
    fn dim_out(&self) -> usize {
        self.dim
    }
    fn apply(&self, mut out: MatMut<'_, T>, x: MatRef<'_, T>, _: &mut [T]) -> Result<(), CoreError> {
        check_apply(self.dim, self.dim, &out, &x)?;
        self.applied.set(self.applied.get() + x.rows());
        out.for_each_row(|i, out| {
            for (y, row) in out.iter_mut().zip(self.matrix.chunks_exact(self.dim)) {
                *y = row.iter().zip(x.row(i)).fold(T::ZERO, |sum, (&a, &x)| sum + a * x);
            }
        });
        Ok(())
    }
}

/// Gives what the function makes of each element: operators that break, or are not linear.
#[derive(Debug)]
pub struct Elementwise<F>(
    /// The dimension.
    pub usize,
    /// The function.
    pub F,
);

impl<F: Fn(f64) -> Result<f64, CoreError>> LinOp<f64> for Elementwise<F> {
    fn dim_in(&self) -> usize {
        self.0
    }
    fn dim_out(&self) -> usize {
        self.0
    }
    fn apply(&self, mut out: MatMut<'_, f64>, x: MatRef<'_, f64>, _: &mut [f64]) -> Result<(), CoreError> {
        for i in 0..x.rows() {
            for (y, &x) in out.row_mut(i).iter_mut().zip(x.row(i)) {
                *y = (self.1)(x)?;
            }
        }
        Ok(())
    }
}

/// The solutions and reports of a block of right-hand sides.
///
/// # Panics
/// When the solver refuses them.
pub fn solve<T: Real>(solver: &dyn Solve<T>, rhs: &[T]) -> (Vec<T>, Vec<SolveReport>) {
    let (dim, mut out) = (solver.dim(), vec![T::from_f64(f64::NAN); rhs.len()]);
    let rows = rhs.len().checked_div(dim).unwrap_or(0);
    let view = MatMut::new(&mut out, rows, dim).expect("whole rows");
    let reports = solver.solve(view, MatRef::new(rhs, rows, dim).expect("whole rows")).expect("a solution");
    assert_eq!(reports.len(), rows);
    (out, reports)
}

/// The error of a solve of one right-hand side, which must leave the output alone.
///
/// # Panics
/// When there is none, or the output was written.
pub fn refusal(solver: &dyn Solve<f64>, rhs: &[f64]) -> Error {
    let mut out = vec![7.0; rhs.len()];
    let error = solver.solve(MatMut::from_row(&mut out), MatRef::from_row(rhs)).expect_err("a refusal");
    assert!(out.iter().all(|x| *x == 7.0), "{error}: {out:?}");
    error
}

/// `|x - expected| <= bound |expected|`, row by row.
///
/// # Panics
/// When a row is off by more.
pub fn assert_rows_near<T: Real>(what: &str, dim: usize, x: &[T], expected: &[f64], bound: f64) {
    assert_eq!(x.len(), expected.len());
    for (x, expected) in oracle::wide(x).chunks_exact(dim).zip(expected.chunks_exact(dim)) {
        let (error, size) = (oracle::norm(&oracle::minus(x, expected)), oracle::norm(expected));
        assert!(error <= bound * size, "{what}: {x:?} instead of {expected:?}, off by {error:e} > {:e}", bound * size);
    }
}

/// `(A + damping I)^-1` times each row, by elimination.
pub fn truths(a: &[f64], damping: f64, rhs: &[f64], dim: usize) -> Vec<f64> {
    rhs.chunks_exact(dim).flat_map(|v| oracle::solve(a, damping, v)).collect()
}
