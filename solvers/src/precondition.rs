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
mod adafactor;
mod adamw;
#[cfg(feature = "safetensors")]
mod archive;
mod blocking;
mod distribute;
mod eigenvalue_average;
mod grafting;
mod matrix_root;
mod modes;
mod optimizer;
mod orthogonalize;
mod root_engine;
mod schedule_free;
mod shampoo;
mod soap;

pub use adafactor::adafactor_block;
pub use adamw::{AdamW, AdamWState};
pub use blocking::{Block, Blocking};
pub use distribute::Assignment;
pub use eigenvalue_average::{EigenvalueAverage, rayleigh_quotients};
pub use grafting::Grafting;
pub use matrix_root::{
    CoupledNewton, CoupledRoot, RefinedEigenbasis, coupled_inverse_root, inverse_root, inverse_root_residual,
    pseudo_inverse_root,
};
pub use optimizer::{Layout, Optimizer, Parameter};
pub use orthogonalize::{Orthogonalize, Polynomials};
pub use root_engine::RootEngine;
pub use schedule_free::{Averaging, DecayAt, ScheduleFreeAdamW, ScheduleFreeState};
pub use shampoo::{Decay, Shampoo, ShampooState};
pub use soap::{Soap, SoapState};
