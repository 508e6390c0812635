//! Rows as they are stored, and sources that hand them out block by block.

use ascribe_core::quantize::half::{bf16_to_f32, f16_to_f32};
use ascribe_core::quantize::{int8_block, one_bit};
use ascribe_core::{MatMut, MatRef};
use pulp::{Arch, Simd, WithSimd};

use crate::Error;
use crate::error::check_shape;

/// A borrowed block of rows in one of the storage formats.
///
/// Nothing is decoded before it is scored, so a block may lie in a memory map.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef};
/// use ascribe_solvers::score::{Int8Rows, StoredRows};
/// let codes = MatRef::new(&[127_i8, -64, 0, 1], 2, 2)?;
/// let scales = MatRef::new(&[0.5_f32, 2.0], 2, 1)?;
/// let rows = StoredRows::Int8(Int8Rows::new(codes, scales, 64)?);
/// let mut out = [0.0; 4];
/// rows.decode(MatMut::new(&mut out, 2, 2)?)?;
/// assert_eq!(out, [63.5, -32.0, 0.0, 2.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub enum StoredRows<'a> {
    /// Numbers as they are.
    F32(MatRef<'a, f32>),
    /// The bits of IEEE binary16 numbers.
    F16(MatRef<'a, u16>),
    /// The upper halves of the bits of `f32` numbers.
    Bf16(MatRef<'a, u16>),
    /// Integers with a scale for each block of a row.
    Int8(Int8Rows<'a>),
    /// Signs with a scale for each row.
    OneBit(OneBitRows<'a>),
}

/// Rows of `code * scale` with one scale for each block of neighbouring columns.
#[derive(Debug, Clone, Copy)]
pub struct Int8Rows<'a> {
    pub(super) codes: MatRef<'a, i8>,
    pub(super) scales: MatRef<'a, f32>,
    pub(super) block: usize,
}

/// Rows of `±scale` with one scale for each row.
///
/// The sign of column `c` is bit `c % 8`, least significant first, of byte `c / 8`: set for `+`.
#[derive(Debug, Clone, Copy)]
pub struct OneBitRows<'a> {
    pub(super) bits: MatRef<'a, u8>,
    pub(super) scales: &'a [f32],
    pub(super) cols: usize,
}

impl<'a> Int8Rows<'a> {
    /// `codes` `[rows, cols]` and `scales` `[rows, ceil(cols / block)]`; the last block of a row may be shorter.
    ///
    /// # Errors
    /// [`Shape`](ascribe_core::Error::Shape) when the scales do not fit,
    /// [`Parameter`](ascribe_core::Error::Parameter) when `block` is 0.
    pub fn new(codes: MatRef<'a, i8>, scales: MatRef<'a, f32>, block: usize) -> Result<Self, ascribe_core::Error> {
        if block == 0 {
            return Err(ascribe_core::Error::Parameter {
                what: "block of int8 rows",
                value: 0.0,
                must_be: "at least 1",
            });
        }
        check_shape("scale rows", codes.rows(), scales.rows())?;
        check_shape("scale columns", codes.cols().div_ceil(block), scales.cols())?;
        Ok(Self { codes, scales, block })
    }
}

impl<'a> OneBitRows<'a> {
    /// `bits` `[rows, ceil(cols / 8)]` and a scale for each row. Bits beyond the last column are not looked at.
    ///
    /// # Errors
    /// [`Shape`](ascribe_core::Error::Shape) when a dimension does not fit.
    pub fn new(bits: MatRef<'a, u8>, scales: &'a [f32], cols: usize) -> Result<Self, ascribe_core::Error> {
        check_shape("bytes of a row of signs", cols.div_ceil(8), bits.cols())?;
        check_shape("scales", bits.rows(), scales.len())?;
        Ok(Self { bits, scales, cols })
    }
}

impl<'a> StoredRows<'a> {
    /// The number of rows.
    pub fn rows(&self) -> usize {
        match self {
            Self::F32(x) => x.rows(),
            Self::F16(bits) | Self::Bf16(bits) => bits.rows(),
            Self::Int8(x) => x.codes.rows(),
            Self::OneBit(x) => x.bits.rows(),
        }
    }

    /// The number of numbers in a row.
    pub fn cols(&self) -> usize {
        match self {
            Self::F32(x) => x.cols(),
            Self::F16(bits) | Self::Bf16(bits) => bits.cols(),
            Self::Int8(x) => x.codes.cols(),
            Self::OneBit(x) => x.cols,
        }
    }

    /// Rows `first..first + rows`.
    ///
    /// # Errors
    /// [`Index`](ascribe_core::Error::Index) when the range is not inside the block.
    pub fn row_range(&self, first: usize, rows: usize) -> Result<StoredRows<'a>, ascribe_core::Error> {
        Ok(match *self {
            Self::F32(x) => Self::F32(x.row_range(first, rows)?),
            Self::F16(bits) => Self::F16(bits.row_range(first, rows)?),
            Self::Bf16(bits) => Self::Bf16(bits.row_range(first, rows)?),
            Self::Int8(Int8Rows { codes, scales, block }) => Self::Int8(Int8Rows {
                codes: codes.row_range(first, rows)?,
                scales: scales.row_range(first, rows)?,
                block,
            }),
            Self::OneBit(OneBitRows { bits, scales, cols }) => {
                let bits = bits.row_range(first, rows)?;
                Self::OneBit(OneBitRows { bits, scales: &scales[first..first + rows], cols })
            }
        })
    }

    /// The numbers that the rows stand for, in memory that grows to their size.
    pub(super) fn decode_into<'s>(&self, decoded: &'s mut Vec<f32>) -> Result<MatRef<'s, f32>, ascribe_core::Error> {
        decoded.resize(self.rows() * self.cols(), 0.0);
        self.decode(MatMut::new(decoded, self.rows(), self.cols())?)?;
        MatRef::new(decoded, self.rows(), self.cols())
    }

    /// Writes the numbers that the rows stand for to `out`, which has the shape of the block.
    ///
    /// Exact for the 16-bit formats, the signs and `f32`; for int8 the product of code and scale is rounded once.
    ///
    /// # Errors
    /// [`Shape`](ascribe_core::Error::Shape) when `out` has another shape.
    pub fn decode(&self, mut out: MatMut<'_, f32>) -> Result<(), ascribe_core::Error> {
        check_shape("decoded rows", self.rows(), out.rows())?;
        check_shape("decoded columns", self.cols(), out.cols())?;
        if self.cols() == 0 {
            return Ok(());
        }
        match *self {
            Self::F32(x) => out.copy_from(x)?,
            Self::F16(bits) => Arch::new().dispatch(Halves { out, bits, decode: f16_to_f32 }),
            Self::Bf16(bits) => Arch::new().dispatch(Halves { out, bits, decode: bf16_to_f32 }),
            Self::Int8(Int8Rows { codes, scales, block }) => {
                each_row(out, |i, out| int8_block::dequantize(out, codes.row(i), scales.row(i), block))?;
            }
            Self::OneBit(OneBitRows { bits, scales, .. }) => {
                each_row(out, |i, out| one_bit::dequantize(out, bits.row(i), scales[i]))?;
            }
        }
        Ok(())
    }
}

/// Decodes in the widest vectors that there are; a closure would be compiled without them.
struct Halves<'s, F> {
    out: MatMut<'s, f32>,
    bits: MatRef<'s, u16>,
    decode: F,
}

impl<F: Fn(u16) -> f32> WithSimd for Halves<'_, F> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) {
        self.out.for_each_row(|i, out| {
            out.iter_mut().zip(self.bits.row(i)).for_each(|(out, &bits)| *out = (self.decode)(bits));
        });
    }
}

/// Calls `f` with each row, until one fails.
fn each_row(
    mut out: MatMut<'_, f32>,
    mut f: impl FnMut(usize, &mut [f32]) -> Result<(), ascribe_core::Error>,
) -> Result<(), ascribe_core::Error> {
    (0..out.rows()).try_for_each(|i| f(i, out.row_mut(i)))
}

/// Rows that are handed out block by block: a matrix in memory, the files of a store.
///
/// # Laws
/// [`RowSource::block`] gives the same rows whenever it is asked, whatever the blocks: row `first + i` of the source
/// is row `i` of the block. Several threads ask at once.
pub trait RowSource: Sync {
    /// The number of rows.
    fn rows(&self) -> usize;

    /// The number of numbers in a row.
    fn cols(&self) -> usize;

    /// The rows from `first` on: at least one and at most `rows`, fewer where a file or a format ends.
    ///
    /// # Errors
    /// What the source cannot give: rows outside of it, a file that cannot be read.
    fn block(&self, first: usize, rows: usize) -> Result<StoredRows<'_>, Error>;

    /// Says that `first..first + rows` will be asked for soon. To fetch them in the background is the use of it; the
    /// range may reach beyond the end.
    fn prefetch(&self, first: usize, rows: usize) {
        let _ = (first, rows);
    }
}

impl RowSource for StoredRows<'_> {
    fn rows(&self) -> usize {
        StoredRows::rows(self)
    }

    fn cols(&self) -> usize {
        StoredRows::cols(self)
    }

    fn block(&self, first: usize, rows: usize) -> Result<StoredRows<'_>, Error> {
        let rows = rows.min(StoredRows::rows(self).saturating_sub(first));
        Ok(self.row_range(first, rows)?)
    }
}

impl RowSource for MatRef<'_, f32> {
    fn rows(&self) -> usize {
        MatRef::rows(self)
    }

    fn cols(&self) -> usize {
        MatRef::cols(self)
    }

    fn block(&self, first: usize, rows: usize) -> Result<StoredRows<'_>, Error> {
        StoredRows::F32(*self).row_range(first, rows.min(MatRef::rows(self).saturating_sub(first))).map_err(Error::from)
    }
}
