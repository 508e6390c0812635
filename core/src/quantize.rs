//! Storage formats for sketched gradients: fewer bytes a number, with codes that are the same everywhere.
//!
//! Each format encodes a row at a time into slices of the caller and decodes to f32. A format is for storage alone:
//! decode, then compute in f32 or better. Rows of length `d` take
//!
//! | format | bytes a row | error of an element | Gaussian rows | heavy tails |
//! |---|---|---|---|---|
//! | [`half`], f16 | `2 d` | `2^-11 abs(x)` from `2^-14` to 65504 | 2e-5 | safe in range: scale or `saturate` |
//! | [`half`], bf16 | `2 d` | `2^-8 abs(x)` | 2e-4 | safe |
//! | [`int8_block`] | `d + 4 ceil(d / block)` | half of `max abs(x) / 127` of its block | 1e-3 | 1e-2 with blocks of 64, 5e-2 with one block |
//! | [`one_bit`] | `ceil(d / 8) + 4` | at most the row's largest entry | ranks survive, values do not | loses the ranks too |
//!
//! The last two columns are relative errors of inner products of 4096 coordinates, the tails lognormal
//! (`sigma = e^(1.5 z)` a column). An error of int8 or one bit is relative to the largest or the mean coordinate of a
//! block, not to its own: curvature must be divided out first, or the few coordinates of large curvature decide all
//! scales. So one bit is for rows that a square root of the inverse curvature has whitened, int8 in blocks of 64 for
//! anything else, and f16 for what must not change visibly.

pub mod half;
pub mod int8_block;
pub mod one_bit;

use crate::error::Error;

/// Lanes that a pass over a row runs side by side.
const LANES: usize = 16;

/// The bits of an f32 without its sign; their order is that of the absolute values, with NaN above infinity.
const MAGNITUDE: u32 = 0x7FFF_FFFF;

/// The largest absolute value in bits: a maximum of integers, which no NaN escapes and every compiler vectorises.
#[inline]
fn largest_magnitude(row: &[f32]) -> u32 {
    let mut lanes = [0; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for l in 0..LANES {
            lanes[l] = lanes[l].max(chunk[l].to_bits() & MAGNITUDE);
        }
    }
    rest.iter().map(|x| x.to_bits() & MAGNITUDE).chain(lanes).fold(0, u32::max)
}

/// No NaN and no infinity, or the error that says where the first one is.
fn check_finite(row: &[f32]) -> Result<(), Error> {
    if largest_magnitude(row) < f32::INFINITY.to_bits() {
        return Ok(());
    }
    let index = row.iter().take_while(|x| x.is_finite()).count();
    Err(Error::NonFinite { what: "row", index })
}
