//! The loops of every sparse transform: coordinates added, with a sign, to buckets.
//!
//! They are inlined into their callers, so that a caller compiled for wider vectors gets them in its loops; the sums
//! have one order whatever the vectors are, and no product is fused with an addition.

use crate::error::{Error, take_scratch};
use crate::scalar::Real;
use crate::view::{MatMut, MatRef};

/// Coordinates taken at once: two cache lines of each row. With more, the processor would not look far enough ahead to
/// fetch the next ones while these are being added.
pub(super) const TILE: usize = 32;
/// The largest bucket count with which a bucket and a sign fit into 32 bits.
pub(super) const MAX_DIM_OUT: usize = (1 << 31) - 1;
/// Masked coordinates that are read from one row before the next: more of them would look to the processor like a row
/// that is read from end to end, and it would fetch all of it.
const NEAR: usize = 8;
/// Rows that are interleaved: a square of as many coordinates is turned in registers.
const LANES: usize = 4;
/// Fours of rows that are summed side by side, where there are so many: the sums of 4096 buckets stay in the
/// second-level cache.
const WIDE: usize = 2;

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
        Entry((self.start + crate::random::bucket(word, self.len)) | (word << 31))
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
    /// Calls `f` with entries of the coordinates `first..first + len`, which lie in one aligned block of 32, and with
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

    /// The coordinates from `first` on of four rows from `row` on, one coordinate of all rows after the other.
    #[inline(always)]
    fn load(&self, tile: &mut [[T; LANES]], row: usize, first: usize) {
        let rows: [&[T]; LANES] = core::array::from_fn(|r| self.x.row(row + r));
        match self.indices {
            None => interleave(tile, rows.map(|row| &row[first..first + tile.len()])),
            Some(indices) => {
                let indices = &indices[first..first + tile.len()];
                for (tile, indices) in tile.chunks_mut(NEAR).zip(indices.chunks(NEAR)) {
                    for (r, row) in rows.iter().enumerate() {
                        for (tile, &index) in tile.iter_mut().zip(indices) {
                            tile[r] = row[index];
                        }
                    }
                }
            }
        }
    }
}

/// `tile[c][r] = rows[r][c]`.
#[inline(always)]
fn interleave<T: Real>(tile: &mut [[T; LANES]], rows: [&[T]; LANES]) {
    let squares = rows.map(|row| row.as_chunks::<LANES>().0);
    let (tiles, rest) = tile.as_chunks_mut::<LANES>();
    for (i, tile) in tiles.iter_mut().enumerate() {
        let [a, b, c, d] = squares.map(|row| row[i]);
        *tile = core::array::from_fn(|j| [a[j], b[j], c[j], d[j]]);
    }
    let whole = tiles.len() * LANES;
    for (c, tile) in rest.iter_mut().enumerate() {
        *tile = rows.map(|row| row[whole + c]);
    }
}

/// The scratch of [`scatter`].
pub(super) fn scratch_len(rows: usize, buckets: usize) -> usize {
    let lanes = match rows / LANES {
        0 => 0,
        fours if fours < WIDE => LANES,
        _ => LANES * WIDE,
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
    // There may be any number of rows without elements.
    if out.cols() == 0 {
        return Ok(());
    }
    let mut row = 0;
    while rows - row >= LANES * WIDE {
        group::<T, WIDE>(&mut out, x, row, first, entries, scale, scratch);
        row += LANES * WIDE;
    }
    while rows - row >= LANES {
        group::<T, 1>(&mut out, x, row, first, entries, scale, scratch);
        row += LANES;
    }
    for row in row..rows {
        single(out.row_mut(row), x, row, first, entries, scale);
    }
    Ok(())
}

/// `4 G` rows side by side: an entry is then read once for all of them, and its addition is one of vectors.
#[inline(always)]
fn group<T: Real, const G: usize>(
    out: &mut MatMut<'_, T>,
    x: Coordinates<'_, T>,
    row: usize,
    first: usize,
    entries: &impl SjltEntries,
    scale: Option<T>,
    scratch: &mut [T],
) {
    let sums: &mut [[[T; LANES]; G]] = &mut scratch.as_chunks_mut().0.as_chunks_mut().0[..entries.buckets()];
    match scale {
        Some(_) => sums.fill([[T::ZERO; LANES]; G]),
        None => {
            for r in 0..G * LANES {
                for (sums, &out) in sums.iter_mut().zip(&*out.row_mut(row + r)) {
                    sums[r / LANES][r % LANES] = out;
                }
            }
        }
    }
    let mut tile = [[[T::ZERO; LANES]; TILE]; G];
    let mut start = 0;
    while start < x.len() {
        let len = (TILE - (first + start) % TILE).min(x.len() - start);
        for (g, tile) in tile.iter_mut().enumerate() {
            x.load(&mut tile[..len], row + g * LANES, start);
        }
        entries.visit(first + start, len, |entries, each| {
            for (c, entries) in entries.chunks_exact(each).enumerate().take(TILE) {
                for &entry in entries {
                    let entry = Entry(entry);
                    let (sign, bucket) = (entry.sign::<T>(), &mut sums[entry.bucket()]);
                    // By value, so that the compiler need not fear that they overlap and adds whole vectors.
                    let (mut sum, x): (_, [_; G]) = (*bucket, core::array::from_fn(|g| tile[g][c]));
                    for (sum, &x) in sum.as_flattened_mut().iter_mut().zip(x.as_flattened()) {
                        *sum += sign * x;
                    }
                    *bucket = sum;
                }
            }
        });
        start += len;
    }
    let scale = scale.unwrap_or(T::ONE);
    for r in 0..G * LANES {
        for (out, sums) in out.row_mut(row + r).iter_mut().zip(&*sums) {
            *out = scale * sums[r / LANES][r % LANES];
        }
    }
}

/// One row, summed where it belongs.
#[inline(always)]
fn single<T: Real>(
    sums: &mut [T],
    x: Coordinates<'_, T>,
    row: usize,
    first: usize,
    entries: &impl SjltEntries,
    scale: Option<T>,
) {
    if scale.is_some() {
        sums.fill(T::ZERO);
    }
    let row = x.x.row(row);
    let mut start = 0;
    while start < x.len() {
        let len = (TILE - (first + start) % TILE).min(x.len() - start);
        entries.visit(first + start, len, |entries, each| {
            let entries = entries.chunks_exact(each);
            let mut add = |(entries, x): (&[u32], T)| entries.iter().for_each(|&entry| Entry(entry).add(sums, x));
            match x.indices {
                None => entries.zip(row[start..start + len].iter().copied()).for_each(add),
                Some(indices) => entries.zip(indices[start..start + len].iter().map(|&i| row[i])).for_each(&mut add),
            }
        });
        start += len;
    }
    if let Some(scale) = scale {
        crate::reduce::scale(sums, scale);
    }
}

/// Sets `out` `[rows, coordinates]` to the transpose of `x` `[rows, buckets]`. The caller has checked the shapes.
pub(super) fn scatter_transpose<T: Real>(
    mut out: MatMut<'_, T>,
    x: MatRef<'_, T>,
    entries: &impl SjltEntries,
    scale: T,
) {
    if out.rows() == 0 {
        return;
    }
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
