//! Choosing a damping without retraining.

use ascribe_core::{Error as CoreError, MatMut, MatRef, Real, Scalar, reduce};

use super::spectrum::{Spectrum, bisect, check_damping};
use crate::Error;
use crate::error::{check_finite, check_rows_finite, check_shape, filled_rows, zeros};
use crate::linalg::{matmul, symmetric_eigen};
use crate::parallel::{Parallelism, for_each};

/// Columns or rows of the gradients that are converted to f64 at a time.
const PANEL: usize = 1024;
/// The least step of the search for a target, in `ln(s_min + lambda)`.
const RESOLUTION: f64 = 0.01;

/// The damping that a training run of `steps` steps of gradient descent applies by stopping there,
/// $\lambda = (1 - \beta) / (\eta K)$ for learning rate $\eta$ and momentum $\beta$.
///
/// # Errors
/// [`CoreError::Parameter`] unless the learning rate is positive and finite, `0 <= momentum < 1` and `steps >= 1`.
///
/// # Examples
/// ```
/// assert!((ascribe_solvers::curvature::implicit_damping(0.1, 1000, 0.9)? - 1e-3).abs() < 1e-15);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// arXiv:2405.12186, where a segment of training is such a filter.
pub fn implicit_damping(learning_rate: f64, steps: usize, momentum: f64) -> Result<f64, Error> {
    let refuse = |what, value, must_be| Err(CoreError::Parameter { what, value, must_be }.into());
    if !(learning_rate > 0.0 && learning_rate.is_finite()) {
        return refuse("learning rate", learning_rate, "positive and finite");
    }
    if !(0.0..1.0).contains(&momentum) {
        return refuse("momentum", momentum, "at least 0 and below 1");
    }
    if steps == 0 {
        return refuse("steps", 0.0, "at least 1");
    }
    Ok((1.0 - momentum) / learning_rate / steps as f64)
}

/// The indicator $\xi(\lambda) = t_3 / \sqrt{t_2 t_4}$ with $t_k = q^\top (F + \lambda I)^{-k} F q$ of each query `q`: how
/// nearly a change of the damping only rescales the scores.
///
/// $\xi$ is the cosine between the scores $J (F + \lambda I)^{-1} q$ and their derivative in $\lambda$, for gradients `J`
/// with $F = J^\top J / n$. It lies in (0, 1], is 1 when `q` sees a single eigenvalue, and goes to 1 for large $\lambda$.
/// It need not be monotone. A query that `F` maps to zero has scores of zero: its $\xi$ is 1, and it is left out of means.
///
/// Everything is computed in f64 from logarithms, so that no power over- or underflows.
///
/// # Examples
/// ```
/// use ascribe_core::MatRef;
/// use ascribe_solvers::curvature::{DampingIndicator, DampingSelection};
/// use ascribe_solvers::parallel::Parallelism;
/// let query = [1.0, 1.0]; // in the eigenbasis
/// let indicator = DampingIndicator::new(&[1.0, 1e-4], MatRef::from_row(&query), Parallelism::Serial)?;
/// let DampingSelection::Reached { damping } = indicator.select(0.5)? else { panic!("0.5 is reached") };
/// assert!((indicator.mean_xi(damping)? - 0.5).abs() < 1e-9);
/// assert!(matches!(indicator.select(0.01)?, DampingSelection::NotBracketed { .. }));
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// arXiv:2505.24261 proposes an indicator of full-data quantities per test point and its mean as a criterion. The formula
/// and the target 0.5 are not confirmed against that paper; what is stated above holds by itself.
#[derive(Debug, Clone)]
pub struct DampingIndicator {
    spectrum: Spectrum,
    /// The eigenvalues that some query sees.
    seen: Vec<f64>,
    /// `ln(s_i b_i)`, a row a query, a column an eigenvalue seen.
    ln_weights: Vec<f64>,
    queries: usize,
    parallelism: Parallelism,
}

/// What a search for a damping found; see [`DampingIndicator::select`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DampingSelection {
    /// The mean indicator falls to the target.
    Reached {
        /// The largest damping at which it does.
        damping: f64,
    },
    /// It stays above the target for every damping: choose by another rule, or take the damping of the lowest value.
    NotBracketed {
        /// The lowest mean seen.
        lowest_xi: f64,
        /// The damping at which it was.
        at: f64,
    },
}

impl DampingIndicator {
    /// From the eigenvalues of `F` and the queries in its eigenbasis, `[queries, dim]`: any eigenform, for instance the
    /// corrected eigenvalues of EKFAC with `Q_G^T V Q_A` of each query. Eigenvalues that are not positive count as zero.
    ///
    /// # Errors
    /// A shape error, [`CoreError::NonFinite`] for NaN or infinity.
    pub fn new<T: Real>(eigenvalues: &[T], projections: MatRef<'_, T>, par: Parallelism) -> Result<Self, Error> {
        check_shape("projection columns", eigenvalues.len(), projections.cols())?;
        check_rows_finite("projections", projections)?;
        let values: Vec<f64> = eigenvalues.iter().map(|value| value.to_f64()).collect();
        let ln_values: Vec<f64> = values.iter().map(|value| Scalar::ln(value.max(0.0))).collect();
        let weight = |q: usize, i: usize| ln_values[i] + 2.0 * Scalar::ln(projections.row(q)[i].to_f64().abs());
        Self::from_weights(Spectrum::new(eigenvalues)?, &values, projections.rows(), weight, par)
    }

    /// From gradients `J` `[n, dim]`, with $F = J^\top J / n$, and queries `[queries, dim]`.
    ///
    /// By the eigendecomposition of the smaller of `F` and `J J^T / n`, in f64; eigenvalues of at most
    /// `max(n, dim) eps` times the largest are rounding, and count as zero. Cost: `2 n dim min(n, dim)` flops for the
    /// matrix and about `9 min(n, dim)^3` for its decomposition.
    ///
    /// # Errors
    /// [`CoreError::Empty`] without gradients, a shape error, [`CoreError::NonFinite`] for NaN, infinity or squares that
    /// overflow f64, the errors of [`symmetric_eigen`].
    pub fn from_gradients<T: Real>(
        gradients: MatRef<'_, T>,
        queries: MatRef<'_, T>,
        par: Parallelism,
    ) -> Result<Self, Error> {
        let (n, dim, count) = (gradients.rows(), gradients.cols(), queries.rows());
        check_shape("query columns", dim, queries.cols())?;
        if n == 0 {
            return Err(CoreError::Empty { what: "gradients" }.into());
        }
        for (what, rows) in [("gradients", gradients), ("queries", queries)] {
            check_rows_finite(what, rows)?;
        }
        let order = n.min(dim);
        let mut matrix = zeros("curvature matrix", order.checked_mul(order))?;
        // The queries as the eigenvectors see them: J q for those of the Gram matrix, q itself for those of F.
        let mut seen = zeros("queries", count.checked_mul(order))?;
        let scale = 1.0 / n as f64;
        if n < dim {
            for start in (0..dim).step_by(PANEL) {
                let cols = PANEL.min(dim - start);
                let (j, q) = (wide(gradients.block(0, n, start, cols)?), wide(queries.block(0, count, start, cols)?));
                let (j, q) = (MatRef::new(&j, n, cols)?, MatRef::new(&q, count, cols)?);
                matmul(MatMut::new(&mut matrix, n, n)?, 1.0, scale, j, j.t(), par)?;
                matmul(MatMut::new(&mut seen, count, n)?, 1.0, 1.0, q, j.t(), par)?;
            }
        } else {
            // There may be any number of gradients without elements.
            let filled = if dim == 0 { 0 } else { n };
            for start in (0..filled).step_by(PANEL) {
                let rows = PANEL.min(n - start);
                let j = wide(gradients.row_range(start, rows)?);
                let j = MatRef::new(&j, rows, dim)?;
                matmul(MatMut::new(&mut matrix, dim, dim)?, 1.0, scale, j.t(), j, par)?;
            }
            seen = wide(queries);
        }
        let eigen = symmetric_eigen(MatRef::new(&matrix, order, order)?, par)?;
        let mut projections = zeros("projections", count.checked_mul(order))?;
        let vectors = MatRef::new(&eigen.vectors, order, order)?;
        let out = MatMut::new(&mut projections, count, order)?;
        matmul(out, 0.0, 1.0, MatRef::new(&seen, count, order)?, vectors, par)?;
        check_finite("projections of the queries", &projections)?;

        let rounding = n.max(dim) as f64 * f64::EPSILON * reduce::max_abs(&eigen.values);
        let values: Vec<f64> =
            eigen.values.iter().map(|value| if value.abs() <= rounding { 0.0 } else { *value }).collect();
        let weight = |q: usize, i: usize| {
            // (U^T J q)_i^2 / n is s_i b_i already.
            let factor = if n < dim { scale } else { values[i].max(0.0) };
            Scalar::ln(factor) + 2.0 * Scalar::ln(projections[q * order + i].abs())
        };
        Self::from_weights(Spectrum::new(&values)?.with_dim(dim)?, &values, count, weight, par)
    }

    /// `ln_weight(q, i)` is `ln(s_i b_i)`, minus infinity where the query does not see the eigenvalue.
    fn from_weights(
        spectrum: Spectrum,
        values: &[f64],
        queries: usize,
        ln_weight: impl Fn(usize, usize) -> f64,
        parallelism: Parallelism,
    ) -> Result<Self, Error> {
        let sees = |&i: &usize| values[i] > 0.0 && (0..queries).any(|q| ln_weight(q, i) > f64::NEG_INFINITY);
        let columns: Vec<usize> = (0..values.len()).filter(sees).collect();
        let mut ln_weights = zeros("weights", queries.checked_mul(columns.len()))?;
        for (q, row) in ln_weights.chunks_exact_mut(columns.len().max(1)).enumerate() {
            row.iter_mut().zip(&columns).for_each(|(weight, &i)| *weight = ln_weight(q, i));
        }
        let seen = columns.into_iter().map(|i| values[i]).collect();
        Ok(Self { spectrum, seen, ln_weights, queries, parallelism })
    }

    /// The spectrum of `F`.
    pub fn spectrum(&self) -> &Spectrum {
        &self.spectrum
    }

    /// $\ln t_1, \ldots, \ln t_4$ of each query; minus infinity for a query that `F` maps to zero.
    ///
    /// Cost: `4 dim` exponentials a query. Absolute error: a few `(dim + |ln t_k|) eps`, given the spectrum.
    ///
    /// # Errors
    /// [`CoreError::Damping`] when `damping` is negative or not finite, [`CoreError::Overflow`] when there is no memory
    /// for numbers of each query.
    pub fn ln_moments(&self, damping: f64) -> Result<Vec<[f64; 4]>, Error> {
        self.ln_powers(damping, [1, 2, 3, 4])
    }

    /// $\xi(\lambda)$ of each query.
    ///
    /// # Errors
    /// [`CoreError::Damping`] when `damping` is negative or not finite, [`CoreError::Overflow`] when there is no memory
    /// for numbers of each query.
    pub fn xi(&self, damping: f64) -> Result<Vec<f64>, Error> {
        Ok(self.ln_powers(damping, [2, 3, 4])?.into_iter().map(|moments| xi(moments).unwrap_or(1.0)).collect())
    }

    /// The mean of $\xi(\lambda)$ over the queries that `F` does not map to zero; 1 without any.
    ///
    /// # Errors
    /// [`CoreError::Damping`] when `damping` is negative or not finite, [`CoreError::Overflow`] when there is no memory
    /// for numbers of each query.
    pub fn mean_xi(&self, damping: f64) -> Result<f64, Error> {
        let moments = self.ln_powers(damping, [2, 3, 4])?;
        let values: Vec<f64> = moments.into_iter().filter_map(xi).collect();
        Ok(if values.is_empty() { 1.0 } else { values.iter().sum::<f64>() / values.len() as f64 })
    }

    /// The largest damping at which the mean of $\xi$ falls to `target`, coming down from infinity.
    ///
    /// The search starts at a damping above which Kantorovich's inequality keeps every $\xi$ above the target, and goes
    /// down to 0. As $|d \ln \xi| \le 2\, d \ln(s_{min} + \lambda)$ on the way, a step of `ln(xi/target)/2` in that logarithm
    /// passes over no solution; steps are at least 0.01, so a dip below the target by less than 1 % may be. The solution is
    /// then bisected to the last bits. Cost: about 100 evaluations of [`DampingIndicator::mean_xi`], at most 100 times the
    /// logarithm of the condition number where the mean stays close to the target.
    ///
    /// # Errors
    /// [`CoreError::Parameter`] unless `0 < target < 1`, [`CoreError::Overflow`] as in [`mean_xi`](Self::mean_xi). There is
    /// no default: the one value seen in use, 0.5, is unconfirmed, and many problems never fall as low.
    pub fn select(&self, target: f64) -> Result<DampingSelection, Error> {
        if !(target > 0.0 && target < 1.0) {
            return Err(CoreError::Parameter { what: "target xi", value: target, must_be: "between 0 and 1" }.into());
        }
        let least = self.seen.iter().copied().fold(f64::INFINITY, f64::min);
        let largest = reduce::max_abs(&self.seen);
        if largest == 0.0 {
            return Ok(DampingSelection::NotBracketed { lowest_xi: 1.0, at: 0.0 });
        }
        // A condition number k of F + lambda I gives xi >= 2 sqrt(k) / (1 + k), which is the target at this root.
        let root = (1.0 + ((1.0 - target) * (1.0 + target)).sqrt()) / target;
        // Divided twice, because the square of the root may overflow.
        let mut damping = (2.0 * (largest / (root - 1.0)) / (root + 1.0)).clamp(f64::MIN_POSITIVE, f64::MAX);
        let (mut above, mut lowest_xi, mut at) = (damping, f64::INFINITY, damping);
        loop {
            let xi = self.mean_xi(damping)?;
            if xi <= target {
                let falls = |damping: f64| self.mean_xi(damping).is_ok_and(|xi| xi <= target);
                return Ok(DampingSelection::Reached { damping: bisect(damping, above, falls) });
            }
            if xi < lowest_xi {
                (lowest_xi, at) = (xi, damping);
            }
            if damping == 0.0 {
                return Ok(DampingSelection::NotBracketed { lowest_xi, at });
            }
            above = damping;
            let shrink = Scalar::exp(-(0.5 * Scalar::ln(xi / target)).max(RESOLUTION));
            let next = (damping * shrink - least * (1.0 - shrink)).max(0.0);
            // Subnormal numbers need not shrink.
            damping = if next < damping { next } else { 0.0 };
        }
    }

    fn ln_powers<const K: usize>(&self, damping: f64, powers: [u8; K]) -> Result<Vec<[f64; K]>, Error> {
        check_damping(damping)?;
        let ln_damped = |&value: &f64| {
            let sum = value + damping;
            if sum.is_finite() { Scalar::ln(sum) } else { Scalar::ln(0.5 * value + 0.5 * damping) + Scalar::ln(2.0) }
        };
        let ln_damped: Vec<f64> = self.seen.iter().map(ln_damped).collect();
        let width = self.seen.len();
        let mut moments = Vec::new();
        let reserved = moments.try_reserve_exact(self.queries);
        reserved.map_err(|_| CoreError::Overflow { what: "moments of the queries" })?;
        moments.resize(self.queries, [f64::NEG_INFINITY; K]);
        let tasks: Vec<_> = moments.iter_mut().zip(self.ln_weights.chunks_exact(width.max(1))).collect();
        for_each(self.parallelism, tasks, |(moments, ln_weights)| {
            *moments = powers.map(|k| ln_sum_exp(ln_weights, &ln_damped, f64::from(k)));
            Ok(())
        })
        .map(|()| moments)
    }
}

/// `ln sum_i exp(a_i - k b_i)`, by the largest term.
fn ln_sum_exp(a: &[f64], b: &[f64], k: f64) -> f64 {
    let terms = || a.iter().zip(b).map(|(a, b)| a - k * b);
    let largest = terms().fold(f64::NEG_INFINITY, f64::max);
    if largest == f64::NEG_INFINITY {
        return largest;
    }
    largest + Scalar::ln(terms().map(|term| Scalar::exp(term - largest)).sum::<f64>())
}

/// From `ln t_2, ln t_3, ln t_4`; none for a query without weight.
fn xi([t2, t3, t4]: [f64; 3]) -> Option<f64> {
    // Cauchy and Schwarz, whatever rounding says.
    (t3 > f64::NEG_INFINITY).then(|| Scalar::exp(t3 - 0.5 * (t2 + t4)).min(1.0))
}

fn wide<T: Real>(x: MatRef<'_, T>) -> Vec<f64> {
    filled_rows(x).flatten().map(|x| x.to_f64()).collect()
}
