//! Eight bits a number, with one f32 scale a block of neighbours.
//!
//! A row is cut into blocks of `block` numbers, the last of them possibly shorter, and in each
//!
//! $$s = \max_i |x_i| / 127, \qquad q_i = \mathrm{round}(x_i / s), \qquad \hat x_i = s q_i,$$
//!
//! rounded to nearest, ties to even; both divisions and the product are those of f32, so the codes are the same
//! everywhere. A block whose `s` would be zero or below the smallest normal f32 has scale 0 and codes 0.
//!
//! # Error bound
//! With `u = 2^-24`, $|x_i - \hat x_i| \le s (1/2 + 255 u)$: half a step, and what the division and the product
//! round. In a block of scale 0 it is `|x_i|`, at most `127 * 2^-126`. Smaller blocks keep a large number's step away
//! from the others: 64 is a good size, and a whole row is one block with `block = cols`.

use super::{check_finite, largest_magnitude};
use crate::error::{Error, check_shape};

/// Codes lie in `-127..=127`: symmetric, so that the negated row has the negated codes.
const LARGEST_CODE: f32 = 127.0;
/// Added to a number of at most `2^22`, it leaves no room for a fraction: the sum rounds to nearest, ties to even, and
/// the low byte of its bits is the integer in two's complement.
const ROUND: f32 = 12_582_912.0; // 3 * 2^22

/// The number of blocks of a row, `ceil(cols / block)`; 0 when `block` is 0, which [`quantize`] refuses.
#[inline]
pub const fn scales_len(cols: usize, block: usize) -> usize {
    if block == 0 { 0 } else { cols.div_ceil(block) }
}

/// Sets `codes` and `scales` to the code of one row.
///
/// `codes` has the length of `row`, `scales` [`scales_len`] of it. Cost: a division an element and three
/// passes over the row, of which the first looks for what is not finite.
///
/// # Errors
/// [`Error::Parameter`] when `block` is 0, or for a magnitude so near the largest f32 that `127 s` rounds to infinity;
/// [`Error::Shape`] when a length does not fit, [`Error::NonFinite`] for NaN or an infinity; nothing is written then.
///
/// # Examples
/// ```
/// use ascribe_core::quantize::int8_block::{dequantize, quantize, scales_len};
/// let row = [1.27, -0.634, 0.0, 254.0];
/// let (mut codes, mut scales, mut back) = ([0; 4], [0.0; 2], [0.0; 4]);
/// assert_eq!(scales_len(row.len(), 3), scales.len());
/// quantize(&mut codes, &mut scales, &row, 3)?;
/// assert_eq!((codes, scales), ([127, -63, 0, 127], [0.01, 2.0]));
/// dequantize(&mut back, &codes, &scales, 3)?;
/// assert_eq!(back, [1.27, -0.63, 0.0, 254.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
pub fn quantize(codes: &mut [i8], scales: &mut [f32], row: &[f32], block: usize) -> Result<(), Error> {
    check_block(row.len(), codes.len(), scales.len(), block)?;
    check_finite(row)?;
    let largest = f32::from_bits(largest_magnitude(row));
    if (largest / LARGEST_CODE * LARGEST_CODE).is_infinite() {
        let must_be = "a rounding below the largest f32, to come back finite";
        return Err(Error::Parameter { what: "largest magnitude of a row", value: f64::from(largest), must_be });
    }
    for ((codes, scale), x) in codes.chunks_mut(block).zip(scales).zip(row.chunks(block)) {
        *scale = f32::from_bits(largest_magnitude(x)) / LARGEST_CODE;
        if *scale < f32::MIN_POSITIVE {
            *scale = 0.0;
            codes.fill(0);
            continue;
        }
        // A quotient exceeds 127 by two roundings at most: it needs no clamp to round to a code.
        for (code, &x) in codes.iter_mut().zip(x) {
            *code = (x / *scale + ROUND).to_bits() as i8;
        }
    }
    Ok(())
}

/// Sets `out` to the row of these codes and scales, `code * scale`.
///
/// # Errors
/// As [`quantize`], which has no [`Error::NonFinite`] here: a scale is used as it is.
pub fn dequantize(out: &mut [f32], codes: &[i8], scales: &[f32], block: usize) -> Result<(), Error> {
    check_block(out.len(), codes.len(), scales.len(), block)?;
    for ((out, scale), codes) in out.chunks_mut(block).zip(scales).zip(codes.chunks(block)) {
        for (out, &code) in out.iter_mut().zip(codes) {
            *out = f32::from(code) * scale;
        }
    }
    Ok(())
}

fn check_block(row: usize, codes: usize, scales: usize, block: usize) -> Result<(), Error> {
    if block == 0 {
        return Err(Error::Parameter { what: "block", value: 0.0, must_be: "at least 1" });
    }
    check_shape("codes", row, codes)?;
    check_shape("scales", scales_len(row, block), scales)
}
