//! K-FAC and EKFAC, covariances, ghost products, diagonals.

use ascribe_core::Real;

use super::{gamma, orthogonal_factor, roundings};

// ---- curvature: blocks in their eigenbasis ----

/// Relative error of `Q_l (M o (Q_l^T V Q_r)) Q_r^T` in Frobenius' norm, against the same with a dense matrix in f64:
/// a product with an orthonormal basis of `n` vectors is off by `gamma_n |V| |Q|`, whose norm is at most
/// `gamma_n sqrt(n) |V|`; there are two of each basis, one product with the multipliers, whose power rounds four
/// times, and the oracle makes as many roundings of `n = rows * cols` terms in f64.
pub fn rotation<T: Real>(rows: usize, cols: usize) -> f64 {
    let one = |n: usize| gamma::<T>(n) * (n as f64).sqrt();
    let dim = rows * cols;
    2.0 * (one(rows) + one(cols)) + gamma::<T>(6) + 2.0 * gamma::<f64>(2 * dim + 6) * dim as f64
}

/// Relative error of a sum of squares of gradients in a rotated basis, of `terms` positions in all: each factor is
/// rotated, multiplied with the other, and its square is twice as far off; the sums over the positions and examples
/// round once a term. The oracle rotates the block itself, in f64, with `rows * cols` terms twice.
pub fn second_moments<T: Real>(rows: usize, cols: usize, terms: usize) -> f64 {
    let dim = rows * cols;
    let basis = |n: usize| gamma::<T>(n) * (n as f64).sqrt();
    4.0 * (basis(rows) + basis(cols)) + 2.0 * gamma::<T>(2 * terms + 4) + gamma::<f64>(2 * dim + terms) * dim as f64
}

// ---- extras: ghost, low_rank_query, damping_selection, diagonal ----

/// What a ghost product has to know of its two examples.
#[derive(Debug, Clone, Copy)]
pub struct GhostSize {
    /// Inputs of the layer, without the appended 1.
    pub d_in: usize,
    /// Outputs of the layer.
    pub d_out: usize,
    /// Length of the gradient.
    pub dim: usize,
    /// Positions of the two examples.
    pub positions: [usize; 2],
}

/// A ghost product by Gram matrices, as `Route::dots` documents it: two inner products (`d + 3` roundings each), their
/// product, the tree over at most 128 positions (at most 36 additions), up to `S1 S2` additions in f64 and as many to the
/// output from different tiles, two conversions and `beta`; one more for the oracle.
pub fn ghost(size: GhostSize, eps: f64, absolute: f64) -> f64 {
    let [s1, s2] = size.positions;
    roundings(size.d_in + size.d_out + 2 * s1 * s2 + 51, eps) * absolute
}

/// The same from gradients that were formed: two [`layer_gradient`](super::layer_gradient())s of at most as many runs as positions, and an inner
/// product of `dim` terms; one more for the oracle.
pub fn formed(size: GhostSize, eps: f64, absolute: f64) -> f64 {
    let [s1, s2] = size.positions;
    roundings(size.dim + 4 * (s1 + s2) + 5, eps) * absolute
}

/// A score from the factors of a query of rank `rank`, as `LowRankQueries::scores` documents it. The sum of absolute
/// terms is at most `sum_k s_k |delta| |x|`, and so `sqrt(rank)` times `magnitude = |V|_F sum_t |delta_t| |x_t|`. The
/// factors themselves come from a decomposition in f64, and those of `V` have been rounded to `T` (counted above).
pub fn low_rank_score(d_out: usize, cols: usize, rank: usize, positions: usize, eps: f64, magnitude: f64) -> f64 {
    let factors = orthogonal_factor(d_out, cols, f64::EPSILON);
    let scores = roundings(d_out + cols + rank + 2 * positions + 40, eps) * (rank.max(1) as f64).sqrt();
    (factors + scores) * magnitude
}

/// Logarithm of a moment `t_k` of `dim` terms against the same sum written out: each exponent is made of logarithms of
/// at most `exponent` with a few roundings each, which the exponential turns into relative errors; the sum adds `dim`.
pub fn ln_moment(dim: usize, exponent: f64) -> f64 {
    roundings(dim + 8, f64::EPSILON) + 16.0 * f64::EPSILON * (1.0 + exponent)
}

/// Slope of a logarithm that changes by at most `slope` (its second derivative being at most `slope (slope + 1)`, as for
/// `ln t_k` in `ln lambda` with `slope = k`), from a central difference with step `h`: a third derivative of at most
/// `6 slope` and the error of the values.
pub fn slope(slope: f64, h: f64, values: f64) -> f64 {
    slope * h * h + values / h
}

/// A diagonal entry against a loop over the examples: `examples` additions and squares of gradients, each the sum over
/// `positions` that is squared, in f64; the same for the loop. `absolute` is the mean of `(sum_t |delta_t x_t|)^2`.
pub fn diagonal_fisher(examples: usize, positions: usize, absolute: f64) -> f64 {
    2.0 * roundings(examples + 2 * (positions + 3) + 4, f64::EPSILON) * absolute
}

// ---- curvature: convolutions and denoising ----

/// Error of a second moment over `m` samples, `p` outputs and `s` positions of numbers of absolute value at most 1, in
/// Frobenius' norm, when the moment of their absolute values is at most `size` in the mean of the samples and outputs.
/// A term is the product of two gradients, each scaled (the root, the quotient in it and the product: 3 roundings), and
/// two inputs summed over positions; it is added over outputs, samples and positions and divided once. The oracle makes
/// as many roundings. The factor 2 of the loss is in the sum.
pub fn denoising_moments(m: usize, p: usize, s: usize, size: f64) -> f64 {
    2.0 * gamma::<f64>(m * p * s + 2 * s + 12) * 2.0 * size
}

// ---- covariances from records ----

/// Error of an element of a Gram matrix of `rows` rows, summed by `linalg::gram` in `T`: a product, at most 256
/// additions in a block, one for each level of the tree of blocks, and two for a weight and the addition to what was
/// there. `absolute` is the sum of the absolute products, weights included.
pub fn gram<T: Real>(rows: usize, absolute: f64) -> f64 {
    let levels = rows.div_ceil(256).max(1).next_power_of_two().ilog2() as usize;
    gamma::<T>(257 + levels + 2) * absolute
}

/// Error of an element of a covariance of data in `T`, kept in `S`: [`gram`] of all rows at most, one rounding in `S`
/// for each of `additions` batches, draws and merges, and two for the mean. A pooled row is rounded once in `T` after
/// `positions` additions and a division in f64, and enters twice.
pub fn covariance<T: Real, S: Real>(rows: usize, additions: usize, positions: usize, absolute: f64) -> f64 {
    let pooled = 2.0 * (gamma::<T>(1) + gamma::<f64>(positions + 1));
    gram::<T>(rows, absolute) + (gamma::<S>(additions + 2) + pooled) * (1.0 + pooled) * absolute
}
