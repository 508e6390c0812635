//! The fast Walsh-Hadamard transform.

use crate::error::Error;
use crate::reduce;
use crate::scalar::{Real, Scalar};
use crate::view::MatMut;

/// Elements that stay in the first-level cache: longer rows are cut into parts before these are finished one by one.
const CACHED: usize = 4096;
/// Elements of the smallest parts, whose butterflies are done in registers.
const BASE: usize = 16;

/// Replaces each row by its orthonormal Walsh-Hadamard transform, in natural order.
///
/// $(H x)_i = n^{-1/2} \sum_j (-1)^{\mathrm{popcount}(i \wedge j)} x_j$ for rows of `n` elements, a power of two.
/// `H` is symmetric and its own inverse, so the norm of a row stays and applying it twice gives the row back.
///
/// Cost: `n log2 n + n` flops a row, in place. Two levels of butterflies are done in one pass; rows longer than 4096
/// elements depth first, so that nearly all passes run within a cache. Error: each element is a sum over a binary tree,
/// so it is off by at most $\gamma_{2 + \log_2 n}\, n^{-1/2} \sum_j |x_j|$.
///
/// # Errors
/// [`Error::Parameter`] when the number of columns is not a power of two.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, sketch::walsh_hadamard};
/// let mut x = [1.0, 0.0, 0.0, 3.0];
/// walsh_hadamard(MatMut::from_row(&mut x))?;
/// assert_eq!(x, [2.0, -1.0, -1.0, 2.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
pub fn walsh_hadamard<T: Real>(mut rows: MatMut<'_, T>) -> Result<(), Error> {
    let n = rows.cols();
    if !n.is_power_of_two() {
        return Err(Error::Parameter { what: "columns", value: n as f64, must_be: "a power of two" });
    }
    // Scaled first: no partial sum is then larger than an element of the result may be.
    let factor = T::from_f64(1.0 / Scalar::sqrt(n as f64));
    rows.for_each_row(|_, row| {
        reduce::scale(row, factor);
        butterflies(row);
    });
    Ok(())
}

/// The transform without its factor. The length is a power of two.
pub(super) fn butterflies<T: Real>(x: &mut [T]) {
    if x.len() > CACHED {
        let part = x.len() / 4;
        quarters(x);
        x.chunks_exact_mut(part).for_each(butterflies);
        return;
    }
    let mut len = x.len();
    while len >= 4 * BASE {
        x.chunks_exact_mut(len).for_each(quarters);
        len /= 4;
    }
    if len > BASE {
        x.chunks_exact_mut(len).for_each(halves);
    }
    let (parts, rest) = x.as_chunks_mut::<BASE>();
    parts.iter_mut().for_each(small);
    let mut len = rest.len();
    while len > 1 {
        rest.chunks_exact_mut(len).for_each(halves);
        len /= 2;
    }
}

/// The highest two levels of butterflies: elements a quarter and a half of the length apart.
fn quarters<T: Real>(x: &mut [T]) {
    let (low, high) = x.split_at_mut(x.len() / 2);
    let ((a, b), (c, d)) = (low.split_at_mut(low.len() / 2), high.split_at_mut(high.len() / 2));
    four(a, b, c, d);
}

/// Not inlined: as arguments, the slices are known not to overlap, which is what vectorising the loop takes.
#[inline(never)]
fn four<T: Real>(a: &mut [T], b: &mut [T], c: &mut [T], d: &mut [T]) {
    for (((a, b), c), d) in a.iter_mut().zip(b).zip(c).zip(d) {
        let (p, q, r, s) = (*a + *b, *a - *b, *c + *d, *c - *d);
        (*a, *b, *c, *d) = (p + r, q + s, p - r, q - s);
    }
}

/// The highest level of butterflies.
fn halves<T: Real>(x: &mut [T]) {
    let (low, high) = x.split_at_mut(x.len() / 2);
    for (a, b) in low.iter_mut().zip(high) {
        (*a, *b) = (*a + *b, *a - *b);
    }
}

/// The whole transform of a part.
#[inline]
fn small<T: Real>(x: &mut [T; BASE]) {
    let mut v = *x;
    let mut distance = BASE / 2;
    while distance > 0 {
        let old = v;
        for i in 0..BASE {
            v[i] = if i & distance == 0 { old[i] + old[i | distance] } else { old[i & !distance] - old[i] };
        }
        distance /= 2;
    }
    *x = v;
}
