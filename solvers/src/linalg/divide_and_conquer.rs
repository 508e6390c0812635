//! Eigendecomposition of a symmetric tridiagonal matrix by divide and conquer.
//!
//! The matrix is torn into small ones, `T = diag(T_0, T_1, ..) + sum rho u u^T`; two neighbours are merged by the
//! secular equation of a diagonal plus a rank-one matrix, whose eigenvectors are applied as a matrix product.
//! Eigenvectors that a merge does not change (deflation) are kept.

use ascribe_core::{MatMut, MatRef};
use faer::diag::{DiagMut, DiagRef};
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd_scratch, tridiagonal_self_adjoint_evd};
use faer::{Par, Spec};

use super::matmul;
use super::product::view_mut;
use super::secular::{Secular, eigenvectors};
use crate::Error;
use crate::parallel::{Parallelism, for_each};

/// Largest matrix that is left to the QR iteration.
const LEAF: usize = 32;
/// Fewer merges than this are done one after the other, with all threads in each.
const SIDE_BY_SIDE: usize = 4;
/// Elements of a matrix that one task of a merge computes.
const TASK: usize = 1 << 15;

/// Eigenvalues, ascending, of the tridiagonal `n x n` matrix, `n >= 1`; the eigenvectors become the columns of the
/// row-major `n x n` matrix `vectors`.
pub(super) fn tridiagonal_eigen(
    diagonal: &[f64],
    off_diagonal: &[f64],
    vectors: &mut [f64],
    par: Parallelism,
) -> Result<Vec<f64>, Error> {
    let n = diagonal.len();
    let levels = n.div_ceil(LEAF).next_power_of_two().ilog2();
    let edge = |level: u32, i: usize| (n * i) >> level;
    let mut values = diagonal.to_vec();
    for cut in (1..1 << levels).map(|i| edge(levels, i)) {
        let rho = off_diagonal[cut - 1].abs();
        values[cut - 1] -= rho;
        values[cut] -= rho;
    }
    vectors.fill(0.0);
    let mut order = vec![0; n];
    let mut scratch = vec![0.0; 2 * n * n];
    for level in (0..=levels).rev() {
        let mut nodes = Vec::with_capacity(1 << level);
        let (mut values, mut order) = (&mut values[..], &mut order[..]);
        let (mut vectors, mut scratch) = (&mut vectors[..], &mut scratch[..]);
        for i in 0..1 << level {
            let (start, size) = (edge(level, i), edge(level, i + 1) - edge(level, i));
            let middle = edge(level + 1, 2 * i + 1);
            nodes.push(Node {
                start,
                stride: n,
                half: middle - start,
                off_diagonal: &off_diagonal[start..start + size - 1],
                values: values.split_off_mut(..size).unwrap_or_default(),
                order: order.split_off_mut(..size).unwrap_or_default(),
                vectors: vectors.split_off_mut(..size * n).unwrap_or_default(),
                scratch: scratch.split_off_mut(..2 * size * n).unwrap_or_default(),
            });
        }
        let work = |node: Node<'_>, par| if level == levels { node.leaf() } else { node.merge(par) };
        if nodes.len() < SIDE_BY_SIDE {
            nodes.into_iter().try_for_each(|node| work(node, par))?;
        } else {
            for_each(par, nodes, |node| work(node, Parallelism::Serial))?;
        }
    }
    let rows: Vec<_> = vectors.chunks_mut((TASK / n).max(1) * n).collect();
    for_each(par, rows, |rows| {
        let mut row = vec![0.0; n];
        for target in rows.chunks_exact_mut(n) {
            row.copy_from_slice(target);
            target.iter_mut().zip(&order).for_each(|(x, &j)| *x = row[j]);
        }
        Ok::<_, Error>(())
    })?;
    Ok(order.iter().map(|&j| values[j]).collect())
}

/// A diagonal block of the tridiagonal matrix.
struct Node<'s> {
    /// First row and column of the block.
    start: usize,
    /// Length of a row of `vectors`.
    stride: usize,
    /// Rows of the upper half.
    half: usize,
    off_diagonal: &'s [f64],
    /// Eigenvalues of the two halves; those of the block afterwards.
    values: &'s mut [f64],
    /// Indices of the eigenvalues (of each half, then of the block) in ascending order.
    order: &'s mut [usize],
    /// Rows of the whole matrix of eigenvectors, of which the columns of the block are used.
    vectors: &'s mut [f64],
    scratch: &'s mut [f64],
}

/// Which rows of an eigenvector are not zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Support {
    Upper,
    Both,
    Lower,
}

/// `x, y` become `c x + s y, c y - s x`.
struct Rotation {
    x: usize,
    y: usize,
    c: f64,
    s: f64,
}

impl Node<'_> {
    fn leaf(self) -> Result<(), Error> {
        let n = self.values.len();
        let mut beside = self.off_diagonal.to_vec();
        beside.push(0.0);
        let diagonal = self.values.to_vec();
        let params = Spec::default();
        let scratch = self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, Par::Seq, params);
        tridiagonal_self_adjoint_evd(
            DiagRef::from_slice(&diagonal),
            DiagRef::from_slice(&beside),
            DiagMut::from_slice_mut(self.values),
            Some(view_mut(self.vectors, n, self.stride, self.stride).subcols_mut(self.start, n)),
            Par::Seq,
            MemStack::new(&mut MemBuffer::new(scratch)),
            params,
        )
        .map_err(|_| Error::NoConvergence { what: "eigendecomposition" })?;
        self.order.iter_mut().enumerate().for_each(|(i, order)| *order = i);
        Ok(())
    }

    fn merge(self, par: Parallelism) -> Result<(), Error> {
        let Self { start, stride, half, off_diagonal, values, order, vectors, scratch } = self;
        let n = values.len();
        let rho = off_diagonal[half - 1];
        // u u^T in the basis of the halves' eigenvectors, u scaled to length one.
        let last = &vectors[(half - 1) * stride + start..][..half];
        let first = &vectors[half * stride + start + half..][..n - half];
        let signed = first.iter().map(|z| if rho < 0.0 { -z } else { *z });
        let mut z: Vec<f64> =
            last.iter().copied().chain(signed).map(|z| z * core::f64::consts::FRAC_1_SQRT_2).collect();
        let rho = 2.0 * rho.abs();

        order[half..].iter_mut().for_each(|i| *i += half);
        order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
        let Deflated { mut kept, dropped, rotations, support } = deflate(values, &mut z, rho, order, half);
        let d: Vec<f64> = kept.iter().map(|&i| values[i]).collect();
        let weights: Vec<f64> = kept.iter().map(|&i| z[i]).collect();
        let k = kept.len();

        let secular = Secular { d: &d, z: &weights, rho };
        let roots = secular.roots(par);
        let refined = secular.refined(&roots, par);

        // Eigenvectors that are zero below come first, those that are zero above last: two smaller products.
        let mut sorted: Vec<usize> = (0..k).collect();
        sorted.sort_by_key(|&i| support[kept[i]]);
        let [d, refined] = [&d, &refined].map(|x| sorted.iter().map(|&i| x[i]).collect::<Vec<_>>());
        kept.sort_by_key(|&i| support[i]);
        let upper = kept.partition_point(|&i| support[i] != Support::Lower);
        let lower = kept.partition_point(|&i| support[i] == Support::Upper);

        let (packed, rotation) = scratch.split_at_mut(n * stride);
        let (packed, rotation) = (&mut packed[..n * n], &mut rotation[..k * k]);
        eigenvectors(rotation, &d, &refined, &roots, par);
        let height = (TASK / n).max(1);
        let tasks = vectors.chunks_mut(height * stride).zip(packed.chunks_mut(height * n)).collect();
        for_each(par, tasks, |(vectors, packed)| {
            for (row, packed) in vectors.chunks_exact_mut(stride).zip(packed.chunks_exact_mut(n)) {
                let row = &mut row[start..start + n];
                for &Rotation { x, y, c, s } in &rotations {
                    (row[x], row[y]) = (c * row[x] + s * row[y], c * row[y] - s * row[x]);
                }
                for (packed, &i) in packed.iter_mut().zip(kept.iter().chain(&dropped)) {
                    *packed = row[i];
                }
                row[k..].copy_from_slice(&packed[k..]);
            }
            Ok::<_, Error>(())
        })?;

        let dropped: Vec<f64> = dropped.iter().map(|&i| values[i]).collect();
        let found = roots.iter().map(|root| root.value()).chain(dropped);
        values.iter_mut().zip(found).for_each(|(value, found)| *value = found);
        order.iter_mut().enumerate().for_each(|(i, order)| *order = i);
        order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));

        let packed = MatRef::new(packed, n, n)?;
        let rotation = MatRef::new(rotation, k, k)?;
        let out = MatMut::with_stride(&mut vectors[start..], n, k, stride)?;
        let (top, bottom) = out.split_rows(half)?;
        matmul(top, 0.0, 1.0, packed.block(0, half, 0, upper)?, rotation.block(0, k, 0, upper)?.t(), par)?;
        let (below, across) =
            (packed.block(half, n - half, lower, k - lower)?, rotation.block(0, k, lower, k - lower)?);
        matmul(bottom, 0.0, 1.0, below, across.t(), par)?;
        Ok(())
    }
}

/// What is left of a rank-one update when its negligible parts are dropped.
struct Deflated {
    /// Indices that the update changes, by ascending eigenvalue.
    kept: Vec<usize>,
    /// The others.
    dropped: Vec<usize>,
    rotations: Vec<Rotation>,
    support: Vec<Support>,
}

/// Drops every eigenvector that the update `rho z z^T` leaves alone, to rounding; of two eigenvalues that are too
/// close to be told apart, a rotation takes one out.
fn deflate(d: &mut [f64], z: &mut [f64], rho: f64, order: &[usize], half: usize) -> Deflated {
    let n = d.len();
    let largest = |x: &[f64]| x.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    let tolerance = 8.0 * f64::EPSILON * largest(d).max(rho * largest(z));
    let mut support: Vec<_> = (0..n).map(|i| if i < half { Support::Upper } else { Support::Lower }).collect();
    let (mut kept, mut dropped, mut rotations) = (Vec::with_capacity(n), Vec::new(), Vec::new());
    let mut before: Option<usize> = None;
    for &y in order {
        if rho * z[y].abs() <= tolerance {
            dropped.push(y);
            continue;
        }
        if let Some(x) = before {
            let radius = z[x].hypot(z[y]);
            let (c, s) = (z[y] / radius, -z[x] / radius);
            if ((d[y] - d[x]) * c * s).abs() <= tolerance {
                (z[x], z[y]) = (0.0, radius);
                if support[x] != support[y] {
                    support[y] = Support::Both;
                }
                rotations.push(Rotation { x, y, c, s });
                (d[x], d[y]) = (d[x] * c * c + d[y] * s * s, d[x] * s * s + d[y] * c * c);
                dropped.push(x);
            } else {
                kept.push(x);
            }
        }
        before = Some(y);
    }
    kept.extend(before);
    Deflated { kept, dropped, rotations, support }
}
