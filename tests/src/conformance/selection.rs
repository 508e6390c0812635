//! Which examples and tokens are chosen by their scores.

use super::Op;

/// The operations of this folder.
pub const OPS: &[Op] = &[];
