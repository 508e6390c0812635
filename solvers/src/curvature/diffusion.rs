//! The Gauss-Newton matrix of a denoising loss, as output gradients that K-FAC and EKFAC take.

use ascribe_core::matmul::matmul;
use ascribe_core::random::Stream;
use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};

use crate::Error;
use crate::error::check_shape;

/// Fills `out` `[samples, outputs]` with `sqrt(2 / outputs)` times standard normal numbers: what to pass backward
/// through a denoiser, from its outputs, in the place of its loss. Sample `m` draws from the child `m` of `stream`.
///
/// For the loss $\tfrac{1}{P} |\epsilon - \epsilon_\theta|^2$, a **mean** over the `P` outputs, the second moment of
/// the gradients that come back is the Gauss-Newton matrix $\tfrac{2}{P} \mathbb{E}\, J^\top J$ with `J` the
/// Jacobian of $\epsilon_\theta$, in the mean over the draws. A sample is a datum with a time step and a noise of
/// its own; the target $\epsilon$ is not needed. What arrives at a layer is of the law [`Sampled`](super::Sampled),
/// a sample being an example.
///
/// # References
/// Mlodozeniec et al., arXiv:2410.13850, whose model has unit variance: its matrix is ours without `2 / P`.
pub fn denoising_cotangents<T: Real>(mut out: MatMut<'_, T>, stream: Stream) {
    let scale = scale(out.cols());
    out.for_each_row(|sample, row| {
        let mut draws = stream.child(sample as u64).draws();
        row.fill_with(|| T::from_f64(scale * draws.next_normal()));
    });
}

fn scale(outputs: usize) -> f64 {
    (2.0 / outputs as f64).sqrt()
}

/// The Jacobian of a denoiser's outputs in the outputs of one of its layers, `[samples, outputs, positions, d_out]`.
///
/// With the loss and the samples of [`denoising_cotangents`], [`exact`](Self::exact) gives one output gradient for
/// each output, whose second moments are the Gauss-Newton matrix (the law [`Type2`](super::Type2)), and
/// [`sampled`](Self::sampled) the one that a noise passed backward would give. Both are
/// `[samples * positions, d_out]` beside the layer's inputs `[samples * positions, d_in]`, a sample being an example.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef, record::LayerRecord};
/// use ascribe_solvers::{curvature::*, parallel::Parallelism::Serial};
/// // One sample, two outputs, one position: J = [3; 4], so G = (2 / 2) (9 + 16).
/// let jacobian = DenoiserJacobian::new(1, 1, MatRef::new(&[3.0, 4.0], 2, 1)?)?;
/// let mut draws = [0.0; 2];
/// jacobian.exact(MatMut::new(&mut draws, 2, 1)?)?;
/// let (draws, inputs) = (MatRef::new(&draws, 2, 1)?, MatRef::from_row(&[1.0]));
/// let record = LayerRecord::new(1, inputs, draws.row_range(0, 1)?, None, false)?;
/// let shape = LayerShape { d_in: 1, d_out: 1, bias: false };
/// let mut covariance = LayerCovariance::<f64, Type2>::new(shape, Sharing::Expand, Count::Example, Serial)?;
/// covariance.add(&record, &[draws.row_range(1, 1)?])?;
/// assert_eq!(covariance.factor_g()?, [25.0]);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct DenoiserJacobian<'a, T> {
    jacobian: MatRef<'a, T>,
    samples: usize,
    outputs: usize,
    positions: usize,
    d_out: usize,
}

impl<'a, T: Real> DenoiserJacobian<'a, T> {
    /// Of `jacobian` `[samples * outputs, positions * d_out]`.
    ///
    /// # Errors
    /// A shape error when rows or columns are no multiple of `samples` or `positions`; [`CoreError::Empty`] for
    /// samples without outputs; [`CoreError::Overflow`] when `samples * outputs * positions` does not fit.
    pub fn new(samples: usize, positions: usize, jacobian: MatRef<'a, T>) -> Result<Self, Error> {
        let outputs = jacobian.rows().checked_div(samples).unwrap_or(0);
        let d_out = jacobian.cols().checked_div(positions).unwrap_or(0);
        check_shape("rows of the Jacobian (a multiple of the samples)", samples * outputs, jacobian.rows())?;
        check_shape("columns of the Jacobian (a multiple of the positions)", positions * d_out, jacobian.cols())?;
        if samples > 0 && outputs == 0 {
            return Err(CoreError::Empty { what: "outputs of the denoiser" }.into());
        }
        // Without outputs of the layer a Jacobian of any size is empty.
        let rows = samples.max(jacobian.rows()).checked_mul(positions);
        rows.ok_or(CoreError::Overflow { what: "draws of output gradients" })?;
        Ok(Self { jacobian, samples, outputs, positions, d_out })
    }

    /// The number of outputs of the denoiser, and of the draws of [`exact`](Self::exact).
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The number of outputs of the layer.
    pub fn d_out(&self) -> usize {
        self.d_out
    }

    /// The rows of a draw, `samples * positions`.
    pub fn rows(&self) -> usize {
        self.samples * self.positions
    }

    /// Every output's gradient times `sqrt(2 / outputs)`: `out` `[outputs * samples * positions, d_out]`, draw after
    /// draw.
    ///
    /// # Errors
    /// A shape error.
    pub fn exact(&self, mut out: MatMut<'_, T>) -> Result<(), Error> {
        check_shape("rows of the draws", self.outputs * self.rows(), out.rows())?;
        check_shape("columns of the draws", self.d_out, out.cols())?;
        // There may be any number of rows without elements.
        if self.d_out == 0 {
            return Ok(());
        }
        let scale = T::from_f64(scale(self.outputs));
        for m in 0..self.samples {
            for p in 0..self.outputs {
                let gradients = self.jacobian.row(m * self.outputs + p);
                for s in 0..self.positions {
                    let row = out.row_mut(p * self.rows() + m * self.positions + s);
                    let gradient = &gradients[s * self.d_out..];
                    row.iter_mut().zip(gradient).for_each(|(to, &from)| *to = scale * from);
                }
            }
        }
        Ok(())
    }

    /// The gradient of one draw: $u_{m,s} = \sqrt{2/P} \sum_p \xi_{m,p}\, J_{m,p,s}$ for `noise` $\xi$
    /// `[samples, outputs]` of mean zero and unit covariance, into `out` `[samples * positions, d_out]`.
    ///
    /// Cost: `2 samples outputs positions d_out` flops.
    ///
    /// # Errors
    /// A shape error.
    pub fn sampled(&self, mut out: MatMut<'_, T>, noise: MatRef<'_, T>) -> Result<(), Error> {
        check_shape("rows of the draw", self.rows(), out.rows())?;
        check_shape("columns of the draw", self.d_out, out.cols())?;
        check_shape("rows of the noise", self.samples, noise.rows())?;
        check_shape("columns of the noise", self.outputs, noise.cols())?;
        // There may be any number of rows without elements.
        if self.d_out == 0 {
            return Ok(());
        }
        let scale = T::from_f64(scale(self.outputs));
        for m in 0..self.samples {
            let noise = noise.row_range(m, 1)?;
            for s in 0..self.positions {
                let gradients = self.jacobian.block(m * self.outputs, self.outputs, s * self.d_out, self.d_out)?;
                let out = out.rb_mut().block(m * self.positions + s, 1, 0, self.d_out)?;
                matmul(out, T::ZERO, scale, noise, gradients)?;
            }
        }
        Ok(())
    }
}
