use super::scatter::{Coordinates, SjltEntries, scatter, scratch_len};
use super::sjlt::norm;
use super::{LayerSketch, Mask};
use crate::error::{Error, check_shape, take_scratch};
use crate::matmul::matmul;
use crate::record::LayerRecord;
use crate::scalar::Real;
use crate::view::{MatMut, MatRef};
use core::ops::Range;

/// Examples whose masked gradients are formed before they are transformed together.
const EXAMPLES: usize = 8;
/// Positions whose kept columns are gathered for one matrix product.
const POSITIONS: usize = 128;

/// FactGraSS: a sparse transform of the layer gradient's entries in kept rows and columns, from the record alone.
///
/// $$\hat G_n = \sum_t m_t\\, \delta_t[\mathrm{out}]\\, x_t[\mathrm{in}]^T, \qquad
///   y_n = S\\, (f_{in} f_{out}\\, \mathrm{vec}\\, \hat G_n).$$
///
/// A mask of entries that is a product of a mask of rows and one of columns commutes with the outer product: this is
/// [`Grass`](super::Grass) of the gradient with that mask, and the gradient is never formed. With a bias, the appended
/// 1 is column `d_in`, which the input mask may keep or not; its `p` is therefore `d_in + bias`.
///
/// Cost for each example: `2 positions k_out k_in` flops for kept rows and columns, and `s k_out k_in` additions,
/// whatever the size of the layer. Scratch: eight masked gradients, what 128 positions keep, and that of the transform.
/// Error of an element of the sketch: `(positions + 3 runs + m + 3) u` times the sum of absolute terms, `m` being the
/// coordinates of its bucket.
///
/// # Errors
/// [`Error::Shape`] from [`FactGrass::new`] unless the transform takes `k_out k_in` coordinates.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef, record::LayerRecord, random::Stream};
/// use ascribe_core::sketch::{FactGrass, LayerSketch, Mask, MaskScale, Sjlt};
/// let mask_out = Mask::new(&[0][..], 1, MaskScale::None)?;
/// let mask_in = Mask::new(&[0, 2][..], 3, MaskScale::None)?; // d_in = 2, and the bias
/// let sketch = FactGrass::new(mask_out, mask_in, Sjlt::new(2, 2, 1, Stream::new(0, "s"))?)?;
/// let (x, delta) = (MatRef::new(&[1.0, 2.0, 3.0, 4.0], 2, 2)?, MatRef::new(&[1.0, 10.0], 2, 1)?);
/// let record = LayerRecord::new(1, x, delta, None, true)?; // the gradient is [31, 42, 11]
/// let (mut y, mut scratch) = ([0.0; 2], vec![0.0; sketch.scratch_len(&record)]);
/// sketch.sketch(MatMut::from_row(&mut y), &record, &mut scratch)?;
/// assert!([20.0, 42.0].contains(&f64::abs(y[0] + y[1])));
/// # Ok::<(), ascribe_core::Error>(())
/// ```
///
/// # References
/// Hu et al., arXiv:2505.18976, section 3.2. The reference code differentiates a mean over the batch and multiplies by
/// its size; records are of summed losses. It also gives the input mask and the transform one seed: give them streams
/// of their own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FactGrass<I, S> {
    mask_out: Mask<I>,
    mask_in: Mask<I>,
    sjlt: S,
}

impl<I: AsRef<[usize]>, S: SjltEntries> FactGrass<I, S> {
    /// With a mask of the `d_out` outputs and one of the `d_in + bias` inputs.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `sjlt` takes as many coordinates as the masks keep entries; [`Error::Overflow`] when
    /// those are more than `usize` holds.
    pub fn new(mask_out: Mask<I>, mask_in: Mask<I>, sjlt: S) -> Result<Self, Error> {
        let kept = mask_out.indices().len().checked_mul(mask_in.indices().len());
        let kept = kept.ok_or(Error::Overflow { what: "masked gradient" })?;
        check_shape("coordinates of the transform", kept, sjlt.coordinates())?;
        Ok(Self { mask_out, mask_in, sjlt })
    }

    /// The mask of the outputs.
    pub fn mask_out(&self) -> &Mask<I> {
        &self.mask_out
    }

    /// The mask of the inputs, the appended 1 included.
    pub fn mask_in(&self) -> &Mask<I> {
        &self.mask_in
    }

    /// The transform of the masked gradient.
    pub fn sjlt(&self) -> &S {
        &self.sjlt
    }

    /// The scratch of [`masked_gradient`](Self::masked_gradient).
    pub fn masked_scratch_len<T: Real>(&self, record: &LayerRecord<'_, T>) -> usize {
        let kept = self.mask_out.indices().len().saturating_add(self.mask_in.indices().len());
        POSITIONS.min(record.positions()).saturating_mul(kept)
    }

    /// The entries `[k_out, k_in]` of one example's gradient that the masks keep, not scaled.
    ///
    /// # Errors
    /// [`Error::Shape`] when the layer or `out` does not fit, [`Error::Index`] when there is no such example,
    /// [`Error::Length`] when `scratch` is too short.
    #[inline(always)]
    pub fn masked_gradient<T: Real>(
        &self,
        out: &mut [T],
        record: &LayerRecord<'_, T>,
        example: usize,
        scratch: &mut [T],
    ) -> Result<(), Error> {
        self.check_layer(record)?;
        check_shape("masked gradient", self.sjlt.coordinates(), out.len())?;
        super::sjlt::check_index("example", example, record.examples())?;
        let (scratch, _) = take_scratch(scratch, self.masked_scratch_len(record))?;
        let (rows, cols) = (self.mask_out.indices(), self.mask_in.indices());
        let mut beta = T::ZERO;
        for run in record.runs(example) {
            for start in run.clone().step_by(POSITIONS) {
                let range = start..run.end.min(start + POSITIONS);
                let (delta, x) = scratch.split_at_mut(range.len() * rows.len());
                let x = &mut x[..range.len() * cols.len()];
                gather(delta, record.output_grads(), range.clone(), rows);
                gather(x, record.inputs(), range.clone(), cols);
                let delta = MatRef::new(delta, range.len(), rows.len())?;
                let x = MatRef::new(x, range.len(), cols.len())?;
                matmul(MatMut::new(out, rows.len(), cols.len())?, beta, T::ONE, delta.t(), x)?;
                beta = T::ONE;
            }
        }
        if beta == T::ZERO {
            out.fill(T::ZERO);
        }
        Ok(())
    }

    fn check_layer<T: Real>(&self, record: &LayerRecord<'_, T>) -> Result<(), Error> {
        check_shape("layer outputs", self.mask_out.dim(), record.d_out())?;
        check_shape("layer inputs, with the bias", self.mask_in.dim(), record.weight_cols())
    }
}

/// The columns `indices` of the rows in `range`; a column behind the last is that of the appended 1.
#[inline(always)]
fn gather<T: Real>(out: &mut [T], x: MatRef<'_, T>, range: Range<usize>, indices: &[usize]) {
    if indices.is_empty() {
        return;
    }
    let (stored, bias) = match indices.split_last() {
        Some((&last, stored)) if last == x.cols() => (stored, true),
        _ => (indices, false),
    };
    for (out, row) in out.chunks_exact_mut(indices.len()).zip(range) {
        let x = x.row(row);
        for (out, &index) in out.iter_mut().zip(stored) {
            *out = x[index];
        }
        if bias {
            out[stored.len()] = T::ONE;
        }
    }
}

impl<T: Real, I: AsRef<[usize]>, S: SjltEntries> LayerSketch<T> for FactGrass<I, S> {
    fn dim_out(&self) -> usize {
        self.sjlt.buckets()
    }
    fn scratch_len(&self, record: &LayerRecord<'_, T>) -> usize {
        let rows = EXAMPLES.min(record.examples());
        let gradients = rows.saturating_mul(self.sjlt.coordinates());
        let rest = self.masked_scratch_len(record).max(scratch_len(rows, self.sjlt.buckets()));
        gradients.saturating_add(rest)
    }
    #[inline(always)]
    fn sketch(&self, out: MatMut<'_, T>, record: &LayerRecord<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        self.check_layer(record)?;
        check_shape("out columns", self.sjlt.buckets(), out.cols())?;
        check_shape("out rows", record.examples(), out.rows())?;
        let (scratch, _) = take_scratch(scratch, self.scratch_len(record))?;
        // There may be any number of rows without elements.
        if out.cols() == 0 {
            return Ok(());
        }
        let kept = self.sjlt.coordinates();
        let (gradients, scratch) = scratch.split_at_mut(EXAMPLES.min(record.examples()) * kept);
        let factor = self.mask_out.factor() * self.mask_in.factor();
        let scale = T::from_f64(factor) * norm(self.sjlt.slots());
        let mut rest = out;
        for first in (0..record.examples()).step_by(EXAMPLES) {
            let rows = EXAMPLES.min(record.examples() - first);
            let (block, after) = rest.split_rows(rows)?;
            rest = after;
            let gradients = &mut gradients[..rows * kept];
            for i in 0..rows {
                self.masked_gradient(&mut gradients[i * kept..][..kept], record, first + i, scratch)?;
            }
            let gradients = MatRef::new(gradients, rows, kept)?;
            scatter(block, Coordinates::all(gradients), 0, &self.sjlt, Some(scale), scratch)?;
        }
        Ok(())
    }
}
