//! Lanczos' method: a small symmetric matrix that stands for a large one on a Krylov space.

use ascribe_core::random::Stream;
use ascribe_core::reduce::norm2;
use ascribe_core::{Error as CoreError, LinOp, MatMut, MatRef, Real};

use super::block::power_of_two;
use super::low_rank::LowRankSpectrum;
use super::report::check_operator;
use crate::Error;
use crate::error::{check_finite, check_shape, zeros};
use crate::linalg::{Eigen, matmul, symmetric_eigen};
use crate::parallel::Parallelism;

/// Decomposes a symmetric operator on the Krylov space of a start vector: $A Q^\top = Q^\top T + \beta q e^\top$ with
/// orthonormal rows `Q [s, n]` and a small `T = Q A Q^T`.
///
/// The Ritz values, the eigenvalues of `T`, lie within the spectrum and find its ends first. Every new vector is made
/// orthogonal to all before it, twice, so `Q` is orthonormal to rounding; what that computes is all of `Q A Q^T`, and
/// the symmetric part of that is what is decomposed. For a symmetric operator it is tridiagonal (Lanczos); for one
/// that is not exactly symmetric, such as a finite difference, it is Arnoldi's method for its symmetric part.
/// The run ends early when the Krylov space is invariant.
///
/// Cost: `s` products, `8 s^2 n` flops, `9 s^3` for the Ritz pairs. Memory: `s n` numbers.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef, linop::Diagonal};
/// use ascribe_solvers::inverse::{Lanczos, NegativeRitz, Solve};
/// let a = Diagonal::new(&[4.0, 3.0, 2.0, -1.0]);
/// let basis = Lanczos { steps: 4, ..Lanczos::default() }.decompose(&a)?;
/// assert!((basis.ritz_values()[3] - 4.0_f64).abs() < 1e-12);
/// let spectrum = basis.spectrum(NegativeRitz::Abs, None)?; // |A|
/// let mut x = [0.0_f64; 4];
/// spectrum.inverse(0.5)?.solve(MatMut::from_row(&mut x), MatRef::from_row(&[1.0; 4]))?;
/// assert!((x[3] - 1.0_f64 / 1.5).abs() < 1e-12);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Schioppa et al., arXiv:2112.03052, for influence functions by Arnoldi's method; their inverse leaves out what the
/// basis does not span ([`LowRankSpectrum::projected_inverse`]).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lanczos {
    /// Vectors at most, and never more than the dimension; default 100.
    pub steps: usize,
    /// Stop when what is left of a product is at most this fraction of the largest product so far, or at most
    /// `4 sqrt(n) eps` of it, which is rounding; default `1e-10`.
    pub tolerance: f64,
    /// Seed of the Gaussian start vector of [`Lanczos::decompose`]; default 0.
    pub seed: u64,
    /// Threads for the orthogonalisation; default one.
    pub parallelism: Parallelism,
}

impl Default for Lanczos {
    fn default() -> Self {
        Self { steps: 100, tolerance: 1e-10, seed: 0, parallelism: Parallelism::Serial }
    }
}

/// What becomes of negative Ritz values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NegativeRitz {
    /// They stay: the operator itself, indefinite perhaps.
    #[default]
    Keep,
    /// Their absolute values: `|A|`.
    Abs,
    /// They are left out with their vectors, as directions that nothing is known of.
    Drop,
}

/// What [`Lanczos`] found.
#[derive(Debug, Clone)]
pub struct LanczosBasis<T> {
    vectors: Vec<T>,
    diagonal: Vec<f64>,
    off_diagonal: Vec<f64>,
    ritz: Eigen,
    dim: usize,
    parallelism: Parallelism,
}

impl Lanczos {
    /// Decomposes a symmetric operator from a random start.
    ///
    /// # Errors
    /// As [`Lanczos::decompose_from`].
    pub fn decompose<T: Real>(&self, op: &dyn LinOp<T>) -> Result<LanczosBasis<T>, Error> {
        let mut start = zeros("Lanczos start", Some(op.dim_in()))?;
        let mut draws = Stream::new(self.seed, "lanczos.start").draws();
        for x in &mut start {
            *x = T::from_f64(draws.next_normal());
        }
        self.decompose_from(op, &start)
    }

    /// Decomposes a symmetric operator from a given start, for example the right-hand side that matters. Its length
    /// changes nothing.
    ///
    /// # Errors
    /// A shape error when `op` is not square or `start` is of another length; [`CoreError::Parameter`] when `start`
    /// is zero or the tolerance is negative or NaN; [`CoreError::NonFinite`] in `start` or a product;
    /// [`CoreError::Overflow`] when the basis or the operator's scratch does not fit; the operator's own errors.
    pub fn decompose_from<T: Real>(&self, op: &dyn LinOp<T>, start: &[T]) -> Result<LanczosBasis<T>, Error> {
        let dim = check_operator(op, 0.0)?;
        check_shape("Lanczos start", dim, start.len())?;
        check_finite("Lanczos start", start)?;
        if self.tolerance.is_nan() || self.tolerance < 0.0 {
            let (what, value) = ("tolerance", self.tolerance);
            return Err(CoreError::Parameter { what, value, must_be: "at least 0" }.into());
        }
        let unit = power_of_two(norm2(start));
        let mut w: Vec<T> = start.iter().map(|&x| x / unit).collect();
        if dim > 0 && norm2(&w) == T::ZERO {
            return Err(CoreError::Parameter { what: "norm of the start", value: 0.0, must_be: "positive" }.into());
        }
        let limit = self.steps.min(dim);
        let overflow = CoreError::Overflow { what: "Lanczos basis" };
        let mut vectors: Vec<T> = Vec::new();
        vectors.try_reserve_exact(limit.checked_mul(dim).ok_or(overflow)?).map_err(|_| overflow)?;
        let mut scratch = zeros("operator scratch", Some(op.scratch_len(1)))?;
        let tolerance = self.tolerance.max(4.0 * (dim as f64).sqrt() * T::EPSILON.to_f64());
        // Column j of the upper Hessenberg matrix down to its diagonal, and below that the norm of what is left.
        let mut columns: Vec<Vec<f64>> = Vec::new();
        let mut off_diagonal: Vec<f64> = Vec::new();
        let mut largest = 0.0_f64;
        while columns.len() < limit {
            let norm = norm2(&w);
            vectors.extend(w.iter().map(|&w| w / norm));
            let last = &vectors[columns.len() * dim..];
            op.apply(MatMut::from_row(&mut w), MatRef::from_row(last), &mut scratch)?;
            check_finite("Lanczos product", &w)?;
            largest = largest.max(norm2(&w).to_f64());
            columns.push(self.orthogonalise(&mut w, &vectors)?);
            let rest = norm2(&w).to_f64();
            off_diagonal.push(rest);
            if rest <= tolerance * largest {
                break;
            }
        }
        let steps = columns.len();
        let mut projected = zeros("Lanczos matrix", steps.checked_mul(steps))?;
        for (j, column) in columns.iter().enumerate() {
            column.iter().enumerate().for_each(|(i, &h)| projected[i * steps + j] = h);
            if j + 1 < steps {
                projected[(j + 1) * steps + j] = off_diagonal[j];
            }
        }
        let ritz = symmetric_eigen(MatRef::new(&projected, steps, steps)?, self.parallelism)?;
        let diagonal = columns.iter().filter_map(|column| column.last().copied()).collect();
        Ok(LanczosBasis { vectors, diagonal, off_diagonal, ritz, dim, parallelism: self.parallelism })
    }

    /// Takes from `w` its parts along the rows of `vectors`, which it gives. Once leaves a rounding of the product
    /// behind, twice a rounding of the rest.
    fn orthogonalise<T: Real>(&self, w: &mut [T], vectors: &[T]) -> Result<Vec<f64>, Error> {
        let (dim, par) = (w.len(), self.parallelism);
        let rows = vectors.len() / dim;
        let q = MatRef::new(vectors, rows, dim)?;
        let mut parts = vec![T::ZERO; rows];
        let mut sums = vec![0.0; rows];
        for _ in 0..2 {
            matmul(MatMut::new(&mut parts, rows, 1)?, T::ZERO, T::ONE, q, MatRef::from_row(w).t(), par)?;
            matmul(MatMut::from_row(w), T::ONE, -T::ONE, MatRef::from_row(&parts), q, par)?;
            sums.iter_mut().zip(&parts).for_each(|(sum, part)| *sum += part.to_f64());
        }
        Ok(sums)
    }
}

impl<T: Real> LanczosBasis<T> {
    /// The number of vectors `s`.
    pub fn len(&self) -> usize {
        self.diagonal.len()
    }

    /// Whether there is no vector: no step was asked for, or the operator has no dimension.
    pub fn is_empty(&self) -> bool {
        self.diagonal.is_empty()
    }

    /// The orthonormal vectors as the rows of an `s x n` matrix, row-major.
    pub fn vectors(&self) -> &[T] {
        &self.vectors
    }

    /// The diagonal of `T`.
    pub fn alpha(&self) -> &[f64] {
        &self.diagonal
    }

    /// Below the diagonal of `T`: `s - 1` positive numbers.
    pub fn beta(&self) -> &[f64] {
        &self.off_diagonal[..self.len().saturating_sub(1)]
    }

    /// The norm of what the last product left outside of the basis: 0 up to the tolerance when the space is invariant.
    pub fn residual(&self) -> f64 {
        self.off_diagonal.last().copied().unwrap_or(0.0)
    }

    /// The eigenvalues of `T`, ascending.
    pub fn ritz_values(&self) -> &[f64] {
        &self.ritz.values
    }

    /// For each Ritz value how far from it an eigenvalue of a symmetric operator can be at most: $\beta |s_{s,i}|$.
    pub fn ritz_errors(&self) -> Vec<f64> {
        let last = self.ritz.vectors.chunks_exact(self.len().max(1)).next_back().unwrap_or(&[]);
        last.iter().map(|s| self.residual() * s.abs()).collect()
    }

    /// The `top` Ritz pairs (all with `None`), largest absolute value first, as a low-rank curvature with inverses.
    ///
    /// With as many vectors as dimensions and [`NegativeRitz::Keep`], its damped inverse is that of the operator.
    /// Cost: `2 s r n` flops. Memory: `r n` numbers.
    ///
    /// # Errors
    /// [`CoreError::Overflow`] when the vectors do not fit.
    pub fn spectrum(&self, negative: NegativeRitz, top: Option<usize>) -> Result<LowRankSpectrum<T>, Error> {
        let (steps, values) = (self.len(), &self.ritz.values);
        let mut chosen: Vec<usize> = (0..steps).collect();
        chosen.retain(|&i| negative != NegativeRitz::Drop || values[i] >= 0.0);
        chosen.sort_by(|&i, &j| values[j].abs().total_cmp(&values[i].abs()));
        chosen.truncate(top.unwrap_or(steps));
        let sign = |value: f64| if negative == NegativeRitz::Abs { value.abs() } else { value };
        let eigenvalues: Vec<f64> = chosen.iter().map(|&i| sign(values[i])).collect();
        let rotation = |i: usize| (0..steps).map(move |j| T::from_f64(self.ritz.vectors[j * steps + i]));
        let rotation: Vec<T> = chosen.iter().flat_map(|&i| rotation(i)).collect();
        let (rank, dim, par) = (chosen.len(), self.dim, self.parallelism);
        let mut vectors = zeros("Ritz vectors", rank.checked_mul(dim))?;
        let (rotation, basis) = (MatRef::new(&rotation, rank, steps)?, MatRef::new(&self.vectors, steps, dim)?);
        matmul(MatMut::new(&mut vectors, rank, dim)?, T::ZERO, T::ONE, rotation, basis, par)?;
        LowRankSpectrum::new(vectors, eigenvalues, dim, par)
    }
}
