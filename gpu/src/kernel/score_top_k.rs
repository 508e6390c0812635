use ascribe_core::Error as CoreError;
use ascribe_core::score::{NORM_FLOOR, Similarity};

use super::product::{TILES, Tile, TileBytes, fits, groups, select_by, tile, workgroup_bytes};
use super::score_top_k_int8::{self, Int8Queries};
use super::top_k::{Candidates, Place, Selection};
use super::{Access, Cost, Kernel, StoredRows, sum};
use crate::capabilities::Capabilities;
use crate::error::{Error, check_limit, check_shape};
use crate::matrix::{Binding, Matrix, Run, WHOLE, runs};
use crate::recorder::{Dispatch, Recorder};

/// For up to 4, 8, 16 and 32 queries, where reading the rows is all that counts: many rows, and at least half of the
/// lanes with a query.
pub(super) static NARROW: [Tile; 4] = [tile(1, 32, 8), tile(2, 16, 16), tile(4, 16, 16), tile(8, 16, 16)];

pub(super) static KERNEL: Kernel = Kernel {
    name: "score_top_k",
    source: include_str!("../../shaders/score_top_k.wgsl"),
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Read, Access::Write, Access::Write],
    variants: &[
        &["B_TRANSPOSED"],
        &["VEC4", "B_TRANSPOSED"],
        &["HALVES", "B_TRANSPOSED"],
        &["HALVES", "BF16", "B_TRANSPOSED"],
    ],
    constants: &[&NARROW[0], &NARROW[1], &NARROW[2], &NARROW[3], &TILES[0], &TILES[1], &TILES[2], &TILES[3]],
};

/// Bytes of candidates at most.
const CANDIDATE_BYTES: u64 = 64 << 20;
/// Rows that are scored at once at least, where there is room, and before anything is known of the scores.
const FIRST_ROWS: usize = 4096;
/// Rows that are scored at once for each row seen before: of random order, seven times the rows bring about seven times
/// `k` candidates.
const GROWTH: u64 = 7;

/// How rows are scored: `s = a <x, y> + b`, or with the cosine in place of the product; as the scorer of
/// `ascribe-solvers`, which says what scores that makes.
#[derive(Debug, Clone, Copy)]
pub struct Scorer<'a> {
    /// The product of a row and a query.
    pub similarity: Similarity,
    /// A factor for the scores of each row, `[n, 1]`.
    pub row_scale: Option<&'a Matrix<f32>>,
    /// What is added to the scores of each row, after the factor, `[n, 1]`.
    pub row_offset: Option<&'a Matrix<f32>>,
}

impl Default for Scorer<'_> {
    fn default() -> Self {
        Self { similarity: Similarity::Dot, row_scale: None, row_offset: None }
    }
}

/// What the scores of stored rows for `n_query` queries cost: `2 n n_query d` flops; rows and queries once. What is kept
/// of the scores does not count beside them, and neither do the norms of a cosine, which have a cost of their own.
pub fn score_top_k_cost(rows: &StoredRows<'_>, n_query: usize) -> Cost {
    let flops = sum(&[&[2, rows.rows(), n_query, rows.cols()]]);
    let bytes = sum(&[&[4, n_query, rows.cols()]]).saturating_add(rows.bytes());
    Cost { flops, bytes, workgroup_bytes: tile_bytes(rows)(&TILES[0]) }
}

/// What is done to inner products, and where the numbers for it lie.
struct Adjustment<'a> {
    norms: Option<&'a Matrix<f32>>,
    factors: Option<&'a Matrix<f32>>,
    offsets: Option<&'a Matrix<f32>>,
}

impl Recorder {
    /// Offers the scores of every row for every query to a selection; row `i` is example `first + i`. Order and ties are
    /// those of [`ascribe_core::rank`]; a row with a NaN ranks last in both directions.
    ///
    /// The scores never exist all at once. Tiles of the product stay in registers, and of them only those leave the
    /// kernel that are better than the last one kept so far; a second kernel then keeps the best. Rows come in chunks
    /// that grow with what has been seen, from 4096 rows on: two dispatches for each chunk, hence
    /// `2 ceil(log8(n / 4096) + 1)` of them for `n` rows, more where they lie in several pieces or where 64 MiB hold
    /// fewer candidates than rows, which are as many when scores keep rising. The cosine needs two more for the norms.
    /// Queries are taken as many at a time as there is room for; for each such group the rows are read again.
    ///
    /// Rows of int8 take queries as codes of 16 bits, the same as `ascribe-solvers`, by one more dispatch; their products
    /// with a row's codes are exact sums of integers for each block, or 512 columns of it.
    ///
    /// Error of a score, with `u = 2^-24` and to first order: `(d + 3) u sum_c |x_c y_c|`; for int8, where a query has
    /// steps `t_c`, `0.502 sum_c |x_c| t_c` and `(5 + ceil(d / min(block, 512)) + d / 512) u sum_c |x_c y_c|`. The cosine
    /// adds the errors of two norms ([`normalize`](Self::normalize)) and a division. Cost: [`score_top_k_cost`]. Workgroup
    /// memory: at most 12 KiB, or 16 KiB for rows of int8.
    ///
    /// # Errors
    /// [`Error::Core`] when a dimension does not fit, or there are rows but no columns; [`Error::Foreign`];
    /// [`Error::Limit`] when an example's index does not fit into 32 bits; otherwise as
    /// [`Gpu::upload`](crate::Gpu::upload). The selection is then untouched.
    ///
    /// # Examples
    /// ```
    /// # use ascribe_core::MatRef;
    /// # use ascribe_gpu::{Error, Gpu, Scorer};
    /// # let gpu = match Gpu::new() { Err(Error::NoAdapter { why }) => return Ok(println!("skipped: {why}")), gpu => gpu? };
    /// let train = gpu.upload(MatRef::new(&[1.0_f32, 0.0, 0.0, 3.0, -1.0, 1.0], 3, 2)?)?;
    /// let query = gpu.upload(MatRef::from_row(&[1.0, 1.0]))?;
    /// let mut recorder = gpu.record();
    /// let mut best = recorder.selection(1, 1, 1)?;
    /// recorder.score_top_k(&mut best, 0, &train, &query, &Scorer::default())?;
    /// let best = recorder.download_best(&best)?;
    /// recorder.submit()?;
    /// let best = best.wait()?;
    /// assert_eq!((best.proponents[0][0].index, best.proponents[0][0].score), (1, 3.0));
    /// assert_eq!((best.opponents[0][0].index, best.opponents[0][0].score), (2, 0.0));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn score_top_k<'a>(
        &mut self,
        best: &mut Selection,
        first: usize,
        rows: impl Into<StoredRows<'a>>,
        queries: &Matrix<f32>,
        scorer: &Scorer<'_>,
    ) -> Result<(), Error> {
        let rows = rows.into();
        let n = rows.rows();
        rows.check("row columns", self.gpu(), rows.cols())?;
        queries.check("query columns", self.gpu(), rows.cols())?;
        best.state.check("state", self.gpu(), best.state.cols())?;
        check_shape("queries of the selection", best.lists.rows(), queries.rows())?;
        for (what, values) in [("row scales", scorer.row_scale), ("row offsets", scorer.row_offset)] {
            if let Some(values) = values {
                values.check(what, self.gpu(), 1)?;
                check_shape(what, n, values.rows())?;
            }
        }
        check_limit("example index", (first as u64).saturating_add(n as u64), u32::MAX.into())?;
        if rows.cols() == 0 && n > 0 {
            return Err(CoreError::Empty { what: "columns of the rows" }.into());
        }
        self.whole(|recorder| recorder.score_queries(best, first, rows, queries, scorer))?;
        best.offered += n as u64;
        Ok(())
    }

    /// All rows for all queries, as many of these at a time as there is room for.
    fn score_queries(
        &mut self,
        best: &Selection,
        first: usize,
        rows: StoredRows<'_>,
        queries: &Matrix<f32>,
        scorer: &Scorer<'_>,
    ) -> Result<(), Error> {
        let n = rows.rows();
        let cosine = scorer.similarity == Similarity::Cosine;
        let norms = cosine.then(|| self.floored_norms(rows, NORM_FLOOR as f32)).transpose()?;
        let unit = cosine.then(|| self.normalize(queries)).transpose()?;
        let queries = unit.as_ref().unwrap_or(queries);
        let coded = match rows {
            StoredRows::Int8(rows) => Some(self.int8_queries(queries, rows.block())?),
            _ => None,
        };
        let query_rows = coded.as_ref().map_or(queries.chunk_rows(), |coded| coded.codes.chunk_rows());
        let adjustment = Adjustment { norms: norms.as_ref(), factors: scorer.row_scale, offsets: scorer.row_offset };
        let room = CANDIDATE_BYTES.min(self.gpu().capabilities().max_binding_bytes) / 16;
        let most = (room as usize / FIRST_ROWS.min(n.max(1))).max(1);
        for run in runs(queries.rows(), [query_rows, best.lists.chunk_rows(), best.state.chunk_rows()]) {
            for start in (0..run.rows).step_by(most) {
                let group = most.min(run.rows - start);
                let capacity = (room as usize / group).clamp(1, n.max(1));
                let candidates = self.candidates(group, capacity, best.k)?;
                let [(chunk, query), lists, state] = run.at.map(|(chunk, row)| (chunk, row + start));
                let numbers = coded.as_ref().map_or_else(|| queries.chunk(chunk), |coded| coded.codes.chunk(chunk));
                let (coded, place) = (coded.as_ref(), Place { lists, state });
                let task = Task { best, first, rows, queries: numbers, query, coded, place };
                self.score_group(&task, &adjustment, &candidates)?;
            }
        }
        self.spend(score_top_k_cost(&rows, queries.rows()));
        Ok(())
    }

    /// All rows for some queries.
    fn score_group(&mut self, task: &Task<'_>, by: &Adjustment<'_>, to: &Candidates) -> Result<(), Error> {
        let [numbers, scales] = task.rows.chunk_rows();
        let chunk_rows = |values: Option<&Matrix<f32>>| values.map_or(WHOLE, Matrix::chunk_rows);
        let cuts = [numbers, scales, chunk_rows(by.norms), chunk_rows(by.factors), chunk_rows(by.offsets)];
        for run in runs(task.rows.rows(), cuts) {
            let mut done = 0;
            while done < run.rows {
                let seen = task.best.offered + (run.start + done) as u64;
                let wanted = usize::try_from(seen.saturating_mul(GROWTH)).unwrap_or(usize::MAX).max(FIRST_ROWS);
                let len = wanted.min(to.capacity).min(run.rows - done);
                let part = Run { start: run.start + done, rows: len, at: run.at.map(|(c, row)| (c, row + done)) };
                self.score_rows(task, by, to, part, seen)?;
                self.keep(task.best, task.place, to, seen)?;
                done += len;
            }
        }
        Ok(())
    }

    fn score_rows(
        &mut self,
        task: &Task<'_>,
        by: &Adjustment<'_>,
        to: &Candidates,
        run: Run<5>,
        seen: u64,
    ) -> Result<(), Error> {
        let [(chunk, row), (scales_chunk, scales_row), norms, factors, offsets] = run.at;
        let [numbers, scales] = task.rows.chunks([chunk, scales_chunk]);
        let bits = |conditions: [bool; 3]| conditions.iter().rev().fold(0, |bits, &c| 2 * bits + u32::from(c));
        let adjust = bits([by.norms.is_some(), by.factors.is_some(), by.offsets.is_some()]);
        let [k0, k1] = task.best.k;
        let sides = bits([k0 > 0, k1 > 0, false]);
        let full = bits([seen >= k0 as u64, seen >= k1 as u64, false]);
        let sizes = [
            run.rows,
            to.queries,
            task.rows.cols(),
            row,
            task.query,
            norms.1,
            factors.1,
            offsets.1,
            task.place.state.1,
            task.first + run.start,
            to.capacity,
        ];
        let mut params: Vec<u32> = sizes.map(|size| size as u32).into_iter().chain([adjust, sides, full]).collect();
        let [norms, factors, offsets] = [
            piece(by.norms, norms.0, numbers),
            piece(by.factors, factors.0, numbers),
            piece(by.offsets, offsets.0, numbers),
        ];
        let (state, candidates) = (task.best.state.chunk(task.place.state.0), to.entries.chunk(0));
        let tile = select(tile_bytes(&task.rows), self.gpu().capabilities(), run.rows, to.queries)?;
        let Some(coded) = task.coded else {
            let flags: Vec<&'static str> = task.rows.flags().iter().copied().chain(["B_TRANSPOSED"]).collect();
            return self.dispatch(&Dispatch {
                kernel: &KERNEL,
                flags: &flags,
                constants: tile,
                params: &params,
                bindings: [numbers, task.queries, norms, factors, offsets, state, candidates],
                groups: groups(tile, [to.queries, run.rows, 1]),
            });
        };
        let sizes = [coded.block, scales_row, coded.pitch, coded.codes.cols(), coded.scales];
        params.extend(sizes.map(|size| size as u32));
        self.dispatch(&Dispatch {
            kernel: &score_top_k_int8::KERNEL,
            flags: &[],
            constants: tile,
            params: &params,
            bindings: [numbers, scales, task.queries, norms, factors, offsets, state, candidates],
            groups: groups(tile, [to.queries, run.rows, 1]),
        })
    }
}

/// Rows and some of the queries.
struct Task<'a> {
    best: &'a Selection,
    first: usize,
    rows: StoredRows<'a>,
    /// A piece of the queries, and the first one in it.
    queries: Binding<'a>,
    query: usize,
    /// How they are coded, for rows of int8.
    coded: Option<&'a Int8Queries>,
    place: Place,
}

/// A piece of what there may be; `other`, which the kernel does not look at there, where there is none.
fn piece<'a>(values: Option<&'a Matrix<f32>>, chunk: usize, other: Binding<'a>) -> Binding<'a> {
    values.map_or(other, |values| values.chunk(chunk))
}

/// What the kernel for such rows takes for a tile.
fn tile_bytes(rows: &StoredRows<'_>) -> TileBytes {
    match rows {
        StoredRows::Int8(_) => score_top_k_int8::workgroup_bytes,
        _ => workgroup_bytes,
    }
}

/// The narrowest tile that takes all queries, or that of any product.
fn select(bytes: TileBytes, device: &Capabilities, rows: usize, queries: usize) -> Result<&'static Tile, Error> {
    let takes_all = |tile: &&Tile| queries <= 4 * tile[0].1 as usize && fits(device, bytes(tile), tile);
    NARROW.iter().find(takes_all).map_or_else(|| select_by(bytes, device, [queries, rows, 1]), Ok)
}
