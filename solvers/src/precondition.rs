//! Preconditioners that are learned online, one step after another, and the optimizers that use them.
//!
//! One file an algorithm. A state takes gradients (or records) step by step; what it has learned is an operator, so it
//! can precondition an optimizer's step as well as an inverse of [`inverse`](crate::inverse).

mod basis_update;
mod cayley;
mod evolution;
mod generator;
mod growth;
mod kronecker_descent;
mod kronecker_observation;
mod kronecker_spectral;
mod minimize_log_det;
mod polish;
mod spectral;
mod storage;

pub use basis_update::BasisUpdate;
pub use cayley::Cayley;
pub use evolution::{Evolution, EvolutionState, rank_utilities};
pub use generator::Gaps;
pub use kronecker_descent::{KroneckerDescent, KroneckerDescentState};
pub use kronecker_spectral::{Eigenvalues, KroneckerReport, KroneckerSpectral, KroneckerState};
pub use minimize_log_det::{LogDetReport, minimize_log_det};
pub use polish::polish;
pub use spectral::{Spectral, SpectralReport, SpectralState};
pub use storage::Storage;
