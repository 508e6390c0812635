//! What the tests share: generators, oracles and the table of tolerances.

pub mod tolerance;
