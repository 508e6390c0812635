use super::{LayerSketch, Sketch};
use crate::error::{Error, check_shape, take_scratch};
use crate::record::LayerRecord;
use crate::scalar::Real;
use crate::view::{MatMut, MatRef};

/// Any sketch of gradients as a sketch of records: each example's gradient is formed, and sketched, alone.
///
/// The gradient is flattened as in [`LayerRecord`]. For sketches that have no way around it: [`Sjlt`](super::Sjlt) or
/// a dense projection of a whole layer.
///
/// Cost for each example: [`LayerRecord::gradient`], `2 positions p` flops, and the sketch of one row. Scratch: `p`,
/// and that of the sketch for one row.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef, record::LayerRecord, random::Stream};
/// use ascribe_core::sketch::{Formed, LayerSketch, Sjlt};
/// let sketch = Formed::new(Sjlt::new(3, 2, 1, Stream::new(0, "layer 3"))?);
/// let (x, delta) = (MatRef::new(&[1.0, 2.0, 3.0, 4.0], 2, 2)?, MatRef::new(&[1.0, 10.0], 2, 1)?);
/// let record = LayerRecord::new(1, x, delta, None, true)?; // the gradient is [31, 42, 11]
/// let (mut y, mut scratch) = ([0.0; 2], vec![0.0; sketch.scratch_len(&record)]);
/// sketch.sketch(MatMut::from_row(&mut y), &record, &mut scratch)?;
/// assert!([0.0, 22.0, 62.0, 84.0].contains(&f64::abs(y[0] + y[1])));
/// # Ok::<(), ascribe_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Formed<S> {
    sketch: S,
}

impl<S> Formed<S> {
    /// `sketch` of the flattened gradients.
    pub fn new(sketch: S) -> Self {
        Self { sketch }
    }
}

impl<T: Real, S: Sketch<T>> LayerSketch<T> for Formed<S> {
    fn dim_out(&self) -> usize {
        self.sketch.dim_out()
    }
    fn scratch_len(&self, record: &LayerRecord<'_, T>) -> usize {
        record.dim().saturating_add(self.sketch.scratch_len(1))
    }
    fn sketch(&self, mut out: MatMut<'_, T>, record: &LayerRecord<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        check_shape("layer gradient", self.sketch.dim_in(), record.dim())?;
        check_shape("out columns", self.sketch.dim_out(), out.cols())?;
        check_shape("out rows", record.examples(), out.rows())?;
        // There may be any number of rows without elements.
        if out.cols() == 0 {
            return Ok(());
        }
        let (scratch, _) = take_scratch(scratch, self.scratch_len(record))?;
        let (gradient, scratch) = scratch.split_at_mut(record.dim());
        for example in 0..record.examples() {
            record.gradient(gradient, example)?;
            self.sketch.apply(MatMut::from_row(out.row_mut(example)), MatRef::from_row(gradient), scratch)?;
        }
        Ok(())
    }
}
