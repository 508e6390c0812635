//! `sketch.rademacher`, `sketch.gaussian`, `sketch.srht` and `quantize.*`: dense sketches and storage formats.

use super::Op;

/// The operations of this folder.
pub const OPS: &[Op] = &[];
