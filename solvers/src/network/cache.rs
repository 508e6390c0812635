//! One forward and backward pass over a few examples, kept for the products that follow.

use ascribe_core::{Error, MatMut, MatRef, Real};

use super::loss::Target;
use super::{Activation, Mlp};
use crate::linalg::matmul;
use crate::parallel::Parallelism::Serial;

/// Examples that are passed through the network at once. Large enough for fast products, small enough for the
/// activations of a block to stay in the cache of one core.
pub(super) const CHUNK: usize = 128;

/// What one hidden layer remembers: all `[rows, width]`.
#[derive(Debug, Clone, Default)]
pub(super) struct Hidden<T> {
    /// `a = phi(s)`.
    pub activation: Vec<T>,
    /// `phi'(s)`.
    pub slope: Vec<T>,
    /// `phi''(s) * (dl/da)`; empty when the activation is piecewise linear.
    pub bend: Vec<T>,
    /// `dl/ds`.
    pub delta: Vec<T>,
}

/// The pass over `rows` examples; the inputs themselves stay with the caller.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cache<T> {
    pub rows: usize,
    pub(super) hidden: Vec<Hidden<T>>,
    /// Network outputs `z`, `[rows, outputs]`.
    pub outputs: Vec<T>,
    /// `dl/dz`, `[rows, outputs]`.
    pub delta: Vec<T>,
    /// What the loss needs for its Hessian, `[rows, state_len]`.
    pub state: Vec<T>,
    /// Per-example losses.
    pub losses: Vec<T>,
}

/// Makes `x` a vector of `len` elements, whatever they are, without shrinking its memory.
fn resize<T: Real>(x: &mut Vec<T>, len: usize) {
    x.resize(len, T::ZERO);
}

impl<T: Real> Cache<T> {
    pub(super) fn reserve(&mut self, net: &Mlp, rows: usize) {
        let curved = !net.activation().is_piecewise_linear();
        self.rows = rows;
        self.hidden.resize(net.layers().len() - 1, Hidden::default());
        for (hidden, layer) in self.hidden.iter_mut().zip(net.layers()) {
            let len = rows * layer.outputs;
            resize(&mut hidden.activation, len);
            resize(&mut hidden.slope, len);
            resize(&mut hidden.delta, len);
            resize(&mut hidden.bend, if curved { len } else { 0 });
        }
        resize(&mut self.outputs, rows * net.outputs());
        resize(&mut self.delta, rows * net.outputs());
        resize(&mut self.state, rows * net.loss().state_len(net.outputs()));
        resize(&mut self.losses, rows);
    }

    /// Runs the rows of `input` forward and back, keeping everything.
    pub(crate) fn evaluate<'t>(
        &mut self,
        net: &Mlp,
        params: &[T],
        input: MatRef<'_, T>,
        target: impl Fn(usize) -> Target<'t, T>,
    ) -> Result<(), Error> {
        self.forward(net, params, input)?;
        let (outputs, state_len) = (net.outputs(), net.loss().state_len(net.outputs()));
        for i in 0..self.rows {
            let z = &self.outputs[i * outputs..(i + 1) * outputs];
            let delta = &mut self.delta[i * outputs..(i + 1) * outputs];
            let state = &mut self.state[i * state_len..(i + 1) * state_len];
            self.losses[i] = net.loss().evaluate(z, target(i), delta, state);
        }
        self.backward(net, params)
    }

    fn forward(&mut self, net: &Mlp, params: &[T], input: MatRef<'_, T>) -> Result<(), Error> {
        let rows = input.rows();
        self.reserve(net, rows);
        for (l, layer) in net.layers().iter().enumerate() {
            let (before, after) = self.hidden.split_at_mut(l);
            let a = match before.last() {
                None => input,
                Some(hidden) => MatRef::new(&hidden.activation, rows, layer.inputs)?,
            };
            let s = match after.first_mut() {
                None => &mut self.outputs,
                Some(hidden) => &mut hidden.activation,
            };
            let weights = layer.weights(params)?.t();
            matmul(MatMut::new(s, rows, layer.outputs)?, T::ZERO, T::ONE, a, weights, Serial)?;
            layer.add_bias(params, s);
            if let Some(hidden) = after.first_mut() {
                activate(net.activation(), &mut hidden.activation, &mut hidden.slope, &mut hidden.bend);
            }
        }
        Ok(())
    }

    fn backward(&mut self, net: &Mlp, params: &[T]) -> Result<(), Error> {
        for l in (1..net.layers().len()).rev() {
            let layer = net.layers()[l];
            let (before, after) = self.hidden.split_at_mut(l);
            let delta = after.first().map_or(&self.delta, |hidden| &hidden.delta);
            let Some(below) = before.last_mut() else { break };
            let delta = MatRef::new(delta, self.rows, layer.outputs)?;
            let out = MatMut::new(&mut below.delta, self.rows, layer.inputs)?;
            matmul(out, T::ZERO, T::ONE, delta, layer.weights(params)?, Serial)?;
            multiply(&mut below.bend, &below.delta);
            multiply(&mut below.delta, &below.slope);
        }
        Ok(())
    }

    /// `dl/ds` of layer `l`, `[rows, outputs of the layer]`.
    pub(crate) fn delta(&self, l: usize) -> &[T] {
        self.hidden.get(l).map_or(&self.delta, |hidden| &hidden.delta)
    }

    /// The input of layer `l`, `[rows, inputs of the layer]`.
    pub(crate) fn input<'c>(&'c self, net: &Mlp, l: usize, input: MatRef<'c, T>) -> Result<MatRef<'c, T>, Error> {
        match l.checked_sub(1) {
            None => Ok(input),
            Some(below) => MatRef::new(&self.hidden[below].activation, self.rows, net.layers()[l].inputs),
        }
    }

    /// Sets `out` (a flat parameter vector) to the gradient of the summed loss, or adds that to it.
    pub(crate) fn gradient(
        &self,
        net: &Mlp,
        input: MatRef<'_, T>,
        accumulate: bool,
        out: &mut [T],
    ) -> Result<(), Error> {
        for (l, layer) in net.layers().iter().enumerate() {
            let delta = MatRef::new(self.delta(l), self.rows, layer.outputs)?;
            let grad = &mut out[layer.offset..layer.offset + layer.len()];
            outer_sum(grad, layer, accumulate, delta, self.input(net, l, input)?)?;
        }
        Ok(())
    }

    /// Copies row `from` of `other` to row `to`.
    pub(super) fn copy_row(&mut self, to: usize, other: &Self, from: usize) {
        fn copy<T: Copy>(out: &mut [T], to: usize, rows_out: usize, x: &[T], from: usize, rows: usize) {
            let width = x.len() / rows.max(1);
            debug_assert_eq!(out.len(), width * rows_out);
            out[to * width..(to + 1) * width].copy_from_slice(&x[from * width..(from + 1) * width]);
        }
        let (rows_out, rows) = (self.rows, other.rows);
        for (a, b) in self.hidden.iter_mut().zip(&other.hidden) {
            copy(&mut a.activation, to, rows_out, &b.activation, from, rows);
            copy(&mut a.slope, to, rows_out, &b.slope, from, rows);
            copy(&mut a.bend, to, rows_out, &b.bend, from, rows);
            copy(&mut a.delta, to, rows_out, &b.delta, from, rows);
        }
        copy(&mut self.outputs, to, rows_out, &other.outputs, from, rows);
        copy(&mut self.delta, to, rows_out, &other.delta, from, rows);
        copy(&mut self.state, to, rows_out, &other.state, from, rows);
        copy(&mut self.losses, to, rows_out, &other.losses, from, rows);
    }
}

/// `x *= y`, elementwise; `x` may be empty.
pub(super) fn multiply<T: Real>(x: &mut [T], y: &[T]) {
    for (x, &y) in x.iter_mut().zip(y) {
        *x *= y;
    }
}

/// Sets a layer's gradient to `sum_n delta_n a_n^T`, the bias column being the sum of the `delta_n`; or adds that to
/// it, with `accumulate`.
pub(super) fn outer_sum<T: Real>(
    grad: &mut [T],
    layer: &super::Layer,
    accumulate: bool,
    delta: MatRef<'_, T>,
    a: MatRef<'_, T>,
) -> Result<(), Error> {
    let cols = layer.cols();
    if layer.bias {
        if !accumulate {
            for row in grad.chunks_exact_mut(cols) {
                row[layer.inputs] = T::ZERO;
            }
        }
        for row in delta.row_iter() {
            for (o, &d) in row.iter().enumerate() {
                grad[o * cols + layer.inputs] += d;
            }
        }
    }
    let weights = MatMut::new(grad, layer.outputs, cols)?.block(0, layer.outputs, 0, layer.inputs)?;
    let beta = if accumulate { T::ONE } else { T::ZERO };
    matmul(weights, beta, T::ONE, delta.t(), a, Serial)
}

/// Turns pre-activations in place into activations, with slopes, and second derivatives where `bend` has room.
fn activate<T: Real>(activation: Activation, s: &mut [T], slope: &mut [T], bend: &mut [T]) {
    // One loop per function, so that the match stays outside of it.
    fn fill<T: Real>(s: &mut [T], slope: &mut [T], bend: &mut [T], f: impl Fn(T) -> (T, T, T)) {
        if bend.is_empty() {
            for (s, d) in s.iter_mut().zip(slope) {
                (*s, *d, _) = f(*s);
            }
        } else {
            for ((s, d), b) in s.iter_mut().zip(slope).zip(bend) {
                (*s, *d, *b) = f(*s);
            }
        }
    }
    match activation {
        Activation::Identity => fill(s, slope, bend, |x| Activation::Identity.derivatives(x)),
        Activation::Relu => fill(s, slope, bend, |x| Activation::Relu.derivatives(x)),
        Activation::Tanh => fill(s, slope, bend, |x| Activation::Tanh.derivatives(x)),
        other => fill(s, slope, bend, |x| other.derivatives(x)),
    }
}
