//! The largest eigenvalue of a (preconditioned) matrix: what bounds the step size of an iteration.

use ascribe_core::random::Stream;
use ascribe_core::reduce::{axpy, dot, norm2, scale};
use ascribe_core::{Error as CoreError, LinOp, MatMut, MatRef, Real};

use super::report::check_operator;
use crate::Error;
use crate::error::{check_shape, zeros};
use crate::linalg::symmetric_eigen;
use crate::parallel::Parallelism;

/// Estimates the largest eigenvalue `rho` of `W (A + damping I)`, `A` being symmetric and `W` symmetric positive
/// definite (the identity without a preconditioner), by a few steps of Lanczos in the inner product of `W^-1`.
///
/// The estimate is a Rayleigh quotient, so it never exceeds `rho` beyond rounding. After `k` steps from an isotropic
/// start it falls short by a fraction `eps` or more with probability at most
/// $1.648 \sqrt{n}\, e^{-(2k-1)\sqrt{\varepsilon}}$: with ten steps and a million parameters, it is below
/// `0.74 rho` at most one time in 10 and below `0.23 rho` one time in 10,000. Symmetry of `A` and `W` is not tested.
///
/// Neumann iterations with preconditioner `W` converge for step sizes below `2 / rho`, with heavy-ball momentum
/// `beta` below `2 (1 + beta) / rho`.
///
/// Cost per step: one product with each operator and about `12 n` flops. Memory: four vectors.
///
/// # Examples
/// ```
/// use ascribe_core::linop::Diagonal;
/// use ascribe_solvers::inverse::SpectralRadius;
/// let (a, w) = (Diagonal::new(&[4.0, 1.0, 0.5]), Diagonal::new(&[0.25, 1.0, 4.0]));
/// let lanczos = SpectralRadius::default();
/// assert!((lanczos.estimate(&a)? - 4.0_f64).abs() < 1e-12);
/// assert!((lanczos.estimate_with(&a, &w)? - 2.0_f64).abs() < 1e-12);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Kuczynski and Wozniakowski, SIAM J. Matrix Anal. Appl. 13 (1992), theorem 4.2, for the probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpectralRadius {
    /// What is added to the diagonal; default 0.
    pub damping: f64,
    /// Lanczos steps; default 10. No more than `n` are made.
    pub iterations: usize,
    /// Seed of the first vector; default 0.
    pub seed: u64,
}

impl Default for SpectralRadius {
    fn default() -> Self {
        Self { damping: 0.0, iterations: 10, seed: 0 }
    }
}

impl SpectralRadius {
    /// The largest eigenvalue of `op + damping I`; 0 when there is no dimension.
    ///
    /// # Errors
    /// A shape error when `op` is not square, a damping error, [`CoreError::Parameter`] without iterations,
    /// [`CoreError::NonFinite`] when a product is not finite, [`CoreError::Overflow`] when the vectors or the
    /// operator's scratch do not fit into memory; the operator's own errors.
    pub fn estimate<T: Real>(&self, op: &dyn LinOp<T>) -> Result<f64, Error> {
        self.run(op, None)
    }

    /// The largest eigenvalue of `inverse (op + damping I)`.
    ///
    /// # Errors
    /// As [`SpectralRadius::estimate`]; a shape error when the operators differ in length,
    /// [`Error::NotPositiveDefinite`] when `inverse` is found not to be.
    pub fn estimate_with<T: Real>(&self, op: &dyn LinOp<T>, inverse: &dyn LinOp<T>) -> Result<f64, Error> {
        self.run(op, Some(inverse))
    }

    fn run<T: Real>(&self, op: &dyn LinOp<T>, inverse: Option<&dyn LinOp<T>>) -> Result<f64, Error> {
        let n = check_operator(op, self.damping)?;
        if let Some(inverse) = inverse {
            check_shape("preconditioner", n, check_operator(inverse, 0.0)?)?;
        }
        if self.iterations == 0 {
            return Err(CoreError::Parameter { what: "iterations", value: 0.0, must_be: "at least 1" }.into());
        }
        let stream = Stream::new(self.seed, "spectral_radius");
        // `q` becomes the next of the vectors r_j, which are orthonormal in the inner product of W; z_j = W r_j.
        let vector = || zeros::<T>("Lanczos vectors", Some(n));
        let (mut q, mut r, mut previous, mut z) = (vector()?, vector()?, vector()?, vector()?);
        for (i, q) in q.iter_mut().enumerate() {
            *q = T::from_f64(stream.normals(i as u64, 0)[0]);
        }
        let scratch = op.scratch_len(1).max(inverse.map_or(0, |inverse| inverse.scratch_len(1)));
        let mut scratch = zeros("operator scratch", Some(scratch))?;
        let (mut diagonal, mut off_diagonal) = (Vec::new(), Vec::new());
        for step in 0..self.iterations.min(n) {
            match inverse {
                Some(inverse) => inverse.apply(MatMut::from_row(&mut z), MatRef::from_row(&q), &mut scratch)?,
                None => z.copy_from_slice(&q),
            }
            let squared = dot(&q, &z)?.to_f64();
            // q . W q below the rounding of its own computation: the space is exhausted.
            let noise = T::EPSILON.to_f64() * norm2(&q).to_f64() * norm2(&z).to_f64();
            if !(squared.is_finite() && noise.is_finite()) {
                return Err(CoreError::NonFinite { what: "Lanczos vectors", index: step }.into());
            }
            if squared < -noise {
                return Err(Error::NotPositiveDefinite { pivot: step });
            }
            if squared <= noise {
                break;
            }
            let beta = squared.sqrt();
            scale(&mut q, T::from_f64(1.0 / beta));
            scale(&mut z, T::from_f64(1.0 / beta));
            std::mem::swap(&mut previous, &mut r);
            std::mem::swap(&mut r, &mut q);
            op.apply(MatMut::from_row(&mut q), MatRef::from_row(&z), &mut scratch)?;
            axpy(&mut q, T::from_f64(self.damping), &z)?;
            let alpha = dot(&z, &q)?.to_f64();
            if !alpha.is_finite() {
                return Err(CoreError::NonFinite { what: "Lanczos vectors", index: step }.into());
            }
            axpy(&mut q, T::from_f64(-alpha), &r)?;
            if step > 0 {
                axpy(&mut q, T::from_f64(-beta), &previous)?;
                off_diagonal.push(beta);
            }
            diagonal.push(alpha);
        }
        largest_eigenvalue(&diagonal, &off_diagonal)
    }
}

/// Of a symmetric tridiagonal matrix; 0 of an empty one.
fn largest_eigenvalue(diagonal: &[f64], off_diagonal: &[f64]) -> Result<f64, Error> {
    let k = diagonal.len();
    let mut matrix = vec![0.0; k * k];
    for (i, &alpha) in diagonal.iter().enumerate() {
        matrix[i * k + i] = alpha;
    }
    for (i, &beta) in off_diagonal.iter().enumerate() {
        matrix[i * k + i + 1] = beta;
        matrix[(i + 1) * k + i] = beta;
    }
    Ok(symmetric_eigen(MatRef::new(&matrix, k, k)?, Parallelism::Serial)?.values.last().copied().unwrap_or(0.0))
}
