//! The subsampled randomised Hadamard transform.

use alloc::vec::Vec;

use super::projection::Entries;
use super::walsh_hadamard::butterflies;
use super::{Signs, Sketch};
use crate::error::{Error, take_scratch};
use crate::linop::{Adjoint, LinOp, check_apply};
use crate::random::Stream;
use crate::scalar::{Real, Scalar};
use crate::view::{MatMut, MatRef};

/// Signs that are kept together: what one Philox block holds.
const BLOCK: usize = Signs::PER_BLOCK;

/// `S = sqrt(p / k) R H D J`: random signs, a Hadamard transform, and `k` of its coordinates.
///
/// `J` pads a vector of length `m` with zeros to `p`, the least power of two that is at least `m`; `D` multiplies by
/// signs; `H` is [`walsh_hadamard`](super::walsh_hadamard); `R` keeps the listed coordinates, in their order. Over random
/// signs and rows drawn without replacement, $E[S^\top S] = I$; with all `p` rows in order it is an isometry.
///
/// The signs spread a vector over all coordinates, so that few of them tell its length: a dense sketch at
/// the cost `p (log2 p + 2)` flops a vector, whatever `k` is. Scratch: `p` elements. The object holds `m / 8` bytes
/// of signs and `k` indices. The error of an element is at most $\gamma_{3 + \log_2 p}\, k^{-1/2} \sum_i |x_i|$, and of
/// the transpose the same with the sum over $|y_j|$.
///
/// # Examples
/// ```
/// use ascribe_core::random::Stream;
/// use ascribe_core::sketch::Srht;
/// use ascribe_core::{MatRef, linop::apply_alloc};
/// let sketch = Srht::draw(Stream::new(0, "sketch"), 1000, 256)?;
/// let short = apply_alloc(&sketch, MatRef::from_row(&[0.1; 1000]))?;
/// let squared_norm: f64 = short.iter().map(|y| y * y).sum();
/// assert!((squared_norm - 10.0).abs() < 5.0);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
///
/// # References
/// Ailon, Chazelle, "The fast Johnson-Lindenstrauss transform", SIAM J. Comput. 39 (2009); Tropp, "Improved analysis of
/// the subsampled randomized Hadamard transform", arXiv 1011.1595.
#[derive(Debug, Clone, PartialEq)]
pub struct Srht {
    /// Of each coordinate one bit, set for +1, [`BLOCK`] in an element.
    signs: Vec<[u32; 4]>,
    cols: usize,
    padded: usize,
    rows: Vec<usize>,
}

impl Srht {
    /// The transform with these signs, each 1 or -1, and these coordinates of `0..p`, all different.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a sign that is neither; [`Error::Index`] for a row `>= p` and [`Error::Duplicate`] for one
    /// that occurs again; [`Error::Overflow`] when `p` does not fit.
    pub fn new(signs: &[i8], rows: &[usize]) -> Result<Self, Error> {
        let mut sketch = Self::unset(signs.len(), rows.len())?;
        for (words, signs) in sketch.signs.iter_mut().zip(signs.chunks(BLOCK)) {
            for (i, &sign) in signs.iter().enumerate() {
                if sign != 1 && sign != -1 {
                    return Err(Error::Parameter { what: "sign", value: f64::from(sign), must_be: "1 or -1" });
                }
                words[i / 32] |= u32::from(sign == 1) << (i % 32);
            }
        }
        let mut sorted = rows.to_vec();
        sorted.sort_unstable();
        if let Some(&index) = sorted.last().filter(|last| **last >= sketch.padded) {
            return Err(Error::Index { what: "rows", index, len: sketch.padded });
        }
        if let Some(pair) = sorted.array_windows().find(|[a, b]| a == b) {
            return Err(Error::Duplicate { what: "rows", index: pair[0] });
        }
        sketch.rows.copy_from_slice(rows);
        Ok(sketch)
    }

    /// A random transform of vectors of length `cols` to length `rows`.
    ///
    /// The sign of coordinate `c` is bit `c mod 128` of `stream.words(c / 128, 0)`, +1 where it is set: row 0 of the
    /// [`Rademacher`](super::Rademacher) matrix of that key. The rows are a sample without replacement of `stream.draws()`,
    /// ascending.
    ///
    /// # Errors
    /// [`Error::Length`] for more rows than `p`, [`Error::Overflow`] when `p` does not fit or memory is short.
    pub fn draw(stream: Stream, cols: usize, rows: usize) -> Result<Self, Error> {
        let padded = padded(cols)?;
        // Before there is memory for so many.
        if rows > padded {
            return Err(Error::Length { what: "coordinates to draw from", needed: rows, got: padded });
        }
        let mut sketch = Self::unset(cols, rows)?;
        for (block, words) in sketch.signs.iter_mut().enumerate() {
            *words = stream.words(block as u64, 0);
        }
        stream.draws().sample_without_replacement(&mut sketch.rows, padded)?;
        Ok(sketch)
    }

    fn unset(cols: usize, rows: usize) -> Result<Self, Error> {
        let overflow = Error::Overflow { what: "Hadamard transform" };
        let padded = padded(cols)?;
        let mut signs = Vec::new();
        signs.try_reserve_exact(cols.div_ceil(BLOCK)).map_err(|_| overflow)?;
        signs.resize(cols.div_ceil(BLOCK), [0; 4]);
        let mut kept = Vec::new();
        kept.try_reserve_exact(rows).map_err(|_| overflow)?;
        kept.resize(rows, 0);
        Ok(Self { signs, cols, padded, rows: kept })
    }

    /// The length `p` that vectors are padded to.
    pub fn padded(&self) -> usize {
        self.padded
    }

    /// The coordinates that are kept, in the order of the sketch.
    pub fn rows(&self) -> &[usize] {
        &self.rows
    }

    /// The signs: of column `c` bit `c mod 32`, the least significant first, of word `(c mod 128) / 32` of element `c / 128`,
    /// which is set for +1. Behind the last column they are undefined.
    pub fn sign_words(&self) -> &[[u32; 4]] {
        &self.signs
    }

    /// `sqrt(p / k)` and the factor `1 / sqrt(p)` of the transform in one.
    fn factor<T: Real>(&self) -> T {
        T::from_f64(1.0 / Scalar::sqrt(self.rows.len() as f64))
    }

    /// `out = factor D x`, for the coordinates that there are signs for.
    fn flip<T: Real>(&self, out: &mut [T], factor: T, x: &[T]) {
        let mut signs = [T::ZERO; BLOCK];
        for ((out, x), &words) in out.chunks_mut(BLOCK).zip(x.chunks(BLOCK)).zip(&self.signs) {
            Signs::block(&mut signs, words);
            for ((out, &x), &sign) in out.iter_mut().zip(x).zip(&signs) {
                *out = sign * factor * x;
            }
        }
    }
}

/// The power of two that vectors of length `cols` are padded to.
fn padded(cols: usize) -> Result<usize, Error> {
    cols.checked_next_power_of_two().ok_or(Error::Overflow { what: "Hadamard transform" })
}

impl<T: Real> LinOp<T> for Srht {
    fn dim_in(&self) -> usize {
        self.cols
    }
    fn dim_out(&self) -> usize {
        self.rows.len()
    }
    fn scratch_len(&self, _rows: usize) -> usize {
        self.padded
    }
    fn apply(&self, mut out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        check_apply(self.cols, self.rows.len(), &out, &x)?;
        let (space, _) = take_scratch(scratch, self.padded)?;
        let factor = self.factor();
        if self.rows.is_empty() {
            return Ok(());
        }
        out.for_each_row(|i, out| {
            space[self.cols..].fill(T::ZERO);
            self.flip(space, factor, x.row(i));
            butterflies(space);
            for (out, &row) in out.iter_mut().zip(&self.rows) {
                *out = space[row];
            }
        });
        Ok(())
    }
}

impl<T: Real> Adjoint<T> for Srht {
    fn apply_transpose(&self, mut out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        check_apply(self.rows.len(), self.cols, &out, &x)?;
        let (space, _) = take_scratch(scratch, self.padded)?;
        let factor: T = self.factor();
        if self.cols == 0 {
            return Ok(());
        }
        out.for_each_row(|i, out| {
            space.fill(T::ZERO);
            for (&row, &x) in self.rows.iter().zip(x.row(i)) {
                space[row] = factor * x;
            }
            butterflies(space);
            self.flip(out, T::ONE, space);
        });
        Ok(())
    }
}

impl<T: Real> Sketch<T> for Srht {
    fn gain(&self) -> f64 {
        if self.rows.is_empty() { 0.0 } else { 1.0 }
    }
}
