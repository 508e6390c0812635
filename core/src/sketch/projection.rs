//! Dense random matrices that are never stored: entries are made when a product needs them.

use core::fmt::Debug;
use core::marker::PhantomData;

use super::{Sketch, identifier_key};
use crate::error::{Error, check_shape};
use crate::linop::{Adjoint, LinOp, check_apply};
use crate::random::philox4x32;
use crate::reduce;
use crate::scalar::{Real, Scalar};
use crate::view::{MatMut, MatRef};

/// Columns whose entries are made at once, into a buffer on the stack.
const TILE: usize = 1024;
/// Rows of an input that share the entries of a tile: as many as leave their part of the input in the cache.
const GROUP: usize = 64;

/// What the entries of a sketch's matrix are multiplied by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Scale {
    /// `1/sqrt(rows)` of the whole matrix, which keeps inner products in the mean: "jl", for Johnson and Lindenstrauss.
    #[default]
    InvSqrtRows,
    /// Entries of variance 1: an inner product grows by the number of rows.
    None,
}

/// The law of the entries, as a function of a key and of coordinates. Implemented for
/// [`Signs`](super::Signs) and [`Normals`](super::Normals); sealed.
pub trait Entries: Copy + Debug + Default + Send + Sync + 'static + sealed::Sealed {
    /// The entries that one Philox block makes: columns `PER_BLOCK w ..` of row `r` come from the counter
    /// `(w, r, 0, 0)`.
    const PER_BLOCK: usize;
    /// The unscaled entries that these words make, in the first [`Entries::PER_BLOCK`] elements of `out`.
    #[doc(hidden)]
    fn block<T: Real>(out: &mut [T], words: [u32; 4]);
    /// The unscaled entries of block `block` in `width` rows from `row` on, the columns of the matrix as rows of `out`
    /// `[PER_BLOCK, width]`: what a kernel reads whose lanes are rows of the sketch.
    #[doc(hidden)]
    #[inline(always)] // so that it is compiled for the processor that the kernel was chosen for
    fn panel<T: Real>(out: &mut [T], width: usize, key: [u32; 2], row: u32, block: u32) {
        let mut entries = [T::ZERO; LARGEST_BLOCK];
        for j in 0..width {
            Self::block(&mut entries, philox4x32([block, row.wrapping_add(j as u32), 0, 0], key));
            for (out, &entry) in out.chunks_exact_mut(width).zip(&entries[..Self::PER_BLOCK]) {
                out[j] = entry;
            }
        }
    }
}

pub(super) mod sealed {
    pub trait Sealed {}
}

/// A dense random matrix `A`, `rows x cols`, named by a Philox key.
///
/// $y = A x$ for each row `x`. An entry is a function of the key, its row and its column: it does not depend on the
/// shape of the matrix or on how work is cut, so any block can be made alone, on any device, and matrices of one name
/// agree where they overlap. As a [`Sketch`] it has gain 1 with [`Scale::InvSqrtRows`] and `rows` with
/// [`Scale::None`]; for unit vectors the inner product of two sketches then has variance at most `2 / rows`.
///
/// Use it as [`Rademacher`](super::Rademacher) or `Gaussian` (feature `libm`).
///
/// Cost: `2 rows cols` flops a vector. Entries are made once for 64 vectors, `rows cols / PER_BLOCK` Philox blocks.
/// No scratch. Products are summed as in [`reduce`] over 1024 columns, these sums one after the other: the error of
/// $y_r$ is at most $\gamma_d \sum_c |A_{rc} x_c|$ with `d = depth(1024) + cols / 1024 + 4`, and
/// that of the transpose $\gamma_d \sum_r |A_{rc} y_r|$ with `d = rows + 3`, besides the error of the entries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Projection<E> {
    key: [u32; 2],
    rows: usize,
    cols: usize,
    scale: Scale,
    entries: PhantomData<E>,
}

impl<E: Entries> Projection<E> {
    /// The matrix named by a string; see [`identifier_key`].
    ///
    /// # Errors
    /// As [`Projection::from_key`].
    pub fn new(identifier: &str, rows: usize, cols: usize, scale: Scale) -> Result<Self, Error> {
        Self::from_key(identifier_key(identifier), rows, cols, scale)
    }

    /// The matrix of a Philox key, for example that of a [`Stream`](crate::random::Stream).
    ///
    /// # Errors
    /// [`Error::Parameter`] for more than `2^32` rows or `2^32 PER_BLOCK` columns: the counter has no more.
    pub fn from_key(key: [u32; 2], rows: usize, cols: usize, scale: Scale) -> Result<Self, Error> {
        if rows as u64 > 1 << 32 {
            return Err(Error::Parameter { what: "rows", value: rows as f64, must_be: "at most 2^32" });
        }
        if cols.div_ceil(E::PER_BLOCK) as u64 > 1 << 32 {
            return Err(Error::Parameter { what: "cols", value: cols as f64, must_be: "at most 2^32 Philox blocks" });
        }
        Ok(Self { key, rows, cols, scale, entries: PhantomData })
    }

    /// The Philox key.
    pub fn key(&self) -> [u32; 2] {
        self.key
    }

    /// The number of rows: the length of a sketch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns: the length of a vector.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// What the entries are multiplied by.
    pub fn scale(&self) -> Scale {
        self.scale
    }

    /// The factor that [`Projection::scale`] stands for.
    pub fn factor(&self) -> f64 {
        match self.scale {
            // Without rows there is no entry that an infinite factor could meet.
            Scale::InvSqrtRows => 1.0 / Scalar::sqrt(self.rows as f64),
            Scale::None => 1.0,
        }
    }

    /// Sets `out` to the block of the matrix whose first entry is at (`row0`, `col0`), scaled.
    ///
    /// # Errors
    /// [`Error::Index`] when the block is not inside the matrix.
    pub fn block<T: Real>(&self, mut out: MatMut<'_, T>, row0: usize, col0: usize) -> Result<(), Error> {
        check_inside("rows of the matrix", row0, out.rows(), self.rows)?;
        check_inside("columns of the matrix", col0, out.cols(), self.cols)?;
        let factor = T::from_f64(self.factor());
        if out.cols() > 0 {
            out.for_each_row(|i, row| {
                self.fill(row, row0 + i, col0);
                reduce::scale(row, factor);
            });
        }
        Ok(())
    }

    /// Adds the sketch of a piece of each vector: `out += X A[:, col0 .. col0 + x.cols()]^T`.
    ///
    /// For a parameter vector that arrives layer by layer: zeros, then one call for each layer at its offset, in any
    /// order, add up to the sketch of the whole, but for rounding. `out` is `[x.rows(), rows]`.
    ///
    /// # Errors
    /// [`Error::Shape`] when `out` does not fit, [`Error::Index`] when the columns are not inside the matrix.
    pub fn apply_columns<T: Real>(&self, mut out: MatMut<'_, T>, x: MatRef<'_, T>, col0: usize) -> Result<(), Error> {
        check_shape("out columns", self.rows, out.cols())?;
        check_shape("out rows", x.rows(), out.rows())?;
        check_inside("columns of the matrix", col0, x.cols(), self.cols)?;
        let factor = T::from_f64(self.factor());
        let mut entries = [T::ZERO; TILE];
        for left in (0..x.cols()).step_by(TILE) {
            let entries = &mut entries[..TILE.min(x.cols() - left)];
            for top in (0..x.rows()).step_by(GROUP) {
                for r in 0..self.rows {
                    self.fill(entries, r, col0 + left);
                    for i in top..x.rows().min(top + GROUP) {
                        out.row_mut(i)[r] += factor * reduce::dot(&x.row(i)[left..left + entries.len()], entries)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The unscaled entries of row `row` from column `col` on. The caller has checked that they are inside the matrix.
    fn fill<T: Real>(&self, mut out: &mut [T], row: usize, col: usize) {
        let (mut block, mut skip) = (col / E::PER_BLOCK, col % E::PER_BLOCK);
        while !out.is_empty() {
            let words = philox4x32([block as u32, row as u32, 0, 0], self.key);
            if skip == 0 && out.len() >= E::PER_BLOCK {
                E::block(out, words);
                out = &mut out[E::PER_BLOCK..];
            } else {
                let mut whole = [T::ZERO; LARGEST_BLOCK];
                E::block(&mut whole, words);
                let taken = out.len().min(E::PER_BLOCK - skip);
                let (head, rest) = out.split_at_mut(taken);
                head.copy_from_slice(&whole[skip..skip + taken]);
                (out, skip) = (rest, 0);
            }
            block += 1;
        }
    }
}

/// The most entries that any law makes of a Philox block.
const LARGEST_BLOCK: usize = 128;

impl<T: Real, E: Entries> LinOp<T> for Projection<E> {
    fn dim_in(&self) -> usize {
        self.cols
    }
    fn dim_out(&self) -> usize {
        self.rows
    }
    fn apply(&self, mut out: MatMut<'_, T>, x: MatRef<'_, T>, _scratch: &mut [T]) -> Result<(), Error> {
        check_apply(self.cols, self.rows, &out, &x)?;
        clear(&mut out);
        self.apply_columns(out, x, 0)
    }
}

impl<T: Real, E: Entries> Adjoint<T> for Projection<E> {
    fn apply_transpose(&self, mut out: MatMut<'_, T>, x: MatRef<'_, T>, _scratch: &mut [T]) -> Result<(), Error> {
        check_apply(self.rows, self.cols, &out, &x)?;
        clear(&mut out);
        let factor = T::from_f64(self.factor());
        let mut entries = [T::ZERO; TILE];
        for left in (0..self.cols).step_by(TILE) {
            let entries = &mut entries[..TILE.min(self.cols - left)];
            for top in (0..x.rows()).step_by(GROUP) {
                for r in 0..self.rows {
                    self.fill(entries, r, left);
                    for i in top..x.rows().min(top + GROUP) {
                        let out = &mut out.row_mut(i)[left..left + entries.len()];
                        reduce::axpy(out, factor * x.row(i)[r], entries)?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl<T: Real, E: Entries> Sketch<T> for Projection<E> {
    fn gain(&self) -> f64 {
        match self.scale {
            Scale::InvSqrtRows if self.rows > 0 => 1.0,
            Scale::InvSqrtRows | Scale::None => self.rows as f64,
        }
    }
}

/// Zeros; rows without elements may be as many as there are numbers, and are not walked through.
fn clear<T: Real>(out: &mut MatMut<'_, T>) {
    if out.cols() > 0 {
        out.fill(T::ZERO);
    }
}

fn check_inside(what: &'static str, start: usize, len: usize, of: usize) -> Result<(), Error> {
    match start.checked_add(len) {
        Some(end) if end <= of => Ok(()),
        _ => Err(Error::Index { what, index: start.saturating_add(len), len: of }),
    }
}
