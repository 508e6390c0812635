//! TRAK: the linear model of the network's margins, solved exactly.

use ascribe_core::derivative::Reduction;
use ascribe_core::{Error as CoreError, MatMut, MatRef, Real, Scalar};

use super::parts::{check_parts, part_dots};
use crate::Error;
use crate::curvature::Gram;
use crate::error::{check_shape, filled_rows, zeros};
use crate::linalg::Cholesky;
use crate::parallel::Parallelism;

/// TRAK over an ensemble of checkpoints:
/// $\tau_{nq} = \Big[\frac1C \sum_c \phi_{c,n}^\top (\Phi_c^\top \Phi_c + \lambda I)^{-1} \phi_{c,q}\Big]
/// \Big[\frac1C \sum_c (1 - p_{c,n})\Big]$.
///
/// `Phi_c` `[n, k]` are the sketched gradients of the model output [`margin`](super::margin) at checkpoint `c`, and
/// `p_{c,n}` the probability that it gives to the right class of training example `n`. The score is the product of two
/// averages, not the average of products.
///
/// The way: a [`Gram`] of the training rows a checkpoint, [`Trak::prepare`], [`TrakEnsemble::precondition`] for the
/// queries, [`TrakEnsemble::scores`] for block after block of training rows, and [`weight_by_residual`] at the end.
/// Cost: `k^3/3` flops a checkpoint, `2 k^2` a query, `2 k` a pair; all solves are in f64.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef};
/// use ascribe_solvers::{attribution::{Trak, weight_by_residual}, curvature::Gram, parallel::Parallelism::Serial};
/// let train = [MatRef::new(&[1.0, 0.0, 0.0, 2.0], 2, 2)?]; // one checkpoint
/// let mut gram = Gram::<f64>::new(2, Serial)?;
/// gram.add(train[0], None)?;
/// let trak = Trak { regularization: 1.0, ..Trak::default() }.prepare(&[gram])?;
/// let (mut solved, mut scores) = ([0.0; 2], [0.0; 2]);
/// trak.precondition(MatMut::from_row(&mut solved), &[MatRef::from_row(&[4.0, 5.0])])?;
/// trak.scores(MatMut::new(&mut scores, 2, 1)?, &train, MatRef::from_row(&solved))?;
/// weight_by_residual(MatMut::new(&mut scores, 2, 1)?, &[&[0.5, 0.75]])?;
/// assert!((scores[0] - 1.0_f64).abs() < 1e-14 && (scores[1] - 0.5).abs() < 1e-14);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Park et al., arXiv:2303.14186, section 3 (without its soft threshold). Their library rescales each inverse by the
/// mean of its absolute elements before it is stored in f16, which weighs checkpoints arbitrarily; here the inverse is
/// kept as it is, in f64.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Trak {
    /// `lambda`: absolute, in the units of the *sum* `Phi^T Phi`. Default 0, which needs features of full column rank;
    /// rounding may hide a dependence, so give a value unless there are well more rows than features.
    pub regularization: f64,
    /// Threads; default one.
    pub parallelism: Parallelism,
}

/// [`Trak`] bound to the Gram matrices of its checkpoints.
#[derive(Debug, Clone)]
pub struct TrakEnsemble {
    factors: Vec<Cholesky<f64>>,
    par: Parallelism,
}

impl Trak {
    /// Factorises the Gram matrix of each checkpoint.
    ///
    /// # Errors
    /// [`CoreError::Damping`] for a regularisation that is negative or not finite; [`CoreError::Empty`] without
    /// checkpoints; [`Error::Block`] with the checkpoint's name around [`Error::NotPositiveDefinite`] when features
    /// are linearly dependent and the regularisation is too small.
    pub fn prepare<S: Real>(&self, grams: &[Gram<S>]) -> Result<TrakEnsemble, Error> {
        let lambda = self.regularization;
        if !(lambda.is_finite() && lambda >= 0.0) {
            return Err(CoreError::Damping { value: lambda }.into());
        }
        if grams.is_empty() {
            return Err(CoreError::Empty { what: "checkpoints" }.into());
        }
        let factor = |(c, gram): (usize, &Gram<S>)| {
            let dim = gram.dim();
            let mut matrix: Vec<f64> = gram.matrix(Reduction::Sum)?.into_iter().map(Scalar::to_f64).collect();
            matrix.iter_mut().step_by(dim + 1).for_each(|x| *x += lambda);
            Cholesky::new(matrix, dim, self.parallelism).map_err(|error| error.in_block(&format!("checkpoint {c}")))
        };
        Ok(TrakEnsemble {
            factors: grams.iter().enumerate().map(factor).collect::<Result<_, _>>()?,
            par: self.parallelism,
        })
    }
}

impl TrakEnsemble {
    fn widths(&self) -> impl ExactSizeIterator<Item = usize> + Clone {
        self.factors.iter().map(Cholesky::dim)
    }

    /// The sum of the checkpoints' numbers of features.
    pub fn dim(&self) -> usize {
        self.widths().sum()
    }

    /// `(Phi_c^T Phi_c + lambda I)^-1 phi_c / C` for each query, the checkpoints side by side: `out` `[m, dim]` from
    /// `query[c]` `[m, k_c]`.
    ///
    /// # Errors
    /// A shape error; [`Error::NoConvergence`] when a solution overflows or a query is not finite.
    pub fn precondition<T: Real>(&self, mut out: MatMut<'_, T>, query: &[MatRef<'_, T>]) -> Result<(), Error> {
        check_shape("columns of prepared queries", self.dim(), out.cols())?;
        check_parts(["query checkpoints", "query rows", "query columns"], query, out.rows(), self.widths())?;
        let rows = out.rows();
        let mut solved: Vec<Vec<f64>> = Vec::with_capacity(query.len());
        for (factor, query) in self.factors.iter().zip(query) {
            let mut x: Vec<f64> = filled_rows(*query).flatten().map(|x| x.to_f64()).collect();
            factor.solve_in_place(MatMut::new(&mut x, rows, query.cols())?, self.par)?;
            solved.push(x);
        }
        let checkpoints = self.factors.len() as f64;
        out.for_each_row(|q, row| {
            let parts = solved.iter().zip(self.widths()).flat_map(|(x, width)| &x[q * width..(q + 1) * width]);
            row.iter_mut().zip(parts).for_each(|(out, x)| *out = T::from_f64(x / checkpoints));
        });
        Ok(())
    }

    /// The first factor of the score, `out` `[n, m]`, for a block of training rows, `train[c]` `[n, k_c]`, and queries
    /// that are preconditioned, `[m, dim]`.
    ///
    /// # Errors
    /// A shape error.
    pub fn scores<T: Real>(
        &self,
        out: MatMut<'_, T>,
        train: &[MatRef<'_, T>],
        preconditioned: MatRef<'_, T>,
    ) -> Result<(), Error> {
        Ok(part_dots(out, train, preconditioned, self.widths(), self.par)?)
    }
}

/// Multiplies each row of scores `[n, m]` by the training example's mean residual `(1/C) sum_c (1 - p_{c,n})`.
///
/// `probabilities[c]` has one number a row: of the right class, at checkpoint `c`.
///
/// # Errors
/// A shape error; [`CoreError::Empty`] without checkpoints; [`CoreError::Parameter`] for what is no probability.
pub fn weight_by_residual<T: Real>(mut scores: MatMut<'_, T>, probabilities: &[&[T]]) -> Result<(), Error> {
    if probabilities.is_empty() {
        return Err(CoreError::Empty { what: "checkpoints" }.into());
    }
    for p in probabilities {
        check_shape("probabilities of a checkpoint", scores.rows(), p.len())?;
        if let Some(p) = p.iter().find(|p| !(**p >= T::ZERO && **p <= T::ONE)) {
            let must_be = "at least 0 and at most 1";
            return Err(CoreError::Parameter { what: "probability", value: p.to_f64(), must_be }.into());
        }
    }
    let mut residuals: Vec<f64> = zeros("residuals", Some(scores.rows()))?;
    for p in probabilities {
        residuals.iter_mut().zip(*p).for_each(|(sum, p)| *sum += 1.0 - p.to_f64());
    }
    let count = probabilities.len() as f64;
    scores.for_each_row(|i, row| {
        let weight = T::from_f64(residuals[i] / count);
        for x in row {
            *x *= weight;
        }
    });
    Ok(())
}
