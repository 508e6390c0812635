//! LiSSA: the Neumann series with a batch of examples drawn for every term.

use core::fmt;

use ascribe_core::random::Stream;
use ascribe_core::{Error as CoreError, ExampleLinOp, MatMut, MatRef, Real};

use super::neumann::{Iteration, Progress, Start, check_alpha, check_divergence};
use super::report::{Solve, SolveReport, Stop, check_operator, check_system};
use crate::Error;
use crate::error::zeros;
use crate::parallel::Parallelism;

/// Which examples a step uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batch {
    /// All of them: the deterministic iteration.
    Full,
    /// So many, drawn uniformly **with replacement**. Without replacement the batch and the iterate would depend on
    /// each other and the mean would be biased.
    Sampled(usize),
}

/// Approximates `(C + damping I)^-1 v` by `x <- x - alpha (C_t x + damping x - v)`, where `C_t` is the curvature on
/// a batch drawn for step `t`, and averages `repeats` such runs.
///
/// The iterates follow the full recursion in the mean. They stay bounded in mean square when
/// `alpha (largest eigenvalue + R / batch + damping) < 2`, `R` bounding the norm of one example's curvature. Every
/// batch is shared by all right-hand sides of a block.
///
/// There are four conventions in the field, which differ in what they call damping and scale; each is a named
/// constructor that says which system it solves.
///
/// | constructor | iteration | returned | solves |
/// |---|---|---|---|
/// | [`Lissa::koh_liang`] | `x <- v + (1-d) x - C x / s` | `x / s` | `C + s d I` |
/// | [`Lissa::torch_influence`] | `x <- v + x - (C + lambda I) x / s` | `x / s` | `C + lambda I` |
/// | [`Lissa::pydvl`] | `x <- v + (1-d) x - (C + lambda I) x / s` | `x / s` | `C + (lambda + s d) I` |
/// | [`Lissa::stochastic_neumann`] | `x <- x - alpha (C x + lambda x) + alpha v` | `x` | `C + lambda I` |
///
/// Cost: `steps * repeats` products on a batch. Memory: four vectors a right-hand side.
///
/// # Examples
/// ```
/// use ascribe_solvers::inverse::{Lissa, Start};
/// // A scale of 10 and a damping of 0.01 solve with 0.1 on the diagonal.
/// let lissa = Lissa::koh_liang(10.0, 0.01, 5000);
/// assert_eq!((lissa.alpha, lissa.damping, lissa.start), (0.1, 0.1, Start::AlphaRhs));
/// ```
///
/// # References
/// arXiv:1602.03943 (LiSSA); arXiv:1703.04730 (influence functions); arXiv:2507.14740, algorithm 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lissa {
    /// The step size; default 0.1.
    pub alpha: f64,
    /// What is added to the diagonal; default 0.
    pub damping: f64,
    /// Iterations of a run; default 1000.
    pub steps: usize,
    /// The first iterate; default `alpha v`.
    pub start: Start,
    /// Runs that are averaged, each with batches of its own; default 1.
    pub repeats: usize,
    /// The examples of a step; default 64 drawn ones.
    pub batch: Batch,
    /// Seed of the batches; default 0.
    pub seed: u64,
    /// Stop a run as diverged when its residual exceeds this times the larger of the first one and `|v|`; at least 1,
    /// infinite for never; default `1e6`.
    pub divergence: f64,
    /// Threads for the vector operations; default one.
    pub parallelism: Parallelism,
}

impl Default for Lissa {
    fn default() -> Self {
        Self {
            alpha: 0.1,
            damping: 0.0,
            steps: 1000,
            start: Start::AlphaRhs,
            repeats: 1,
            batch: Batch::Sampled(64),
            seed: 0,
            divergence: 1e6,
            parallelism: Parallelism::Serial,
        }
    }
}

impl Lissa {
    /// The convention of Koh and Liang: `scale` `s` and `damping` `d`, where `d` is relative to the scale.
    pub fn koh_liang(scale: f64, damping: f64, steps: usize) -> Self {
        Self::pydvl(scale, damping, 0.0, steps)
    }

    /// The convention of torch-influence: `lambda` is what is added to the diagonal.
    pub fn torch_influence(scale: f64, lambda: f64, steps: usize) -> Self {
        Self::pydvl(scale, 0.0, lambda, steps)
    }

    /// The convention of pyDVL: a `damping` relative to the scale beside a regularisation `lambda`.
    ///
    /// With `y = x / s`, `x <- v + (1-d) x - (C + lambda I) x / s` is `y <- y - (1/s) ((C + lambda I) y + s d y - v)`,
    /// and `x = v` at the start is `y = v / s`.
    pub fn pydvl(scale: f64, damping: f64, lambda: f64, steps: usize) -> Self {
        Self { alpha: 1.0 / scale, damping: lambda + scale * damping, steps, ..Self::default() }
    }

    /// Stochastic Neumann iterations as in the ASTRA paper: start at `v`, no rescaling of the result.
    pub fn stochastic_neumann(alpha: f64, lambda: f64, steps: usize) -> Self {
        Self { alpha, damping: lambda, steps, start: Start::Rhs, ..Self::default() }
    }

    /// Binds the options to a curvature operator.
    ///
    /// # Errors
    /// A shape error when `op` is not square, a damping error, [`CoreError::Parameter`] for an `alpha` that is not
    /// positive and finite, a `divergence` that is below 1 or NaN, or when `repeats` or the batch is 0,
    /// [`CoreError::Empty`] without examples.
    pub fn prepare<'o, T: Real>(&self, op: &'o dyn ExampleLinOp<T>) -> Result<PreparedLissa<'o, T>, Error> {
        check_operator(op, self.damping)?;
        check_alpha(self.alpha)?;
        check_divergence(self.divergence)?;
        if op.examples() == 0 {
            return Err(CoreError::Empty { what: "examples" }.into());
        }
        for (what, zero) in [("repeats", self.repeats == 0), ("batch", self.batch == Batch::Sampled(0))] {
            if zero {
                return Err(CoreError::Parameter { what, value: 0.0, must_be: "at least 1" }.into());
            }
        }
        Ok(PreparedLissa { options: *self, op })
    }
}

/// [`Lissa`] bound to an operator.
pub struct PreparedLissa<'o, T> {
    options: Lissa,
    op: &'o dyn ExampleLinOp<T>,
}

impl<T> fmt::Debug for PreparedLissa<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedLissa").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<T: Real> PreparedLissa<'_, T> {
    fn run(&self, rhs: MatRef<'_, T>, stream: Stream) -> Result<(Vec<T>, Vec<SolveReport>), Error> {
        let Lissa { alpha, damping, steps, divergence, parallelism, .. } = self.options;
        let iteration = Iteration { alpha, damping, rtol: 0.0, divergence, parallelism, preconditioner: None };
        let mut state = iteration.start(rhs, self.options.start)?;
        let mut batch = match self.options.batch {
            Batch::Full => Vec::new(),
            Batch::Sampled(size) => zeros("batch", Some(size))?,
        };
        let scratch = self.op.scratch_len(rhs.rows()).max(self.op.examples_scratch_len(rhs.rows(), batch.len()));
        let mut scratch = zeros("operator scratch", Some(scratch))?;
        for step in 1..=steps {
            let done = iteration.step(&mut state, rhs, step, |out, x| match self.options.batch {
                Batch::Full => self.op.apply(out, x, &mut scratch),
                Batch::Sampled(_) => {
                    let mut draws = stream.child(step as u64).draws();
                    for index in &mut batch {
                        *index = draws.next_index(self.op.examples());
                    }
                    self.op.apply_examples(out, x, &batch, &mut scratch)
                }
            })?;
            if done {
                break;
            }
        }
        Ok((state.x, state.columns.iter().map(Progress::report).collect()))
    }
}

impl<T: Real> Solve<T> for PreparedLissa<'_, T> {
    fn dim(&self) -> usize {
        self.op.dim_in()
    }

    fn solve(&self, mut out: MatMut<'_, T>, rhs: MatRef<'_, T>) -> Result<Vec<SolveReport>, Error> {
        check_system(self.dim(), &out, &rhs)?;
        let repeats = self.options.repeats;
        let stream = Stream::new(self.options.seed, "lissa.batch");
        let (mut mean, mut reports) = self.run(rhs, stream.child(0))?;
        for repeat in 1..repeats {
            let (x, more) = self.run(rhs, stream.child(repeat as u64))?;
            ascribe_core::reduce::axpy(&mut mean, T::ONE, &x)?;
            for (report, more) in reports.iter_mut().zip(more) {
                report.iterations += more.iterations;
                report.operator_applications += more.operator_applications;
                // One run that diverged spoils the mean.
                if matches!(more.stop, Stop::Diverged { .. }) {
                    report.stop = more.stop;
                }
            }
        }
        if repeats > 1 {
            ascribe_core::reduce::scale(&mut mean, T::from_f64(1.0 / repeats as f64));
        }
        if self.options.batch != Batch::Full || repeats > 1 {
            for (report, v) in reports.iter_mut().zip(rhs.row_iter()) {
                let zero = v.iter().all(|&x| x == T::ZERO);
                report.relative_residual = if zero { 0.0 } else { f64::NAN };
            }
        }
        out.copy_from(MatRef::new(&mean, rhs.rows(), self.dim())?)?;
        Ok(reports)
    }
}
