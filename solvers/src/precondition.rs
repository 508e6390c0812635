//! Preconditioners that are learned online, one step after another, and the optimizers that use them.
//!
//! One file an algorithm. A state takes gradients (or records) step by step; what it has learned is an operator, so it
//! can precondition an optimizer's step as well as an inverse of [`inverse`](crate::inverse).

mod cayley;
mod generator;
mod growth;
mod minimize_log_det;
mod polish;
mod spectral;
mod storage;

pub use cayley::Cayley;
pub use generator::Gaps;
pub use minimize_log_det::{LogDetReport, minimize_log_det};
pub use polish::polish;
pub use spectral::{Spectral, SpectralReport, SpectralState};
pub use storage::Storage;
