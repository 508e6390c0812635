//! The Woodbury identity: a solve in parameter space from one in the space of examples.

use ascribe_core::linop::{Adjoint, Dense};
use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};

use super::report::{Solve, SolveReport, check_system};
use crate::Error;
use crate::error::{check_shape, zeros};
use crate::linalg::{Cholesky, matmul};
use crate::parallel::Parallelism;

/// Solves `(c Psi^T Psi + damping I) x = v` for a factor `Psi` of `m` rows, by a Cholesky factorisation of the
/// `m x m` Gram matrix:
/// $x = \lambda^{-1} [v - \Psi^\top (\tfrac{\lambda}{c} I + \Psi\Psi^\top)^{-1} \Psi v]$.
///
/// Cost: `m^3/3` flops once; a product with `Psi`, one with its transpose and `2 m^2` flops for each solve.
/// The difference cancels where `c Psi^T Psi` is far above the damping: the relative error of the result is about
/// `eps` times `1 + largest eigenvalue / damping`, so use f64 unless the damping is large.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef};
/// use ascribe_solvers::{inverse::{Solve, Woodbury}, parallel::Parallelism};
/// // Two per-example gradients of length 3: (1/2) Psi^T Psi is their empirical Fisher.
/// let psi = MatRef::new(&[1.0, 0.0, 1.0, 0.0, 2.0, 0.0], 2, 3)?;
/// let inverse = Woodbury::from_rows(psi, 0.5, 0.1, Parallelism::Serial)?;
/// let mut x = [0.0; 3];
/// inverse.solve(MatMut::from_row(&mut x), MatRef::from_row(&[0.0, 1.0, 0.0]))?;
/// assert!((x[1] - 1.0_f64 / 2.1).abs() < 1e-14);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Woodbury 1950; for influence functions over examples, e.g. arXiv:2308.03296, section 2.
#[derive(Debug)]
pub struct Woodbury<F, T> {
    factor: F,
    gram: Cholesky<T>,
    damping: f64,
    parallelism: Parallelism,
}

impl<T: Real, F: Adjoint<T>> Woodbury<F, T> {
    /// From a factor as an operator and its Gram matrix `Psi Psi^T` (row-major `m x m`, lower triangle read),
    /// which is factorised in its own memory.
    ///
    /// # Errors
    /// [`CoreError::Damping`] unless `damping > 0`, [`CoreError::Parameter`] unless `scale > 0` and both are
    /// finite; a shape error; [`Error::NotPositiveDefinite`] when the damping is lost in rounding or the Gram
    /// matrix holds NaN.
    pub fn new(factor: F, mut gram: Vec<T>, scale: f64, damping: f64, par: Parallelism) -> Result<Self, Error> {
        // In the precision of the solve, which divides by it.
        let divisor = T::from_f64(damping);
        if !(divisor > T::ZERO && divisor.is_finite()) {
            return Err(CoreError::Damping { value: damping }.into());
        }
        if !(scale > 0.0 && scale.is_finite()) {
            return Err(CoreError::Parameter { what: "scale", value: scale, must_be: "positive and finite" }.into());
        }
        let m = factor.dim_out();
        check_shape("Gram matrix elements", m.saturating_mul(m), gram.len())?;
        for i in 0..m {
            gram[i * m + i] += T::from_f64(damping / scale);
        }
        Ok(Self { gram: Cholesky::new(gram, m, par)?, factor, damping, parallelism: par })
    }
}

impl<'a, T: Real> Woodbury<Dense<'a, T>, T> {
    /// From the rows of `psi` themselves, for example per-example gradients with `scale = 1/N`.
    ///
    /// # Errors
    /// As [`Woodbury::new`].
    pub fn from_rows(psi: MatRef<'a, T>, scale: f64, damping: f64, par: Parallelism) -> Result<Self, Error> {
        let m = psi.rows();
        let mut gram = zeros("Gram matrix", m.checked_mul(m))?;
        matmul(MatMut::new(&mut gram, m, m)?, T::ZERO, T::ONE, psi, psi.t(), par)?;
        Self::new(Dense::new(psi), gram, scale, damping, par)
    }
}

impl<T: Real, F: Adjoint<T>> Solve<T> for Woodbury<F, T> {
    fn dim(&self) -> usize {
        self.factor.dim_in()
    }
    fn solve(&self, mut out: MatMut<'_, T>, rhs: MatRef<'_, T>) -> Result<Vec<SolveReport>, Error> {
        check_system(self.dim(), &out, &rhs)?;
        let (k, m) = (rhs.rows(), self.factor.dim_out());
        let scratch = self.factor.scratch_len(k).max(self.factor.transpose_scratch_len(k));
        let mut scratch = zeros("operator scratch", Some(scratch))?;
        let mut dual = zeros("right-hand sides of the examples", k.checked_mul(m))?;
        self.factor.apply(MatMut::new(&mut dual, k, m)?, rhs, &mut scratch)?;
        self.gram.solve_in_place(MatMut::new(&mut dual, k, m)?, self.parallelism)?;
        self.factor.apply_transpose(out.rb_mut(), MatRef::new(&dual, k, m)?, &mut scratch)?;
        let damping = T::from_f64(self.damping);
        out.for_each_row(|j, row| {
            for (x, &v) in row.iter_mut().zip(rhs.row(j)) {
                *x = (v - *x) / damping;
            }
        });
        Ok(vec![SolveReport::direct(); k])
    }
}
