//! One block of Shampoo, from step to step.

use ascribe_core::{Error as CoreError, MatRef, Real, reduce};

use super::{Decay, Shampoo};
use crate::Error;
use crate::error::zeros;
use crate::parallel::Parallelism;
use crate::precondition::Block;
use crate::precondition::modes::{accumulate, products};
use crate::precondition::state::bias_correction;
use crate::precondition::transpose::mirrored;

/// Keeps the quotient of two norms finite; as in the reference code.
const TINY: f64 = 1e-16;

#[derive(Debug, Clone)]
pub(super) struct BlockState<T> {
    /// The number of the block.
    pub(super) index: usize,
    shape: Vec<usize>,
    pub(super) factors: Vec<Factor<T>>,
    /// Second moments of the grafting; empty when it has none, as the following are where they are not needed.
    pub(super) squares: Vec<T>,
    /// The mean of the gradients.
    pub(super) average: Vec<T>,
    /// What momentum carries.
    pub(super) velocity: Vec<T>,
    pub(super) failures: u64,
}

/// The preconditioner of one axis; without elements where its exponent is 0.
#[derive(Debug, Clone)]
pub(super) struct Factor<T> {
    exponent: f64,
    dim: usize,
    /// The lower triangle of `L`.
    pub(super) lower: Vec<T>,
    pub(super) root: Vec<T>,
    /// Eigenvectors of the last root, for the engine that refines them.
    pub(super) basis: Vec<T>,
    /// How many roots there were.
    pub(super) roots: u64,
}

impl<T: Real> BlockState<T> {
    pub(super) fn new(options: &Shampoo, index: usize, block: &Block) -> Result<Self, Error> {
        let axes = block.shape().len();
        let factor = |(axis, &dim): (usize, &usize)| {
            let exponent = options.exponent(axis, axes);
            if exponent == 0.0 {
                return Ok(Factor { exponent, dim, lower: vec![], root: vec![], basis: vec![], roots: 0 });
            }
            options.engine.check(exponent)?;
            let square = || zeros::<T>("factor of a block", dim.checked_mul(dim));
            let mut root = square()?;
            root.iter_mut().step_by(dim + 1).for_each(|x| *x = T::ONE);
            let basis = if options.engine.has_basis() { square()? } else { vec![] };
            Ok::<_, Error>(Factor { exponent, dim, lower: square()?, root, basis, roots: 0 })
        };
        let moment = |wanted| zeros("moments of a block", Some(if wanted { block.len() } else { 0 }));
        Ok(Self {
            index,
            shape: block.shape().to_vec(),
            factors: block.shape().iter().enumerate().map(factor).collect::<Result<_, _>>()?,
            squares: moment(options.grafting.has_moment())?,
            average: moment(options.beta1 != 0.0)?,
            velocity: moment(options.momentum != 0.0)?,
            failures: 0,
        })
    }

    /// Whether it has as many elements as a layer with `len`.
    pub(super) fn is_whole(&self, len: usize) -> bool {
        self.shape.iter().product::<usize>() == len
    }

    /// The factors as full matrices with their sizes; `None` when one is missing.
    pub(super) fn full_factors(&self) -> Option<Vec<(usize, Vec<T>)>> {
        let full =
            |factor: &Factor<T>| (factor.exponent != 0.0).then(|| (factor.dim, mirrored(&factor.lower, factor.dim)));
        self.factors.iter().map(full).collect()
    }

    /// See [`State::reach`](crate::precondition::state::State::reach); `largest` gradient and `steps` are those so far.
    pub(super) fn reach(&self, options: &Shampoo, largest: f64, steps: u64, params: f64, gradient: f64) -> f64 {
        let len = self.shape.iter().product::<usize>() as f64;
        let decay = options.weight_decay * params * len.sqrt();
        let gradient = largest.max(gradient + if options.decay == Decay::L2 { decay } else { 0.0 });
        // Sums grow with the steps; means do not.
        let squares = gradient * gradient * (steps as f64 + 1.0);
        let filtered = gradient / (1.0 - options.beta1.max(options.beta3()));
        let roots = self.factors.iter().filter(|factor| factor.exponent != 0.0).fold(1.0, |product: f64, factor| {
            // A new root or the one there is.
            let new = options.engine.reach(factor.dim, factor.exponent, options.epsilon);
            product * new.max(reduce::norm2(&factor.root).to_f64()).max(1.0)
        });
        let grafted = filtered * options.grafting.reach();
        let step = filtered * roots + (grafted + filtered) + decay;
        let velocity = (reduce::norm2(&self.velocity).to_f64() + step) * 2.0;
        let moved = params + options.learning_rate * (velocity + step + 1.0) + options.weight_decay;
        // Norms are as large as the elements times the root of their number; their quotient may be large by itself.
        let quotient = if grafted > 0.0 { grafted / TINY + grafted * len.sqrt() } else { 0.0 };
        let mean = if options.beta2 < 1.0 { squares / (1.0 - options.beta2) } else { 0.0 };
        squares + step + velocity + moved + quotient + mean
    }

    /// Step `t` on the weights `w` with the gradient `g`.
    pub(super) fn advance(
        &mut self,
        options: &Shampoo,
        t: u64,
        w: &mut [T],
        mut g: Vec<T>,
        par: Parallelism,
    ) -> Result<(), Error> {
        let decay = T::from_f64(options.weight_decay);
        if options.decay == Decay::L2 && options.weight_decay != 0.0 {
            reduce::axpy(&mut g, decay, w)?;
        }
        let own = if options.beta2 == 1.0 { 1.0 } else { 1.0 - options.beta2 };
        for (axis, factor) in self.factors.iter_mut().enumerate().filter(|(_, factor)| factor.exponent != 0.0) {
            accumulate(&mut factor.lower, options.beta2, own, &g, &self.shape, axis, par)?;
        }
        options.grafting.accumulate(&mut self.squares, &g);
        let start = options.start_at();
        if t == start || (t > start && t.is_multiple_of(options.frequency)) {
            self.refresh(options, t, par);
        }

        self.filter(options, t, &mut g);
        let grafted = options.grafting.direction(&g, &self.squares, t);
        let mut step = match grafted {
            Some(grafted) if t < start => grafted,
            grafted => {
                // Without a root yet it is the identity.
                let roots = self.factors.iter().map(|factor| (factor.roots > 0).then_some(&factor.root[..]));
                products(&mut g, roots, false, &self.shape, par)?;
                if let Some(grafted) = grafted {
                    let ratio = reduce::norm2(&grafted).to_f64() / (reduce::norm2(&g).to_f64() + TINY);
                    reduce::scale(&mut g, T::from_f64(ratio));
                }
                g
            }
        };
        if options.decay == Decay::Decoupled && options.weight_decay != 0.0 {
            reduce::axpy(&mut step, decay, w)?;
        }
        if options.momentum != 0.0 {
            let [momentum, own] = [options.momentum, 1.0 - options.dampening].map(T::from_f64);
            for (velocity, step) in self.velocity.iter_mut().zip(&mut step) {
                *velocity = momentum * *velocity + own * *step;
                *step = if options.nesterov { own * *step + momentum * *velocity } else { *velocity };
            }
        }
        reduce::axpy(w, T::from_f64(-options.learning_rate), &step)?;
        Ok(())
    }

    /// Turns the gradient into the filtered one, and takes it into the mean.
    fn filter(&mut self, options: &Shampoo, t: u64, g: &mut [T]) {
        if options.beta1 == 0.0 {
            return;
        }
        let (beta1, beta3) = (options.beta1, options.beta3());
        let correction =
            if options.bias_correction { 1.0 - beta3 * (1.0 - bias_correction(beta1, t - 1)) } else { 1.0 };
        let [b1, own1, b3, own3, correction] = [beta1, 1.0 - beta1, beta3, 1.0 - beta3, correction].map(T::from_f64);
        for (m, g) in self.average.iter_mut().zip(g) {
            let filtered = (b3 * *m + own3 * *g) / correction;
            *m = b1 * *m + own1 * *g;
            *g = filtered;
        }
    }

    /// New roots; one that fails leaves the old one in place.
    fn refresh(&mut self, options: &Shampoo, t: u64, par: Parallelism) {
        let corrected = options.bias_correction && options.beta2 < 1.0;
        let correction = if corrected { bias_correction(options.beta2, t) } else { 1.0 };
        for factor in self.factors.iter_mut().filter(|factor| factor.exponent != 0.0) {
            if factor.refresh(options, correction, par).is_err() {
                self.failures = self.failures.saturating_add(1);
            }
        }
    }
}

impl<T: Real> Factor<T> {
    fn refresh(&mut self, options: &Shampoo, correction: f64, par: Parallelism) -> Result<(), Error> {
        let lower: Vec<f64> = self.lower.iter().map(|x| x.to_f64() / correction).collect();
        let full = mirrored(&lower, self.dim);
        let basis: Vec<f64> = self.basis.iter().map(|x| x.to_f64()).collect();
        let basis = (self.roots > 0).then_some(&basis[..]);
        let a = MatRef::new(&full, self.dim, self.dim)?;
        let (root, basis) = options.engine.root(a, self.exponent, options.epsilon, basis, par)?;
        let root: Vec<T> = root.into_iter().map(T::from_f64).collect();
        if let Some(index) = root.iter().position(|x| !x.is_finite()) {
            return Err(CoreError::NonFinite { what: "root", index }.into());
        }
        self.root = root;
        if let Some(basis) = basis {
            self.basis = basis.into_iter().map(T::from_f64).collect();
        }
        self.roots = self.roots.saturating_add(1);
        Ok(())
    }
}
