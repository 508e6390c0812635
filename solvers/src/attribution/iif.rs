//! IIF: which records of a PPO rollout help the policy, and which to drop.

use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};

use crate::Error;
use crate::error::{check_finite, check_shape, zeros};
use crate::linalg::matmul;
use crate::parallel::Parallelism;

/// Influence of the records of one PPO round on its return, at the parameters that made the rollout:
/// $s_i = \tilde A_i \langle \nabla \log \pi_i, \tau \rangle$ with $\tau = \frac1n \sum_j A_j \nabla \log \pi_j$.
///
/// There the probability ratio is 1 and no clipping is active, so that record `i` moves the policy along $\tilde A_i
/// \nabla \log \pi_i$: its advantage, standardised in its mini-batch, times its score function. The target is the
/// return of the rollout under the advantages as they are. A positive record is helpful, and the scores sum to the
/// inner product of the target with the step of the whole round.
///
/// A rollout may come in blocks of whole chunks: [`target`](Self::target) adds up, and [`scores`](Self::scores) takes
/// any rows with their advantages. Cost: `4 p` flops a record.
///
/// # Examples
/// ```
/// use ascribe_core::MatRef;
/// use ascribe_solvers::{attribution::{Iif, IifFilter}, parallel::Parallelism::Serial};
/// let (advantages, gradients) = ([2.0, 0.0, 4.0], MatRef::new(&[1.0, 3.0, -1.0], 3, 1)?);
/// let iif = Iif { chunk: 2, ..Iif::default() };
/// let (standardized, target) = (iif.standardize(&advantages)?, iif.target(&advantages, gradients, Serial)?);
/// let scores = iif.scores(&standardized, gradients, &target, Serial)?;
/// assert!(scores[0] < 0.0 && scores[1] > 0.0 && scores[2] == 0.0); // the last is a chunk of its own
/// assert_eq!(IifFilter::Positive.keep(&scores)?, [false, true, false]);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// IIF, arXiv:2505.19281, sections 3 and 5. Their code looks records up by their contents, so that equal ones
/// collide; here a record is its index.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Iif {
    /// Records of a mini-batch, within which advantages are standardised; default 64.
    pub chunk: usize,
    /// What is added to the standard deviation; default 1e-8.
    pub epsilon: f64,
}

impl Default for Iif {
    fn default() -> Self {
        Self { chunk: 64, epsilon: 1e-8 }
    }
}

impl Iif {
    /// `(A - mean) / (std + epsilon)` within consecutive chunks, the last of which may be shorter; the divisor of the
    /// variance is the size less one. A single record, or equal ones, give 0. In f64.
    ///
    /// # Errors
    /// [`CoreError::Parameter`] for a chunk of no records or an epsilon that is negative or not finite;
    /// [`CoreError::NonFinite`] in the advantages, or when their variance overflows.
    pub fn standardize<T: Real>(&self, advantages: &[T]) -> Result<Vec<T>, Error> {
        let Self { chunk, epsilon } = *self;
        if chunk == 0 {
            let must_be = "at least 1";
            return Err(CoreError::Parameter { what: "records of a chunk", value: 0.0, must_be }.into());
        }
        if !(epsilon.is_finite() && epsilon >= 0.0) {
            let must_be = "finite and at least 0";
            return Err(CoreError::Parameter { what: "epsilon", value: epsilon, must_be }.into());
        }
        check_finite("advantages", advantages)?;
        let mut out = zeros("standardised advantages", Some(advantages.len()))?;
        for (a, out) in advantages.chunks(chunk).zip(out.chunks_mut(chunk)) {
            // Equal ones before the sums, whose rounding the division would magnify.
            if a.windows(2).all(|pair| pair[0] == pair[1]) {
                continue;
            }
            let count = a.len() as f64;
            let mean = a.iter().map(|a| a.to_f64() / count).sum::<f64>();
            let squares: f64 = a.iter().map(|a| (a.to_f64() - mean).powi(2)).sum();
            check_finite("variance of the advantages", &[squares])?;
            let divisor = (squares / (count - 1.0)).sqrt() + epsilon;
            // Without an epsilon, differences whose squares vanish are none.
            if divisor > 0.0 {
                out.iter_mut()
                    .zip(a)
                    .for_each(|(out, a): (&mut T, _)| *out = T::from_f64((a.to_f64() - mean) / divisor));
            }
        }
        Ok(out)
    }

    /// The gradient of the return, `(1/n) sum A_j g_j` `[p]`, from the advantages as they are and the score functions
    /// `[n, p]`; of several rollouts or blocks, the mean weighted with their sizes is that of all. In the precision
    /// of `T`.
    ///
    /// # Errors
    /// A shape error; [`CoreError::Empty`] without records.
    pub fn target<T: Real>(
        &self,
        advantages: &[T],
        gradients: MatRef<'_, T>,
        par: Parallelism,
    ) -> Result<Vec<T>, Error> {
        check_shape("advantages", gradients.rows(), advantages.len())?;
        if advantages.is_empty() {
            return Err(CoreError::Empty { what: "records" }.into());
        }
        let scale = T::from_f64(1.0 / advantages.len() as f64);
        let mut target = zeros("target gradient", Some(gradients.cols()))?;
        matmul(MatMut::from_row(&mut target), T::ZERO, scale, MatRef::from_row(advantages), gradients, par)?;
        Ok(target)
    }

    /// The score of each record, from its standardised advantage, its score function, a row of `[n, p]`, and the
    /// target.
    ///
    /// # Errors
    /// A shape error.
    pub fn scores<T: Real>(
        &self,
        standardized: &[T],
        gradients: MatRef<'_, T>,
        target: &[T],
        par: Parallelism,
    ) -> Result<Vec<T>, Error> {
        let n = gradients.rows();
        check_shape("advantages", n, standardized.len())?;
        check_shape("elements of the target", gradients.cols(), target.len())?;
        let mut scores = zeros("scores", Some(n))?;
        matmul(MatMut::new(&mut scores, n, 1)?, T::ZERO, T::ONE, gradients, MatRef::from_row(target).t(), par)?;
        scores.iter_mut().zip(standardized).for_each(|(score, a)| *score *= *a);
        Ok(scores)
    }
}

/// Which records of a rollout stay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum IifFilter {
    /// Drops this percentage of the *negative* records, the most harmful first: with `k = floor(negative percent /
    /// 100)`, those below the `k`-th smallest score, counted from 0. Ties at that score stay, so that fewer than `k`
    /// may go. When `k` is the number of records, all go. 12.5 in the paper's experiments on control tasks.
    PercentOfNegative(f64),
    /// Keeps what has a positive score, as for language models.
    Positive,
}

impl IifFilter {
    /// Whether each record stays.
    ///
    /// # Errors
    /// [`CoreError::NonFinite`] for a NaN; [`CoreError::Parameter`] for a percentage that is negative or not finite.
    pub fn keep<T: Real>(self, scores: &[T]) -> Result<Vec<bool>, Error> {
        if let Some(index) = scores.iter().position(|x| x.is_nan()) {
            return Err(CoreError::NonFinite { what: "scores", index }.into());
        }
        let Self::PercentOfNegative(percent) = self else {
            return Ok(scores.iter().map(|&x| x > T::ZERO).collect());
        };
        if !(percent.is_finite() && percent >= 0.0) {
            let must_be = "finite and at least 0";
            return Err(CoreError::Parameter { what: "percentage", value: percent, must_be }.into());
        }
        let negative = scores.iter().filter(|&&x| x < T::ZERO).count();
        let k = (negative as f64 * percent / 100.0) as usize;
        if k >= scores.len() {
            return Ok(vec![false; scores.len()]);
        }
        let mut sorted: Vec<f64> = scores.iter().map(|x| x.to_f64()).collect();
        let threshold = *sorted.select_nth_unstable_by(k, f64::total_cmp).1;
        Ok(scores.iter().map(|x| x.to_f64() >= threshold).collect())
    }
}
