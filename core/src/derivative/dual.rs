//! Dual numbers: a value with exact directional derivatives, by evaluating the formula itself.

use crate::scalar::Scalar;
use core::cmp::Ordering;
use core::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};

/// A value and its derivatives along `N` directions: $a + \sum_i a_i \varepsilon_i$ with $\varepsilon_i
/// \varepsilon_j = 0$.
///
/// A formula written over [`Scalar`] and evaluated at dual numbers gives, in the tangents, its exact directional
/// derivatives (to rounding; nothing is truncated). Over `Dual` itself it gives second derivatives: the tangent of
/// the tangent of a loss at `Dual<Dual<T>>` is $u^T H v$, from forward evaluation alone.
///
/// Comparisons look at the values only, so a branch is differentiated as the value takes it: the derivative of
/// `abs` at 0 is 0. `sqrt` has the tangent $a_i / (2 \sqrt a)$: at 0 it is infinite, or NaN where $a_i = 0$. `tanh`
/// has $(1 - t)(1 + t) a_i$ and with it the absolute error of `t`: where `tanh` saturates the derivative is 0.
///
/// Cost: an operation costs its own and, for each tangent, at most two multiplications and an addition.
///
/// # Examples
/// ```
/// use ascribe_core::{Scalar, derivative::Dual};
/// fn f<S: Scalar>(x: S, y: S) -> S { x * x * y }
/// let (x, y) = (Dual::<f64, 2>::variable(3.0, 0), Dual::variable(5.0, 1));
/// let z = f(x, y);
/// assert_eq!((z.value, z.tangents), (45.0, [30.0, 9.0]));
/// ```
///
/// # References
/// Fike and Alonso 2011, doi:10.2514/6.2011-886, for second derivatives by nesting (there "hyper-dual").
#[derive(Debug, Clone, Copy)]
pub struct Dual<S, const N: usize = 1> {
    /// The value.
    pub value: S,
    /// The derivative along each direction.
    pub tangents: [S; N],
}

impl<S: Scalar, const N: usize> Dual<S, N> {
    /// A constant: every tangent is zero.
    #[inline]
    pub fn constant(value: S) -> Self {
        Self { value, tangents: [S::ZERO; N] }
    }

    /// The variable of direction `i`: its tangent `i` is one. With `i >= N`, a constant.
    #[inline]
    pub fn variable(value: S, i: usize) -> Self {
        let mut x = Self::constant(value);
        if let Some(tangent) = x.tangents.get_mut(i) {
            *tangent = S::ONE;
        }
        x
    }

    /// `f(x)`, given its value and its derivative there.
    #[inline]
    fn chain(self, value: S, derivative: S) -> Self {
        Self { value, tangents: self.tangents.map(|t| derivative * t) }
    }

    #[inline]
    fn zip(self, other: Self, value: S, f: impl Fn(S, S) -> S) -> Self {
        Self { value, tangents: core::array::from_fn(|i| f(self.tangents[i], other.tangents[i])) }
    }
}

impl<S: PartialEq, const N: usize> PartialEq for Dual<S, N> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<S: PartialOrd, const N: usize> PartialOrd for Dual<S, N> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.value.partial_cmp(&other.value)
    }
}

impl<S: Scalar, const N: usize> Add for Dual<S, N> {
    type Output = Self;
    #[inline]
    fn add(self, other: Self) -> Self {
        self.zip(other, self.value + other.value, |a, b| a + b)
    }
}

impl<S: Scalar, const N: usize> Sub for Dual<S, N> {
    type Output = Self;
    #[inline]
    fn sub(self, other: Self) -> Self {
        self.zip(other, self.value - other.value, |a, b| a - b)
    }
}

impl<S: Scalar, const N: usize> Mul for Dual<S, N> {
    type Output = Self;
    #[inline]
    #[expect(clippy::suspicious_arithmetic_impl, reason = "the product rule adds")]
    fn mul(self, other: Self) -> Self {
        self.zip(other, self.value * other.value, |a, b| a * other.value + self.value * b)
    }
}

impl<S: Scalar, const N: usize> Div for Dual<S, N> {
    type Output = Self;
    #[inline]
    #[expect(clippy::suspicious_arithmetic_impl, reason = "the quotient rule subtracts and multiplies")]
    fn div(self, other: Self) -> Self {
        let quotient = self.value / other.value;
        self.zip(other, quotient, |a, b| (a - quotient * b) / other.value)
    }
}

impl<S: Scalar, const N: usize> Neg for Dual<S, N> {
    type Output = Self;
    #[inline]
    fn neg(self) -> Self {
        Self { value: -self.value, tangents: self.tangents.map(|t| -t) }
    }
}

impl<S: Scalar, const N: usize> AddAssign for Dual<S, N> {
    #[inline]
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl<S: Scalar, const N: usize> SubAssign for Dual<S, N> {
    #[inline]
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl<S: Scalar, const N: usize> MulAssign for Dual<S, N> {
    #[inline]
    fn mul_assign(&mut self, other: Self) {
        *self = *self * other;
    }
}

impl<S: Scalar, const N: usize> DivAssign for Dual<S, N> {
    #[inline]
    fn div_assign(&mut self, other: Self) {
        *self = *self / other;
    }
}

impl<S: Scalar, const N: usize> Scalar for Dual<S, N> {
    const ZERO: Self = Self { value: S::ZERO, tangents: [S::ZERO; N] };
    const ONE: Self = Self { value: S::ONE, tangents: [S::ZERO; N] };

    #[inline]
    fn from_f64(x: f64) -> Self {
        Self::constant(S::from_f64(x))
    }
    #[inline]
    fn to_f64(self) -> f64 {
        self.value.to_f64()
    }
    #[inline]
    fn abs(self) -> Self {
        // The sign as a constant, whatever the tangents of the value: 0 at 0, NaN at NaN.
        let value = self.value.to_f64();
        let sign = if value > 0.0 {
            1.0
        } else if value < 0.0 {
            -1.0
        } else {
            value
        };
        self.chain(self.value.abs(), S::from_f64(sign))
    }
    #[inline]
    fn sqrt(self) -> Self {
        let root = self.value.sqrt();
        self.chain(root, S::ONE / (root + root))
    }
    #[cfg(feature = "libm")]
    #[inline]
    fn exp(self) -> Self {
        let exp = self.value.exp();
        self.chain(exp, exp)
    }
    #[cfg(feature = "libm")]
    #[inline]
    fn exp_m1(self) -> Self {
        self.chain(self.value.exp_m1(), self.value.exp())
    }
    #[cfg(feature = "libm")]
    #[inline]
    fn ln(self) -> Self {
        self.chain(self.value.ln(), S::ONE / self.value)
    }
    #[cfg(feature = "libm")]
    #[inline]
    fn ln_1p(self) -> Self {
        self.chain(self.value.ln_1p(), S::ONE / (S::ONE + self.value))
    }
    #[cfg(feature = "libm")]
    #[inline]
    fn sin(self) -> Self {
        self.chain(self.value.sin(), self.value.cos())
    }
    #[cfg(feature = "libm")]
    #[inline]
    fn cos(self) -> Self {
        self.chain(self.value.cos(), -self.value.sin())
    }
    #[cfg(feature = "libm")]
    #[inline]
    fn tanh(self) -> Self {
        let tanh = self.value.tanh();
        self.chain(tanh, (S::ONE - tanh) * (S::ONE + tanh))
    }
    #[cfg(feature = "libm")]
    #[inline]
    fn erf(self) -> Self {
        let two_over_sqrt_pi = S::from_f64(core::f64::consts::FRAC_2_SQRT_PI);
        self.chain(self.value.erf(), two_over_sqrt_pi * (-self.value * self.value).exp())
    }
    #[inline]
    fn is_finite(self) -> bool {
        self.value.is_finite() && self.tangents.iter().all(|t| t.is_finite())
    }
}
