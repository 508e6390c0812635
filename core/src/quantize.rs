//! Storage formats for sketched gradients: fewer bytes a number, with codes that are the same everywhere.
//!
//! Each format encodes a row at a time into slices of the caller and decodes to f32. A format is for storage alone:
//! decode, then compute in f32 or better. Rows of length `d` take
//!
//! | format | bytes a row | error of an element | scores, columns alike | scores, columns unlike |
//! |---|---|---|---|---|
//! | [`half`], f16 | `2 d` | `2^-11 abs(x)` from `2^-14` to 65504 | 2e-4 | 2e-4 |
//! | [`half`], bf16 | `2 d` | `2^-8 abs(x)` | 1.7e-3 | 1.6e-3 |
//! | [`int8_block`], 64 | `d + 4 ceil(d / 64)` | half of `max abs(x) / 127` of its block | 6e-3 | 0.33 |
//! | [`int8_block`], `d` | `d + 4` | the same of the row | 8.5e-3 | 0.7 |
//! | [`one_bit`] | `ceil(d / 8) + 4` | as much as the row's largest | 0.6 | 25 |
//!
//! The last two columns are relative root mean square errors of inner products of independent normal rows of 4096
//! coordinates: first as they are, then with columns of sizes `s = e^(1.5 z)` and queries divided by `s`, as queries
//! are that an inverse curvature was applied to. An error of int8 or of one bit is relative to the block's largest or the
//! row's mean coordinate, not to its own, and such queries magnify the small ones. So divide curvature out *before*
//! storing: one bit is for rows whitened by a square root of the inverse curvature, where its errors average out over
//! ranks; int8, in blocks of 64, for those and for rows without strong columns; f16 or bf16 for anything else.

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
