//! Networks with exact derivatives, K-FAC and EKFAC, inverse-Hessian products and the attribution methods that stand on them.
//!
//! ```text
//! network ──► curvature ──► inverse ──► attribution
//! ```
//!
//! Everything is generic over `f32` and `f64`, takes and gives the views of [`ascribe_core`], and gives the same
//! bits for any number of threads.
// The store maps files into memory, which no safe function can do: see `store/map.rs`.
#![cfg_attr(not(feature = "store"), forbid(unsafe_code))]

pub mod attribution;
pub mod curvature;
pub mod error;
pub mod inverse;
pub mod linalg;
pub mod network;
pub mod parallel;
pub mod precondition;
pub mod score;
pub mod sketch;
#[cfg(feature = "store")]
pub mod store;
pub mod train;

pub use error::Error;
