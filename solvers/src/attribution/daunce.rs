//! Daunce: attribution by the covariance of losses over perturbed models.

use ascribe_core::Error as CoreError;
use ascribe_core::random::Stream;

use crate::Error;
use crate::error::zeros;

/// How each of Daunce's models is perturbed, and the stream that the perturbations come from.
///
/// Model `k` continues from the trained parameters `theta_0` on a random subset of the examples, and minimises the
/// mean over it of `(l_i(theta) - l_i(theta_0)) - (1 + u_i) <c_i, z_i(theta) - z_i(theta_0)>`, with the outputs `z`,
/// `c_i = dl_i/dz_i` at `theta_0`, and `u_i` uniform in `[-radius, radius)` and drawn once for each example and
/// model. The losses of all models at training examples and queries go into a
/// [`CrossCovariance`](super::CrossCovariance), one model a row; its
/// [`covariance`](super::CrossCovariance::covariance) `[n, m]` are the scores, its
/// [`correlation`](super::CrossCovariance::correlation) those of unit size.
///
/// For a quadratic loss with Hessian `H` the covariance tends to $\frac{\rho^2}{3} g_i^\top H^{-1} G H^{-1} g_q$ with
/// $G = \sum_j g_j g_j^\top$, the influence where `G` is `H`; its Monte Carlo error falls as $1/\sqrt K$, so that
/// about a hundred models are needed.
///
/// # Examples
/// ```
/// use ascribe_core::MatRef;
/// use ascribe_solvers::{attribution::{CrossCovariance, Daunce}, parallel::Parallelism::Serial};
/// let (on, u): (Vec<usize>, Vec<f64>) = Daunce::default().perturbation(7, 1000)?.into_iter().unzip();
/// assert_eq!(on.len(), 300); // train on these, with these perturbations
/// assert!(u.iter().all(|u| (-1.0..1.0).contains(u)));
/// let mut scores = CrossCovariance::new(2, 1)?; // losses of three models
/// scores.add(MatRef::new(&[1.0, 3.0, 2.0, 2.0, 3.0, 1.0], 3, 2)?, MatRef::new(&[4.0, 5.0, 6.0], 3, 1)?, Serial)?;
/// assert_eq!(scores.covariance()?, [1.0, -1.0]);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Daunce, arXiv:2505.23223.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Daunce {
    /// `rho`, the largest perturbation; default 1.
    pub radius: f64,
    /// The share of the examples that a model continues on, in (0, 1]; default 0.3. Their number is rounded down, but
    /// at least 1.
    pub ratio: f64,
    /// The seed; default 0.
    pub seed: u64,
}

impl Default for Daunce {
    fn default() -> Self {
        Self { radius: 1.0, ratio: 0.3, seed: 0 }
    }
}

impl Daunce {
    /// The examples that model `model` continues on, ascending, each with its perturbation `u_i`.
    ///
    /// What an example gets depends on the seed, the model and the example alone.
    ///
    /// # Errors
    /// [`CoreError::Parameter`] for a radius that is negative or not finite, or a ratio outside (0, 1];
    /// [`CoreError::Overflow`] when there is no memory for so many examples.
    pub fn perturbation(&self, model: u64, examples: usize) -> Result<Vec<(usize, f64)>, Error> {
        let Self { radius, ratio, seed } = *self;
        if !(radius.is_finite() && radius >= 0.0) {
            let must_be = "finite and at least 0";
            return Err(CoreError::Parameter { what: "radius", value: radius, must_be }.into());
        }
        if !(ratio > 0.0 && ratio <= 1.0) {
            let must_be = "above 0 and at most 1";
            return Err(CoreError::Parameter { what: "ratio", value: ratio, must_be }.into());
        }
        let count = ((ratio * examples as f64) as usize).max(1).min(examples);
        let stream = Stream::new(seed, "daunce").child(model);
        let mut subset: Vec<usize> = zeros("perturbed examples", Some(count))?;
        stream.draws().sample_without_replacement(&mut subset, examples)?;
        subset.sort_unstable();
        Ok(subset.into_iter().map(|i| (i, radius * (2.0 * stream.uniform(i as u64, 0) - 1.0))).collect())
    }
}
