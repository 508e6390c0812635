//! Preconditioners that are learned online, one step after another, and the optimizers that use them.
//!
//! One file an algorithm. A state takes gradients (or records) step by step; what it has learned is an operator, so it
//! can precondition an optimizer's step as well as an inverse of [`inverse`](crate::inverse).
