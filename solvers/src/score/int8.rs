//! Scores of int8 rows in integer arithmetic.

use std::ops::Range;

use ascribe_core::{Error, MatRef};
use pulp::Arch;
#[cfg(target_arch = "x86_64")]
use pulp::NullaryFnOnce;

use super::lanes::{Lanes, Portable};
use super::panel::{GROUP, GROUPS, Panels};
use super::rows::Int8Rows;

/// The largest code of a query.
const LARGEST: f32 = 32767.0;
/// Columns whose products are summed as integers at most: `512 * 128 * 32767` fits into an `i32`.
const LONGEST: usize = 512;
/// Rows of the innermost tile.
const TILE: usize = 6;

/// Queries as 16-bit codes, with a scale for each block that rows have one for.
///
/// A product of 16-bit integers costs what one of 8-bit integers does: only the rows' codes need to be small.
#[derive(Debug)]
pub(super) struct Int8Queries {
    /// A line has two columns of a segment; the last one of a segment may have only one.
    codes: Panels<i16, 2>,
    /// A line a block.
    scales: Panels<f32, 1>,
    segments: Vec<Segment>,
    block: usize,
}

/// Columns whose products are summed as integers: a block, or a part of a long one.
#[derive(Debug)]
struct Segment {
    columns: Range<usize>,
    block: usize,
    lines: Range<usize>,
}

impl Int8Queries {
    pub(super) fn new(queries: MatRef<'_, f32>, block: usize) -> Result<Self, Error> {
        let cols = queries.cols();
        let (mut segments, mut line) = (Vec::new(), 0);
        for start in (0..cols).step_by(block) {
            let end = cols.min(start.saturating_add(block));
            for first in (start..end).step_by(LONGEST) {
                let columns = first..end.min(first + LONGEST);
                let lines = line..line + columns.len().div_ceil(2);
                line = lines.end;
                segments.push(Segment { columns, block: start / block, lines });
            }
        }
        let mut codes = Panels::zeros(line, queries.rows())?;
        let mut scales = Panels::zeros(cols.div_ceil(block), queries.rows())?;
        for (q, query) in queries.row_iter().enumerate() {
            for (b, x) in query.chunks(block).enumerate() {
                scales.elements(b, q)[0] = scale(x);
            }
            for Segment { columns, block, lines } in &segments {
                let scale = scales.elements(*block, q)[0];
                for (line, pair) in lines.clone().zip(query[columns.clone()].chunks(2)) {
                    for (code, x) in codes.elements(line, q).iter_mut().zip(pair) {
                        // Zero for a scale of zero, whose quotients are NaN or large; rounds ties to even.
                        *code =
                            if scale > 0.0 { (x / scale).clamp(-LARGEST, LARGEST).round_ties_even() as i16 } else { 0 };
                    }
                }
            }
        }
        Ok(Self { codes, scales, segments, block })
    }

    /// The length of the blocks that these queries have a scale for.
    pub(super) fn block(&self) -> usize {
        self.block
    }
}

/// The step between the codes of a block; NaN when an element is not finite.
fn scale(x: &[f32]) -> f32 {
    if x.iter().any(|x| !x.is_finite()) {
        return f32::NAN;
    }
    let scale = x.iter().fold(0.0_f32, |largest, x| largest.max(x.abs())) / LARGEST;
    if scale < f32::MIN_POSITIVE { 0.0 } else { scale }
}

/// The products of rows and queries: `sums = rows queries^T`.
pub(super) struct Int8<'s> {
    /// `[rows, width]` with the width of the packed queries.
    pub(super) sums: &'s mut [f32],
    pub(super) rows: Int8Rows<'s>,
    pub(super) queries: &'s Int8Queries,
}

impl Int8<'_> {
    pub(super) fn run(self) {
        match Arch::new() {
            #[cfg(target_arch = "x86_64")]
            Arch::V4(simd) => match Vnni::try_new() {
                Some(vnni) => vnni.vectorize(Vectorized { task: self, simd }),
                None => simd.vectorize(Vectorized { task: self, simd }),
            },
            #[cfg(target_arch = "x86_64")]
            Arch::V3(simd) => simd.vectorize(Vectorized { task: self, simd }),
            _ => self.panels(Portable),
        }
    }

    #[inline(always)]
    fn panels<L: Lanes>(mut self, lanes: L) {
        for ((first, width, codes), (.., scales)) in self.queries.codes.iter().zip(self.queries.scales.iter()) {
            let panel = Panel { codes, scales, width, first };
            match if L::WIDE { width / GROUP } else { 1 } {
                1 => self.panel::<L, 1>(lanes, &panel),
                2 => self.panel::<L, 2>(lanes, &panel),
                3 => self.panel::<L, 3>(lanes, &panel),
                _ => self.panel::<L, 4>(lanes, &panel),
            }
        }
    }

    #[inline(always)]
    fn panel<L: Lanes, const G: usize>(&mut self, lanes: L, panel: &Panel<'_>) {
        let (mut i, rows) = (0, self.rows.codes.rows());
        while i + TILE <= rows {
            self.tile::<L, TILE, G>(lanes, panel, i);
            i += TILE;
        }
        while i < rows {
            self.tile::<L, 1, G>(lanes, panel, i);
            i += 1;
        }
    }

    /// The products of `R` rows and the queries of a panel, `G` groups at a time.
    #[inline(always)]
    fn tile<L: Lanes, const R: usize, const G: usize>(&mut self, lanes: L, panel: &Panel<'_>, i: usize) {
        let rows: [&[i8]; R] = core::array::from_fn(|r| self.rows.codes.row(i + r));
        let row_scales: [&[f32]; R] = core::array::from_fn(|r| self.rows.scales.row(i + r));
        // What an odd segment leaves over meets a code of zero: it may hold anything.
        let mut pairs = [[[0; 2]; LONGEST / 2]; R];
        let mut totals = [[[[0.0; GROUP]; G]; R]; GROUPS];
        for Segment { columns, block, lines } in &self.queries.segments {
            // Among the products, which wait for arithmetic and not for memory.
            for (pairs, row) in pairs.iter_mut().zip(rows) {
                widen(lanes, pairs, &row[columns.clone()]);
            }
            let codes = &panel.codes[2 * lines.start * panel.width..2 * lines.end * panel.width];
            let scales = &panel.scales[block * panel.width..][..panel.width];
            let scales = scales.as_chunks::<GROUP>().0.as_chunks::<G>().0;
            for (g, (&scales, totals)) in scales.iter().zip(&mut totals).enumerate() {
                let mut sums = [[lanes.zero(); G]; R];
                for (p, line) in codes.chunks_exact(2 * panel.width).enumerate().take(LONGEST / 2) {
                    let queries = line.as_chunks::<{ 2 * GROUP }>().0.as_chunks::<G>().0[g];
                    let queries = queries.map(|codes| lanes.load(codes));
                    for (sums, pairs) in sums.iter_mut().zip(&pairs) {
                        let pair = lanes.splat(pairs[p]);
                        for (sum, query) in sums.iter_mut().zip(queries) {
                            *sum = lanes.multiply_add(pair, query, *sum);
                        }
                    }
                }
                // Without an early end, so that the sums never leave the registers.
                for ((sums, row_scales), totals) in sums.into_iter().zip(row_scales).zip(totals) {
                    let scale = row_scales[*block];
                    for ((sum, scales), total) in sums.into_iter().zip(scales).zip(totals) {
                        *total = lanes.scale_add(sum, scale, scales, *total);
                    }
                }
            }
        }
        let width = self.queries.codes.width();
        for (g, totals) in (0..panel.width).step_by(G * GROUP).zip(&totals) {
            for (r, totals) in totals.iter().enumerate() {
                let sums = &mut self.sums[(i + r) * width + panel.first + g..][..G * GROUP];
                sums.copy_from_slice(totals.as_flattened());
            }
        }
    }
}

/// Up to four groups of queries.
struct Panel<'s> {
    codes: &'s [i16],
    scales: &'s [f32],
    /// The queries of a line.
    width: usize,
    /// The first query.
    first: usize,
}

#[inline(always)]
fn widen<L: Lanes>(lanes: L, pairs: &mut [[i16; 2]], codes: &[i8]) {
    let (pairs, rest) = pairs.as_flattened_mut()[..codes.len()].as_chunks_mut::<{ 2 * GROUP }>();
    let (codes, codes_left) = codes.as_chunks::<{ 2 * GROUP }>();
    for (pairs, &codes) in pairs.iter_mut().zip(codes) {
        *pairs = lanes.widen(codes);
    }
    for (pair, &code) in rest.iter_mut().zip(codes_left) {
        *pair = code.into();
    }
}

// What `V4` has and the instruction that fuses `multiply_add`, for the compiler to find: pulp has no name for it.
#[cfg(target_arch = "x86_64")]
pulp::simd_type! {
    struct Vnni {
        avx: "avx",
        avx2: "avx2",
        fma: "fma",
        bmi1: "bmi1",
        bmi2: "bmi2",
        lzcnt: "lzcnt",
        popcnt: "popcnt",
        avx512f: "avx512f",
        avx512bw: "avx512bw",
        avx512cd: "avx512cd",
        avx512dq: "avx512dq",
        avx512vl: "avx512vl",
        avx512vnni: "avx512vnni",
    }
}

#[cfg(target_arch = "x86_64")]
struct Vectorized<'s, L> {
    task: Int8<'s>,
    simd: L,
}

#[cfg(target_arch = "x86_64")]
impl<L: Lanes> NullaryFnOnce for Vectorized<'_, L> {
    type Output = ();
    #[inline(always)]
    fn call(self) {
        self.task.panels(self.simd);
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "x86_64")]
    use pulp::x86::{V3, V4};

    use super::*;

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        for (n, d, q, block) in [(13_usize, 131_usize, 70, 64), (6, 512, 64, 64), (7, 1033, 17, 700), (2, 5, 1, 1)] {
            let codes: Vec<i8> = (0..n * d).map(|i| (i * 89 + 3) as i8).collect();
            let scales: Vec<f32> = (0..n * d.div_ceil(block)).map(|i| (i as f32).sin().abs() / 100.0).collect();
            let y: Vec<f32> = (0..q * d).map(|i| (i as f32 * 0.3).sin()).collect();
            let queries = Int8Queries::new(MatRef::new(&y, q, d).unwrap(), block).unwrap();
            let (codes, scales) = (MatRef::new(&codes, n, d), MatRef::new(&scales, n, d.div_ceil(block)));
            let rows = Int8Rows::new(codes.unwrap(), scales.unwrap(), block).unwrap();
            let bits = |run: fn(Int8<'_>)| {
                let mut sums: Vec<_> = (0..n * queries.codes.width()).map(|i| (i as f32).cos()).collect();
                run(Int8 { sums: &mut sums, rows, queries: &queries });
                sums.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            let portable = bits(|task| task.panels(Portable));
            let chosen = bits(|task| {
                task.run();
            });
            assert_eq!(chosen, portable);
            #[cfg(target_arch = "x86_64")]
            {
                let vectors: [fn(Int8<'_>); 2] = [
                    |task| match V3::try_new() {
                        Some(simd) => simd.vectorize(Vectorized { task, simd }),
                        None => task.run(),
                    },
                    |task| match V4::try_new() {
                        Some(simd) => simd.vectorize(Vectorized { task, simd }),
                        None => task.run(),
                    },
                ];
                for run in vectors {
                    assert_eq!(bits(run), portable);
                }
            }
        }
    }
}
