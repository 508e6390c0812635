//! Inverses of what a few eigenpairs know of an operator.

use ascribe_core::linop::{SelfAdjoint, check_apply};
use ascribe_core::{Error as CoreError, LinOp, MatMut, MatRef, Real};

use super::report::{Solve, SolveReport, check_system};
use crate::Error;
use crate::error::{check_finite, check_shape, zeros};
use crate::linalg::matmul;
use crate::parallel::Parallelism;

/// `r` orthonormal eigenvectors with their eigenvalues, from [`Lanczos`](super::Lanczos) or
/// [`Nystrom`](super::Nystrom): the operator $U^\top \operatorname{diag}(e)\, U$, and its damped inverses.
///
/// An inverse borrows the vectors, so that many dampings cost nothing but `r` numbers each.
///
/// Cost: `4 k r n` flops for `k` rows. Scratch: `k r` elements.
#[derive(Debug, Clone)]
pub struct LowRankSpectrum<T> {
    vectors: Vec<T>,
    eigenvalues: Vec<f64>,
    dim: usize,
    parallelism: Parallelism,
}

impl<T: Real> LowRankSpectrum<T> {
    /// From orthonormal rows `vectors`, row-major `[r, dim]`, and an eigenvalue for each. That the rows are orthonormal
    /// is not tested.
    ///
    /// # Errors
    /// A shape error; [`CoreError::NonFinite`] in the eigenvalues.
    pub fn new(vectors: Vec<T>, eigenvalues: Vec<f64>, dim: usize, parallelism: Parallelism) -> Result<Self, Error> {
        MatRef::new(&vectors, eigenvalues.len(), dim)?;
        check_finite("eigenvalues", &eigenvalues)?;
        Ok(Self { vectors, eigenvalues, dim, parallelism })
    }

    /// The eigenvalues, in the order of the vectors.
    pub fn eigenvalues(&self) -> &[f64] {
        &self.eigenvalues
    }

    /// The eigenvectors as the rows of an `r x n` matrix, row-major.
    pub fn vectors(&self) -> &[T] {
        &self.vectors
    }

    fn rows(&self) -> Result<MatRef<'_, T>, CoreError> {
        MatRef::new(&self.vectors, self.eigenvalues.len(), self.dim)
    }

    /// `(U^T diag(e) U + damping I)^-1`; see [`LowRankInverse::new`].
    ///
    /// # Errors
    /// As [`LowRankInverse::new`].
    pub fn inverse(&self, damping: f64) -> Result<LowRankInverse<'_, T>, Error> {
        LowRankInverse::new(self.rows()?, &self.eigenvalues, damping, self.parallelism)
    }

    /// `U^T diag(1 / (e + damping)) U`, which drops whatever the vectors do not span: with `damping = 0` the
    /// pseudo-inverse, as influence functions by Arnoldi's method use it.
    ///
    /// # Errors
    /// [`CoreError::Damping`] when `damping` is negative or not finite, [`CoreError::Singular`] with the index of an
    /// eigenvalue that it takes to 0.
    pub fn projected_inverse(&self, damping: f64) -> Result<LowRankInverse<'_, T>, Error> {
        let (vectors, one) = (self.rows()?, T::ONE);
        let weights = weights(&self.eigenvalues, damping, |_| 1.0)?;
        Ok(LowRankInverse { vectors, weights, rest: T::ZERO, divisor: one, parallelism: self.parallelism })
    }

    /// `(e_r + damping) U^T diag(1 / (e + damping)) U + (I - U^T U)`, with `e_r` the smallest eigenvalue: what
    /// [`Cg`](super::Cg) and [`Minres`](super::Minres) take for an operator that has these eigenvalues and none
    /// above `e_r` besides. The condition number is then about `1 + e_r / damping`.
    ///
    /// # Errors
    /// As [`LowRankSpectrum::projected_inverse`]; [`Error::Indefinite`] for a negative eigenvalue.
    ///
    /// # References
    /// Frangella, Tropp and Udell, arXiv:2110.02820, equation 1.3.
    pub fn preconditioner(&self, damping: f64) -> Result<LowRankInverse<'_, T>, Error> {
        let tail = self.eigenvalues.iter().copied().fold(f64::INFINITY, f64::min);
        if tail < 0.0 {
            return Err(Error::Indefinite { what: "a low-rank preconditioner", curvature: tail });
        }
        let (vectors, one) = (self.rows()?, T::ONE);
        let weights = weights(&self.eigenvalues, damping, |e| tail - e)?;
        Ok(LowRankInverse { vectors, weights, rest: one, divisor: one, parallelism: self.parallelism })
    }
}

impl<T: Real> LinOp<T> for LowRankSpectrum<T> {
    fn dim_in(&self) -> usize {
        self.dim
    }
    fn dim_out(&self) -> usize {
        self.dim
    }
    fn scratch_len(&self, rows: usize) -> usize {
        rows.saturating_mul(self.eigenvalues.len())
    }
    fn apply(&self, mut out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), CoreError> {
        let eigenvalue = |j: usize| T::from_f64(self.eigenvalues[j]);
        update(&mut out, T::ZERO, x, (self.rows()?, eigenvalue), self.parallelism, scratch)
    }
}

impl<T: Real> SelfAdjoint<T> for LowRankSpectrum<T> {}

/// Solves `(U^T diag(e) U + damping I) x = v` for orthonormal rows `U [r, n]`:
/// $x = \lambda^{-1} [v - U^\top \operatorname{diag}(\tfrac{e}{e + \lambda})\, U v]$.
///
/// Directions that `U` does not span have the damping alone for their curvature; without any, `x = v / damping`. An
/// eigenvalue of 0 changes nothing. As an operator it is a preconditioner.
///
/// Cost: `4 k r n` flops for `k` rows. Scratch as an operator: `k r` elements. The difference cancels where `e` is far
/// above the damping: the relative error is about `eps` times `1 + max e / damping`.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef};
/// use ascribe_solvers::{inverse::{LowRankInverse, Solve}, parallel::Parallelism};
/// let u = [0.6, 0.8];
/// let inverse = LowRankInverse::new(MatRef::from_row(&u), &[10.0], 0.5, Parallelism::Serial)?;
/// let mut x = [0.0; 2];
/// inverse.solve(MatMut::from_row(&mut x), MatRef::from_row(&[0.8, -0.6]))?; // at a right angle to u
/// assert!((x[0] - 1.6_f64).abs() < 1e-14 && (x[1] + 1.2).abs() < 1e-14);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct LowRankInverse<'a, T> {
    vectors: MatRef<'a, T>,
    /// `x = (rest v + U^T diag(weights) U v) / divisor`.
    weights: Vec<T>,
    rest: T,
    divisor: T,
    parallelism: Parallelism,
}

impl<'a, T: Real> LowRankInverse<'a, T> {
    /// From orthonormal rows `vectors` and an eigenvalue for each, which may be negative. That the rows are
    /// orthonormal is not tested.
    ///
    /// # Errors
    /// A shape error; [`CoreError::NonFinite`] in the eigenvalues; [`CoreError::Damping`] unless `damping > 0` is
    /// finite in the precision of `T`; [`CoreError::Singular`] with the index of an eigenvalue that it takes to 0.
    pub fn new(
        vectors: MatRef<'a, T>,
        eigenvalues: &[f64],
        damping: f64,
        parallelism: Parallelism,
    ) -> Result<Self, Error> {
        check_shape("eigenvalues", vectors.rows(), eigenvalues.len())?;
        check_finite("eigenvalues", eigenvalues)?;
        let divisor = T::from_f64(damping);
        if !(divisor > T::ZERO && divisor.is_finite()) {
            return Err(CoreError::Damping { value: damping }.into());
        }
        let weights = weights(eigenvalues, damping, |e| -e)?;
        Ok(Self { vectors, weights, rest: T::ONE, divisor, parallelism })
    }
}

/// `numerator(e) / (e + damping)` for each eigenvalue `e`.
fn weights<T: Real>(eigenvalues: &[f64], damping: f64, numerator: impl Fn(f64) -> f64) -> Result<Vec<T>, Error> {
    if !(damping.is_finite() && damping >= 0.0) {
        return Err(CoreError::Damping { value: damping }.into());
    }
    let weight = |(index, &e): (usize, &f64)| {
        let damped = e + damping;
        let weight = T::from_f64(numerator(e) / damped);
        let singular = CoreError::Singular { what: "damped eigenvalues", index };
        if damped.is_finite() && weight.is_finite() { Ok(weight) } else { Err(singular.into()) }
    };
    eigenvalues.iter().enumerate().map(weight).collect()
}

/// `out = rest x + (x U^T) diag(weights) U`.
fn update<T: Real>(
    out: &mut MatMut<'_, T>,
    rest: T,
    x: MatRef<'_, T>,
    (vectors, weight): (MatRef<'_, T>, impl Fn(usize) -> T),
    par: Parallelism,
    scratch: &mut [T],
) -> Result<(), CoreError> {
    check_apply(vectors.cols(), vectors.cols(), out, &x)?;
    let (rows, rank) = (x.rows(), vectors.rows());
    let needed = rows.saturating_mul(rank);
    let got = scratch.len();
    let scratch = scratch.get_mut(..needed).ok_or(CoreError::Length { what: "scratch", needed, got })?;
    let mut coordinates = MatMut::new(scratch, rows, rank)?;
    matmul(coordinates.rb_mut(), T::ZERO, T::ONE, x, vectors.t(), par)?;
    coordinates.for_each_row(|_, row| row.iter_mut().enumerate().for_each(|(j, c)| *c *= weight(j)));
    if rest != T::ZERO {
        out.copy_from(x)?;
    }
    matmul(out.rb_mut(), rest, T::ONE, coordinates.as_ref(), vectors, par)
}

impl<T: Real> LinOp<T> for LowRankInverse<'_, T> {
    fn dim_in(&self) -> usize {
        self.vectors.cols()
    }
    fn dim_out(&self) -> usize {
        self.vectors.cols()
    }
    fn scratch_len(&self, rows: usize) -> usize {
        rows.saturating_mul(self.weights.len())
    }
    fn apply(&self, mut out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), CoreError> {
        update(&mut out, self.rest, x, (self.vectors, |j| self.weights[j]), self.parallelism, scratch)?;
        if self.divisor != T::ONE {
            out.for_each_row(|_, row| row.iter_mut().for_each(|x| *x /= self.divisor));
        }
        Ok(())
    }
}

impl<T: Real> SelfAdjoint<T> for LowRankInverse<'_, T> {}

impl<T: Real> Solve<T> for LowRankInverse<'_, T> {
    fn dim(&self) -> usize {
        self.vectors.cols()
    }
    fn solve(&self, mut out: MatMut<'_, T>, rhs: MatRef<'_, T>) -> Result<Vec<SolveReport>, Error> {
        check_system(self.vectors.cols(), &out, &rhs)?;
        let (rows, cols) = (rhs.rows(), rhs.cols());
        let mut x = vec![T::ZERO; rows * cols];
        let mut scratch = zeros("coordinates", rows.checked_mul(self.weights.len()))?;
        self.apply(MatMut::new(&mut x, rows, cols)?, rhs, &mut scratch)?;
        if x.iter().any(|x| !x.is_finite()) {
            return Err(Error::NoConvergence { what: "solution by eigenvectors (it overflows)" });
        }
        out.copy_from(MatRef::new(&x, rows, cols)?)?;
        Ok(vec![SolveReport::direct(); rows])
    }
}
