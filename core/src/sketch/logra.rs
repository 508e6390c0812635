use super::LayerSketch;
use crate::error::{Error, check_shape, take_scratch};
use crate::matmul::matmul;
use crate::random::Stream;
use crate::record::LayerRecord;
use crate::scalar::{Real, Scalar};
use crate::view::{MatMut, MatRef};

/// Positions that are projected by one matrix product, unless one example has more.
const POSITIONS: usize = 512;

/// LoGra: the layer gradient projected from both sides, from the record alone.
///
/// $$\hat G_n = \sum_t m_t\\, (P_{out}\\, \delta_t)(P_{in}\\, x_t)^T = P_{out}\\, G_n\\, P_{in}^T, \qquad
///   \mathrm{vec}\\, \hat G_n = (P_{out} \otimes P_{in})\\, \mathrm{vec}\\, G_n.$$
///
/// `P_in` is `[k_in, d_in + bias]`: its last column is what the appended 1 adds, which is not stored anywhere. `P_out`
/// is `[k_out, d_out]`. They are random ([`random_projection`]) or leading eigenvectors of the layer's covariances
/// (`pca` of `ascribe-solvers`), or any others.
///
/// Cost for each example: `2 positions (k_in d_in + k_out d_out + k_in k_out)` flops. Scratch: `k_in + k_out` for each
/// position of a block of examples that has at least 512. Error of an element: at most
/// `(d_in + d_out + positions + 3 runs + 8) u` times the sum of absolute terms, to first order.
///
/// # Errors
/// [`Error::Overflow`] from [`LoGra::new`] when `k_in k_out` does not fit.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef, record::LayerRecord, sketch::{LayerSketch, LoGra}};
/// let (p_in, p_out) = (MatRef::new(&[1.0, 1.0, 0.0, 0.0, 0.0, 1.0], 2, 3)?, MatRef::new(&[2.0], 1, 1)?);
/// let sketch = LoGra::new(p_out, p_in)?;
/// let (x, delta) = (MatRef::new(&[1.0, 2.0, 3.0, 4.0], 2, 2)?, MatRef::new(&[1.0, 10.0], 2, 1)?);
/// let record = LayerRecord::new(1, x, delta, None, true)?; // the gradient is [31, 42, 11]
/// let (mut y, mut scratch) = ([0.0; 2], vec![0.0; sketch.scratch_len(&record)]);
/// sketch.sketch(MatMut::from_row(&mut y), &record, &mut scratch)?;
/// assert_eq!(y, [2.0 * (31.0 + 42.0), 2.0 * 11.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
///
/// # References
/// Choe et al., arXiv:2405.13954, equation 4. The reference code draws uniform entries whose variance makes the
/// projection a third of an isometry divided by another; [`random_projection`] is unbiased.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoGra<'a, T> {
    p_out: MatRef<'a, T>,
    p_in: MatRef<'a, T>,
    dim_out: usize,
}

impl<'a, T: Real> LoGra<'a, T> {
    /// From `p_out` `[k_out, d_out]` and `p_in` `[k_in, d_in + bias]`.
    ///
    /// # Errors
    /// [`Error::Overflow`] when `k_in k_out` does not fit.
    pub fn new(p_out: MatRef<'a, T>, p_in: MatRef<'a, T>) -> Result<Self, Error> {
        let dim_out = p_out.rows().checked_mul(p_in.rows()).ok_or(Error::Overflow { what: "projected gradient" })?;
        Ok(Self { p_out, p_in, dim_out })
    }

    /// The projection of the output gradients, `[k_out, d_out]`.
    pub fn p_out(&self) -> MatRef<'a, T> {
        self.p_out
    }

    /// The projection of the inputs, `[k_in, d_in + bias]`.
    pub fn p_in(&self) -> MatRef<'a, T> {
        self.p_in
    }

    /// Whether this projects the gradients of that layer.
    ///
    /// # Errors
    /// [`Error::Shape`] with the dimension that differs.
    pub fn check_layer(&self, record: &LayerRecord<'_, T>) -> Result<(), Error> {
        check_shape("layer outputs", self.p_out.cols(), record.d_out())?;
        check_shape("layer inputs, with the bias", self.p_in.cols(), record.weight_cols())
    }

    /// Sets every row of `x` `[rows, k_in]` to what the layer's appended 1 adds to projected inputs: the last column of
    /// `P_in`, or zero without a bias. The inputs' own projections are then added to it.
    ///
    /// # Errors
    /// [`Error::Shape`] when `x` does not have `k_in` columns, or `P_in` no column for the 1.
    pub fn project_appended(&self, mut x: MatMut<'_, T>, bias: bool) -> Result<(), Error> {
        check_shape("projected input columns", self.p_in.rows(), x.cols())?;
        if !bias {
            x.fill(T::ZERO);
            return Ok(());
        }
        let Some(last) = self.p_in.cols().checked_sub(1) else {
            return Err(Error::Shape { what: "columns of P_in, with the bias", expected: 1, got: 0 });
        };
        x.for_each_row(|_, row| {
            for (x, p) in row.iter_mut().zip(self.p_in.row_iter()) {
                *x = p[last];
            }
        });
        Ok(())
    }

    /// Sets `out` to the sketch of one example, given the projected rows of the whole record: `delta`
    /// `[examples * positions, k_out]` and `x` `[examples * positions, k_in]`. Cost: `2 positions k_out k_in` flops.
    ///
    /// # Errors
    /// [`Error::Shape`] when a dimension does not fit, [`Error::Index`] when there is no such example.
    pub fn contract(
        &self,
        out: &mut [T],
        record: &LayerRecord<'_, T>,
        example: usize,
        delta: MatRef<'_, T>,
        x: MatRef<'_, T>,
    ) -> Result<(), Error> {
        check_shape("projected gradient", self.dim_out, out.len())?;
        check_shape("rows of projected output gradients", record.output_grads().rows(), delta.rows())?;
        check_shape("columns of projected output gradients", self.p_out.rows(), delta.cols())?;
        check_shape("rows of projected inputs", record.inputs().rows(), x.rows())?;
        check_shape("columns of projected inputs", self.p_in.rows(), x.cols())?;
        super::sjlt::check_index("example", example, record.examples())?;
        out.fill(T::ZERO);
        for run in record.runs(example) {
            let delta = delta.row_range(run.start, run.len())?;
            let x = x.row_range(run.start, run.len())?;
            let out = MatMut::new(out, self.p_out.rows(), self.p_in.rows())?;
            matmul(out, T::ONE, T::ONE, delta.t(), x)?;
        }
        Ok(())
    }

    /// The number of examples in a block.
    fn block(record: &LayerRecord<'_, T>) -> usize {
        POSITIONS.div_ceil(record.positions().max(1)).min(record.examples())
    }
}

impl<T: Real> LayerSketch<T> for LoGra<'_, T> {
    fn dim_out(&self) -> usize {
        self.dim_out
    }
    fn scratch_len(&self, record: &LayerRecord<'_, T>) -> usize {
        let projected = self.p_out.rows().saturating_add(self.p_in.rows());
        Self::block(record).saturating_mul(record.positions()).saturating_mul(projected)
    }
    fn sketch(&self, mut out: MatMut<'_, T>, record: &LayerRecord<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        self.check_layer(record)?;
        check_shape("out columns", self.dim_out, out.cols())?;
        check_shape("out rows", record.examples(), out.rows())?;
        let (scratch, _) = take_scratch(scratch, self.scratch_len(record))?;
        // There may be any number of rows without elements.
        if out.cols() == 0 {
            return Ok(());
        }
        let block = Self::block(record).max(1);
        let (k_out, k_in, d_in) = (self.p_out.rows(), self.p_in.rows(), record.d_in());
        let weight = self.p_in.block(0, k_in, 0, d_in)?;
        for first in (0..record.examples()).step_by(block) {
            let part = record.example_range(first, block.min(record.examples() - first))?;
            let rows = part.inputs().rows();
            let (delta, x) = scratch.split_at_mut(rows * k_out);
            let x = &mut x[..rows * k_in];
            matmul(MatMut::new(delta, rows, k_out)?, T::ZERO, T::ONE, part.output_grads(), self.p_out.t())?;
            self.project_appended(MatMut::new(x, rows, k_in)?, part.has_bias())?;
            matmul(MatMut::new(x, rows, k_in)?, T::ONE, T::ONE, part.inputs(), weight.t())?;
            let (delta, x) = (MatRef::new(delta, rows, k_out)?, MatRef::new(x, rows, k_in)?);
            for example in 0..part.examples() {
                self.contract(out.row_mut(first + example), &part, example, delta, x)?;
            }
        }
        Ok(())
    }
}

/// Fills `out` `[k, d]` with random signs over `sqrt(k)`: a projection `P` with $E[P^T P] = I$.
///
/// Entry `(r, c)` has the sign of bit `c mod 32`, lowest first, of element `(c mod 128) / 32` of
/// [`stream.words(c / 128 + 2^32 r, 0)`](Stream::words): plus where it is set. It depends on nothing but the stream and
/// its place. Two such projections of independent streams make [`LoGra`] unbiased, with
/// `Var <y, y'>` of order `1 / min(k_in, k_out)`.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, random::Stream, sketch::random_projection};
/// let mut p = [0.0_f64; 4 * 10];
/// random_projection(MatMut::new(&mut p, 4, 10)?, Stream::new(0, "P_in of layer 3"));
/// assert!(p.iter().all(|p| p.abs() == 0.5));
/// # Ok::<(), ascribe_core::Error>(())
/// ```
pub fn random_projection<T: Real>(mut out: MatMut<'_, T>, stream: Stream) {
    let entry = T::from_f64(1.0 / Scalar::sqrt(out.rows() as f64));
    out.for_each_row(|r, row| {
        for (chunk, c) in row.chunks_mut(128).zip(0_u64..) {
            let words = stream.words(c | (r as u64) << 32, 0);
            for (bit, p) in chunk.iter_mut().enumerate() {
                *p = if words[bit / 32] >> (bit % 32) & 1 == 1 { entry } else { -entry };
            }
        }
    });
}
