use super::product::{TILES, groups, select, workgroup_bytes};
use super::{Access, Cost, Kernel, Operand, gemm_cost, sum};
use crate::error::{Error, check_limit, check_shape};
use crate::matrix::{Matrix, runs};
use crate::recorder::{Dispatch, Recorder};

const TRANSPOSED: &str = "A_TRANSPOSED";
const SCALED: &str = "SCALED";
const UNITS: &str = "UNITS";

pub(super) static KERNEL: Kernel = Kernel {
    name: "kronecker_apply",
    source: include_str!("../../shaders/kronecker_apply.wgsl"),
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Write],
    variants: &[&[TRANSPOSED, SCALED], &[], &[UNITS, SCALED]],
    constants: &[&TILES[0], &TILES[1], &TILES[2], &TILES[3]],
};

/// A function of a layer's curvature in the eigenbasis of its Kronecker factors, on the device:
/// $V \mapsto Q_l (M \circ (Q_l^\top V Q_r)) Q_r^\top$ for gradients `V` `[rows, cols]`, flat and row-major. With what a
/// filter makes of the eigenvalues as multipliers `M`, it is the inverse of K-FAC or EKFAC; `EigenBlock` of
/// `ascribe-solvers` has the bases and the multipliers.
///
/// Memory: `rows^2 + cols^2 + rows cols` numbers, less for unit vectors.
#[derive(Debug)]
pub struct EigenFunction {
    left: Option<Matrix<f32>>,
    right: Option<Matrix<f32>>,
    multipliers: Matrix<f32>,
}

impl EigenFunction {
    /// From the bases, whose **columns** are the vectors (`None` for unit vectors), and multipliers `[rows, cols]`.
    ///
    /// # Errors
    /// [`Error::Core`] when a basis is not square or of another size; [`Error::Foreign`] for matrices of several devices;
    /// [`Error::Limit`] when the left basis or the multipliers are more than a binding of the device.
    pub fn new(left: Option<Matrix<f32>>, right: Option<Matrix<f32>>, multipliers: Matrix<f32>) -> Result<Self, Error> {
        let sides = [("left basis", &left, multipliers.rows()), ("right basis", &right, multipliers.cols())];
        for (what, basis, dim) in sides {
            if let Some(basis) = basis {
                basis.check(what, multipliers.gpu(), dim)?;
                check_shape(what, dim, basis.rows())?;
            }
        }
        let limit = multipliers.gpu().capabilities().max_binding_bytes;
        check_limit("bytes of the left basis", left.as_ref().map_or(0, Matrix::bytes), limit)?;
        check_limit("bytes of the multipliers", multipliers.bytes(), limit)?;
        Ok(Self { left, right, multipliers })
    }

    /// The length of a flat gradient.
    pub fn dim(&self) -> usize {
        self.multipliers.rows() * self.multipliers.cols()
    }

    /// What it costs for `n` gradients: two products with each basis, and a factor for each number. What is between two
    /// products goes to memory and back.
    pub fn cost(&self, n: usize) -> Cost {
        let (rows, cols) = (self.multipliers.rows(), self.multipliers.cols());
        let mut cost = self.left_cost(n);
        if self.right.is_some() {
            cost += gemm_cost(n.saturating_mul(rows), cols, cols);
            cost += gemm_cost(n.saturating_mul(rows), cols, cols);
        }
        cost
    }

    fn left_cost(&self, n: usize) -> Cost {
        let (products, basis) = self.left.as_ref().map_or((0, 0), |left| (2, left.bytes()));
        let flops = sum(&[&[n, self.dim(), products * 2 * self.multipliers.rows() + 1]]);
        let moved = sum(&[&[products.max(1) * 8, n, self.dim()]]);
        let bytes = moved.saturating_add(products as u64 * basis + self.multipliers.bytes());
        Cost { flops, bytes, workgroup_bytes: workgroup_bytes(&TILES[0]) }
    }
}

impl Recorder {
    /// A function of the curvature applied to each gradient, `[n, rows cols]`: the eigenform of
    /// `ascribe_core::linop::Kronecker`, and of EKFAC.
    ///
    /// All products are those of [`gemm`](Self::gemm), with its error each: rotate by both bases, multiply in the last
    /// of these products as it is stored, rotate back. Four dispatches where everything lies in one piece, two for each
    /// basis; for unit vectors on the left one instead of two. Cost: [`EigenFunction::cost`]. Memory: a second block of
    /// gradients. Workgroup memory: as [`gemm`](Self::gemm).
    ///
    /// # Errors
    /// [`Error::Core`] when the columns are not [`EigenFunction::dim`]; [`Error::Foreign`]; otherwise as
    /// [`gemm`](Self::gemm).
    ///
    /// # Examples
    /// ```
    /// # use ascribe_core::MatRef;
    /// # use ascribe_gpu::{EigenFunction, Error, Gpu};
    /// # let gpu = match Gpu::new() { Err(Error::NoAdapter { why }) => return Ok(println!("skipped: {why}")), gpu => gpu? };
    /// // Turned by 90 degrees on the left, as it is on the right.
    /// let left = gpu.upload(MatRef::new(&[0.0, -1.0, 1.0, 0.0], 2, 2)?)?;
    /// let multipliers = gpu.upload(MatRef::new(&[1.0, 2.0, 3.0, 4.0], 2, 2)?)?;
    /// let function = EigenFunction::new(Some(left), None, multipliers)?;
    /// let gradient = gpu.upload(MatRef::from_row(&[1.0; 4]))?;
    /// let mut recorder = gpu.record();
    /// let applied = recorder.kronecker_apply(&function, &gradient)?;
    /// let applied = recorder.download(&applied)?;
    /// recorder.submit()?;
    /// assert_eq!(applied.wait()?, [3.0, 4.0, 1.0, 2.0]);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn kronecker_apply(&mut self, function: &EigenFunction, v: &Matrix<f32>) -> Result<Matrix<f32>, Error> {
        let EigenFunction { left, right, multipliers } = function;
        v.check("gradient columns", self.gpu(), function.dim())?;
        multipliers.check("multipliers", self.gpu(), multipliers.cols())?;
        let new = |recorder: &Self| Matrix::new(recorder.gpu(), v.rows(), function.dim());
        let (mut one, mut other) = (new(self)?, new(self)?);
        if function.dim() == 0 {
            return Ok(one);
        }
        self.whole(|recorder| {
            let source = match right {
                Some(right) => {
                    recorder.times_right(&mut one, v, right, false)?;
                    &one
                }
                None => v,
            };
            match left {
                Some(_) => {
                    recorder.times_left(&other, source, function, &[TRANSPOSED, SCALED])?;
                    recorder.times_left(&one, &other, function, &[])?;
                    std::mem::swap(&mut one, &mut other);
                }
                None => recorder.times_left(&other, source, function, &[UNITS, SCALED])?,
            }
            recorder.spend(function.left_cost(v.rows()));
            if let Some(right) = right {
                recorder.times_right(&mut one, &other, right, true)?;
                std::mem::swap(&mut one, &mut other);
            }
            Ok(other)
        })
    }

    /// `Y_i = X_i Q`, or `X_i Q^T`: one product, with all rows of all gradients below each other.
    fn times_right(
        &mut self,
        y: &mut Matrix<f32>,
        x: &Matrix<f32>,
        basis: &Matrix<f32>,
        transposed: bool,
    ) -> Result<(), Error> {
        let (mut y, x) = (y.split_rows(basis.rows())?, x.split_rows(basis.rows())?);
        self.gemm_onto(&mut y, 0.0, 1.0, &x, Operand { matrix: basis, transposed })
    }

    /// `Y_i = M o (Q^T X_i)`, `Q X_i` or `M o X_i`, as the flags say.
    fn times_left(
        &mut self,
        y: &Matrix<f32>,
        x: &Matrix<f32>,
        function: &EigenFunction,
        flags: &[&'static str],
    ) -> Result<(), Error> {
        let (rows, cols) = (function.multipliers.rows(), function.multipliers.cols());
        let multipliers = function.multipliers.chunk(0);
        for run in runs(x.rows(), [x.chunk_rows(), y.chunk_rows()]) {
            let [(x_chunk, x_row), (y_chunk, y_row)] = run.at;
            let sizes = [cols, rows, run.rows];
            let tile = select(self.gpu().capabilities(), sizes)?;
            self.dispatch(&Dispatch {
                kernel: &KERNEL,
                flags,
                constants: tile,
                params: &[rows, cols, x_row, y_row].map(|size| size as u32),
                bindings: [
                    function.left.as_ref().map_or(multipliers, |left| left.chunk(0)),
                    multipliers,
                    x.chunk(x_chunk),
                    y.chunk(y_chunk),
                ],
                groups: groups(tile, sizes),
            })?;
        }
        Ok(())
    }
}
