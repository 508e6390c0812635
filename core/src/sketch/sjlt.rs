use super::Sketch;
use super::scatter::{Coordinates, MAX_DIM_OUT, SjltEntries, Span, TILE, scatter, scatter_transpose};
use crate::error::{Error, check_shape};
use crate::linop::{Adjoint, LinOp, check_apply};
use crate::random::Stream;
use crate::scalar::Real;
use crate::view::{MatMut, MatRef};

/// The sparse Johnson-Lindenstrauss transform, without a table: each of `p` coordinates goes, with a random sign, to
/// `s` of `k` buckets.
///
/// $$(S x)_j = \frac{1}{\sqrt s} \sum_i \sum_r \[h(i, r) = j\]\\, \sigma(i, r)\\, x_i, \qquad
///   (S^T y)_i = \frac{1}{\sqrt s} \sum_r \sigma(i, r)\\, y_{h(i, r)}.$$
///
/// # The draws
/// Slot `r` of coordinate `i` has the word `w` = element `i mod 4` of
/// [`stream.words(i / 4, r)`](Stream::words): one Philox block for four neighbours. With the boundaries
/// `b_r = floor(r k / s)` its bucket is `b_r + floor(w (b_(r+1) - b_r) / 2^32)`, and its sign is minus where the
/// lowest bit of `w` is set. The slots of a coordinate are so in different buckets, and every column of `S` has
/// norm 1. All of it is 32-bit arithmetic (see [`bucket`](crate::random::bucket) where a high word is missing), for
/// any `p` up to `2^40` and beyond.
///
/// # Moments
/// $E \langle S x, S y \rangle = \langle x, y \rangle$, and for independent coordinates
/// $\mathrm{Var} \langle S x, S y \rangle \le \frac1k (|x|^2 |y|^2 + \langle x, y \rangle^2 - 2 \sum_i x_i^2 y_i^2)$,
/// with equality for `s = 1` up to the `2^-32` of [`bucket`](crate::random::bucket). More slots thin out the tails, not the variance.
///
/// # The sum
/// A bucket adds its coordinates to one accumulator in ascending order, starting from 0; at the end there is one
/// multiplication by `1 / sqrt(s)`. This is the definition, not an implementation: [`SjltTable`](super::SjltTable),
/// [`SjltBuckets`](super::SjltBuckets), pieces of a vector ([`accumulate`](Sjlt::accumulate)), sparse rows and any
/// number of rows give the same bits. An element that sums `m` coordinates is off by at most
/// `(m + 2) u / sqrt(s) sum |x_i|` with the unit roundoff `u` of `T`, to first order.
///
/// Cost for `n` rows: `n p s` additions, and `p s / 4` Philox blocks for each 8 rows. Bytes: the input and the
/// output once. Scratch: `8 k` from 8 rows on, `4 k` from 4 on, else none.
///
/// # Errors
/// [`Error::Parameter`] from [`Sjlt::new`] unless `1 <= s <= k < 2^31`.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, linop::apply_alloc, random::Stream, sketch::Sjlt};
/// let sjlt = Sjlt::new(1000, 16, 2, Stream::new(0, "layer 3"))?;
/// let mut unit = [0.0; 1000];
/// unit[123] = 1.0;
/// let y = apply_alloc(&sjlt, MatRef::from_row(&unit))?;
/// assert_eq!(y.iter().filter(|y| **y != 0.0).count(), 2);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
///
/// # References
/// Kane and Nelson, "Sparser Johnson-Lindenstrauss transforms", arXiv:1012.1577, section 3 (the block construction);
/// for gradients, Hu et al., arXiv:2505.18976. The reference code draws the slots with replacement, so that for `s > 1`
/// columns have random norms and can even cancel; its tables can be given to [`SjltTable`](super::SjltTable).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sjlt {
    dim_in: usize,
    dim_out: usize,
    slots: usize,
    stream: Stream,
}

/// Where a slot of a coordinate goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SjltEntry {
    /// The bucket.
    pub bucket: usize,
    /// Whether the sign is minus.
    pub negative: bool,
}

impl Sjlt {
    /// From `dim_in` coordinates to `dim_out` buckets, `slots` for each coordinate.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `1 <= slots <= dim_out < 2^31`.
    pub fn new(dim_in: usize, dim_out: usize, slots: usize, stream: Stream) -> Result<Self, Error> {
        check_dim_out(dim_out)?;
        if slots == 0 || slots > dim_out {
            let must_be = "from 1 to the number of buckets";
            return Err(Error::Parameter { what: "slots of a coordinate", value: slots as f64, must_be });
        }
        Ok(Self { dim_in, dim_out, slots, stream })
    }

    /// The number of buckets that a coordinate goes to.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// The stream that the entries are drawn from.
    pub fn stream(&self) -> Stream {
        self.stream
    }

    /// Where `slot` of `coordinate` goes. Cost: one Philox block.
    ///
    /// # Errors
    /// [`Error::Index`] when there is no such coordinate or slot.
    pub fn entry(&self, coordinate: usize, slot: usize) -> Result<SjltEntry, Error> {
        check_index("coordinate", coordinate, self.dim_in)?;
        check_index("slot", slot, self.slots)?;
        let word = self.stream.words(coordinate as u64 / 4, slot as u32)[coordinate % 4];
        let entry = self.span(slot).entry(word);
        Ok(SjltEntry { bucket: entry.bucket(), negative: entry.is_negative() })
    }

    /// Adds the coordinates `first..first + x.cols()` of vectors that arrive in pieces: layer by layer, or blocks of
    /// a storage format that were widened to `T`.
    ///
    /// With `out` `[rows, k]` zero at first, pieces in ascending order and [`finish`](Self::finish) at the end, the
    /// bits are those of [`LinOp::apply`] on the whole vectors. Scratch: as for [`LinOp::apply`].
    ///
    /// # Errors
    /// [`Error::Index`] when the piece reaches beyond `dim_in`; otherwise as [`LinOp::apply`].
    ///
    /// # Examples
    /// ```
    /// use ascribe_core::{MatMut, MatRef, linop::apply_alloc, random::Stream, sketch::Sjlt};
    /// let sjlt = Sjlt::new(6, 4, 1, Stream::new(0, "pieces"))?;
    /// let x = [0.1_f32, 0.2, 0.3, 0.4, 0.5, 0.6];
    /// let mut y = [0.0; 4];
    /// sjlt.accumulate(MatMut::from_row(&mut y), MatRef::from_row(&x[..5]), 0, &mut [])?;
    /// sjlt.accumulate(MatMut::from_row(&mut y), MatRef::from_row(&x[5..]), 5, &mut [])?;
    /// sjlt.finish(MatMut::from_row(&mut y));
    /// assert_eq!(y.to_vec(), apply_alloc(&sjlt, MatRef::from_row(&x))?);
    /// # Ok::<(), ascribe_core::Error>(())
    /// ```
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

    /// Multiplies sums by `1 / sqrt(s)`: the end of [`accumulate`](Self::accumulate).
    pub fn finish<T: Real>(&self, out: MatMut<'_, T>) {
        finish(out, self);
    }

    /// Sets `out` to the sketch of one row given by its nonzero elements, `indices` ascending; the bits are those of
    /// the dense row. Cost: `s` additions and Philox blocks for each element.
    ///
    /// # Errors
    /// [`Error::Shape`] when a length does not fit; [`Error::Index`] for an index `>= dim_in`;
    /// [`Error::Duplicate`] or [`Error::Parameter`] when the indices do not ascend strictly.
    pub fn apply_sparse<T: Real>(&self, out: &mut [T], indices: &[usize], values: &[T]) -> Result<(), Error> {
        check_sparse(self, out, indices, values)?;
        out.fill(T::ZERO);
        for (&index, &value) in indices.iter().zip(values) {
            for slot in 0..self.slots {
                let word = self.stream.words(index as u64 / 4, slot as u32)[index % 4];
                self.span(slot).entry(word).add(out, value);
            }
        }
        finish(MatMut::from_row(out), self);
        Ok(())
    }

    /// The rows that `slot` draws from.
    #[inline(always)]
    fn span(&self, slot: usize) -> Span {
        // Below 2^62, since both factors are below 2^31.
        let boundary = |r: u64| (r * self.dim_out as u64 / self.slots as u64) as u32;
        let start = boundary(slot as u64);
        Span { start, len: boundary(slot as u64 + 1) - start }
    }
}

impl super::scatter::sealed::Sealed for Sjlt {}

impl SjltEntries for Sjlt {
    fn coordinates(&self) -> usize {
        self.dim_in
    }
    fn buckets(&self) -> usize {
        self.dim_out
    }
    fn slots(&self) -> usize {
        self.slots
    }
    /// Slot by slot: the slots of a coordinate have no bucket in common, so that no sum sees another order.
    #[inline(always)]
    fn visit(&self, first: usize, len: usize, mut f: impl FnMut(&[u32], usize)) {
        let mut entries = [0; TILE];
        let start = first % TILE;
        for slot in 0..self.slots {
            let span = self.span(slot);
            for (entries, block) in entries.as_chunks_mut::<4>().0.iter_mut().zip((first - start) as u64 / 4..) {
                *entries = self.stream.words(block, slot as u32).map(|word| span.entry(word).0);
            }
            f(&entries[start..start + len], 1);
        }
    }
}

impl<T: Real> LinOp<T> for Sjlt {
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

impl<T: Real> Adjoint<T> for Sjlt {
    fn transpose_scratch_len(&self, _: usize) -> usize {
        0
    }
    fn apply_transpose(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, _: &mut [T]) -> Result<(), Error> {
        check_apply(self.dim_out, self.dim_in, &out, &x)?;
        scatter_transpose(out, x, self, norm(self.slots));
        Ok(())
    }
}

impl<T: Real> Sketch<T> for Sjlt {
    fn gain(&self) -> f64 {
        1.0
    }
}

/// `1 / sqrt(s)`.
pub(super) fn norm<T: Real>(slots: usize) -> T {
    T::from_f64(1.0 / crate::Scalar::sqrt(slots as f64))
}

/// The end of a sum in pieces.
pub(super) fn finish<T: Real>(mut out: MatMut<'_, T>, entries: &impl SjltEntries) {
    let norm = norm(entries.slots());
    out.for_each_row(|_, row| crate::reduce::scale(row, norm));
}

pub(super) fn check_dim_out(dim_out: usize) -> Result<(), Error> {
    let must_be = "below 2^31, so that a bucket and a sign fit into 32 bits";
    if dim_out <= MAX_DIM_OUT {
        Ok(())
    } else {
        Err(Error::Parameter { what: "buckets", value: dim_out as f64, must_be })
    }
}

pub(super) fn check_index(what: &'static str, index: usize, len: usize) -> Result<(), Error> {
    if index < len { Ok(()) } else { Err(Error::Index { what, index, len }) }
}

/// A piece of vectors that begins at coordinate `first`.
pub(super) fn check_piece<T>(
    entries: &impl SjltEntries,
    out: &MatMut<'_, T>,
    x: &MatRef<'_, T>,
    first: usize,
) -> Result<(), Error> {
    check_shape("out columns", entries.buckets(), out.cols())?;
    check_shape("out rows", x.rows(), out.rows())?;
    match first.checked_add(x.cols()) {
        Some(end) if end <= entries.coordinates() => Ok(()),
        end => {
            let index = end.unwrap_or(usize::MAX);
            Err(Error::Index { what: "end of the piece", index, len: entries.coordinates() })
        }
    }
}

/// A row given by its elements other than zero.
pub(super) fn check_sparse<T>(
    entries: &impl SjltEntries,
    out: &[T],
    indices: &[usize],
    values: &[T],
) -> Result<(), Error> {
    check_shape("out elements", entries.buckets(), out.len())?;
    check_shape("values", indices.len(), values.len())?;
    super::check_ascending("index", indices, entries.coordinates())
}
