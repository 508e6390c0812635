//! `shampoo.*`, `soap.*`, `adamw.run`, `schedule_free_adamw.*`, `eigenvalue_correction.*`, and the matrix roots that they need.

use super::Op;

/// The operations of this folder.
pub const OPS: &[Op] = &[];
