use ascribe_core::quantize::int8_block::scales_len;

use super::product::{TILES, Tile};
use super::score_top_k::NARROW;
use super::{Access, Cost, Kernel};
use crate::error::Error;
use crate::matrix::{Matrix, runs};
use crate::recorder::{Dispatch, Recorder};

pub(super) static KERNEL: Kernel = Kernel {
    name: "score_top_k_int8",
    source: include_str!("../../shaders/score_top_k_int8.wgsl"),
    bindings: &[
        Access::Read,
        Access::Read,
        Access::Read,
        Access::Read,
        Access::Read,
        Access::Read,
        Access::Write,
        Access::Write,
    ],
    variants: &[&[]],
    constants: &[&NARROW[0], &NARROW[1], &NARROW[2], &NARROW[3], &TILES[0], &TILES[1], &TILES[2], &TILES[3]],
};

pub(super) static QUERIES: Kernel = Kernel {
    name: "int8_queries",
    source: include_str!("../../shaders/int8_queries.wgsl"),
    bindings: &[Access::Read, Access::Write],
    variants: &[&[]],
    constants: &[&[]],
};

/// Columns whose products are summed as integers at most.
const LONGEST: usize = 512;

/// Queries as codes of 16 bits, in two halves of 8, with a scale for each block that rows have one for.
#[derive(Debug)]
pub(super) struct Int8Queries {
    pub(super) codes: Matrix<u32>,
    pub(super) block: usize,
    /// Words of a segment, and where the scales begin.
    pub(super) pitch: usize,
    pub(super) scales: usize,
}

impl Recorder {
    /// Queries for rows of int8 in blocks of `block` columns. One dispatch for each run in one piece of both.
    pub(super) fn int8_queries(&mut self, queries: &Matrix<f32>, block: usize) -> Result<Int8Queries, Error> {
        let cols = queries.cols();
        let block = block.min(cols);
        let blocks = scales_len(cols, block);
        let segments = blocks * block.div_ceil(LONGEST);
        let longest = block.min(LONGEST);
        // A segment that does not begin with a word touches one more.
        let pitch = if block.is_multiple_of(4) { longest.div_ceil(4) } else { (longest + 6) / 4 };
        let scales = 2 * segments * pitch;
        let codes = Matrix::new(self.gpu(), queries.rows(), scales + blocks)?;
        for run in runs(queries.rows(), [queries.chunk_rows(), codes.chunk_rows()]) {
            let [(x_chunk, x_row), (codes_chunk, codes_row)] = run.at;
            self.dispatch(&Dispatch {
                kernel: &QUERIES,
                flags: &[],
                constants: &[],
                params: &[cols, block, x_row, codes_row, pitch, scales + blocks, scales].map(|size| size as u32),
                bindings: [queries.chunk(x_chunk), codes.chunk(codes_chunk)],
                groups: [blocks as u64, run.rows as u64, 1],
            })?;
        }
        let elements = (queries.rows() * cols) as u64;
        self.spend(Cost { flops: 3 * elements, bytes: queries.bytes() + codes.bytes(), workgroup_bytes: 8 });
        Ok(Int8Queries { codes, block, pitch, scales })
    }
}

/// The workgroup memory of its panels, which hold two words for each four codes of a query.
pub(super) fn workgroup_bytes(&[(_, wide), (_, high), (_, depth)]: &Tile) -> u32 {
    32 * depth * (wide + high)
}
