use ascribe_core::{LinOp, MatRef, sketch};

use super::{Access, Cost, Kernel, sum};
use crate::device::Gpu;
use crate::error::Error;
use crate::matrix::{Matrix, runs};
use crate::recorder::{Dispatch, Recorder};

pub(super) static KERNEL: Kernel = Kernel {
    name: "mask_gather",
    source: include_str!("../../shaders/mask_gather.wgsl"),
    bindings: &[Access::Read, Access::Read, Access::Write],
    variants: &[&[]],
    constants: &[&[]],
};

/// Kept coordinates, and rows, that a workgroup copies.
const LANES: usize = 64;
const ROWS: usize = 4;

/// Words that a device's memory delivers at once, a sector of 32 bytes; on some devices it is more.
const SECTOR: u32 = 8;

/// Words of a row that have to be fetched to read these of its coordinates, which ascend.
pub(super) fn fetched(indices: &[u32], dim_in: usize) -> usize {
    let sectors = indices.chunk_by(|a, b| a / SECTOR == b / SECTOR).count();
    (sectors * SECTOR as usize).min(dim_in)
}

/// The coordinates that a mask keeps, on the device: [`sketch::Mask`]. Bytes: four for each.
#[derive(Debug)]
pub struct Mask {
    pub(super) indices: Matrix<u32>,
    dim_in: usize,
    fetched: usize,
    factor: f32,
}

impl Mask {
    /// Copies the indices of a mask to the device.
    ///
    /// # Errors
    /// [`Error::Core`] for more than `2^32` coordinates; otherwise as [`Gpu::upload`].
    pub fn upload<I: AsRef<[usize]>>(gpu: &Gpu, mask: &sketch::Mask<I>) -> Result<Self, Error> {
        let indices = words("mask on the device", mask.indices())?;
        let dim_in = LinOp::<f32>::dim_in(mask);
        let (fetched, factor) = (fetched(&indices, dim_in), mask.factor() as f32);
        Ok(Self { indices: gpu.upload(MatRef::from_row(&indices))?, dim_in, fetched, factor })
    }

    /// The number of coordinates there are.
    pub fn dim_in(&self) -> usize {
        self.dim_in
    }

    /// The number of coordinates that are kept.
    pub fn dim_out(&self) -> usize {
        self.indices.cols()
    }

    /// What the kept coordinates of `rows` rows cost: a product each; each is written once, and every sector of 32 bytes
    /// that holds one is read once, because a device's memory delivers no less.
    pub fn cost(&self, rows: usize) -> Cost {
        let moved = sum(&[&[4, rows, self.fetched], &[4, rows, self.dim_out()]]);
        let bytes = moved.saturating_add(self.indices.bytes());
        Cost { flops: sum(&[&[rows, self.dim_out()]]), bytes, workgroup_bytes: 0 }
    }
}

/// Indices as a shader reads them.
pub(super) fn words(what: &'static str, indices: &[usize]) -> Result<Vec<u32>, Error> {
    let overflow = Error::Core(ascribe_core::Error::Overflow { what });
    indices.iter().map(|&index| u32::try_from(index)).collect::<Result<_, _>>().map_err(|_| overflow)
}

impl Recorder {
    /// The kept coordinates of each row, `[n, p]` to `[n, k]`, times the mask's factor: [`sketch::Mask`], and with the
    /// same bits.
    ///
    /// One dispatch for each run of rows that lie in one piece of the input and of the output. Cost: [`Mask::cost`].
    /// Workgroup memory: none.
    ///
    /// # Errors
    /// [`Error::Core`] when the columns are not those of the mask; [`Error::Foreign`].
    ///
    /// # Examples
    /// ```
    /// # use ascribe_core::{MatRef, sketch};
    /// # use ascribe_gpu::{Error, Gpu, Mask};
    /// # let gpu = match Gpu::new() { Err(Error::NoAdapter { why }) => return Ok(println!("skipped: {why}")), gpu => gpu? };
    /// let mask = sketch::Mask::new([0, 3], 4, sketch::MaskScale::None)?;
    /// let mask = Mask::upload(&gpu, &mask)?;
    /// let x = gpu.upload(MatRef::from_row(&[1.0_f32, 2.0, 3.0, 4.0]))?;
    /// let mut recorder = gpu.record();
    /// let y = recorder.mask_gather(&mask, &x)?;
    /// let y = recorder.download(&y)?;
    /// recorder.submit()?;
    /// assert_eq!(y.wait()?, [1.0, 4.0]);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn mask_gather(&mut self, mask: &Mask, x: &Matrix<f32>) -> Result<Matrix<f32>, Error> {
        x.check("x columns", self.gpu(), mask.dim_in)?;
        mask.indices.check("indices", self.gpu(), mask.dim_out())?;
        let y = self.gather(&mask.indices, mask.factor, x)?;
        self.spend(mask.cost(x.rows()));
        Ok(y)
    }

    /// The columns `indices` of `x`, times `factor`. The caller has checked that they exist, and the devices.
    pub(super) fn gather(&mut self, indices: &Matrix<u32>, factor: f32, x: &Matrix<f32>) -> Result<Matrix<f32>, Error> {
        let y = Matrix::new(self.gpu(), x.rows(), indices.cols())?;
        for run in runs(x.rows(), [x.chunk_rows(), y.chunk_rows()]) {
            let [(x_chunk, x_row), (y_chunk, y_row)] = run.at;
            let sizes = [y.cols(), x.cols(), run.rows, x_row, y_row].map(|size| size as u32);
            let [kept, dim_in, rows, x_row, y_row] = sizes;
            self.dispatch(&Dispatch {
                kernel: &KERNEL,
                flags: &[],
                constants: &[],
                params: &[kept, dim_in, rows, x_row, y_row, factor.to_bits()],
                bindings: [indices.chunk(0), x.chunk(x_chunk), y.chunk(y_chunk)],
                groups: [y.cols().div_ceil(LANES) as u64, run.rows.div_ceil(ROWS) as u64, 1],
            })?;
        }
        Ok(y)
    }
}
