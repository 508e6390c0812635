//! Scores of int8 rows in integer arithmetic.

use std::ops::Range;

use ascribe_core::{Error, MatRef};
use pulp::Arch;
#[cfg(target_arch = "x86_64")]
use pulp::NullaryFnOnce;

use super::lanes::{Lanes, Portable};
use super::panel::{GROUP, Panels};
use super::rows::Int8Rows;

/// The largest code of a query.
const LARGEST: f32 = 32767.0;
/// Columns whose products are summed as integers at most: `512 * 128 * 32767` fits into an `i32`.
const LONGEST: usize = 512;
/// Lines whose pairs are held at once.
const CHUNK: usize = 2048;
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
    chunks: Vec<Chunk>,
    block: usize,
}

/// Segments whose pairs are made before any of them is scored.
#[derive(Debug)]
struct Chunk {
    segments: Vec<Segment>,
    /// Columns whose codes lie side by side among the pairs, and the place of the first: only a segment of odd length
    /// leaves a gap.
    runs: Vec<(Range<usize>, usize)>,
    lines: Range<usize>,
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
        let (mut chunks, mut line) = (Vec::<Chunk>::new(), 0);
        for start in (0..cols).step_by(block) {
            let end = cols.min(start.saturating_add(block));
            for first in (start..end).step_by(LONGEST) {
                let columns = first..end.min(first + LONGEST);
                let lines = line..line + columns.len().div_ceil(2);
                line = lines.end;
                if chunks.last().is_none_or(|chunk| lines.end > chunk.lines.start + CHUNK) {
                    chunks.push(Chunk { segments: Vec::new(), runs: Vec::new(), lines: lines.start..lines.start });
                }
                if let Some(chunk) = chunks.last_mut() {
                    chunk.push(Segment { columns, block: start / block, lines });
                }
            }
        }
        let mut codes = Panels::zeros(line, queries.rows())?;
        let mut scales = Panels::zeros(cols.div_ceil(block), queries.rows())?;
        for (q, query) in queries.row_iter().enumerate() {
            for (b, x) in query.chunks(block).enumerate() {
                scales.elements(b, q)[0] = scale(x);
            }
            for Segment { columns, block, lines } in chunks.iter().flat_map(|chunk| &chunk.segments) {
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
        Ok(Self { codes, scales, chunks, block })
    }

    /// The length of the blocks that these queries have a scale for.
    pub(super) fn block(&self) -> usize {
        self.block
    }
}

impl Chunk {
    fn push(&mut self, segment: Segment) {
        let place = 2 * (segment.lines.start - self.lines.start);
        match self.runs.last_mut() {
            Some((columns, first)) if *first + columns.len() == place => columns.end = segment.columns.end,
            _ => self.runs.push((segment.columns.clone(), place)),
        }
        self.lines.end = segment.lines.end;
        self.segments.push(segment);
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

/// Adds the products of all columns: `sums += rows queries^T`.
pub(super) struct Int8<'s> {
    /// `[rows, width]` with the width of the packed queries.
    pub(super) sums: &'s mut [f32],
    pub(super) rows: Int8Rows<'s>,
    pub(super) queries: &'s Int8Queries,
    /// The rows' codes of a chunk of lines, as pairs.
    pub(super) pairs: &'s mut Vec<i16>,
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
            _ => self.chunks(Portable),
        }
    }

    #[inline(always)]
    fn chunks<L: Lanes>(mut self, lanes: L) {
        let queries = self.queries;
        for chunk in &queries.chunks {
            self.chunk(lanes, chunk);
        }
    }

    #[inline(always)]
    fn chunk<L: Lanes>(&mut self, lanes: L, chunk: &Chunk) {
        let pitch = 2 * chunk.lines.len();
        // Gaps between runs meet codes of zero: they may hold anything.
        self.pairs.resize(self.rows.codes.rows() * pitch, 0);
        for (row, pairs) in self.rows.codes.row_iter().zip(self.pairs.chunks_exact_mut(pitch)) {
            for (columns, first) in &chunk.runs {
                for (pair, &code) in pairs[*first..].iter_mut().zip(&row[columns.clone()]) {
                    *pair = code.into();
                }
            }
        }
        let (queries, rows) = (self.queries, self.rows.codes.rows());
        for ((first, width, codes), (.., scales)) in queries.codes.iter().zip(queries.scales.iter()) {
            let groups = if L::WIDE { width / GROUP } else { 1 };
            for offset in (0..width).step_by(groups * GROUP) {
                for segment in &chunk.segments {
                    let strip =
                        Strip { codes, scales, segment, chunk: &chunk.lines, width, offset, query: first + offset };
                    match groups {
                        1 => self.strip::<L, 1>(lanes, &strip, rows),
                        2 => self.strip::<L, 2>(lanes, &strip, rows),
                        3 => self.strip::<L, 3>(lanes, &strip, rows),
                        _ => self.strip::<L, 4>(lanes, &strip, rows),
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn strip<L: Lanes, const G: usize>(&mut self, lanes: L, strip: &Strip<'_>, rows: usize) {
        let mut i = 0;
        while i + TILE <= rows {
            self.tile::<L, TILE, G>(lanes, strip, i);
            i += TILE;
        }
        while i < rows {
            self.tile::<L, 1, G>(lanes, strip, i);
            i += 1;
        }
    }

    #[inline(always)]
    fn tile<L: Lanes, const R: usize, const G: usize>(&mut self, lanes: L, strip: &Strip<'_>, i: usize) {
        let Segment { block, lines, .. } = strip.segment;
        let (pitch, first, len) = (strip.chunk.len(), lines.start - strip.chunk.start, lines.len());
        let pairs: [&[[i16; 2]]; R] =
            core::array::from_fn(|r| self.pairs[2 * ((i + r) * pitch + first)..][..2 * len].as_chunks().0);
        let scale: [f32; R] = core::array::from_fn(|r| self.rows.scales.row(i + r)[*block]);
        let mut sums = [[lanes.zero(); G]; R];
        let codes = &strip.codes[2 * lines.start * strip.width..2 * lines.end * strip.width];
        for (p, line) in codes.chunks_exact(2 * strip.width).enumerate().take(len) {
            let line = &line[2 * strip.offset..][..2 * G * GROUP];
            let queries = line.as_chunks::<{ 2 * GROUP }>().0.as_chunks::<G>().0[0].map(|codes| lanes.load(codes));
            for (sums, pairs) in sums.iter_mut().zip(pairs) {
                let pair = lanes.splat(pairs[p]);
                for (sum, query) in sums.iter_mut().zip(queries) {
                    *sum = lanes.multiply_add(pair, query, *sum);
                }
            }
        }
        let scales = &strip.scales[block * strip.width + strip.offset..][..G * GROUP];
        let scales = scales.as_chunks::<GROUP>().0.as_chunks::<G>().0[0];
        // Without an early end, so that the sums never leave the registers.
        let stride = self.queries.codes.width();
        for (r, (sums, scale)) in sums.into_iter().zip(scale).enumerate() {
            let out = &mut self.sums[(i + r) * stride + strip.query..][..G * GROUP];
            let out = &mut out.as_chunks_mut::<GROUP>().0.as_chunks_mut::<G>().0[0];
            for ((sum, scales), out) in sums.into_iter().zip(scales).zip(out) {
                *out = lanes.scale_add(sum, scale, scales, *out);
            }
        }
    }
}

/// Some neighbouring queries of a panel, and a chunk of lines.
struct Strip<'s> {
    codes: &'s [i16],
    scales: &'s [f32],
    segment: &'s Segment,
    /// The lines that the rows' pairs are there for.
    chunk: &'s Range<usize>,
    /// The queries of a line.
    width: usize,
    /// Of the strip in a line.
    offset: usize,
    /// The first query of the strip.
    query: usize,
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
        self.task.chunks(self.simd);
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
                run(Int8 { sums: &mut sums, rows, queries: &queries, pairs: &mut vec![7; 3] });
                sums.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            let portable = bits(|task| task.chunks(Portable));
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
