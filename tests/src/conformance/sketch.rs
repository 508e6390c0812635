//! `sketch.*` and `selective_mask.*`: sketches of gradients and of records.

use super::Op;

/// The operations of this folder.
pub const OPS: &[Op] = &[];
