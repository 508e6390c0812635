//! Attribution methods, and scores of stored rows.

use ascribe_core::{Real, reduce};

use super::{gamma, orthogonal_factor, roundings, symmetric_eigen};

// ---- attribution methods ----

/// A TracIn score of `p` coordinates in each of `checkpoints`, as `tracin_scores` documents it; one more for the oracle.
/// `absolute` is the sum of the absolute products, weights included.
pub fn tracin(p: usize, checkpoints: usize, eps: f64, absolute: f64) -> f64 {
    roundings(p + 4 + checkpoints, eps) * absolute
}

/// The same of unit rows: a query is divided by its norm and multiplied with the weight, the product divided by the other
/// norm; `absolute` is the sum of the absolute weights, by Cauchy and Schwarz.
pub fn gradcos(p: usize, checkpoints: usize, eps: f64, absolute: f64) -> f64 {
    roundings(p + reduce::depth(p) + 13 + checkpoints, eps) * absolute
}

/// A LESS score of `d` coordinates: [`gradcos`] with targets that are sums over `queries` in f64, in the result and in the
/// oracle.
pub fn less(d: usize, checkpoints: usize, queries: usize, eps: f64) -> f64 {
    gradcos(d, checkpoints, eps, 1.0) + 2.0 * roundings(queries + d + 8, f64::EPSILON)
}

/// An influence `t^T (F + d)^-1 q` over `k` coordinates with `F` a mean over `n` rows, relative to `size`, the root of the
/// product of what both rows have on themselves. A perturbation `E` of `F` changes it by at most
/// `|E| / (least eigenvalue) size`, so what `E` is relative to the largest eigenvalue counts `condition` times: the sums
/// of the Gram matrix (`n` terms, Frobenius' norm at most `k` times the largest), the decomposition, and the elimination of
/// the oracle. A rotation is off by `gamma_k sqrt(k)` of the row, whose norm is at most `sqrt(condition)` times the root of
/// what it has on itself; there are four at most, and an inner product.
pub fn influence<T: Real>(n: usize, k: usize, condition: f64, size: f64) -> f64 {
    let dim = k.max(1) as f64;
    let backward = gamma::<f64>(n + 4) + symmetric_eigen(k) + orthogonal_factor(k, k, f64::EPSILON);
    let rotations = 6.0 * gamma::<T>(k + 6) * dim.sqrt();
    2.0 * (backward * dim + rotations) * condition * size
}

/// An element of a sum of products of deviations over `rows` rows in `batches`: an origin is subtracted, a batch is centred
/// (twice `rows` terms), multiplied and summed, and merging adds a product of differences of means with a few roundings.
/// No deviation is larger than the range of its column; `ranges` is the product of both.
pub fn co_moment(rows: usize, batches: usize, ranges: f64) -> f64 {
    roundings(4 * rows + 12 * batches + 16, f64::EPSILON) * rows as f64 * ranges
}

/// The contribution of a position to the product with a direction: `d_in` terms, the bias and `d_out` terms in `T`, the
/// direction rounded once, and as much for the addition to what was there. `absolute` is `|delta|^T |V| |x|` with what was
/// there.
pub fn token_score<T: Real>(d_in: usize, d_out: usize, absolute: f64) -> f64 {
    gamma::<T>(d_in + d_out + 8) * absolute
}

/// An IIF score against sums in f64: a target of `n` terms, an inner product of `p`, and the advantages, which cancel by
/// at most `condition`, the largest of a chunk over its deviation. `absolute` is the size of the terms.
pub fn iif<T: Real>(n: usize, p: usize, condition: f64, absolute: f64) -> f64 {
    (gamma::<T>(n + p + 8) + gamma::<f64>(3 * n + 8) * condition) * absolute
}

/// The logarithm of odds of a class against the same from a softmax that is written out: two sums of `classes`
/// exponentials of numbers of absolute value at most `largest`, which magnify the rounding of their arguments, and a
/// division whose result is near 0 or 1 by at most `exp(2 largest)`.
pub fn margin(classes: usize, largest: f64) -> f64 {
    roundings(2 * classes + 16, f64::EPSILON) * (1.0 + largest) * (2.0 * largest).exp()
}

// ---- scores of stored rows ----

/// Error of a fused sum of products of `f32` rows against one in f64: the multiply-adds of a chunk of 256 columns, the
/// sums of the chunks, the oracle; each of them may underflow. `absolute` is `sum_c |x_c y_c|`.
pub fn stored_dense(d: usize, absolute: f64) -> f64 {
    let roundings = d.min(256) + d.div_ceil(256) + 1;
    gamma::<f32>(roundings) * absolute + (d + d.div_ceil(256)) as f64 * f32_underflow()
}

/// Error of a score of a row of signs: two additions make an entry of a table, two a sum over four entries, one adds
/// that to the score for every 16 columns; the row's scale and the oracle. Sums do not underflow, the product may.
pub fn stored_signs(d: usize, absolute: f64) -> f64 {
    gamma::<f32>(d.div_ceil(16) + 6) * absolute + f32_underflow()
}

/// Error of a score of an int8 row. A query's code is off by a half and by the rounding of a quotient of up to 32767,
/// so its number by at most `(1/2 + 2^-9) t` with the step `t`: `coded` is `sum_c |x_c| t_c`. For every `segments` sums
/// of integers: the conversion, the product of the two scales, the multiply-add; the oracle. The product of the scales
/// may underflow, which the sum of integers multiplies: `integers` is the sum of their absolute values.
pub fn stored_int8(segments: usize, coded: f64, absolute: f64, integers: f64) -> f64 {
    let rounded = gamma::<f32>(segments + 3) * (absolute + coded);
    (0.5 + 1.0 / 512.0) * coded + rounded + (integers + segments as f64) * f32_underflow()
}

/// Half the distance of subnormal numbers.
fn f32_underflow() -> f64 {
    f64::from(f32::MIN_POSITIVE) * f64::from(f32::EPSILON) / 2.0
}

/// What the two divisions of a cosine, its norms, the scale and the offset of a row and the oracle add to the error of
/// the score before them: relative to the sum of the magnitudes of what they are applied to.
pub fn stored_adjustment(d: usize) -> f64 {
    gamma::<f32>(reduce::depth(d) + 1 + 2 * 4 + 2 + 2 + 1)
}
