//! Gradient descent with momentum under preconditioners that are Kronecker products: KL-Shampoo's step, for any root.

use ascribe_core::{Error as CoreError, MatRef, Real};

use super::check::{check_beta, check_rate};
use super::kronecker_observation::Observation;
use super::kronecker_operator::check_root;
use super::kronecker_state::Next;
use super::modes::products;
use super::state::{Common, Field, Kind, Saved, State, diverged, implement_optimizer, share};
use super::{KroneckerSpectral, KroneckerState, Layout};
use crate::Error;
use crate::curvature::Blocks;
use crate::error::{check_finite, zeros};
use crate::parallel::{Parallelism, for_each};

/// For each layer, a weight `[rows, cols]` with gradient `G`: with the bases and eigenvalues of its
/// [preconditioner](KroneckerSpectral) `S` before the step,
///
/// $$G' = B_K^\top G B_C, \quad m \leftarrow \beta_1 m + (1-\beta_1) G', \quad
/// W \leftarrow (1 - \eta\lambda) \Big(W - \eta\, B_K \frac{m}{S^{1/p} + \epsilon} B_C^\top\Big),$$
///
/// after which `S` learns from `G`, and `m` is carried over to bases that have moved. A tensor is the matrix of its first
/// axis by the others, a vector one column.
///
/// **The first gradient moves nothing**: it [initialises](KroneckerState::initialise) the preconditioners. The averages are
/// without corrections of their bias.
///
/// Cost for a matrix: `4 r c (r + c)` flops a step, and what [`KroneckerSpectral`] says of the bases and `4 r c (r + c)`
/// when these move. Memory: that of the preconditioner and one number for each parameter; a step writes beside the old
/// state, so that an error leaves it as it is.
///
/// # Errors
/// [`KroneckerDescent::start`] refuses rates that are negative or not finite, a `beta1` outside `[0, 1)`, a root of 0
/// ([`CoreError::Parameter`]) and what [`KroneckerSpectral::start`] does; sizes that do not fit into memory
/// ([`CoreError::Overflow`]).
///
/// # Examples
/// ```
/// use ascribe_solvers::{parallel::Parallelism, precondition::{KroneckerDescent, Layout, Optimizer}};
/// let layout = Layout::new(&[("w", &[2, 2])])?;
/// let options = KroneckerDescent { learning_rate: 0.05, ..KroneckerDescent::default() };
/// let (mut optimizer, mut w) = (options.start(&layout, Parallelism::Serial)?, [1.0_f64, 2.0, 3.0, 4.0]);
/// for _ in 0..300 {
///     let gradient = w; // of |W|^2 / 2
///     optimizer.step(&mut w, &gradient)?;
/// }
/// assert!(w.iter().all(|x| x.abs() < 0.3));
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Lin et al., arXiv:2502.06268 and arXiv:2509.03378, as [`KroneckerSpectral`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KroneckerDescent {
    /// `eta`; default 1e-3.
    pub learning_rate: f64,
    /// Weight of the past in `m`; default 0.9.
    pub beta1: f64,
    /// The root: 2, the default, divides by the root of the curvature, as Adam and Shampoo do; 1 by the curvature.
    pub p: f64,
    /// Added to the root; default 1e-8.
    pub epsilon: f64,
    /// `lambda`; default 0.
    pub weight_decay: f64,
    /// The preconditioners. Their threads are those of [`KroneckerDescent::start`].
    pub preconditioner: KroneckerSpectral,
}

impl Default for KroneckerDescent {
    fn default() -> Self {
        let preconditioner = KroneckerSpectral::default();
        Self { learning_rate: 1e-3, beta1: 0.9, p: 2.0, epsilon: 1e-8, weight_decay: 0.0, preconditioner }
    }
}

impl KroneckerDescent {
    /// A state with no step made.
    ///
    /// # Errors
    /// See [`KroneckerDescent`].
    pub fn start<T: Real>(&self, layout: &Layout, par: Parallelism) -> Result<KroneckerDescentState<T>, Error> {
        check_rate("learning rate", self.learning_rate)?;
        check_rate("weight decay", self.weight_decay)?;
        check_beta("beta1", self.beta1)?;
        check_root(self.p, self.epsilon)?;
        let shape = |shape: &[usize]| match shape.split_first() {
            Some((&rows, others)) => [rows, others.iter().product()],
            None => [1, 1],
        };
        // The other axes of a layer without elements may have any product.
        let layers = layout.layers().iter().enumerate().filter(|(_, layer)| !layer.range().is_empty());
        let shapes: Vec<_> = layers.map(|(index, layer)| (index, shape(layer.shape()))).collect();
        let cost = |&(_, [r, c]): &(usize, [usize; 2])| (r * c) as f64 * (r as f64 + c as f64);
        let [outer, parallelism] = share(par, shapes.iter().map(cost));
        let preconditioner = KroneckerSpectral { parallelism, ..self.preconditioner };
        let layer = |(index, [rows, cols]): (usize, [usize; 2])| {
            let momentum = zeros("momentum of a layer", Some(rows * cols))?;
            Ok(Layer { index, preconditioner: preconditioner.start(rows, cols)?, momentum })
        };
        let layers = shapes.into_iter().map(layer).collect::<Result<_, Error>>()?;
        Ok(KroneckerDescentState { options: *self, common: Common::new(layout, outer), layers })
    }
}

/// [`KroneckerDescent`] at work.
#[derive(Debug, Clone)]
pub struct KroneckerDescentState<T> {
    options: KroneckerDescent,
    /// Its steps are the gradients taken in; the first of them moved nothing.
    common: Common,
    /// Those that have elements.
    layers: Vec<Layer<T>>,
}

#[derive(Debug, Clone)]
struct Layer<T> {
    index: usize,
    preconditioner: KroneckerState<T>,
    /// In the eigenbasis.
    momentum: Vec<T>,
}

/// What a step makes of a layer.
enum Change<T> {
    First(KroneckerState<T>),
    Step { weight: Vec<T>, momentum: Vec<T>, next: Next<T> },
}

impl<T: Real> KroneckerDescentState<T> {
    /// The preconditioner of the layer with this number; none for a layer without elements.
    pub fn preconditioner(&self, layer: usize) -> Option<&KroneckerState<T>> {
        self.layers.iter().find(|own| own.index == layer).map(|layer| &layer.preconditioner)
    }

    /// What the preconditioners have learned, as a curvature for inverse-curvature products: `examples * S` for each layer.
    ///
    /// `S` estimates the Fisher matrix of the batch's mean gradient; `examples`, the size of that batch, makes it one of a
    /// single example. See [`AdamWState::curvature`](super::AdamWState::curvature).
    ///
    /// # Errors
    /// [`CoreError::Empty`] before the second gradient, the first that is learned from; [`Error::Mismatch`] for a layer
    /// without elements; [`Error::Block`] when `examples` is negative or not finite.
    pub fn curvature(&self, examples: f64) -> Result<Blocks<T>, Error> {
        if self.common.steps < 2 {
            return Err(CoreError::Empty { what: "steps of the optimizer" }.into());
        }
        let block = |(index, layer): (usize, &super::Parameter)| {
            let missing = || Error::Mismatch { what: "layer and a preconditioner" }.in_block(layer.name());
            self.preconditioner(index).ok_or_else(missing)?.block(layer.name(), examples)
        };
        Ok(Blocks::new(self.common.layout.layers().iter().enumerate().map(block).collect::<Result<_, _>>()?))
    }
}

impl<T: Real> Layer<T> {
    /// Step `t` on the weight `w` with the gradient `g`.
    fn change(&self, options: &KroneckerDescent, t: u64, w: &[T], g: &[T]) -> Result<Change<T>, Error> {
        let (state, gradient) = (&self.preconditioner, MatRef::from_row(g));
        if t == 1 {
            return Ok(Change::First(state.initialised(gradient)?));
        }
        let KroneckerDescent { learning_rate, beta1, p, epsilon, weight_decay, .. } = *options;
        let (shape, par, bases) = (state.shape(), state.options().parallelism, state.bases()?);
        let next = state.next(&bases, Observation::Gradients(gradient))?;
        let (keep, add) = (T::from_f64(beta1), T::from_f64(1.0 - beta1));
        let mut momentum: Vec<T> = self.momentum.iter().zip(&next.rotated).map(|(&m, &g)| keep * m + add * g).collect();
        let mut weight = momentum.clone();
        state.divide(&mut weight, p, epsilon);
        products(&mut weight, bases.iter().map(|basis| Some(&basis[..])), false, &shape, par)?;
        let (rate, shrink) = (T::from_f64(learning_rate), T::from_f64(1.0 - learning_rate * weight_decay));
        weight.iter_mut().zip(w).for_each(|(x, &w)| *x = shrink * (w - rate * *x));
        check_finite("weight", &weight)?;
        // From an axis whose basis moves to its new one.
        let moves =
            || next.moved.iter().zip(&bases).map(|(moved, old)| moved.basis.as_deref().map(|new| (&old[..], new)));
        products(&mut momentum, moves().map(|bases| bases.map(|(old, _)| old)), false, &shape, par)?;
        products(&mut momentum, moves().map(|bases| bases.map(|(_, new)| new)), true, &shape, par)?;
        check_finite("momentum", &momentum)?;
        Ok(Change::Step { weight, momentum, next })
    }
}

impl<T: Real> Saved<T> for KroneckerDescentState<T> {
    #[cfg(feature = "safetensors")]
    const KIND: &'static str = "kronecker descent";

    #[cfg(feature = "safetensors")]
    fn shapes(&self) -> Vec<(&str, Vec<usize>)> {
        self.common.shapes()
    }

    fn fields(&mut self) -> Vec<(String, Field<'_, T>)> {
        let mut fields = self.common.fields();
        for layer in &mut self.layers {
            fields.push((format!("{}.m", layer.index), Field::Numbers(Kind::Measured, &mut layer.momentum)));
            let own = layer.preconditioner.fields();
            fields.extend(own.into_iter().map(|(name, field)| (format!("{}.{name}", layer.index), field)));
        }
        fields
    }

    #[cfg(feature = "safetensors")]
    fn validate(&self) -> Result<(), Error> {
        self.layers.iter().try_for_each(|layer| layer.preconditioner.validate())
    }
}

impl<T: Real> State<T> for KroneckerDescentState<T> {
    fn common(&self) -> &Common {
        &self.common
    }

    fn common_mut(&mut self) -> &mut Common {
        &mut self.common
    }

    fn reach(&self, _: f64, _: f64) -> f64 {
        0.0
    }

    fn advance(&mut self, t: u64, params: &mut [T], gradients: &[T]) -> Result<(), Error> {
        let (options, layout, weights) = (&self.options, &self.common.layout, &*params);
        let mut changes: Vec<Option<Change<T>>> = self.layers.iter().map(|_| None).collect();
        let tasks = self.layers.iter().zip(&mut changes).collect();
        for_each(self.common.par, tasks, |(layer, change): (&Layer<T>, &mut Option<Change<T>>)| {
            let range = layout.layers()[layer.index].range();
            *change = Some(layer.change(options, t, &weights[range.clone()], &gradients[range])?);
            Ok(())
        })
        .map_err(|error| match error {
            Error::Core(CoreError::NonFinite { .. }) => diverged(t),
            other => other,
        })?;
        for (layer, change) in self.layers.iter_mut().zip(changes.into_iter().flatten()) {
            match change {
                Change::First(preconditioner) => layer.preconditioner = preconditioner,
                Change::Step { weight, momentum, next } => {
                    params[layout.layers()[layer.index].range()].copy_from_slice(&weight);
                    layer.momentum = momentum;
                    layer.preconditioner.take(next);
                }
            }
        }
        Ok(())
    }
}

implement_optimizer!(KroneckerDescentState);
