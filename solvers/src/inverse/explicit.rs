//! The explicit inverse: form the matrix, factorise it once.

use ascribe_core::{Error as CoreError, LinOp, MatMut, MatRef, Real};

use super::report::{Solve, SolveReport, check_operator, check_system};
use crate::Error;
use crate::error::{filled_rows, zeros};
use crate::linalg::{Cholesky, Eigen, Ldlt, matmul, symmetric_eigen};
use crate::parallel::Parallelism;

/// Solves `(A + damping I) x = v` by forming `A` and factorising it: Cholesky when it is positive definite,
/// `L D L^T` when it is not.
///
/// Cost: `n` products with `A` (twice that when it is indefinite), `n^3/3` flops; `2 n` flops per solved element. Memory: `n^2` numbers, twice that
/// when indefinite. The solution's relative error is at most about `n eps` times the condition number of
/// `A + damping I`.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef, linop::Dense};
/// use ascribe_solvers::inverse::{Explicit, Solve};
/// let a = Dense::new(MatRef::new(&[2.0, 0.0, 0.0, -1.0], 2, 2)?); // indefinite
/// let inverse = Explicit { damping: 0.5, ..Explicit::default() }.prepare(&a)?;
/// let mut x = [0.0; 2];
/// inverse.solve(MatMut::from_row(&mut x), MatRef::from_row(&[5.0, 1.0]))?;
/// assert!((x[0] - 2.0_f64).abs() < 1e-14 && (x[1] + 2.0).abs() < 1e-14);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Explicit {
    /// What is added to the diagonal; default 0.
    pub damping: f64,
    /// Threads; default one.
    pub parallelism: Parallelism,
}

/// A factorised matrix; see [`Explicit`].
#[derive(Debug)]
pub struct ExplicitInverse<T> {
    factor: Factor<T>,
    dim: usize,
    parallelism: Parallelism,
}

#[derive(Debug)]
enum Factor<T> {
    Definite(Cholesky<T>),
    Indefinite(Ldlt),
}

impl Explicit {
    /// Forms and factorises the symmetric operator `op`; its two triangles are averaged.
    ///
    /// # Errors
    /// A shape error when `op` is not square, [`CoreError::Damping`], [`CoreError::NonFinite`] when an entry of
    /// the matrix is, [`CoreError::Overflow`], the operator's own errors. A matrix that is singular is found when
    /// it is solved with: [`Error::NoConvergence`].
    pub fn prepare<T: Real>(&self, op: &dyn LinOp<T>) -> Result<ExplicitInverse<T>, Error> {
        let dim = check_operator(op, self.damping)?;
        let damped = || {
            let mut a = materialize(op)?;
            for i in 0..dim {
                a[i * dim + i] += T::from_f64(self.damping);
            }
            Ok::<_, Error>(a)
        };
        let factor = match Cholesky::new(damped()?, dim, self.parallelism) {
            Ok(cholesky) => Factor::Definite(cholesky),
            // Formed again, because the first attempt has overwritten it: a copy would double the memory of all.
            Err(Error::NotPositiveDefinite { .. }) => {
                Factor::Indefinite(Ldlt::new(MatRef::new(&damped()?, dim, dim)?)?)
            }
            Err(error) => return Err(error),
        };
        Ok(ExplicitInverse { factor, dim, parallelism: self.parallelism })
    }
}

impl<T> ExplicitInverse<T> {
    /// Whether `A + damping I` is positive definite to working precision.
    pub fn is_positive_definite(&self) -> bool {
        matches!(self.factor, Factor::Definite(_))
    }
}

impl<T: Real> Solve<T> for ExplicitInverse<T> {
    fn dim(&self) -> usize {
        self.dim
    }
    fn solve(&self, mut out: MatMut<'_, T>, rhs: MatRef<'_, T>) -> Result<Vec<SolveReport>, Error> {
        check_system(self.dim, &out, &rhs)?;
        match &self.factor {
            Factor::Definite(cholesky) => {
                let mut x: Vec<T> = filled_rows(rhs).flatten().copied().collect();
                cholesky.solve_in_place(MatMut::new(&mut x, rhs.rows(), self.dim)?, self.parallelism)?;
                out.copy_from(MatRef::new(&x, rhs.rows(), self.dim)?)?;
            }
            Factor::Indefinite(ldlt) => {
                let mut wide: Vec<f64> = filled_rows(rhs).flatten().map(|v| v.to_f64()).collect();
                ldlt.solve_in_place(MatMut::new(&mut wide, rhs.rows(), self.dim)?)?;
                narrow(&mut out, &wide);
            }
        }
        Ok(vec![SolveReport::direct(); rhs.rows()])
    }
}

/// The eigendecomposition of an explicitly formed matrix: a solve with any damping costs `4 n^2` flops a row.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef, linop::Dense};
/// use ascribe_solvers::{inverse::ExplicitSpectrum, parallel::Parallelism};
/// let a = Dense::new(MatRef::new(&[2.0, 1.0, 1.0, 2.0], 2, 2)?);
/// let spectrum = ExplicitSpectrum::new(&a, Parallelism::Serial)?;
/// let mut x = [0.0; 2];
/// for damping in [0.1, 1.0] {
///     spectrum.solve(damping, MatMut::from_row(&mut x), MatRef::from_row(&[1.0, 1.0]))?;
///     assert!((x[0] - 1.0 / (3.0 + damping)).abs() < 1e-14);
/// }
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ExplicitSpectrum {
    eigen: Eigen,
    parallelism: Parallelism,
}

impl ExplicitSpectrum {
    /// Forms the symmetric operator and decomposes it, in f64. Cost: `n` products, about `14/3 n^3` flops.
    ///
    /// # Errors
    /// As [`Explicit::prepare`]; [`Error::NoConvergence`] of the eigendecomposition.
    pub fn new<T: Real>(op: &dyn LinOp<T>, parallelism: Parallelism) -> Result<Self, Error> {
        let dim = check_operator(op, 0.0)?;
        let a = materialize(op)?;
        Ok(Self { eigen: symmetric_eigen(MatRef::new(&a, dim, dim)?, parallelism)?, parallelism })
    }

    /// The eigenvalues, ascending.
    pub fn eigenvalues(&self) -> &[f64] {
        &self.eigen.values
    }

    /// Sets each row of `out` to `(A + damping I)^-1` times that row of `rhs`. `damping` may have any sign.
    ///
    /// # Errors
    /// A shape error; [`CoreError::NonFinite`] in `rhs`; [`CoreError::Singular`] with the index of an eigenvalue
    /// that `damping` takes to 0; [`CoreError::Damping`] when it is not finite; [`Error::NoConvergence`] when the
    /// solution overflows. `out` is untouched then.
    pub fn solve<T: Real>(&self, damping: f64, mut out: MatMut<'_, T>, rhs: MatRef<'_, T>) -> Result<(), Error> {
        let n = self.eigen.values.len();
        check_system(n, &out, &rhs)?;
        if !damping.is_finite() {
            return Err(CoreError::Damping { value: damping }.into());
        }
        if let Some(index) = self.eigen.values.iter().position(|value| value + damping == 0.0) {
            return Err(CoreError::Singular { what: "damped matrix", index }.into());
        }
        let k = rhs.rows();
        let wide: Vec<f64> = filled_rows(rhs).flatten().map(|v| v.to_f64()).collect();
        let vectors = MatRef::new(&self.eigen.vectors, n, n)?;
        let mut rotated = vec![0.0; k * n];
        matmul(MatMut::new(&mut rotated, k, n)?, 0.0, 1.0, MatRef::new(&wide, k, n)?, vectors, self.parallelism)?;
        for row in rotated.chunks_exact_mut(n.max(1)) {
            for (x, value) in row.iter_mut().zip(&self.eigen.values) {
                *x /= value + damping;
            }
        }
        let mut solved = vec![0.0; k * n];
        let coordinates = MatRef::new(&rotated, k, n)?;
        matmul(MatMut::new(&mut solved, k, n)?, 0.0, 1.0, coordinates, vectors.t(), self.parallelism)?;
        if solved.iter().any(|&x| !T::from_f64(x).is_finite()) {
            return Err(Error::NoConvergence { what: "solution by eigenvalues (it overflows)" });
        }
        narrow(&mut out, &solved);
        Ok(())
    }
}

fn narrow<T: Real>(out: &mut MatMut<'_, T>, wide: &[f64]) {
    let cols = out.cols();
    out.for_each_row(|i, row| {
        for (x, &y) in row.iter_mut().zip(&wide[i * cols..]) {
            *x = T::from_f64(y);
        }
    });
}

/// Rows of the identity that the operator is applied to at once.
const BLOCK: usize = 64;

/// The matrix of a symmetric operator, its two triangles averaged.
fn materialize<T: Real>(op: &dyn LinOp<T>) -> Result<Vec<T>, Error> {
    let dim = op.dim_in();
    let mut a = zeros("explicit matrix", dim.checked_mul(dim))?;
    let mut identity: Vec<T> = zeros("rows of the identity", BLOCK.min(dim).checked_mul(dim))?;
    let mut scratch = zeros("operator scratch", Some(op.scratch_len(BLOCK.min(dim))))?;
    for start in (0..dim).step_by(BLOCK) {
        let rows = BLOCK.min(dim - start);
        identity.fill(T::ZERO);
        for i in 0..rows {
            identity[i * dim + start + i] = T::ONE;
        }
        let x = MatRef::new(&identity[..rows * dim], rows, dim)?;
        op.apply(MatMut::new(&mut a[start * dim..(start + rows) * dim], rows, dim)?, x, &mut scratch)?;
    }
    let half = T::from_f64(0.5);
    for i in 0..dim {
        for j in 0..i {
            let mean = half * (a[i * dim + j] + a[j * dim + i]);
            a[i * dim + j] = mean;
            a[j * dim + i] = mean;
        }
    }
    crate::error::check_finite("explicit matrix", &a)?;
    Ok(a)
}
