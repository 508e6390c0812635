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
    match heap.first_mut() {
        Some(root) if direction.compare(&candidate, root).is_lt() => *root = candidate,
        _ => return,
    }
    let mut parent = 0;
    loop {
        let (left, right) = (2 * parent + 1, 2 * parent + 2);
        let Some(mut last) = (left < heap.len()).then_some(left) else { return };
        if right < heap.len() && direction.compare(&heap[right], &heap[left]).is_gt() {
            last = right;
        }
        if direction.compare(&heap[parent], &heap[last]).is_ge() {
            return;
        }
        heap.swap(parent, last);
        parent = last;
    }
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
