//! Sums over slices in a fixed order, and the vector updates that go with them.
//!
//! Every sum is taken the same way: 16 running sums over a block of 512 terms, added pairwise; then the blocks,
//! added pairwise. The order depends on the length alone and no multiplication is fused with an addition, so a
//! result has the same bits on every platform. A term takes part in at most [`depth`] additions, so with unit
//! roundoff `u`
//!
//! $$|\hat s - s| \le \gamma_{d+1} \sum_i |t_i|, \qquad \gamma_m = \frac{m u}{1 - m u}, \quad d = \text{depth}(n),$$
//!
//! for a sum of terms `t_i` that are products (`γ_d` when they are inputs), as long as no product underflows.

use crate::error::{Error, check_shape};
use crate::scalar::Real;

/// Independent running sums: enough for four 16-byte registers of `f32`, eight of `f64`.
const LANES: usize = 16;
/// Terms summed by the lanes before the pairwise tree takes over.
const BLOCK: usize = 512;

/// The largest number of additions that a term of a sum of `len` terms takes part in: `36 + ceil(log2(blocks))`
/// with blocks of 512 terms. See the [module](self) for the error bound that it gives.
pub const fn depth(len: usize) -> usize {
    let blocks = len.div_ceil(BLOCK);
    BLOCK / LANES + LANES.ilog2() as usize + if blocks > 1 { (blocks - 1).ilog2() as usize + 1 } else { 0 }
}

/// `sum_i term(x_i, y_i)` over slices of one length, by halving down to single blocks.
fn pairwise<T: Real>(x: &[T], y: &[T], term: impl Fn(T, T) -> T + Copy) -> T {
    if x.len() <= BLOCK {
        return block(x, y, term);
    }
    let middle = x.len().div_ceil(BLOCK).div_ceil(2) * BLOCK;
    let (x0, x1) = x.split_at(middle);
    let (y0, y1) = y.split_at(middle);
    pairwise(x0, y0, term) + pairwise(x1, y1, term)
}

/// As [`pairwise`], for at most one block.
#[inline]
fn block<T: Real>(x: &[T], y: &[T], term: impl Fn(T, T) -> T) -> T {
    let mut lanes = [T::ZERO; LANES];
    let (xs, x_rest) = x.as_chunks::<LANES>();
    let (ys, y_rest) = y.as_chunks::<LANES>();
    for (x, y) in xs.iter().zip(ys) {
        for l in 0..LANES {
            lanes[l] += term(x[l], y[l]);
        }
    }
    for (lane, (&x, &y)) in lanes.iter_mut().zip(x_rest.iter().zip(y_rest)) {
        *lane += term(x, y);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            lanes[l] += lanes[l + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// `sum_i x_i`. Zero for an empty slice.
///
/// ```
/// assert_eq!(ascribe_core::reduce::sum(&[1.0_f32; 1000]), 1000.0);
/// ```
pub fn sum<T: Real>(x: &[T]) -> T {
    pairwise(x, x, |x, _| x)
}

/// `sum_i |x_i|`, the 1-norm.
pub fn sum_abs<T: Real>(x: &[T]) -> T {
    pairwise(x, x, |x, _| x.abs())
}

/// `sum_i x_i^2`, the squared Euclidean norm. Infinite when a square or the sum exceeds [`Real::MAX`].
pub fn norm2_squared<T: Real>(x: &[T]) -> T {
    pairwise(x, x, |x, _| x * x)
}

/// The Euclidean norm `sqrt(sum_i x_i^2)`, without overflow or underflow of the squares.
///
/// The common case costs one pass. When the sum of squares is infinite or so small that squares may have been
/// lost, two more passes divide by the largest entry first. NaN when an entry is NaN, otherwise infinite when
/// one is infinite.
///
/// Relative error at most `γ_m / 2 + u` with `m = depth(n) + 1`, and `3 u` more when entries are divided.
///
/// ```
/// assert_eq!(ascribe_core::reduce::norm2(&[3e300, 4e300]), 5e300);
/// ```
pub fn norm2<T: Real>(x: &[T]) -> T {
    let squared = norm2_squared(x);
    // n squares that underflow lose at most n MIN_POSITIVE EPSILON: below n EPSILON^2 of a sum above this threshold.
    if squared.is_finite() && squared >= T::MIN_POSITIVE / T::EPSILON {
        return squared.sqrt();
    }
    let largest = max_abs(x);
    if largest == T::ZERO || !largest.is_finite() {
        return largest;
    }
    let scaled = pairwise(x, x, |x, _| (x / largest) * (x / largest));
    largest * scaled.sqrt()
}

/// `max_i |x_i|`. Zero for an empty slice, NaN when any entry is NaN. Exact.
pub fn max_abs<T: Real>(x: &[T]) -> T {
    // The maximum that keeps a NaN: one fails every comparison and so enters; once in, it stays.
    let larger = |a: T, b: T| if a >= b || a.is_nan() { a } else { b };
    let mut lanes = [T::ZERO; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for l in 0..LANES {
            lanes[l] = larger(lanes[l], chunk[l].abs());
        }
    }
    lanes.into_iter().chain(rest.iter().map(|x| x.abs())).fold(T::ZERO, larger)
}

/// `sum_i x_i y_i`. See the [module](self) for the order of summation and the error bound.
///
/// # Errors
/// [`Error::Shape`] when the lengths differ.
///
/// # Examples
/// ```
/// use ascribe_core::{Error, reduce::dot};
/// assert_eq!(dot(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0])?, 32.0);
/// assert_eq!(dot(&[1.0, 2.0], &[4.0]), Err(Error::Shape { what: "y elements", expected: 2, got: 1 }));
/// # Ok::<(), Error>(())
/// ```
pub fn dot<T: Real>(x: &[T], y: &[T]) -> Result<T, Error> {
    check_shape("y elements", x.len(), y.len())?;
    Ok(pairwise(x, y, |x, y| x * y))
}

/// `y += alpha x`, two roundings an element.
///
/// # Errors
/// [`Error::Shape`] when the lengths differ.
pub fn axpy<T: Real>(y: &mut [T], alpha: T, x: &[T]) -> Result<(), Error> {
    check_shape("x elements", y.len(), x.len())?;
    for (y, &x) in y.iter_mut().zip(x) {
        *y += alpha * x;
    }
    Ok(())
}

/// `x *= alpha`. A factor of zero keeps NaN, as multiplication does.
pub fn scale<T: Real>(x: &mut [T], alpha: T) {
    for x in x {
        *x *= alpha;
    }
}
