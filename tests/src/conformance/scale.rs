//! `adam.scale` and `adafactor.scale`: gradients divided by an optimizer's second moments.

use super::Op;

/// The operations of this folder.
pub const OPS: &[Op] = &[];
