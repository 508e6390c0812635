//! Scores of the rows of a source for a block of queries.

use ascribe_core::rank::{Direction, TopKPerQuery};
use ascribe_core::score::Similarity;
use ascribe_core::{Error as CoreError, MatMut, MatRef};

use super::rows::{RowSource, StoredRows};
use super::tile::{Queries, Workspace};
use crate::Error;
use crate::error::check_shape;
use crate::parallel::{Parallelism, run};

/// Numbers of stored rows in a task, and the least number of its rows.
const TASK: usize = 1 << 20;
const TASK_ROWS: usize = 48;

/// How rows are scored: $s_{nq} = a_n \langle x_n, y_q \rangle + b_n$, or with the cosine in place of the product.
///
/// `row_scale` and `row_offset` make the usual scores of an inner product with the inverse curvature, which the
/// queries already contain: with `self_influence` `i_n` (see [`row_dots`](super::row_dots)), `a_n = 1 / sqrt(i_n)` is
/// l-RelatIF and `b_n = -i_n / 2` the score of a squared distance. For scores of every token, see the ghost products of
/// [`attribution`](crate::attribution).
///
/// Rows are read once, in tiles, by the kernel of their format, and nothing of the size of all scores is made
/// unless it is asked for. A score depends on its row and query alone: the bits are the same for any cut of the source
/// into blocks, any shards and any number of threads.
///
/// Cost: `2 N Q D` operations for `N` rows, `Q` queries and `D` columns, and one reading of the rows; those of int8 rows
/// are on integers, those of signs one addition for four columns. The cosine reads each row twice. Work space: a packed
/// copy of the queries, and for each thread 240 scores of each query and about half a MiB.
///
/// Error, with unit roundoff `u = 2^-24` and to first order, besides that of the format:
/// - `f32`, f16, bf16: `(257 + ceil(D / 256)) u sum_c |x_c y_c|`.
/// - one bit: `(6 + ceil(D / 16)) u sum_c |x_c y_c|`.
/// - int8 with blocks of `B` columns: queries are rounded to 16-bit codes with a scale `t` for the same blocks, the
///   largest magnitude over 32767, so `0.502 sum_c |x_c| t_c`, and `(3 + ceil(D / min(B, 512)) + D / 512) u sum_c |x_c y_c|`
///   for what follows: sums of up to 512 products are exact.
///   Blocks of a query whose largest magnitude is below `2^-111` count as zero.
///
/// A row with a NaN has the score NaN, which ranks last in both directions. An infinity gives what the products and
/// sums give, except that an int8 row scores NaN for a query that is not finite.
///
/// # Examples
/// ```
/// use ascribe_core::MatRef;
/// use ascribe_solvers::score::{Scorer, Selection};
/// let train = MatRef::new(&[1.0_f32, 0.0, 0.0, 3.0, -1.0, 1.0], 3, 2)?;
/// let query = MatRef::new(&[1.0, 1.0], 1, 2)?;
/// let mut best = Selection::new(1, 1, 1)?;
/// let relatif = Scorer { row_scale: Some(&[1.0, 1.0 / 3.0, 0.5_f32.sqrt()]), ..Scorer::default() };
/// relatif.select(&mut best, 0, &train, query)?;
/// let (proponent, opponent) = (best.proponents.finish()[0][0], best.opponents.finish()[0][0]);
/// assert_eq!((proponent.index, proponent.score), (0, 1.0)); // that of row 1 is as large
/// assert_eq!((opponent.index, opponent.score), (2, 0.0));
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// l-RelatIF: Barshan et al., arXiv:2003.11630.
#[derive(Debug, Clone, Copy)]
pub struct Scorer<'a> {
    /// The product of a row and a query.
    pub similarity: Similarity,
    /// A factor for the scores of each row.
    pub row_scale: Option<&'a [f32]>,
    /// What is added to the scores of each row, after the factor.
    pub row_offset: Option<&'a [f32]>,
    /// Who works.
    pub par: Parallelism,
}

impl Default for Scorer<'_> {
    fn default() -> Self {
        Self { similarity: Similarity::Dot, row_scale: None, row_offset: None, par: Parallelism::Serial }
    }
}

/// The first rows from both ends of the scores of each query, found in one pass.
///
/// Shards are put together by giving one selection to several passes, or by merging selections; which of them, and in
/// which order, does not matter, as long as each row has its own index.
#[derive(Debug, Clone)]
pub struct Selection {
    /// Those with the largest scores.
    pub proponents: TopKPerQuery<f32>,
    /// Those with the smallest.
    pub opponents: TopKPerQuery<f32>,
    n_query: usize,
    k: [usize; 2],
}

impl Selection {
    /// An empty selection of as many proponents and opponents for each of `n_query` queries; 0 for none.
    ///
    /// # Errors
    /// [`Overflow`](CoreError::Overflow) when there is no memory for that many queries.
    pub fn new(n_query: usize, proponents: usize, opponents: usize) -> Result<Self, CoreError> {
        Ok(Self {
            proponents: TopKPerQuery::new(n_query, proponents, Direction::Largest)?,
            opponents: TopKPerQuery::new(n_query, opponents, Direction::Smallest)?,
            n_query,
            k: [proponents, opponents],
        })
    }

    /// Offers what another selection has kept.
    ///
    /// # Errors
    /// [`Shape`](CoreError::Shape) when the numbers of queries differ; nothing was offered then.
    pub fn merge(&mut self, other: &Self) -> Result<(), CoreError> {
        check_shape("queries", self.n_query, other.n_query)?;
        self.proponents.merge(&other.proponents)?;
        self.opponents.merge(&other.opponents)
    }
}

impl Scorer<'_> {
    /// Sets `out` `[rows, n_query]` to the scores of each row of the source for each row of `queries`.
    ///
    /// # Errors
    /// [`Shape`](CoreError::Shape) when a dimension does not fit, [`Empty`](CoreError::Empty) when there are rows but no
    /// columns, [`Overflow`](CoreError::Overflow) when there is no memory for the work space; `out` is then untouched.
    /// The errors of the source; `out` then holds some of the scores.
    pub fn scores(&self, out: MatMut<'_, f32>, rows: &dyn RowSource, queries: MatRef<'_, f32>) -> Result<(), Error> {
        self.check(rows, queries)?;
        check_shape("score rows", rows.rows(), out.rows())?;
        check_shape("score columns", queries.rows(), out.cols())?;
        if queries.rows() == 0 || rows.rows() == 0 {
            return Ok(());
        }
        let packed = Queries::new(queries)?;
        let (mut tasks, mut rest) = (Vec::new(), out);
        for (first, len) in tasks_of(rows) {
            let (strip, others) = rest.split_rows(len)?;
            tasks.push((first, strip));
            rest = others;
        }
        run(&mut self.workspaces(&packed)?, tasks, |space, (first, mut out)| {
            let len = out.rows();
            for_blocks(rows, first, len, self.par, |start, block| {
                let copied = space.score(self, &packed, start, block, |i, scores| {
                    for (i, scores) in (start - first + i..).zip(scores.row_iter()) {
                        out.row_mut(i).copy_from_slice(scores);
                    }
                    Ok(())
                });
                Ok(copied?)
            })
        })
    }

    /// Offers the scores of every row of the source to a selection; row `i` of the source is example `first + i`.
    ///
    /// # Errors
    /// [`Shape`](CoreError::Shape) when a dimension does not fit, [`Empty`](CoreError::Empty) when there are rows but no
    /// columns, [`Overflow`](CoreError::Overflow) when the last index does not fit into `usize` or there is no memory for
    /// the work space; the errors of the source. Nothing was offered then.
    pub fn select(
        &self,
        best: &mut Selection,
        first: usize,
        rows: &dyn RowSource,
        queries: MatRef<'_, f32>,
    ) -> Result<(), Error> {
        self.check(rows, queries)?;
        check_shape("queries of the selection", best.n_query, queries.rows())?;
        first.checked_add(rows.rows()).ok_or(CoreError::Overflow { what: "example index" })?;
        if queries.rows() == 0 || rows.rows() == 0 {
            return Ok(());
        }
        let packed = Queries::new(queries)?;
        let [proponents, opponents] = best.k;
        let spaces = self.workspaces(&packed)?.into_iter();
        let with_selection = |space| Ok((space, Selection::new(best.n_query, proponents, opponents)?));
        let mut states = spaces.map(with_selection).collect::<Result<Vec<_>, CoreError>>()?;
        run(&mut states, tasks_of(rows).collect(), |(space, own), (start, len)| {
            for_blocks(rows, start, len, self.par, |start, block| {
                let offered = space.score(self, &packed, start, block, |i, scores| {
                    own.proponents.push_block(first + start + i, scores)?;
                    own.opponents.push_block(first + start + i, scores)
                });
                Ok(offered?)
            })
        })?;
        for (_, own) in &states {
            best.merge(own)?;
        }
        Ok(())
    }

    pub(super) fn scale(&self, row: usize, scores: &mut [f32]) {
        if let Some(scale) = self.row_scale {
            for score in scores {
                *score *= scale[row];
            }
        }
    }

    pub(super) fn offset(&self, row: usize, scores: &mut [f32]) {
        if let Some(offset) = self.row_offset {
            for score in scores {
                *score += offset[row];
            }
        }
    }

    pub(super) fn check(&self, rows: &dyn RowSource, queries: MatRef<'_, f32>) -> Result<(), CoreError> {
        check_shape("query columns", rows.cols(), queries.cols())?;
        for (what, values) in [("row scales", self.row_scale), ("row offsets", self.row_offset)] {
            values.map_or(Ok(()), |values| check_shape(what, rows.rows(), values.len()))?;
        }
        // Nothing vouches for the number of such rows.
        if rows.cols() == 0 && rows.rows() > 0 { Err(CoreError::Empty { what: "columns of the rows" }) } else { Ok(()) }
    }

    fn workspaces(&self, queries: &Queries<'_>) -> Result<Vec<Workspace>, CoreError> {
        (0..self.par.workers()).map(|_| Workspace::new(queries.panels.width())).collect()
    }
}

/// The first row and the number of rows of each task.
fn tasks_of(rows: &dyn RowSource) -> impl Iterator<Item = (usize, usize)> + use<> {
    let len = task_rows(rows);
    let rows = rows.rows();
    (0..rows).step_by(len).map(move |first| (first, len.min(rows - first)))
}

/// Rows of a task: of about the same work, whatever their length.
pub(super) fn task_rows(rows: &dyn RowSource) -> usize {
    (TASK / rows.cols().max(1) / TASK_ROWS).max(1) * TASK_ROWS
}

/// Calls `f` with the blocks that a range of rows comes in, after the source was told what follows.
pub(super) fn for_blocks(
    rows: &dyn RowSource,
    first: usize,
    len: usize,
    par: Parallelism,
    mut f: impl FnMut(usize, StoredRows<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    // The other threads are at the tasks in between.
    rows.prefetch(len.saturating_mul(par.workers()).saturating_add(first), len);
    let (mut start, end) = (first, first + len);
    while start < end {
        let block = rows.block(start, end - start)?;
        check_shape("columns of a block", rows.cols(), block.cols())?;
        if block.rows() == 0 || block.rows() > end - start {
            return Err(CoreError::Shape { what: "rows of a block", expected: end - start, got: block.rows() }.into());
        }
        f(start, block)?;
        start += block.rows();
    }
    Ok(())
}
