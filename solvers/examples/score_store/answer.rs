//! The best rows of a store for many queries, in one pass.

use ascribe_core::rank::{Direction, Ranked, TopKPerQuery};
use ascribe_core::score::scores;
use ascribe_core::{MatMut, MatRef};
use ascribe_solvers::Error;
use ascribe_solvers::parallel::{Parallelism, run};
use ascribe_solvers::score::RowSource;
use ascribe_solvers::store::Store;
use indicatif::ProgressBar;

/// Rows that are decoded at a time: they stay in the cache while all queries are scored.
const ROWS: usize = 128;

/// For each row of `queries` the `top` positions of the store with the largest inner products.
pub(crate) fn best_rows(
    store: &Store,
    queries: MatRef<'_, f32>,
    top: usize,
    par: Parallelism,
    bar: &ProgressBar,
) -> Result<Vec<Vec<Ranked<f32>>>, Error> {
    let (dim, n_query) = (queries.cols(), queries.rows());
    let new = |_| TopKPerQuery::new(n_query, top, Direction::Largest);
    let mut selections = (0..par.workers()).map(new).collect::<Result<Vec<_>, _>>()?;
    let tasks = (0..store.len()).step_by(32 * ROWS).collect();
    run(&mut selections, tasks, |selection, first| {
        let end = store.len().min(first + 32 * ROWS);
        let (mut rows, mut products) = (vec![0.0; ROWS * dim], vec![0.0; ROWS * n_query]);
        let mut at = first;
        while at < end {
            let block = store.block(at, ROWS.min(end - at))?;
            let len = block.rows();
            let (rows, products) = (&mut rows[..len * dim], &mut products[..len * n_query]);
            block.decode(MatMut::new(rows, len, dim)?)?;
            scores(MatMut::new(products, len, n_query)?, MatRef::new(rows, len, dim)?, queries)?;
            selection.push_block(at, MatRef::new(products, len, n_query)?)?;
            at += len;
            bar.inc(len as u64);
        }
        Ok::<_, Error>(())
    })?;
    let mut best = TopKPerQuery::new(n_query, top, Direction::Largest)?;
    selections.iter().try_for_each(|selection| best.merge(selection))?;
    Ok(best.finish())
}
