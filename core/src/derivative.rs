//! (module under construction)
/// Mean or sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// Mean.
    Mean,
    /// Sum.
    Sum,
}
