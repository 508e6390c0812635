//! How `shaders/shared/contract.wgsl` is dispatched: of each example, a sum of outer products over its positions.

use super::product::{A_TRANSPOSED, TILES, VEC4, groups, select, workgroup_bytes};
use super::{Cost, Kernel, sum};
use crate::error::Error;
use crate::matrix::{Binding, Matrix, WHOLE, runs};
use crate::record::LayerRecord;
use crate::recorder::{Dispatch, Recorder};

const MASKED: &str = "MASKED";

pub(super) static VARIANTS: [&[&str]; 4] =
    [&[A_TRANSPOSED], &[A_TRANSPOSED, MASKED], &[A_TRANSPOSED, VEC4], &[A_TRANSPOSED, VEC4, MASKED]];

/// What is summed: of each position the outer product of a row of `a` and one of `b`, or of what the kernel makes of them
/// and of its tables.
pub(super) struct Products<'a, const TABLES: usize> {
    pub(super) kernel: &'static Kernel,
    pub(super) a: &'a Matrix<f32>,
    pub(super) b: &'a Matrix<f32>,
    pub(super) tables: [Binding<'a>; TABLES],
    /// Rows and columns of a product.
    pub(super) m: usize,
    pub(super) n: usize,
}

/// What `m x n` products of `positions` positions of each example cost: `2 m n` flops a position; what is multiplied, and
/// the sums, once.
pub(super) fn contract_cost(examples: usize, positions: usize, m: usize, n: usize) -> Cost {
    Cost {
        flops: sum(&[&[2, examples, positions, m, n]]),
        bytes: sum(&[&[4, examples, positions, m], &[4, examples, positions, n], &[4, examples, m, n]]),
        workgroup_bytes: workgroup_bytes(&TILES[0]),
    }
}

impl Recorder {
    /// The sums of each example as a row of the result, `[examples, m n]`, with the positions in ascending order.
    /// `BINDINGS` is `TABLES + 4`.
    ///
    /// One dispatch for each run of examples that lie in one piece of every operand, and for each part of an example
    /// that the end of a piece cuts.
    pub(super) fn contract<const TABLES: usize, const BINDINGS: usize>(
        &mut self,
        products: &Products<'_, TABLES>,
        record: &LayerRecord,
    ) -> Result<Matrix<f32>, Error> {
        let &Products { kernel, a, b, tables, m, n } = products;
        let (examples, positions) = (record.examples(), record.positions());
        // Without positions there are no runs, and nothing to add to the zeros.
        let g = if positions == 0 { self.zeros(examples, m * n) } else { Matrix::new(self.gpu(), examples, m * n) }?;
        let mut flags = vec![A_TRANSPOSED];
        if m.is_multiple_of(4) && n.is_multiple_of(4) {
            flags.push(VEC4);
        }
        if record.mask().is_some() {
            flags.push(MASKED);
        }
        // A layer without inputs has no piece that could be cut or bound, but may have a bias.
        let cut = |x: &Matrix<f32>| if x.cols() == 0 { WHOLE } else { x.chunk_rows() };
        let cuts =
            [cut(a), cut(b), record.mask().map_or(WHOLE, Matrix::chunk_rows), g.chunk_rows().saturating_mul(positions)];
        for run in runs(examples * positions, cuts) {
            let [(a_chunk, a_row), (b_chunk, b_row), (mask_chunk, mask_row), (g_chunk, g_row)] = run.at;
            let a_piece = a.chunk(a_chunk);
            let b_piece = if b.cols() == 0 { a_piece } else { b.chunk(b_chunk) };
            // What is not there is not read.
            let mask = record.mask().map_or(a_piece, |mask| mask.chunk(mask_chunk));
            let mut bindings = [a_piece; BINDINGS];
            bindings[..4].copy_from_slice(&[mask, g.chunk(g_chunk), a_piece, b_piece]);
            bindings[4..].copy_from_slice(&tables);
            for part in parts(run.start, run.rows, positions) {
                let done = part.start - run.start;
                let tile = select(self.gpu().capabilities(), [n, m, part.examples])?;
                let rows = [a_row + done, b_row + done, mask_row + done, (g_row + done) / positions];
                let [a_row, b_row, mask_row, g_row] = rows.map(|row| row as u32);
                let sizes = [m, n, part.positions, a.cols(), b.cols()].map(|size| size as u32);
                let [rows, cols, positions, a_cols, b_cols] = sizes;
                self.dispatch(&Dispatch {
                    kernel,
                    flags: &flags,
                    constants: tile,
                    params: &[
                        rows,
                        cols,
                        positions,
                        a_row,
                        b_row,
                        mask_row,
                        g_row,
                        a_cols,
                        b_cols,
                        u32::from(part.continued),
                    ],
                    bindings,
                    groups: groups(tile, [n, m, part.examples]),
                })?;
            }
        }
        self.spend(contract_cost(examples, positions, m, n));
        Ok(g)
    }
}

/// Whole examples, or a part of one.
struct Part {
    /// The first row of the record.
    start: usize,
    examples: usize,
    /// Of each example.
    positions: usize,
    /// Whether earlier positions of the example are in another part.
    continued: bool,
}

/// The rows `start..start + rows` of a record.
fn parts(start: usize, rows: usize, positions: usize) -> impl Iterator<Item = Part> {
    let (mut next, end) = (start, start + rows);
    std::iter::from_fn(move || {
        let (start, offset, left) = (next, next % positions, end - next);
        let (examples, positions) = if offset > 0 || left < positions {
            (1, left.min(positions - offset))
        } else {
            (left / positions, positions)
        };
        next += examples * positions;
        (left > 0).then_some(Part { start, examples, positions, continued: offset > 0 })
    })
}
