//! TrackStar: the cosine of whitened gradients.

use ascribe_core::derivative::Reduction;
use ascribe_core::score::unit_rows;
use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};

use super::ghost::tasks;
use super::parts::{BLOCK, check_parts};
use super::projected::ProjectedFisher;
use crate::Error;
use crate::curvature::{Filter, Gram};
use crate::error::{check_shape, zeros};
use crate::linalg::matmul;
use crate::parallel::Parallelism;

/// The weight of the queries in `R` when nothing can be said.
const FALLBACK: f64 = 0.99;

/// The mixing weight `lambda` with which the `k`-th largest eigenvalues of `lambda R_query` and of
/// `(1 - lambda) R_train` are equal: what the queries have in common then weighs as much as the training set's.
///
/// Each side is the list of its blocks' eigenvalues, pooled, negative ones counted as 0; with `k = components` counted
/// from 1, $\lambda = \sigma^t_k / (\sigma^q_k + \sigma^t_k)$. A side with fewer eigenvalues gives its last. `k = 0`
/// gives 1, and 0.99 is for a denominator of 0. Larger when the training side grows, smaller when the queries' does.
///
/// # Errors
/// [`CoreError::NonFinite`] for NaN or infinity.
///
/// # Examples
/// ```
/// use ascribe_solvers::attribution::mixing_weight;
/// let (query, train) = ([vec![4.0, 0.5]], [vec![8.0, 1.5]]);
/// assert_eq!(mixing_weight(&query, &train, 2)?, 0.75);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Chang et al., arXiv:2410.17413, appendix A.1.3; `k = 1000` there.
pub fn mixing_weight<V: AsRef<[f64]>>(query: &[V], train: &[V], components: usize) -> Result<f64, Error> {
    let kth = |what, blocks: &[V]| {
        let mut pool: Vec<f64> = blocks.iter().flat_map(AsRef::as_ref).map(|x| x.max(0.0)).collect();
        if let Some(index) = blocks.iter().flat_map(AsRef::as_ref).position(|x| !x.is_finite()) {
            return Err(CoreError::NonFinite { what, index });
        }
        let place = components.min(pool.len()).saturating_sub(1);
        if pool.is_empty() {
            return Ok(0.0);
        }
        Ok(*pool.select_nth_unstable_by(place, |a, b| b.total_cmp(a)).1)
    };
    let (query, train) = (kth("eigenvalues of the queries", query)?, kth("eigenvalues of the training set", train)?);
    if components == 0 {
        return Ok(1.0);
    }
    // Halves, because the sum of two finite numbers may overflow.
    let sum = 0.5 * query + 0.5 * train;
    Ok(if sum > 0.0 { 0.5 * train / sum } else { FALLBACK })
}

/// TrackStar on gradients that are corrected by the optimiser's second moments and sketched: with $R_l = \lambda
/// R^q_l + (1 - \lambda) R^t_l$ for each block, uncentred means of `g g^T` over queries and training rows, $s_{nq} =
/// \langle \mathrm{unit}(R^{-1/2} t_n), \mathrm{unit}(R^{-1/2} q_m) \rangle$, the norm being that of all blocks side
/// by side.
///
/// A score is in [-1, 1], 1 of a row with itself, symmetric, and does not depend on the scale of an example's gradient
/// nor, with a relative damping, on that of a block. An example without gradient scores 0. Cost: `2 sum d_l^2` flops a
/// row, and `2 dim` a pair.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef};
/// use ascribe_solvers::{attribution::TrackStar, curvature::{Filter, Gram}, parallel::Parallelism::Serial};
/// let train = [MatRef::new(&[4.0_f64, 0.0, 0.0, 2.0], 2, 2)?]; // one block
/// let mut gram = Gram::<f64>::new(2, Serial)?;
/// gram.add(train[0], None)?;
/// let trackstar = TrackStar::new(&[gram], None, &Filter::default(), Serial)?;
/// let mut query = [0.0; 2];
/// trackstar.embed(MatMut::from_row(&mut query), &[MatRef::from_row(&[8.0, 0.0])])?;
/// let mut scores = [0.0; 2];
/// trackstar.scores(MatMut::new(&mut scores, 2, 1)?, &train, MatRef::from_row(&query))?;
/// assert!((scores[0] - 1.0).abs() < 1e-15 && scores[1].abs() < 1e-15);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Chang et al., arXiv:2410.17413, section 3. The root of `R` is that of the matrix, not of its elements.
#[derive(Debug, Clone)]
pub struct TrackStar<T> {
    fisher: ProjectedFisher<T>,
    par: Parallelism,
}

impl<T: Real> TrackStar<T> {
    /// From the Gram matrices of the blocks over the training rows, and, for a task of their own, those over queries
    /// with their weight `lambda`; see [`mixing_weight`]. `filter` is that of the inverse `R^-1`, of which the root is
    /// taken; its damping of 0.1 times the mean eigenvalue is the usual one.
    ///
    /// # Errors
    /// A shape error when the blocks of both sides differ; [`CoreError::Parameter`] for a `lambda` outside [0, 1]; the
    /// errors of [`ProjectedFisher::from_grams`].
    pub fn new<S: Real>(
        train: &[Gram<S>],
        query: Option<(&[Gram<S>], f64)>,
        filter: &Filter,
        par: Parallelism,
    ) -> Result<Self, Error> {
        let Some((query, lambda)) = query else {
            return Ok(Self { fisher: ProjectedFisher::from_grams(train, filter, par)?, par });
        };
        if !(0.0..=1.0).contains(&lambda) {
            let must_be = "at least 0 and at most 1";
            return Err(CoreError::Parameter { what: "mixing weight", value: lambda, must_be }.into());
        }
        check_shape("blocks of the queries", train.len(), query.len())?;
        let mixed = |(train, query): (&Gram<S>, &Gram<S>)| {
            let dim = train.dim();
            check_shape("block of the queries", dim, query.dim())?;
            let (train, query) = (train.matrix(Reduction::Mean)?, query.matrix(Reduction::Mean)?);
            let mix = |(t, q): (S, S)| lambda * q.to_f64() + (1.0 - lambda) * t.to_f64();
            Ok((train.into_iter().zip(query).map(mix).collect::<Vec<f64>>(), dim))
        };
        let fisher = ProjectedFisher::from_matrices(train.iter().zip(query).map(mixed), filter, par)?;
        Ok(Self { fisher, par })
    }

    /// The length of an embedding: of all blocks side by side.
    pub fn dim(&self) -> usize {
        self.fisher.dim()
    }

    /// The unit vector of each row, `out` `[rows, dim]`: any inner product of two is their score. `rows[l]` is
    /// `[rows, d_l]`. Coordinates are those of [`ProjectedFisher::whiten`].
    ///
    /// # Errors
    /// A shape error.
    pub fn embed(&self, mut out: MatMut<'_, T>, rows: &[MatRef<'_, T>]) -> Result<(), Error> {
        self.fisher.whiten(out.rb_mut(), rows)?;
        unit_rows(out);
        Ok(())
    }

    /// Scores `[n, m]` of a block of training rows for queries that are embedded, `[m, dim]`. Work space: 256
    /// embeddings.
    ///
    /// # Errors
    /// A shape error.
    pub fn scores(&self, out: MatMut<'_, T>, train: &[MatRef<'_, T>], embedded: MatRef<'_, T>) -> Result<(), Error> {
        let (dim, widths) = (self.dim(), self.fisher.blocks().map(crate::curvature::EigenBlock::dim));
        check_parts(["blocks", "training rows", "training columns"], train, out.rows(), widths)?;
        check_shape("embedded query columns", dim, embedded.cols())?;
        check_shape("score columns", embedded.rows(), out.cols())?;
        let mut scratch: Vec<T> = zeros("block of embeddings", dim.checked_mul(BLOCK.min(out.rows())))?;
        for (start, out) in tasks(out, BLOCK)? {
            let count = out.rows();
            let rows = train.iter().map(|part| part.row_range(start, count)).collect::<Result<Vec<_>, _>>()?;
            let block = &mut scratch[..count * dim];
            self.embed(MatMut::new(block, count, dim)?, &rows)?;
            matmul(out, T::ZERO, T::ONE, MatRef::new(block, count, dim)?, embedded.t(), self.par)?;
        }
        Ok(())
    }
}
