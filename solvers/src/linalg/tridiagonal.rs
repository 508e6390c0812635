//! Reduction of a symmetric matrix to tridiagonal form by Householder reflections, and the way back.
//!
//! Half of the work is a product of the trailing matrix and a vector for each column, bound by memory: it reads one
//! triangle once. The other half is gathered into panels and done as matrix products.

use ascribe_core::{MatMut, MatRef};
use faer::{Accum, Par};

use super::matmul;
use super::product::view_mut;
use super::sweep::{Rows, combine, dots, symmetric};
use crate::Error;
use crate::parallel::{Parallelism, for_each};

/// Columns of a panel.
const PANEL: usize = 32;
/// Reflections that are applied to the eigenvectors at once.
const BLOCK: usize = 64;
/// Strips that the trailing matrix is cut into for its product with a vector, if it has the elements for them.
const STRIPS: usize = 8;
/// Elements of such a strip: below, waking a thread costs more than it saves.
const STRIP_ELEMENTS: usize = 1 << 14;
/// Rows of the trailing matrix that one task updates.
const UPDATE_ROWS: usize = 64;

/// `A = Q T Q^T` with `Q = H_0 H_1 ..`, `H_j = I - tau_j v_j v_j^T`.
pub(super) struct Tridiagonal {
    pub diagonal: Vec<f64>,
    /// Beside the diagonal; one element less.
    pub off_diagonal: Vec<f64>,
    /// Row `j` holds `v_j`: zero up to `j`, then one, then the rest.
    reflectors: Vec<f64>,
    tau: Vec<f64>,
}

impl Tridiagonal {
    /// Reduces the matrix whose upper triangle is in the row-major `a`.
    pub(super) fn reduce(mut a: Vec<f64>, n: usize, par: Parallelism) -> Self {
        let mut diagonal = vec![0.0; n];
        let mut off_diagonal = vec![0.0; n.saturating_sub(1)];
        let mut tau = vec![0.0; n];
        let mut panel = Panel::new(n);
        for start in (0..n).step_by(PANEL) {
            let end = n.min(start + PANEL);
            for j in start..end {
                let (head, trailing) = a.split_at_mut((j + 1) * n);
                let (before, row) = head[j * n..].split_at_mut(j);
                before.fill(0.0);
                panel.subtract(row, j, j);
                diagonal[j] = core::mem::take(&mut row[0]);
                if let Some(beside) = off_diagonal.get_mut(j) {
                    (*beside, tau[j]) = reflect(&mut row[1..]);
                    panel.push(trailing, &row[1..], tau[j], par);
                }
            }
            panel.update(&mut a, end, par);
        }
        Self { diagonal, off_diagonal, reflectors: a, tau }
    }

    /// `z = Q z` for the row-major `n x n` matrix `z`.
    pub(super) fn rotate(&self, z: &mut [f64], par: Parallelism) -> Result<(), Error> {
        let n = self.diagonal.len();
        let mut products = vec![0.0; 2 * BLOCK * n];
        for start in (0..n.saturating_sub(1)).step_by(BLOCK).rev() {
            let (b, m) = (BLOCK.min(n - 1 - start), n - 1 - start);
            let elements = &self.reflectors[start * n + start + 1..(start + b) * n];
            let v = MatRef::with_stride(elements, b, m, n)?;
            let factor = self.triangular_factor(v, start, par)?;
            let (product, factored) = products.split_at_mut(BLOCK * n);
            let (product, factored) = (&mut product[..b * n], &mut factored[..b * n]);
            let z = &mut z[(start + 1) * n..];
            matmul(MatMut::new(product, b, n)?, 0.0, 1.0, v, MatRef::new(z, m, n)?, par)?;
            matmul(
                MatMut::new(factored, b, n)?,
                0.0,
                1.0,
                MatRef::new(&factor, b, b)?,
                MatRef::new(product, b, n)?,
                par,
            )?;
            matmul(MatMut::new(z, m, n)?, 1.0, -1.0, v.t(), MatRef::new(factored, b, n)?, par)?;
        }
        Ok(())
    }

    /// The upper triangular `F` with `H_start H_{start + 1} .. = I - V^T F V` for the rows `V` of reflectors.
    fn triangular_factor(&self, v: MatRef<'_, f64>, start: usize, par: Parallelism) -> Result<Vec<f64>, Error> {
        let b = v.rows();
        let mut gram = vec![0.0; b * b];
        matmul(MatMut::new(&mut gram, b, b)?, 0.0, 1.0, v, v.t(), par)?;
        let mut factor = vec![0.0; b * b];
        for k in 0..b {
            let tau = self.tau[start + k];
            for i in 0..k {
                let sum: f64 = (i..k).map(|l| factor[i * b + l] * gram[l * b + k]).sum();
                factor[i * b + k] = -tau * sum;
            }
            factor[k * b + k] = tau;
        }
        Ok(factor)
    }
}

/// Makes `x` the vector `v` of a reflection that takes it to a multiple of the first unit vector; that multiple
/// and `tau`.
fn reflect(x: &mut [f64]) -> (f64, f64) {
    let (first, rest) = x.split_at_mut(1);
    let alpha = core::mem::replace(&mut first[0], 1.0);
    let mut square = [0.0];
    dots(&mut square, Rows { elements: rest, stride: rest.len() }, rest);
    // Squares that underflow would spoil the reflection; the matrix is scaled, so what is that small is rounding.
    if square[0] < f64::MIN_POSITIVE / f64::EPSILON {
        rest.fill(0.0);
        return (alpha, 0.0);
    }
    let beta = -(alpha * alpha + square[0]).sqrt().copysign(alpha);
    let inverse = 1.0 / (alpha - beta);
    for x in rest {
        *x *= inverse;
    }
    (beta, (beta - alpha) / beta)
}

/// The reflections of a panel, not yet applied to the trailing matrix: `A - sum_k (v_k w_k^T + w_k v_k^T)`.
struct Panel {
    n: usize,
    /// `v_0, w_0, v_1, w_1, ..`, each of length `n`.
    left: Vec<f64>,
    /// `w_0, v_0, w_1, v_1, ..`.
    right: Vec<f64>,
    /// Rows in use of both.
    rows: usize,
    coefficients: Vec<f64>,
    /// The product with the trailing matrix, and what each strip adds to it.
    product: Vec<f64>,
    parts: Vec<f64>,
}

impl Panel {
    fn new(n: usize) -> Self {
        Self {
            n,
            left: vec![0.0; 2 * PANEL * n],
            right: vec![0.0; 2 * PANEL * n],
            rows: 0,
            coefficients: vec![0.0; 2 * PANEL],
            product: vec![0.0; n],
            parts: vec![0.0; STRIPS * n],
        }
    }

    /// Applies the reflections so far to elements `start ..` of row `i`, which `row` holds.
    fn subtract(&mut self, row: &mut [f64], i: usize, start: usize) {
        let coefficients = &mut self.coefficients[..self.rows];
        for (k, coefficient) in coefficients.iter_mut().enumerate() {
            *coefficient = -self.left[k * self.n + i];
        }
        combine(row, coefficients, Rows { elements: &self.right[start..], stride: self.n });
    }

    /// Adds the reflection `v`, `tau`. `trailing` holds whole rows, of which the last `v.len()` columns count.
    fn push(&mut self, trailing: &[f64], v: &[f64], tau: f64, par: Parallelism) {
        let (n, m, rows) = (self.n, v.len(), self.rows);
        let start = n - m;
        multiply(&mut self.product[..m], &mut self.parts, &trailing[start..], n, v, par);
        let w = &mut self.product[..m];
        let coefficients = &mut self.coefficients[..rows];
        if rows > 0 {
            dots(coefficients, Rows { elements: &self.left[start..], stride: n }, v);
            for coefficient in coefficients.iter_mut() {
                *coefficient = -*coefficient;
            }
            combine(w, coefficients, Rows { elements: &self.right[start..], stride: n });
        }
        let mut overlap = [0.0];
        dots(&mut overlap, Rows { elements: w, stride: m }, v);
        let shift = -0.5 * tau * tau * overlap[0];
        for (w, v) in w.iter_mut().zip(v) {
            *w = tau * *w + shift * v;
        }
        for (target, [first, second]) in [(&mut self.left, [v, w]), (&mut self.right, [w, v])] {
            let (one, other) = target[rows * n..(rows + 2) * n].split_at_mut(n);
            for (target, source) in [(one, first), (other, second)] {
                target[..start].fill(0.0);
                target[start..].copy_from_slice(source);
            }
        }
        self.rows += 2;
    }

    /// Applies the panel to rows and columns `start ..` of `a`, upper triangle, and empties it.
    fn update(&mut self, a: &mut [f64], start: usize, par: Parallelism) {
        let (n, rows) = (self.n, core::mem::take(&mut self.rows));
        let [left, right] =
            [&self.left, &self.right].map(|x| faer::MatRef::from_row_major_slice(&x[..rows * n], rows, n));
        let tasks = a[start * n..].chunks_mut(UPDATE_ROWS * n).zip((start..n).step_by(UPDATE_ROWS));
        let _: Result<(), core::convert::Infallible> = for_each(par, tasks.collect(), |(strip, first)| {
            let height = strip.len() / n;
            let out = view_mut(strip, height, n, n).subcols_mut(first, n - first);
            let (left, right) = (left.subcols(first, height).transpose(), right.subcols(first, n - first));
            faer::linalg::matmul::matmul(out, Accum::Add, left, right, -1.0, Par::Seq);
            Ok(())
        });
    }
}

/// `out = A x` for the symmetric matrix whose upper triangle is in `a`.
fn multiply(out: &mut [f64], parts: &mut [f64], a: &[f64], stride: usize, x: &[f64], par: Parallelism) {
    let m = x.len();
    let strips = (m * m / 2 / STRIP_ELEMENTS).clamp(1, STRIPS);
    // Strips of equal area: above row r is the share 1 - (1 - r/m)^2 of the triangle.
    let edge = |s: usize| m - (m as f64 * (1.0 - s as f64 / strips as f64).sqrt()) as usize;
    let mut tasks = Vec::with_capacity(strips);
    let mut rest = &mut parts[..];
    for s in 0..strips {
        let (part, others) = rest.split_at_mut(m - edge(s));
        rest = others;
        tasks.push((edge(s), edge(s + 1), part));
    }
    let _: Result<(), core::convert::Infallible> = for_each(par, tasks, |(first, last, part)| {
        symmetric(part, Rows { elements: &a[first * stride..], stride }, x, first, last);
        Ok(())
    });
    out.fill(0.0);
    let mut rest = &parts[..];
    for s in 0..strips {
        let (part, others) = rest.split_at(m - edge(s));
        rest = others;
        out[edge(s)..].iter_mut().zip(part).for_each(|(out, part)| *out += part);
    }
}
