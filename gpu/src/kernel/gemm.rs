use super::product::{A_TRANSPOSED, B_TRANSPOSED, ENOUGH, TILES, VEC4, groups, select, subgroups, workgroup_bytes};
use super::slice_sum::{SliceSum, slice_depth};
use super::{Access, Cost, Kernel, sum};
use crate::error::{Error, check_shape};
use crate::matrix::{Matrix, Run, WHOLE, runs};
use crate::recorder::{Dispatch, Recorder};
use crate::shader::SUBGROUPS;

pub(super) static KERNEL: Kernel = Kernel {
    name: "gemm",
    source: include_str!("../../shaders/gemm.wgsl"),
    bindings: &[Access::Read, Access::Read, Access::Write],
    variants: &[
        &[],
        &[A_TRANSPOSED],
        &[B_TRANSPOSED],
        &[A_TRANSPOSED, B_TRANSPOSED],
        &[VEC4],
        &[A_TRANSPOSED, VEC4],
        &[B_TRANSPOSED, VEC4],
        &[A_TRANSPOSED, B_TRANSPOSED, VEC4],
        &[SUBGROUPS],
        &[A_TRANSPOSED, SUBGROUPS],
        &[B_TRANSPOSED, SUBGROUPS],
        &[A_TRANSPOSED, B_TRANSPOSED, SUBGROUPS],
        &[VEC4, SUBGROUPS],
        &[A_TRANSPOSED, VEC4, SUBGROUPS],
        &[B_TRANSPOSED, VEC4, SUBGROUPS],
        &[A_TRANSPOSED, B_TRANSPOSED, VEC4, SUBGROUPS],
    ],
    constants: &[&TILES[0], &TILES[1], &TILES[2], &TILES[3]],
};

/// A matrix as a product uses it: as it is, or transposed. Made by `From` or by [`Matrix::t`].
#[derive(Debug, Clone, Copy)]
pub struct Operand<'a> {
    /// The matrix as it is stored.
    pub matrix: &'a Matrix<f32>,
    /// Whether the product uses its transpose.
    pub transposed: bool,
}

impl<'a> From<&'a Matrix<f32>> for Operand<'a> {
    fn from(matrix: &'a Matrix<f32>) -> Self {
        Self { matrix, transposed: false }
    }
}

impl Matrix<f32> {
    /// The transpose, for a product; nothing is moved.
    pub fn t(&self) -> Operand<'_> {
        Operand { matrix: self, transposed: true }
    }
}

impl Operand<'_> {
    /// The number of rows of the operand (columns of the stored matrix when transposed).
    pub fn rows(&self) -> usize {
        if self.transposed { self.matrix.cols() } else { self.matrix.rows() }
    }

    /// The number of columns of the operand.
    pub fn cols(&self) -> usize {
        if self.transposed { self.matrix.rows() } else { self.matrix.cols() }
    }

    /// Into how many rows or columns of the operand its pieces are cut: [`WHOLE`] along the other direction.
    fn cut(&self, transposed: bool) -> usize {
        if self.transposed == transposed { self.matrix.chunk_rows() } else { WHOLE }
    }

    /// The first element, in the piece, of the block that begins at stored row `row` and stored column `col`.
    fn first(&self, row: usize, col: usize) -> u32 {
        (row * self.matrix.cols() + col) as u32
    }
}

/// What `beta C + alpha A B` costs with `m x k` and `k x n` operands: `2 m k n` flops; operands and output once.
pub fn gemm_cost(m: usize, k: usize, n: usize) -> Cost {
    let bytes = sum(&[&[4, m, k], &[4, k, n], &[4, m, n]]);
    Cost { flops: sum(&[&[2, m, k, n]]), bytes, workgroup_bytes: workgroup_bytes(&TILES[0]) }
}

impl Recorder {
    /// `alpha A B`, [`ascribe_core::matmul::matmul`]: matrices, or their transposes ([`Matrix::t`]).
    ///
    /// The error has core's bound, `gamma_(k+3) |alpha| (|A| |B|)`: each element is a sum over ascending `k` in f32. When
    /// that leaves a device with too little to do at once, it is several, over slices of at least 512, which a second
    /// kernel adds: a matter of the sizes and the device's limits alone. Where all subgroups have 8 or 16 lanes
    /// ([`subgroups`](crate::Capabilities::subgroups)), these share what they read of `A`, for the same bits; never with
    /// [`GpuOptions::plain`](crate::GpuOptions::plain). One dispatch, or these two, for each piece of the output and of
    /// what is summed. Cost: [`gemm_cost`]. Workgroup memory: 12 KiB for tiles of 128 x 64, less for small outputs and
    /// small devices.
    ///
    /// # Errors
    /// [`Error::Core`] when the inner dimensions differ; [`Error::Foreign`]; [`Error::Limit`] when the device has less
    /// than 1 KiB of workgroup memory; otherwise as [`Gpu::upload`](crate::Gpu::upload).
    ///
    /// # Examples
    /// ```
    /// # use ascribe_core::MatRef;
    /// # use ascribe_gpu::{Error, Gpu};
    /// # let gpu = match Gpu::new() { Err(Error::NoAdapter { why }) => return Ok(println!("skipped: {why}")), gpu => gpu? };
    /// let x = gpu.upload(MatRef::new(&[1.0, 2.0, 3.0, 4.0], 2, 2)?)?;
    /// let mut recorder = gpu.record();
    /// let gram = recorder.gemm(1.0, x.t(), &x)?;
    /// let gram = recorder.download(&gram)?;
    /// recorder.submit()?;
    /// assert_eq!(gram.wait()?, [10.0, 14.0, 14.0, 20.0]);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn gemm<'a, 'b>(
        &mut self,
        alpha: f32,
        a: impl Into<Operand<'a>>,
        b: impl Into<Operand<'b>>,
    ) -> Result<Matrix<f32>, Error> {
        let (a, b) = (a.into(), b.into());
        check_shape("rows of b", a.cols(), b.rows())?;
        for Operand { matrix, .. } in [a, b] {
            matrix.check("columns", self.gpu(), matrix.cols())?;
        }
        if a.cols() == 0 {
            return self.zeros(a.rows(), b.cols());
        }
        let mut c = Matrix::new(self.gpu(), a.rows(), b.cols())?;
        self.gemm_onto(&mut c, 0.0, alpha, a, b)?;
        Ok(c)
    }

    /// `C = beta C + alpha A B`: [`gemm`](Self::gemm) that adds to a matrix. With `beta = 0` what `C` held does not
    /// count, NaN included. Without anything to sum, it is `beta C`.
    ///
    /// # Errors
    /// As [`gemm`](Self::gemm), and [`Error::Core`] when `C` has another shape.
    pub fn gemm_onto<'a, 'b>(
        &mut self,
        c: &mut Matrix<f32>,
        beta: f32,
        alpha: f32,
        a: impl Into<Operand<'a>>,
        b: impl Into<Operand<'b>>,
    ) -> Result<(), Error> {
        let (a, b) = (a.into(), b.into());
        check_shape("rows of b", a.cols(), b.rows())?;
        check_shape("out rows", a.rows(), c.rows())?;
        check_shape("out columns", b.cols(), c.cols())?;
        for matrix in [a.matrix, b.matrix, c] {
            matrix.check("columns", self.gpu(), matrix.cols())?;
        }
        if a.cols() == 0 {
            if c.rows() == 0 || c.cols() == 0 {
                return Ok(());
            }
            // Nothing to sum: one product with zeros leaves `beta C`.
            return self.whole(|recorder| {
                let (a, b) = (recorder.zeros(a.rows(), 1)?, recorder.zeros(1, b.cols())?);
                recorder.gemm_onto(c, beta, 0.0, &a, &b)
            });
        }
        self.whole(|recorder| {
            for rows in runs(c.rows(), [c.chunk_rows(), a.cut(false)]) {
                for cols in runs(c.cols(), [b.cut(true)]) {
                    for depth in runs(a.cols(), [a.cut(true), b.cut(false)]) {
                        let beta = if depth.start == 0 { beta } else { 1.0 };
                        recorder.block(c, [beta, alpha], a, b, rows, cols, depth)?;
                    }
                }
            }
            recorder.spend(gemm_cost(c.rows(), a.cols(), c.cols()));
            Ok(())
        })
    }

    /// The product of runs that lie in one piece of each operand.
    #[expect(clippy::too_many_arguments, reason = "the three dimensions of a product")]
    fn block(
        &mut self,
        c: &Matrix<f32>,
        [beta, alpha]: [f32; 2],
        a: Operand<'_>,
        b: Operand<'_>,
        rows: Run<2>,
        cols: Run<1>,
        depth: Run<2>,
    ) -> Result<(), Error> {
        let slice = slice_depth(self.gpu().capabilities(), [rows.rows, cols.rows, depth.rows], ENOUGH)?;
        let slices = depth.rows.div_ceil(slice);
        let sizes = [cols.rows, rows.rows, slices];
        let tile = select(self.gpu().capabilities(), sizes)?;
        let (c_chunk, c_row) = rows.at[0];
        // Of each operand, the piece, and the first stored row and column in it.
        let (a_chunk, a_first) = if a.transposed {
            (depth.at[0].0, a.first(depth.at[0].1, rows.start))
        } else {
            (rows.at[1].0, a.first(rows.at[1].1, depth.start))
        };
        let (b_chunk, b_first) = if b.transposed {
            (cols.at[0].0, b.first(cols.at[0].1, depth.start))
        } else {
            (depth.at[1].0, b.first(depth.at[1].1, cols.start))
        };
        let c_first = c_row * c.cols() + cols.start;
        // Fours of neighbours are loaded at once where every stored row consists of them; then the pieces of runs in
        // fours begin with one too.
        let ends = [rows.rows, depth.rows, cols.rows];
        let along = [a.transposed, !a.transposed || b.transposed, true];
        let fours = [a.matrix, b.matrix, c].iter().all(|matrix| matrix.cols() % 4 == 0)
            && ends.iter().zip(along).all(|(end, along)| !along || end % 4 == 0);
        let shared = subgroups(self.gpu().capabilities(), tile);
        let flags = [(a.transposed, A_TRANSPOSED), (b.transposed, B_TRANSPOSED), (fours, VEC4), (shared, SUBGROUPS)];
        let flags: Vec<&'static str> = flags.into_iter().filter_map(|(on, flag)| on.then_some(flag)).collect();
        let [m, n, k] = [rows.rows, cols.rows, depth.rows].map(|x| x as u32);
        // One slice goes straight into C; the sums of several are added behind.
        let partial =
            (slices > 1).then(|| Matrix::<f32>::new(self.gpu(), rows.rows * slices, cols.rows)).transpose()?;
        let (out, first, stride, [out_beta, out_alpha]) = match &partial {
            Some(partial) => (partial.chunk(0), 0, n, [0.0, 1.0]),
            None => (c.chunk(c_chunk), c_first as u32, c.cols() as u32, [beta, alpha]),
        };
        let [a_stride, b_stride] = [a, b].map(|operand| operand.matrix.cols() as u32);
        self.dispatch(&Dispatch {
            kernel: &KERNEL,
            flags: &flags,
            constants: tile,
            params: &[
                m,
                n,
                k,
                a_first,
                a_stride,
                b_first,
                b_stride,
                first,
                stride,
                slice as u32,
                m * n,
                out_alpha.to_bits(),
                out_beta.to_bits(),
            ],
            bindings: [a.matrix.chunk(a_chunk), b.matrix.chunk(b_chunk), out],
            groups: groups(tile, sizes),
        })?;
        let Some(partial) = &partial else { return Ok(()) };
        let sum = SliceSum { slices, rows: rows.rows, cols: cols.rows, first: c_first, stride: c.cols() };
        self.slice_sum(c.chunk(c_chunk), [beta, alpha], partial.chunk(0), sum)
    }
}
