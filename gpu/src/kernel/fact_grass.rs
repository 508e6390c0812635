use ascribe_core::{LinOp, MatRef, sketch};

use super::contract::{Products, VARIANTS, contract_cost};
use super::mask_gather::words;
use super::product::TILES;
use super::sjlt::norm;
use super::{Access, Cost, Kernel, SjltBuckets};
use crate::device::Gpu;
use crate::error::Error;
use crate::matrix::Matrix;
use crate::record::LayerRecord;
use crate::recorder::Recorder;

pub(super) static KERNEL: Kernel = Kernel {
    name: "fact_grass",
    source: include_str!("../../shaders/fact_grass.wgsl"),
    bindings: &[Access::Read, Access::Write, Access::Read, Access::Read, Access::Read, Access::Read],
    variants: &VARIANTS,
    constants: &[&TILES[0], &TILES[1], &TILES[2], &TILES[3]],
};

/// The masks and the sparse transform of a layer on the device, [`sketch::FactGrass`]. Bytes: four for each kept row and
/// column, and those of the table.
#[derive(Debug)]
pub struct FactGrass {
    kept_out: Matrix<u32>,
    kept_in: Matrix<u32>,
    d_out: usize,
    weight_cols: usize,
    sjlt: SjltBuckets,
}

impl FactGrass {
    /// Copies the masks and the table of the transform to the device. The entries of a drawn transform come from
    /// [`sketch::SjltTable::draw`].
    ///
    /// # Errors
    /// As [`Mask::upload`](super::Mask::upload) and [`SjltBuckets::upload`].
    pub fn upload<I: AsRef<[usize]>>(
        gpu: &Gpu,
        sketch: &sketch::FactGrass<I, sketch::SjltTable>,
    ) -> Result<Self, Error> {
        let (mask_out, mask_in, table) = (sketch.mask_out(), sketch.mask_in(), sketch.sjlt());
        let upload =
            |mask: &sketch::Mask<I>| gpu.upload(MatRef::from_row(&words("mask on the device", mask.indices())?));
        let buckets = table.by_bucket()?;
        let norm = (mask_out.factor() * mask_in.factor()) as f32 * norm(table.slots());
        let kept = mask_out.indices().len() * mask_in.indices().len();
        Ok(Self {
            kept_out: upload(mask_out)?,
            kept_in: upload(mask_in)?,
            d_out: LinOp::<f32>::dim_in(mask_out),
            weight_cols: LinOp::<f32>::dim_in(mask_in),
            sjlt: SjltBuckets::new(gpu, buckets.starts(), buckets.entries(), kept, norm)?,
        })
    }

    /// The transform of what the masks keep, with their factors.
    pub fn sjlt(&self) -> &SjltBuckets {
        &self.sjlt
    }

    /// What the sketch of a record costs: `2 positions k_out k_in` flops and `s k_out k_in` additions for each example;
    /// what is kept of the record, the table and the result once, the masked gradients twice.
    pub fn cost(&self, examples: usize, positions: usize) -> Cost {
        let mut cost = contract_cost(examples, positions, self.kept_out.cols(), self.kept_in.cols());
        cost += self.sjlt.cost(examples);
        cost
    }
}

impl Recorder {
    /// The sketch of each example's gradient from the record alone, `[examples, k]`: [`sketch::FactGrass`].
    ///
    /// Two dispatches where every operand is in one piece: [`masked_gradients`](Self::masked_gradients), then
    /// [`sjlt`](Self::sjlt). The masked gradients lie in device memory in between, `k_out k_in` numbers for each example;
    /// written and read once, with `positions / 4` flops for each of these bytes. Cost: [`FactGrass::cost`]. Workgroup
    /// memory: that of [`gemm`](Self::gemm). The error has core's bound, with `4 positions` instead of `positions + 3 runs`.
    ///
    /// # Errors
    /// [`Error::Core`] when the layer is another; [`Error::Foreign`]; otherwise as [`gemm`](Self::gemm).
    ///
    /// # Examples
    /// ```
    /// # use ascribe_core::{MatRef, record, sketch::{self, Mask, MaskScale, SjltTable}};
    /// # use ascribe_gpu::{Error, FactGrass, Gpu, LayerRecord};
    /// # let gpu = match Gpu::new() { Err(Error::NoAdapter { why }) => return Ok(println!("skipped: {why}")), gpu => gpu? };
    /// let (rows, columns) = (Mask::new(vec![0], 1, MaskScale::None)?, Mask::new(vec![0, 2], 3, MaskScale::None)?);
    /// let sketch = sketch::FactGrass::new(rows, columns, SjltTable::new(1, 1, &[0, 0], &[1, -1])?)?;
    /// let sketch = FactGrass::upload(&gpu, &sketch)?;
    /// let (x, delta) = ([1.0_f32, 2.0, 3.0, 4.0], [1.0, 10.0]); // the gradient is [31, 42, 11]
    /// let record = record::LayerRecord::new(1, MatRef::new(&x, 2, 2)?, MatRef::new(&delta, 2, 1)?, None, true)?;
    /// let record = LayerRecord::upload(&gpu, &record)?;
    /// let mut recorder = gpu.record();
    /// let y = recorder.fact_grass(&sketch, &record)?;
    /// let y = recorder.download(&y)?;
    /// recorder.submit()?;
    /// assert_eq!(y.wait()?, [20.0]);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn fact_grass(&mut self, sketch: &FactGrass, record: &LayerRecord) -> Result<Matrix<f32>, Error> {
        self.whole(|recorder| {
            let gradients = recorder.masked_gradients(sketch, record)?;
            recorder.sjlt(&sketch.sjlt, &gradients)
        })
    }

    /// The entries of each example's gradient that the masks keep, `[examples, k_out k_in]`, not scaled:
    /// [`sketch::FactGrass::masked_gradient`]. The kept columns are gathered while they are summed: one dispatch where every
    /// operand is in one piece, otherwise one for each combination of pieces.
    ///
    /// # Errors
    /// As [`fact_grass`](Self::fact_grass).
    pub fn masked_gradients(&mut self, sketch: &FactGrass, record: &LayerRecord) -> Result<Matrix<f32>, Error> {
        let FactGrass { kept_out, kept_in, d_out, weight_cols, .. } = sketch;
        record.check(self.gpu(), *d_out, *weight_cols)?;
        kept_out.check("kept outputs", self.gpu(), kept_out.cols())?;
        let (m, n) = (kept_out.cols(), kept_in.cols());
        if m * n == 0 {
            return self.zeros(record.examples(), 0);
        }
        let (a, b) = (record.output_grads(), record.inputs());
        let tables = [kept_out.chunk(0), kept_in.chunk(0)];
        let products = Products { kernel: &KERNEL, a, b, tables, m, n };
        self.whole(|recorder| recorder.contract::<2, 6>(&products, record))
    }
}
