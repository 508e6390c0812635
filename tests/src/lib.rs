//! What the tests share: the conformance runner, the measurements, and the table of tolerances.

pub mod conformance;
pub mod failure;
pub mod measure;
pub mod tolerance;

pub use failure::Failure;
