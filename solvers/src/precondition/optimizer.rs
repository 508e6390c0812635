//! What every optimizer here is: a state over the named layers of one flat parameter vector.

use std::collections::HashSet;

use ascribe_core::{Error as CoreError, Real, reduce};

use crate::Error;
use crate::error::{check_finite, check_shape};
use crate::network::Mlp;

/// One layer of a flat parameter vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    name: String,
    shape: Vec<usize>,
    offset: usize,
    len: usize,
}

impl Parameter {
    /// The layer's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The lengths of its axes, row-major; none for a single number.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its elements in the flat vector.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len
    }
}

/// How a flat parameter vector is divided into layers: one after the other, each row-major.
///
/// # Examples
/// ```
/// use ascribe_solvers::precondition::Layout;
/// let layout = Layout::new(&[("fc.weight", &[3, 4]), ("fc.bias", &[3])])?;
/// assert_eq!(layout.len(), 15);
/// assert_eq!(layout.layers()[1].range(), 12..15);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    layers: Vec<Parameter>,
    len: usize,
}

impl Layout {
    /// Layers with their names and shapes, in the order in which they lie in the vector.
    ///
    /// # Errors
    /// [`CoreError::Duplicate`] for a name that occurs twice, [`CoreError::Overflow`] when the sizes do not fit.
    pub fn new(layers: &[(&str, &[usize])]) -> Result<Self, Error> {
        let (mut names, mut all, mut end) = (HashSet::new(), Vec::with_capacity(layers.len()), 0_usize);
        for (index, &(name, shape)) in layers.iter().enumerate() {
            if !names.insert(name) {
                return Err(CoreError::Duplicate { what: "layer names", index }.into());
            }
            let overflow = CoreError::Overflow { what: "parameters" };
            let len = shape.iter().try_fold(1_usize, |len, &dim| len.checked_mul(dim)).ok_or(overflow)?;
            all.push(Parameter { name: name.to_owned(), shape: shape.to_vec(), offset: end, len });
            end = end.checked_add(len).ok_or(overflow)?;
        }
        Ok(Self { layers: all, len: end })
    }

    /// The layers of a network, named by their numbers: each the matrix `[outputs, inputs (+1)]`, bias last.
    ///
    /// # Errors
    /// None that a network can cause; the signature is that of [`Layout::new`].
    pub fn of(net: &Mlp) -> Result<Self, Error> {
        let names: Vec<_> = (0..net.layers().len()).map(|l| l.to_string()).collect();
        let shapes: Vec<_> = net.layers().iter().map(|layer| [layer.outputs, layer.cols()]).collect();
        Self::new(&names.iter().zip(&shapes).map(|(name, shape)| (name.as_str(), &shape[..])).collect::<Vec<_>>())
    }

    /// The layers, first to last.
    pub fn layers(&self) -> &[Parameter] {
        &self.layers
    }

    /// The length of the flat vector.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no parameter.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// An optimizer that any training stack can drive: it has its own state and is given a flat parameter vector and the
/// gradient there, step by step.
///
/// # Examples
/// ```
/// use ascribe_solvers::{parallel::Parallelism, precondition::{AdamW, Layout, Optimizer}};
/// let layout = Layout::new(&[("x", &[2])])?;
/// let mut optimizer = AdamW { learning_rate: 0.1, ..AdamW::default() }.start(&layout, Parallelism::Serial)?;
/// let mut x = [1.0_f64, -2.0];
/// for _ in 0..200 {
///     let gradient = x; // of |x|^2 / 2
///     optimizer.step(&mut x, &gradient)?;
/// }
/// assert!(x.iter().all(|x| x.abs() < 0.1));
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
pub trait Optimizer<T: Real> {
    /// The layers of the parameter vector.
    fn layout(&self) -> &Layout;

    /// The steps made.
    fn steps(&self) -> u64;

    /// The learning rate of the next step.
    fn learning_rate(&self) -> f64;

    /// Another learning rate from the next step on: for schedules.
    ///
    /// # Errors
    /// [`CoreError::Parameter`] when it is negative or not finite.
    fn set_learning_rate(&mut self, learning_rate: f64) -> Result<(), Error>;

    /// Moves `params` by one step along `gradients`, the gradient there.
    ///
    /// # Errors
    /// A shape error; [`CoreError::NonFinite`] for NaN or infinity in `params` or `gradients`; [`Error::Diverged`] when
    /// the step would leave the finite numbers of `T`. Parameters and state are untouched then.
    fn step(&mut self, params: &mut [T], gradients: &[T]) -> Result<(), Error>;

    /// Writes the parameters of the model to evaluate, to ship and to attribute to `out`: `params`, unless the optimizer
    /// averages them ([`ScheduleFreeAdamW`](super::ScheduleFreeAdamW)).
    ///
    /// # Errors
    /// A shape error; [`CoreError::NonFinite`] for NaN or infinity in `params`.
    fn model(&self, out: &mut [T], params: &[T]) -> Result<(), Error>;

    /// The state as a safetensors file, without the options: what [`Optimizer::load`] goes on from bit for bit.
    ///
    /// # Errors
    /// [`Error::Archive`] when the bytes do not fit into memory.
    #[cfg(feature = "safetensors")]
    fn to_bytes(&self) -> Result<Vec<u8>, Error>;

    /// Takes over the state of a file of [`Optimizer::to_bytes`]. Options, layout and `T` have to be those of the
    /// optimizer that wrote it.
    ///
    /// # Errors
    /// [`Error::Archive`] for anything but such a file, with the reason, [`CoreError::NonFinite`] for NaN or infinity in
    /// it; the state is untouched then.
    #[cfg(feature = "safetensors")]
    fn load(&mut self, bytes: &[u8]) -> Result<(), Error>;
}

/// A part of a state, to be saved, loaded and tested.
#[cfg_attr(not(feature = "safetensors"), allow(dead_code, reason = "only files need all of it"))]
pub(super) enum Field<'a, T> {
    Numbers(Kind, &'a mut [T]),
    /// The largest gradient so far.
    Bound(&'a mut f64),
    /// Any other number that is not negative.
    Amount(&'a mut f64),
    Count(&'a mut u64),
}

/// What is known of the numbers of a field, and so of those that a file may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A mean of gradients.
    Average,
    /// Means of squares of gradients: none is negative.
    Squares,
    /// Means of products of gradients.
    Covariance,
    /// Orthonormal vectors.
    Basis,
    /// Anything: [`State::reach`] looks at the numbers themselves.
    Measured,
}

/// What the optimizers have in common inside.
pub(super) trait State<T: Real>: Clone {
    /// The kind of its files.
    #[cfg(feature = "safetensors")]
    const KIND: &'static str;

    fn layout(&self) -> &Layout;

    fn steps(&self) -> u64;

    /// Everything that changes from step to step, by name.
    fn fields(&mut self) -> Vec<(String, Field<'_, T>)>;

    /// [`Optimizer::model`].
    fn model(&self, out: &mut [T], params: &[T]) -> Result<(), Error> {
        check_shape("parameters", self.layout().len(), params.len())?;
        check_shape("model", params.len(), out.len())?;
        check_finite("parameters", params)?;
        out.copy_from_slice(params);
        Ok(())
    }

    /// Whether the state takes a step at all.
    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    /// A bound of every number that the next step forms, as a sum: NaN must not get lost, as it does in a maximum. For
    /// parameters of at most `params` in absolute value and gradients of at most `gradient` in the Euclidean norm.
    fn reach(&self, params: f64, gradient: f64) -> f64;

    /// The step, on inputs that are finite.
    fn advance(&mut self, params: &mut [T], gradients: &[T]) -> Result<(), Error>;
}

/// [`Optimizer::step`] of a state.
///
/// A step that cannot overflow is made in place. Where [`State::reach`] leaves that open, it is made on a copy, which is
/// thrown away when a number is not finite.
pub(super) fn step<T: Real, S: State<T>>(state: &mut S, params: &mut [T], gradients: &[T]) -> Result<(), Error> {
    state.check()?;
    check_shape("parameters", state.layout().len(), params.len())?;
    check_shape("gradients", state.layout().len(), gradients.len())?;
    check_finite("gradients", gradients)?;
    check_finite("parameters", params)?;
    let reach = state.reach(reduce::max_abs(params).to_f64(), reduce::norm2(gradients).to_f64());
    // A bound that is NaN is none. A quarter leaves room for sums of two such numbers and for rounding.
    if reach < T::MAX.to_f64() / 4.0 {
        return state.advance(params, gradients);
    }
    let (mut next, mut moved) = (state.clone(), params.to_vec());
    next.advance(&mut moved, gradients)?;
    let finite = next.fields().into_iter().all(|(_, field)| match field {
        Field::Numbers(_, x) => check_finite("state", x).is_ok(),
        Field::Bound(x) | Field::Amount(x) => x.is_finite(),
        Field::Count(_) => true,
    });
    if !finite || check_finite("parameters", &moved).is_err() {
        return Err(Error::Diverged { step: usize::try_from(next.steps()).unwrap_or(usize::MAX) });
    }
    *state = next;
    params.copy_from_slice(&moved);
    Ok(())
}

/// [`Optimizer`] for a type that is a [`State`] of any `T`. A macro instead of an implementation for all of them, which
/// would be missing from the documentation of each.
macro_rules! implement_optimizer {
    ($state:ident) => {
        impl<T: ascribe_core::Real> crate::precondition::Optimizer<T> for $state<T> {
            fn layout(&self) -> &crate::precondition::Layout {
                &self.layout
            }

            fn steps(&self) -> u64 {
                self.steps
            }

            fn learning_rate(&self) -> f64 {
                self.options.learning_rate
            }

            fn set_learning_rate(&mut self, learning_rate: f64) -> Result<(), crate::Error> {
                crate::precondition::optimizer::check_rate("learning rate", learning_rate)?;
                self.options.learning_rate = learning_rate;
                Ok(())
            }

            fn step(&mut self, params: &mut [T], gradients: &[T]) -> Result<(), crate::Error> {
                crate::precondition::optimizer::step(self, params, gradients)
            }

            fn model(&self, out: &mut [T], params: &[T]) -> Result<(), crate::Error> {
                crate::precondition::optimizer::State::model(self, out, params)
            }

            #[cfg(feature = "safetensors")]
            fn to_bytes(&self) -> Result<Vec<u8>, crate::Error> {
                crate::precondition::archive::to_bytes(self)
            }

            #[cfg(feature = "safetensors")]
            fn load(&mut self, bytes: &[u8]) -> Result<(), crate::Error> {
                crate::precondition::archive::load(self, bytes)
            }
        }
    };
}
pub(super) use implement_optimizer;

/// `1 - beta^steps`: the weight that a moving average from zero has after so many steps.
pub(super) fn bias_correction(beta: f64, steps: u64) -> f64 {
    1.0 - beta.powi(i32::try_from(steps).unwrap_or(i32::MAX))
}

/// A weight of a moving average.
pub(super) fn check_beta(what: &'static str, value: f64) -> Result<(), CoreError> {
    check(what, value, (0.0..1.0).contains(&value), "in [0, 1)")
}

/// A rate or coefficient.
pub(super) fn check_rate(what: &'static str, value: f64) -> Result<(), CoreError> {
    check(what, value, value.is_finite() && value >= 0.0, "finite and at least 0")
}

/// A number that is added to a denominator.
pub(super) fn check_epsilon<T: Real>(what: &'static str, value: f64) -> Result<(), CoreError> {
    let rounded = T::from_f64(value);
    check(what, value, rounded.is_finite() && rounded >= T::MIN_POSITIVE, "positive and normal in the precision used")
}

pub(super) fn check(what: &'static str, value: f64, good: bool, must_be: &'static str) -> Result<(), CoreError> {
    if good { Ok(()) } else { Err(CoreError::Parameter { what, value, must_be }) }
}
