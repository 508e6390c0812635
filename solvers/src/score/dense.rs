//! Inner products of `f32` rows with packed queries.

use ascribe_core::MatRef;
use pulp::{Arch, Simd, WithSimd};

use super::panel::{GROUP, Panels};

/// Columns whose products are summed one after the other; the sums of such chunks are added in order.
pub(super) const CHUNK: usize = 256;
/// Rows of the innermost tile: with four vectors, three in four of 32 registers hold sums.
const TILE: usize = 6;

/// Adds the products of some columns: `sums += x queries[columns]^T`.
pub(super) struct Dense<'s> {
    /// `[rows, panels.width()]`.
    pub(super) sums: &'s mut [f32],
    pub(super) x: MatRef<'s, f32>,
    pub(super) panels: &'s Panels<f32, 1>,
    /// The column of the queries that the first one of `x` belongs to.
    pub(super) first: usize,
}

impl Dense<'_> {
    pub(super) fn run(self) {
        Arch::new().dispatch(self);
    }

    /// In strips of `V` vectors of queries.
    #[inline(always)]
    fn strips<S: Simd, const V: usize>(&mut self, simd: S, strip: &Strip<'_>) {
        let rows = self.x.rows();
        let mut i = 0;
        while i + TILE <= rows {
            self.tile::<S, TILE, V>(simd, strip, i);
            i += TILE;
        }
        while i < rows {
            self.tile::<S, 1, V>(simd, strip, i);
            i += 1;
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const R: usize, const V: usize>(&mut self, simd: S, strip: &Strip<'_>, i: usize) {
        let (x, stride) = (self.x, self.panels.width());
        let rows: [&[f32]; R] = core::array::from_fn(|r| x.row(i + r));
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        for (p, line) in strip.lines.chunks_exact(strip.width).enumerate().take(x.cols()) {
            let line = &line[strip.offset..][..V * S::F32_LANES];
            let queries = S::as_simd_f32s(line).0.as_chunks::<V>().0[0];
            for (sums, row) in sums.iter_mut().zip(rows) {
                let x = simd.splat_f32s(row[p]);
                for (sum, query) in sums.iter_mut().zip(queries) {
                    *sum = simd.mul_add_f32s(x, query, *sum);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            let out = &mut self.sums[(i + r) * stride + strip.query..][..V * S::F32_LANES];
            for (out, sum) in S::as_mut_simd_f32s(out).0.iter_mut().zip(sums) {
                *out = simd.add_f32s(*out, sum);
            }
        }
    }
}

/// Some neighbouring queries of a panel.
struct Strip<'s> {
    lines: &'s [f32],
    /// Of a line.
    width: usize,
    /// Of the strip in a line.
    offset: usize,
    /// The first query of the strip.
    query: usize,
}

impl WithSimd for Dense<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for (first, width, lines) in self.panels.iter() {
            let lines = &lines[self.first * width..];
            // All of a panel at once where vectors are that wide; else as many as leave room for the rows of a tile.
            let most = if S::REGISTER_COUNT >= 32 { 4 } else { 2 };
            let vectors = if S::F32_LANES == GROUP { width / GROUP } else { (GROUP / S::F32_LANES).min(most) };
            for offset in (0..width).step_by(vectors * S::F32_LANES) {
                let strip = Strip { lines, width, offset, query: first + offset };
                match vectors {
                    1 => self.strips::<S, 1>(simd, &strip),
                    2 => self.strips::<S, 2>(simd, &strip),
                    3 => self.strips::<S, 3>(simd, &strip),
                    _ => self.strips::<S, 4>(simd, &strip),
                }
            }
        }
    }
}
