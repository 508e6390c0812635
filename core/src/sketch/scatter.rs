//! The loops of every sparse transform: coordinates added, with a sign, to buckets.
//!
//! They are inlined into their callers, so that a caller compiled for wider vectors gets them in its loops; the sums
//! have one order whatever the vectors are, and no product is fused with an addition.

use crate::error::{Error, take_scratch};
use crate::scalar::Real;
use crate::view::{MatMut, MatRef};

/// Coordinates taken at once: so many, of 16 rows, stay in the first-level cache.
pub(super) const TILE: usize = 64;
/// The largest bucket count with which a bucket and a sign fit into 32 bits.
pub(super) const MAX_DIM_OUT: usize = (1 << 31) - 1;
/// Rows that are summed side by side: one vector of 64 bytes in f32.
const WIDE: usize = 16;
/// The same for fewer rows.
const NARROW: usize = 4;

/// A bucket with a sign in the highest bit, which is set for minus.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry(pub(super) u32);

impl Entry {
    #[inline(always)]
    pub(super) fn bucket(self) -> usize {
        (self.0 & MAX_DIM_OUT as u32) as usize
    }
    #[inline(always)]
    pub(super) fn is_negative(self) -> bool {
        self.0 > MAX_DIM_OUT as u32
    }
    #[inline(always)]
    pub(super) fn sign<T: Real>(self) -> T {
        [T::ONE, -T::ONE][(self.0 >> 31) as usize]
    }
    #[inline(always)]
    pub(super) fn add<T: Real>(self, out: &mut [T], value: T) {
        out[self.bucket()] += self.sign::<T>() * value;
    }
}

/// The buckets `start..start + len`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) len: u32,
}

impl Span {
    /// The bucket of a random word, and its lowest bit as the sign.
    #[inline(always)]
    pub(super) fn entry(self, word: u32) -> Entry {
        Entry(self.start + crate::random::bucket(word, self.len) | word << 31)
    }
}

/// Where the slots of the coordinates go, however it is known: drawn ([`Sjlt`](super::Sjlt)) or read from a table
/// ([`SjltTable`](super::SjltTable)). What is made of a transform takes either.
pub trait SjltEntries: sealed::Sealed {
    /// The number of coordinates, `p`.
    fn coordinates(&self) -> usize;
    /// The number of buckets, `k`.
    fn buckets(&self) -> usize;
    /// The number of buckets that a coordinate goes to, `s`.
    fn slots(&self) -> usize;
    /// Calls `f` with entries of the coordinates `first..first + len`, which lie in one aligned block of 64, and with
    /// how many of them each coordinate has; several times when not all slots come at once. An entry is a bucket with
    /// the sign in the highest bit, which is set for minus. The coordinates of a bucket come in ascending order.
    fn visit(&self, first: usize, len: usize, f: impl FnMut(&[u32], usize));
}

pub(super) mod sealed {
    pub trait Sealed {}
}

/// All columns of a block of rows, or those of a mask.
#[derive(Clone, Copy)]
pub(super) struct Coordinates<'a, T> {
    x: MatRef<'a, T>,
    indices: Option<&'a [usize]>,
}

impl<'a, T: Real> Coordinates<'a, T> {
    pub(super) fn all(x: MatRef<'a, T>) -> Self {
        Self { x, indices: None }
    }

    /// The columns `indices`, which the caller has checked.
    pub(super) fn masked(x: MatRef<'a, T>, indices: &'a [usize]) -> Self {
        Self { x, indices: Some(indices) }
    }

    #[inline(always)]
    fn len(&self) -> usize {
        self.indices.map_or(self.x.cols(), <[usize]>::len)
    }

    /// The coordinates from `first` on of the rows from `row` on, one coordinate of all rows after the other.
    #[inline(always)]
    fn load<const R: usize>(&self, tile: &mut [[T; R]], row: usize, first: usize) {
        let rows: [&[T]; R] = core::array::from_fn(|r| self.x.row(row + r));
        match self.indices {
            None => interleave(tile, rows.map(|row| &row[first..first + tile.len()])),
            Some(indices) => {
                let indices = &indices[first..first + tile.len()];
                for (r, row) in rows.iter().enumerate() {
                    for (tile, &index) in tile.iter_mut().zip(indices) {
                        tile[r] = row[index];
                    }
                }
            }
        }
    }
}

/// `tile[c][r] = rows[r][c]`, four by four: that much is turned in registers.
#[inline(always)]
fn interleave<T: Real, const R: usize>(tile: &mut [[T; R]], rows: [&[T]; R]) {
    let whole = tile.len() / 4 * 4;
    for c in (0..whole).step_by(4) {
        for r in (0..R / 4 * 4).step_by(4) {
            let square: [[T; 4]; 4] = core::array::from_fn(|i| core::array::from_fn(|j| rows[r + i][c + j]));
            for j in 0..4 {
                for i in 0..4 {
                    tile[c + j][r + i] = square[i][j];
                }
            }
        }
        for r in R / 4 * 4..R {
            for j in c..c + 4 {
                tile[j][r] = rows[r][j];
            }
        }
    }
    for c in whole..tile.len() {
        for r in 0..R {
            tile[c][r] = rows[r][c];
        }
    }
}

/// The scratch of [`scatter`].
pub(super) fn scratch_len(rows: usize, buckets: usize) -> usize {
    let lanes = if rows >= WIDE {
        WIDE
    } else if rows >= NARROW {
        NARROW
    } else {
        0
    };
    buckets.saturating_mul(lanes)
}

/// Adds the coordinates, of which the first has number `first`, to `out` `[rows, buckets]`; or, with a `scale`, sets
/// `out` to it times their sums. The caller has checked the shapes.
#[inline(always)]
pub(super) fn scatter<T: Real>(
    mut out: MatMut<'_, T>,
    x: Coordinates<'_, T>,
    first: usize,
    entries: &impl SjltEntries,
    scale: Option<T>,
    scratch: &mut [T],
) -> Result<(), Error> {
    let rows = out.rows();
    let (scratch, _) = take_scratch(scratch, scratch_len(rows, entries.buckets()))?;
    let mut row = 0;
    while rows - row >= WIDE {
        group::<T, WIDE>(&mut out, x, row, first, entries, scale, scratch);
        row += WIDE;
    }
    while rows - row >= NARROW {
        group::<T, NARROW>(&mut out, x, row, first, entries, scale, scratch);
        row += NARROW;
    }
    for row in row..rows {
        let sums = out.row_mut(row);
        if scale.is_some() {
            sums.fill(T::ZERO);
        }
        sum::<T, 1>(sums.as_chunks_mut().0, x, row, first, entries);
        if let Some(scale) = scale {
            crate::reduce::scale(sums, scale);
        }
    }
    Ok(())
}

/// `R` rows side by side: an entry is then read once for all of them, and its addition is one of vectors.
#[inline(always)]
fn group<T: Real, const R: usize>(
    out: &mut MatMut<'_, T>,
    x: Coordinates<'_, T>,
    row: usize,
    first: usize,
    entries: &impl SjltEntries,
    scale: Option<T>,
    scratch: &mut [T],
) {
    let sums: &mut [[T; R]] = &mut scratch.as_chunks_mut().0[..entries.buckets()];
    match scale {
        Some(_) => sums.fill([T::ZERO; R]),
        None => {
            for r in 0..R {
                for (sums, &out) in sums.iter_mut().zip(&*out.row_mut(row + r)) {
                    sums[r] = out;
                }
            }
        }
    }
    sum(sums, x, row, first, entries);
    let scale = scale.unwrap_or(T::ONE);
    for r in 0..R {
        for (out, sums) in out.row_mut(row + r).iter_mut().zip(&*sums) {
            *out = scale * sums[r];
        }
    }
}

#[inline(always)]
fn sum<T: Real, const R: usize>(
    sums: &mut [[T; R]],
    x: Coordinates<'_, T>,
    row: usize,
    first: usize,
    entries: &impl SjltEntries,
) {
    let mut tile = [[T::ZERO; R]; TILE];
    let mut start = 0;
    while start < x.len() {
        let len = (TILE - (first + start) % TILE).min(x.len() - start);
        let tile = &mut tile[..len];
        x.load(tile, row, start);
        entries.visit(first + start, len, |entries, each| {
            for (x, entries) in tile.iter().zip(entries.chunks_exact(each)) {
                for &entry in entries {
                    let entry = Entry(entry);
                    let sign = entry.sign::<T>();
                    for (sum, &x) in sums[entry.bucket()].iter_mut().zip(x) {
                        *sum += sign * x;
                    }
                }
            }
        });
        start += len;
    }
}

/// Sets `out` `[rows, coordinates]` to the transpose of `x` `[rows, buckets]`. The caller has checked the shapes.
pub(super) fn scatter_transpose<T: Real>(mut out: MatMut<'_, T>, x: MatRef<'_, T>, entries: &impl SjltEntries, scale: T) {
    for first in (0..entries.coordinates()).step_by(TILE) {
        let len = TILE.min(entries.coordinates() - first);
        out.for_each_row(|_, row| row[first..first + len].fill(T::ZERO));
        entries.visit(first, len, |entries, each| {
            out.for_each_row(|i, row| {
                let x = x.row(i);
                for (sum, entries) in row[first..first + len].iter_mut().zip(entries.chunks_exact(each)) {
                    for &entry in entries {
                        let entry = Entry(entry);
                        *sum += entry.sign::<T>() * x[entry.bucket()];
                    }
                }
            });
        });
        out.for_each_row(|_, row| crate::reduce::scale(&mut row[first..first + len], scale));
    }
}
