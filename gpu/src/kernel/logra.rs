use ascribe_core::{MatMut, MatRef, sketch};

use super::contract::{Products, VARIANTS, contract_cost};
use super::gemm::gemm_cost;
use super::product::TILES;
use super::{Access, Cost, Kernel};
use crate::device::Gpu;
use crate::error::Error;
use crate::matrix::Matrix;
use crate::record::LayerRecord;
use crate::recorder::Recorder;

pub(super) static KERNEL: Kernel = Kernel {
    name: "logra",
    source: include_str!("../../shaders/logra.wgsl"),
    bindings: &[Access::Read, Access::Write, Access::Read, Access::Read, Access::Read],
    variants: &VARIANTS,
    constants: &[&TILES[0], &TILES[1], &TILES[2], &TILES[3]],
};

/// The two projections of a layer on the device, [`sketch::LoGra`].
#[derive(Debug)]
pub struct LoGra {
    p_out: Matrix<f32>,
    p_in: Matrix<f32>,
    /// The projection of the appended 1, or zeros.
    appended: Matrix<f32>,
    bias: bool,
}

impl LoGra {
    /// Copies the projections of a layer to the device; with a bias, the last column of `P_in` is what the appended 1 is
    /// multiplied by.
    ///
    /// # Errors
    /// [`Error::Core`] for a bias without a column of `P_in`; otherwise as [`Gpu::upload`].
    pub fn upload(gpu: &Gpu, logra: &sketch::LoGra<'_, f32>, bias: bool) -> Result<Self, Error> {
        let (p_out, p_in) = (logra.p_out(), logra.p_in());
        let mut appended = vec![0.0; p_in.rows()];
        logra.project_appended(MatMut::new(&mut appended, 1, p_in.rows())?, bias)?;
        Ok(Self {
            p_out: gpu.upload(p_out)?,
            p_in: gpu.upload(p_in.block(0, p_in.rows(), 0, p_in.cols() - usize::from(bias))?)?,
            appended: gpu.upload(MatRef::from_row(&appended))?,
            bias,
        })
    }

    /// The length of an example's sketch, `k_out k_in`.
    pub fn dim_out(&self) -> usize {
        self.p_out.rows() * self.p_in.rows()
    }

    /// What the sketch of a record costs: `2 positions (k_in d_in + k_out d_out + k_in k_out)` flops for each example; the
    /// record, the projections and the result once, the projected positions twice.
    pub fn cost(&self, examples: usize, positions: usize) -> Cost {
        let rows = examples.saturating_mul(positions);
        let mut cost = gemm_cost(rows, self.p_out.cols(), self.p_out.rows());
        cost += gemm_cost(rows, self.p_in.cols(), self.p_in.rows());
        cost += contract_cost(examples, positions, self.p_out.rows(), self.p_in.rows());
        cost
    }
}

impl Recorder {
    /// The sketch of each example's gradient from the record alone, `[examples, k_out k_in]`: [`sketch::LoGra`].
    ///
    /// Three dispatches where every operand is in one piece ([`gemm`](Self::gemm) may take one more for few positions of a
    /// wide layer): two products project all positions, and one sums their outer
    /// products over the positions of each example; where operands are cut, these three for each combination of pieces.
    /// Cost: [`LoGra::cost`]. Workgroup memory: that of [`gemm`](Self::gemm). Device memory: `k_in + k_out` numbers for
    /// each position. The error has core's bound, with `4 positions` instead of `positions + 3 runs`.
    ///
    /// # Errors
    /// [`Error::Core`] when the layer is another; [`Error::Foreign`]; otherwise as [`gemm`](Self::gemm).
    ///
    /// # Examples
    /// ```
    /// # use ascribe_core::{MatRef, record, sketch};
    /// # use ascribe_gpu::{Error, Gpu, LayerRecord, LoGra};
    /// # let gpu = match Gpu::new() { Err(Error::NoAdapter { why }) => return Ok(println!("skipped: {why}")), gpu => gpu? };
    /// let (p_in, p_out) = ([1.0, 1.0, 0.0, 0.0, 0.0, 1.0], [2.0]);
    /// let logra = sketch::LoGra::new(MatRef::new(&p_out, 1, 1)?, MatRef::new(&p_in, 2, 3)?)?;
    /// let logra = LoGra::upload(&gpu, &logra, true)?;
    /// let (x, delta) = ([1.0_f32, 2.0, 3.0, 4.0], [1.0, 10.0]); // the gradient is [31, 42, 11]
    /// let record = record::LayerRecord::new(1, MatRef::new(&x, 2, 2)?, MatRef::new(&delta, 2, 1)?, None, true)?;
    /// let record = LayerRecord::upload(&gpu, &record)?;
    /// let mut recorder = gpu.record();
    /// let y = recorder.logra(&logra, &record)?;
    /// let y = recorder.download(&y)?;
    /// recorder.submit()?;
    /// assert_eq!(y.wait()?, [146.0, 22.0]);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn logra(&mut self, logra: &LoGra, record: &LayerRecord) -> Result<Matrix<f32>, Error> {
        record.check(self.gpu(), logra.p_out.cols(), logra.p_in.cols() + usize::from(logra.bias))?;
        if logra.bias != record.has_bias() {
            let [expected, got] = [logra.bias, record.has_bias()].map(usize::from);
            return Err(ascribe_core::Error::Shape { what: "bias of the layer", expected, got }.into());
        }
        logra.appended.check("appended", self.gpu(), logra.appended.cols())?;
        let (m, n) = (logra.p_out.rows(), logra.p_in.rows());
        if m * n == 0 {
            return self.zeros(record.examples(), 0);
        }
        self.whole(|recorder| {
            let a = recorder.gemm(1.0, record.output_grads(), logra.p_out.t())?;
            let b = recorder.gemm(1.0, record.inputs(), logra.p_in.t())?;
            let tables = [logra.appended.chunk(0)];
            recorder.contract::<1, 5>(&Products { kernel: &KERNEL, a: &a, b: &b, tables, m, n }, record)
        })
    }
}
