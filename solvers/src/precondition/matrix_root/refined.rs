//! Eigenvectors of a matrix that changes slowly, from those of last time.

use ascribe_core::{MatMut, MatRef, Real, reduce};

use crate::Error;
use crate::error::{check_finite, check_rows_finite, check_shape};
use crate::linalg::{Eigen, matmul, qr, symmetric_eigen};
use crate::parallel::Parallelism;
use crate::precondition::check::check_rate;

/// Approximate eigenvectors by QR iteration from a basis `Q` that was good before:
/// `B = Q^T A Q`; while the part of `B` off its diagonal exceeds `tolerance |B|_F`: `B = R' Q'`, `Q <- Q Q'` with
/// `B = Q' R'`.
///
/// Cost: `4 n^3` flops for `B` and about `16/3 n^3` for each iteration, of which there is none when the old basis still
/// passes. QR iteration without shifts orders the vectors by size and separates neighbours as slowly as their
/// eigenvalues are close: it is for tracking, not for precision.
///
/// # References
/// Golub and Van Loan, *Matrix Computations*, section 8.3.1; as `QREigendecomposition` in Distributed Shampoo.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RefinedEigenbasis {
    /// Default 0.01.
    pub tolerance: f64,
    /// Default 1.
    pub max_iterations: usize,
}

impl Default for RefinedEigenbasis {
    fn default() -> Self {
        Self { tolerance: 0.01, max_iterations: 1 }
    }
}

impl RefinedEigenbasis {
    /// The basis refined for `a`, with the Rayleigh quotients `diag(Q^T A Q)` as `values`, in no order. Without a
    /// basis (`None`) it is [`symmetric_eigen`].
    ///
    /// # Errors
    /// A shape error; [`NonFinite`](ascribe_core::Error::NonFinite);
    /// [`Parameter`](ascribe_core::Error::Parameter) for a tolerance that is negative or not finite;
    /// [`Error::NoConvergence`] when a decomposition fails.
    pub fn refine<T: Real>(&self, a: MatRef<'_, T>, basis: Option<&[f64]>, par: Parallelism) -> Result<Eigen, Error> {
        check_rate("tolerance", self.tolerance)?;
        let Some(basis) = basis else { return symmetric_eigen(a, par) };
        let n = a.rows();
        check_shape("columns of a symmetric matrix", n, a.cols())?;
        check_rows_finite("symmetric matrix", a)?;
        let a: Vec<f64> = a.row_iter().flatten().map(|x| x.to_f64()).collect();
        let (mut vectors, a) = (basis.to_vec(), MatRef::new(&a, n, n)?);
        let (mut aq, mut b) = (vec![0.0; n * n], vec![0.0; n * n]);
        {
            let q = MatRef::new(&vectors, n, n)?;
            matmul(MatMut::new(&mut aq, n, n)?, 0.0, 1.0, a, q, par)?;
            matmul(MatMut::new(&mut b, n, n)?, 0.0, 1.0, q.t(), MatRef::new(&aq, n, n)?, par)?;
        }
        let mut iterations = 0;
        while iterations < self.max_iterations && off_diagonal(&b, n) > self.tolerance * reduce::norm2(&b) {
            let factors = qr(MatRef::new(&b, n, n)?)?;
            let (q, r) = (MatRef::new(&factors.q, n, n)?, MatRef::new(&factors.r, n, n)?);
            matmul(MatMut::new(&mut b, n, n)?, 0.0, 1.0, r, q, par)?;
            matmul(MatMut::new(&mut aq, n, n)?, 0.0, 1.0, MatRef::new(&vectors, n, n)?, q, par)?;
            std::mem::swap(&mut vectors, &mut aq);
            iterations += 1;
        }
        let values: Vec<f64> = b.iter().step_by(n + 1).copied().collect();
        check_finite("eigenvalues", &values)?;
        Ok(Eigen { values, vectors })
    }
}

/// Frobenius' norm of what is off the diagonal.
fn off_diagonal(b: &[f64], n: usize) -> f64 {
    let mut off = b.to_vec();
    off.iter_mut().step_by(n + 1).for_each(|x| *x = 0.0);
    reduce::norm2(&off)
}
