use ascribe_core::{LinOp, MatRef, sketch};

use super::{Access, Cost, Kernel, sum};
use crate::device::Gpu;
use crate::error::{Error, check_limit};
use crate::matrix::{Matrix, runs};
use crate::recorder::{Dispatch, Recorder};

pub(super) static KERNEL: Kernel = Kernel {
    name: "sjlt",
    source: include_str!("../../shaders/sjlt.wgsl"),
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Write],
    variants: &[&[]],
    constants: &[&[]],
};

/// Buckets that a workgroup computes.
const LANES: usize = 64;

/// The table of a sparse transform on the device, [`sketch::SjltBuckets`]: upload once, use for every batch.
///
/// Bytes: four for each entry and each bucket.
#[derive(Debug)]
pub struct SjltBuckets {
    starts: Matrix<u32>,
    entries: Matrix<u32>,
    dim_in: usize,
    dim_out: usize,
    norm: f32,
}

impl SjltBuckets {
    /// Copies the table of a transform to the device.
    ///
    /// # Errors
    /// [`Error::Limit`] when the table is larger than a binding of the device; otherwise as [`Gpu::upload`].
    pub fn upload(gpu: &Gpu, buckets: &sketch::SjltBuckets) -> Result<Self, Error> {
        let dim_in = LinOp::<f32>::dim_in(buckets);
        // A transform without coordinates has no slots to speak of, and nothing to scale.
        let slots = buckets.entries().len().checked_div(dim_in).unwrap_or(1);
        Self::new(gpu, buckets.starts(), buckets.entries(), dim_in, norm(slots))
    }

    /// With these entries of coordinates of `dim_in`, and `norm` as the factor of the sums.
    pub(super) fn new(gpu: &Gpu, starts: &[u32], entries: &[u32], dim_in: usize, norm: f32) -> Result<Self, Error> {
        check_limit("bytes of the table", entries.len() as u64 * 4, gpu.capabilities().max_binding_bytes)?;
        // A kernel cannot bind nothing; the extra word is not read.
        let entries = if entries.is_empty() { &[0] } else { entries };
        let (starts, entries) = (gpu.upload(MatRef::from_row(starts))?, gpu.upload(MatRef::from_row(entries))?);
        Ok(Self::from_device(starts, entries, dim_in, norm))
    }

    /// With a table that is on the device, or will be when it is used.
    pub(super) fn from_device(starts: Matrix<u32>, entries: Matrix<u32>, dim_in: usize, norm: f32) -> Self {
        let dim_out = starts.cols().saturating_sub(1);
        Self { starts, entries, dim_in, dim_out, norm }
    }

    /// What the sketch of `rows` rows costs: `n p s` additions; input, output and table once.
    pub fn cost(&self, rows: usize) -> Cost {
        let entries = self.entries.cols();
        // Of coordinates that a mask leaves out, there are no entries.
        let read = entries.min(self.dim_in);
        let moved = sum(&[&[4, rows, read], &[4, rows, self.dim_out]]);
        let bytes = moved.saturating_add(self.entries.bytes() + self.starts.bytes());
        Cost { flops: sum(&[&[rows, entries]]), bytes, workgroup_bytes: 0 }
    }
}

/// `1 / sqrt(s)`.
pub(super) fn norm(slots: usize) -> f32 {
    (1.0 / (slots as f64).sqrt()) as f32
}

impl Recorder {
    /// The sketch of each row, `[n, p]` to `[n, k]`: [`sketch::SjltBuckets`], and with the same bits, because every
    /// bucket is one sum in the same order and signs only negate.
    ///
    /// One dispatch for each run of rows that lie in one piece of the input and of the output.
    /// Cost: [`SjltBuckets::cost`]. Workgroup memory: none.
    ///
    /// # Errors
    /// [`Error::Core`] when the columns are not the transform's; [`Error::Foreign`].
    pub fn sjlt(&mut self, sjlt: &SjltBuckets, x: &Matrix<f32>) -> Result<Matrix<f32>, Error> {
        x.check("x columns", self.gpu(), sjlt.dim_in)?;
        sjlt.starts.check("buckets", self.gpu(), sjlt.starts.cols())?;
        if sjlt.dim_in == 0 {
            return self.zeros(x.rows(), sjlt.dim_out);
        }
        let y = Matrix::new(self.gpu(), x.rows(), sjlt.dim_out)?;
        for run in runs(x.rows(), [x.chunk_rows(), y.chunk_rows()]) {
            let [(x_chunk, x_row), (y_chunk, y_row)] = run.at;
            self.dispatch(&Dispatch {
                kernel: &KERNEL,
                flags: &[],
                constants: &[],
                params: &[sjlt.dim_in as u32, sjlt.dim_out as u32, x_row as u32, y_row as u32, sjlt.norm.to_bits()],
                bindings: [sjlt.starts.chunk(0), sjlt.entries.chunk(0), x.chunk(x_chunk), y.chunk(y_chunk)],
                groups: [sjlt.dim_out.div_ceil(LANES) as u64, run.rows as u64, 1],
            })?;
        }
        self.spend(sjlt.cost(x.rows()));
        Ok(y)
    }
}
