//! Pearson's and Spearman's correlation.

use super::{check_elements, check_not_empty, check_same_shape, column, mean};
use crate::error::{Error, check_shape};
use crate::reduce;
use crate::scalar::{Real, Scalar};
use crate::view::MatRef;
use alloc::vec;
use alloc::vec::Vec;

/// A correlation in `[-1, 1]`, or the statement that there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Correlation {
    /// The correlation; 0 when it is undefined.
    pub value: f64,
    /// Whether it is defined: at least two observations, and neither side constant.
    pub valid: bool,
}

/// A correlation for each query, and their mean.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryCorrelations {
    /// One correlation a query.
    pub per_query: Vec<Correlation>,
    /// The mean over the valid ones; valid when there is one.
    pub mean: Correlation,
}

impl QueryCorrelations {
    fn new(per_query: Vec<Correlation>) -> Self {
        let valid: Vec<f64> = per_query.iter().filter(|c| c.valid).map(|c| c.value).collect();
        let mean =
            if valid.is_empty() { Correlation::default() } else { Correlation { value: mean(&valid), valid: true } };
        Self { per_query, mean }
    }
}

/// The rank of each element, from 1 for the least; equal elements share the mean of their ranks.
///
/// Infinities are ordinary extreme values and `-0.0` equals `0.0`. Exact. Cost: `O(n log n)`.
///
/// # Errors
/// [`Error::NonFinite`] for NaN.
///
/// # Examples
/// ```
/// use ascribe_core::metric::midranks;
/// assert_eq!(midranks(&[3.0, 1.0, 3.0, f64::INFINITY])?, [2.5, 1.0, 2.5, 4.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
pub fn midranks<T: Real>(x: &[T]) -> Result<Vec<f64>, Error> {
    check_elements("ranked values", MatRef::from_row(x), |x| !x.is_nan())?;
    let mut order: Vec<usize> = (0..x.len()).collect();
    // Without NaN the comparison is total; adding zero makes the two zeros one.
    order.sort_unstable_by(|&a, &b| (x[a].to_f64() + 0.0).total_cmp(&(x[b].to_f64() + 0.0)));
    let mut ranks = vec![0.0; x.len()];
    let mut before = 0;
    for ties in order.chunk_by(|&a, &b| x[a] == x[b]) {
        let rank = before as f64 + (ties.len() + 1) as f64 / 2.0;
        for &i in ties {
            ranks[i] = rank;
        }
        before += ties.len();
    }
    Ok(ranks)
}

/// Pearson's correlation, `sum (a - mean a)(b - mean b) / (|a - mean a| |b - mean b|)`.
///
/// Means first, then deviations, both scaled by powers of two, so no finite input overflows. Symmetric to the bit.
/// Error: at most `(depth(n) + 4) u (2 + r_a + r_b)` to first order, where `u = 2^-53`,
/// [`depth`](reduce::depth) is that of the sums and `r = max |x| sqrt(n) / |x - mean x|`.
///
/// # Errors
/// [`Error::Shape`] when the lengths differ, [`Error::NonFinite`] for NaN or infinities.
///
/// # Examples
/// ```
/// use ascribe_core::metric::pearson;
/// assert_eq!(pearson(&[1.0, 2.0, 3.0], &[6.0, 4.0, 2.0])?.value, -1.0);
/// assert!(!pearson(&[0.1, 0.1, 0.1], &[6.0, 4.0, 2.0])?.valid);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
pub fn pearson<T: Real>(a: &[T], b: &[T]) -> Result<Correlation, Error> {
    check_shape("b elements", a.len(), b.len())?;
    check_elements("a", MatRef::from_row(a), Scalar::is_finite)?;
    check_elements("b", MatRef::from_row(b), Scalar::is_finite)?;
    let (Some(a), Some(b)) = (deviations(a), deviations(b)) else { return Ok(Correlation::default()) };
    let norms = (reduce::norm2_squared(&a) * reduce::norm2_squared(&b)).sqrt();
    Ok(Correlation { value: (reduce::dot(&a, &b)? / norms).clamp(-1.0, 1.0), valid: true })
}

/// Spearman's correlation: Pearson's of the [`midranks`].
///
/// A rank is a multiple of a half and so are its deviations, so for `n <= 2^17` all sums are exact: the error is at
/// most `2^-51`, and the result does not change under any strictly increasing map of `a` or `b`. Cost: `O(n log n)`.
///
/// # Errors
/// [`Error::Shape`] when the lengths differ, [`Error::NonFinite`] for NaN. Infinities are allowed.
///
/// # Examples
/// ```
/// use ascribe_core::metric::spearman;
/// assert_eq!(spearman(&[1.0_f32, 2.0, 3.0], &[1.0, 10.0, f32::INFINITY])?.value, 1.0);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
///
/// # References
/// Spearman, "The proof and measurement of association between two things", 1904.
pub fn spearman<T: Real>(a: &[T], b: &[T]) -> Result<Correlation, Error> {
    check_shape("b elements", a.len(), b.len())?;
    pearson(&midranks(a)?, &midranks(b)?)
}

/// [`pearson`] of each column of `a` `[n, n_query]` with the same column of `b`.
///
/// # Errors
/// As [`pearson`]; [`Error::Empty`] without rows or columns.
pub fn pearson_columns<T: Real>(a: MatRef<'_, T>, b: MatRef<'_, T>) -> Result<QueryCorrelations, Error> {
    columns(a, b, pearson)
}

/// [`spearman`] of each column of `a` `[n, n_query]` with the same column of `b`: how well a cheap score orders
/// the examples of each query.
///
/// # Errors
/// As [`spearman`]; [`Error::Empty`] without rows or columns.
pub fn spearman_columns<T: Real>(a: MatRef<'_, T>, b: MatRef<'_, T>) -> Result<QueryCorrelations, Error> {
    columns(a, b, spearman)
}

fn columns<T: Real>(
    a: MatRef<'_, T>,
    b: MatRef<'_, T>,
    correlation: impl Fn(&[f64], &[f64]) -> Result<Correlation, Error>,
) -> Result<QueryCorrelations, Error> {
    check_same_shape(["b rows", "b columns"], a, b)?;
    check_not_empty(a, "observations")?;
    let per_query = (0..a.cols()).map(|q| correlation(&column(a, q), &column(b, q))).collect::<Result<_, _>>()?;
    Ok(QueryCorrelations::new(per_query))
}

/// Deviations from the mean times a power of two, the largest of them in `[1, 2)`; `None` when all are equal,
/// which rounding in the mean must not hide.
fn deviations<T: Real>(x: &[T]) -> Option<Vec<f64>> {
    if x.windows(2).all(|pair| pair[0] == pair[1]) {
        return None;
    }
    let mut x: Vec<f64> = x.iter().map(|x| x.to_f64()).collect();
    normalize_exponent(&mut x);
    let mean = mean(&x);
    for x in &mut x {
        *x -= mean;
    }
    normalize_exponent(&mut x);
    Some(x)
}

/// Divides by the power of two that brings the largest absolute value into `[1, 2)`, and returns it. Exact, but for
/// what underflows beside the largest.
pub(super) fn normalize_exponent(x: &mut [f64]) -> f64 {
    let exponent_bits = reduce::max_abs(x).to_bits() & f64::INFINITY.to_bits();
    // A subnormal maximum has the exponent of the smallest normal number; it ends in [2^-52, 1) instead.
    let power = f64::from_bits(exponent_bits).max(f64::MIN_POSITIVE);
    for x in x {
        *x /= power;
    }
    power
}
