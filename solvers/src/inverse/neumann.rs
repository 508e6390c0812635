//! The truncated Neumann series, as the iteration that sums it.

use core::fmt;

use ascribe_core::reduce::norm2;
use ascribe_core::{Error as CoreError, LinOp, MatMut, MatRef, Real};

use super::report::{Solve, SolveReport, Stop, check_operator, check_system};
use super::step_size::require;
use crate::Error;
use crate::error::{check_shape, zeros};
use crate::parallel::{Parallelism, for_each};

/// Where an iteration starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// `x = 0`: after `J` steps exactly `J` terms of the series.
    #[default]
    Zero,
    /// `x = v`.
    Rhs,
    /// `x = alpha v`: after `J` steps `J + 1` terms.
    AlphaRhs,
    /// `x = M^-1 v`, `M` being the preconditioner (`v` without one).
    PreconditionedRhs,
}

impl Start {
    /// The first iterate for each row of `rhs`, `[k, n]`.
    pub(super) fn point<T: Real>(
        self,
        rhs: MatRef<'_, T>,
        alpha: f64,
        preconditioner: Option<&dyn LinOp<T>>,
    ) -> Result<Vec<T>, Error> {
        let (k, n) = (rhs.rows(), rhs.cols());
        let mut x: Vec<T> = Vec::with_capacity(k * n);
        rhs.row_iter().for_each(|row| x.extend_from_slice(row));
        match (self, preconditioner) {
            (Self::Zero, _) => x.fill(T::ZERO),
            (Self::AlphaRhs, _) => ascribe_core::reduce::scale(&mut x, T::from_f64(alpha)),
            (Self::PreconditionedRhs, Some(inverse)) => {
                let mut scratch = zeros("operator scratch", Some(inverse.scratch_len(k)))?;
                inverse.apply(MatMut::new(&mut x, k, n)?, rhs, &mut scratch)?;
            }
            (Self::Rhs | Self::PreconditionedRhs, _) => {}
        }
        Ok(x)
    }
}

/// Approximates `(A + damping I)^-1 v` by `steps` iterations of `x <- x - alpha M^-1 ((A + damping I) x - v)`.
///
/// From [`Start::Zero`] without a preconditioner the result is
/// $\alpha \sum_{j<J} (I - \alpha A_\lambda)^j v = A_\lambda^{-1} (I - (I - \alpha A_\lambda)^J) v$, close to the
/// inverse with an additional damping $1/(\alpha J)$: between 1 and 1.2984 times it in every eigendirection.
///
/// Converges when `0 < alpha < 2 / (largest eigenvalue + damping)` (of the preconditioned matrix), by the factor
/// `|1 - alpha (smallest eigenvalue + damping)|` a step, and monotonically below half of that bound. Beyond it the
/// iterates grow; that ends with [`Stop::Diverged`] and the iterate of the smallest residual.
///
/// Cost per step and right-hand side: one product, one with the preconditioner, `4 n` flops. Memory: four
/// vectors.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef, linop::Diagonal};
/// use ascribe_solvers::inverse::{Neumann, Solve};
/// let a = Diagonal::new(&[1.0, 0.25]);
/// let neumann = Neumann { alpha: 1.0, steps: 2, ..Neumann::default() };
/// let mut x = [0.0; 2];
/// neumann.prepare(&a)?.solve(MatMut::from_row(&mut x), MatRef::from_row(&[1.0, 1.0]))?;
/// assert_eq!(x, [1.0, 1.75]); // two terms: 1 + (1 - a)
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// arXiv:2507.14740, appendix G, for truncation as damping.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neumann {
    /// The step size; default 1.
    pub alpha: f64,
    /// What is added to the diagonal; default 0.
    pub damping: f64,
    /// Iterations; default 100.
    pub steps: usize,
    /// The first iterate; default 0.
    pub start: Start,
    /// Stop early when the residual is at most this times `|v|`; default 0: make all steps.
    pub rtol: f64,
    /// Stop as diverged when the residual exceeds this times the larger of its first value and `|v|`; at least 1,
    /// infinite for never; default `1e6`.
    pub divergence: f64,
    /// Threads for the vector operations; default one.
    pub parallelism: Parallelism,
}

impl Default for Neumann {
    fn default() -> Self {
        Self {
            alpha: 1.0,
            damping: 0.0,
            steps: 100,
            start: Start::Zero,
            rtol: 0.0,
            divergence: 1e6,
            parallelism: Parallelism::Serial,
        }
    }
}

/// [`Neumann`] bound to an operator.
pub struct PreparedNeumann<'o, T> {
    options: Neumann,
    op: &'o dyn LinOp<T>,
    preconditioner: Option<&'o dyn LinOp<T>>,
    dim: usize,
}

impl<T> fmt::Debug for PreparedNeumann<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("PreparedNeumann");
        out.field("options", &self.options).field("dim", &self.dim).finish_non_exhaustive()
    }
}

impl Neumann {
    /// Binds the options to an operator.
    ///
    /// # Errors
    /// A shape error when `op` is not square, a damping error, [`CoreError::Parameter`] for an `alpha` that is not
    /// positive and finite, an `rtol` that is negative or NaN, or a `divergence` that is below 1 or NaN.
    pub fn prepare<'o, T: Real>(&self, op: &'o dyn LinOp<T>) -> Result<PreparedNeumann<'o, T>, Error> {
        let dim = check_operator(op, self.damping)?;
        check_alpha(self.alpha)?;
        check_divergence(self.divergence)?;
        require("rtol", self.rtol, self.rtol >= 0.0, "at least 0")?;
        Ok(PreparedNeumann { options: *self, op, preconditioner: None, dim })
    }

    /// As [`Neumann::prepare`], with an approximation `inverse` of the inverse as preconditioner.
    ///
    /// # Errors
    /// As [`Neumann::prepare`]; a shape error when the two operators differ in length.
    pub fn prepare_with<'o, T: Real>(
        &self,
        op: &'o dyn LinOp<T>,
        inverse: &'o dyn LinOp<T>,
    ) -> Result<PreparedNeumann<'o, T>, Error> {
        let prepared = self.prepare(op)?;
        check_shape("preconditioner", prepared.dim, check_operator(inverse, 0.0)?)?;
        Ok(PreparedNeumann { preconditioner: Some(inverse), ..prepared })
    }
}

/// What ends a run of [`Iteration`]; infinity never does.
pub(super) fn check_divergence(divergence: f64) -> Result<(), CoreError> {
    require("divergence", divergence, divergence >= 1.0, "at least 1")
}

pub(super) fn check_alpha(alpha: f64) -> Result<(), Error> {
    if alpha > 0.0 && alpha.is_finite() {
        Ok(())
    } else {
        Err(CoreError::Parameter { what: "alpha", value: alpha, must_be: "positive and finite" }.into())
    }
}

impl<T: Real> Solve<T> for PreparedNeumann<'_, T> {
    fn dim(&self) -> usize {
        self.dim
    }

    fn solve(&self, mut out: MatMut<'_, T>, rhs: MatRef<'_, T>) -> Result<Vec<SolveReport>, Error> {
        check_system(self.dim, &out, &rhs)?;
        let Neumann { alpha, damping, steps, start, rtol, divergence, parallelism } = self.options;
        let iteration =
            Iteration { alpha, damping, rtol, divergence, parallelism, preconditioner: self.preconditioner };
        let mut state = iteration.start(rhs, start)?;
        let mut scratch = zeros("operator scratch", Some(self.op.scratch_len(rhs.rows())))?;
        for step in 1..=steps {
            let all_done = iteration.step(&mut state, rhs, step, |out, x| self.op.apply(out, x, &mut scratch))?;
            if all_done {
                break;
            }
        }
        out.copy_from(MatRef::new(&state.x, rhs.rows(), self.dim)?)?;
        Ok(state.columns.iter().map(Progress::report).collect())
    }
}

/// `x <- x - alpha M^-1 (A_t x + damping x - v)`, the step that Neumann series and LiSSA share; the operator may be
/// another one at every step.
pub(super) struct Iteration<'o, T> {
    pub alpha: f64,
    pub damping: f64,
    pub rtol: f64,
    pub divergence: f64,
    pub parallelism: Parallelism,
    pub preconditioner: Option<&'o dyn LinOp<T>>,
}

/// The iterates of a block, `[k, n]` each.
pub(super) struct State<T> {
    pub x: Vec<T>,
    residual: Vec<T>,
    correction: Vec<T>,
    /// The iterate with the smallest residual so far.
    best: Vec<T>,
    pub columns: Vec<Progress>,
}

/// How one right-hand side stands.
#[derive(Clone)]
pub(super) struct Progress {
    norm: f64,
    first: f64,
    smallest: f64,
    last: f64,
    iterations: usize,
    applications: usize,
    stop: Option<Stop>,
}

impl Progress {
    pub(super) fn report(&self) -> SolveReport {
        SolveReport {
            stop: self.stop.unwrap_or(Stop::IterationLimit),
            iterations: self.iterations,
            operator_applications: self.applications,
            relative_residual: if self.norm == 0.0 { 0.0 } else { self.last / self.norm },
        }
    }

    /// Notes the residual before a step and decides whether to make it.
    fn judge<T: Copy>(&mut self, residual: f64, divergence: f64, rtol: f64, step: usize, x: &mut [T], best: &mut [T]) {
        if self.stop.is_some() {
            return;
        }
        self.applications += 1;
        if self.first.is_nan() {
            self.first = residual;
        }
        if !residual.is_finite() || residual > divergence * self.first.max(self.norm) {
            x.copy_from_slice(best);
            self.last = self.smallest;
            self.stop = Some(Stop::Diverged { step });
            return;
        }
        if residual < self.smallest {
            best.copy_from_slice(x);
            self.smallest = residual;
        }
        self.last = residual;
        if rtol > 0.0 && residual <= rtol * self.norm {
            self.stop = Some(Stop::Converged);
        }
    }
}

/// One right-hand side of a block: its residual, iterates and itself.
struct Line<'l, T> {
    residual: &'l mut [T],
    x: &'l mut [T],
    best: &'l mut [T],
    v: &'l [T],
    column: &'l mut Progress,
}

impl<T: Real> Iteration<'_, T> {
    pub(super) fn start(&self, rhs: MatRef<'_, T>, start: Start) -> Result<State<T>, Error> {
        let (k, n) = (rhs.rows(), rhs.cols());
        let x = start.point(rhs, self.alpha, self.preconditioner)?;
        let progress = |v: &[T]| {
            let norm = norm2(v).to_f64();
            let stop = (norm == 0.0).then_some(Stop::Converged);
            Progress {
                norm,
                first: f64::NAN,
                smallest: f64::INFINITY,
                last: norm,
                iterations: 0,
                applications: 0,
                stop,
            }
        };
        Ok(State {
            best: x.clone(),
            residual: vec![T::ZERO; k * n],
            correction: vec![T::ZERO; if self.preconditioner.is_some() { k * n } else { 0 }],
            columns: rhs.row_iter().map(progress).collect(),
            x,
        })
    }

    /// Makes one step; true when no right-hand side runs any more. All of them share the product, those that have
    /// stopped too: a block of fixed shape keeps the cost of a step plain.
    pub(super) fn step(
        &self,
        state: &mut State<T>,
        rhs: MatRef<'_, T>,
        step: usize,
        product: impl FnOnce(MatMut<'_, T>, MatRef<'_, T>) -> Result<(), CoreError>,
    ) -> Result<bool, Error> {
        let (k, n) = (rhs.rows(), rhs.cols());
        if state.columns.iter().all(|column| column.stop.is_some()) {
            return Ok(true);
        }
        product(MatMut::new(&mut state.residual, k, n)?, MatRef::new(&state.x, k, n)?)?;
        let (damping, divergence, rtol) = (T::from_f64(self.damping), self.divergence, self.rtol);
        let width = n.max(1);
        let lines = state.residual.chunks_exact_mut(width).zip(state.x.chunks_exact_mut(width));
        let lines = lines.zip(state.best.chunks_exact_mut(width)).zip(rhs.row_iter()).zip(&mut state.columns);
        let lines = lines.map(|((((residual, x), best), v), column)| Line { residual, x, best, v, column });
        for_each(self.parallelism, lines.collect(), |line: Line<'_, T>| {
            for ((r, &x), &v) in line.residual.iter_mut().zip(&*line.x).zip(line.v) {
                *r += damping * x - v;
            }
            line.column.judge(norm2(line.residual).to_f64(), divergence, rtol, step, line.x, line.best);
            Ok::<(), Error>(())
        })?;
        let update = match self.preconditioner {
            None => &state.residual,
            Some(inverse) => {
                let mut scratch = zeros("operator scratch", Some(inverse.scratch_len(k)))?;
                let residual = MatRef::new(&state.residual, k, n)?;
                inverse.apply(MatMut::new(&mut state.correction, k, n)?, residual, &mut scratch)?;
                &state.correction
            }
        };
        let alpha = T::from_f64(-self.alpha);
        let rows = state.x.chunks_exact_mut(width).zip(update.chunks_exact(width));
        for (((x, d), best), column) in rows.zip(state.best.chunks_exact(width)).zip(&mut state.columns) {
            if column.stop.is_some() {
                continue;
            }
            ascribe_core::reduce::axpy(x, alpha, d)?;
            column.iterations = step;
            // No later step may come to notice.
            if x.iter().any(|x| !x.is_finite()) {
                x.copy_from_slice(best);
                column.last = column.smallest;
                column.stop = Some(Stop::Diverged { step });
            }
        }
        Ok(false)
    }
}
