//! Attribution methods: from gradients and an inverse curvature to scores.
//!
//! A score matrix is `[train examples, queries]`. What its sign and scale mean is part of the type that made it.

mod ghost;
mod influence;
mod low_rank_query;

pub use ghost::{ghost_dots, ghost_squared_norms};
pub use influence::{Effect, Influence};
pub use low_rank_query::{Discarded, LowRankQueries, LowRankQuery};
