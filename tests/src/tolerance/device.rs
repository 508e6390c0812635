//! Kernels on a device.

use super::gamma;

/// An element of `gemm` on a device, with inner dimension `k`, against the product in f64; `absolute` is
/// `|alpha| (|A| |B|)_ij + |beta C_ij|`. WGSL rounds sums and products correctly, whether or not it fuses them: that is
/// the bound of core's `matmul`. A term that passes through pieces of the inner dimension is rounded once a piece more,
/// but never more often than there are terms before it. The oracle's error is covered by one more rounding in f32.
pub fn device_matmul(k: usize, absolute: f64) -> f64 {
    gamma::<f32>(k + 4) * absolute
}

/// A sketch by a dense random matrix on a device, with `cols` columns, against one in f64: a term is rounded as a product
/// with its sign or number, in 128 additions, in one for each 128 columns, in one for each of up to 128 parts; the sum is
/// multiplied by a rounded factor and added to what was there. The oracle's error is covered by one more rounding.
pub fn device_projection(cols: usize, absolute: f64) -> f64 {
    gamma::<f32>(128 + cols.div_ceil(128) + 128 + 5) * absolute
}

/// FactGraSS on a device: an entry of the masked gradient is a sum over positions as in [`device_matmul`], and a bucket one
/// of at most as many entries as were `kept`, times a factor that was rounded twice.
pub fn device_fact_grass(positions: usize, kept: usize, absolute: f64) -> f64 {
    gamma::<f32>(positions + 4 + kept + 3) * absolute
}

/// A normal number that a device made of two words, against core's in f32. Both round the words alike. On the device the
/// logarithm is a quotient, which WGSL allows to be off by 2.5 units in the last place, and ten roundings; the root halves
/// that and may be off by 4.5 units itself, and sine and cosine are off by six roundings of numbers up to 1: together 16
/// units of the radius, which is below 6.8. Core's is off as in [`normal_f32`](super::normal_f32()), without the rounding of the words.
pub fn device_normal() -> f64 {
    let unit = f64::from(f32::EPSILON);
    6.8 * (16.0 * unit + (3.0 * std::f64::consts::TAU + 8.0 + 2.0) * unit / 2.0)
}

/// An element over a root on a device. WGSL allows 2.5 units in the last place for a quotient and 4.5 for a root, of which
/// there are two and one; moments, factors and products are rounded six times. `absolute` is the element, with what is
/// added in its numerator taken absolutely.
pub fn device_scale(absolute: f64) -> f64 {
    (2.0 * 2.5 + 4.5 + 6.0) * f64::from(f32::EPSILON) * absolute
}

/// Relative error of a row's norm on a device: a square is rounded, added to those of its lane (256 columns make a
/// round of four for each of 64 lanes), then by four and by six halvings; the root halves that. WGSL allows a root the
/// error of a reciprocal of a reciprocal root, 2 ulp and 2.5 ulp of the division, with 1 ulp = 2 u.
pub fn device_norm(d: usize) -> f64 {
    gamma::<f32>(d.div_ceil(256) + 1 + 3 + 6) / 2.0 + gamma::<f32>(9)
}

/// Relative error of an element of a unit row on a device: that of the norm, and a division of 2.5 ulp.
pub fn device_unit(d: usize) -> f64 {
    device_norm(d) + gamma::<f32>(5)
}

/// A score on a device of rows of `d` numbers; `absolute` is `sum_c |x_c q_c|`, over the norms for a cosine. The product
/// is that of [`device_matmul`]; a cosine is of a unit query, and divided by the norm of the row by a division of 2.5 ulp.
pub fn device_score(d: usize, cosine: bool, absolute: f64) -> f64 {
    let unit = if cosine { device_unit(d) + device_norm(d) + gamma::<f32>(5) } else { 0.0 };
    device_matmul(d, absolute) + unit * absolute
}

/// An element of `gram` on a device, of `rows` rows; `absolute` is `sum_i |alpha w_i x_ij x_ik| + |beta C_jk|`. That of a
/// product, with a rounding more by the weight.
pub fn device_gram(rows: usize, absolute: f64) -> f64 {
    gamma::<f32>(rows + 5) * absolute
}

/// An element of `kronecker_apply` on a device, with bases of `rows` and `cols`: the roundings of four products and of
/// the multiplier, one after the other; `absolute` is the same expression of absolute values.
pub fn device_kronecker(rows: usize, cols: usize, absolute: f64) -> f64 {
    gamma::<f32>(2 * (rows + 4) + 2 * (cols + 4) + 1) * absolute
}

/// Frobenius' norm of the error of `newton_schulz` on a device, for polynomials that keep singular values within 1. With
/// `k = min(m, n)`, `X` has a norm of at most `sqrt(k)`. A step rounds the Gram matrix (`g k` with the `g` of a product),
/// its square and the mixture (together `(2 |b| + 3 |c|) g k`), and the last product (`(|a| + |b| + |c|) g k`); what was off
/// before grows by the derivative, `|a| + 3 |b| + 5 |c|`. The start has the errors of two norms and a division.
pub fn device_newton_schulz(m: usize, n: usize, polynomials: &[[f32; 3]]) -> f64 {
    let product = gamma::<f32>(m.max(n) + 5) * m.min(n) as f64;
    polynomials.iter().fold(device_norm(n) + device_unit(m), |error, polynomial| {
        let [a, b, c] = polynomial.map(|x| f64::from(x.abs()));
        (a + 3.0 * b + 5.0 * c) * error + (a + 3.0 * b + 4.0 * c) * product
    })
}

/// Frobenius' norm of the error of `cayley_truncated` on a device, of rows of norm `size` and an `n x n` matrix of a
/// Frobenius norm of at most 1/2. The factors together stretch by at most 3. Each rounds numbers of norm at most `3 size`
/// and their product with a power, and meets the error of the power: at most `g` a squaring, whose own halve.
pub fn device_cayley(n: usize, order: u32, size: f64) -> f64 {
    let order = f64::from(order);
    3.0 * (order + 1.0) * (4.5 + 3.0 * order) * size * gamma::<f32>(n + 4)
}

/// A score on a device of an int8 row, against the sum of products of codes: for each of `segments` sums of integers, a
/// conversion (WGSL may round either way: 2 u), two products and an addition. `absolute` is `sum_c |x_c y_c|`, `coded` is
/// `sum_c |x_c| t_c` with the query's steps `t_c`, which bounds what codes are off for the cosine, where it is against the
/// sum of products of numbers.
pub fn device_int8(d: usize, segments: usize, cosine: bool, coded: f64, absolute: f64) -> f64 {
    let sums = gamma::<f32>(segments + 5) * (absolute + coded);
    if !cosine {
        return sums;
    }
    sums + (0.5 + 1.0 / 512.0) * coded + (device_unit(d) + device_norm(d) + gamma::<f32>(5)) * (absolute + coded)
}
