//! The secular equation: eigenvalues and eigenvectors of `diag(d) + rho z z^T`.

use pulp::Arch;

use crate::parallel::{Parallelism, for_each};

/// Terms summed side by side, so that the sums fill vector registers.
const LANES: usize = 8;
/// Elements of a `k x k` matrix that one task computes.
const TASK: usize = 1 << 15;
/// Steps by interpolation before the bracket is halved instead; three to six are usual.
const INTERPOLATIONS: usize = 30;

/// A root, as its distance from the closest pole: the difference to any pole then has a small relative error,
/// which is what makes the eigenvectors orthogonal.
#[derive(Clone, Copy, Default)]
pub(super) struct Root {
    /// The pole.
    pub pole: f64,
    /// What is to be added to it.
    pub shift: f64,
}

impl Root {
    pub(super) fn value(self) -> f64 {
        self.pole + self.shift
    }

    /// `d - root`.
    #[inline(always)]
    pub(super) fn below(self, d: f64) -> f64 {
        (d - self.pole) - self.shift
    }
}

/// `diag(d) + rho z z^T` with `d` ascending, all `z` other than 0 and `rho > 0`. Its eigenvalues are the roots of
/// `f(x) = 1/rho + sum_i z_i^2 / (d_i - x)`, one above each `d_i` and below the next.
pub(super) struct Secular<'s> {
    pub d: &'s [f64],
    pub z: &'s [f64],
    pub rho: f64,
}

impl Secular<'_> {
    /// The eigenvalues, ascending.
    pub(super) fn roots(&self, par: Parallelism) -> Vec<Root> {
        let mut roots = vec![Root::default(); self.d.len()];
        let height = self.rows_of_a_task();
        pieces(
            par,
            &mut roots,
            height,
            #[inline(always)]
            |start, roots| {
                for (j, root) in roots.iter_mut().enumerate() {
                    *root = self.root(start + j);
                }
            },
        );
        roots
    }

    /// The vector in the place of `z`, up to a factor, for which the computed roots are exact: eigenvectors formed
    /// with it are orthogonal however close the roots (Gu and Eisenstat).
    pub(super) fn refined(&self, roots: &[Root], par: Parallelism) -> Vec<f64> {
        let mut refined = vec![0.0; self.d.len()];
        let height = self.rows_of_a_task();
        pieces(
            par,
            &mut refined,
            height,
            #[inline(always)]
            |start, refined| {
                for (x, i) in refined.iter_mut().zip(start..) {
                    let d = self.d[i];
                    let before = ratios(d, &self.d[..i], &roots[..i]);
                    let behind = ratios(d, &self.d[i + 1..], &roots[i + 1..]);
                    *x = (before * behind * roots[i].below(d)).abs().sqrt().copysign(self.z[i]);
                }
            },
        );
        refined
    }

    fn rows_of_a_task(&self) -> usize {
        (TASK / self.d.len().max(1)).max(1)
    }
}

/// Row `j` of the row-major `out` becomes the eigenvector of `roots[j]`: `z_i / (d_i - root)`, normalised. `d` and `z`
/// in any common order.
pub(super) fn eigenvectors(out: &mut [f64], d: &[f64], z: &[f64], roots: &[Root], par: Parallelism) {
    let k = d.len().max(1);
    let height = (TASK / k).max(1);
    pieces(
        par,
        out,
        height * k,
        #[inline(always)]
        |start, out| {
            for (row, root) in out.chunks_exact_mut(k).zip(&roots[start / k..]) {
                for ((x, d), z) in row.iter_mut().zip(d).zip(z) {
                    *x = z / root.below(*d);
                }
                let scale = 1.0 / sum_of_squares(row).sqrt();
                for x in row {
                    *x *= scale;
                }
            }
        },
    );
}

/// Runs `f` with vector instructions on pieces of `len` elements, each with the index of its first.
fn pieces<T: Send>(par: Parallelism, x: &mut [T], len: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let tasks = x.chunks_mut(len).zip((0..).step_by(len)).collect();
    let _: Result<(), core::convert::Infallible> = for_each(par, tasks, |(x, start)| {
        Arch::new().dispatch(
            #[inline(always)]
            || f(start, x),
        );
        Ok(())
    });
}

/// The sum over some poles of `z^2 / (d - x)`, and its derivative.
#[derive(Clone, Copy)]
struct Sum {
    value: f64,
    slope: f64,
}

impl Secular<'_> {
    /// The root between `d[j]` and `d[j + 1]`, or above the last.
    #[inline(always)]
    fn root(&self, j: usize) -> Root {
        let Self { d, z, rho } = *self;
        let k = d.len();
        let last = j + 1 == k;
        if k == 1 {
            return Root { pole: d[0], shift: rho * z[0] * z[0] };
        }
        // The two poles that interpolation keeps: those around the root, or the last two.
        let left = if last { k - 2 } else { j };
        let width = if last { rho * z.iter().map(|z| z * z).sum::<f64>() } else { d[j + 1] - d[j] };
        let halfway = Root { pole: d[j], shift: 0.5 * width };
        let (psi, phi) = self.sums(halfway, left);
        let f = 1.0 / rho + psi.value + phi.value;
        let upper = f < 0.0;
        let pole = if upper && !last { d[j + 1] } else { d[j] };
        let (mut low, mut high) = match (upper, last) {
            (false, _) => (0.0, 0.5 * width),
            (true, false) => (-0.5 * width, 0.0),
            (true, true) => (0.5 * width, width),
        };
        // The first guess takes these two poles as they are and all others as constant.
        let mut shift = {
            let [one, two] = [left, left + 1].map(|i| (halfway.below(d[i]), z[i] * z[i]));
            let constant = f - one.1 / one.0 - two.1 / two.0;
            let [from_one, from_two] = [d[left] - pole, d[left + 1] - pole];
            interpolate(constant, [from_one, from_two], [one.1, two.1], last)
        };
        for step in 0.. {
            if !(low < shift && shift < high) || step > INTERPOLATIONS {
                shift = 0.5 * (low + high);
                if !(low < shift && shift < high) {
                    break;
                }
            }
            let root = Root { pole, shift };
            let (psi, phi) = self.sums(root, left);
            let f = 1.0 / rho + psi.value + phi.value;
            let slope = psi.slope + phi.slope;
            let rounding = 8.0 * (1.0 / rho + phi.value.abs() + psi.value.abs()) + shift.abs() * slope;
            if f.abs() <= f64::EPSILON * rounding {
                break;
            }
            *(if f < 0.0 { &mut low } else { &mut high }) = shift;
            let poles = [root.below(d[left]), root.below(d[left + 1])];
            let weights = [poles[0] * poles[0] * psi.slope, poles[1] * poles[1] * phi.slope];
            let constant = f - poles[0] * psi.slope - poles[1] * phi.slope;
            shift += interpolate(constant, poles, weights, last);
        }
        Root { pole, shift }
    }

    /// The sums over the poles up to `left` and over the others.
    #[inline(always)]
    fn sums(&self, x: Root, left: usize) -> (Sum, Sum) {
        let (d, others) = self.d.split_at(left + 1);
        let (z, other_z) = self.z.split_at(left + 1);
        (sum(d, z, x), sum(others, other_z, x))
    }
}

/// [`Sum`] over the poles `d`.
#[inline(always)]
fn sum(d: &[f64], z: &[f64], x: Root) -> Sum {
    let (d, d_rest) = d.as_chunks::<LANES>();
    let (z, z_rest) = z.as_chunks::<LANES>();
    // Poles at infinity without weight fill up the last chunk.
    let (mut last_d, mut last_z) = ([f64::INFINITY; LANES], [0.0; LANES]);
    last_d[..d_rest.len()].copy_from_slice(d_rest);
    last_z[..z_rest.len()].copy_from_slice(z_rest);
    let mut value = [0.0; LANES];
    let mut slope = [0.0; LANES];
    for (d, z) in d.iter().zip(z).chain([(&last_d, &last_z)]) {
        for lane in 0..LANES {
            let term = z[lane] / x.below(d[lane]);
            value[lane] += z[lane] * term;
            slope[lane] += term * term;
        }
    }
    Sum { value: value.iter().sum(), slope: slope.iter().sum() }
}

/// The zero of `constant + w_0 / (p_0 - x) + w_1 / (p_1 - x)` between the two poles, or `beyond` both.
#[inline(always)]
fn interpolate(constant: f64, p: [f64; 2], w: [f64; 2], beyond: bool) -> f64 {
    // constant x^2 - a x + b = 0
    let a = constant * (p[0] + p[1]) + w[0] + w[1];
    let b = constant * p[0] * p[1] + w[0] * p[1] + w[1] * p[0];
    let root = (a * a - 4.0 * b * constant).max(0.0).sqrt();
    match (beyond, a > 0.0) {
        (false, false) => (a - root) / (2.0 * constant),
        (false, true) => 2.0 * b / (a + root),
        (true, true) => (a + root) / (2.0 * constant),
        (true, false) => 2.0 * b / (a - root),
    }
}

/// The product of `(x - root_j) / (x - d_j)`. Roots and poles interlace, so that no partial product overflows.
#[inline(always)]
fn ratios(x: f64, d: &[f64], roots: &[Root]) -> f64 {
    let (d, d_rest) = d.as_chunks::<LANES>();
    let (roots, roots_rest) = roots.as_chunks::<LANES>();
    let mut product = [1.0; LANES];
    for (d, roots) in d.iter().zip(roots) {
        for lane in 0..LANES {
            product[lane] *= roots[lane].below(x) / (x - d[lane]);
        }
    }
    for (product, (d, root)) in product.iter_mut().zip(d_rest.iter().zip(roots_rest)) {
        *product *= root.below(x) / (x - d);
    }
    product.iter().product()
}

#[inline(always)]
fn sum_of_squares(x: &[f64]) -> f64 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            sums[lane] += chunk[lane] * chunk[lane];
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += x * x;
    }
    sums.iter().sum()
}
