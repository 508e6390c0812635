//! The k best of one stream of scores, in a caller's buffer.

use super::heap::{all_lose, replace_root, sift_up, threshold};
use super::{Direction, Ranked};
use crate::error::Error;
use crate::scalar::Real;

/// How many scores are compared with the threshold before the heap is looked at.
const BLOCK: usize = 64;

/// Keeps the `k` best of any number of scores, where `k` is the length of the buffer.
///
/// Scores may come in any order and in any blocks; the result is the same. With `k = 0` everything is dropped;
/// with fewer than `k` scores, all are kept. The buffer's content at the start does not matter.
///
/// Cost for `n` scores in random order: `n` comparisons and about `k ln(n/k)` exchanges of `O(log k)` each;
/// at worst `n` exchanges. Scratch: none beyond the buffer.
///
/// # Examples
/// ```
/// use ascribe_core::rank::{Direction, Ranked, TopK};
/// let mut buffer = [Ranked::default(); 2];
/// let mut best = TopK::new(&mut buffer, Direction::Largest);
/// best.push_slice(0, &[0.5_f32, f32::NAN, 2.0])?;
/// best.push(3, 2.0);
/// let best = best.finish();
/// assert_eq!([best[0].index, best[1].index], [2, 3]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
#[derive(Debug)]
pub struct TopK<'a, T> {
    buffer: &'a mut [Ranked<T>],
    len: usize,
    direction: Direction,
}

impl<'a, T: Real> TopK<'a, T> {
    /// An empty selection of at most `buffer.len()` entries.
    pub fn new(buffer: &'a mut [Ranked<T>], direction: Direction) -> Self {
        Self { buffer, len: 0, direction }
    }

    /// Offers one score.
    #[inline]
    pub fn push(&mut self, index: usize, score: T) {
        let candidate = Ranked { score, index };
        if let Some(free) = self.buffer.get_mut(self.len) {
            *free = candidate;
            self.len += 1;
            sift_up(&mut self.buffer[..self.len], self.direction);
        } else {
            replace_root(self.buffer, self.direction, candidate);
        }
    }

    /// Offers the scores of the examples `first, first + 1, ..`.
    ///
    /// # Errors
    /// [`Error::Overflow`] when the last index does not fit into `usize`; then none was offered.
    pub fn push_slice(&mut self, first: usize, scores: &[T]) -> Result<(), Error> {
        first.checked_add(scores.len()).ok_or(Error::Overflow { what: "example index" })?;
        let direction = self.direction;
        for (b, block) in scores.chunks(BLOCK).enumerate() {
            let worst = threshold(&self.buffer[..self.len], self.buffer.len());
            if !all_lose(direction, block.iter().map(|&score| (score, worst))) {
                for (i, &score) in block.iter().enumerate() {
                    self.push(first + b * BLOCK + i, score);
                }
            }
        }
        Ok(())
    }

    /// Offers the entries of another selection, finished or not: that of other blocks, threads or machines.
    ///
    /// The order of merging does not matter. An example that occurs in both counts twice.
    pub fn merge(&mut self, other: &[Ranked<T>]) {
        for entry in other {
            self.push(entry.index, entry.score);
        }
    }

    /// What has been kept so far, in no particular order.
    pub fn kept(&self) -> &[Ranked<T>] {
        &self.buffer[..self.len]
    }

    /// What has been kept, the first-ranked first.
    pub fn finish(self) -> &'a [Ranked<T>] {
        let kept = &mut self.buffer[..self.len];
        kept.sort_unstable_by(|a, b| self.direction.compare(a, b));
        kept
    }
}
