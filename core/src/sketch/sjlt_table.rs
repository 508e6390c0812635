use super::Sketch;
use super::scatter::{Coordinates, Entry, SjltEntries, TILE, scatter, scatter_transpose};
use super::sjlt::{Sjlt, SjltEntry, check_dim_out, check_index, check_piece, check_sparse, finish, norm};
use crate::error::{Error, check_shape};
use crate::linop::{Adjoint, LinOp, check_apply};
use crate::scalar::Real;
use crate::view::{MatMut, MatRef};
use alloc::vec::Vec;

/// The transform of [`Sjlt`] with its entries in a table, four bytes each: drawn once, then only read.
///
/// Its entries may also be given, for example those of another library; two slots of a coordinate may then be in the
/// same bucket, where they add up (or cancel). The sums are those of [`Sjlt`], bit for bit, the slots of a coordinate
/// being added in order.
///
/// Cost for `n` rows: `n p s` additions. Bytes: input and output once, and `4 p s` of the table for each 8 rows.
/// Scratch: as [`Sjlt`].
///
/// # Errors
/// [`Error::Overflow`] when the table cannot be allocated, [`Error::Index`] or [`Error::Parameter`] for an entry that
/// is none.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, linop::apply_alloc, random::Stream, sketch::{Sjlt, SjltTable}};
/// let given = SjltTable::new(2, 1, &[0, 1, 0], &[1, -1, 1])?;
/// assert_eq!(apply_alloc(&given, MatRef::from_row(&[1.0, 2.0, 4.0]))?, [5.0, -2.0]);
/// let sjlt = Sjlt::new(3, 2, 2, Stream::new(0, "table"))?;
/// let x = MatRef::from_row(&[0.1, 0.2, 0.4]);
/// assert_eq!(apply_alloc(&SjltTable::draw(&sjlt)?, x)?, apply_alloc(&sjlt, x)?);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SjltTable {
    dim_in: usize,
    dim_out: usize,
    slots: usize,
    /// `[p, s]`.
    entries: Vec<u32>,
}

impl SjltTable {
    /// The entries of `sjlt`.
    ///
    /// # Errors
    /// [`Error::Overflow`] when `p s` entries cannot be allocated.
    pub fn draw(sjlt: &Sjlt) -> Result<Self, Error> {
        let (dim_in, slots) = (sjlt.coordinates(), sjlt.slots());
        let mut entries = table(dim_in.checked_mul(slots))?;
        for (first, rows) in (0..dim_in).step_by(TILE).zip(entries.chunks_mut(TILE * slots)) {
            let mut slot = 0;
            sjlt.visit(first, rows.len() / slots, |tile, _| {
                for (row, &entry) in rows.chunks_exact_mut(slots).zip(tile) {
                    row[slot] = entry;
                }
                slot += 1;
            });
        }
        Ok(Self { dim_in, dim_out: sjlt.buckets(), slots, entries })
    }

    /// Given entries, `[p, slots]` each: buckets below `dim_out`, and signs that are 1 or -1.
    ///
    /// # Errors
    /// [`Error::Parameter`] when `slots` is 0, `dim_out` not below `2^31`, or a sign neither 1 nor -1;
    /// [`Error::Shape`] when the lengths differ or are not a multiple of `slots`; [`Error::Index`] for a bucket that
    /// does not exist; [`Error::Overflow`] when the table cannot be allocated.
    pub fn new(dim_out: usize, slots: usize, buckets: &[usize], signs: &[i8]) -> Result<Self, Error> {
        check_dim_out(dim_out)?;
        let Some(dim_in) = buckets.len().checked_div(slots) else {
            return Err(Error::Parameter { what: "slots of a coordinate", value: 0.0, must_be: "at least 1" });
        };
        check_shape("buckets (a multiple of the slots)", dim_in * slots, buckets.len())?;
        check_shape("signs", buckets.len(), signs.len())?;
        let mut entries = table(Some(buckets.len()))?;
        for ((entry, &bucket), &sign) in entries.iter_mut().zip(buckets).zip(signs) {
            check_index("bucket", bucket, dim_out)?;
            *entry = bucket as u32
                | match sign {
                    1 => 0,
                    -1 => 1 << 31,
                    _ => return Err(Error::Parameter { what: "sign", value: sign.into(), must_be: "1 or -1" }),
                };
        }
        Ok(Self { dim_in, dim_out, slots, entries })
    }

    /// The number of buckets that a coordinate goes to, counted with repetitions.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Where `slot` of `coordinate` goes.
    ///
    /// # Errors
    /// [`Error::Index`] when there is no such coordinate or slot.
    pub fn entry(&self, coordinate: usize, slot: usize) -> Result<SjltEntry, Error> {
        check_index("coordinate", coordinate, self.dim_in)?;
        check_index("slot", slot, self.slots)?;
        let entry = Entry(self.entries[coordinate * self.slots + slot]);
        Ok(SjltEntry { bucket: entry.bucket(), negative: entry.is_negative() })
    }

    /// As [`Sjlt::accumulate`].
    ///
    /// # Errors
    /// As [`Sjlt::accumulate`].
    pub fn accumulate<T: Real>(
        &self,
        out: MatMut<'_, T>,
        x: MatRef<'_, T>,
        first: usize,
        scratch: &mut [T],
    ) -> Result<(), Error> {
        check_piece(self, &out, &x, first)?;
        scatter(out, Coordinates::all(x), first, self, None, scratch)
    }

    /// As [`Sjlt::finish`].
    pub fn finish<T: Real>(&self, out: MatMut<'_, T>) {
        finish(out, self);
    }

    /// As [`Sjlt::apply_sparse`]. Cost: `s` additions for each element.
    ///
    /// # Errors
    /// As [`Sjlt::apply_sparse`].
    pub fn apply_sparse<T: Real>(&self, out: &mut [T], indices: &[usize], values: &[T]) -> Result<(), Error> {
        check_sparse(self, out, indices, values)?;
        out.fill(T::ZERO);
        for (&index, &value) in indices.iter().zip(values) {
            for &entry in &self.entries[index * self.slots..][..self.slots] {
                Entry(entry).add(out, value);
            }
        }
        finish(MatMut::from_row(out), self);
        Ok(())
    }

    /// The same entries sorted by bucket.
    ///
    /// # Errors
    /// [`Error::Overflow`] when there are `2^31` coordinates or `2^32` entries, or when they cannot be allocated.
    pub fn by_bucket(&self) -> Result<SjltBuckets, Error> {
        let overflow = Error::Overflow { what: "entries by bucket" };
        let (dim_in, dim_out, slots) = (self.dim_in, self.dim_out, self.slots);
        if u32::try_from(self.entries.len()).is_err() || dim_in > 1 << 31 {
            return Err(overflow);
        }
        let (mut starts, mut entries) = (table(Some(dim_out + 1))?, table(Some(self.entries.len()))?);
        for &entry in &self.entries {
            starts[Entry(entry).bucket()] += 1;
        }
        // From counts to ends; filling from the back then turns each end into the start.
        for j in 1..starts.len() {
            starts[j] += starts[j - 1];
        }
        for (i, &entry) in self.entries.iter().enumerate().rev() {
            let end = &mut starts[Entry(entry).bucket()];
            *end -= 1;
            entries[*end as usize] = (i / slots) as u32 | entry & 1 << 31;
        }
        Ok(SjltBuckets { dim_in, dim_out, slots, starts, entries })
    }
}

/// Zeros, or an error where `vec!` would panic.
fn table(len: Option<usize>) -> Result<Vec<u32>, Error> {
    let overflow = Error::Overflow { what: "table of entries" };
    let len = len.ok_or(overflow)?;
    let mut table = Vec::new();
    table.try_reserve_exact(len).map_err(|_| overflow)?;
    table.resize(len, 0);
    Ok(table)
}

impl super::scatter::sealed::Sealed for SjltTable {}

impl SjltEntries for SjltTable {
    fn coordinates(&self) -> usize {
        self.dim_in
    }
    fn buckets(&self) -> usize {
        self.dim_out
    }
    fn slots(&self) -> usize {
        self.slots
    }
    #[inline(always)]
    fn visit(&self, first: usize, len: usize, mut f: impl FnMut(&[u32], usize)) {
        f(&self.entries[first * self.slots..(first + len) * self.slots], self.slots);
    }
}

impl<T: Real> LinOp<T> for SjltTable {
    fn dim_in(&self) -> usize {
        self.dim_in
    }
    fn dim_out(&self) -> usize {
        self.dim_out
    }
    fn scratch_len(&self, rows: usize) -> usize {
        super::scatter::scratch_len(rows, self.dim_out)
    }
    #[inline(always)]
    fn apply(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        check_apply(self.dim_in, self.dim_out, &out, &x)?;
        scatter(out, Coordinates::all(x), 0, self, Some(norm(self.slots)), scratch)
    }
}

impl<T: Real> Adjoint<T> for SjltTable {
    fn transpose_scratch_len(&self, _: usize) -> usize {
        0
    }
    fn apply_transpose(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, _: &mut [T]) -> Result<(), Error> {
        check_apply(self.dim_out, self.dim_in, &out, &x)?;
        scatter_transpose(out, x, self, norm(self.slots));
        Ok(())
    }
}

impl<T: Real> Sketch<T> for SjltTable {
    fn gain(&self) -> f64 {
        1.0
    }
}

/// A [`SjltTable`] sorted by bucket: each output is then one sum over coordinates that are gathered, which needs no
/// atomic additions and is how devices with thousands of threads compute it. The bits are those of the table.
///
/// Cost: as [`SjltTable`], reading the input at scattered places instead of writing the output there. Scratch: none.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, linop::apply_alloc, sketch::SjltTable};
/// let buckets = SjltTable::new(2, 1, &[0, 1, 0], &[1, -1, 1])?.by_bucket()?;
/// assert_eq!(buckets.starts(), [0, 2, 3]);
/// assert_eq!(buckets.entries(), [0, 2, 1 | 1 << 31]);
/// assert_eq!(apply_alloc(&buckets, MatRef::from_row(&[1.0, 2.0, 4.0]))?, [5.0, -2.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SjltBuckets {
    dim_in: usize,
    dim_out: usize,
    slots: usize,
    starts: Vec<u32>,
    entries: Vec<u32>,
}

impl SjltBuckets {
    /// Where the entries of each bucket start, and the end of the last: `k + 1` numbers.
    pub fn starts(&self) -> &[u32] {
        &self.starts
    }

    /// Coordinates, ascending in each bucket, with the sign in the highest bit, which is set for minus.
    pub fn entries(&self) -> &[u32] {
        &self.entries
    }
}

impl<T: Real> LinOp<T> for SjltBuckets {
    fn dim_in(&self) -> usize {
        self.dim_in
    }
    fn dim_out(&self) -> usize {
        self.dim_out
    }
    fn apply(&self, mut out: MatMut<'_, T>, x: MatRef<'_, T>, _: &mut [T]) -> Result<(), Error> {
        check_apply(self.dim_in, self.dim_out, &out, &x)?;
        let norm = norm::<T>(self.slots);
        out.for_each_row(|i, out| {
            let x = x.row(i);
            for (out, ends) in out.iter_mut().zip(self.starts.windows(2)) {
                let mut sum = T::ZERO;
                for &entry in &self.entries[ends[0] as usize..ends[1] as usize] {
                    let entry = Entry(entry);
                    sum += entry.sign::<T>() * x[entry.bucket()];
                }
                *out = norm * sum;
            }
        });
        Ok(())
    }
}
