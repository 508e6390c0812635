//! Scores of rows of signs by table: four signs choose one of sixteen sums of four numbers of a query.

use pulp::{Arch, Simd, WithSimd};

use super::panel::{Aligned, GROUP, GROUPS, Panels};
use super::rows::OneBitRows;

/// Columns whose tables are held at once: two bytes of signs. Tables of a panel fill half of a first-level cache.
const CHUNK: usize = 16;
/// Of a panel: four tables of sixteen lines.
pub(super) const TABLE: usize = 4 * 16 * GROUPS * GROUP;

/// Adds the products of all signs, without the rows' scales: `sums += signs queries^T`.
pub(super) struct OneBit<'s> {
    /// `[rows, panels.width()]`.
    pub(super) sums: &'s mut [f32],
    pub(super) rows: OneBitRows<'s>,
    pub(super) panels: &'s Panels<f32, 1>,
    /// [`TABLE`] elements.
    pub(super) table: &'s mut Aligned<f32>,
}

impl OneBit<'_> {
    pub(super) fn run(self) {
        Arch::new().dispatch(self);
    }

    /// `V` vectors of queries from `offset` of a panel's line on, whose first query is `first`.
    #[inline(always)]
    fn strip<S: Simd, const V: usize>(&mut self, simd: S, lines: &[f32], width: usize, offset: usize, first: usize) {
        let (span, stride) = (V * S::F32_LANES, self.panels.width());
        for (chunk, lines) in lines.chunks(CHUNK * width).enumerate() {
            let nibbles = lines.len().div_ceil(4 * width);
            for (table, lines) in self.table.chunks_exact_mut(16 * span).zip(lines.chunks(4 * width)) {
                let line = |c: usize| {
                    lines.get(c * width + offset..c * width + offset + span).map(|line| S::as_simd_f32s(line).0)
                };
                for v in 0..V {
                    let [a, b, c, d] = [0, 1, 2, 3].map(|c| line(c).map_or(simd.splat_f32s(0.0), |line| line[v]));
                    let signed = |a, b| {
                        let (sum, difference) = (simd.add_f32s(a, b), simd.sub_f32s(a, b));
                        [simd.neg_f32s(sum), difference, simd.neg_f32s(difference), sum]
                    };
                    let (low, high) = (signed(a, b), signed(c, d));
                    for (code, sums) in S::as_mut_simd_f32s(table).0.chunks_exact_mut(V).enumerate() {
                        sums[v] = simd.add_f32s(low[code % 4], high[code / 4]);
                    }
                }
            }
            let tables = &self.table[..];
            let entry = |nibble: usize, code: u8| {
                let line = &tables[(nibble * 16 + usize::from(code & 15)) * span..][..span];
                S::as_simd_f32s(line).0.as_chunks::<V>().0[0]
            };
            let add = |mut x: [S::f32s; V], y: [S::f32s; V]| {
                for (x, y) in x.iter_mut().zip(y) {
                    *x = simd.add_f32s(*x, y);
                }
                x
            };
            for (sums, bits) in self.sums.chunks_exact_mut(stride).zip(self.rows.bits.row_iter()) {
                let bits = &bits[2 * chunk..];
                let sums = &mut S::as_mut_simd_f32s(&mut sums[first + offset..][..span]).0.as_chunks_mut::<V>().0[0];
                let chunk = if nibbles == 4 {
                    let low = add(entry(0, bits[0]), entry(1, bits[0] >> 4));
                    add(low, add(entry(2, bits[1]), entry(3, bits[1] >> 4)))
                } else {
                    let code = |nibble: usize| bits[nibble / 2] >> (4 * (nibble % 2));
                    (1..nibbles).fold(entry(0, code(0)), |sum, nibble| add(sum, entry(nibble, code(nibble))))
                };
                *sums = add(*sums, chunk);
            }
        }
    }
}

impl WithSimd for OneBit<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let panels = self.panels;
        for (first, width, lines) in panels.iter() {
            let vectors = if S::F32_LANES == GROUP { width / GROUP } else { (GROUP / S::F32_LANES).min(4) };
            for offset in (0..width).step_by(vectors * S::F32_LANES) {
                match vectors {
                    1 => self.strip::<S, 1>(simd, lines, width, offset, first),
                    2 => self.strip::<S, 2>(simd, lines, width, offset, first),
                    3 => self.strip::<S, 3>(simd, lines, width, offset, first),
                    _ => self.strip::<S, 4>(simd, lines, width, offset, first),
                }
            }
        }
    }
}
