//! One bit a number: its sign, and one f32 scale a row.
//!
//! Bit `c mod 8` of byte `c / 8`, the least significant first, is 1 when `x_c >= 0` (both zeros included), and bits
//! after the last coordinate are 0. With `a` = the mean of the row's absolute values,
//!
//! $$\hat x_c = \pm a, \qquad \|x - \hat x\|^2 = \|x\|^2 - d a^2,$$
//!
//! the smallest distance that any scale reaches. An element may be off by as much as the row's largest entry, so this
//! is for rows whose coordinates are alike: gradients in an eigenbasis of the curvature, each divided by the root of
//! its eigenvalue and a damping. There the ranks of scores survive; on plain projected gradients they do not.
//!
//! # References
//! Mean absolute value as the best scale of a sign: Rastegari et al., "XNOR-Net", arXiv 1603.05279, section 3.1.

use super::{LANES, check_finite};
use crate::error::{Error, check_shape};

/// The bytes of a row's bits, `ceil(cols / 8)`; its scale takes 4 more.
#[inline]
pub const fn packed_len(cols: usize) -> usize {
    cols.div_ceil(8)
}

/// Sets `bits` ([`packed_len`] bytes) to the signs of one row and returns its scale, 0 for a row without elements.
///
/// The absolute values are added in f64, so the scale is the mean to within `2^-24 + d 2^-53`, relatively, and cannot
/// overflow. Cost: an addition and a comparison an element, two passes over the row.
///
/// # Errors
/// [`Error::Shape`] when the length of `bits` does not fit, [`Error::NonFinite`] for NaN or an infinity; nothing is
/// written then.
///
/// # Examples
/// ```
/// use ascribe_core::quantize::one_bit::{dequantize, quantize};
/// let (mut bits, mut back) = ([0], [0.0; 4]);
/// let scale = quantize(&mut bits, &[1.0, -2.0, 0.0, 5.0])?;
/// assert_eq!((bits, scale), ([0b1101], 2.0));
/// dequantize(&mut back, &bits, scale)?;
/// assert_eq!(back, [2.0, -2.0, 2.0, 2.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
pub fn quantize(bits: &mut [u8], row: &[f32]) -> Result<f32, Error> {
    check_shape("bytes of bits", packed_len(row.len()), bits.len())?;
    check_finite(row)?;
    for (byte, x) in bits.iter_mut().zip(row.chunks(8)) {
        *byte = x.iter().enumerate().fold(0, |byte, (i, &x)| byte | u8::from(x >= 0.0) << i);
    }
    Ok(if row.is_empty() { 0.0 } else { (sum_abs(row) / row.len() as f64) as f32 })
}

/// Sets each element of `out` to `scale` where its bit is 1 and to `-scale` where it is 0.
///
/// # Errors
/// [`Error::Shape`] when the length of `bits` does not fit.
pub fn dequantize(out: &mut [f32], bits: &[u8], scale: f32) -> Result<(), Error> {
    check_shape("bytes of bits", packed_len(out.len()), bits.len())?;
    for (out, &byte) in out.chunks_mut(8).zip(bits) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = if byte >> i & 1 == 1 { scale } else { -scale };
        }
    }
    Ok(())
}

fn sum_abs(row: &[f32]) -> f64 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for l in 0..LANES {
            lanes[l] += f64::from(chunk[l].abs());
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|x| f64::from(x.abs())).sum::<f64>()
}
