//! Spectral preconditioners, matrix roots, optimizers.

use ascribe_core::Real;

use super::{gamma, roundings, symmetric_eigen};

// ---- spectral preconditioners ----

/// Frobenius' norm of the error of Cayley's map of an `n x n` matrix of norm `norm`: the solution of a system with
/// `I - N`, whose inverse has a norm of at most 1, by [`lu`] with right-hand sides of norm `2 sqrt(n)`.
pub fn cayley<T: Real>(n: usize, norm: f64) -> f64 {
    let root = (n.max(1) as f64).sqrt();
    lu::<T>(n) * (root + norm) * 2.0 * root
}

/// Relative residual of LU with partial pivoting in Frobenius' norm: `3 gamma_n` times the growth of the elements (Higham,
/// theorem 9.4), which is of the order of `sqrt(n)` for the matrices that occur, and `n` times between the norms.
pub fn lu<T: Real>(n: usize) -> f64 {
    let root = (n.max(1) as f64).sqrt();
    3.0 * gamma::<T>(n + 4) * root * root
}

/// Frobenius' norm of the rounding of `B^T B - I` of an `n x n` basis, and of the step that repairs it: products of `n`
/// terms with columns of norm 1, `gamma_n` an element, three of them.
pub fn polish<T: Real>(n: usize) -> f64 {
    3.0 * n as f64 * gamma::<T>(n + 4)
}

/// What a basis may be off from orthogonal in f32, over any number of steps: the requirement, `1e-5 sqrt(n)`. Between two
/// repairs eight rotations add about 10 u each to a singular value.
pub fn drift(n: usize) -> f64 {
    1e-5 * (n as f64).sqrt()
}

/// Two steps of half the size leave a quarter of an error of second order, up to terms of the next: their ratio at a step
/// size of 1e-3 is 4 to within `1e-3 |H|^3 / (gap^2 d)` or so, which the cases keep below a third.
pub const SECOND_ORDER: f64 = 6.0;
/// The least that it is: see [`SECOND_ORDER`].
pub const SECOND_ORDER_LEAST: f64 = 2.5;

/// Rounding of a step of a preconditioner whose matrices have `n` rows, against the same in dense matrices: four products,
/// a rotation and the oracle's two, on numbers of norm `size`; generators magnify it by at most the gaps of the cases, at
/// least a third of the eigenvalues.
pub fn spectral_step<T: Real>(n: usize, size: f64) -> f64 {
    16.0 * n as f64 * gamma::<T>(n + 8) * size
}

/// Sum of the logarithms of `n` eigenvalues after some steps: each exponential rounds once, by `u` and the error of its
/// argument, which is a difference of numbers of at most 16 as a rule; the sum rounds `n` logarithms of that size.
pub fn determinant(n: usize, steps: usize) -> f64 {
    (steps + 1) as f64 * n as f64 * 32.0 * f64::EPSILON
}

/// Distance from the fixed point of the flip-flop equations: 1500 steps that each leave a share of 0.8 of what is missing
/// leave rounding, which the equations magnify by the condition of the factors, below 100 for the gradients of the test.
pub fn flip_flop(dim: usize) -> f64 {
    100.0 * spectral_step::<f64>(dim, 1.0)
}

/// Relative error of what a stored basis of `n` columns follows: each rounding turns the vectors by up to `precision sqrt(n)`,
/// twice what it is after a step that is smaller; in full, what 400 steps of 0.1 leave, `exp(-40)`, and f32's rounding.
pub fn stored_basis(n: usize, precision: f64) -> f64 {
    2.0 * precision * (n as f64).sqrt() + gamma::<f32>(64 * n)
}

// ---- optimizers: matrix roots, Shampoo, SOAP, AdamW, Schedule-Free ----

/// Residual `X^p A - I` of an inverse root by eigenvectors, for a matrix with that condition number. The decomposition is
/// exact for a matrix within [`symmetric_eigen`] of `A`, which its inverse multiplies by the condition; each of the `p`
/// factors is assembled from `n` products of numbers that were rounded five times, and multiplied by the oracle, `n` terms
/// each; all relative to norms whose product is the condition number.
pub fn inverse_root(n: usize, p: u32, condition: f64) -> f64 {
    let factor = roundings(2 * n + 6, f64::EPSILON) * (n as f64).sqrt();
    (symmetric_eigen(n) + 2.0 * f64::from(p) * factor) * condition
}

/// Relative distance of a root from the exact one when its residual is at most `residual` in each element, in Frobenius'
/// norm: `X = A^(-1/p) (I + R)^(1/p)`, and `(I + R)^(1/p)` is within `|R|` of the identity for `|R| <= 1/2`. `rounding` is
/// that of the exact root, and what keeps `X` from commuting with `A`.
pub fn root_of_residual(n: usize, residual: f64, rounding: f64) -> f64 {
    n as f64 * residual + 2.0 * rounding
}

/// Distance of a polar factor by polynomials from the exact one, in Frobenius' norm, for a matrix whose singular values lie
/// above `1 / amplification` of its norm (or are zero). A step rounds three products of at most `n` terms, relative to
/// numbers of at most 1.3; what is off before the singular values are near 1 grows as they do, and contracts or, along the
/// factor's own directions, stays afterwards. The scheme itself is to have converged to 1e-9.
pub fn polar(k: usize, n: usize, steps: usize, amplification: f64) -> f64 {
    let step = 16.0 * roundings(3 * n + 8, f64::EPSILON) * (k as f64).sqrt();
    steps as f64 * step * amplification + 1e-9
}

/// Parameters of at most 4 after `steps` steps of two codes of Adam's formula with gradients of at most 1: each step has
/// about twenty roundings of a quotient of at most `quotient`, with moments whose bias correction, a difference from 1,
/// is rounded `correction` times as much.
pub fn moments(steps: usize, correction: f64, quotient: f64) -> f64 {
    (steps + 1) as f64 * roundings(20 + 2 * steps, f64::EPSILON) * (4.0 + correction) * (4.0 + quotient)
}

/// Step of Shampoo on a block of `len` elements with gradients of at most 1, against the formula written out: the factors
/// have `len` terms, their roots are off by [`inverse_root`] for the condition `len / epsilon` and more, and so is what they
/// multiply, axis by axis; `roots` is the product of their norms.
pub fn shampoo_step(len: usize, axes: usize, epsilon: f64, roots: f64) -> f64 {
    let condition = (len as f64 + epsilon) / epsilon;
    let root = inverse_root(len, 2 * axes as u32, condition);
    let factor = roundings(2 * len + 4, f64::EPSILON) * condition;
    2.0 * axes as f64 * (root + factor) * roots * (len as f64).sqrt()
}

// ---- states as curvature, and the descent under Kronecker products ----

/// Relative error of the mean of `steps` observations by a moving average that forgets the share `own` of itself a step: the
/// weights of the first and the last differ by `steps own`, and the correction of the bias, `steps own` itself, is a
/// difference from 1 that was rounded.
pub fn forgetting(steps: usize, own: f64) -> f64 {
    steps as f64 * own + 2.0 * (steps + 2) as f64 * f64::EPSILON / own
}

/// Relative difference of a momentum of `n x n` numbers kept in an eigenbasis from one in the coordinates of the gradient: a
/// carriage from basis to basis is four products with bases that are orthogonal to a multiple of their rounding, `bits`
/// relative to each element, `sqrt(n)` times as much for a column.
pub fn carried(n: usize, bits: f64) -> f64 {
    8.0 * (n as f64).sqrt() * (bits + gamma::<f64>(4 * n + 8))
}
