//! Random numbers, rankings, records, scores, metrics.

use super::roundings;

/// The exponent `t` of the statistical bounds: each holds with probability `1 - exp(-t)`, so a right generator
/// fails one of them for about one seed in 500 million. The seeds are fixed: a pass is a pass for ever.
pub const CONFIDENCE: f64 = 20.0;

/// The upper bound of a chi-square variable with `df` degrees of freedom: `df + 2 sqrt(df t) + 2 t` (Laurent and
/// Massart, Ann. Statist. 28, 2000, lemma 1). Pearson's statistic follows that law when the expected counts are in
/// the hundreds, as in all tests.
pub fn chi_square(df: usize) -> f64 {
    let df = df as f64;
    df + 2.0 * (df * CONFIDENCE).sqrt() + 2.0 * CONFIDENCE
}

/// The lower bound of the same variable, `df - 2 sqrt(df t)` (the same lemma): for variances, which must not be too
/// small either.
pub fn chi_square_lower(df: usize) -> f64 {
    let df = df as f64;
    df - 2.0 * (df * CONFIDENCE).sqrt()
}

/// The absolute mean of `n` standard normal numbers: it is normal with variance `1/n`, and
/// `P(|z| > sqrt(2 t)) <= 2 exp(-t)`.
pub fn normal_mean(n: usize) -> f64 {
    (2.0 * CONFIDENCE / n as f64).sqrt()
}

/// Sine, cosine, logarithm and root of the f64 Box-Muller transform are each within 1 ulp in `libm`, and the
/// angle is rounded twice, which its size of up to `2 pi` magnifies: `(6 * 2 pi + 4) u |z|`, below `48 u` times the
/// radius.
pub fn box_muller(radius: f64) -> f64 {
    24.0 * f64::EPSILON * radius
}

/// A bound between categories from the cumulative sum in f64 against the exact ratio: `len - 1` roundings in each of
/// the two sums, one in the product, and one in each weight of the test.
pub fn categorical(len: usize) -> f64 {
    roundings(2 * len + 1, f64::EPSILON)
}

/// A score against the inner product in f64: the bound of `matmul`, `γ_{d+3} sum |t_c q_c|`, and `γ_d` in f64 for
/// the oracle, which one more rounding in `T` covers.
pub fn inner_product(d: usize, eps: f64, sum_abs: f64) -> f64 {
    roundings(d + 4, eps) * sum_abs
}

/// A cosine: the inner product of rows whose norms are divided out, `γ_{d+3}` by Cauchy and Schwarz; each norm has
/// relative error `γ_{depth+1} / 2 + u`, and two divisions and the oracle add three roundings.
pub fn cosine(d: usize, depth: usize, eps: f64) -> f64 {
    roundings(d + depth + 10, eps)
}

/// An element of a layer's gradient against the sum over positions in f64: one product of inner dimension `r` a run,
/// whose roundings `r + 3` add up over the runs; the bias adds one rounding a position; one more for the oracle.
pub fn layer_gradient(positions: usize, runs: usize, eps: f64, sum_abs: f64) -> f64 {
    roundings(positions + 3 * runs + 1, eps) * sum_abs
}

/// A sum of a subset in another order than the oracle's: each is off by at most `γ_size` of the absolute sum.
pub fn reordered_sum(size: usize, sum_abs: f64) -> f64 {
    2.0 * roundings(size, f64::EPSILON) * sum_abs
}

/// Pearson's correlation, as its documentation states it, for the result and for the oracle, which sums without a
/// tree and so has `n` in the place of the depth. `ratio` is `max |x| sqrt(n) / |x - mean x|`, added over both sides.
pub fn pearson(n: usize, ratio: f64) -> f64 {
    2.0 * roundings(n + 4, f64::EPSILON) * (2.0 + ratio)
}

/// Spearman's correlation: the sums over midranks are exact; the product under the root, the root and the division
/// round: `2.5 u` on a value of at most 1.
pub const SPEARMAN: f64 = 2.5 * f64::EPSILON / 2.0;

/// The area under the curve is a quotient of exact integers and halves: one rounding.
pub const AUC: f64 = f64::EPSILON / 2.0;

/// Average precision: at most `n` terms of three roundings each, added; the same for the oracle.
pub fn average_precision(n: usize) -> f64 {
    2.0 * roundings(n + 3, f64::EPSILON)
}

/// NDCG: `k` terms with a logarithm within 1 ulp, a gain and a division, added, in both sums, and one division; the
/// same for the oracle.
pub fn ndcg(k: usize) -> f64 {
    2.0 * roundings(2 * k + 10, f64::EPSILON)
}

/// A mean of `n` numbers of absolute value at most `largest`, each off by one rounding: `γ_{n+2}`, for the result
/// and for the oracle.
pub fn mean(n: usize, largest: f64) -> f64 {
    2.0 * roundings(n + 2, f64::EPSILON) * largest
}
