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

/// Buckets, and rows, that a workgroup computes.
const LANES: usize = 64;
const ROWS: usize = 4;

/// The table of a sparse transform on the device, [`sketch::SjltBuckets`]: upload once, use for every batch.
///
/// Bytes: four for each entry and each bucket.
#[derive(Debug)]
pub struct SjltBuckets {
    starts: Matrix<u32>,
    entries: Matrix<u32>,
    dim_in: usize,
    dim_out: usize,
    /// Words of a row that have to be fetched to read what the entries name.
    pub(super) fetched: usize,
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

    /// With a table that is on the device, or will be when it is used, and in which every coordinate occurs.
    pub(super) fn from_device(starts: Matrix<u32>, entries: Matrix<u32>, dim_in: usize, norm: f32) -> Self {
        let dim_out = starts.cols().saturating_sub(1);
        Self { starts, entries, dim_in, dim_out, fetched: dim_in, norm }
    }

    /// What the sketch of `rows` rows costs: `n p s` additions; output and table once, and once every sector of 32 bytes
    /// of the input that holds a coordinate of the table, because a device's memory delivers no less. What is read again
    /// is to come from its cache: the table for every four rows, and a sector for each of its coordinates.
    pub fn cost(&self, rows: usize) -> Cost {
        let moved = sum(&[&[4, rows, self.fetched], &[4, rows, self.dim_out]]);
        let bytes = moved.saturating_add(self.entries.bytes() + self.starts.bytes());
        Cost { flops: sum(&[&[rows, self.entries.cols()]]), bytes, workgroup_bytes: 0 }
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
    /// Workgroup memory: none. Cost: [`SjltBuckets::cost`]; but neighbouring coordinates go to different buckets, so from
    /// the device's cache to its processors a sector of 32 bytes moves for every 4 that are added. Where that cache has
    /// `r` times the bandwidth of memory, a transform of all coordinates to `s` slots each thus reaches about `r / (8 s)`
    /// of the latter at most, and takes `8 s / r` times [`Cost::seconds`] or longer.
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
            let sizes = [sjlt.dim_in, sjlt.dim_out, run.rows, x_row, y_row].map(|size| size as u32);
            let [dim_in, dim_out, rows, x_row, y_row] = sizes;
            self.dispatch(&Dispatch {
                kernel: &KERNEL,
                flags: &[],
                constants: &[],
                params: &[dim_in, dim_out, rows, x_row, y_row, sjlt.norm.to_bits()],
                bindings: [sjlt.starts.chunk(0), sjlt.entries.chunk(0), x.chunk(x_chunk), y.chunk(y_chunk)],
                groups: [sjlt.dim_out.div_ceil(LANES) as u64, run.rows.div_ceil(ROWS) as u64, 1],
            })?;
        }
        self.spend(sjlt.cost(x.rows()));
        Ok(y)
    }
}
