//! Query gradients kept as low-rank factors.

use std::ops::Range;

use ascribe_core::record::LayerRecord;
use ascribe_core::{Error as CoreError, MatMut, MatRef, Real, reduce};

use super::ghost::{ghost_squared_norms, tasks};
use crate::Error;
use crate::error::{check_rows_finite, check_shape, zeros};
use crate::linalg::{matmul, svd};
use crate::parallel::{Parallelism, run};

/// Positions whose products with the factors are computed together.
const TILE: usize = 128;
/// Rank that a group of queries has together, unless a single query has more.
const GROUP_RANK: usize = 512;

/// Best low-rank approximations of (preconditioned) query gradients, which cost less memory and make scores per
/// position cheap: $V \approx V_r = \sum_{k \le r} \sigma_k u_k v_k^\top$, the truncated singular value decomposition.
///
/// The rank of a query is the smallest that keeps the fraction [`energy`](Self::energy) of $|V|_F^2$, at most
/// [`max_rank`](Self::max_rank). A gradient of rank at most that is kept exactly, up to rounding.
///
/// Cost of preparation: one SVD of a `d_out x weight_cols` matrix a query, in f64. Memory:
/// `r (d_out + weight_cols)` numbers a query instead of `d_out weight_cols`.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef, record::LayerRecord};
/// use ascribe_solvers::{attribution::LowRankQuery, parallel::Parallelism};
/// let gradient = [3.0, 0.0, 0.0, 1.0]; // one query, 2 x 2
/// let options = LowRankQuery { max_rank: 1, ..LowRankQuery::default() };
/// let queries = options.prepare(MatRef::new(&gradient, 1, 4)?, [2, 2])?;
/// let (x, delta) = ([1.0, 1.0], [2.0, 5.0]); // one example of one position
/// let train = LayerRecord::new(1, MatRef::from_row(&x), MatRef::from_row(&delta), None, false)?;
/// let mut score = [0.0_f64];
/// queries.scores(MatMut::from_row(&mut score), 0.0, &train, Parallelism::Serial)?;
/// assert!((score[0] - 6.0).abs() < 1e-14); // 11 without truncation
/// assert!((queries.discarded(0).unwrap().spectral - 1.0).abs() < 1e-14);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Eckart and Young 1936; for influence scores arXiv:2308.03296, section 3.2.2.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LowRankQuery {
    /// The largest rank kept; default 32, at which arXiv:2308.03296 batches its queries.
    pub max_rank: usize,
    /// The fraction of the squared Frobenius norm to keep, in (0, 1]; default 1: all of it, up to the largest rank.
    pub energy: f64,
    /// Threads; default one.
    pub parallelism: Parallelism,
}

impl Default for LowRankQuery {
    fn default() -> Self {
        Self { max_rank: 32, energy: 1.0, parallelism: Parallelism::Serial }
    }
}

/// What truncation leaves out of one query.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Discarded {
    /// The largest discarded singular value, `|V - V_r|_2`. A score `delta_t^T V_r x_t` of a position is off by at most
    /// this times `|delta_t| |x_t|`.
    pub spectral: f64,
    /// The root of the sum of the squares of all of them, `|V - V_r|_F`. The score of an example is off by at most this
    /// times the norm of its gradient.
    pub frobenius: f64,
}

/// Queries as low-rank factors; see [`LowRankQuery`].
#[derive(Debug, Clone)]
pub struct LowRankQueries<T> {
    /// `sqrt(sigma_k) u_k` and `sqrt(sigma_k) v_k`, one a row, query after query.
    left: Vec<T>,
    right: Vec<T>,
    /// Where the rows of a query start, and where the last one's end.
    starts: Vec<usize>,
    discarded: Vec<Discarded>,
    d_out: usize,
    weight_cols: usize,
}

impl LowRankQuery {
    /// Truncates each row of `gradients` `[queries, d_out * weight_cols]`, a flattened matrix of the given shape
    /// `[d_out, weight_cols]`; the bias is the last column.
    ///
    /// # Errors
    /// [`CoreError::Shape`] when the columns are not those of the shape, [`CoreError::Parameter`] for an energy
    /// outside of (0, 1], [`CoreError::NonFinite`] for NaN or infinity, [`Error::NoConvergence`] when an SVD fails.
    pub fn prepare<T: Real>(&self, gradients: MatRef<'_, T>, shape: [usize; 2]) -> Result<LowRankQueries<T>, Error> {
        if !(self.energy > 0.0 && self.energy <= 1.0) {
            let must_be = "above 0 and at most 1";
            return Err(CoreError::Parameter { what: "energy", value: self.energy, must_be }.into());
        }
        let [d_out, weight_cols] = shape;
        check_shape("gradient columns", d_out.saturating_mul(weight_cols), gradients.cols())?;
        check_rows_finite("query gradients", gradients)?;
        let mut truncated: Vec<Truncated<T>> = zeros("queries", Some(gradients.rows()))?;
        let slots = truncated.iter_mut().zip(0..).collect();
        run(&mut vec![(); self.parallelism.workers()], slots, |(), (slot, query): (&mut Truncated<T>, usize)| {
            *slot = self.truncate(gradients.row(query), d_out, weight_cols)?;
            Ok::<_, Error>(())
        })?;
        let mut starts = vec![0];
        starts.extend(truncated.iter().scan(0, |end, query| {
            *end += query.rank;
            Some(*end)
        }));
        Ok(LowRankQueries {
            left: truncated.iter().flat_map(|query| &query.left).copied().collect(),
            right: truncated.iter().flat_map(|query| &query.right).copied().collect(),
            starts,
            discarded: truncated.iter().map(|query| query.discarded).collect(),
            d_out,
            weight_cols,
        })
    }

    fn truncate<T: Real>(&self, gradient: &[T], d_out: usize, weight_cols: usize) -> Result<Truncated<T>, Error> {
        let largest = reduce::max_abs(gradient).to_f64();
        // The power of two just below the largest entry: squares neither overflow nor vanish, and no bit changes.
        let scale = f64::from_bits(largest.to_bits() & (0x7ff << 52)).max(f64::MIN_POSITIVE);
        let scaled: Vec<f64> = gradient.iter().map(|x| x.to_f64() / scale).collect();
        let svd = svd(MatRef::new(&scaled, d_out, weight_cols)?)?;
        let count = svd.s.len();
        // Sums of squares from the smallest on: `tails[k]` is what a rank of k discards.
        let mut tails = vec![0.0; count + 1];
        for k in (0..count).rev() {
            tails[k] = tails[k + 1] + svd.s[k] * svd.s[k];
        }
        let allowed = (1.0 - self.energy) * tails[0];
        let rank = (0..count).find(|&k| tails[k] <= allowed).unwrap_or(count).min(self.max_rank);
        let factor = |vectors: &[f64], rows: usize| {
            let column = |k: usize| {
                let root = svd.s[k].sqrt() * scale.sqrt();
                (0..rows).map(move |i| T::from_f64(root * vectors[i * count + k]))
            };
            (0..rank).flat_map(column).collect()
        };
        let largest = svd.s.get(rank).copied().unwrap_or(0.0);
        Ok(Truncated {
            rank,
            left: factor(&svd.u, d_out),
            right: factor(&svd.v, weight_cols),
            discarded: Discarded { spectral: scale * largest, frobenius: scale * tails[rank].sqrt().max(largest) },
        })
    }
}

/// One query on its way into [`LowRankQueries`].
#[derive(Debug, Clone, Default)]
struct Truncated<T> {
    rank: usize,
    left: Vec<T>,
    right: Vec<T>,
    discarded: Discarded,
}

impl<T: Real> LowRankQueries<T> {
    /// The number of queries.
    pub fn queries(&self) -> usize {
        self.discarded.len()
    }

    /// The rank that query `query` was truncated to, if there is such a query.
    pub fn rank(&self, query: usize) -> Option<usize> {
        Some(self.starts.get(query + 1)? - self.starts[query])
    }

    /// What was left out of query `query`, if there is such a query.
    pub fn discarded(&self, query: usize) -> Option<Discarded> {
        self.discarded.get(query).copied()
    }

    /// `out[n, q] = beta out[n, q] + sum_t delta_t^T V_r x_t`, `[examples, queries]`; `beta = 1` adds up layers.
    ///
    /// No gradient of an example is formed. Cost: `2 r (d_out + d_in + 1)` flops for each position and query.
    /// Memory: `256 max(r, 512)` numbers a thread. A masked position contributes nothing and may hold anything.
    ///
    /// Error against the score without truncation: at most [`LowRankQueries::error_bounds`], and rounding of
    /// `(d_out + weight_cols + r + 2 S + 40) u` times `sum_t sum_k sigma_k (|u_k|.|delta_t|) (|v_k|.|x_t|)` with the
    /// unit roundoff `u` of `T` and `S` positions, to first order.
    ///
    /// # Errors
    /// A shape error when the layer or `out` does not fit.
    pub fn scores(
        &self,
        out: MatMut<'_, T>,
        beta: T,
        record: &LayerRecord<'_, T>,
        par: Parallelism,
    ) -> Result<(), Error> {
        check_shape("score rows", record.examples(), out.rows())?;
        self.add_scores(out, beta, record, false, par)
    }

    /// `out[t, q] = beta out[t, q] + delta_t^T V_r x_t` for each position, `[examples * positions, queries]`; zero
    /// where masked. Otherwise as [`LowRankQueries::scores`].
    ///
    /// # Errors
    /// A shape error when the layer or `out` does not fit.
    pub fn position_scores(
        &self,
        out: MatMut<'_, T>,
        beta: T,
        record: &LayerRecord<'_, T>,
        par: Parallelism,
    ) -> Result<(), Error> {
        check_shape("score rows", record.inputs().rows(), out.rows())?;
        self.add_scores(out, beta, record, true, par)
    }

    /// How far each score may be from the one without truncation, rounding aside, `[examples, queries]`: the smaller
    /// of $\sigma_{r+1} \sum_t |\delta_t| |x_t|$ and $|V - V_r|_F |G_n|_F$; see [`Discarded`].
    ///
    /// Cost: one pass over the record and the norms of its gradients, which are ghost products where that is cheaper.
    ///
    /// # Errors
    /// A shape error when the layer or `out` does not fit; the errors of [`ghost_squared_norms`].
    pub fn error_bounds(
        &self,
        mut out: MatMut<'_, T>,
        record: &LayerRecord<'_, T>,
        par: Parallelism,
    ) -> Result<(), Error> {
        self.check(&out, record)?;
        check_shape("bound rows", record.examples(), out.rows())?;
        let mut norms = zeros("norms of the gradients", Some(record.examples()))?;
        ghost_squared_norms(&mut norms, T::ZERO, record, None, par)?;
        let one = if record.has_bias() { 1.0_f64 } else { 0.0 };
        let size = |row: usize| {
            let (x, delta) = (reduce::norm2(record.inputs().row(row)), reduce::norm2(record.output_grads().row(row)));
            delta.to_f64() * x.to_f64().hypot(one)
        };
        out.for_each_row(|n, row| {
            let sizes: f64 = record.runs(n).flatten().map(size).sum();
            for (bound, discarded) in row.iter_mut().zip(&self.discarded) {
                let of_norm = discarded.frobenius * norms[n].to_f64().sqrt();
                *bound = T::from_f64(of_norm.min(discarded.spectral * sizes));
            }
        });
        Ok(())
    }

    fn check(&self, out: &MatMut<'_, T>, record: &LayerRecord<'_, T>) -> Result<(), Error> {
        check_shape("record outputs", self.d_out, record.d_out())?;
        check_shape("record weight columns", self.weight_cols, record.weight_cols())?;
        Ok(check_shape("score columns", self.queries(), out.cols())?)
    }

    fn add_scores(
        &self,
        mut out: MatMut<'_, T>,
        beta: T,
        record: &LayerRecord<'_, T>,
        by_position: bool,
        par: Parallelism,
    ) -> Result<(), Error> {
        self.check(&out, record)?;
        if out.cols() == 0 {
            return Ok(());
        }
        out.for_each_row(|_, row| if beta == T::ZERO { row.fill(T::ZERO) } else { reduce::scale(row, beta) });
        let groups = self.groups();
        let widest = groups.iter().map(|group| self.starts[group.end] - self.starts[group.start]).max().unwrap_or(0);
        let scratch: Vec<T> = zeros("products with the factors", widest.checked_mul(2 * TILE))?;
        let positions = record.positions();
        let (rows_each, per_row) = if by_position { (positions, 1) } else { (1, positions) };
        let tasks = tasks(out, (2 * TILE / positions.max(1)).max(1) * rows_each)?;
        run(&mut vec![scratch; par.workers().min(tasks.len())], tasks, |scratch, (first, mut out)| {
            let rows = first * per_row..(first + out.rows()) * per_row;
            for start in rows.clone().step_by(TILE) {
                let count = TILE.min(rows.end - start);
                for group in &groups {
                    let (left, right) = self.products(scratch, group, record, start, count)?;
                    for row in (0..count).filter(|&row| record.mask().is_none_or(|mask| mask[start + row])) {
                        let out = out.row_mut((start + row) / per_row - first);
                        for query in group.clone() {
                            let first = self.starts[query] - self.starts[group.start];
                            let last = self.starts[query + 1] - self.starts[group.start];
                            out[query] += reduce::dot(&left.row(row)[first..last], &right.row(row)[first..last])?;
                        }
                    }
                }
            }
            Ok(())
        })
    }

    /// The queries in groups of moderate total rank.
    fn groups(&self) -> Vec<Range<usize>> {
        let mut groups: Vec<Range<usize>> = Vec::new();
        for query in 0..self.queries() {
            match groups.last_mut() {
                Some(group) if self.starts[query + 1] - self.starts[group.start] <= GROUP_RANK => group.end = query + 1,
                _ => groups.push(query..query + 1),
            }
        }
        groups
    }

    /// The output gradients times the left factors and the inputs times the right ones, `[count, rank of the group]`.
    fn products<'s>(
        &self,
        scratch: &'s mut [T],
        group: &Range<usize>,
        record: &LayerRecord<'_, T>,
        start: usize,
        count: usize,
    ) -> Result<(MatRef<'s, T>, MatRef<'s, T>), Error> {
        let (d_in, d_out, cols) = (record.d_in(), self.d_out, self.weight_cols);
        let (first, rank) = (self.starts[group.start], self.starts[group.end] - self.starts[group.start]);
        let left = MatRef::new(&self.left[first * d_out..(first + rank) * d_out], rank, d_out)?;
        let right = MatRef::new(&self.right[first * cols..(first + rank) * cols], rank, cols)?;
        let (by_left, rest) = scratch.split_at_mut(count * rank);
        let by_right = &mut rest[..count * rank];
        let delta = record.output_grads().row_range(start, count)?;
        matmul(MatMut::new(by_left, count, rank)?, T::ZERO, T::ONE, delta, left.t(), Parallelism::Serial)?;
        // The last column of a right factor belongs to the appended 1.
        let mut products = MatMut::new(by_right, count, rank)?;
        if record.has_bias() {
            products.for_each_row(|_, row| row.iter_mut().zip(right.row_iter()).for_each(|(x, v)| *x = v[d_in]));
        } else {
            products.fill(T::ZERO);
        }
        let x = record.inputs().row_range(start, count)?;
        matmul(products, T::ONE, T::ONE, x, right.block(0, rank, 0, d_in)?.t(), Parallelism::Serial)?;
        Ok((MatRef::new(by_left, count, rank)?, MatRef::new(by_right, count, rank)?))
    }
}
