//! A network at fixed parameters on fixed data, passed through once.

use ascribe_core::derivative::Reduction;
use ascribe_core::record::LayerRecord;
use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};

use super::cache::{CHUNK, Cache};
use super::sweep::Pool;
use super::tangent::{Chunk, Work};
use super::{Mlp, Targets};
use crate::Error;
use crate::error::{check_rows_finite, check_shape, zeros};
use crate::parallel::{Parallelism, for_each, run};

/// A network at parameters `theta` on a data set: losses, gradients, records, and the base of every
/// [product](super::Curvature).
///
/// Memory: for each example, three numbers for every hidden unit (four when the activation is curved), three for
/// every output and one more; the inputs are borrowed.
///
/// # Examples
/// ```
/// use ascribe_core::{LinOp, MatMut, MatRef, derivative::Reduction};
/// use ascribe_solvers::{network::*, parallel::Parallelism};
/// let net = Mlp::new(&[2, 3, 2], Activation::Tanh, Loss::CrossEntropy)?;
/// let theta: Vec<f64> = (0..net.params()).map(|i| (i as f64).sin()).collect();
/// let x = MatRef::new(&[0.5, -1.0, 2.0, 0.1], 2, 2)?;
/// let data = Linearized::new(&net, &theta, x, Targets::Classes(&[0, 1]), Reduction::Mean, Parallelism::Serial)?;
/// let mut hv = vec![0.0; net.params()];
/// data.hessian().apply(MatMut::from_row(&mut hv), MatRef::from_row(&data.gradient()?), &mut [])?;
/// assert!(hv.iter().all(|x| x.is_finite()));
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Linearized<'a, T> {
    pub(super) net: &'a Mlp,
    pub(super) params: &'a [T],
    pub(super) input: MatRef<'a, T>,
    pub(super) reduction: Reduction,
    pub(super) par: Parallelism,
    /// One cache for every [`CHUNK`] consecutive examples.
    pub(super) chunks: Vec<Cache<T>>,
    pub(super) pool: Pool<T>,
}

impl<'a, T: Real> Linearized<'a, T> {
    /// Passes every row of `input` (`[examples, inputs]`) forward and back at the parameters `params`.
    ///
    /// `reduction` says whether the loss of the data set is the mean or the sum over the examples.
    ///
    /// # Errors
    /// A shape error when input, targets or parameters do not fit the network; [`CoreError::Empty`] without
    /// examples; [`CoreError::NonFinite`] for NaN or infinity in any of them; [`Error::Label`] for a label
    /// without an output; [`Error::Targets`] when the loss needs another kind of target.
    pub fn new(
        net: &'a Mlp,
        params: &'a [T],
        input: MatRef<'a, T>,
        targets: Targets<'_, T>,
        reduction: Reduction,
        par: Parallelism,
    ) -> Result<Self, Error> {
        net.check_params(params)?;
        check_shape("input columns", net.inputs(), input.cols())?;
        if input.rows() == 0 {
            return Err(CoreError::Empty { what: "examples" }.into());
        }
        check_rows_finite("inputs", input)?;
        targets.check(net.loss(), input.rows(), net.outputs())?;
        let mut chunks = vec![Cache::default(); input.rows().div_ceil(CHUNK)];
        let tasks = chunks.iter_mut().enumerate().collect();
        for_each(par, tasks, |(c, cache): (usize, &mut Cache<T>)| {
            let start = c * CHUNK;
            let rows = input.row_range(start, CHUNK.min(input.rows() - start))?;
            cache.evaluate(net, params, rows, |i| targets.get(start + i))
        })?;
        Ok(Self { net, params, input, reduction, par, chunks, pool: Pool::default() })
    }

    /// The number of examples.
    pub fn examples(&self) -> usize {
        self.input.rows()
    }

    /// The network.
    pub fn network(&self) -> &'a Mlp {
        self.net
    }

    /// The threads that its passes and products may use.
    pub fn parallelism(&self) -> Parallelism {
        self.par
    }

    /// `1/N` or 1: what the sum over the examples is multiplied by.
    pub fn scale(&self) -> T {
        match self.reduction {
            Reduction::Mean => T::ONE / T::from_f64(self.examples() as f64),
            Reduction::Sum => T::ONE,
        }
    }

    /// The loss of each example, in order; never divided by anything.
    pub fn losses(&self) -> impl Iterator<Item = T> {
        self.chunks.iter().flat_map(|cache| cache.losses.iter().copied())
    }

    /// The loss of the data set: mean or sum.
    pub fn loss(&self) -> T {
        let losses: Vec<T> = self.losses().collect();
        ascribe_core::reduce::sum(&losses) * self.scale()
    }

    /// The outputs `z` of each example, in order.
    pub fn outputs(&self) -> impl Iterator<Item = &[T]> {
        self.chunks.iter().flat_map(|cache| cache.outputs.chunks_exact(self.net.outputs()))
    }

    /// The derivative of each example's loss in its outputs, in order.
    pub fn output_gradients(&self) -> impl Iterator<Item = &[T]> {
        self.chunks.iter().flat_map(|cache| cache.delta.chunks_exact(self.net.outputs()))
    }

    /// The gradient of the loss of the data set. Cost: `2 N P` flops beyond the pass already done.
    ///
    /// # Errors
    /// None that a [`Linearized`] network can cause; the signature is that of every product.
    pub fn gradient(&self) -> Result<Vec<T>, Error> {
        // A few parts whatever the number of chunks: the sum's order and its memory depend on the data alone.
        let parts = self.chunks.len().min(8);
        let mut sums = vec![vec![T::ZERO; self.net.params()]; parts];
        let tasks = sums.iter_mut().enumerate().collect();
        for_each(self.par, tasks, |(part, sum): (usize, &mut Vec<T>)| {
            let first = part * self.chunks.len() / parts;
            for c in first..(part + 1) * self.chunks.len() / parts {
                let chunk = self.chunk(c)?;
                chunk.cache.gradient(self.net, chunk.input, c > first, sum)?;
            }
            Ok::<(), Error>(())
        })?;
        let mut parts = sums.into_iter();
        let mut total = parts.next().unwrap_or_default();
        for part in parts {
            ascribe_core::reduce::axpy(&mut total, T::ONE, &part)?;
        }
        ascribe_core::reduce::scale(&mut total, self.scale());
        Ok(total)
    }

    /// The gradient of each example's own loss, never divided by `N`: `out` is `[examples, parameters]`.
    ///
    /// # Errors
    /// A shape error when `out` does not fit.
    pub fn per_example_gradients(&self, out: MatMut<'_, T>) -> Result<(), Error> {
        check_shape("gradient rows", self.examples(), out.rows())?;
        self.example_gradients(0, out)
    }

    /// As [`Linearized::per_example_gradients`], of the examples from `start` on, as many as `out` has rows: for data
    /// whose gradients do not fit into memory at once.
    ///
    /// # Errors
    /// A shape error when `out` does not fit, [`CoreError::Index`] when there are not that many examples.
    pub fn example_gradients(&self, start: usize, out: MatMut<'_, T>) -> Result<(), Error> {
        self.per_example(start, out, None)
    }

    /// For each example `n` the gradient of `cotangents[n] . z_n`, `z_n` being its outputs: the gradient of any
    /// measurement on the outputs. `out` is `[examples, parameters]`, `cotangents` `[examples, outputs]`.
    ///
    /// # Errors
    /// A shape error when a matrix does not fit.
    pub fn per_example_pullback(&self, out: MatMut<'_, T>, cotangents: MatRef<'_, T>) -> Result<(), Error> {
        check_shape("gradient rows", self.examples(), out.rows())?;
        check_shape("cotangent rows", self.examples(), cotangents.rows())?;
        check_shape("cotangent columns", self.net.outputs(), cotangents.cols())?;
        self.per_example(0, out, Some(cotangents))
    }

    fn per_example(&self, start: usize, out: MatMut<'_, T>, cotangents: Option<MatRef<'_, T>>) -> Result<(), Error> {
        check_shape("gradient columns", self.net.params(), out.cols())?;
        let end = start.saturating_add(out.rows());
        if end > self.examples() {
            return Err(CoreError::Index { what: "examples", index: end, len: self.examples() }.into());
        }
        let mut tasks = Vec::new();
        let (mut rest, mut n) = (out, start);
        while n < end {
            let (c, first) = (n / CHUNK, n % CHUNK);
            let rows = (CHUNK - first).min(end - n);
            let (head, tail) = rest.split_rows(rows)?;
            tasks.push((c, first, head));
            rest = tail;
            n += rows;
        }
        let mut works: Vec<Work<T>> = (0..self.par.workers()).map(|_| Work::default()).collect();
        run(&mut works, tasks, |work, (c, first, mut out)| {
            let chunk = self.chunk(c)?;
            if let Some(all) = cotangents {
                work.outputs.clear();
                for row in all.row_range(c * CHUNK, chunk.cache.rows)?.row_iter() {
                    work.outputs.extend_from_slice(row);
                }
                work.descend(self.net, self.params, chunk)?;
            }
            for (l, layer) in self.net.layers().iter().enumerate() {
                let deltas = if cotangents.is_some() { work.cotangents(l) } else { chunk.cache.delta(l) };
                let inputs = chunk.cache.input(self.net, l, chunk.input)?;
                let deltas = deltas.chunks_exact(layer.outputs).skip(first).take(out.rows());
                for (i, delta) in deltas.enumerate() {
                    let grad = &mut out.row_mut(i)[layer.offset..layer.offset + layer.len()];
                    outer(grad, layer.cols(), delta, inputs.row(first + i));
                }
            }
            Ok::<(), Error>(())
        })
    }

    /// `out[n, j] = g_n . v_j`: the gradient of each example's loss times each row of `v`, without forming any
    /// gradient. `out` is `[examples, k]`, `v` is `[k, parameters]`. Cost: `4 k N P` flops or less.
    ///
    /// # Errors
    /// A shape error when a matrix does not fit.
    pub fn gradient_dots(&self, mut out: MatMut<'_, T>, v: MatRef<'_, T>) -> Result<(), Error> {
        check_shape("rows of the dot products", self.examples(), out.rows())?;
        check_shape("columns of the dot products", v.rows(), out.cols())?;
        let outputs = self.net.outputs();
        let len = v.rows().checked_mul(self.examples() * outputs);
        let mut tangents = zeros("tangents of the outputs", len)?;
        let tangents_mut = MatMut::new(&mut tangents, v.rows(), self.examples() * outputs)?;
        super::sweep::push_forward(self, tangents_mut, v)?;
        for (n, delta) in self.output_gradients().enumerate() {
            let row = out.row_mut(n);
            for (j, x) in row.iter_mut().enumerate() {
                let start = (j * self.examples() + n) * outputs;
                let tangent = &tangents[start..start + outputs];
                *x = tangent.iter().zip(delta).fold(T::ZERO, |sum, (&t, &d)| sum + t * d);
            }
        }
        Ok(())
    }

    /// The records of layer `l`, one for each block of examples in order: what curvature and sketches start from.
    ///
    /// # Errors
    /// [`CoreError::Index`] when there is no such layer.
    pub fn records(&self, l: usize) -> Result<impl Iterator<Item = Result<LayerRecord<'_, T>, CoreError>>, Error> {
        let layers = self.net.layers();
        let Some(layer) = layers.get(l) else {
            return Err(CoreError::Index { what: "layer", index: l, len: layers.len() }.into());
        };
        Ok((0..self.chunks.len()).map(move |c| {
            let chunk = self.chunk(c)?;
            let inputs = chunk.cache.input(self.net, l, chunk.input)?;
            let delta = MatRef::new(chunk.cache.delta(l), chunk.cache.rows, layer.outputs)?;
            LayerRecord::new(chunk.cache.rows, inputs, delta, None, layer.bias)
        }))
    }

    pub(super) fn chunk(&self, c: usize) -> Result<Chunk<'_, T>, CoreError> {
        let cache = &self.chunks[c];
        Ok(Chunk { input: self.input.row_range(c * CHUNK, cache.rows)?, cache })
    }
}

/// The gradient `delta a^T` of one example, the bias column being `delta` itself.
fn outer<T: Real>(grad: &mut [T], cols: usize, delta: &[T], a: &[T]) {
    for (row, &d) in grad.chunks_exact_mut(cols).zip(delta) {
        for (x, &a) in row.iter_mut().zip(a) {
            *x = d * a;
        }
        row[a.len()..].fill(d);
    }
}
