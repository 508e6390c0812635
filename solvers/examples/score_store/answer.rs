//! The best rows of a store for many queries, in one pass.

use ascribe_core::MatRef;
use ascribe_core::rank::Ranked;
use ascribe_solvers::Error;
use ascribe_solvers::parallel::Parallelism;
use ascribe_solvers::score::{RowSource, Scorer, Selection, StoredRows};
use ascribe_solvers::store::Store;
use indicatif::ProgressBar;

/// A store that shows how far it has been read.
struct Watched<'a> {
    store: &'a Store,
    bar: &'a ProgressBar,
}

impl RowSource for Watched<'_> {
    fn rows(&self) -> usize {
        self.store.rows()
    }

    fn cols(&self) -> usize {
        self.store.cols()
    }

    fn block(&self, first: usize, rows: usize) -> Result<StoredRows<'_>, Error> {
        let block = self.store.block(first, rows)?;
        self.bar.inc(block.rows() as u64);
        Ok(block)
    }

    fn prefetch(&self, first: usize, rows: usize) {
        self.store.prefetch(first, rows);
    }
}

/// For each row of `queries` the `top` positions of the store with the largest inner products.
pub(crate) fn best_rows(
    store: &Store,
    queries: MatRef<'_, f32>,
    top: usize,
    par: Parallelism,
    bar: &ProgressBar,
) -> Result<Vec<Vec<Ranked<f32>>>, Error> {
    let mut selection = Selection::new(queries.rows(), top, 0)?;
    Scorer { par, ..Scorer::default() }.select(&mut selection, 0, &Watched { store, bar }, queries)?;
    Ok(selection.proponents.finish())
}
