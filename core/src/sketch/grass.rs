use super::scatter::{Coordinates, SjltEntries, scatter, scratch_len};
use super::sjlt::norm;
use super::{Mask, Sketch};
use crate::error::{Error, check_shape};
use crate::linop::{Adjoint, LinOp, check_apply};
use crate::scalar::Real;
use crate::view::{MatMut, MatRef};

/// GraSS: a sparse transform of the coordinates that a mask keeps, `y = S (f x[idx])`.
///
/// As [`Chain`](crate::linop::Chain) of the two, but the masked rows are never stored: each element that is kept is
/// read once and added where it goes. The factor of the mask and that of the transform are multiplied first and enter
/// once.
///
/// Cost for `n` rows and `k'` kept coordinates: `n k' s` additions, whatever `p` is. Scratch and error: as
/// [`Sjlt`](super::Sjlt). The transform may be drawn or a [`SjltTable`](super::SjltTable).
///
/// # Errors
/// [`Error::Shape`] from [`Grass::new`] unless the transform takes as many coordinates as the mask keeps.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, linop::apply_alloc, random::Stream, sketch::{Grass, Mask, MaskScale, Sjlt}};
/// let stream = Stream::new(0, "layer 3");
/// let mask = Mask::new([1, 4, 6], 8, MaskScale::None)?;
/// let grass = Grass::new(mask, Sjlt::new(3, 2, 1, stream.child(1))?)?;
/// let y = apply_alloc(&grass, MatRef::from_row(&[9.0_f64, 1.0, 9.0, 9.0, 1.0, 9.0, 1.0, 9.0]))?;
/// assert_eq!((y[0] + y[1]).abs() % 2.0, 1.0); // three ones with signs, the nines left out
/// # Ok::<(), ascribe_core::Error>(())
/// ```
///
/// # References
/// Hu et al., "GraSS", arXiv:2505.18976, section 3.1; there the mask is not scaled and keeps four times as many
/// coordinates as there are buckets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grass<I, S> {
    mask: Mask<I>,
    sjlt: S,
}

impl<I: AsRef<[usize]>, S: SjltEntries> Grass<I, S> {
    /// First `mask`, then `sjlt`.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `sjlt` takes as many coordinates as `mask` keeps.
    pub fn new(mask: Mask<I>, sjlt: S) -> Result<Self, Error> {
        check_shape("coordinates of the transform", mask.indices().len(), sjlt.coordinates())?;
        Ok(Self { mask, sjlt })
    }

    /// The mask.
    pub fn mask(&self) -> &Mask<I> {
        &self.mask
    }

    /// The transform of what the mask keeps.
    pub fn sjlt(&self) -> &S {
        &self.sjlt
    }
}

impl<T: Real, I: AsRef<[usize]>, S: SjltEntries> LinOp<T> for Grass<I, S> {
    fn dim_in(&self) -> usize {
        self.mask.dim()
    }
    fn dim_out(&self) -> usize {
        self.sjlt.buckets()
    }
    fn scratch_len(&self, rows: usize) -> usize {
        scratch_len(rows, self.sjlt.buckets())
    }
    #[inline(always)]
    fn apply(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        check_apply(self.mask.dim(), self.sjlt.buckets(), &out, &x)?;
        let scale = T::from_f64(self.mask.factor()) * norm(self.sjlt.slots());
        scatter(out, Coordinates::masked(x, self.mask.indices()), 0, &self.sjlt, Some(scale), scratch)
    }
}

impl<T: Real, I: AsRef<[usize]>, S: SjltEntries + Adjoint<T>> Adjoint<T> for Grass<I, S> {
    fn transpose_scratch_len(&self, _: usize) -> usize {
        self.mask.indices().len()
    }
    fn apply_transpose(&self, mut out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        check_apply(self.sjlt.buckets(), self.mask.dim(), &out, &x)?;
        let kept = self.mask.indices();
        let (values, _) = crate::error::take_scratch(scratch, kept.len())?;
        let factor = T::from_f64(self.mask.factor());
        // There may be any number of rows without elements.
        if out.cols() == 0 {
            return Ok(());
        }
        for i in 0..x.rows() {
            self.sjlt.apply_transpose(MatMut::from_row(values), MatRef::from_row(x.row(i)), &mut [])?;
            let out = out.row_mut(i);
            out.fill(T::ZERO);
            for (&value, &index) in values.iter().zip(kept) {
                out[index] = factor * value;
            }
        }
        Ok(())
    }
}

impl<T: Real, I: AsRef<[usize]>, S: SjltEntries + Sketch<T>> Sketch<T> for Grass<I, S> {
    fn gain(&self) -> f64 {
        self.mask.mean_gain() * self.sjlt.gain()
    }
}
