//! The two formats of 16 bits: IEEE binary16 (`f16`) and bfloat16.
//!
//! Both round to nearest, ties to even, and keep subnormal numbers, the sign of zero, infinities, and NaN (quiet, with
//! the upper bits of its payload). Beyond the largest number they round to infinity, unless saturated.
//!
//! | | significand | smallest normal | smallest subnormal | largest |
//! |---|---|---|---|---|
//! | f16 | 11 bits | `2^-14` = 6.1e-5 | `2^-24` = 6.0e-8 | 65504 |
//! | bf16 | 8 bits | `2^-126` = 1.2e-38 | `2^-133` = 9.2e-41 | 3.39e38 |
//!
//! A normal number comes back within `2^-11` (f16) or `2^-8` (bf16) of itself, relatively; one below the smallest
//! normal within half of the smallest subnormal. Rounding is monotone, and encoding what was decoded gives its bits
//! back. Gradients of averaged losses are often below 6e-8, where f16 keeps nothing: scale them up first, or use bf16.
//!
//! Conversions are integer arithmetic on the bits: the same on every platform, without instructions for half
//! precision.

use crate::error::{Error, check_shape};

/// The largest finite f16.
pub const F16_MAX: f32 = 65504.0;
/// The largest finite bf16, `0x7F7F`.
pub const BF16_MAX: f32 = f32::from_bits(0x7F7F_0000);

const INFINITY: u32 = f32::INFINITY.to_bits();

/// The nearest f16, as its bits.
///
/// ```
/// use ascribe_core::quantize::half::{f16_from_f32, f16_to_f32};
/// assert_eq!(f16_from_f32(1.0), 0x3C00);
/// assert_eq!(f16_to_f32(f16_from_f32(0.1)), 0.099_975_586);
/// assert_eq!(f16_from_f32(65520.0), f16_from_f32(f32::INFINITY));
/// ```
#[inline]
#[must_use]
pub const fn f16_from_f32(x: f32) -> u16 {
    let bits = x.to_bits();
    let magnitude = bits & super::MAGNITUDE;
    let half = if magnitude > INFINITY {
        0x7E00 | (magnitude >> 13) & 0x3FF
    } else if magnitude >= 0x477F_F000 {
        // 65520, half way to the number after the largest: it would be even.
        0x7C00
    } else if magnitude >= 0x3880_0000 {
        // Normal: the exponent's bias falls from 127 to 15, and a carry out of the fraction raises the exponent.
        (magnitude + 0xFFF + ((magnitude >> 13) & 1) - (112 << 23)) >> 13
    } else {
        // Subnormal: numbers from 0.5 on are 2^-24 apart, as the results are, so the addition rounds.
        (f32::from_bits(magnitude) + 0.5).to_bits() - 0.5_f32.to_bits()
    };
    (bits >> 16 & 0x8000 | half) as u16
}

/// The value of an f16, exactly.
#[inline]
#[must_use]
pub const fn f16_to_f32(bits: u16) -> f32 {
    let bits = bits as u32;
    let (exponent, fraction) = (bits & 0x7C00, bits & 0x3FF);
    let magnitude = if exponent == 0x7C00 {
        INFINITY | fraction << 13
    } else if exponent == 0 {
        (fraction as f32 * (1.0 / (1 << 24) as f32)).to_bits()
    } else {
        ((exponent | fraction) << 13) + (112 << 23)
    };
    f32::from_bits((bits & 0x8000) << 16 | magnitude)
}

/// The nearest bf16, as its bits.
///
/// ```
/// use ascribe_core::quantize::half::{bf16_from_f32, bf16_to_f32};
/// assert_eq!(bf16_from_f32(-1.0), 0xBF80);
/// assert_eq!(bf16_to_f32(bf16_from_f32(0.1)), 0.100_097_656);
/// ```
#[inline]
#[must_use]
pub const fn bf16_from_f32(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = if bits & super::MAGNITUDE > INFINITY { bits | 0x40 << 16 } else { bits + 0x7FFF + (bits >> 16 & 1) };
    (rounded >> 16) as u16
}

/// The value of a bf16, exactly.
#[inline]
#[must_use]
pub const fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits((bits as u32) << 16)
}

/// Sets each element of `out` to the nearest f16; `saturate` clamps to ±[`F16_MAX`] first, infinities included.
///
/// # Errors
/// [`Error::Shape`] when the lengths differ.
///
/// # Examples
/// ```
/// use ascribe_core::quantize::half::{decode_f16, encode_f16};
/// let (mut bits, mut back) = ([0; 3], [0.0; 3]);
/// encode_f16(&mut bits, &[0.5, -1e6, 1e-8], true)?;
/// decode_f16(&mut back, &bits)?;
/// assert_eq!(back, [0.5, -65504.0, 0.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
pub fn encode_f16(out: &mut [u16], x: &[f32], saturate: bool) -> Result<(), Error> {
    let limit = if saturate { F16_MAX } else { f32::INFINITY };
    convert(out, x, |x| f16_from_f32(x.clamp(-limit, limit)))
}

/// Sets each element of `out` to the value of an f16.
///
/// # Errors
/// [`Error::Shape`] when the lengths differ.
pub fn decode_f16(out: &mut [f32], bits: &[u16]) -> Result<(), Error> {
    convert(out, bits, f16_to_f32)
}

/// Sets each element of `out` to the nearest bf16; `saturate` clamps to ±[`BF16_MAX`] first, infinities included.
///
/// # Errors
/// [`Error::Shape`] when the lengths differ.
pub fn encode_bf16(out: &mut [u16], x: &[f32], saturate: bool) -> Result<(), Error> {
    let limit = if saturate { BF16_MAX } else { f32::INFINITY };
    convert(out, x, |x| bf16_from_f32(x.clamp(-limit, limit)))
}

/// Sets each element of `out` to the value of a bf16.
///
/// # Errors
/// [`Error::Shape`] when the lengths differ.
pub fn decode_bf16(out: &mut [f32], bits: &[u16]) -> Result<(), Error> {
    convert(out, bits, bf16_to_f32)
}

#[inline]
fn convert<A: Copy, B>(out: &mut [B], x: &[A], f: impl Fn(A) -> B) -> Result<(), Error> {
    check_shape("elements of out", x.len(), out.len())?;
    for (out, &x) in out.iter_mut().zip(x) {
        *out = f(x);
    }
    Ok(())
}
