//! ASTRA: stochastic Neumann iterations preconditioned by an approximate inverse, with heavy-ball momentum.

use core::fmt;

use ascribe_core::random::Stream;
use ascribe_core::{Error as CoreError, ExampleLinOp, LinOp, MatMut, MatRef, Real};

use super::fixed_batch::{FixedBatch, check_batch, draw_batch};
use super::heavy_ball::{HeavyBall, Progress};
use super::neumann::Start;
use super::report::{Solve, SolveReport, Stop, check_operator, check_system};
use super::spectral_radius::SpectralRadius;
use super::step_size::{StepSize, require};
use crate::Error;
use crate::error::{check_shape, zeros};
use crate::parallel::Parallelism;

/// Solves `(G + damping I) x = v` by preconditioned steps on batches: with `W` an approximate inverse, such as EKFAC's
/// $(P + \tilde\lambda I)^{-1}$, and $G_t$ the curvature on the batch of step `t`,
///
/// $$d = W [(G_t + \lambda I) x - v], \qquad m \leftarrow \beta m + d, \qquad
/// x \leftarrow x - \alpha \gamma^{\lfloor t / \text{every} \rfloor} m,$$
///
/// from $x = W v$: with `P = G` and no steps the solution, with `P` from EKFAC the EKFAC influence, which the steps
/// correct. `G` must be positive semidefinite and `W` positive definite. The limit does not depend on `W` or on
/// `alpha`; the speed does: on the full data it converges when $0 < \alpha < 2 (1 + \beta) / \rho$, `rho` being the
/// largest eigenvalue of $W (G + \lambda I)$. On drawn batches the error falls to a level in proportion to `alpha`,
/// which the decay lowers.
///
/// Every `monitor_every` steps the objective $h(x) = \tfrac12 x^\top (G + \lambda I) x - x^\top v$ is evaluated on a
/// fixed batch ([`PreparedAstra::with_monitor`] for one that was held out). A right-hand side whose `h` is not finite,
/// or exceeds the smallest one by more than `divergence` times `|h|` or `|x . v|`, whichever is larger, stops as
/// [`Stop::Diverged`]; so does one whose iterate leaves the finite numbers. Its solution is the iterate with the
/// smallest objective, the last finite one without a monitor.
///
/// Cost per step: one product on a batch and one application of `W`, each for all right-hand sides at once, and about
/// `9 n` flops for each of them; an evaluation of the objective is one product more. Memory: five vectors a
/// right-hand side, one more for a tail average. Nothing but lists of tasks is allocated in a step.
///
/// The deterministic sibling is preconditioned CG on a [`FixedBatch`] or on all of the data:
/// [`Cg::prepare_with`](super::Cg::prepare_with).
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef, linop::Diagonal};
/// use ascribe_solvers::inverse::{Astra, Solve};
/// let (g, w) = (Diagonal::new(&[4.0, 1.0, 0.0]), Diagonal::new(&[0.2, 0.9, 8.0]));
/// let astra = Astra { damping: 0.1, ..Astra::default() };
/// let prepared = astra.prepare_full(&g, &w)?;
/// let mut x = [0.0; 3];
/// prepared.solve(MatMut::from_row(&mut x), MatRef::from_row(&[4.1, 1.1, 0.1]))?;
/// assert!(x.iter().all(|x: &f64| (x - 1.0).abs() < 1e-2), "{x:?}");
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// arXiv:2507.14740, equations 8 and 9 and table 3, with momentum read as heavy ball. The estimated step size, the
/// monitor and the tail average are ours; `StepSize::ProportionalToDamping(0.1)` is the paper's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Astra {
    /// What is added to the diagonal; default 0.
    pub damping: f64,
    /// Steps; default 200.
    pub steps: usize,
    /// Examples of a batch, drawn uniformly with replacement; default 256.
    pub batch: usize,
    /// Seed of the batches and of the estimate; default 0.
    pub seed: u64,
    /// The step size; default estimated.
    pub step_size: StepSize,
    /// `beta` of the heavy ball, in `[0, 1)`; default 0.9.
    pub momentum: f64,
    /// What the step size is multiplied by every `decay_every` steps, in `(0, 1]`; default 0.5.
    pub decay_factor: f64,
    /// See `decay_factor`; 0 for never; default 50.
    pub decay_every: usize,
    /// The first iterate; default `W v`.
    pub start: Start,
    /// Return the mean of the iterates of this last fraction of the steps, in `(0, 1]`; default none: the last iterate.
    pub tail_average: Option<f64>,
    /// Evaluate the objective every so many steps, at the start and at the end; 0 for never; default 10.
    pub monitor_every: usize,
    /// The increase of the objective that counts as divergence; default 100. A batch sees a solution through other
    /// examples than the curvature has, so its objective may rise severalfold on the way to it, above all when a few
    /// examples matter to a query; what diverges grows geometrically and passes any factor. On the full data 3 will do.
    pub divergence: f64,
    /// Threads for the vector operations; default one.
    pub parallelism: Parallelism,
}

impl Default for Astra {
    fn default() -> Self {
        Self {
            damping: 0.0,
            steps: 200,
            batch: 256,
            seed: 0,
            step_size: StepSize::default(),
            momentum: 0.9,
            decay_factor: 0.5,
            decay_every: 50,
            start: Start::PreconditionedRhs,
            tail_average: None,
            monitor_every: 10,
            divergence: 100.0,
            parallelism: Parallelism::Serial,
        }
    }
}

/// Where a step takes its curvature from.
enum Curvature<'o, T> {
    Full(&'o dyn LinOp<T>),
    Drawn(&'o dyn ExampleLinOp<T>),
    Given(&'o dyn ExampleLinOp<T>, &'o [Vec<usize>]),
}

/// [`Astra`] bound to a curvature and an approximate inverse.
pub struct PreparedAstra<'o, T> {
    options: Astra,
    curvature: Curvature<'o, T>,
    inverse: &'o dyn LinOp<T>,
    monitor: Box<dyn LinOp<T> + 'o>,
    /// Whether the monitor sees the system that is solved, so that its gradient is the residual.
    monitors_system: bool,
    spectral_radius: Option<f64>,
    alpha: f64,
    dim: usize,
}

impl<T> fmt::Debug for PreparedAstra<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("PreparedAstra");
        out.field("options", &self.options).field("alpha", &self.alpha).field("dim", &self.dim).finish_non_exhaustive()
    }
}

impl Astra {
    /// Binds the options to a curvature whose batches are drawn, and to an approximation `inverse` of the inverse.
    /// The step size is estimated here, once for all right-hand sides.
    ///
    /// # Errors
    /// A shape error when an operator is not square or their lengths differ; a damping error;
    /// [`CoreError::Parameter`] for an option outside its range, and for a step size that is not positive and finite:
    /// that of a zero curvature without damping. [`CoreError::Empty`] without examples. While the step size is
    /// estimated, the errors of [`SpectralRadius::estimate_with`].
    pub fn prepare<'o, T: Real>(
        &self,
        op: &'o dyn ExampleLinOp<T>,
        inverse: &'o dyn LinOp<T>,
    ) -> Result<PreparedAstra<'o, T>, Error> {
        self.bind(Curvature::Drawn(op), inverse)
    }

    /// As [`Astra::prepare`], with the examples of each step given: step `t` uses `batches[t]`, each index as often as
    /// it occurs. The option `batch` sizes only the monitor's and the estimate's batches.
    ///
    /// # Errors
    /// As [`Astra::prepare`]; [`CoreError::Length`] when there are fewer batches than steps, [`CoreError::Empty`] for
    /// an empty one, [`CoreError::Index`] for an index that is no example's.
    pub fn prepare_batches<'o, T: Real>(
        &self,
        op: &'o dyn ExampleLinOp<T>,
        inverse: &'o dyn LinOp<T>,
        batches: &'o [Vec<usize>],
    ) -> Result<PreparedAstra<'o, T>, Error> {
        if batches.len() < self.steps {
            return Err(CoreError::Length { what: "batches", needed: self.steps, got: batches.len() }.into());
        }
        batches.iter().try_for_each(|batch| check_batch(batch, op.examples()))?;
        self.bind(Curvature::Given(op, batches), inverse)
    }

    /// As [`Astra::prepare`], with the same operator at every step: the full curvature, or a [`FixedBatch`].
    ///
    /// # Errors
    /// As [`Astra::prepare`].
    pub fn prepare_full<'o, T: Real>(
        &self,
        op: &'o dyn LinOp<T>,
        inverse: &'o dyn LinOp<T>,
    ) -> Result<PreparedAstra<'o, T>, Error> {
        self.bind(Curvature::Full(op), inverse)
    }

    fn bind<'o, T: Real>(
        &self,
        curvature: Curvature<'o, T>,
        inverse: &'o dyn LinOp<T>,
    ) -> Result<PreparedAstra<'o, T>, Error> {
        let dim = check_operator(curvature.op(), self.damping)?;
        check_shape("preconditioner", dim, check_operator(inverse, 0.0)?)?;
        self.check()?;
        let monitor: Box<dyn LinOp<T> + 'o> = match curvature {
            Curvature::Full(op) => Box::new(op),
            Curvature::Drawn(op) | Curvature::Given(op, _) => {
                Box::new(FixedBatch::sampled(op, self.batch, Stream::new(self.seed, "astra.monitor"))?)
            }
        };
        // Without a dimension there is nothing to solve, nor to estimate.
        let step_size = if dim == 0 { StepSize::Fixed(1.0) } else { self.step_size };
        let (alpha, spectral_radius) = step_size.resolve(self.damping, |batches, iterations| {
            self.spectral_radius(&curvature, inverse, batches, iterations)
        })?;
        let monitors_system = matches!(curvature, Curvature::Full(_));
        Ok(PreparedAstra { options: *self, curvature, inverse, monitor, monitors_system, spectral_radius, alpha, dim })
    }

    fn check(&self) -> Result<(), CoreError> {
        let unit = |what, value: f64| require(what, value, value > 0.0 && value <= 1.0, "in (0, 1]");
        require("batch", self.batch as f64, self.batch > 0, "at least 1")?;
        require("momentum", self.momentum, (0.0..1.0).contains(&self.momentum), "in [0, 1)")?;
        unit("decay_factor", self.decay_factor)?;
        self.tail_average.map_or(Ok(()), |fraction| unit("tail_average", fraction))?;
        require("divergence", self.divergence, self.divergence >= 0.0, "at least 0")
    }

    /// The largest eigenvalue that the step size is derived from.
    fn spectral_radius<T: Real>(
        &self,
        curvature: &Curvature<'_, T>,
        inverse: &dyn LinOp<T>,
        batches: usize,
        iterations: usize,
    ) -> Result<f64, Error> {
        let lanczos = SpectralRadius { damping: self.damping, iterations, seed: self.seed };
        let op = match curvature {
            Curvature::Full(op) => return lanczos.estimate_with(*op, inverse),
            Curvature::Drawn(op) | Curvature::Given(op, _) => *op,
        };
        let size = ((1.0 - self.momentum) * self.batch as f64).round().max(1.0) as usize;
        let stream = Stream::new(self.seed, "astra.spectral_radius");
        let mut largest = 0.0_f64;
        for batch in 0..batches as u64 {
            let batch = FixedBatch::sampled(op, size, stream.child(batch))?;
            largest = largest.max(lanczos.estimate_with(&batch, inverse)?);
        }
        Ok(largest)
    }
}

impl<'o, T: Real> Curvature<'o, T> {
    fn op(&self) -> &'o dyn LinOp<T> {
        match self {
            Self::Full(op) => *op,
            Self::Drawn(op) | Self::Given(op, _) => *op,
        }
    }
}

/// How one right-hand side fared, with its objective.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct AstraReport {
    /// What every solver reports. The residual is known, and not NaN, where the same operator is used at every step and
    /// by the monitor; the applications of the operator are those of the steps and of the monitor.
    pub solve: SolveReport,
    /// The objective at the first iterate; NaN without a monitor, 0 for a zero right-hand side.
    pub objective_start: f64,
    /// The objective at the solution, likewise.
    pub objective_end: f64,
}

impl<'o, T: Real> PreparedAstra<'o, T> {
    /// Evaluates the objective with `op` instead of on a batch of the training data: the curvature of data that were
    /// held out, restricted to a [`FixedBatch`] if need be.
    ///
    /// # Errors
    /// A shape error when the operator has another length.
    pub fn with_monitor(self, op: &'o dyn LinOp<T>) -> Result<Self, Error> {
        check_shape("monitor", self.dim, check_operator(op, 0.0)?)?;
        Ok(Self { monitor: Box::new(op), monitors_system: false, ..self })
    }

    /// The step size before it decays.
    pub fn step_size(&self) -> f64 {
        self.alpha
    }

    /// The largest eigenvalue that was found, when the step size was estimated.
    pub fn spectral_radius(&self) -> Option<f64> {
        self.spectral_radius
    }

    /// As [`Solve::solve`], with the objective in the reports.
    ///
    /// # Errors
    /// As [`Solve::solve`].
    pub fn solve_monitored(&self, mut out: MatMut<'_, T>, rhs: MatRef<'_, T>) -> Result<Vec<AstraReport>, Error> {
        check_system(self.dim, &out, &rhs)?;
        let Astra { damping, momentum, steps, divergence, monitor_every, parallelism, .. } = self.options;
        let monitor = (monitor_every > 0).then_some(&*self.monitor);
        let iteration = HeavyBall { damping, momentum, divergence, parallelism, inverse: self.inverse, monitor };
        let tail = self.options.tail_average.map_or(0, |fraction| (fraction * steps as f64).ceil() as usize);
        let first = self.options.start.point(rhs, self.alpha, Some(self.inverse))?;
        let mut batch = self.batch_space()?;
        let mut scratch = zeros("operator scratch", Some(self.scratch_len(rhs.rows(), batch.len())))?;
        let mut state = iteration.start(rhs, first, tail > 0)?;
        for step in 0..steps {
            if step.checked_rem(monitor_every) == Some(0) {
                iteration.evaluate(&mut state, rhs, step)?;
            }
            if state.is_done() {
                break;
            }
            iteration.step(&mut state, rhs, step, self.alpha_at(step), |out, x| {
                self.product(step, out, x, &mut batch, &mut scratch)
            })?;
            if steps - step <= tail {
                iteration.average(&mut state, tail - (steps - step) + 1)?;
            }
        }
        state.settle();
        iteration.evaluate(&mut state, rhs, steps)?;
        out.copy_from(MatRef::new(&state.x, rhs.rows(), self.dim)?)?;
        Ok(state.rows.iter().map(|row| self.report(row)).collect())
    }

    fn alpha_at(&self, step: usize) -> f64 {
        let decays = step.checked_div(self.options.decay_every).unwrap_or(0);
        self.alpha * self.options.decay_factor.powi(i32::try_from(decays).unwrap_or(i32::MAX))
    }

    /// Room for the indices of a drawn batch.
    fn batch_space(&self) -> Result<Vec<usize>, CoreError> {
        zeros("batch", Some(if matches!(self.curvature, Curvature::Drawn(_)) { self.options.batch } else { 0 }))
    }

    fn scratch_len(&self, rows: usize, batch: usize) -> usize {
        match self.curvature {
            Curvature::Full(op) => op.scratch_len(rows),
            Curvature::Drawn(op) => op.examples_scratch_len(rows, batch),
            Curvature::Given(op, batches) => {
                batches.iter().map(|batch| op.examples_scratch_len(rows, batch.len())).max().unwrap_or(0)
            }
        }
    }

    /// The product with the curvature of step `step`.
    fn product(
        &self,
        step: usize,
        out: MatMut<'_, T>,
        x: MatRef<'_, T>,
        batch: &mut [usize],
        scratch: &mut [T],
    ) -> Result<(), CoreError> {
        match self.curvature {
            Curvature::Full(op) => op.apply(out, x, scratch),
            Curvature::Given(op, batches) => op.apply_examples(out, x, &batches[step], scratch),
            Curvature::Drawn(op) => {
                draw_batch(batch, op.examples(), Stream::new(self.options.seed, "astra.batch").child(step as u64));
                op.apply_examples(out, x, batch, scratch)
            }
        }
    }

    fn report(&self, row: &Progress) -> AstraReport {
        AstraReport {
            solve: SolveReport {
                stop: row.stop.unwrap_or(Stop::IterationLimit),
                iterations: row.iterations,
                operator_applications: row.applications,
                relative_residual: match (row.norm == 0.0, self.monitors_system) {
                    (true, _) => 0.0,
                    (false, true) => row.last.gradient / row.norm,
                    (false, false) => f64::NAN,
                },
            },
            objective_start: row.start,
            objective_end: row.last.value,
        }
    }
}

impl<T: Real> Solve<T> for PreparedAstra<'_, T> {
    fn dim(&self) -> usize {
        self.dim
    }

    fn solve(&self, out: MatMut<'_, T>, rhs: MatRef<'_, T>) -> Result<Vec<SolveReport>, Error> {
        Ok(self.solve_monitored(out, rhs)?.into_iter().map(|report| report.solve).collect())
    }
}
