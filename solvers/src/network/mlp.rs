//! The shape of a dense network, without its parameters.

use ascribe_core::random::Stream;
use ascribe_core::{Error as CoreError, MatRef, Real};

use super::{Activation, Loss};
use crate::Error;
use crate::error::{check_finite, check_shape};

/// One linear layer: `s = W a (+ b)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// The length of its input.
    pub inputs: usize,
    /// The length of its output.
    pub outputs: usize,
    /// Whether it adds a bias.
    pub bias: bool,
    /// Where its parameters start in the flat vector.
    pub offset: usize,
}

impl Layer {
    /// Columns of the layer's parameter matrix: the bias is the last one; `usize::MAX` when they do not fit.
    pub fn cols(&self) -> usize {
        self.inputs.saturating_add(usize::from(self.bias))
    }

    /// The number of parameters; `usize::MAX` when it does not fit.
    pub fn len(&self) -> usize {
        self.outputs.saturating_mul(self.cols())
    }

    /// Whether the layer has no parameters.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The weights `[outputs, inputs]` inside a flat parameter vector, without the bias column.
    pub(crate) fn weights<'a, T>(&self, params: &'a [T]) -> Result<MatRef<'a, T>, CoreError> {
        let all = MatRef::new(&params[self.offset..self.offset + self.len()], self.outputs, self.cols())?;
        all.block(0, self.outputs, 0, self.inputs)
    }

    /// Adds the bias to every row of a `[.., outputs]` block.
    pub(crate) fn add_bias<T: Real>(&self, params: &[T], rows: &mut [T]) {
        if self.bias && self.outputs > 0 {
            for row in rows.chunks_exact_mut(self.outputs) {
                for (o, x) in row.iter_mut().enumerate() {
                    *x += params[self.offset + o * self.cols() + self.inputs];
                }
            }
        }
    }
}

/// A multi-layer perceptron: linear layers with an activation between them (not after the last) and a loss on
/// the outputs. It holds no parameters: those are a flat slice, layer after layer, each layer the row-major
/// matrix `[outputs, inputs (+1)]` with the bias as its last column.
///
/// # Examples
/// ```
/// use ascribe_solvers::network::{Activation, Loss, Mlp};
/// let net = Mlp::new(&[64, 128, 64, 10], Activation::Relu, Loss::CrossEntropy)?;
/// assert_eq!(net.params(), 65 * 128 + 129 * 64 + 65 * 10);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mlp {
    layers: Vec<Layer>,
    activation: Activation,
    loss: Loss,
}

impl Mlp {
    /// Layers between consecutive `widths`, each with a bias.
    ///
    /// # Errors
    /// [`ascribe_core::Error::Empty`] for fewer than two widths or a width of 0, an overflow error when the
    /// number of parameters does not fit.
    pub fn new(widths: &[usize], activation: Activation, loss: Loss) -> Result<Self, Error> {
        Self::with_biases(widths, &vec![true; widths.len().saturating_sub(1)], activation, loss)
    }

    /// As [`Mlp::new`], with a choice for each layer whether it has a bias.
    ///
    /// # Errors
    /// As [`Mlp::new`]; a shape error when there is not one choice for each layer.
    pub fn with_biases(widths: &[usize], biases: &[bool], activation: Activation, loss: Loss) -> Result<Self, Error> {
        if widths.len() < 2 || widths.contains(&0) {
            return Err(CoreError::Empty { what: "widths of the network (at least two, none of them 0)" }.into());
        }
        check_shape("biases", widths.len() - 1, biases.len())?;
        let mut layers = Vec::with_capacity(biases.len());
        let mut offset = 0_usize;
        for (pair, &bias) in widths.windows(2).zip(biases) {
            let layer = Layer { inputs: pair[0], outputs: pair[1], bias, offset };
            let len = layer.inputs.checked_add(usize::from(bias)).and_then(|cols| cols.checked_mul(layer.outputs));
            let end = len.and_then(|len| offset.checked_add(len));
            offset = end.ok_or(CoreError::Overflow { what: "parameters of the network" })?;
            layers.push(layer);
        }
        Ok(Self { layers, activation, loss })
    }

    /// The layers, first to last.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The activation between the layers.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// The loss on the outputs.
    pub fn loss(&self) -> Loss {
        self.loss
    }

    /// The length of the flat parameter vector.
    pub fn params(&self) -> usize {
        self.layers.last().map_or(0, |layer| layer.offset + layer.len())
    }

    /// The length of an example's input.
    pub fn inputs(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.inputs)
    }

    /// The length of an example's output.
    pub fn outputs(&self) -> usize {
        self.layers.last().map_or(0, |layer| layer.outputs)
    }

    /// Fills `params` with initial values: every weight and bias of a layer uniform in
    /// `[-1/sqrt(inputs), 1/sqrt(inputs))`, drawn from `stream` by its index (the law of PyTorch's `Linear`).
    ///
    /// # Errors
    /// A shape error when `params` is not of length [`Mlp::params`].
    pub fn initialize<T: Real>(&self, params: &mut [T], stream: Stream) -> Result<(), Error> {
        check_shape("parameters", self.params(), params.len())?;
        let mut draws = stream.draws();
        for layer in &self.layers {
            let bound = 1.0 / (layer.inputs as f64).sqrt();
            for x in &mut params[layer.offset..layer.offset + layer.len()] {
                *x = T::from_f64(bound * (2.0 * draws.next_f64() - 1.0));
            }
        }
        Ok(())
    }

    /// Checks a flat parameter vector.
    pub(crate) fn check_params<T: Real>(&self, params: &[T]) -> Result<(), Error> {
        check_shape("parameters", self.params(), params.len())?;
        Ok(check_finite("parameters", params)?)
    }
}
