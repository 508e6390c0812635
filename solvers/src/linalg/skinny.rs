//! The product `A B^T` of a matrix and a few rows, as inner products.
//!
//! Networks end in few outputs. A product with so few columns leaves most of a packed kernel's vector lanes empty;
//! taking the lanes along the inner dimension instead fills them, and nothing needs to be packed.

use pulp::{Arch, Simd, WithSimd};

use crate::parallel::{Parallelism, for_each};

/// Rows of `B` up to which this form is the faster one.
pub(super) const COLUMNS: usize = 12;
/// Inner dimension from which it is: below, summing up the lanes costs too much.
pub(super) const DEPTH: usize = 128;

/// Multiply-adds of one task.
const TASK_WORK: usize = 1 << 22;
/// Rows of `A` and of `B` that are taken at once: 16 accumulators, as many as half of the vector registers.
const TILE: usize = 4;

/// Row-major operands: `out` is `m x n`, `a` is `m x k`, `b` is `n x k`, each with its row stride.
pub(super) struct Skinny<'s, F> {
    pub out: &'s mut [F],
    pub a: &'s [F],
    pub b: &'s [F],
    pub shape: [usize; 3],
    /// Of `out`, `a` and `b`.
    pub strides: [usize; 3],
    pub accumulate: bool,
    pub alpha: F,
}

/// The same code for both types: the methods of [`Simd`] carry the type in their names.
macro_rules! skinny {
    ($t:ident, $vector:ident, $split:ident, $load:ident, $zero:ident, $mul_add:ident, $sum:ident) => {
        impl Skinny<'_, $t> {
            /// `out = alpha a b^T`, or `out += alpha a b^T`.
            pub(super) fn run(self, par: Parallelism) {
                let Self { out, a, b, shape: [m, n, k], strides, accumulate, alpha } = self;
                let height = (TASK_WORK / (n * k).max(1)).max(TILE);
                let pieces = out.chunks_mut(height * strides[0]).zip((0..m).step_by(height));
                let tasks = pieces.map(|(out, start)| {
                    let shape = [height.min(m - start), n, k];
                    Skinny { out, a: &a[start * strides[1]..], b, shape, strides, accumulate, alpha }
                });
                let _: Result<(), core::convert::Infallible> = for_each(par, tasks.collect(), |task| {
                    Arch::new().dispatch(task);
                    Ok(())
                });
            }

            /// The products of `R` rows of `a` from `i` on and `C` rows of `b` from `j` on.
            #[inline(always)]
            fn tile<S: Simd, const R: usize, const C: usize>(&mut self, simd: S, i: usize, j: usize) {
                let [_, _, depth] = self.shape;
                let [out_stride, a_stride, b_stride] = self.strides;
                let (a_heads, a_tails) = Self::split::<S, R>(self.a, i, a_stride, depth);
                let (b_heads, b_tails) = Self::split::<S, C>(self.b, j, b_stride, depth);
                let mut sums = [[simd.$zero(0.0); C]; R];
                let mut add = |x: [S::$vector; R], y: [S::$vector; C]| {
                    for (sums, x) in sums.iter_mut().zip(x) {
                        for (sum, y) in sums.iter_mut().zip(y) {
                            *sum = simd.$mul_add(x, y, *sum);
                        }
                    }
                };
                // One length for all rows, so that the compiler sees that no index is out of bounds.
                let whole = a_heads[0].len();
                let (a_heads, b_heads) = (a_heads.map(|row| &row[..whole]), b_heads.map(|row| &row[..whole]));
                for p in 0..whole {
                    add(a_heads.map(|row| row[p]), b_heads.map(|row| row[p]));
                }
                if !a_tails[0].is_empty() {
                    add(a_tails.map(|row| simd.$load(row)), b_tails.map(|row| simd.$load(row)));
                }
                for (r, sums) in sums.into_iter().enumerate() {
                    let out = &mut self.out[(i + r) * out_stride + j..][..C];
                    for (out, sum) in out.iter_mut().zip(sums) {
                        let product = self.alpha * simd.$sum(sum);
                        *out = if self.accumulate { *out + product } else { product };
                    }
                }
            }

            /// `N` rows cut into whole vectors and the rest.
            #[inline(always)]
            fn split<S: Simd, const N: usize>(
                x: &[$t],
                first: usize,
                stride: usize,
                depth: usize,
            ) -> ([&[S::$vector]; N], [&[$t]; N]) {
                let rows: [_; N] = core::array::from_fn(|r| S::$split(&x[(first + r) * stride..][..depth]));
                (rows.map(|(head, _)| head), rows.map(|(_, tail)| tail))
            }

            #[inline(always)]
            fn columns<S: Simd, const R: usize>(&mut self, simd: S, i: usize) {
                let [_, n, _] = self.shape;
                let mut j = 0;
                while j + TILE <= n {
                    self.tile::<S, R, TILE>(simd, i, j);
                    j += TILE;
                }
                match n - j {
                    1 => self.tile::<S, R, 1>(simd, i, j),
                    2 => self.tile::<S, R, 2>(simd, i, j),
                    3 => self.tile::<S, R, 3>(simd, i, j),
                    _ => {}
                }
            }
        }

        impl WithSimd for Skinny<'_, $t> {
            type Output = ();
            #[inline(always)]
            fn with_simd<S: Simd>(mut self, simd: S) {
                let [m, _, _] = self.shape;
                let mut i = 0;
                while i + TILE <= m {
                    self.columns::<S, TILE>(simd, i);
                    i += TILE;
                }
                while i < m {
                    self.columns::<S, 1>(simd, i);
                    i += 1;
                }
            }
        }
    };
}

skinny!(f32, f32s, as_simd_f32s, partial_load_f32s, splat_f32s, mul_add_f32s, reduce_sum_f32s);
skinny!(f64, f64s, as_simd_f64s, partial_load_f64s, splat_f64s, mul_add_f64s, reduce_sum_f64s);
