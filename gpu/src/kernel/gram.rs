use super::product::{ENOUGH, TILES, groups, select, workgroup_bytes};
use super::slice_sum::{SliceSum, slice_depth};
use super::{Access, Cost, Kernel, sum};
use crate::error::{Error, check_shape};
use crate::matrix::{Matrix, Run, WHOLE, runs};
use crate::recorder::{Dispatch, Recorder};

const A_TRANSPOSED: &str = "A_TRANSPOSED";
const VEC4: &str = "VEC4";
const WEIGHTED: &str = "WEIGHTED";

pub(super) static KERNEL: Kernel = Kernel {
    name: "gram",
    source: include_str!("../../shaders/gram.wgsl"),
    bindings: &[Access::Read, Access::Read, Access::Write],
    variants: &[&[A_TRANSPOSED], &[A_TRANSPOSED, VEC4], &[A_TRANSPOSED, WEIGHTED], &[A_TRANSPOSED, VEC4, WEIGHTED]],
    constants: &[&TILES[0], &TILES[1], &TILES[2], &TILES[3]],
};

/// Which part of the sum a dispatch computes; the numbers are those of the shader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Diagonal = 0,
    Lower = 1,
    Upper = 2,
}

/// What lies in one piece of the sum, and in one part.
struct Block {
    part: Part,
    piece: Run<1>,
    col: usize,
    cols: usize,
}

/// What `beta C + alpha X^T W X` costs with `rows x dim` numbers: `rows dim (dim + 1)` flops, half of those of a product;
/// rows once, the sum once in and once out.
pub fn gram_cost(rows: usize, dim: usize) -> Cost {
    let flops = sum(&[&[rows, dim, dim], &[rows, dim]]);
    Cost { flops, bytes: sum(&[&[4, rows, dim], &[8, dim, dim]]), workgroup_bytes: workgroup_bytes(&TILES[0]) }
}

impl Recorder {
    /// `X^T X`, `[d, d]`: the Gram matrix of the coordinates of rows, as `Gram` of `ascribe-solvers`.
    ///
    /// # Errors
    /// As [`gram_onto`](Self::gram_onto).
    ///
    /// # Examples
    /// ```
    /// # use ascribe_core::MatRef;
    /// # use ascribe_gpu::{Error, Gpu};
    /// # let gpu = match Gpu::new() { Err(Error::NoAdapter { why }) => return Ok(println!("skipped: {why}")), gpu => gpu? };
    /// let x = gpu.upload(MatRef::new(&[1.0, 2.0, 3.0, 0.0], 2, 2)?)?;
    /// let weights = gpu.upload(MatRef::new(&[1.0, 2.0], 2, 1)?)?;
    /// let mut recorder = gpu.record();
    /// let mut gram = recorder.gram(&x)?;
    /// recorder.gram_onto(&mut gram, 1.0, 1.0, &x, Some(&weights))?;
    /// let gram = recorder.download(&gram)?;
    /// recorder.submit()?;
    /// assert_eq!(gram.wait()?, [29.0, 4.0, 4.0, 8.0]);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn gram(&mut self, x: &Matrix<f32>) -> Result<Matrix<f32>, Error> {
        let mut sum = Matrix::new(self.gpu(), x.cols(), x.cols())?;
        self.gram_onto(&mut sum, 0.0, 1.0, x, None)?;
        Ok(sum)
    }

    /// `C = beta C + alpha X^T W X` with a weight for each row (`[n, 1]`), or without: a sum over batches. A symmetric `C`
    /// stays symmetric to the bit.
    ///
    /// Each element is one sum over ascending rows in f32, or several over slices of at least 512 rows, which a second
    /// kernel adds, where that would leave a device with too little to do at once: a matter of the sizes and the device's
    /// limits alone, as in [`gemm`](Self::gemm). Its error is at most `gamma_(n + 4) sum_i |alpha w_i x_ij x_ik|` and a
    /// rounding of what `C` held. One dispatch, or these two, for each piece of `C` and of `X`; where `C` lies in several
    /// pieces, two more for what is beside the diagonal of each, which is then computed twice. Cost: [`gram_cost`].
    /// Workgroup memory: as [`gemm`](Self::gemm).
    ///
    /// # Errors
    /// [`Error::Core`] when a dimension does not fit; [`Error::Foreign`]; [`Error::Limit`] when the device has less than
    /// 1 KiB of workgroup memory; otherwise as [`Gpu::upload`](crate::Gpu::upload).
    pub fn gram_onto(
        &mut self,
        c: &mut Matrix<f32>,
        beta: f32,
        alpha: f32,
        x: &Matrix<f32>,
        weights: Option<&Matrix<f32>>,
    ) -> Result<(), Error> {
        x.check("x columns", self.gpu(), x.cols())?;
        c.check("columns of the sum", self.gpu(), x.cols())?;
        check_shape("rows of the sum", x.cols(), c.rows())?;
        if let Some(weights) = weights {
            weights.check("columns of the weights", self.gpu(), 1)?;
            check_shape("weights", x.rows(), weights.rows())?;
        }
        if x.rows() == 0 {
            return self.gemm_onto(c, beta, alpha, x.t(), x);
        }
        self.whole(|recorder| recorder.triangles(c, [beta, alpha], x, weights))
    }

    /// The upper triangle, stored twice, piece by piece of `C`.
    fn triangles(
        &mut self,
        c: &Matrix<f32>,
        [beta, alpha]: [f32; 2],
        x: &Matrix<f32>,
        weights: Option<&Matrix<f32>>,
    ) -> Result<(), Error> {
        let dim = c.rows();
        for piece in runs(dim, [c.chunk_rows()]) {
            let end = piece.start + piece.rows;
            let parts = [
                (Part::Lower, 0, piece.start),
                (Part::Diagonal, piece.start, piece.rows),
                (Part::Upper, end, dim - end),
            ];
            for (part, col, cols) in parts.into_iter().filter(|(.., cols)| *cols > 0) {
                for run in runs(x.rows(), [x.chunk_rows(), weights.map_or(WHOLE, Matrix::chunk_rows)]) {
                    self.block_of_gram(c, [beta, alpha], x, weights, &Block { part, piece, col, cols }, run)?;
                }
            }
        }
        self.spend(gram_cost(x.rows(), dim));
        Ok(())
    }

    /// What the rows of a run, which lie in one piece of each operand, add to a block.
    fn block_of_gram(
        &mut self,
        c: &Matrix<f32>,
        [beta, alpha]: [f32; 2],
        x: &Matrix<f32>,
        weights: Option<&Matrix<f32>>,
        &Block { part, piece, col, cols }: &Block,
        run: Run<2>,
    ) -> Result<(), Error> {
        let dim = c.rows();
        let [(x_chunk, x_row), (weights_chunk, weights_row)] = run.at;
        let numbers = x.chunk(x_chunk);
        let weighted = weights.map(|weights| weights.chunk(weights_chunk));
        // Whole fours, where every row of the part and of X begins and ends with one.
        let fours = [dim, piece.start, piece.rows, col, cols].iter().all(|size| size.is_multiple_of(4));
        let flags: Vec<&'static str> = [(true, A_TRANSPOSED), (fours, VEC4), (weighted.is_some(), WEIGHTED)]
            .into_iter()
            .filter_map(|(on, flag)| on.then_some(flag))
            .collect();
        let beta = if run.start == 0 { beta } else { 1.0 };
        // Half of the workgroups of the diagonal have nothing to do. Mirrored parts have slices of one depth, which is
        // that of all of C.
        let slice = slice_depth(self.gpu().capabilities(), [dim, dim, run.rows], 2 * ENOUGH)?;
        let slices = run.rows.div_ceil(slice);
        let busy = if part == Part::Diagonal { cols.div_ceil(2) } else { cols };
        let tile = select(self.gpu().capabilities(), [busy, piece.rows, slices])?;
        let (c, c_first) = (c.chunk(piece.at[0].0), piece.at[0].1 * dim + col);
        // One slice goes straight into C; the sums of several are added behind.
        let partial = (slices > 1).then(|| Matrix::<f32>::new(self.gpu(), slices * piece.rows, cols)).transpose()?;
        let (out, first, stride, [out_beta, out_alpha]) = match &partial {
            Some(partial) => (partial.chunk(0), 0, cols, [0.0, 1.0]),
            None => (c, c_first, dim, [beta, alpha]),
        };
        let sizes = [
            piece.rows,
            cols,
            run.rows,
            x_row * dim + piece.start,
            x_row * dim + col,
            dim,
            first,
            stride,
            slice,
            piece.rows * cols,
            weights_row,
        ];
        let params: Vec<u32> = sizes
            .iter()
            .map(|&size| size as u32)
            .chain([out_alpha.to_bits(), out_beta.to_bits(), part as u32])
            .collect();
        self.dispatch(&Dispatch {
            kernel: &KERNEL,
            flags: &flags,
            constants: tile,
            params: &params,
            bindings: [numbers, weighted.unwrap_or(numbers), out],
            groups: groups(tile, [cols, piece.rows, slices]),
        })?;
        if let Some(partial) = &partial {
            let sum = SliceSum { slices, rows: piece.rows, cols, first: c_first, stride: dim };
            self.slice_sum(c, [beta, alpha], partial.chunk(0), sum)?;
        }
        Ok(())
    }
}
