//! Conjugate gradients, with or without a preconditioner.

use core::fmt;

use ascribe_core::reduce::{axpy, dot, norm2, norm2_squared};
use ascribe_core::{Error as CoreError, LinOp, MatMut, MatRef, Real};

use super::block::{Reach, SharedProduct, power_of_two};
use super::report::{Solve, SolveReport, Stop, check_operator, check_system};
use crate::Error;
use crate::error::check_shape;
use crate::parallel::{Parallelism, for_each};

/// Solves `(A + damping I) x = v` for a positive definite matrix by (preconditioned) conjugate gradients.
///
/// The error after `k` steps, in the norm of the matrix, is at most
/// $2 \big(\tfrac{\sqrt\kappa - 1}{\sqrt\kappa + 1}\big)^k$ times the first one, `kappa` being the condition number
/// (of the preconditioned matrix); in exact arithmetic no more steps than there are distinct eigenvalues are
/// needed. Every right-hand side of a block stops by itself and shares each pass over the data with the others.
/// A zero right-hand side gives zero at no cost.
///
/// The operator must be the same at every step: with batches drawn anew, use [`Lissa`](super::Lissa).
///
/// Cost per step and right-hand side: one product, one with the preconditioner, `10 n` flops. Memory: four
/// vectors, five with a preconditioner.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef, linop::Dense};
/// use ascribe_solvers::inverse::{Cg, Solve};
/// let a = Dense::new(MatRef::new(&[4.0, 1.0, 1.0, 3.0], 2, 2)?);
/// let mut x = [0.0; 2];
/// let reports = Cg::default().prepare(&a)?.solve(MatMut::from_row(&mut x), MatRef::from_row(&[1.0, 2.0]))?;
/// assert!(reports[0].is_converged() && reports[0].iterations <= 2);
/// assert!((x[0] - 1.0_f64 / 11.0).abs() < 1e-6);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Hestenes and Stiefel 1952; the stopping rules are ours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cg {
    /// What is added to the diagonal; default 0.
    pub damping: f64,
    /// Stop when `|r| <= rtol |v|`; default `1e-6`, in f32 use `1e-4` or more.
    pub rtol: f64,
    /// Stop when `|r| <= atol`; default 0.
    pub atol: f64,
    /// Steps at most; default 1000.
    pub max_iterations: usize,
    /// Start from `v` instead of 0; default false.
    pub start_at_rhs: bool,
    /// Compute the residual afresh every so many steps, because the recursion drifts; 0 for never; default 50.
    pub refresh_every: usize,
    /// Threads for the vector operations; default one.
    pub parallelism: Parallelism,
}

impl Default for Cg {
    fn default() -> Self {
        Self {
            damping: 0.0,
            rtol: 1e-6,
            atol: 0.0,
            max_iterations: 1000,
            start_at_rhs: false,
            refresh_every: 50,
            parallelism: Parallelism::Serial,
        }
    }
}

/// [`Cg`] bound to an operator.
pub struct PreparedCg<'o, T> {
    options: Cg,
    op: &'o dyn LinOp<T>,
    preconditioner: Option<&'o dyn LinOp<T>>,
    dim: usize,
}

impl<T> fmt::Debug for PreparedCg<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedCg").field("options", &self.options).field("dim", &self.dim).finish_non_exhaustive()
    }
}

impl Cg {
    /// Binds the options to a symmetric operator.
    ///
    /// # Errors
    /// A shape error when `op` is not square, a damping error, [`CoreError::Parameter`] for a tolerance that is
    /// negative or NaN.
    pub fn prepare<'o, T: Real>(&self, op: &'o dyn LinOp<T>) -> Result<PreparedCg<'o, T>, Error> {
        let dim = check_operator(op, self.damping)?;
        for (what, value) in [("rtol", self.rtol), ("atol", self.atol)] {
            if value.is_nan() || value < 0.0 {
                return Err(CoreError::Parameter { what, value, must_be: "at least 0" }.into());
            }
        }
        Ok(PreparedCg { options: *self, op, preconditioner: None, dim })
    }

    /// As [`Cg::prepare`], with a symmetric positive definite approximation `inverse` of the inverse.
    ///
    /// # Errors
    /// As [`Cg::prepare`]; a shape error when the two operators differ in length.
    pub fn prepare_with<'o, T: Real>(
        &self,
        op: &'o dyn LinOp<T>,
        inverse: &'o dyn LinOp<T>,
    ) -> Result<PreparedCg<'o, T>, Error> {
        let prepared = self.prepare(op)?;
        check_shape("preconditioner", prepared.dim, check_operator(inverse, 0.0)?)?;
        Ok(PreparedCg { preconditioner: Some(inverse), ..prepared })
    }
}

/// One right-hand side on its way.
struct Column<T> {
    row: usize,
    /// The power of two below `|v|` that `v` is divided by, and `x` multiplied by at the end: nothing is rounded,
    /// and the squares of a small or large `v` neither vanish nor overflow.
    unit: T,
    x: Vec<T>,
    r: Vec<T>,
    p: Vec<T>,
    /// `r . z`, with `z` the preconditioned residual.
    rho: f64,
    /// `|r|` at which it is done.
    goal: f64,
    norm: f64,
    iterations: usize,
    applications: usize,
    residual: f64,
    /// `r . r`, which is `rho` without a preconditioner.
    squared: f64,
    reach: Reach,
    stop: Option<Stop>,
}

impl<T: Real> Column<T> {
    fn note_residual(&mut self) {
        // At unit scale the squares neither overflow nor, above the goal's floor, vanish.
        self.squared = norm2_squared(&self.r).to_f64();
        self.residual = self.squared.sqrt();
        if self.residual <= self.goal {
            self.stop = Some(Stop::Converged);
        }
    }

    /// Moves along `p`, given `q = A p` without the damping.
    fn advance(&mut self, q: &mut [T], damping: f64, step: usize) -> Result<(), CoreError> {
        axpy(q, T::from_f64(damping), &self.p)?;
        self.applications += 1;
        let curvature = dot(&self.p, q)?.to_f64();
        let length = dot(&self.p, &self.p)?.to_f64().sqrt();
        let alpha = self.rho / curvature;
        // |p^T A p| below the rounding of the product says nothing about its sign.
        let noise = T::EPSILON.to_f64() * length * norm2(q).to_f64();
        self.stop = if !curvature.is_finite() || !alpha.is_finite() && curvature > noise {
            Some(Stop::Diverged { step })
        } else if curvature <= noise {
            Some(Stop::NegativeCurvature { curvature: curvature / (length * length) })
        } else if self.reach.overflows(&self.x, alpha, &self.p, length, self.unit) {
            // The residual that is carried along would not notice.
            Some(Stop::Diverged { step })
        } else {
            axpy(&mut self.x, T::from_f64(alpha), &self.p)?;
            axpy(&mut self.r, T::from_f64(-alpha), q)?;
            self.iterations = step;
            None
        };
        Ok(())
    }

    /// `r = v - (A + damping I) x`, given `q = A x`.
    fn set_residual(&mut self, v: &[T], q: &[T], damping: f64) {
        let damping = T::from_f64(damping);
        for (((r, &v), &q), &x) in self.r.iter_mut().zip(v).zip(q).zip(&self.x) {
            *r = v / self.unit - (q + damping * x);
        }
        self.applications += 1;
    }

    /// The next direction: `z` made conjugate to the last one.
    fn turn(&mut self, z: Option<&[T]>, first: bool) -> Result<(), CoreError> {
        let (z, rho) = match z {
            Some(z) => (z, dot(&self.r, z)?.to_f64()),
            None => (self.r.as_slice(), self.squared),
        };
        let beta = if first { 0.0 } else { rho / self.rho };
        let beta = T::from_f64(beta);
        for (p, &z) in self.p.iter_mut().zip(z) {
            *p = z + beta * *p;
        }
        self.rho = rho;
        Ok(())
    }
}

/// The columns that still run.
fn running<T>(columns: &mut [Column<T>]) -> Vec<&mut Column<T>> {
    columns.iter_mut().filter(|column| column.stop.is_none()).collect()
}

impl<T: Real> PreparedCg<'_, T> {
    fn precondition_and_turn(
        &self,
        columns: &mut [Column<T>],
        space: &mut SharedProduct<T>,
        first: bool,
    ) -> Result<(), Error> {
        let (active, par) = (running(columns), self.options.parallelism);
        match self.preconditioner {
            None => Ok(for_each(par, active, |column| column.turn(None, first))?),
            Some(inverse) => {
                space.apply(inverse, active, par, |column| &column.r, |column, z| column.turn(Some(z), first))
            }
        }
    }

    fn refresh(
        &self,
        columns: &mut [Column<T>],
        space: &mut SharedProduct<T>,
        rhs: MatRef<'_, T>,
    ) -> Result<(), Error> {
        let Cg { damping, parallelism, .. } = self.options;
        space.apply(
            self.op,
            running(columns),
            parallelism,
            |column| &column.x,
            |column, q| {
                column.set_residual(rhs.row(column.row), q, damping);
                Ok::<(), CoreError>(())
            },
        )
    }
}

impl<T: Real> Solve<T> for PreparedCg<'_, T> {
    fn dim(&self) -> usize {
        self.dim
    }

    fn solve(&self, mut out: MatMut<'_, T>, rhs: MatRef<'_, T>) -> Result<Vec<SolveReport>, Error> {
        check_system(self.dim, &out, &rhs)?;
        let options = &self.options;
        let mut space = SharedProduct::default();
        let column = |(row, v): (usize, &[T])| {
            let unit = power_of_two(norm2(v));
            let v: Vec<T> = v.iter().map(|&v| v / unit).collect();
            let norm = norm2(&v).to_f64();
            let zero = vec![T::ZERO; self.dim];
            // Below the floor the squares of the residual underflow.
            let floor = T::MIN_POSITIVE.sqrt().to_f64();
            Column {
                row,
                unit,
                x: if options.start_at_rhs { v.clone() } else { zero.clone() },
                r: v,
                p: zero,
                rho: 0.0,
                goal: (options.rtol * norm).max(options.atol / unit.to_f64()).max(floor),
                norm,
                iterations: 0,
                applications: 0,
                residual: norm,
                squared: 0.0,
                reach: Reach(if options.start_at_rhs { norm } else { 0.0 }),
                stop: (norm == 0.0).then_some(Stop::Converged),
            }
        };
        let mut columns: Vec<Column<T>> = rhs.row_iter().enumerate().map(column).collect();
        if options.start_at_rhs {
            self.refresh(&mut columns, &mut space, rhs)?;
        }
        running(&mut columns).into_iter().for_each(Column::note_residual);
        self.precondition_and_turn(&mut columns, &mut space, true)?;
        for step in 1..=options.max_iterations {
            if columns.iter().all(|column| column.stop.is_some()) {
                break;
            }
            let damping = options.damping;
            space.apply(
                self.op,
                running(&mut columns),
                options.parallelism,
                |column| &column.p,
                |column, q| column.advance(q, damping, step),
            )?;
            if options.refresh_every > 0 && step % options.refresh_every == 0 {
                self.refresh(&mut columns, &mut space, rhs)?;
            }
            running(&mut columns).into_iter().for_each(Column::note_residual);
            self.precondition_and_turn(&mut columns, &mut space, false)?;
        }
        for column in &columns {
            out.row_mut(column.row).iter_mut().zip(&column.x).for_each(|(out, &x)| *out = x * column.unit);
        }
        let report = |column: &Column<T>| SolveReport {
            stop: column.stop.unwrap_or(Stop::IterationLimit),
            iterations: column.iterations,
            operator_applications: column.applications,
            relative_residual: if column.norm == 0.0 { 0.0 } else { column.residual / column.norm },
        };
        Ok(columns.iter().map(report).collect())
    }
}
