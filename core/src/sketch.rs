//! Sketches: random or learned maps that shorten gradients and keep their inner products.
//!
//! One file a sketch. Every sketch is an operator on rows, so it composes with the others of
//! [`linop`](crate::linop); a [`LayerSketch`] goes from a layer's record to the sketch of its gradients without
//! forming them. All randomness is read at coordinates of a [`Stream`](crate::random::Stream): a sketch is the same
//! for any tiling, number of threads and device.

mod fact_grass;
mod formed;
#[cfg(feature = "libm")]
mod gaussian;
mod grass;
mod identifier;
mod logra;
mod mask;
mod permutation;
mod projection;
mod rademacher;
mod scatter;
#[cfg(all(feature = "alloc", feature = "libm"))]
mod selective_mask;
mod sjlt;
#[cfg(feature = "alloc")]
mod sjlt_table;
#[cfg(feature = "alloc")]
mod srht;
mod walsh_hadamard;

pub use fact_grass::FactGrass;
pub use formed::Formed;
#[cfg(feature = "libm")]
pub use gaussian::{Gaussian, Normals};
pub use grass::Grass;
pub use identifier::identifier_key;
pub use logra::{LoGra, random_projection};
pub use mask::{Mask, MaskScale};
pub use permutation::Permutation;
pub use projection::{Entries, Projection, Scale};
pub use rademacher::{Rademacher, Signs};
pub use scatter::SjltEntries;
#[cfg(all(feature = "alloc", feature = "libm"))]
pub use selective_mask::{LearnedMask, MaskLoss, SelectiveMask};
pub use sjlt::{Sjlt, SjltEntry};
#[cfg(feature = "alloc")]
pub use sjlt_table::{SjltBuckets, SjltTable};
#[cfg(feature = "alloc")]
pub use srht::Srht;
pub use walsh_hadamard::walsh_hadamard;

use crate::error::Error;
use crate::linop::Adjoint;
use crate::record::LayerRecord;
use crate::scalar::Real;
use crate::view::MatMut;

/// A linear map to fewer coordinates, with its transpose.
///
/// # Laws
/// Over its random draws $E[S^\top S] = c I$ with `c` = [`Sketch::gain`], so that
/// $\langle S x, S y \rangle$ estimates $c \langle x, y \rangle$ without bias.
pub trait Sketch<T: Real>: Adjoint<T> {
    /// The factor `c` of the law: 1 for a sketch that is scaled to be unbiased.
    fn gain(&self) -> f64;
}

impl<T: Real, S: Sketch<T> + ?Sized> Sketch<T> for &S {
    fn gain(&self) -> f64 {
        (**self).gain()
    }
}

/// A map from a layer's record to sketches of its examples' gradients, which are not formed.
///
/// # Laws
/// The result is linear in the gradient `G_n = sum_t m_t delta_t x_t^T` of each example, and that of an example does
/// not depend on the others beyond rounding.
pub trait LayerSketch<T: Real> {
    /// The length of an example's sketch.
    fn dim_out(&self) -> usize;
    /// The number of elements of scratch that [`LayerSketch::sketch`] needs for this record.
    fn scratch_len(&self, record: &LayerRecord<'_, T>) -> usize;
    /// Sets each row of `out` `[examples, dim_out]` to the sketch of that example's gradient.
    ///
    /// # Errors
    /// [`Error::Shape`] when the layer or `out` does not fit, [`Error::Length`] when `scratch` is too short; `out` is
    /// then untouched.
    fn sketch(&self, out: MatMut<'_, T>, record: &LayerRecord<'_, T>, scratch: &mut [T]) -> Result<(), Error>;
}

impl<T: Real, S: LayerSketch<T> + ?Sized> LayerSketch<T> for &S {
    fn dim_out(&self) -> usize {
        (**self).dim_out()
    }
    fn scratch_len(&self, record: &LayerRecord<'_, T>) -> usize {
        (**self).scratch_len(record)
    }
    fn sketch(&self, out: MatMut<'_, T>, record: &LayerRecord<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        (**self).sketch(out, record, scratch)
    }
}

/// Indices below `len` that ascend strictly.
fn check_ascending(what: &'static str, indices: &[usize], len: usize) -> Result<(), Error> {
    let mut least = 0;
    for &index in indices {
        if index >= len {
            return Err(Error::Index { what, index, len });
        }
        if index < least {
            return Err(if index + 1 == least {
                Error::Duplicate { what, index }
            } else {
                Error::Parameter { what, value: index as f64, must_be: "larger than the one before it" }
            });
        }
        least = index + 1;
    }
    Ok(())
}
