//! Sketches of many rows at once: the kernels of [`ascribe_core::sketch`], run over blocks in parallel.

use ascribe_core::{Error, Real};

use crate::error::zeros;

mod dense;
mod logra;
mod pca;
mod records;
mod rows;

pub use dense::{project, project_columns};
pub use logra::logra_records;
pub use pca::{Pca, principal_axes};
pub use records::sketch_records;
pub use rows::{apply_rows, apply_stored_rows};

/// The work space of several threads in one piece. Large pieces that are given back one after another would go to the
/// system, and their pages would be faulted in again on the next call: for a small batch that takes as long as its
/// sketch.
struct Workspaces<T> {
    elements: Vec<T>,
    each: usize,
}

impl<T: Real> Workspaces<T> {
    /// `len` elements, or one if there would be none, for each of `workers`.
    fn new(what: &'static str, workers: usize, len: Option<usize>) -> Result<Self, Error> {
        let each = len.map(|len| len.max(1));
        let elements = zeros(what, each.and_then(|each| each.checked_mul(workers)))?;
        Ok(Self { elements, each: each.unwrap_or(1) })
    }

    fn split(&mut self) -> Vec<&mut [T]> {
        self.elements.chunks_exact_mut(self.each).collect()
    }
}
