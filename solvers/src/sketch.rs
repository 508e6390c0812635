//! Sketches of many rows at once: the kernels of [`ascribe_core::sketch`], run over blocks in parallel.

mod dense;

pub use dense::{project, project_columns};
