//! Krylov methods, Nystrom, DataInf, ASTRA.

use ascribe_core::Real;

use super::{gamma, orthogonal_factor, residual_drift};

// ---- inverses: MINRES, Lanczos, Nystrom, DataInf ----

/// How far MINRES' residual is from the smallest in its Krylov space, relative to `|v|`, before it computes the true one:
/// the directions of `x` come from a recurrence with `R^-1`, which magnifies their rounding by the condition number, and
/// are weighed with the length of `x`; `size` is `1 + |A| |x| / |v|` (Sleijpen, van der Vorst and Modersitzki, SIAM J.
/// Matrix Anal. Appl. 22, 2001, section 3).
pub fn minres_residual<T: Real>(n: usize, steps: usize, condition: f64, size: f64) -> f64 {
    residual_drift::<T>(n, steps) * condition * size
}

/// How far `Q Q^T` of `s` vectors is from the identity, in the maximum. A pass of orthogonalisation rounds sums of `n`
/// and of `s` terms: it leaves at most `e = gamma_{n+s+8} sqrt(s)` of what it was given. The first is given the product
/// and leaves its rounding; the second is given the rest, at least `tolerance` of the product, and that rounding.
pub fn orthonormal<T: Real>(n: usize, s: usize, tolerance: f64) -> f64 {
    let pass = gamma::<T>(n + s + 8) * (s as f64).sqrt();
    pass * (1.0 + pass / tolerance.max(lanczos_floor::<T>(n)))
}

/// The rounding of a product, below which `Lanczos` takes the rest for nothing: by its documentation.
pub fn lanczos_floor<T: Real>(n: usize) -> f64 {
    4.0 * (n as f64).sqrt() * T::EPSILON.to_f64()
}

/// A row of `A Q^T - Q^T T - beta q e^T`: the rounding of the product, of the two passes that split it, and the entries
/// of `Q A Q^T` off the three diagonals, which are as large as the loss of orthogonality times `norm = |A|`.
pub fn krylov_relation<T: Real>(n: usize, s: usize, tolerance: f64, norm: f64) -> f64 {
    let split = 3.0 * gamma::<T>(n + s + 8) * (1.0 + (s as f64).sqrt());
    (split + 2.0 * s as f64 * orthonormal::<T>(n, s, tolerance)) * norm
}

/// What `Nystrom` may be off by as a matrix: the shift `2 sqrt(n) eps |Y|` and the rounding of the core and its factors,
/// as [`orthogonal_factor`], of `norm = |A|`. An error `E` of the core becomes one of `Y^T C^-1 E C^-1 Y`, so
/// `amplification` is `|C^-1 Y|^2` or more.
pub fn nystrom<T: Real>(n: usize, r: usize, norm: f64, amplification: f64) -> f64 {
    let shift = 2.0 * (n as f64).sqrt() * T::EPSILON.to_f64();
    (shift + orthogonal_factor(n, r, T::EPSILON.to_f64())) * norm * (1.0 + amplification)
}

/// Relative error of DataInf: sums of `d` and `n` products and a difference, which cancels by at most `condition`,
/// one plus the largest squared gradient over the damping.
pub fn datainf<T: Real>(n: usize, d: usize, condition: f64) -> f64 {
    gamma::<T>(n + 2 * d + 10) * condition
}

/// Relative error of `V (v)` and back through `r` orthonormal vectors that are off by `orthonormal`, over the damping:
/// what the difference `v - U^T U v` leaves is divided by it, `condition` being `1 + max e / damping`.
pub fn low_rank<T: Real>(n: usize, r: usize, orthonormal: f64, condition: f64) -> f64 {
    (gamma::<T>(n + r + 8) * (1.0 + (r as f64).sqrt()) + r as f64 * orthonormal) * condition
}

// ---- astra ----

/// How far two codes of one heavy-ball iteration `m <- beta m + W (A x - v)`, `x <- x - alpha m` may be apart after some
/// steps. A step rounds the two products (`n` terms each, sizes in Frobenius' norm) and a few sums; `x` and `alpha m` are
/// rounded too, `alpha m` being a difference of iterates. What a step is off by moves every later iterate by at most
/// `1 / (1 - sqrt(beta)) <= 2 / (1 - beta)` of it: in an eigendirection the response to an impulse is
/// `sum_j z^j y^(k-1-j)`, `z` and `y` being roots of modulus at most 1 whose product is `beta`.
pub fn heavy_ball<T: Real>(dim: usize, steps: usize, size: HeavyBallSize) -> f64 {
    let HeavyBallSize { alpha, momentum, curvature, inverse, solution, rhs } = size;
    let direction = alpha * gamma::<T>(2 * dim + 8) * inverse * (curvature * solution + rhs);
    let update = gamma::<T>(6) * 3.0 * solution;
    2.0 * steps as f64 * 2.0 / (1.0 - momentum) * (direction + update)
}

/// What [`heavy_ball`] has to know.
#[derive(Debug, Clone, Copy)]
pub struct HeavyBallSize {
    /// The step size.
    pub alpha: f64,
    /// `beta`.
    pub momentum: f64,
    /// The norm of `A`.
    pub curvature: f64,
    /// The norm of `W`.
    pub inverse: f64,
    /// Bound of the norm of the iterates.
    pub solution: f64,
    /// The norm of `v`.
    pub rhs: f64,
}

/// Relative error of a Rayleigh quotient that Lanczos finds for `W A`, `n` rows: products of `n` terms with `A` and with
/// `W`, whose errors the inner product of `W^-1` magnifies by up to the condition of `W`, in each of the steps.
pub fn lanczos<T: Real>(dim: usize, steps: usize, condition: f64) -> f64 {
    steps as f64 * gamma::<T>(4 * dim + 16) * condition
}
