//! Scores of attribution methods from rows that are ready.

use super::Op;

/// The operations of this folder.
pub const OPS: &[Op] = &[];
