//! Activation functions with their first two derivatives.

use core::fmt;
use core::str::FromStr;

use ascribe_core::{Real, Scalar};

use crate::Error;

/// A function applied to every pre-activation of a hidden layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x`.
    Identity,
    /// `max(x, 0)`, with derivative 0 at `x = 0` and second derivative 0 everywhere.
    Relu,
    /// `tanh x`.
    Tanh,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `x Phi(x)` with the exact normal distribution function.
    Gelu,
    /// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
    GeluTanh,
    /// `x / (1 + e^-x)`, also called swish.
    Silu,
    /// `ln(1 + e^x)`.
    Softplus,
}

impl FromStr for Activation {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self, Error> {
        let found = Self::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|&(_, activation)| activation).ok_or(Error::Name {
            expected: "an activation: identity, relu, tanh, sigmoid, gelu, gelu_tanh, silu or softplus",
        })
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(_, activation)| activation == self).map_or("", |&(name, _)| name);
        f.write_str(name)
    }
}

/// `1 / (1 + e^-x)` without overflow, accurate where it is small.
pub(crate) fn sigmoid<S: Scalar>(x: S) -> S {
    if x > S::ZERO {
        S::ONE / (S::ONE + (-x).exp())
    } else {
        let e = x.exp();
        e / (S::ONE + e)
    }
}

/// `ln(1 + e^x)` without overflow.
pub(crate) fn softplus<S: Scalar>(x: S) -> S {
    if x > S::ZERO { x + (-x).exp().ln_1p() } else { x.exp().ln_1p() }
}

const SQRT_HALF: f64 = core::f64::consts::FRAC_1_SQRT_2;
/// `1 / sqrt(2 pi)`: the normal density at 0.
const NORMAL_PEAK: f64 = 0.398_942_280_401_432_7;
/// `sqrt(2 / pi)`.
const SQRT_TWO_OVER_PI: f64 = 0.797_884_560_802_865_4;
const GELU_CUBIC: f64 = 0.044_715;

impl Activation {
    /// Every activation with its name, which `FromStr` reads and `Display` writes.
    pub const NAMES: [(&str, Self); 8] = [
        ("identity", Self::Identity),
        ("relu", Self::Relu),
        ("tanh", Self::Tanh),
        ("sigmoid", Self::Sigmoid),
        ("gelu", Self::Gelu),
        ("gelu_tanh", Self::GeluTanh),
        ("silu", Self::Silu),
        ("softplus", Self::Softplus),
    ];

    /// The function, over any [`Scalar`]: evaluate it at a dual number for exact derivatives.
    pub fn value<S: Scalar>(self, x: S) -> S {
        let c = S::from_f64;
        match self {
            Self::Identity => x,
            Self::Relu => {
                if x > S::ZERO {
                    x
                } else {
                    S::ZERO
                }
            }
            Self::Tanh => x.tanh(),
            Self::Sigmoid => sigmoid(x),
            Self::Gelu => c(0.5) * x * (S::ONE + (x * c(SQRT_HALF)).erf()),
            Self::GeluTanh => {
                let inner = c(SQRT_TWO_OVER_PI) * (x + c(GELU_CUBIC) * x * x * x);
                c(0.5) * x * (S::ONE + inner.tanh())
            }
            Self::Silu => x * sigmoid(x),
            Self::Softplus => softplus(x),
        }
    }

    /// Value, first and second derivative at `x`.
    pub fn derivatives<T: Real>(self, x: T) -> (T, T, T) {
        let c = T::from_f64;
        match self {
            Self::Identity => (x, T::ONE, T::ZERO),
            Self::Relu => {
                if x > T::ZERO {
                    (x, T::ONE, T::ZERO)
                } else {
                    (T::ZERO, T::ZERO, T::ZERO)
                }
            }
            Self::Tanh => {
                let t = x.tanh();
                let slope = (T::ONE - t) * (T::ONE + t);
                (t, slope, c(-2.0) * t * slope)
            }
            Self::Sigmoid => {
                let (s, slope) = sigmoid_slope(x);
                (s, slope, slope * (sigmoid(-x) - s))
            }
            Self::Gelu => {
                let distribution = c(0.5) * (T::ONE + (x * c(SQRT_HALF)).erf());
                let density = c(NORMAL_PEAK) * (c(-0.5) * x * x).exp();
                // The square of a huge x is infinite, and 0 * infinity is not the 0 that is meant.
                let second = if density == T::ZERO { T::ZERO } else { density * (c(2.0) - x * x) };
                (x * distribution, distribution + x * density, second)
            }
            Self::GeluTanh => {
                let square = x * x;
                let tanh = (c(SQRT_TWO_OVER_PI) * (x + c(GELU_CUBIC) * square * x)).tanh();
                let sech2 = (T::ONE - tanh) * (T::ONE + tanh);
                if sech2 == T::ZERO {
                    // Saturated: the polynomials beside it may be infinite.
                    let step = c(0.5) * (T::ONE + tanh);
                    return (step * x, step, T::ZERO);
                }
                let inner = c(SQRT_TWO_OVER_PI) * (T::ONE + c(3.0 * GELU_CUBIC) * square);
                let bend = c(SQRT_TWO_OVER_PI * 6.0 * GELU_CUBIC) * x;
                let slope = c(0.5) * (T::ONE + tanh + x * sech2 * inner);
                let second = sech2 * (inner + x * (c(0.5) * bend - tanh * inner * inner));
                (c(0.5) * x * (T::ONE + tanh), slope, second)
            }
            Self::Silu => {
                let (s, slope) = sigmoid_slope(x);
                let second = slope * (c(2.0) + x * (sigmoid(-x) - s));
                (x * s, s + x * slope, second)
            }
            Self::Softplus => {
                let (s, slope) = sigmoid_slope(x);
                (softplus(x), s, slope)
            }
        }
    }

    /// Whether the second derivative is zero everywhere, so that no product needs it.
    pub fn is_piecewise_linear(self) -> bool {
        matches!(self, Self::Identity | Self::Relu)
    }
}

/// The logistic function and its derivative `s(x) s(-x)`, both accurate for large `|x|`.
fn sigmoid_slope<T: Real>(x: T) -> (T, T) {
    let s = sigmoid(x);
    (s, s * sigmoid(-x))
}
