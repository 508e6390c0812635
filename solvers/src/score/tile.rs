//! Scores of a tile of stored rows: the kernel of their format, and what is done to the inner products afterwards.

use std::sync::{Arc, Mutex, PoisonError};

use ascribe_core::score::{NORM_FLOOR, Similarity};
use ascribe_core::{MatRef, reduce};

use super::dense::{CHUNK, Dense};
use super::int8::{Int8, Int8Queries};
use super::one_bit::{OneBit, TABLE};
use super::panel::{Aligned, Panels};
use super::row_dots::number_row;
use super::rows::StoredRows;
use super::scorer::Scorer;

/// Rows of a tile: their sums and a chunk of their decoded columns stay in a second-level cache.
const ROWS: usize = 48;
/// Rows of signs, which share the tables.
const SIGN_ROWS: usize = 240;

/// The queries as each format's kernel reads them.
pub(super) struct Queries<'a> {
    rows: MatRef<'a, f32>,
    pub(super) panels: Panels<f32, 1>,
    /// Packed when the first rows with blocks of their length come by.
    int8: Mutex<Vec<Arc<Int8Queries>>>,
    /// For the cosine.
    pub(super) norms: Vec<f32>,
}

impl<'a> Queries<'a> {
    pub(super) fn new(rows: MatRef<'a, f32>) -> Result<Self, ascribe_core::Error> {
        let norms = rows.row_iter().map(floored_norm).collect();
        Ok(Self { rows, panels: Panels::pack(rows)?, int8: Mutex::default(), norms })
    }

    fn int8(&self, block: usize) -> Result<Arc<Int8Queries>, ascribe_core::Error> {
        let mut packed = self.int8.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queries) = packed.iter().find(|queries| queries.block() == block) {
            return Ok(Arc::clone(queries));
        }
        let queries = Arc::new(Int8Queries::new(self.rows, block)?);
        packed.push(Arc::clone(&queries));
        Ok(queries)
    }
}

pub(super) fn floored_norm(row: &[f32]) -> f32 {
    let (norm, floor) = (reduce::norm2(row), NORM_FLOOR as f32);
    if norm < floor { floor } else { norm }
}

pub(super) fn divide_by_norms(scores: &mut [f32], row: f32, queries: &[f32]) {
    for (score, query) in scores.iter_mut().zip(queries) {
        *score = *score / row / query;
    }
}

/// The work space of one thread.
pub(super) struct Workspace {
    sums: Aligned<f32>,
    decoded: Vec<f32>,
    table: Aligned<f32>,
}

impl Workspace {
    pub(super) fn new(width: usize) -> Result<Self, ascribe_core::Error> {
        let sums = Aligned::zeros("sums of a tile", width.checked_mul(SIGN_ROWS))?;
        Ok(Self { sums, decoded: Vec::new(), table: Aligned::zeros("tables", Some(TABLE))? })
    }

    /// Calls `sink` with the scores of one tile of `rows` after another, and the place of its first row among them.
    /// `first` is the index of the first of `rows` in the source.
    pub(super) fn score(
        &mut self,
        scorer: &Scorer<'_>,
        queries: &Queries<'_>,
        first: usize,
        rows: StoredRows<'_>,
        mut sink: impl FnMut(usize, MatRef<'_, f32>) -> Result<(), ascribe_core::Error>,
    ) -> Result<(), ascribe_core::Error> {
        let height = if matches!(rows, StoredRows::OneBit(_)) { SIGN_ROWS } else { ROWS };
        let (width, n_query) = (queries.panels.width(), queries.rows.rows());
        for start in (0..rows.rows()).step_by(height) {
            let tile = rows.row_range(start, height.min(rows.rows() - start))?;
            self.products(queries, tile)?;
            for (i, scores) in self.sums.chunks_exact_mut(width).take(tile.rows()).enumerate() {
                let scores = &mut scores[..n_query];
                if let StoredRows::OneBit(signs) = tile {
                    for score in &mut *scores {
                        *score *= signs.scales[i];
                    }
                }
                if scorer.similarity == Similarity::Cosine {
                    let norm = floored_norm(number_row(&mut self.decoded, tile, i)?);
                    divide_by_norms(scores, norm, &queries.norms);
                }
                scorer.scale(first + start + i, scores);
                scorer.offset(first + start + i, scores);
            }
            sink(start, MatRef::with_stride(&self.sums, tile.rows(), n_query, width)?)?;
        }
        Ok(())
    }

    /// Sets the sums to the inner products of a tile, those of signs without their scales.
    fn products(&mut self, queries: &Queries<'_>, tile: StoredRows<'_>) -> Result<(), ascribe_core::Error> {
        let Self { sums, decoded, table } = self;
        let (panels, sums) = (&queries.panels, &mut sums[..tile.rows() * queries.panels.width()]);
        sums.fill(0.0);
        match tile {
            StoredRows::Int8(rows) => {
                let queries = queries.int8(rows.block)?;
                Int8 { sums, rows, queries: &queries }.run();
            }
            StoredRows::OneBit(rows) => OneBit { sums, rows, panels, table }.run(),
            StoredRows::F32(x) => {
                for (first, cols) in chunks(x.cols()) {
                    Dense { sums, x: x.block(0, x.rows(), first, cols)?, panels, first }.run();
                }
            }
            StoredRows::F16(bits) => {
                for (first, cols) in chunks(bits.cols()) {
                    let x = StoredRows::F16(bits.block(0, bits.rows(), first, cols)?).decode_into(decoded)?;
                    Dense { sums, x, panels, first }.run();
                }
            }
            StoredRows::Bf16(bits) => {
                for (first, cols) in chunks(bits.cols()) {
                    let x = StoredRows::Bf16(bits.block(0, bits.rows(), first, cols)?).decode_into(decoded)?;
                    Dense { sums, x, panels, first }.run();
                }
            }
        }
        Ok(())
    }
}

/// Chunks of columns: the first and the number of each.
pub(super) fn chunks(cols: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..cols).step_by(CHUNK).map(move |first| (first, CHUNK.min(cols - first)))
}
