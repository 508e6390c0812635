//! Which training examples come first: the ranking rule, and the k best of a stream of scores.
//!
//! # The ranking rule
//! Scores descending ([`Direction::Largest`]) or ascending ([`Direction::Smallest`]), and among equal scores the
//! lower index first. NaN comes after every number in *both* directions, after the infinities too, and NaNs are
//! ordered by index. `-0.0` equals `0.0`. The order is total for different indices, so every selection is unique:
//! it does not depend on the order of arrival, on blocks, or on threads.

mod heap;
#[cfg(feature = "alloc")]
mod per_query;
mod top_k;

#[cfg(feature = "alloc")]
pub use per_query::{TopKPerQuery, top_k};
pub use top_k::TopK;

use crate::scalar::Real;
use core::cmp::Ordering;

/// A score and the index of the example that has it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Ranked<T> {
    /// The score.
    pub score: T,
    /// The example.
    pub index: usize,
}

/// Which end of the scores comes first: proponents or opponents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The largest score first.
    Largest,
    /// The smallest score first.
    Smallest,
}

impl Direction {
    /// The ranking rule: [`Ordering::Less`] when `a` comes before `b`.
    ///
    /// # Examples
    /// ```
    /// use ascribe_core::rank::{Direction, Ranked};
    /// let mut order = [f64::NAN, 1.0, f64::NEG_INFINITY, 1.0].map(|score| Ranked { score, index: 0 });
    /// for (index, ranked) in order.iter_mut().enumerate() {
    ///     ranked.index = index;
    /// }
    /// order.sort_unstable_by(|a, b| Direction::Largest.compare(a, b));
    /// assert_eq!(order.map(|ranked| ranked.index), [1, 3, 2, 0]);
    /// ```
    #[inline]
    pub fn compare<T: Real>(self, a: &Ranked<T>, b: &Ranked<T>) -> Ordering {
        if self.loses(b.score, a.score) {
            Ordering::Less
        } else if self.loses(a.score, b.score) {
            Ordering::Greater
        } else {
            // Equal, or one of them NaN: false comes before true.
            a.score.is_nan().cmp(&b.score.is_nan()).then(a.index.cmp(&b.index))
        }
    }

    /// Whether `score` certainly comes after `worst`; never so when either is NaN.
    #[inline]
    fn loses<T: Real>(self, score: T, worst: T) -> bool {
        match self {
            Self::Largest => score < worst,
            Self::Smallest => score > worst,
        }
    }
}
