//! Transposes, and symmetric matrices made whole from a triangle.

use std::convert::Infallible;
use std::ops::Range;

use ascribe_core::Real;

use crate::parallel::{Parallelism, for_each};

/// Edge of the tiles.
const TILE: usize = 32;

/// A tile, turned in memory of its own: rows that are a power of two apart compete for the same lines of a cache.
type Tile<T> = [[T; TILE]; TILE];

/// `tile[j, i] = x[i, j]`, rows and columns counted from the first of them.
fn turn<T: Copy>(tile: &mut Tile<T>, x: &[T], stride: usize, rows: Range<usize>, cols: &Range<usize>) {
    for (i, row) in rows.enumerate() {
        for (turned, &x) in tile.iter_mut().zip(&x[row * stride..][cols.clone()]) {
            turned[i] = x;
        }
    }
}

/// The tiles that a range is cut into.
fn tiles(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(TILE).map(move |start| start..end.min(start + TILE))
}

/// `out[j, i] = f(j, x[i, j])` for `x` `[rows, cols]`.
pub(super) fn transpose<T: Real>(
    out: &mut [T],
    x: &[T],
    rows: usize,
    cols: usize,
    par: Parallelism,
    f: impl Fn(usize, T) -> T + Sync,
) {
    let strips = out.chunks_mut((TILE * rows).max(1)).zip(tiles(0..cols)).collect();
    let _: Result<(), Infallible> = for_each(par, strips, |(strip, across): (&mut [T], Range<usize>)| {
        let mut tile = [[T::ZERO; TILE]; TILE];
        for down in tiles(0..rows) {
            turn(&mut tile, x, cols, down.clone(), &across);
            for ((row, turned), j) in strip.chunks_exact_mut(rows).zip(&tile).zip(across.clone()) {
                row[down.clone()].iter_mut().zip(turned).for_each(|(out, &x)| *out = f(j, x));
            }
        }
        Ok(())
    });
}

/// Makes the upper triangle of an `n x n` matrix `f` of the lower one.
pub(super) fn mirror<T: Real>(a: &mut [T], n: usize, f: impl Fn(T) -> T) {
    let mut tile = [[T::ZERO; TILE]; TILE];
    for down in tiles(0..n) {
        for across in tiles(down.start..n) {
            turn(&mut tile, a, n, across.clone(), &down);
            for (i, turned) in down.clone().zip(&tile) {
                let above = across.start.max(i + 1).min(across.end)..across.end;
                let turned = &turned[above.start - across.start..];
                a[i * n..][above].iter_mut().zip(turned).for_each(|(out, &x)| *out = f(x));
            }
        }
    }
}

/// A symmetric matrix from its lower triangle.
pub(super) fn mirrored<T: Real>(lower: &[T], n: usize) -> Vec<T> {
    let mut full = lower.to_vec();
    mirror(&mut full, n, |x| x);
    full
}

/// `(A + A^T) / 2` in the lower triangle of an `n x n` matrix.
pub(super) fn symmetrise<T: Real>(a: &mut [T], n: usize) {
    let (half, mut tile) = (T::from_f64(0.5), [[T::ZERO; TILE]; TILE]);
    for across in tiles(0..n) {
        for down in tiles(across.start..n) {
            turn(&mut tile, a, n, across.clone(), &down);
            for (i, turned) in down.clone().zip(&tile) {
                let below = across.start..across.end.min(i);
                a[i * n..][below].iter_mut().zip(turned).for_each(|(x, &y)| *x = half * *x + half * y);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_and_what_is_left_of_them() {
        for (rows, cols) in [(0, 3), (3, 0), (1, 1), (31, 33), (32, 64), (65, 40)] {
            let x: Vec<f64> = (0..rows * cols).map(|i| i as f64).collect();
            let mut out = vec![f64::NAN; rows * cols];
            transpose(&mut out, &x, rows, cols, Parallelism::threads(2), |j, x| x + 0.5 * j as f64);
            for (i, j) in (0..rows).flat_map(|i| (0..cols).map(move |j| (i, j))) {
                assert_eq!(out[j * rows + i], x[i * cols + j] + 0.5 * j as f64);
            }
        }
        for n in [0, 1, 31, 32, 65] {
            let a: Vec<f64> = (0..n * n).map(|i| i as f64).collect();
            let (skew, mut mean) = (
                {
                    let mut a = a.clone();
                    mirror(&mut a, n, |x| -x);
                    a
                },
                a.clone(),
            );
            symmetrise(&mut mean, n);
            for (i, j) in (0..n).flat_map(|i| (0..n).map(move |j| (i, j))) {
                let [lower, upper] = [a[i.max(j) * n + i.min(j)], a[i.min(j) * n + i.max(j)]];
                assert_eq!(skew[i * n + j], if i < j { -lower } else { lower });
                assert_eq!(mean[i * n + j], if i > j { f64::midpoint(lower, upper) } else { a[i * n + j] });
            }
        }
    }
}
