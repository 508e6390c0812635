//! Stochastic gradient descent with momentum.

use ascribe_core::random::Stream;
use ascribe_core::reduce::{axpy, scale};
use ascribe_core::{Error as CoreError, MatRef, Real};

use crate::Error;
use crate::error::{check_finite, check_rows_finite, check_shape};
use crate::network::{Cache, Mlp, Targets};

/// How long to train.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// So many passes over the data; the last batch of each may be smaller.
    Epochs(usize),
    /// So many steps, whatever pass they fall into.
    Steps(usize),
}

/// Stochastic gradient descent, deterministic by its seed: `g = mean gradient of the batch + weight_decay theta`,
/// `m <- momentum m + g`, `theta <- theta - learning_rate m` (with Nesterov's form `g + momentum m` in place of `m`).
///
/// Every epoch visits the examples in an order of its own, drawn from the seed and the number of the epoch.
/// One thread: train several networks at once to use more.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, random::Stream};
/// use ascribe_solvers::{network::*, train::{Length, Sgd}};
/// let net = Mlp::new(&[1, 2], Activation::Relu, Loss::CrossEntropy)?;
/// let mut theta = vec![0.0_f64; net.params()];
/// let x = MatRef::new(&[-1.0, 1.0, -2.0, 2.0], 4, 1)?;
/// let sgd = Sgd { learning_rate: 0.5, batch: 2, length: Length::Epochs(50), ..Sgd::default() };
/// sgd.train(&net, &mut theta, x, Targets::Classes(&[0, 1, 0, 1]), |_, _| ())?;
/// assert!(theta[2] > theta[0]); // the weight of class 1 exceeds that of class 0
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    /// Default 0.03.
    pub learning_rate: f64,
    /// Default 0.9.
    pub momentum: f64,
    /// Nesterov's form; default false.
    pub nesterov: bool,
    /// Coefficient of `|theta|^2 / 2`, biases included; default 0.
    pub weight_decay: f64,
    /// Examples a step; default 64.
    pub batch: usize,
    /// Default 30 epochs.
    pub length: Length,
    /// Seed of the order of the examples; default 0.
    pub seed: u64,
}

impl Default for Sgd {
    fn default() -> Self {
        Self {
            learning_rate: 0.03,
            momentum: 0.9,
            nesterov: false,
            weight_decay: 0.0,
            batch: 64,
            length: Length::Epochs(30),
            seed: 0,
        }
    }
}

impl Sgd {
    /// The number of steps for `examples` examples.
    pub fn steps(&self, examples: usize) -> usize {
        match self.length {
            Length::Steps(steps) => steps,
            Length::Epochs(epochs) => epochs.saturating_mul(examples.div_ceil(self.batch.max(1))),
        }
    }

    /// Trains `params` in place. After every step `observe` gets the number of steps made and the parameters: the
    /// place to keep checkpoints.
    ///
    /// # Errors
    /// A shape error, [`CoreError::Empty`] without examples, [`CoreError::Parameter`] for a batch of 0 or a rate that
    /// is not finite, the errors of the targets; [`Error::Diverged`] with the step after which a parameter was not
    /// finite (looked at once an epoch). The parameters are those of that moment then.
    pub fn train<T: Real>(
        &self,
        net: &Mlp,
        params: &mut [T],
        input: MatRef<'_, T>,
        targets: Targets<'_, T>,
        mut observe: impl FnMut(usize, &[T]),
    ) -> Result<(), Error> {
        self.check(net, params, input, targets)?;
        let (learning_rate, momentum) = (T::from_f64(self.learning_rate), T::from_f64(self.momentum));
        let mut velocity = vec![T::ZERO; params.len()];
        let mut gradient = vec![T::ZERO; params.len()];
        let mut rows: Vec<T> = Vec::new();
        let mut cache = Cache::default();
        let mut order: Vec<usize> = (0..input.rows()).collect();
        let stream = Stream::new(self.seed, "sgd.order");
        let steps = self.steps(input.rows());
        let (mut step, mut epoch) = (0, 0);
        while step < steps {
            stream.child(epoch).draws().shuffle(&mut order);
            epoch += 1;
            for batch in order.chunks(self.batch).take(steps - step) {
                rows.clear();
                for &n in batch {
                    rows.extend_from_slice(input.row(n));
                }
                let batch_input = MatRef::new(&rows, batch.len(), input.cols())?;
                cache.evaluate(net, params, batch_input, |i| targets.get(batch[i]))?;
                cache.gradient(net, batch_input, false, &mut gradient)?;
                scale(&mut gradient, T::from_f64(1.0 / batch.len() as f64));
                if self.weight_decay != 0.0 {
                    axpy(&mut gradient, T::from_f64(self.weight_decay), params)?;
                }
                for (m, &g) in velocity.iter_mut().zip(&gradient) {
                    *m = momentum * *m + g;
                }
                if self.nesterov {
                    axpy(&mut gradient, momentum, &velocity)?;
                    axpy(params, -learning_rate, &gradient)?;
                } else {
                    axpy(params, -learning_rate, &velocity)?;
                }
                step += 1;
                observe(step, params);
            }
            if check_finite("parameters", params).is_err() {
                return Err(Error::Diverged { step });
            }
        }
        Ok(())
    }

    fn check<T: Real>(
        &self,
        net: &Mlp,
        params: &[T],
        input: MatRef<'_, T>,
        targets: Targets<'_, T>,
    ) -> Result<(), Error> {
        net.check_params(params)?;
        check_shape("input columns", net.inputs(), input.cols())?;
        if input.rows() == 0 {
            return Err(CoreError::Empty { what: "examples" }.into());
        }
        check_rows_finite("inputs", input)?;
        targets.check(net.loss(), input.rows(), net.outputs())?;
        if self.batch == 0 {
            return Err(CoreError::Parameter { what: "batch", value: 0.0, must_be: "at least 1" }.into());
        }
        let rates =
            [("learning rate", self.learning_rate), ("momentum", self.momentum), ("weight decay", self.weight_decay)];
        match rates.into_iter().find(|(_, value)| !value.is_finite()) {
            Some((what, value)) => Err(CoreError::Parameter { what, value, must_be: "finite" }.into()),
            None => Ok(()),
        }
    }
}
