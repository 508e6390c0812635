//! Curvature matrices from records, their spectra and their damping.

mod diagonal;
mod selection;
mod spectrum;

pub use diagonal::DiagonalFisher;
pub use selection::{DampingIndicator, DampingSelection, implicit_damping};
pub use spectrum::{Spectrum, SpectrumReport};
