//! Training runs that can be repeated to the last bit: what attribution is checked against.

mod newton;
mod sgd;

pub use newton::{Newton, NewtonReport};
pub use sgd::{Length, Sgd};
