//! Sketches, storage formats, division by second moments.

use ascribe_core::{Real, reduce};

use super::{gamma, roundings};

// ---- dense sketches and storage formats ----

/// A product with a matrix whose entries are made on the way, against the entries in f64: `reduce::dot` over 1024
/// columns, an addition for each 1024, and roundings of the scaled entry, the factor, its product and the addition to
/// what was there. `absolute` is `sum |a_c x_c|`.
pub fn projection<T: Real>(cols: usize, absolute: f64) -> f64 {
    gamma::<T>(reduce::depth(1024) + 1 + cols.div_ceil(1024) + 4) * absolute
}

/// The same of the transpose, where the rows are added one after the other.
pub fn projection_transpose<T: Real>(rows: usize, absolute: f64) -> f64 {
    gamma::<T>(rows + 5) * absolute
}

/// The same in parallel: 128 columns one after the other, an addition for each 128 of them and for each of 16 parts.
/// Columns before the first one of a block of 128 add nothing.
pub fn projection_parallel<T: Real>(cols: usize, absolute: f64) -> f64 {
    gamma::<T>(128 + cols.div_ceil(128) + 1 + 16 + 5) * absolute
}

/// An f32 normal number against the f64 one. The word and half of it are each rounded to 24 bits, so `u` is off by
/// `2^-24` and the squared radius by `2^-23 / u`: near `u = 1`, where the radius is small, it is off by at most the root
/// of that, `2^-11.5`, and everywhere by `2^-23` relatively or less. The angle is rounded three times, `3 * 2^-24` of
/// up to `2 pi`, times a radius below 6.8; logarithm, root, sine and the products add `8 * 2^-24` of it.
pub fn normal_f32() -> f64 {
    2.0_f64.powf(-11.5) + 6.8 * (3.0 * std::f64::consts::TAU + 8.0 + 2.0) * f64::from(f32::EPSILON) / 2.0
}

/// A Hadamard transform of `padded` elements: a sum over a binary tree, and roundings of the sign's factor, its
/// product and the root. `absolute` is the sum of the absolute values, with the factor.
pub fn hadamard<T: Real>(padded: usize, absolute: f64) -> f64 {
    gamma::<T>(padded.ilog2() as usize + 4) * absolute
}

/// The variance of an inner product of two sketches of `rows` independent rows, estimated from `runs` of them, relative
/// to the true one: five standard errors. A row's product is a form of degree 2 in signs or normal numbers, whose
/// fourth moment is at most 81 times the square of the second (Bonami's hypercontractive inequality); the mean
/// of `rows` of them has an excess kurtosis of at most `78 / rows`, and a sample variance a relative variance of
/// `(2 + excess) / runs`.
pub fn sketch_variance(runs: usize, rows: usize) -> f64 {
    5.0 * ((2.0 + 78.0 / rows as f64) / runs as f64).sqrt()
}

/// An element of an int8 block against its code: half a step, and roundings of the quotient of up to 127 steps, of the
/// product and of the scale itself, each `2^-24` relatively.
pub fn int8_block(scale: f32) -> f64 {
    f64::from(scale) * (0.5 + 255.0 * f64::from(f32::EPSILON) / 2.0)
}

/// The mean absolute value of `cols` numbers, added in f64 and rounded to f32.
pub fn one_bit_scale(cols: usize) -> f64 {
    f64::from(f32::EPSILON) / 2.0 + roundings(cols + 1, f64::EPSILON)
}

// ---- sparse and factorised sketches, optimizer scaling ----

/// A sum of `terms` signed numbers that is multiplied by a rounded factor, as `Sjlt` documents it; the oracle adds in f64.
/// `absolute` is the sum of absolute values times the factor.
pub fn signed_sum<T: Real>(terms: usize, absolute: f64) -> f64 {
    (gamma::<T>(terms + 2) + gamma::<f64>(terms + 2)) * absolute
}

/// An element of `LoGra`: two products of `d_in + 1` and `d_out` terms, whose product is summed over positions by one
/// matrix product a run; the oracle forms the gradient and multiplies it from both sides, in f64.
pub fn projected_gradient<T: Real>(d_in: usize, d_out: usize, positions: usize, absolute: f64) -> f64 {
    let count = d_in + d_out + 4 * positions + 12;
    (gamma::<T>(count) + gamma::<f64>(count)) * absolute
}

/// A central difference with step `h` of a smooth function of size `scale` and its derivatives up to the third, whose
/// values are off by `terms` roundings of numbers of that size.
pub fn smooth_difference(h: f64, terms: usize, scale: f64) -> f64 {
    scale * (h * h + roundings(terms, f64::EPSILON) / h)
}

/// A central difference, when one with twice the step is `coarse` and the third derivative `t` varies little over it: the
/// error is `h^2 t / 6`, that with twice the step four times as large, so they are apart by three times the error.
pub fn doubled_step(difference: f64, coarse: f64) -> f64 {
    (difference - coarse).abs()
}

/// An element that a few correctly rounded operations made, against others: relative.
pub fn elementwise<T: Real>(operations: usize) -> f64 {
    2.0 * gamma::<T>(operations)
}
