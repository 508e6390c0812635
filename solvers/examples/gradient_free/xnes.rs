//! xNES as it was published, for comparison: the exponential of a matrix, by its eigenvectors, in every generation.

use ascribe_core::MatRef;
use ascribe_core::random::Draws;
use ascribe_solvers::Error;
use ascribe_solvers::linalg::symmetric_eigen;
use ascribe_solvers::parallel::Parallelism::Serial;
use ascribe_solvers::precondition::{Evolution, rank_utilities};

/// A normal distribution with mean `mu` and covariance `A A^T`.
pub(crate) struct Xnes {
    mean: Vec<f64>,
    a: Vec<f64>,
    options: Evolution,
}

impl Xnes {
    /// A search around `mean` with this standard deviation, and the step sizes of [`Evolution`].
    pub(crate) fn new(mean: &[f64], deviation: f64) -> Self {
        let n = mean.len();
        let a = (0..n * n).map(|k| if k % (n + 1) == 0 { deviation } else { 0.0 }).collect();
        Self { mean: mean.to_vec(), a, options: Evolution::new(n) }
    }

    /// A generation: `mu <- mu + A sum_k u_k z_k` and `A <- A exp(eta W / 2)`, `W = sum_k u_k (z_k z_k^T - I)`.
    pub(crate) fn generation(&mut self, draws: &mut Draws, mut loss: impl FnMut(&[f64]) -> f64) -> Result<f64, Error> {
        let (n, Evolution { population, eta, .. }) = (self.mean.len(), self.options);
        let z: Vec<Vec<f64>> = (0..population).map(|_| (0..n).map(|_| draws.next_normal()).collect()).collect();
        let losses: Vec<f64> = z.iter().map(|z| loss(&added(&self.mean, &times(&self.a, z)))).collect();
        let utilities = rank_utilities(&losses)?;
        let (mut pull, mut w) = (vec![0.0; n], vec![0.0; n * n]);
        for (z, u) in z.iter().zip(&utilities) {
            for i in 0..n {
                pull[i] += u * z[i];
                for j in 0..n {
                    w[i * n + j] += u * (z[i] * z[j] - if i == j { 1.0 } else { 0.0 });
                }
            }
        }
        self.mean = added(&self.mean, &times(&self.a, &pull));
        let eigen = symmetric_eigen(MatRef::new(&w, n, n)?, Serial)?;
        let q = &eigen.vectors;
        let growth: Vec<f64> = eigen.values.iter().map(|x| (0.5 * eta * x).exp()).collect();
        let exponential = |i: usize, j: usize| -> f64 { (0..n).map(|k| q[i * n + k] * growth[k] * q[j * n + k]).sum() };
        let e: Vec<f64> = (0..n * n).map(|k| exponential(k / n, k % n)).collect();
        let entry = |i: usize, j: usize| -> f64 { (0..n).map(|k| self.a[i * n + k] * e[k * n + j]).sum() };
        self.a = (0..n * n).map(|k| entry(k / n, k % n)).collect();
        Ok(losses.into_iter().fold(f64::INFINITY, f64::min))
    }
}

fn times(a: &[f64], x: &[f64]) -> Vec<f64> {
    a.chunks_exact(x.len()).map(|row| row.iter().zip(x).map(|(a, x)| a * x).sum()).collect()
}

fn added(x: &[f64], y: &[f64]) -> Vec<f64> {
    x.iter().zip(y).map(|(x, y)| x + y).collect()
}
