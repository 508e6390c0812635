//! Attribution methods: from gradients and an inverse curvature to scores.
//!
//! A score matrix is `[train examples, queries]`. What its sign and scale mean is part of the type that made it.

mod influence;

pub use influence::{Effect, Influence};
