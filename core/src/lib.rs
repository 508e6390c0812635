//! Kernels for training-data attribution that any training stack can embed.
//!
//! Everything takes slices and gives slices: a *record* of a training run goes in, scores and ranks come out.
//! The crate is `no_std`, allocates nothing without the `alloc` feature, and has no required dependency.
//!
//! ```text
//! record ──► sketch ──► derivative / linop ──► score ──► rank ──► metric
//! ```
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `std` | yes | turns on `alloc`; square roots by the processor |
//! | `alloc` | by `std` and `matrixmultiply` | convenience methods that allocate their own scratch, and the module `metric` |
//! | `libm` | yes | `Scalar::exp` and its siblings, with the same bits on every platform |
//! | `matrixmultiply` | yes | fast matrix products, which pack panels into memory; without it plain loops |
#![no_std]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

pub mod derivative;
pub mod error;
pub mod ghost;
pub mod linop;
pub mod matmul;
#[cfg(feature = "alloc")]
pub mod metric;
pub mod quantize;
pub mod random;
pub mod rank;
pub mod record;
pub mod reduce;
pub mod scalar;
pub mod scale;
pub mod score;
pub mod sketch;
pub mod view;

pub use error::Error;
pub use linop::{ExampleLinOp, LinOp, PositiveSemidefinite, SelfAdjoint};
pub use scalar::{Real, Scalar};
pub use view::{MatMut, MatRef};
