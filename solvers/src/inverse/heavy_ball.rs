//! Preconditioned iterations with momentum on a block of right-hand sides, watched by their objective.

use std::sync::atomic::{AtomicBool, Ordering};

use ascribe_core::reduce::{dot, norm2};
use ascribe_core::{Error as CoreError, LinOp, MatMut, MatRef, Real};

use super::report::Stop;
use crate::Error;
use crate::error::zeros;
use crate::parallel::{Parallelism, for_each};

/// Elements of a row that one task updates: 256 KiB of `f32` over the four vectors that it touches.
const SEGMENT: usize = 1 << 14;

/// `m <- momentum m + W (A_t x + damping x - v)`, `x <- x - alpha_t m`; the operator may be another one at every step.
pub(super) struct HeavyBall<'o, T> {
    pub damping: f64,
    pub momentum: f64,
    /// The increase of the objective, relative to it, that counts as divergence.
    pub divergence: f64,
    pub parallelism: Parallelism,
    /// `W`.
    pub inverse: &'o dyn LinOp<T>,
    /// What the objective is evaluated with, if it is.
    pub monitor: Option<&'o dyn LinOp<T>>,
}

/// The objective and the norm of its gradient.
#[derive(Debug, Clone, Copy)]
pub(super) struct Objective {
    pub value: f64,
    pub gradient: f64,
}

/// How one right-hand side stands.
#[derive(Debug)]
pub(super) struct Progress {
    pub norm: f64,
    pub start: f64,
    best: Objective,
    pub last: Objective,
    pub iterations: usize,
    pub applications: usize,
    pub stop: Option<Stop>,
    /// Whether the next iterate has left the finite numbers; set by any of the tasks that compute it.
    overflow: AtomicBool,
}

/// The vectors of a block, `[k, n]` each.
pub(super) struct State<T> {
    pub x: Vec<T>,
    /// The residual, and once that has been used, the next iterate.
    next: Vec<T>,
    /// What the preconditioner makes of the residual; between the steps, the gradient of the objective.
    direction: Vec<T>,
    momentum: Vec<T>,
    /// The iterate with the smallest objective; empty without a monitor.
    best: Vec<T>,
    /// The mean of the last iterates; empty when none is wanted.
    mean: Vec<T>,
    scratch: Vec<T>,
    pub rows: Vec<Progress>,
}

/// What a task computes of a row's next iterate.
struct Segment<'s, T> {
    next: &'s mut [T],
    momentum: &'s mut [T],
    direction: &'s [T],
    x: &'s [T],
    overflow: &'s AtomicBool,
}

/// A right-hand side whose objective is evaluated.
struct Line<'l, T> {
    x: &'l mut [T],
    best: &'l mut [T],
    gradient: &'l mut [T],
    v: &'l [T],
    progress: &'l mut Progress,
}

impl Progress {
    /// With a first iterate `x` for `v`; that of a zero `v`, or one that is not finite, is replaced by 0.
    fn new<T: Real>(x: &mut [T], v: &[T]) -> Self {
        let norm = norm2(v).to_f64();
        let stop = if norm == 0.0 {
            Some(Stop::Converged)
        } else {
            let finite = x.iter().all(|x| x.is_finite());
            (!finite).then_some(Stop::Diverged { step: 0 })
        };
        let mut first = Objective { value: f64::NAN, gradient: f64::NAN };
        if stop.is_some() {
            x.fill(T::ZERO);
            first = Objective { value: 0.0, gradient: norm };
        }
        let overflow = AtomicBool::new(false);
        Self { norm, start: first.value, best: first, last: first, iterations: 0, applications: 0, stop, overflow }
    }

    /// Notes the objective after `step` steps; `along` is `x . v`, one of its two terms.
    fn judge<T: Copy>(&mut self, at: Objective, along: f64, divergence: f64, step: usize, x: &mut [T], best: &mut [T]) {
        self.applications += 1;
        if self.start.is_nan() {
            self.start = at.value;
            self.best = at;
        }
        self.last = at;
        // Near its zero the objective is no measure of its terms.
        let scale = self.best.value.abs().max(along.abs());
        if !at.value.is_finite() || at.value > self.best.value + divergence * scale {
            x.copy_from_slice(best);
            self.last = self.best;
            self.stop = Some(Stop::Diverged { step });
        } else if at.value <= self.best.value {
            best.copy_from_slice(x);
            self.best = at;
        }
    }
}

impl<T: Real> State<T> {
    /// Whether no right-hand side runs any more. None does without elements.
    pub(super) fn is_done(&self) -> bool {
        self.rows.iter().all(|row| row.stop.is_some())
    }

    /// Takes the mean, if one was asked for, as the last iterate of each right-hand side that still runs.
    pub(super) fn settle(&mut self) {
        let n = self.x.len().checked_div(self.rows.len()).unwrap_or(0).max(1);
        for ((x, mean), row) in self.x.chunks_exact_mut(n).zip(self.mean.chunks_exact(n)).zip(&self.rows) {
            if row.stop.is_none() {
                x.copy_from_slice(mean);
            }
        }
    }

    /// Makes the next iterates the current ones, except where a right-hand side has stopped or stops now, because
    /// its iterate is not finite: then the best one stays, or without a monitor the last.
    fn accept(&mut self, n: usize, step: usize) {
        let kept = if self.best.is_empty() { &self.x } else { &self.best };
        let lines = self.next.chunks_exact_mut(n).zip(kept.chunks_exact(n)).zip(self.x.chunks_exact(n));
        for (((next, kept), x), row) in lines.zip(&mut self.rows) {
            if row.stop.is_some() {
                next.copy_from_slice(x);
                continue;
            }
            row.applications += 1;
            if *row.overflow.get_mut() {
                next.copy_from_slice(kept);
                row.last = row.best;
                row.stop = Some(Stop::Diverged { step: step + 1 });
            } else {
                row.iterations = step + 1;
            }
        }
        std::mem::swap(&mut self.x, &mut self.next);
    }
}

impl<T: Real> HeavyBall<'_, T> {
    /// The state at the first iterates `x`, `[k, n]`.
    pub(super) fn start(&self, rhs: MatRef<'_, T>, mut x: Vec<T>, with_mean: bool) -> Result<State<T>, Error> {
        let (k, n) = (rhs.rows(), rhs.cols());
        let rows = rhs.row_iter().enumerate().map(|(i, v)| Progress::new(&mut x[i * n..(i + 1) * n], v)).collect();
        let scratch = self.inverse.scratch_len(k).max(self.monitor.map_or(0, |monitor| monitor.scratch_len(k)));
        Ok(State {
            next: vec![T::ZERO; k * n],
            direction: vec![T::ZERO; k * n],
            momentum: vec![T::ZERO; k * n],
            best: if self.monitor.is_some() { x.clone() } else { Vec::new() },
            mean: if with_mean { x.clone() } else { Vec::new() },
            scratch: zeros("operator scratch", Some(scratch))?,
            x,
            rows,
        })
    }

    /// Evaluates the objective `x A x / 2 - x . v` of every right-hand side that runs, if there is a monitor.
    pub(super) fn evaluate(&self, state: &mut State<T>, rhs: MatRef<'_, T>, step: usize) -> Result<(), Error> {
        let (Some(monitor), false) = (self.monitor, state.is_done()) else { return Ok(()) };
        let (k, n) = (rhs.rows(), rhs.cols());
        let product = MatMut::new(&mut state.direction, k, n)?;
        monitor.apply(product, MatRef::new(&state.x, k, n)?, &mut state.scratch)?;
        let rows = state.x.chunks_exact_mut(n).zip(state.best.chunks_exact_mut(n));
        let rows = rows.zip(state.direction.chunks_exact_mut(n)).zip(rhs.row_iter()).zip(&mut state.rows);
        let lines = rows.map(|((((x, best), gradient), v), progress)| Line { x, best, gradient, v, progress });
        let active = lines.filter(|line| line.progress.stop.is_none()).collect();
        let (damping, divergence) = (T::from_f64(self.damping), self.divergence);
        for_each(self.parallelism, active, |Line { x, best, gradient, v, progress }: Line<'_, T>| {
            for ((g, &x), &v) in gradient.iter_mut().zip(&*x).zip(v) {
                *g += damping * x - v;
            }
            let along = dot(x, v)?.to_f64();
            // x . (A x - v) - x . v = x A x - 2 x . v
            let value = 0.5 * (dot(x, gradient)?.to_f64() - along);
            let at = Objective { value, gradient: norm2(gradient).to_f64() };
            progress.judge(at, along, divergence, step, x, best);
            Ok::<(), Error>(())
        })
    }

    /// Step `step`, counted from 0. All right-hand sides share the products, those that have stopped too: a block of
    /// fixed shape keeps the cost of a step plain.
    pub(super) fn step(
        &self,
        state: &mut State<T>,
        rhs: MatRef<'_, T>,
        step: usize,
        alpha: f64,
        product: impl FnOnce(MatMut<'_, T>, MatRef<'_, T>) -> Result<(), CoreError>,
    ) -> Result<(), Error> {
        let (k, n) = (rhs.rows(), rhs.cols());
        let State { x, next, direction, momentum, rows, scratch, .. } = state;
        product(MatMut::new(next, k, n)?, MatRef::new(x, k, n)?)?;
        let damping = T::from_f64(self.damping);
        let lines = next.chunks_exact_mut(n).zip(x.chunks_exact(n)).zip(rhs.row_iter());
        let segments = lines.flat_map(|((r, x), v)| {
            r.chunks_mut(SEGMENT).zip(x.chunks(SEGMENT)).zip(v.chunks(SEGMENT)).map(|((r, x), v)| (r, x, v))
        });
        for_each(self.parallelism, segments.collect(), |(r, x, v): (&mut [T], &[T], &[T])| {
            for ((r, &x), &v) in r.iter_mut().zip(x).zip(v) {
                *r += damping * x - v;
            }
            Ok::<(), Error>(())
        })?;
        self.inverse.apply(MatMut::new(direction, k, n)?, MatRef::new(next, k, n)?, scratch)?;
        let (alpha, beta) = (T::from_f64(alpha), T::from_f64(self.momentum));
        let lines = next.chunks_exact_mut(n).zip(momentum.chunks_exact_mut(n)).zip(direction.chunks_exact(n));
        let segments =
            lines.zip(x.chunks_exact(n)).zip(&*rows).flat_map(|((((next, momentum), direction), x), row)| {
                let parts = next.chunks_mut(SEGMENT).zip(momentum.chunks_mut(SEGMENT)).zip(direction.chunks(SEGMENT));
                parts.zip(x.chunks(SEGMENT)).map(|(((next, momentum), direction), x)| {
                    let overflow = &row.overflow;
                    Segment { next, momentum, direction, x, overflow }
                })
            });
        for_each(self.parallelism, segments.collect(), |segment: Segment<'_, T>| {
            segment.advance(alpha, beta);
            Ok::<(), Error>(())
        })?;
        state.accept(n, step);
        Ok(())
    }

    /// Takes the iterates into the mean, as the `count`-th.
    pub(super) fn average(&self, state: &mut State<T>, count: usize) -> Result<(), Error> {
        let new = T::ONE / T::from_f64(count as f64);
        // A convex combination of finite numbers is finite.
        let old = T::ONE - new;
        let segments = state.mean.chunks_mut(SEGMENT).zip(state.x.chunks(SEGMENT)).collect();
        for_each(self.parallelism, segments, |(mean, x): (&mut [T], &[T])| {
            mean.iter_mut().zip(x).for_each(|(mean, &x)| *mean = old * *mean + new * x);
            Ok::<(), Error>(())
        })
    }
}

impl<T: Real> Segment<'_, T> {
    fn advance(self, alpha: T, beta: T) {
        let Self { next, momentum, direction, x, overflow } = self;
        let mut finite = true;
        for (((next, m), &d), &x) in next.iter_mut().zip(momentum).zip(direction).zip(x) {
            *m = beta * *m + d;
            *next = x - alpha * *m;
            finite &= next.is_finite();
        }
        if !finite {
            overflow.store(true, Ordering::Relaxed);
        }
    }
}
