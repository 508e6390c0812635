//! `spectral.*`, `kronecker_spectral.*`, `kl_shampoo.*` and `cayley.*`: spectral-factorized preconditioners.

use super::Op;

/// The operations of this folder.
pub const OPS: &[Op] = &[];
