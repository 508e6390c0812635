//! A binary heap over a slice with the entry that ranks last at its root.

use super::{Direction, Ranked};
use crate::scalar::Real;

/// Restores the heap after an entry was appended.
pub(super) fn sift_up<T: Real>(heap: &mut [Ranked<T>], direction: Direction) {
    let Some(mut child) = heap.len().checked_sub(1) else { return };
    while child > 0 {
        let parent = (child - 1) / 2;
        if direction.compare(&heap[parent], &heap[child]).is_ge() {
            break;
        }
        heap.swap(parent, child);
        child = parent;
    }
}

/// Puts `candidate` in the place of the root if it ranks before it.
pub(super) fn replace_root<T: Real>(heap: &mut [Ranked<T>], direction: Direction, candidate: Ranked<T>) {
    if heap.first().is_none_or(|root| direction.compare(&candidate, root).is_ge()) {
        return;
    }
    // The children that rank after the candidate move up; it takes the place that the last of them leaves.
    let mut hole = 0;
    while let Some(&(mut child)) = heap.get(2 * hole + 1) {
        let mut place = 2 * hole + 1;
        if let Some(right) = heap.get(place + 1).copied().filter(|right| direction.compare(right, &child).is_gt()) {
            (child, place) = (right, place + 1);
        }
        if direction.compare(&candidate, &child).is_ge() {
            break;
        }
        heap[hole] = child;
        hole = place;
    }
    heap[hole] = candidate;
}

/// The score that a candidate is measured against: that of the root once the heap holds `k` entries; before, NaN,
/// against which nothing loses.
pub(super) fn threshold<T: Real>(heap: &[Ranked<T>], k: usize) -> T {
    match heap.first() {
        Some(root) if heap.len() == k => root.score,
        _ => T::from_f64(f64::NAN),
    }
}

/// Whether every score certainly comes after its threshold. Without early exit, so that it is vectorised.
#[inline]
pub(super) fn all_lose<T: Real>(direction: Direction, pairs: impl Iterator<Item = (T, T)>) -> bool {
    pairs.fold(true, |all, (score, worst)| all & direction.loses(score, worst))
}
