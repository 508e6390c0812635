//! The numbers: [`Scalar`] for formulas that dual numbers can differentiate, [`Real`] for data.

use core::fmt::{Debug, Display};
use core::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};

/// A number that a formula can be written over: `f32`, `f64`, and the dual numbers of
/// [`derivative::dual`](crate::derivative::dual).
///
/// A loss or a gradient that is generic over `Scalar` gets its exact derivatives by being evaluated at
/// dual numbers. Comparisons look at the value alone, never at a tangent.
pub trait Scalar:
    Copy
    + Debug
    + PartialEq
    + PartialOrd
    + Send
    + Sync
    + 'static
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
{
    /// The number 0.
    const ZERO: Self;
    /// The number 1.
    const ONE: Self;
    /// The nearest number to `x`; a constant, so its tangents are zero.
    fn from_f64(x: f64) -> Self;
    /// The value, without tangents.
    fn to_f64(self) -> f64;
    /// Absolute value; its derivative at 0 is 0.
    fn abs(self) -> Self;
    /// Square root, correctly rounded.
    fn sqrt(self) -> Self;
    /// `e^x`.
    #[cfg(feature = "libm")]
    fn exp(self) -> Self;
    /// `e^x - 1`, accurate near 0.
    #[cfg(feature = "libm")]
    fn exp_m1(self) -> Self;
    /// Natural logarithm.
    #[cfg(feature = "libm")]
    fn ln(self) -> Self;
    /// `ln(1 + x)`, accurate near 0.
    #[cfg(feature = "libm")]
    fn ln_1p(self) -> Self;
    /// Sine of an angle in radians.
    #[cfg(feature = "libm")]
    fn sin(self) -> Self;
    /// Cosine of an angle in radians.
    #[cfg(feature = "libm")]
    fn cos(self) -> Self;
    /// Hyperbolic tangent.
    #[cfg(feature = "libm")]
    fn tanh(self) -> Self;
    /// Error function `2/sqrt(pi) * integral of e^(-t^2) from 0 to x`.
    #[cfg(feature = "libm")]
    fn erf(self) -> Self;
    /// Whether the value (and each tangent) is neither NaN nor infinite.
    fn is_finite(self) -> bool;
}

/// A number that data is stored in: `f32` or `f64`. Sealed.
pub trait Real: Scalar + Default + Display + sealed::Sealed {
    /// The distance from 1 to the next number; twice the unit roundoff.
    const EPSILON: Self;
    /// The largest finite number.
    const MAX: Self;
    /// The smallest positive normal number.
    const MIN_POSITIVE: Self;
    /// `"f32"` or `"f64"`.
    const NAME: &'static str;
    /// Whether this is NaN.
    fn is_nan(self) -> bool;
    /// What the slice really holds: the safe way from generic code into a routine that exists for one type.
    fn typed(x: &[Self]) -> Typed<'_>;
    /// As [`Real::typed`], for writing.
    fn typed_mut(x: &mut [Self]) -> TypedMut<'_>;
    /// The slice as `Self`, when it holds that type.
    fn from_typed(x: Typed<'_>) -> Option<&[Self]>;
}

/// A slice of a known type; see [`Real::typed`].
#[derive(Debug, Clone, Copy)]
pub enum Typed<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Double precision.
    F64(&'a [f64]),
}

/// A mutable slice of a known type; see [`Real::typed_mut`].
#[derive(Debug)]
pub enum TypedMut<'a> {
    /// Single precision.
    F32(&'a mut [f32]),
    /// Double precision.
    F64(&'a mut [f64]),
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// Implements both traits for one primitive; the list of names is the routine in `libm` for each method.
macro_rules! real {
    ($t:ident, $variant:ident, $sqrt:path, $($method:ident = $libm:ident),*) => {
        impl Scalar for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            #[inline]
            fn from_f64(x: f64) -> Self {
                x as $t
            }
            #[inline]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            #[inline]
            fn abs(self) -> Self {
                $t::abs(self)
            }
            #[inline]
            fn sqrt(self) -> Self {
                $sqrt(self)
            }
            $(
                #[cfg(feature = "libm")]
                #[inline]
                fn $method(self) -> Self {
                    libm::$libm(self)
                }
            )*
            #[inline]
            fn is_finite(self) -> bool {
                $t::is_finite(self)
            }
        }
        impl Real for $t {
            const EPSILON: Self = $t::EPSILON;
            const MAX: Self = $t::MAX;
            const MIN_POSITIVE: Self = $t::MIN_POSITIVE;
            const NAME: &'static str = stringify!($t);
            #[inline]
            fn is_nan(self) -> bool {
                $t::is_nan(self)
            }
            #[inline]
            fn typed(x: &[Self]) -> Typed<'_> {
                Typed::$variant(x)
            }
            #[inline]
            fn typed_mut(x: &mut [Self]) -> TypedMut<'_> {
                TypedMut::$variant(x)
            }
            #[inline]
            fn from_typed(x: Typed<'_>) -> Option<&[Self]> {
                match x {
                    Typed::$variant(x) => Some(x),
                    #[allow(unreachable_patterns)]
                    _ => None,
                }
            }
        }
    };
}

real!(
    f32,
    F32,
    root::f32,
    exp = expf,
    exp_m1 = expm1f,
    ln = logf,
    ln_1p = log1pf,
    sin = sinf,
    cos = cosf,
    tanh = tanhf,
    erf = erff
);
real!(
    f64,
    F64,
    root::f64,
    exp = exp,
    exp_m1 = expm1,
    ln = log,
    ln_1p = log1p,
    sin = sin,
    cos = cos,
    tanh = tanh,
    erf = erf
);

/// Square roots. All three sources round correctly, so they agree to the last bit.
mod root {
    #[cfg(feature = "std")]
    pub(super) use std_root::*;
    #[cfg(feature = "std")]
    mod std_root {
        #[inline]
        pub(in super::super) fn f32(x: f32) -> f32 {
            x.sqrt()
        }
        #[inline]
        pub(in super::super) fn f64(x: f64) -> f64 {
            x.sqrt()
        }
    }

    #[cfg(all(feature = "libm", not(feature = "std")))]
    pub(super) use libm::{sqrt as f64, sqrtf as f32};

    #[cfg(not(any(feature = "std", feature = "libm")))]
    pub(super) use super::soft_sqrt::{sqrt_f32 as f32, sqrt_f64 as f64};
}

/// Square roots from integer arithmetic, for builds with neither `std` nor `libm`.
#[cfg(any(test, not(any(feature = "std", feature = "libm"))))]
mod soft_sqrt {
    /// The root of the f64 rounds to the root of the f32: 53 >= 2*24 + 2 bits make the double rounding harmless.
    pub(super) fn sqrt_f32(x: f32) -> f32 {
        sqrt_f64(f64::from(x)) as f32
    }

    pub(super) fn sqrt_f64(x: f64) -> f64 {
        if x.is_nan() || x == 0.0 || x == f64::INFINITY {
            return x;
        }
        if x < 0.0 {
            return f64::NAN;
        }
        // x = mantissa * 2^exponent with an even exponent and a mantissa of 106 or 107 bits, so that its integer
        // root has 53 or 54 bits: at least the 53 of the result, the remainder telling which way to round.
        let bits = x.to_bits();
        let raw_exponent = (bits >> 52) as i32;
        let fraction = bits & ((1 << 52) - 1);
        let (mut mantissa, mut exponent) = if raw_exponent == 0 {
            (u128::from(fraction), -1074)
        } else {
            (u128::from(fraction | 1 << 52), raw_exponent - 1075)
        };
        let shift = mantissa.leading_zeros() as i32 - 20;
        mantissa <<= shift;
        exponent -= shift;
        if exponent % 2 != 0 {
            mantissa <<= 1;
            exponent -= 1;
        }
        let root = mantissa.isqrt();
        let inexact = u128::from(root * root != mantissa);
        // 54 or 55 bits with a sticky bit below: the conversion to f64 rounds to nearest, ties to even, once.
        let rounded = ((root << 1) | inexact) as f64;
        // The exponent of the root lies in -538..512, far from overflow: scale by a power of two, exactly.
        rounded * f64::from_bits(((exponent / 2 - 1 + 1023) as u64) << 52)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_sqrt_is_correctly_rounded() {
        let mut word = 0x9E37_79B9_7F4A_7C15_u64;
        for step in 0..200_000_u64 {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(step | 1);
            let x = f64::from_bits(word & !(1 << 63));
            if x.is_nan() {
                continue;
            }
            assert_eq!(soft_sqrt::sqrt_f64(x).to_bits(), libm_or_std_sqrt(x).to_bits(), "{x:e}");
            let y = f32::from_bits(word as u32 & 0x7FFF_FFFF);
            if !y.is_nan() {
                assert_eq!(soft_sqrt::sqrt_f32(y).to_bits(), (libm_or_std_sqrt(f64::from(y)) as f32).to_bits());
            }
        }
        for x in [0.0, -0.0, f64::INFINITY, f64::MIN_POSITIVE, 5e-324, f64::MAX, 4.0, 2.0] {
            assert_eq!(soft_sqrt::sqrt_f64(x).to_bits(), libm_or_std_sqrt(x).to_bits(), "{x:e}");
        }
        assert!(soft_sqrt::sqrt_f64(-1.0).is_nan() && soft_sqrt::sqrt_f64(f64::NAN).is_nan());
    }

    /// Tests are built with std, whose root is the processor's.
    fn libm_or_std_sqrt(x: f64) -> f64 {
        extern crate std;
        f64::sqrt(x)
    }
}
