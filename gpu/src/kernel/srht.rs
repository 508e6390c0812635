use ascribe_core::{LinOp, MatRef, sketch};

use super::mask_gather::words;
use super::{Access, Cost, Kernel, sum};
use crate::capabilities::Capabilities;
use crate::device::Gpu;
use crate::error::{Error, check_limit};
use crate::matrix::{Binding, Matrix, runs};
use crate::recorder::{Dispatch, Recorder};

/// Elements of a tile, and invocations that transform it.
type Tile = [(&'static str, u32); 2];

/// The smaller one is for devices with hardly any workgroup memory.
static TILES: [Tile; 2] = [[("TILE", 4096), ("LANES", 256)], [("TILE", 256), ("LANES", 16)]];

pub(super) static KERNEL: Kernel = Kernel {
    name: "srht",
    source: include_str!("../../shaders/srht.wgsl"),
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Write],
    variants: &[&["FIRST", "LAST"], &["FIRST"], &[]],
    constants: &[&TILES[0], &TILES[1]],
};

/// Neighbours that a later pass reads at once, as a power of two.
const NEIGHBOURS: u32 = 4;

/// The signs and the coordinates of a subsampled Hadamard transform on the device, [`sketch::Srht`]. Bytes: a bit for each
/// column, four for each coordinate.
#[derive(Debug)]
pub struct Srht {
    signs: Matrix<u32>,
    listed: Matrix<u32>,
    cols: usize,
    bits: u32,
    factor: f32,
}

impl Srht {
    /// Copies the signs and the coordinates to the device.
    ///
    /// # Errors
    /// [`Error::Core`] for more than `2^31` coordinates; otherwise as [`Gpu::upload`].
    pub fn upload(gpu: &Gpu, srht: &sketch::Srht) -> Result<Self, Error> {
        const WHAT: &str = "Hadamard transform on the device";
        let listed = words(WHAT, srht.rows())?;
        if srht.padded() > 1 << 31 {
            return Err(Error::Core(ascribe_core::Error::Overflow { what: WHAT }));
        }
        Ok(Self {
            signs: gpu.upload(MatRef::from_row(srht.sign_words().as_flattened()))?,
            listed: gpu.upload(MatRef::from_row(&listed))?,
            cols: LinOp::<f32>::dim_in(srht),
            bits: srht.padded().ilog2(),
            factor: (1.0 / (listed.len() as f64).sqrt()) as f32,
        })
    }

    /// What the sketch of `rows` rows costs on a device: `p log2 p + m` flops each; the input and the output once, and where
    /// several passes are needed, the padded row once written and once read by each of them.
    pub fn cost(&self, gpu: &Gpu, rows: usize) -> Cost {
        let tile = tile(gpu.capabilities()).unwrap_or(&TILES[0]);
        let (later, cols, kept) = (self.later(tile).count(), self.cols, self.listed.cols());
        let padded: usize = 1 << self.bits;
        let between = if later == 0 { 0 } else { padded + 2 * later * padded + kept };
        let moved = sum(&[&[4, rows, cols + between + kept]]);
        Cost {
            flops: sum(&[&[rows, padded, self.bits as usize], &[rows, cols]]),
            bytes: moved.saturating_add(self.signs.bytes() + self.listed.bytes()),
            workgroup_bytes: 4 * tile[0].1,
        }
    }

    /// The passes after the first: the lowest bit of each, and how many.
    fn later(&self, tile: &Tile) -> impl Iterator<Item = (u32, u32)> + use<> {
        let (bits, most) = (self.bits, tile[0].1.ilog2() - NEIGHBOURS);
        (tile[0].1.ilog2()..bits).step_by(most as usize).map(move |low| (low, most.min(bits - low)))
    }
}

fn tile(device: &Capabilities) -> Result<&'static Tile, Error> {
    let fits =
        |[(_, tile), (_, lanes)]: &&Tile| 4 * tile <= device.max_workgroup_bytes && *lanes <= device.max_invocations;
    let [_, [(_, smallest), _]] = TILES;
    check_limit("bytes of workgroup memory", u64::from(4 * smallest), device.max_workgroup_bytes.into())?;
    Ok(TILES.iter().find(fits).unwrap_or(&TILES[1]))
}

impl Recorder {
    /// The sketch of each row, `[n, m]` to `[n, k]`: [`sketch::Srht`].
    ///
    /// One dispatch for each run of rows that lie in one piece of the input and of the output where `p`, the padded length,
    /// is at most 4096: signs, transform and choice in workgroup memory. Longer rows take a pass for their lowest 12 bits
    /// and one for each further 8, and then the choice, with the padded rows in device memory in between. Cost:
    /// [`Srht::cost`]. Workgroup memory: 16 KiB; with less, tiles of 256. Error: core's bound.
    ///
    /// # Errors
    /// [`Error::Core`] when the columns are not those of the transform; [`Error::Foreign`]; [`Error::Limit`] when a padded
    /// row of more than a tile is larger than a binding of the device, or without 1 KiB of workgroup memory.
    ///
    /// # Examples
    /// ```
    /// # use ascribe_core::{MatRef, sketch};
    /// # use ascribe_gpu::{Error, Gpu, Srht};
    /// # let gpu = match Gpu::new() { Err(Error::NoAdapter { why }) => return Ok(println!("skipped: {why}")), gpu => gpu? };
    /// let srht = Srht::upload(&gpu, &sketch::Srht::new(&[1, -1, 1], &[0, 1, 2, 3])?)?;
    /// let x = gpu.upload(MatRef::from_row(&[1.0_f32, 2.0, 3.0]))?;
    /// let mut recorder = gpu.record();
    /// let y = recorder.srht(&srht, &x)?;
    /// let y = recorder.download(&y)?;
    /// recorder.submit()?;
    /// assert_eq!(y.wait()?, [1.0, 3.0, -2.0, 0.0]); // the transform of [1, -2, 3, 0], which has norm 1/2
    /// # Ok::<(), Error>(())
    /// ```
    pub fn srht(&mut self, srht: &Srht, x: &Matrix<f32>) -> Result<Matrix<f32>, Error> {
        x.check("x columns", self.gpu(), srht.cols)?;
        srht.listed.check("rows", self.gpu(), srht.listed.cols())?;
        if srht.cols == 0 || srht.listed.cols() == 0 {
            return self.zeros(x.rows(), srht.listed.cols());
        }
        let tile = tile(self.gpu().capabilities())?;
        let long = srht.later(tile).next().is_some();
        self.whole(|recorder| {
            let z = Matrix::new(recorder.gpu(), x.rows(), if long { 1 << srht.bits } else { srht.listed.cols() })?;
            for run in runs(x.rows(), [x.chunk_rows(), z.chunk_rows()]) {
                let [(x_chunk, x_row), (z_chunk, z_row)] = run.at;
                let flags = KERNEL.variants[usize::from(long)];
                let bindings = [x.chunk(x_chunk), z.chunk(z_chunk)];
                let levels = srht.bits.min(tile[0].1.ilog2());
                recorder.pass(srht, tile, flags, bindings, [run.rows, x_row, z_row], (0, levels))?;
                for pass in srht.later(tile) {
                    let bindings = [srht.signs.chunk(0), z.chunk(z_chunk)];
                    recorder.pass(srht, tile, KERNEL.variants[2], bindings, [run.rows, 0, z_row], pass)?;
                }
            }
            let y = if long { recorder.gather(&srht.listed, 1.0, &z)? } else { z };
            recorder.spend(srht.cost(recorder.gpu(), x.rows()));
            Ok(y)
        })
    }

    /// The butterflies over `levels` bits from `low` on.
    fn pass(
        &mut self,
        srht: &Srht,
        tile: &'static Tile,
        flags: &'static [&'static str],
        [x, z]: [Binding<'_>; 2],
        [rows, x_row, z_row]: [usize; 3],
        (low, levels): (u32, u32),
    ) -> Result<(), Error> {
        let len = rows << srht.bits;
        let [len, cols, kept, x_row, z_row] =
            [len, srht.cols, srht.listed.cols(), x_row, z_row].map(|size| size as u32);
        self.dispatch(&Dispatch {
            kernel: &KERNEL,
            flags,
            constants: tile,
            params: &[srht.bits, low, levels, len, cols, kept, x_row, z_row, srht.factor.to_bits()],
            bindings: [x, srht.signs.chunk(0), srht.listed.chunk(0), z],
            groups: [u64::from(len).div_ceil(tile[0].1.into()), 1, 1],
        })
    }
}
