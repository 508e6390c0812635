//! What the tests share: the conformance runner, the measurements, generators, oracles and the table of tolerances.

pub mod conformance;
pub mod exact;
pub mod failure;
pub mod measure;
pub mod oracle;
pub mod tolerance;

pub use failure::Failure;

/// The README's examples, compiled and run with the other tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
