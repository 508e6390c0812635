//! How `shaders/shared/projection.wgsl` is dispatched: products with random matrices that are made on the way.

use ascribe_core::sketch::{Entries, Projection};

use super::product::{ENOUGH, Tile, VEC4, fits, groups, tile, too_little, workgroup_bytes};
use super::slice_sum::SliceSum;
use super::{Cost, Kernel, sum};
use crate::capabilities::Capabilities;
use crate::error::{Error, check_shape};
use crate::matrix::{Binding, Matrix, runs};
use crate::recorder::{Dispatch, Recorder};

/// For batches of up to 8, 16, 64 and any number of rows: what is drawn for a workgroup serves all of its rows. The last is
/// for devices with hardly any workgroup memory.
pub(super) static TILES: [Tile; 5] =
    [tile(64, 1, 8), tile(32, 2, 16), tile(16, 8, 16), tile(16, 16, 16), tile(8, 4, 4)];

pub(super) static VARIANTS: [&[&str]; 2] = [&[], &[VEC4]];

/// Columns that are summed one after the other, and then added to the sum of those before.
const BLOCK: usize = 128;
/// The fewest columns of a part: then hardly more is moved for the parts than for the input.
const PART: usize = 8 * BLOCK;

/// What a random matrix of `width` rows costs: `2 rows cols width` flops; input and output once.
pub(super) fn projection_cost(rows: usize, cols: usize, width: usize) -> Cost {
    let flops = sum(&[&[2, rows, cols, width]]);
    Cost { flops, bytes: sum(&[&[4, rows, cols], &[4, rows, width]]), workgroup_bytes: bytes(&TILES[3]) }
}

/// The panels, and the words that signs are made of.
fn bytes(tile: &Tile) -> u32 {
    workgroup_bytes(tile) + 64 * tile[0].1
}

/// The tile with the fewest rows that takes all of a batch, or the one with the most.
fn select(device: &Capabilities, rows: usize) -> Result<&'static Tile, Error> {
    let [tiles @ .., smallest] = &TILES;
    let fitting = || tiles.iter().filter(|tile| fits(device, bytes(tile), tile));
    let takes_all = fitting().find(|tile| tile[1].1 as usize * 8 >= rows);
    let tile = takes_all.or(fitting().next_back()).or(Some(smallest).filter(|tile| fits(device, bytes(tile), tile)));
    tile.ok_or_else(|| too_little(device, bytes(smallest)))
}

/// The columns of a part: few enough to give a device something to do that `groups` workgroups leave idle.
fn part_cols(groups: [u64; 3], cols: usize) -> usize {
    let parts = ENOUGH.div_ceil(groups.iter().product::<u64>() as usize);
    cols.div_ceil(parts).max(PART).next_multiple_of(BLOCK)
}

/// That a block lies inside the matrix.
fn check_inside(what: &'static str, start: usize, len: usize, of: usize) -> Result<(), Error> {
    match start.checked_add(len) {
        Some(end) if end <= of => Ok(()),
        end => Err(ascribe_core::Error::Index { what, index: end.unwrap_or(usize::MAX), len: of }.into()),
    }
}

impl Recorder {
    /// `X A^T`.
    pub(super) fn projection<E: Entries>(
        &mut self,
        kernel: &'static Kernel,
        sketch: &Projection<E>,
        x: &Matrix<f32>,
    ) -> Result<Matrix<f32>, Error> {
        x.check("x columns", self.gpu(), sketch.cols())?;
        if sketch.cols() == 0 {
            return self.zeros(x.rows(), sketch.rows());
        }
        let y = Matrix::new(self.gpu(), x.rows(), sketch.rows())?;
        self.whole(|recorder| recorder.project(kernel, &y, false, sketch, x, [0, 0]))?;
        Ok(y)
    }

    /// `Y += X A^T` for the block of `A` that begins at `row0` and `col0`.
    pub(super) fn projection_onto<E: Entries>(
        &mut self,
        kernel: &'static Kernel,
        y: &mut Matrix<f32>,
        sketch: &Projection<E>,
        x: &Matrix<f32>,
        [row0, col0]: [usize; 2],
    ) -> Result<(), Error> {
        check_shape("out rows", x.rows(), y.rows())?;
        check_inside("rows of the matrix", row0, y.cols(), sketch.rows())?;
        check_inside("columns of the matrix", col0, x.cols(), sketch.cols())?;
        for matrix in [x, y] {
            matrix.check("columns", self.gpu(), matrix.cols())?;
        }
        self.whole(|recorder| recorder.project(kernel, y, true, sketch, x, [row0, col0]))
    }

    /// `Y += X A^T`, or `Y = X A^T` when `keep` is not set, for the block of the matrix of `sketch` that begins at `row0` and
    /// `col0` and is as large as `X` and `Y` say. One dispatch for each run of rows in one piece of both; where the output
    /// is too small to occupy a device, the columns are cut into parts, and another dispatch adds
    /// them up.
    pub(super) fn project<E: Entries>(
        &mut self,
        kernel: &'static Kernel,
        y: &Matrix<f32>,
        keep: bool,
        sketch: &Projection<E>,
        x: &Matrix<f32>,
        [row0, col0]: [usize; 2],
    ) -> Result<(), Error> {
        let (width, cols, skip) = (y.cols(), x.cols(), col0 % E::PER_BLOCK);
        let fours = [cols, skip].iter().all(|size| size.is_multiple_of(4));
        for run in runs(x.rows(), [x.chunk_rows(), y.chunk_rows()]) {
            let [(x_chunk, x_row), (y_chunk, y_row)] = run.at;
            let tile = select(self.gpu().capabilities(), run.rows)?;
            let part_cols = part_cols(groups(tile, [width, run.rows, 1]), skip + cols);
            let parts = (skip + cols).div_ceil(part_cols);
            // The parts `first_part..first_part + parts`, from element `first` of `out` on.
            let dispatch = |recorder: &mut Self, out: Binding<'_>, first: usize, keep: bool, first_part, parts| {
                let sizes = [run.rows, cols, width, x_row * cols, first, run.rows * width, first_part, part_cols];
                let [rows, cols, cols_out, x_first, first, distance, part, part_cols] = sizes.map(|size| size as u32);
                let [key0, key1] = sketch.key();
                let [row0, block0, skip] = [row0, col0 / E::PER_BLOCK, skip].map(|at| at as u32);
                let factor = (sketch.factor() as f32).to_bits();
                recorder.dispatch(&Dispatch {
                    kernel,
                    flags: VARIANTS[usize::from(fours)],
                    constants: tile,
                    params: &[
                        rows,
                        cols,
                        cols_out,
                        x_first,
                        first,
                        distance,
                        part,
                        part_cols,
                        key0,
                        key1,
                        row0,
                        block0,
                        skip,
                        u32::from(keep),
                        factor,
                    ],
                    bindings: [x.chunk(x_chunk), out],
                    groups: groups(tile, [width, run.rows, parts]),
                })
            };
            let (out, first) = (y.chunk(y_chunk), y_row * width);
            if parts == 1 {
                dispatch(self, out, first, keep, 0, 1)?;
                continue;
            }
            let sums = Matrix::<f32>::new(self.gpu(), parts, run.rows * width)?;
            for piece in 0..sums.chunks().len() {
                let (part, parts) = (piece * sums.chunk_rows(), sums.rows_of(piece));
                dispatch(self, sums.chunk(piece), 0, false, part, parts)?;
                let beta = f32::from(u8::from(keep || piece > 0));
                let sum = SliceSum { slices: parts, rows: run.rows, cols: width, first, stride: width };
                self.slice_sum(out, [beta, 1.0], sums.chunk(piece), sum)?;
            }
        }
        self.spend(projection_cost(x.rows(), cols, width));
        Ok(())
    }
}
