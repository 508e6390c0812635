//! The Woodbury identity: a solve in parameter space from one in the space of examples.

use ascribe_core::linop::{Adjoint, Dense};
use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};

use super::report::{Solve, SolveReport, check_system};
use super::step_size::require;
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
/// From rows that are more than their length `n`, it is the `n x n` matrix of the system itself that is factorised:
/// `n^3/3` flops once, `2 n^2` for each solve, and no difference that cancels.
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
    system: System<T>,
    damping: f64,
    parallelism: Parallelism,
}

#[derive(Debug)]
enum System<T> {
    /// `damping / c I + Psi Psi^T`.
    Rows(Cholesky<T>),
    /// `damping I + c Psi^T Psi`.
    Columns(Cholesky<T>),
}

/// That both are positive and finite; the damping in the precision of the solve, which divides by it.
fn check_options<T: Real>(scale: f64, damping: f64) -> Result<(), CoreError> {
    let divisor = T::from_f64(damping);
    if !(divisor > T::ZERO && divisor.is_finite()) {
        return Err(CoreError::Damping { value: damping });
    }
    require("scale", scale, scale > 0.0 && scale.is_finite(), "positive and finite")
}

/// The Cholesky factor of a row-major `n x n` matrix of inner products plus `shift I`, in its memory. Products that
/// overflow are largest on the diagonal; the factors would make zeros of them.
fn factorise<T: Real>(mut matrix: Vec<T>, n: usize, shift: f64, par: Parallelism) -> Result<Cholesky<T>, Error> {
    if let Some(row) = matrix.iter().step_by(n + 1).position(|&x| x > T::MAX) {
        return Err(CoreError::NonFinite { what: "diagonal of the Gram matrix", index: row }.into());
    }
    matrix.iter_mut().step_by(n + 1).for_each(|x| *x += T::from_f64(shift));
    Cholesky::new(matrix, n, par)
}

impl<T: Real, F: Adjoint<T>> Woodbury<F, T> {
    /// From a factor as an operator and its Gram matrix `Psi Psi^T` (row-major `m x m`, lower triangle read),
    /// which is factorised in its own memory.
    ///
    /// # Errors
    /// [`CoreError::Damping`] unless `damping > 0`, [`CoreError::Parameter`] unless `scale > 0` and both are
    /// finite; a shape error; [`CoreError::NonFinite`] when the Gram matrix has an infinite diagonal,
    /// [`Error::NotPositiveDefinite`] when the damping is lost in rounding or the Gram matrix holds NaN.
    pub fn new(factor: F, gram: Vec<T>, scale: f64, damping: f64, par: Parallelism) -> Result<Self, Error> {
        check_options::<T>(scale, damping)?;
        let m = factor.dim_out();
        check_shape("Gram matrix elements", m.saturating_mul(m), gram.len())?;
        let system = System::Rows(factorise(gram, m, damping / scale, par)?);
        Ok(Self { factor, system, damping, parallelism: par })
    }
}

impl<'a, T: Real> Woodbury<Dense<'a, T>, T> {
    /// From the rows of `psi` themselves, for example per-example gradients with `scale = 1/N`.
    ///
    /// # Errors
    /// As [`Woodbury::new`]; [`CoreError::Overflow`] when the smaller of the two matrices does not fit into memory.
    pub fn from_rows(psi: MatRef<'a, T>, scale: f64, damping: f64, par: Parallelism) -> Result<Self, Error> {
        check_options::<T>(scale, damping)?;
        let (m, n) = (psi.rows(), psi.cols());
        let mut gram = zeros("Gram matrix", m.min(n).checked_mul(m.min(n)))?;
        let system = if m > n {
            matmul(MatMut::new(&mut gram, n, n)?, T::ZERO, T::ONE, psi.t(), psi, par)?;
            // In f64: the scale may be beyond the range of `T` although its product is not.
            for x in &mut gram {
                *x = T::from_f64(x.to_f64() * scale);
            }
            System::Columns(factorise(gram, n, damping, par)?)
        } else {
            matmul(MatMut::new(&mut gram, m, m)?, T::ZERO, T::ONE, psi, psi.t(), par)?;
            System::Rows(factorise(gram, m, damping / scale, par)?)
        };
        Ok(Self { factor: Dense::new(psi), system, damping, parallelism: par })
    }
}

impl<T: Real, F: Adjoint<T>> Solve<T> for Woodbury<F, T> {
    fn dim(&self) -> usize {
        self.factor.dim_in()
    }
    /// Besides the errors of every solver, [`Error::NoConvergence`] when the solution overflows; `out` is then
    /// untouched.
    fn solve(&self, mut out: MatMut<'_, T>, rhs: MatRef<'_, T>) -> Result<Vec<SolveReport>, Error> {
        check_system(self.dim(), &out, &rhs)?;
        let (k, n) = (rhs.rows(), rhs.cols());
        let mut x = zeros("solutions", k.checked_mul(n))?;
        match &self.system {
            System::Columns(matrix) => {
                MatMut::new(&mut x, k, n)?.copy_from(rhs)?;
                matrix.solve_in_place(MatMut::new(&mut x, k, n)?, self.parallelism)?;
            }
            System::Rows(gram) => {
                let m = gram.dim();
                let scratch = self.factor.scratch_len(k).max(self.factor.transpose_scratch_len(k));
                let mut scratch = zeros("operator scratch", Some(scratch))?;
                let mut dual = zeros("solutions in the space of the rows", k.checked_mul(m))?;
                self.factor.apply(MatMut::new(&mut dual, k, m)?, rhs, &mut scratch)?;
                gram.solve_in_place(MatMut::new(&mut dual, k, m)?, self.parallelism)?;
                let dual = MatRef::new(&dual, k, m)?;
                self.factor.apply_transpose(MatMut::new(&mut x, k, n)?, dual, &mut scratch)?;
                let damping = T::from_f64(self.damping);
                for (x, v) in x.chunks_exact_mut(n.max(1)).zip(rhs.row_iter()) {
                    x.iter_mut().zip(v).for_each(|(x, &v)| *x = (v - *x) / damping);
                }
                if x.iter().any(|x| !x.is_finite()) {
                    return Err(Error::NoConvergence { what: "solution by the Woodbury identity (it overflows)" });
                }
            }
        }
        out.copy_from(MatRef::new(&x, k, n)?)?;
        Ok(vec![SolveReport::direct(); k])
    }
}
