//! One sweep over rows of a matrix: inner products with a vector and a combination of the rows at the same time,
//! so that a symmetric matrix, of which one triangle is kept, is read once for its product with a vector.

use pulp::{Arch, Simd, WithSimd};

/// Rows taken at once: `x` and `z` are then loaded once for four rows.
const ROWS: usize = 4;

/// Rows of length `x.len()`, each a stride behind the last.
#[derive(Clone, Copy)]
pub(super) struct Rows<'s> {
    pub elements: &'s [f64],
    pub stride: usize,
}

impl<'s> Rows<'s> {
    #[inline(always)]
    fn row(self, i: usize, start: usize, len: usize) -> &'s [f64] {
        &self.elements[i * self.stride + start..][..len]
    }
}

/// Writes the inner products of `x` with `out.len()` rows.
pub(super) fn dots(out: &mut [f64], rows: Rows<'_>, x: &[f64]) {
    Arch::new().dispatch(Dots { out, rows, x });
}

/// `z += sum_i coefficients[i] rows[i]`.
pub(super) fn combine(z: &mut [f64], coefficients: &[f64], rows: Rows<'_>) {
    Arch::new().dispatch(Combine { z, coefficients, rows });
}

/// Writes into `z` what rows `first .. last` of the upper triangle contribute to the product of a symmetric matrix
/// and `x`: element `i` of `z` belongs to index `first + i`. `rows` starts at row `first`.
pub(super) fn symmetric(z: &mut [f64], rows: Rows<'_>, x: &[f64], first: usize, last: usize) {
    Arch::new().dispatch(Symmetric { z, rows, x, first, last });
}

struct Dots<'s> {
    out: &'s mut [f64],
    rows: Rows<'s>,
    x: &'s [f64],
}

struct Combine<'s> {
    z: &'s mut [f64],
    coefficients: &'s [f64],
    rows: Rows<'s>,
}

struct Symmetric<'s> {
    z: &'s mut [f64],
    rows: Rows<'s>,
    x: &'s [f64],
    first: usize,
    last: usize,
}

impl WithSimd for Dots<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { out, rows, x } = self;
        for (i, out) in out.chunks_mut(ROWS).enumerate() {
            // The last group takes one row several times rather than another path.
            let group = core::array::from_fn(|r| rows.row(ROWS * i + r.min(out.len() - 1), 0, x.len()));
            let products = sweep::<S, true, false>(simd, group, [0.0; ROWS], x, &mut []);
            out.copy_from_slice(&products[..out.len()]);
        }
    }
}

impl WithSimd for Combine<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { z, coefficients, rows } = self;
        for (i, some) in coefficients.chunks(ROWS).enumerate() {
            let group = core::array::from_fn(|r| rows.row(ROWS * i + r.min(some.len() - 1), 0, z.len()));
            let factors = core::array::from_fn(|r| if r < some.len() { some[r] } else { 0.0 });
            sweep::<S, false, true>(simd, group, factors, &[], z);
        }
    }
}

impl WithSimd for Symmetric<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { z, rows, x, first, last } = self;
        z.fill(0.0);
        let n = x.len();
        let mut i = first;
        while i < last {
            let height = ROWS.min(last - i);
            let end = i + height;
            for r in i..end {
                let row = rows.row(r - first, 0, n);
                z[r - first] += row[r] * x[r];
                for c in r + 1..end {
                    z[r - first] += row[c] * x[c];
                    z[c - first] += row[c] * x[r];
                }
            }
            let group = core::array::from_fn(|r| rows.row(i - first + r.min(height - 1), end, n - end));
            let factors = core::array::from_fn(|r| if r < height { x[i + r] } else { 0.0 });
            let (head, tail) = z.split_at_mut(end - first);
            let products = sweep::<S, true, true>(simd, group, factors, &x[end..], tail);
            for (z, product) in head[i - first..].iter_mut().zip(products) {
                *z += product;
            }
            i = end;
        }
    }
}

/// The inner products of four rows and `x`, and `z += sum_r factors[r] rows[r]`; either part may be left out.
#[inline(always)]
fn sweep<S: Simd, const DOT: bool, const ADD: bool>(
    simd: S,
    rows: [&[f64]; ROWS],
    factors: [f64; ROWS],
    x: &[f64],
    z: &mut [f64],
) -> [f64; ROWS] {
    let split = rows.map(|row| S::as_simd_f64s(row));
    let (x_head, x_tail) = S::as_simd_f64s(x);
    let (z_head, z_tail) = S::as_mut_simd_f64s(z);
    let whole = split[0].0.len();
    // One length for all, so that the compiler sees that no index is out of bounds.
    let heads = split.map(|(head, _)| &head[..whole]);
    let x_head = if DOT { &x_head[..whole] } else { x_head };
    let z_head = if ADD { &mut z_head[..whole] } else { z_head };
    let mut splat = [simd.splat_f64s(0.0); ROWS];
    let mut sums = splat;
    for (splat, factor) in splat.iter_mut().zip(factors) {
        *splat = simd.splat_f64s(factor);
    }
    for p in 0..whole {
        let a = [heads[0][p], heads[1][p], heads[2][p], heads[3][p]];
        if DOT {
            for (sum, a) in sums.iter_mut().zip(a) {
                *sum = simd.mul_add_f64s(a, x_head[p], *sum);
            }
        }
        if ADD {
            let even = simd.mul_add_f64s(a[0], splat[0], z_head[p]);
            let even = simd.mul_add_f64s(a[2], splat[2], even);
            let odd = simd.mul_add_f64s(a[3], splat[3], simd.mul_f64s(a[1], splat[1]));
            z_head[p] = simd.add_f64s(even, odd);
        }
    }
    if !split[0].1.is_empty() {
        for r in 0..ROWS {
            let a = simd.partial_load_f64s(split[r].1);
            if DOT {
                sums[r] = simd.mul_add_f64s(a, simd.partial_load_f64s(x_tail), sums[r]);
            }
            if ADD {
                let z = simd.partial_load_f64s(z_tail);
                simd.partial_store_f64s(z_tail, simd.mul_add_f64s(a, splat[r], z));
            }
        }
    }
    let mut products = [0.0; ROWS];
    if DOT {
        for (product, sum) in products.iter_mut().zip(sums) {
            *product = simd.reduce_sum_f64s(sum);
        }
    }
    products
}
