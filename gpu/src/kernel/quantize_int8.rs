use ascribe_core::quantize::int8_block::scales_len;

use super::stored::check_block;
use super::{Access, Cost, Int8Rows, Kernel, sum};
use crate::error::Error;
use crate::matrix::{Matrix, runs};
use crate::recorder::{Dispatch, Recorder};

pub(super) static KERNEL: Kernel = Kernel {
    name: "quantize_int8",
    source: include_str!("../../shaders/quantize_int8.wgsl"),
    bindings: &[Access::Read, Access::Write, Access::Write],
    variants: &[&[]],
    constants: &[&[]],
};

/// Columns, or blocks, that a workgroup aims at and has room for.
const STRETCH: usize = 1024;

/// What the codes of `n` rows of `d` numbers cost: a maximum, a division and a rounding for each; numbers, codes and
/// scales once.
pub fn quantize_int8_cost(n: usize, d: usize, block: usize) -> Cost {
    let bytes = sum(&[&[4, n, d], &[4, n, d.div_ceil(4)], &[4, n, scales_len(d, block)]]);
    Cost { flops: sum(&[&[3, n, d]]), bytes, workgroup_bytes: 4 * STRETCH as u32 }
}

impl Recorder {
    /// Codes of 8 bits with a scale for each block of neighbours: [`ascribe_core::quantize::int8_block::quantize`] of
    /// each row, and with the same bits, because quotients that are nearly half way between two codes are computed in
    /// integers.
    ///
    /// What core refuses has a value here: a block with a NaN, an infinity, or a magnitude so large that it would come
    /// back infinite has scale NaN and codes 0, so every score of its row is NaN and ranks last.
    ///
    /// One dispatch for each run of rows that lie in one piece of the numbers, the codes and the scales. Cost:
    /// [`quantize_int8_cost`]. Workgroup memory: 4 KiB.
    ///
    /// # Errors
    /// [`Error::Core`] when `block` is 0; [`Error::Foreign`]; otherwise as [`Gpu::upload`](crate::Gpu::upload).
    ///
    /// # Examples
    /// ```
    /// # use ascribe_core::MatRef;
    /// # use ascribe_gpu::{Error, Gpu};
    /// # let gpu = match Gpu::new() { Err(Error::NoAdapter { why }) => return Ok(println!("skipped: {why}")), gpu => gpu? };
    /// let x = gpu.upload(MatRef::from_row(&[1.27, -0.634, 0.0, 254.0]))?;
    /// let mut recorder = gpu.record();
    /// let rows = recorder.quantize_int8(&x, 3)?;
    /// let (codes, scales) = (recorder.download(rows.codes())?, recorder.download(rows.scales())?);
    /// recorder.submit()?;
    /// assert_eq!((codes.wait()?, scales.wait()?), (vec![127, -63, 0, 127], vec![0.01, 2.0]));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn quantize_int8(&mut self, x: &Matrix<f32>, block: usize) -> Result<Int8Rows, Error> {
        check_block(block)?;
        x.check("x columns", self.gpu(), x.cols())?;
        let (n, d, blocks) = (x.rows(), x.cols(), scales_len(x.cols(), block));
        let (codes, scales) = (Matrix::new(self.gpu(), n, d)?, Matrix::new(self.gpu(), n, blocks)?);
        // A block longer than the row is the row.
        let columns = block.min(d);
        let stretch = stretch(columns);
        for run in runs(n, [x.chunk_rows(), codes.chunk_rows(), scales.chunk_rows()]) {
            let [(x_chunk, x_row), (codes_chunk, codes_row), (scales_chunk, scales_row)] = run.at;
            let sizes = [d, columns, stretch, blocks, x_row, codes_row, scales_row];
            self.dispatch(&Dispatch {
                kernel: &KERNEL,
                flags: &[],
                constants: &[],
                params: &sizes.map(|size| size as u32),
                bindings: [x.chunk(x_chunk), codes.chunk(codes_chunk), scales.chunk(scales_chunk)],
                groups: [blocks.div_ceil(stretch) as u64, run.rows as u64, 1],
            })?;
        }
        self.spend(quantize_int8_cost(n, d, block));
        Int8Rows::new(codes, scales, block)
    }
}

/// The blocks of a stretch, such that it ends with a whole word of codes.
fn stretch(block: usize) -> usize {
    let blocks = (STRETCH / block.max(1)).max(1);
    if block.is_multiple_of(4) { blocks } else { blocks.next_multiple_of(4) }
}
