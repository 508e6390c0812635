//! Preconditioners that are learned online, one step after another, and the optimizers that use them.
//!
//! One file an algorithm. A state takes gradients (or records) step by step; what it has learned is an operator, so it
//! can precondition an optimizer's step as well as an inverse of [`inverse`](crate::inverse).
//!
//! An [`Optimizer`] moves a flat parameter vector whose layers a [`Layout`] names; any training stack can drive it, save
//! its state as a file (feature `safetensors`) and go on from there bit for bit. A step that fails changes nothing.
//!
//! | optimizer | divides the gradient by | its state as a curvature |
//! |---|---|---|
//! | [`AdamW`], [`ScheduleFreeAdamW`] | the root of its mean square, number by number | [`AdamWState::curvature`] |
//! | [`Shampoo`] | roots of its second moments along each axis of a layer | [`ShampooState::curvature`] |
//! | [`Soap`] | as Adam, in the eigenbasis of Shampoo's factors | [`SoapState::curvature`] |
//! | [`KroneckerDescent`] | a root of a Kronecker product that is learned | [`KroneckerDescentState::curvature`] |
//!
//! The curvatures have the scale of a Fisher matrix and are to be inverted with power -1, or -1/2 to whiten; the exponents
//! that the optimizers use for their steps are another thing. [`adafactor_block`] makes one of Adafactor's state.

mod adafactor;
mod adamw;
#[cfg(feature = "safetensors")]
mod archive;
mod basis;
mod basis_update;
mod blocking;
mod cayley;
mod check;
mod distribute;
mod eigenvalue_average;
mod evolution;
mod generator;
mod grafting;
mod growth;
mod kronecker_descent;
mod kronecker_observation;
mod kronecker_operator;
mod kronecker_side;
mod kronecker_spectral;
mod kronecker_state;
mod layout;
mod matrix_root;
mod minimize_log_det;
mod modes;
mod optimizer;
mod orthogonalize;
mod polish;
mod root_engine;
mod schedule_free;
mod shampoo;
mod soap;
mod spectral;
mod state;
mod storage;
mod transpose;

pub use adafactor::adafactor_block;
pub use adamw::{AdamW, AdamWState};
pub use basis_update::BasisUpdate;
pub use blocking::{Block, Blocking};
pub use cayley::Cayley;
pub use distribute::Assignment;
pub use eigenvalue_average::{EigenvalueAverage, rayleigh_quotients};
pub use evolution::{Evolution, EvolutionState, rank_utilities};
pub use generator::Gaps;
pub use grafting::Grafting;
pub use kronecker_descent::{KroneckerDescent, KroneckerDescentState};
pub use kronecker_spectral::{Eigenvalues, KroneckerReport, KroneckerSpectral};
pub use kronecker_state::KroneckerState;
pub use layout::{Layout, Parameter};
pub use matrix_root::{
    CoupledNewton, CoupledRoot, RefinedEigenbasis, coupled_inverse_root, inverse_root, inverse_root_residual,
    pseudo_inverse_root,
};
pub use minimize_log_det::{LogDetReport, minimize_log_det};
pub use optimizer::Optimizer;
pub use orthogonalize::{Orthogonalize, Polynomials};
pub use polish::polish;
pub use root_engine::RootEngine;
pub use schedule_free::{Averaging, DecayAt, ScheduleFreeAdamW, ScheduleFreeState};
pub use shampoo::{Decay, Shampoo, ShampooState};
pub use soap::{Soap, SoapState};
pub use spectral::{Spectral, SpectralReport, SpectralState};
pub use storage::Storage;
