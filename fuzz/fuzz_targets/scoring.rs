//! Stored rows of any bytes, shapes and blocks: a typed error, or scores that do not depend on how the rows come, and
//! the selection that a full sort makes of them.
#![no_main]

use arbitrary::Arbitrary;
use ascribe_core::rank::{Direction, Ranked, top_k};
use ascribe_core::score::Similarity;
use ascribe_core::{MatMut, MatRef};
use ascribe_solvers::parallel::Parallelism::Serial;
use ascribe_solvers::score::{Int8Rows, OneBitRows, Scorer, Selection, StoredRows, row_dots};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input {
    numbers: Vec<f32>,
    halves: Vec<u16>,
    codes: Vec<i8>,
    signs: Vec<u8>,
    scales: Vec<f32>,
    queries: Vec<f32>,
    format: u8,
    rows: u8,
    cols: u16,
    block: usize,
    cosine: bool,
    adjust: Option<[Vec<f32>; 2]>,
    first: usize,
    k: [u8; 2],
    cut: u8,
}

impl Input {
    /// The rows as they are claimed to be, when the constructors accept them.
    fn stored(&self) -> Option<StoredRows<'_>> {
        let (rows, cols) = (usize::from(self.rows), usize::from(self.cols));
        let len = rows.checked_mul(cols)?;
        Some(match self.format % 5 {
            0 => StoredRows::F32(MatRef::new(self.numbers.get(..len)?, rows, cols).ok()?),
            1 => StoredRows::F16(MatRef::new(self.halves.get(..len)?, rows, cols).ok()?),
            2 => StoredRows::Bf16(MatRef::new(self.halves.get(..len)?, rows, cols).ok()?),
            3 => {
                let blocks = cols.div_ceil(self.block.max(1));
                let codes = MatRef::new(self.codes.get(..len)?, rows, cols).ok()?;
                let scales = MatRef::new(self.scales.get(..rows * blocks)?, rows, blocks).ok()?;
                StoredRows::Int8(Int8Rows::new(codes, scales, self.block).ok()?)
            }
            _ => {
                let bytes = cols.div_ceil(8);
                let bits = MatRef::new(self.signs.get(..rows * bytes)?, rows, bytes).ok()?;
                StoredRows::OneBit(OneBitRows::new(bits, self.scales.get(..rows)?, cols).ok()?)
            }
        })
    }
}

fuzz_target!(|input: Input| {
    let Some(stored) = input.stored() else { return };
    let (n, d) = (stored.rows(), stored.cols());
    let n_query = input.queries.len().checked_div(d).unwrap_or(0).min(70);
    let Ok(queries) = MatRef::new(&input.queries[..n_query * d], n_query, d) else { panic!("the shape fits") };
    let similarity = if input.cosine { Similarity::Cosine } else { Similarity::Dot };
    let [row_scale, row_offset] = [0, 1].map(|i| input.adjust.as_ref().map(|values| values[i].as_slice()));
    let scorer = Scorer { similarity, row_scale, row_offset, par: Serial };

    let mut out = vec![7.0; n * n_query];
    let Ok(block) = MatMut::new(&mut out, n, n_query) else { panic!("the shape fits") };
    if scorer.scores(block, &stored, queries).is_err() {
        assert!(out.iter().all(|x| *x == 7.0));
        return;
    }
    let Ok(scores) = MatRef::new(&out, n, n_query) else { panic!("the shape fits") };

    // Two shards, the later one first, are one pass.
    let cut = usize::from(input.cut).min(n);
    let k = input.k.map(usize::from);
    let Ok(mut best) = Selection::new(n_query, k[0], k[1]) else { panic!("a small selection") };
    for (start, len) in [(cut, n - cut), (0, cut)] {
        let part = |values: Option<&'_ [f32]>| values.map(|values| values[start..start + len].to_vec());
        let (scale, offset) = (part(row_scale), part(row_offset));
        let scorer = Scorer { row_scale: scale.as_deref(), row_offset: offset.as_deref(), ..scorer };
        let Ok(shard) = stored.row_range(start, len) else { panic!("the range is inside") };
        assert!(scorer.select(&mut best, start, &shard, queries).is_ok());
    }
    let key = |entry: &Ranked<f32>| (entry.index, entry.score.is_nan(), entry.score + 0.0);
    for (found, direction, k) in
        [(best.proponents, Direction::Largest, k[0]), (best.opponents, Direction::Smallest, k[1])]
    {
        let Ok(sorted) = top_k(scores, k, direction) else { panic!("a small selection") };
        for (found, sorted) in found.finish().iter().flatten().zip(sorted.iter().flatten()) {
            let (found, sorted) = (key(found), key(sorted));
            assert!(found.0 == sorted.0 && found.1 == sorted.1 && (found.1 || found.2 == sorted.2));
        }
    }

    // Any first index: an error or a selection, never an overflow.
    if let Ok(mut best) = Selection::new(n_query, 1, 1) {
        let fits = input.first.checked_add(n).is_some();
        assert_eq!(scorer.select(&mut best, input.first, &stored, queries).is_ok(), fits);
    }
    let mut terms = vec![0.0; 2 * n * n_query];
    let chosen: Vec<usize> = (0..n).collect();
    if let Ok(block) = MatMut::new(&mut terms, 2 * n, n_query) {
        let cut = usize::from(input.cut).min(d);
        assert!(scorer.layer_scores(block, &stored, &chosen, queries, &[0..cut, cut..d]).is_ok());
    }
    assert!(row_dots(&mut vec![0.0; n], &stored, &stored, Serial).is_ok());
});
