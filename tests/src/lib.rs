//! What the tests share: the conformance runner, the measurements, generators, oracles and the table of tolerances.

pub mod conformance;
pub mod exact;
pub mod failure;
pub mod measure;
pub mod tolerance;

pub use failure::Failure;
