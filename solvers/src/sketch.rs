//! Sketches of many rows at once: the kernels of [`ascribe_core::sketch`], run over blocks in parallel.

mod dense;
mod logra;
mod pca;
mod records;
mod rows;

pub use dense::{project, project_columns};
pub use logra::logra_records;
pub use pca::{Pca, principal_axes};
pub use records::sketch_records;
pub use rows::apply_rows;
