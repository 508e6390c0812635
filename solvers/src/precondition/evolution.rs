//! Natural evolution strategies on a spectral factorisation: search without gradients, adapting a precision matrix.

use ascribe_core::random::Draws;
use ascribe_core::{Error as CoreError, MatMut, MatRef, Real, Scalar};

use super::check::{check_positive, check_rate};
use super::{Gaps, Spectral, SpectralReport, SpectralState};
use crate::Error;
use crate::error::{check_finite, check_rows_finite, check_shape, filled_rows, zeros};
use crate::linalg::matmul;

/// Options of a search; the defaults are those of xNES.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evolution {
    /// Points of a generation; default `4 + floor(3 ln n)` by [`Evolution::new`].
    pub population: usize,
    /// The step size of the precision, `(9 + 3 ln n) / (5 n sqrt(n))`, at most 1.
    pub eta: f64,
    /// The step size of the mean; 1.
    pub eta_mean: f64,
    /// Bounds and storage of the precision. Its gaps should be [`Gaps::Regularised`] with about `eta`: utilities of a few
    /// points are noisy observations. Its own step size and decay play no part.
    pub precision: Spectral,
}

/// The search distribution: normal with mean `mu` and precision `S = B diag(d) B^T`.
///
/// A generation draws `z_k ~ N(0, I)` in the coordinates of the basis and looks at the points $\mu + B (z_k / \sqrt d)$.
/// With utilities `u_k`, larger for better points, $W = \sum_k u_k (z_k z_k^\top - I)$ is the natural gradient of the
/// expected utility, and, from the old state,
/// $$\mu \leftarrow \mu + \eta_\mu B \Big(\sum_k u_k z_k / \sqrt d\Big), \quad d_i \leftarrow d_i \exp(-\eta W_{ii}),
///   \quad B \leftarrow B\,\mathrm{Cay}(\tfrac{\eta}{2} A),$$
/// where `A` is the generator of $M_{ij} = W_{ij} / \sqrt{d_i d_j}$ for the variances `1 / d`. Cost of a generation:
/// `2 L n^2` flops each for the points, the mean's step and `W`, and a rotation; no decomposition, where xNES takes
/// the exponential of a matrix.
///
/// # Examples
/// ```
/// use ascribe_core::random::Stream;
/// use ascribe_solvers::precondition::Evolution;
/// let mut search = Evolution::new(2).start(&[3.0_f64, -2.0], 1.0)?;
/// let mut draws = Stream::new(0, "search").draws();
/// for _ in 0..200 {
///     search.generation(&mut draws, |x| 100.0 * x[0] * x[0] + x[1] * x[1])?;
/// }
/// assert!(search.mean().iter().all(|x| x.abs() < 1e-6));
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Glasmachers et al., *Exponential natural evolution strategies*, GECCO 2010 (xNES, and the utilities); Lin et al.,
/// arXiv:2502.06268 (the factorised precision).
#[derive(Debug, Clone, PartialEq)]
pub struct EvolutionState<T> {
    options: Evolution,
    mean: Vec<T>,
    precision: SpectralState<T>,
}

impl Evolution {
    /// The defaults in `n` dimensions.
    pub fn new(n: usize) -> Self {
        let dim = n.max(1) as f64;
        let eta = ((9.0 + 3.0 * Scalar::ln(dim)) / (5.0 * dim * dim.sqrt())).min(1.0);
        let precision = Spectral { gaps: Gaps::Regularised(eta), clip: 1.0, polish_every: 64, ..Spectral::default() };
        Self { population: 4 + (3.0 * Scalar::ln(dim)) as usize, eta, eta_mean: 1.0, precision }
    }

    /// A search around `mean` with standard deviation `deviation` in every direction.
    ///
    /// # Errors
    /// [`CoreError::NonFinite`] in the mean, [`CoreError::Parameter`] for an option or deviation outside its range.
    pub fn start<T: Real>(self, mean: &[T], deviation: f64) -> Result<EvolutionState<T>, Error> {
        check_positive("deviation", deviation)?;
        let precision = self.precision.start(mean.len(), 1.0 / (deviation * deviation))?;
        self.resume(mean, precision)
    }

    /// A search from a mean and a precision.
    ///
    /// # Errors
    /// As [`start`](Self::start), and a shape error.
    pub fn resume<T: Real>(self, mean: &[T], precision: SpectralState<T>) -> Result<EvolutionState<T>, Error> {
        check_shape("elements of the mean", precision.dim(), mean.len())?;
        check_finite("mean", mean)?;
        for (what, value) in [("eta", self.eta), ("eta_mean", self.eta_mean)] {
            check_rate(what, value)?;
        }
        Ok(EvolutionState { options: self, mean: mean.to_vec(), precision })
    }
}

impl<T: Real> EvolutionState<T> {
    /// The mean: the answer of the search so far.
    pub fn mean(&self) -> &[T] {
        &self.mean
    }

    /// The precision `S`.
    pub fn precision(&self) -> &SpectralState<T> {
        &self.precision
    }

    /// Writes the points of the draws `z` `[population, n]`, one a row.
    ///
    /// # Errors
    /// A shape error; [`CoreError::NonFinite`] for NaN or infinity in `z` or in a point, with `out` untouched.
    pub fn points(&self, mut out: MatMut<'_, T>, z: MatRef<'_, T>) -> Result<(), Error> {
        check_shape("rows of the points", z.rows(), out.rows())?;
        check_shape("columns of the points", self.mean.len(), out.cols())?;
        let points = self.displaced(z)?;
        Ok(out.copy_from(MatRef::new(&points, z.rows(), self.mean.len())?)?)
    }

    /// `mu + B (z / sqrt(d))` for each row.
    fn displaced(&self, z: MatRef<'_, T>) -> Result<Vec<T>, Error> {
        let n = self.mean.len();
        check_shape("columns of the draws", n, z.cols())?;
        check_rows_finite("draws", z)?;
        let mut points = self.back(z)?;
        for point in points.chunks_exact_mut(n.max(1)) {
            point.iter_mut().zip(&self.mean).for_each(|(x, &mu)| *x += mu);
        }
        check_finite("points", &points)?;
        Ok(points)
    }

    /// `B (z / sqrt(d))` for each row.
    fn back(&self, z: MatRef<'_, T>) -> Result<Vec<T>, Error> {
        let (n, rows) = (self.mean.len(), z.rows());
        let deviations: Vec<T> = self.precision.values().iter().map(|d| T::from_f64(1.0 / d.sqrt())).collect();
        let scaled: Vec<T> = filled_rows(z).flat_map(|row| row.iter().zip(&deviations).map(|(&z, &s)| z * s)).collect();
        let mut out: Vec<T> = zeros("points", rows.checked_mul(n))?;
        let (basis, scaled) = (self.precision.basis()?, MatRef::new(&scaled, rows, n)?);
        let basis = MatRef::new(&basis, n, n)?;
        matmul(
            MatMut::new(&mut out, rows, n)?,
            T::ZERO,
            T::ONE,
            scaled,
            basis.t(),
            self.options.precision.parallelism,
        )?;
        Ok(out)
    }

    /// Learns from the draws `z` `[population, n]` and the utilities of their points.
    ///
    /// # Errors
    /// A shape error; [`CoreError::NonFinite`] for NaN or infinity in an argument, or in the result of an overflow. The
    /// state is untouched.
    pub fn learn(&mut self, z: MatRef<'_, T>, utilities: &[f64]) -> Result<SpectralReport, Error> {
        let (n, Evolution { eta, eta_mean, .. }) = (self.mean.len(), self.options);
        check_shape("columns of the draws", n, z.cols())?;
        check_shape("utilities", z.rows(), utilities.len())?;
        check_finite("utilities", utilities)?;
        check_rows_finite("draws", z)?;
        let mut weighted: Vec<T> = zeros("weighted draws", z.rows().checked_mul(n))?;
        let mut pull: Vec<T> = zeros("step of the mean", Some(n))?;
        for ((out, row), &u) in weighted.chunks_exact_mut(n.max(1)).zip(z.row_iter()).zip(utilities) {
            for ((out, pull), &z) in out.iter_mut().zip(&mut pull).zip(row) {
                *out = T::from_f64(u) * z;
                *pull += *out;
            }
        }
        let mut w: Vec<T> = zeros("natural gradient", n.checked_mul(n))?;
        let parallelism = self.options.precision.parallelism;
        let weighted = MatRef::new(&weighted, z.rows(), n)?;
        matmul(MatMut::new(&mut w, n, n)?, T::ZERO, T::ONE, weighted.t(), z, parallelism)?;
        let total = T::from_f64(utilities.iter().sum());
        w.iter_mut().step_by(n + 1).for_each(|x| *x -= total);
        let steps: Vec<f64> = (0..n).map(|i| -eta * w[i * n + i].to_f64()).collect();
        let variances: Vec<f64> = self.precision.values().iter().map(|d| 1.0 / d).collect();
        for (i, row) in w.chunks_exact_mut(n.max(1)).enumerate() {
            for (w, s) in row[..=i].iter_mut().zip(&variances) {
                *w = T::from_f64(w.to_f64() * (variances[i] * s).sqrt());
            }
        }
        let mut mean = self.back(MatRef::from_row(&pull))?;
        mean.iter_mut().zip(&self.mean).for_each(|(x, &mu)| *x = mu + T::from_f64(eta_mean) * *x);
        check_finite("mean", &mean)?;
        let report = self.precision.advance(w, &variances, [eta, 0.0], &steps)?;
        self.mean = mean;
        Ok(report)
    }

    /// A generation: draws points, evaluates `loss`, which is to become small, and learns from the
    /// [rank utilities](rank_utilities). The smallest loss of the generation.
    ///
    /// # Errors
    /// As [`learn`](Self::learn); [`CoreError::Empty`] for a population of 0, [`CoreError::Overflow`] for one that does not
    /// fit into memory.
    pub fn generation(&mut self, draws: &mut Draws, mut loss: impl FnMut(&[T]) -> f64) -> Result<f64, Error> {
        let (n, population) = (self.mean.len(), self.options.population);
        let mut z: Vec<T> = zeros("draws", population.checked_mul(n))?;
        z.fill_with(|| T::from_f64(draws.next_normal()));
        let z = MatRef::new(&z, population, n)?;
        let points = self.displaced(z)?;
        let points = MatRef::new(&points, population, n)?;
        let mut losses: Vec<f64> = zeros("losses", Some(population))?;
        losses.iter_mut().zip(points.row_iter()).for_each(|(out, point)| *out = loss(point));
        let utilities = rank_utilities(&losses)?;
        self.learn(z, &utilities)?;
        Ok(losses.into_iter().fold(f64::INFINITY, f64::min))
    }
}

/// xNES' utilities of losses: $\max(0, \ln(L/2 + 1) - \ln(\mathrm{rank}))$, divided by their sum, less `1 / L`.
///
/// The smallest loss has rank 1; equal ones are ranked in their order, NaN last. The sum is zero.
///
/// # Errors
/// [`CoreError::Empty`] without losses.
///
/// ```
/// use ascribe_solvers::precondition::rank_utilities;
/// let u = rank_utilities(&[3.0, 1.0, f64::NAN])?;
/// assert!(u[1] > u[0] && u[0] > u[2] && u.iter().sum::<f64>().abs() < 1e-15);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
pub fn rank_utilities(losses: &[f64]) -> Result<Vec<f64>, CoreError> {
    if losses.is_empty() {
        return Err(CoreError::Empty { what: "losses" });
    }
    let count = losses.len() as f64;
    let mut order: Vec<usize> = (0..losses.len()).collect();
    let key = |i: &usize| if losses[*i].is_nan() { f64::INFINITY } else { losses[*i] };
    order.sort_by(|i, j| key(i).total_cmp(&key(j)).then(losses[*i].is_nan().cmp(&losses[*j].is_nan())));
    let mut utilities = vec![0.0; losses.len()];
    for (rank, &i) in order.iter().enumerate() {
        utilities[i] = (Scalar::ln(count / 2.0 + 1.0) - Scalar::ln(rank as f64 + 1.0)).max(0.0);
    }
    let total: f64 = utilities.iter().sum();
    Ok(utilities.into_iter().map(|u| u / total - 1.0 / count).collect())
}
