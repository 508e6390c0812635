//! Influence functions.

use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};

use crate::Error;
use crate::error::check_shape;
use crate::inverse::{Solve, SolveReport};
use crate::network::Linearized;

/// What happens to the training example, and so the sign of a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// The example is left out: a positive score says that the measurement rises without it.
    Removal,
    /// The example gets more weight: a positive score says that the measurement rises with it.
    Upweight,
}

/// Influence of training examples on a measurement `f` of the parameters:
/// $s_n = \pm r\, \nabla f^\top (C + \lambda I)^{-1} \nabla \ell_n$.
///
/// With [`Influence::per_example`], `r = 1/N` and a score is the first-order change of `f` when the one example is
/// removed (or counted twice) and the network retrained; without, `r = 1`, as most tools report it. The curvature `C`
/// must be that of the *mean* loss in both cases.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef, derivative::Reduction};
/// use ascribe_solvers::{attribution::*, inverse::*, network::*, parallel::Parallelism};
/// let net = Mlp::new(&[1, 1], Activation::Identity, Loss::HalfMse)?; // y = w x + b
/// let theta = [0.0, 0.0];
/// let (x, y) = (MatRef::new(&[1.0, -1.0], 2, 1)?, MatRef::new(&[1.0, 0.0], 2, 1)?);
/// let train = Linearized::new(&net, &theta, x, Targets::Values(y), Reduction::Mean, Parallelism::Serial)?;
/// let curvature = train.gauss_newton();
/// let solver = Cg { damping: 0.1, ..Cg::default() }.prepare(&curvature)?;
/// let query = [1.0, 0.0]; // the measurement is the weight itself
/// let mut scores = [0.0; 2];
/// let influence = Influence { effect: Effect::Upweight, per_example: true };
/// influence.scores(MatMut::new(&mut scores, 2, 1)?, &train, &solver, MatRef::from_row(&query))?;
/// assert!((scores[0] - 0.5_f64 / 1.1).abs() < 1e-6 && scores[1] == 0.0); // more of (1, 1) raises w
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Hampel 1974; arXiv:1703.04730, equation 2, for networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Influence {
    /// The sign.
    pub effect: Effect,
    /// Whether the factor `1/N` is applied.
    pub per_example: bool,
}

impl Influence {
    /// What `grad f^T (C + lambda I)^-1 grad l_n` is multiplied by, among `examples` examples.
    pub fn factor(&self, examples: usize) -> f64 {
        let scale = if self.per_example { 1.0 / examples as f64 } else { 1.0 };
        match self.effect {
            Effect::Removal => scale,
            Effect::Upweight => -scale,
        }
    }

    /// Scores of every training example for every query: `out` is `[examples, queries]`, `queries` holds the
    /// gradients `[queries, parameters]` of the measurements, `inverse` solves with the curvature.
    ///
    /// Cost: one solve a query, and one forward tangent pass over the data a query; no gradient of a training
    /// example is formed. Gives the reports of the solves.
    ///
    /// # Errors
    /// A shape error, [`CoreError::NonFinite`] in the queries, the solver's own errors.
    pub fn scores<T: Real>(
        &self,
        out: MatMut<'_, T>,
        train: &Linearized<'_, T>,
        inverse: &dyn Solve<T>,
        queries: MatRef<'_, T>,
    ) -> Result<Vec<SolveReport>, Error> {
        let (count, dim) = (queries.rows(), queries.cols());
        check_shape("score rows", train.examples(), out.rows())?;
        check_shape("score columns", count, out.cols())?;
        check_shape("solver", dim, inverse.dim())?;
        let len = count.checked_mul(dim).ok_or(CoreError::Overflow { what: "solved queries" })?;
        let mut solved = vec![T::ZERO; len];
        let reports = inverse.solve(MatMut::new(&mut solved, count, dim)?, queries)?;
        self.scores_of_solved(out, train, MatRef::new(&solved, count, dim)?)?;
        Ok(reports)
    }

    /// The same for queries that are solved already, `[queries, parameters]`: for several training sets, or to look
    /// at the solutions.
    ///
    /// # Errors
    /// A shape error.
    pub fn scores_of_solved<T: Real>(
        &self,
        mut out: MatMut<'_, T>,
        train: &Linearized<'_, T>,
        solved: MatRef<'_, T>,
    ) -> Result<(), Error> {
        train.gradient_dots(out.rb_mut(), solved)?;
        let factor = T::from_f64(self.factor(train.examples()));
        out.for_each_row(|_, row| {
            for x in row {
                *x *= factor;
            }
        });
        Ok(())
    }
}
