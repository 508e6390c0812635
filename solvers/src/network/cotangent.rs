//! Output gradients other than the observed ones, and the layer records that they leave behind.

use ascribe_core::random::Stream;
use ascribe_core::record::LayerRecord;
use ascribe_core::{MatRef, Real};

use super::Linearized;
use super::cache::CHUNK;
use super::tangent::Work;
use crate::Error;
use crate::error::{check_finite, zeros};
use crate::parallel::for_each;

/// Blocks of examples whose cotangents are passed down at once.
const GROUP: usize = 8;

impl<T: Real> Linearized<'_, T> {
    /// The records of every layer for output gradients of the caller's choice, `draws` of them for each example:
    /// `cotangents(n, out)` fills `out` `[draws, outputs]` for example `n`.
    ///
    /// `visit(layer, record, more)` is called for every layer of every block of examples, in order; `record` has the
    /// first draw and `more` the other ones, `[examples, outputs of the layer]` each. Memory: `1024 draws` numbers a
    /// unit. Cost: `2 draws N P` flops.
    ///
    /// # Errors
    /// Those of `visit`; [`NonFinite`](ascribe_core::Error::NonFinite) for a cotangent that is NaN or infinite;
    /// [`Overflow`](ascribe_core::Error::Overflow) for more draws than memory holds.
    pub fn cotangent_records(
        &self,
        draws: usize,
        mut cotangents: impl FnMut(usize, &mut [T]),
        mut visit: impl FnMut(usize, &LayerRecord<'_, T>, &[MatRef<'_, T>]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let outputs = self.net.outputs();
        let mut works: Vec<Work<T>> = (0..GROUP.min(self.chunks.len())).map(|_| Work::default()).collect();
        let mut example = zeros("cotangents of the outputs", draws.checked_mul(outputs))?;
        if draws == 0 {
            return Ok(());
        }
        for first in (0..self.chunks.len()).step_by(GROUP) {
            let group = first..self.chunks.len().min(first + GROUP);
            for (c, work) in group.clone().zip(&mut works) {
                // Planes of one draw each, as the pass wants them.
                let rows = self.chunks[c].rows;
                work.outputs = zeros("cotangents of the outputs", draws.checked_mul(rows * outputs))?;
                for i in 0..rows {
                    cotangents(c * CHUNK + i, &mut example);
                    check_finite("cotangents of the outputs", &example)?;
                    for (draw, row) in example.chunks_exact(outputs).enumerate() {
                        work.outputs[(draw * rows + i) * outputs..][..outputs].copy_from_slice(row);
                    }
                }
            }
            let tasks = group.clone().zip(&mut works).collect();
            for_each(self.par, tasks, |(c, work): (usize, &mut Work<T>)| {
                work.descend(self.net, self.params, self.chunk(c)?)
            })?;
            for (c, work) in group.zip(&works) {
                let chunk = self.chunk(c)?;
                let rows = chunk.cache.rows;
                for (l, layer) in self.net.layers().iter().enumerate() {
                    let planes = work.cotangents(l).chunks_exact(rows * layer.outputs);
                    let mut planes = planes.map(|plane| MatRef::new(plane, rows, layer.outputs));
                    let Some(observed) = planes.next() else { continue };
                    let inputs = chunk.cache.input(self.net, l, chunk.input)?;
                    let record = LayerRecord::new(rows, inputs, observed?, None, layer.bias)?;
                    visit(l, &record, &planes.collect::<Result<Vec<_>, _>>()?)?;
                }
            }
        }
        Ok(())
    }

    /// The number of columns of [`Linearized::root_columns`].
    pub(crate) fn root_rank(&self) -> usize {
        self.net.loss().factor_rank(self.net.outputs())
    }

    /// The columns of a matrix `S` with `S S^T` the Hessian of an example's loss in its outputs, one a row of `out`.
    pub(crate) fn root_columns(&self, example: usize, out: &mut [T]) {
        let (loss, outputs) = (self.net.loss(), self.net.outputs());
        let state = self.output_state(example);
        for (r, column) in out.chunks_exact_mut(outputs).enumerate() {
            loss.factor_column(state, r, column);
        }
    }

    /// Output gradients at targets that the model draws for an example, one a row of `out`.
    pub(crate) fn sampled_gradients(&self, example: usize, stream: Stream, out: &mut [T]) {
        let (loss, outputs) = (self.net.loss(), self.net.outputs());
        let cache = &self.chunks[example / CHUNK];
        let z = &cache.outputs[example % CHUNK * outputs..][..outputs];
        let mut draws = stream.child(example as u64).draws();
        for gradient in out.chunks_exact_mut(outputs) {
            loss.sample_gradient(z, self.output_state(example), &mut draws, gradient);
        }
    }

    /// The output gradient of an example at its own target.
    pub(crate) fn observed_gradient(&self, example: usize, out: &mut [T]) {
        let outputs = self.net.outputs();
        out.copy_from_slice(&self.chunks[example / CHUNK].delta[example % CHUNK * outputs..][..outputs]);
    }

    fn output_state(&self, example: usize) -> &[T] {
        let len = self.net.loss().state_len(self.net.outputs());
        &self.chunks[example / CHUNK].state[example % CHUNK * len..][..len]
    }
}
