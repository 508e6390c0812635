//! Sums, products, derivatives.

use ascribe_core::{Real, reduce};

use super::gamma;

/// Error of `reduce::dot` (and of the sums, which round once less): each term is rounded once as a product and in
/// at most `depth(len)` additions. Underflow of the products adds half the smallest subnormal for each.
/// `absolute` is `sum_i |x_i y_i|`.
pub fn reduction<T: Real>(len: usize, absolute: f64) -> f64 {
    let underflow = len as f64 * (T::MIN_POSITIVE.to_f64() * T::EPSILON.to_f64());
    gamma::<T>(reduce::depth(len) + 1) * absolute + underflow
}

/// Relative error of `reduce::norm2`: half that of the sum of squares, the root, and for extreme inputs the
/// division (twice in a square, halved by the root), the product with the largest entry and the squares that
/// underflow beside it.
pub fn norm2<T: Real>(len: usize) -> f64 {
    gamma::<T>(reduce::depth(len) + 1) / 2.0 + gamma::<T>(4)
}

/// Error of an element of `matmul` with inner dimension `k`; `absolute` is `|alpha| (|A| |B|)_ij + |beta C_ij|`.
/// A term is rounded as a product, by `alpha`, by `beta`, and in at most `k` additions.
pub fn matmul<T: Real>(k: usize, absolute: f64) -> f64 {
    gamma::<T>(k + 3) * absolute
}

/// Error of `exact::dot`, added to a bound that is tested against it.
pub fn exact_dot(len: usize, value: f64, absolute: f64) -> f64 {
    f64::EPSILON / 2.0 * value.abs() + gamma::<f64>(len).powi(2) * absolute
}

/// Relative error of one elementary function and its derivative in `f64`, ours against another library's: each is
/// within 1 ulp = 2 u of the truth, and a derivative takes at most 4 more roundings.
pub fn elementary() -> f64 {
    gamma::<f64>(2 * 2 + 4)
}

/// Error of a bilinear form `u^T H v` of softmax regression, computed in two ways, with `n` examples, `d` inputs and
/// `c` classes. Both sum the same products; a product passes through the logits (`d` terms, whose error the
/// exponential turns into a relative one of at most `|logit|` times as much), the normaliser (`c` terms), a few
/// divisions and the sums over inputs, classes and examples. `absolute` is the sum of the absolute products.
pub fn softmax_form(n: usize, d: usize, c: usize, logit: f64, absolute: f64) -> f64 {
    let roundings = 2 * (d + c) + n + 16;
    let exponential = 2 * d + 2;
    2.0 * (gamma::<f64>(roundings) + 4.0 * logit * gamma::<f64>(exponential)) * absolute
}

/// Error of a central difference with step `h` along a direction of norm `norm`: the bound in the documentation of
/// `FiniteDifferenceHessian`. `third` bounds the third derivative along a unit vector, `gradient` the error of the
/// gradient, `curvature` the norm of the Hessian, `point` the largest parameter; in the Euclidean norm over `dim`.
/// The quotient itself rounds twice and the factor twice.
pub fn central_difference<T: Real>(dim: usize, h: f64, norm: f64, bounds: CentralDifference) -> f64 {
    let CentralDifference { third, gradient, curvature, point } = bounds;
    let u = T::EPSILON.to_f64() / 2.0;
    let displacement = (dim as f64).sqrt() * 2.0 * u * (point + h);
    norm * (h * h / 6.0 * third + (gradient + curvature * displacement) / h + gamma::<T>(4) * curvature)
}

/// What [`central_difference`] has to know of the function.
#[derive(Debug, Clone, Copy)]
pub struct CentralDifference {
    /// Bound of the third derivative along a unit vector.
    pub third: f64,
    /// Bound of the error of a computed gradient.
    pub gradient: f64,
    /// Bound of the norm of the Hessian.
    pub curvature: f64,
    /// Bound of the parameters.
    pub point: f64,
}
