//! Tangents of a network: the forward pass of directions, and the backward pass of cotangents.
//!
//! For a direction `v` with layers `V_l`, and `R` the derivative along it (Pearlmutter 1994):
//!
//! ```text
//! R s_l = V_l a_{l-1} + W_l R a_{l-1}          R a_l = phi'(s_l) * R s_l
//! R(dW_l) = R(ds_l) a_{l-1}^T + ds_l (R a_{l-1})^T
//! R(da_{l-1}) = W_l^T R(ds_l) + V_l^T ds_l     R(ds_l) = phi'(s_l) * R(da_l) + phi''(s_l) * da_l * R s_l
//! ```
//!
//! Without the right-hand terms that hold `ds`, the same backward pass is a plain vector-Jacobian product.

use ascribe_core::{Error, MatMut, MatRef, Real};

use super::Mlp;
use super::cache::{Cache, multiply, outer_sum};
use crate::linalg::matmul;
use crate::parallel::Parallelism::Serial;

/// Some examples as a pass sees them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunk<'c, T> {
    pub input: MatRef<'c, T>,
    pub cache: &'c Cache<T>,
}

/// Where a block of examples leaves its gradients: the first one sets them, the others add to them.
#[derive(Debug)]
pub(super) struct Sum<'s, T> {
    pub(super) out: MatMut<'s, T>,
    pub(super) accumulate: bool,
}

/// The work space of one thread; everything `[vectors, rows, width]`.
#[derive(Debug, Default)]
pub(super) struct Work<T> {
    /// `R a_l` of each hidden layer.
    tangent: Vec<Vec<T>>,
    /// `phi''(s_l) * da_l * R s_l` of each hidden layer, for second-order products with curved activations.
    bend: Vec<Vec<T>>,
    /// `R z`, or the cotangents to pull back.
    pub outputs: Vec<T>,
    /// Cotangents on their way down.
    cotangent: [Vec<T>; 2],
}

impl<T: Real> Work<T> {
    /// Fills `outputs` with `R z` for each row of `v`; with `second_order`, keeps what [`Work::pull_back`] needs.
    pub(super) fn push_forward(
        &mut self,
        net: &Mlp,
        params: &[T],
        v: MatRef<'_, T>,
        chunk: Chunk<'_, T>,
        second_order: bool,
    ) -> Result<(), Error> {
        let (k, rows) = (v.rows(), chunk.cache.rows);
        self.tangent.resize_with(net.layers().len() - 1, Vec::new);
        self.bend.resize_with(net.layers().len() - 1, Vec::new);
        for (l, layer) in net.layers().iter().enumerate() {
            let (before, after) = self.tangent.split_at_mut(l);
            let s = after.first_mut().unwrap_or(&mut self.outputs);
            s.resize(k * rows * layer.outputs, T::ZERO);
            let a = chunk.cache.input(net, l, chunk.input)?;
            for (j, plane) in s.chunks_exact_mut((rows * layer.outputs).max(1)).enumerate() {
                let direction = layer.weights(v.row(j))?.t();
                matmul(MatMut::new(plane, rows, layer.outputs)?, T::ZERO, T::ONE, a, direction, Serial)?;
                layer.add_bias(v.row(j), plane);
            }
            if let Some(below) = before.last() {
                let below = MatRef::new(below, k * rows, layer.inputs)?;
                let out = MatMut::new(s, k * rows, layer.outputs)?;
                matmul(out, T::ONE, T::ONE, below, layer.weights(params)?.t(), Serial)?;
            }
            if let Some(hidden) = chunk.cache.hidden.get(l) {
                let bent = &mut self.bend[l];
                bent.clear();
                for plane in s.chunks_exact_mut(hidden.slope.len().max(1)) {
                    if second_order {
                        bent.extend(hidden.bend.iter().zip(&*plane).map(|(&b, &s)| b * s));
                    }
                    multiply(plane, &hidden.slope);
                }
            }
        }
        Ok(())
    }

    /// Leaves in `sum` the parameter gradients that belong to the cotangents in `outputs`. With `direction`, the rows of `v` that [`Work::push_forward`] saw, adds the second-order terms too.
    pub(super) fn pull_back(
        &mut self,
        net: &Mlp,
        params: &[T],
        chunk: Chunk<'_, T>,
        direction: Option<MatRef<'_, T>>,
        sum: Sum<'_, T>,
    ) -> Result<(), Error> {
        let Sum { mut out, accumulate } = sum;
        let (k, rows) = (out.rows(), chunk.cache.rows);
        let [mut upper, mut lower] = core::mem::take(&mut self.cotangent);
        upper.clone_from(&self.outputs);
        for (l, layer) in net.layers().iter().enumerate().rev() {
            let a = chunk.cache.input(net, l, chunk.input)?;
            let delta = MatRef::new(chunk.cache.delta(l), rows, layer.outputs)?;
            for j in 0..k {
                let grad = &mut out.row_mut(j)[layer.offset..layer.offset + layer.len()];
                let plane = rows * layer.outputs;
                let cotangent = MatRef::new(&upper[j * plane..(j + 1) * plane], rows, layer.outputs)?;
                outer_sum(grad, layer, accumulate, cotangent, a)?;
                if let (Some(_), Some(below)) = (direction, l.checked_sub(1)) {
                    let plane = rows * layer.inputs;
                    let tangent = &self.tangent[below][j * plane..(j + 1) * plane];
                    let weights =
                        MatMut::new(grad, layer.outputs, layer.cols())?.block(0, layer.outputs, 0, layer.inputs)?;
                    let tangent = MatRef::new(tangent, rows, layer.inputs)?;
                    matmul(weights, T::ONE, T::ONE, delta.t(), tangent, Serial)?;
                }
            }
            let Some(below) = l.checked_sub(1) else { break };
            lower.resize(k * rows * layer.inputs, T::ZERO);
            let cotangent = MatRef::new(&upper, k * rows, layer.outputs)?;
            let next = MatMut::new(&mut lower, k * rows, layer.inputs)?;
            matmul(next, T::ZERO, T::ONE, cotangent, layer.weights(params)?, Serial)?;
            let slope = &chunk.cache.hidden[below].slope;
            for (j, plane) in lower.chunks_exact_mut(slope.len().max(1)).enumerate() {
                if let Some(v) = direction {
                    let out = MatMut::new(plane, rows, layer.inputs)?;
                    matmul(out, T::ONE, T::ONE, delta, layer.weights(v.row(j))?, Serial)?;
                }
                multiply(plane, slope);
            }
            if direction.is_some() {
                // Empty for piecewise linear activations.
                for (x, &b) in lower.iter_mut().zip(&self.bend[below]) {
                    *x += b;
                }
            }
            core::mem::swap(&mut upper, &mut lower);
        }
        self.cotangent = [upper, lower];
        Ok(())
    }

    /// Back-propagates the cotangents in `outputs` to the pre-activations of every layer, and keeps them all.
    pub(super) fn descend(&mut self, net: &Mlp, params: &[T], chunk: Chunk<'_, T>) -> Result<(), Error> {
        let hidden = &chunk.cache.hidden;
        self.tangent.resize_with(hidden.len(), Vec::new);
        for l in (1..net.layers().len()).rev() {
            let layer = net.layers()[l];
            let (below, above) = self.tangent.split_at_mut(l);
            let upper = above.first().unwrap_or(&self.outputs);
            let planes = upper.len() / layer.outputs;
            let lower = &mut below[l - 1];
            lower.resize(planes * layer.inputs, T::ZERO);
            let upper = MatRef::new(upper, planes, layer.outputs)?;
            let out = MatMut::new(lower, planes, layer.inputs)?;
            matmul(out, T::ZERO, T::ONE, upper, layer.weights(params)?, Serial)?;
            let slope = &hidden[l - 1].slope;
            lower.chunks_exact_mut(slope.len().max(1)).for_each(|plane| multiply(plane, slope));
        }
        Ok(())
    }

    /// The cotangents of layer `l` that [`Work::descend`] left: `[planes, rows, outputs of the layer]`.
    pub(super) fn cotangents(&self, l: usize) -> &[T] {
        self.tangent.get(l).unwrap_or(&self.outputs)
    }
}
