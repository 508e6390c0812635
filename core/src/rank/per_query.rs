//! The k best training examples of each query, from blocks of a score matrix.

use super::heap::{all_lose, replace_root, sift_up, threshold};
use super::{Direction, Ranked};
use crate::error::{Error, check_shape};
use crate::scalar::Real;
use crate::view::MatRef;
use alloc::vec::Vec;

/// How many queries are compared with their thresholds before a heap is looked at.
const BLOCK: usize = 16;

/// Keeps the `k` best training examples of each query while blocks of scores `[block, n_query]` go by.
///
/// As one [`TopK`](super::TopK) for each column, but each row is read once, contiguously, and compared with all
/// the queries' thresholds together. Memory: at most `k` entries and one threshold for each query.
///
/// # Examples
/// ```
/// use ascribe_core::rank::{Direction, TopKPerQuery};
/// use ascribe_core::MatRef;
/// let mut best = TopKPerQuery::new(2, 1, Direction::Largest)?;
/// best.push_block(0, MatRef::new(&[1.0, 5.0, 3.0, 4.0], 2, 2)?)?;
/// best.push_block(2, MatRef::new(&[2.0, 9.0], 1, 2)?)?;
/// let best = best.finish();
/// assert_eq!([best[0][0].index, best[1][0].index], [1, 2]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct TopKPerQuery<T> {
    heaps: Vec<Vec<Ranked<T>>>,
    thresholds: Vec<T>,
    k: usize,
    direction: Direction,
}

impl<T: Real> TopKPerQuery<T> {
    /// An empty selection of at most `k` examples for each of `n_query` queries.
    ///
    /// # Errors
    /// [`Error::Overflow`] when there is no memory for that many queries.
    pub fn new(n_query: usize, k: usize, direction: Direction) -> Result<Self, Error> {
        // The number of queries may come from a view of no rows, with no data to vouch for it.
        let (mut heaps, mut thresholds) = (Vec::new(), Vec::new());
        let reserved = heaps.try_reserve_exact(n_query).and_then(|()| thresholds.try_reserve_exact(n_query));
        reserved.map_err(|_| Error::Overflow { what: "queries" })?;
        heaps.resize(n_query, Vec::new());
        thresholds.resize(n_query, threshold(&[], k));
        Ok(Self { heaps, thresholds, k, direction })
    }

    /// Offers the scores of the training examples `first, first + 1, ..`, one a row.
    ///
    /// # Errors
    /// [`Error::Shape`] when the block's columns are not the queries; [`Error::Overflow`] when the last index does
    /// not fit into `usize`. Then none was offered.
    pub fn push_block(&mut self, first: usize, scores: MatRef<'_, T>) -> Result<(), Error> {
        check_shape("score columns", self.heaps.len(), scores.cols())?;
        first.checked_add(scores.rows()).ok_or(Error::Overflow { what: "example index" })?;
        if self.k == 0 || scores.cols() == 0 {
            return Ok(());
        }
        for (i, row) in scores.row_iter().enumerate() {
            for (block, scores) in row.chunks(BLOCK).enumerate() {
                let start = block * BLOCK;
                let worst = &self.thresholds[start..start + scores.len()];
                if !all_lose(self.direction, scores.iter().copied().zip(worst.iter().copied())) {
                    for (query, &score) in (start..).zip(scores) {
                        self.offer(query, Ranked { score, index: first + i });
                    }
                }
            }
        }
        Ok(())
    }

    /// Offers the entries of another selection for the same queries; the order of merging does not matter.
    ///
    /// # Errors
    /// [`Error::Shape`] when the numbers of queries differ.
    pub fn merge(&mut self, other: &Self) -> Result<(), Error> {
        check_shape("queries", self.heaps.len(), other.heaps.len())?;
        for (query, heap) in other.heaps.iter().enumerate() {
            for &entry in heap {
                self.offer(query, entry);
            }
        }
        Ok(())
    }

    /// For each query what has been kept, the first-ranked first.
    pub fn finish(mut self) -> Vec<Vec<Ranked<T>>> {
        for heap in &mut self.heaps {
            heap.sort_unstable_by(|a, b| self.direction.compare(a, b));
        }
        self.heaps
    }

    fn offer(&mut self, query: usize, candidate: Ranked<T>) {
        if self.direction.loses(candidate.score, self.thresholds[query]) {
            return;
        }
        let heap = &mut self.heaps[query];
        if heap.len() < self.k {
            heap.push(candidate);
            sift_up(heap, self.direction);
        } else {
            replace_root(heap, self.direction, candidate);
        }
        self.thresholds[query] = threshold(heap, self.k);
    }
}

/// The `k` best training examples of each query, the first-ranked first; all `n_train` when `k` is larger.
///
/// `scores` is `[n_train, n_query]`. To select from blocks that are made one after another, use [`TopKPerQuery`].
/// Cost: one comparison for each score, and about `k ln(n_train/k)` exchanges of `O(log k)` for each query when
/// the order is random. Memory: `k` entries for each query.
///
/// # Errors
/// [`Error::Overflow`] when there is no memory for that many queries.
///
/// # Examples
/// ```
/// use ascribe_core::rank::{Direction, top_k};
/// use ascribe_core::MatRef;
/// let scores = MatRef::new(&[0.1, 0.9, f64::NAN, 0.5, 0.3, 0.9], 3, 2)?;
/// let opponents = top_k(scores, 2, Direction::Smallest)?;
/// assert_eq!([opponents[0][0].index, opponents[0][1].index], [0, 2]);
/// assert_eq!([opponents[1][0].index, opponents[1][1].index], [1, 0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
pub fn top_k<T: Real>(scores: MatRef<'_, T>, k: usize, direction: Direction) -> Result<Vec<Vec<Ranked<T>>>, Error> {
    let mut best = TopKPerQuery::new(scores.cols(), k, direction)?;
    best.push_block(0, scores)?;
    Ok(best.finish())
}
