//! The minimal residual method, for symmetric matrices of any signs.

use core::fmt;

use ascribe_core::reduce::{axpy, dot, max_abs, norm2};
use ascribe_core::{Error as CoreError, LinOp, MatMut, MatRef, Real};

use super::block::{Reach, SharedProduct, power_of_two};
use super::report::{Solve, SolveReport, Stop, check_operator, check_system};
use super::tridiagonal::{Step, Tridiagonal};
use crate::Error;
use crate::error::check_shape;
use crate::parallel::{Parallelism, for_each};

/// Solves `(A + damping I) x = v` for a symmetric matrix, which may be indefinite, by the minimal residual method.
///
/// After `t` steps `x` minimises the residual over $\operatorname{span}\{v, Av, \dots, A^{t-1} v\}$, so it never grows. For eigenvalues in $[-a, -b] \cup [c, d]$ with $d - c = a - b$ it shrinks at least by
/// $(\sqrt{ad} - \sqrt{bc})/(\sqrt{ad} + \sqrt{bc})$ every two steps. Every right-hand side of a block stops by
/// itself and shares each pass over the data with the others; a zero one gives zero at no cost.
///
/// The residual that the recursion carries along drifts from the true one, so that is computed when the method thinks
/// that it is done; if it is still above the tolerance, the method starts afresh from where it is. A system without
/// solution ends with the residual of a least-squares solution and [`Stop::Stagnated`]; what `x` then has along
/// directions that the matrix takes to 0 means nothing. A condition number above `1 / (100 eps)` counts as singular.
///
/// Cost per step and right-hand side: one product, one with the preconditioner, `20 n` flops. Memory: five vectors,
/// six with a preconditioner.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef, linop::Dense};
/// use ascribe_solvers::inverse::Minres;
/// let a = Dense::new(MatRef::new(&[1.0, 2.0, 2.0, 1.0], 2, 2)?); // eigenvalues 3 and -1
/// let mut x = [0.0; 2];
/// let solver = Minres::default().prepare(&a)?;
/// let reports = solver.solve_reporting(MatMut::from_row(&mut x), MatRef::from_row(&[4.0, 5.0]))?;
/// assert!(reports[0].solve.is_converged() && (x[0] - 2.0_f64).abs() < 1e-12 && (x[1] - 1.0).abs() < 1e-12);
/// assert!((reports[0].smallest_ritz + 1.0).abs() < 1e-12);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Paige and Saunders, SIAM J. Numer. Anal. 12, 1975. Restarts and the scaling are ours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Minres {
    /// What is added to the diagonal; default 0.
    pub damping: f64,
    /// Stop when `|r| <= rtol |v|`; default `1e-6`, in f32 use `1e-4` or more. With a preconditioner both norms are
    /// its own, `sqrt(r^T M^-1 r)`.
    pub rtol: f64,
    /// Stop when `|r| <= atol`, in the same norm; default 0.
    pub atol: f64,
    /// Steps at most; default 1000.
    pub max_iterations: usize,
    /// Threads for the vector operations; default one.
    pub parallelism: Parallelism,
}

impl Default for Minres {
    fn default() -> Self {
        Self { damping: 0.0, rtol: 1e-6, atol: 0.0, max_iterations: 1000, parallelism: Parallelism::Serial }
    }
}

/// How one right-hand side fared, and what MINRES learnt of the matrix on the way.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct MinresReport {
    /// The report that every solver gives.
    pub solve: SolveReport,
    /// The smallest Ritz value of `A + damping I` (of the preconditioned matrix, if there is a preconditioner):
    /// negative exactly when negative curvature was met, and never below the smallest eigenvalue beyond rounding.
    /// Infinite when no step was made.
    pub smallest_ritz: f64,
}

/// [`Minres`] bound to an operator.
pub struct PreparedMinres<'o, T> {
    options: Minres,
    op: &'o dyn LinOp<T>,
    preconditioner: Option<&'o dyn LinOp<T>>,
    dim: usize,
}

impl<T> fmt::Debug for PreparedMinres<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedMinres").field("options", &self.options).field("dim", &self.dim).finish_non_exhaustive()
    }
}

impl Minres {
    /// Binds the options to a symmetric operator.
    ///
    /// # Errors
    /// A shape error when `op` is not square, a damping error, [`CoreError::Parameter`] for a tolerance that is
    /// negative or NaN.
    pub fn prepare<'o, T: Real>(&self, op: &'o dyn LinOp<T>) -> Result<PreparedMinres<'o, T>, Error> {
        let dim = check_operator(op, self.damping)?;
        for (what, value) in [("rtol", self.rtol), ("atol", self.atol)] {
            if value.is_nan() || value < 0.0 {
                return Err(CoreError::Parameter { what, value, must_be: "at least 0" }.into());
            }
        }
        Ok(PreparedMinres { options: *self, op, preconditioner: None, dim })
    }

    /// As [`Minres::prepare`], with a symmetric positive definite approximation `inverse` of the inverse of `|A|`.
    ///
    /// # Errors
    /// As [`Minres::prepare`]; a shape error when the two operators differ in length.
    pub fn prepare_with<'o, T: Real>(
        &self,
        op: &'o dyn LinOp<T>,
        inverse: &'o dyn LinOp<T>,
    ) -> Result<PreparedMinres<'o, T>, Error> {
        let prepared = self.prepare(op)?;
        check_shape("preconditioner", prepared.dim, check_operator(inverse, 0.0)?)?;
        Ok(PreparedMinres { preconditioner: Some(inverse), ..prepared })
    }
}

/// One right-hand side on its way. Vectors are at the scale of `v / unit`.
struct Column<T> {
    row: usize,
    unit: T,
    x: Vec<T>,
    /// The Lanczos vectors of this step and the one before, orthonormal in the norm of `M^-1`. Between the product
    /// and the normalisation `dual` is the new one divided by `size`.
    dual: Vec<T>,
    dual_old: Vec<T>,
    size: T,
    /// `M^-1 dual`; empty without a preconditioner, when it is `dual`.
    primal: Vec<T>,
    /// The directions of `x` of the last two steps.
    w: Vec<T>,
    w_old: Vec<T>,
    /// `A` on the Krylov space.
    projected: Tridiagonal,
    /// Its next diagonal entry.
    alpha: f64,
    /// The smallest Ritz value up to the last start.
    smallest_ritz: f64,
    /// The residual at the last start, and the one at which it is done; in the norm of `M^-1`.
    start: f64,
    goal: f64,
    /// Whether the true residual is wanted before the next step.
    due: bool,
    /// Whether the matrix turned out to be singular where the residual is: there is no more to gain.
    singular: bool,
    /// Whether steps were made since the residual was computed.
    moved: bool,
    reach: Reach,
    norm: f64,
    residual: f64,
    iterations: usize,
    applications: usize,
    stop: Option<Stop>,
}

impl<T: Real> Column<T> {
    fn new(row: usize, v: &[T], preconditioned: bool) -> Self {
        let unit = power_of_two(norm2(v));
        let dual: Vec<T> = v.iter().map(|&v| v / unit).collect();
        let zero = vec![T::ZERO; v.len()];
        let norm = norm2(&dual).to_f64();
        let mut column = Self {
            row,
            unit,
            x: zero.clone(),
            dual,
            dual_old: zero.clone(),
            size: T::ONE,
            primal: if preconditioned { zero.clone() } else { Vec::new() },
            w: zero.clone(),
            w_old: zero,
            projected: Tridiagonal::new(),
            alpha: 0.0,
            smallest_ritz: f64::INFINITY,
            start: f64::INFINITY,
            goal: f64::NAN,
            due: true,
            singular: false,
            moved: false,
            reach: Reach(0.0),
            norm,
            residual: norm,
            iterations: 0,
            applications: 0,
            stop: (norm == 0.0).then_some(Stop::Converged),
        };
        column.set_size();
        column
    }

    fn primal(&self) -> &[T] {
        if self.primal.is_empty() { &self.dual } else { &self.primal }
    }

    /// Divides `dual` by its norm, or by a power of two when the norm that counts is still to come.
    fn set_size(&mut self) {
        let norm = norm2(&self.dual);
        self.size = if self.primal.is_empty() { norm } else { power_of_two(norm) };
        if self.size > T::ZERO {
            self.dual.iter_mut().for_each(|x| *x /= self.size);
        }
    }

    /// `dual = (A + damping I) v_k` made orthogonal to the last two, given `q = A v_k`.
    fn expand(&mut self, q: &mut [T], damping: f64) -> Result<(), Error> {
        self.applications += 1;
        axpy(q, T::from_f64(damping), self.primal())?;
        if let Some(beta) = self.projected.last() {
            axpy(q, T::from_f64(-beta), &self.dual_old)?;
        }
        self.alpha = dot(self.primal(), q)?.to_f64();
        axpy(q, T::from_f64(-self.alpha), &self.dual)?;
        // The direction up to its last division, which needs the next vector's norm; afterwards v_k is gone.
        let [epsilon, delta] = self.projected.fill_in(self.alpha).map(T::from_f64);
        let v = if self.primal.is_empty() { &self.dual } else { &self.primal };
        for ((old, &w), &v) in self.w_old.iter_mut().zip(&self.w).zip(v) {
            *old = v - epsilon * *old - delta * w;
        }
        core::mem::swap(&mut self.w, &mut self.w_old);
        core::mem::swap(&mut self.dual, &mut self.dual_old);
        self.dual.copy_from_slice(q);
        self.set_size();
        Ok(())
    }

    /// Sets `primal` and gives the norm that `dual` had, given `z = M^-1 dual`.
    fn normalise(&mut self, z: Option<&[T]>) -> Result<f64, Error> {
        let size = self.size.to_f64();
        let Some(z) = z else { return Ok(size) };
        let squared = dot(&self.dual, z)?;
        if squared < T::ZERO {
            let curvature = squared.to_f64() / dot(&self.dual, &self.dual)?.to_f64();
            return Err(Error::Indefinite { what: "the preconditioner", curvature });
        }
        let norm = squared.sqrt();
        self.primal.copy_from_slice(z);
        if norm > T::ZERO {
            self.primal.iter_mut().chain(&mut self.dual).for_each(|x| *x /= norm);
        }
        Ok(size * norm.to_f64())
    }

    /// Completes the column of the projected matrix and moves `x`, `beta` being the norm of the next vector.
    fn advance(&mut self, beta: f64, step: usize) -> Result<(), Error> {
        let eps = T::EPSILON.to_f64();
        if !(self.alpha.is_finite() && beta.is_finite()) {
            self.stop = Some(Stop::Diverged { step });
            return Ok(());
        }
        let Some(Step { gamma, length, last }) = self.projected.append(self.alpha, beta, eps) else {
            (self.due, self.singular) = (true, true);
            return Ok(());
        };
        self.w.iter_mut().for_each(|w| *w /= T::from_f64(gamma));
        let size = max_abs(&self.w).to_f64();
        if self.reach.overflows(&self.x, length, &self.w, size, self.unit) {
            self.stop = Some(Stop::Diverged { step });
            return Ok(());
        }
        axpy(&mut self.x, T::from_f64(length), &self.w)?;
        self.moved = true;
        self.iterations = step;
        self.due = last || self.projected.residual() <= self.goal.max(eps * self.start);
        Ok(())
    }

    /// `dual = v - (A + damping I) x`, given `q = A x`.
    fn set_residual(&mut self, v: &[T], q: &[T], damping: f64) {
        let damping = T::from_f64(damping);
        for (((r, &v), &q), &x) in self.dual.iter_mut().zip(v).zip(q).zip(&self.x) {
            *r = v / self.unit - (q + damping * x);
        }
        self.residual = norm2(&self.dual).to_f64();
        self.moved = false;
        self.applications += 1;
        self.set_size();
    }

    /// Judges the residual, whose norm is `beta`, and starts from it.
    fn begin(&mut self, beta: f64, options: &Minres) {
        self.smallest_ritz = self.smallest_ritz.min(self.projected.smallest_eigenvalue());
        if self.goal.is_nan() {
            // Below the floor the squares of the residual underflow.
            let floor = T::MIN_POSITIVE.sqrt().to_f64();
            self.goal = (options.rtol * beta).max(options.atol / self.unit.to_f64()).max(floor);
        }
        self.stop = if beta <= self.goal {
            Some(Stop::Converged)
        } else if !beta.is_finite() {
            Some(Stop::Diverged { step: self.iterations })
        } else if self.singular || beta > 0.5 * self.start {
            Some(Stop::Stagnated)
        } else {
            None
        };
        self.start = beta;
        self.due = false;
        self.projected.restart(beta);
        self.w.fill(T::ZERO);
        self.w_old.fill(T::ZERO);
    }

    fn report(&self) -> MinresReport {
        let solve = SolveReport {
            stop: self.stop.unwrap_or(Stop::IterationLimit),
            iterations: self.iterations,
            operator_applications: self.applications,
            relative_residual: if self.norm == 0.0 { 0.0 } else { self.residual / self.norm },
        };
        MinresReport { solve, smallest_ritz: self.smallest_ritz.min(self.projected.smallest_eigenvalue()) }
    }
}

impl<T: Real> PreparedMinres<'_, T> {
    /// Solves as [`Solve::solve`] does, and reports the smallest Ritz value besides: whether the matrix is
    /// indefinite.
    ///
    /// # Errors
    /// As [`Solve::solve`]; [`Error::Indefinite`] when the preconditioner shows negative curvature.
    pub fn solve_reporting(&self, mut out: MatMut<'_, T>, rhs: MatRef<'_, T>) -> Result<Vec<MinresReport>, Error> {
        check_system(self.dim, &out, &rhs)?;
        let options = self.options;
        let Minres { damping, max_iterations, parallelism: par, .. } = options;
        let column = |(row, v): (usize, &[T])| Column::new(row, v, self.preconditioner.is_some());
        let mut columns: Vec<Column<T>> = rhs.row_iter().enumerate().map(column).collect();
        let mut space = SharedProduct::default();
        let begin = |column: &mut Column<T>, beta| {
            column.begin(beta, &options);
            Ok(())
        };
        let residual = |column: &mut Column<T>, q: &mut [T]| {
            column.set_residual(rhs.row(column.row), q, damping);
            Ok::<(), Error>(())
        };
        self.normalise(select(&mut columns, |_| true), &mut space, begin)?;
        for step in 1..=max_iterations {
            let running = select(&mut columns, |_| true);
            if running.is_empty() {
                break;
            }
            space.apply(self.op, running, par, Column::primal, |column, q| column.expand(q, damping))?;
            self.normalise(select(&mut columns, |_| true), &mut space, |column, beta| column.advance(beta, step))?;
            space.apply(self.op, select(&mut columns, |column| column.due), par, |column| &column.x, residual)?;
            self.normalise(select(&mut columns, |column| column.due), &mut space, begin)?;
        }
        for column in &mut columns {
            column.due = column.moved;
            // A residual that was not halved is nothing to complain of here.
            column.start = f64::INFINITY;
        }
        let moved = columns.iter_mut().filter(|column| column.due).collect();
        space.apply(self.op, moved, par, |column: &Column<T>| &column.x, residual)?;
        self.normalise(select(&mut columns, |column| column.due), &mut space, begin)?;
        for column in &mut columns {
            out.row_mut(column.row).iter_mut().zip(&column.x).for_each(|(out, &x)| *out = x * column.unit);
        }
        Ok(columns.iter().map(Column::report).collect())
    }

    /// Normalises the new vector of each column and hands it the norm.
    fn normalise(
        &self,
        columns: Vec<&mut Column<T>>,
        space: &mut SharedProduct<T>,
        f: impl Fn(&mut Column<T>, f64) -> Result<(), Error> + Sync,
    ) -> Result<(), Error> {
        let finish = |column: &mut Column<T>, z: Option<&[T]>| {
            let beta = column.normalise(z)?;
            f(column, beta)
        };
        let par = self.options.parallelism;
        match self.preconditioner {
            None => for_each(par, columns, |column| finish(column, None)),
            Some(inverse) => {
                space.apply(inverse, columns, par, |column| &column.dual, |column, z| finish(column, Some(z)))
            }
        }
    }
}

/// The columns that still run and that `which` picks.
fn select<T>(columns: &mut [Column<T>], which: impl Fn(&Column<T>) -> bool) -> Vec<&mut Column<T>> {
    columns.iter_mut().filter(|column| column.stop.is_none() && which(column)).collect()
}

impl<T: Real> Solve<T> for PreparedMinres<'_, T> {
    fn dim(&self) -> usize {
        self.dim
    }
    fn solve(&self, out: MatMut<'_, T>, rhs: MatRef<'_, T>) -> Result<Vec<SolveReport>, Error> {
        Ok(self.solve_reporting(out, rhs)?.into_iter().map(|report| report.solve).collect())
    }
}
