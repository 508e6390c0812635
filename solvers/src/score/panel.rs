//! Queries in the order in which a kernel reads them: side by side, so that vector lanes are queries.
//!
//! With lanes along the queries, a score is summed in the order of the columns whatever the width of the vectors and
//! wherever its row lies in a tile: that is why its bits depend on the two rows alone.

use std::ops::{Deref, DerefMut, Range};

use ascribe_core::{Error, MatRef};

use crate::error::zeros;

/// Queries of a group: as many as the widest vectors have lanes for `f32`.
pub(super) const GROUP: usize = 16;
/// Groups of a panel: what the innermost tile takes at once.
pub(super) const GROUPS: usize = 4;

/// Elements that start on a cache line: a vector of 64 bytes across two lines costs two loads.
#[derive(Debug)]
pub(super) struct Aligned<T> {
    data: Vec<T>,
    range: Range<usize>,
}

impl<T: Copy + Default> Aligned<T> {
    pub(super) fn zeros(what: &'static str, len: Option<usize>) -> Result<Self, Error> {
        let line = 64 / size_of::<T>();
        let data: Vec<T> = zeros(what, len.and_then(|len| len.checked_add(line)))?;
        let start = data.as_ptr().align_offset(64).min(line);
        let range = start..start + data.len() - line;
        Ok(Self { data, range })
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.data[self.range.clone()]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[self.range.clone()]
    }
}

/// Lines of elements, one after another in panels of up to [`GROUPS`] groups of queries.
///
/// A line of a panel holds `E` neighbouring elements of each of its queries. Queries that are missing in the last
/// group are zero.
#[derive(Debug)]
pub(super) struct Panels<T, const E: usize> {
    data: Aligned<T>,
    lines: usize,
    groups: usize,
}

impl<T: Copy + Default, const E: usize> Panels<T, E> {
    /// Lines of zeros for a number of queries.
    pub(super) fn zeros(lines: usize, queries: usize) -> Result<Self, Error> {
        let groups = queries.div_ceil(GROUP);
        let len = groups.checked_mul(GROUP * E).and_then(|width| width.checked_mul(lines));
        Ok(Self { data: Aligned::zeros("packed queries", len)?, lines, groups })
    }

    /// The queries with those that fill up the last group.
    pub(super) fn width(&self) -> usize {
        self.groups * GROUP
    }

    /// Each panel: the first of its queries, their number and its lines.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, usize, &[T])> {
        let of = GROUPS * GROUP;
        (0..self.width()).step_by(of).map(move |first| {
            let width = of.min(self.width() - first);
            (first, width, &self.data[first * E * self.lines..][..width * E * self.lines])
        })
    }

    /// The elements of one query on one line.
    pub(super) fn elements(&mut self, line: usize, query: usize) -> &mut [T] {
        let first = query / (GROUPS * GROUP) * (GROUPS * GROUP);
        let width = (GROUPS * GROUP).min(self.width() - first);
        &mut self.data[(first * self.lines + line * width + query - first) * E..][..E]
    }
}

impl Panels<f32, 1> {
    /// A line a column.
    pub(super) fn pack(queries: MatRef<'_, f32>) -> Result<Self, Error> {
        let mut panels = Self::zeros(queries.cols(), queries.rows())?;
        for q in 0..queries.rows() {
            for (line, &x) in queries.row(q).iter().enumerate() {
                panels.elements(line, q)[0] = x;
            }
        }
        Ok(panels)
    }
}

#[cfg(test)]
mod tests {
    use pulp::{Arch, Scalar, Simd, WithSimd};

    use super::*;
    use crate::score::OneBitRows;
    use crate::score::dense::Dense;
    use crate::score::one_bit::{OneBit, TABLE};

    /// Runs a kernel in scalars and in the widest vectors there are, from the same sums on.
    fn both(rows: usize, width: usize, run: impl Fn(&mut [f32], bool)) -> [Vec<u32>; 2] {
        [true, false].map(|scalar| {
            let mut sums: Vec<_> = (0..rows * width).map(|i| (i as f32).sin()).collect();
            run(&mut sums, scalar);
            sums.into_iter().map(f32::to_bits).collect()
        })
    }

    fn dispatch(scalar: bool, task: impl WithSimd<Output = ()>) {
        if scalar { Scalar.vectorize(task) } else { Arch::new().dispatch(task) }
    }

    #[test]
    fn scalars_and_vectors_give_the_same_bits() {
        for (rows, cols, queries) in [(13, 37, 70), (6, 256, 64), (1, 1, 1), (7, 17, 33)] {
            let x: Vec<f32> = (0..rows * cols).map(|i| (i as f32 * 0.7).cos()).collect();
            let y: Vec<f32> = (0..queries * cols).map(|i| (i as f32 * 0.3).sin()).collect();
            let panels = Panels::pack(MatRef::new(&y, queries, cols).unwrap()).unwrap();
            let x = MatRef::new(&x, rows, cols).unwrap();
            let [scalars, vectors] = both(rows, panels.width(), |sums, scalar| {
                dispatch(scalar, Dense { sums, x, panels: &panels, first: 0 });
            });
            assert_eq!(scalars, vectors);
            let bits: Vec<u8> = (0..rows * cols.div_ceil(8)).map(|i| (i * 151 + 7) as u8).collect();
            let bits = MatRef::new(&bits, rows, cols.div_ceil(8)).unwrap();
            let scales = vec![1.0; rows];
            let signs = OneBitRows::new(bits, &scales, cols).unwrap();
            let [scalars, vectors] = both(rows, panels.width(), |sums, scalar| {
                let table = &mut Aligned::zeros("table", Some(TABLE)).unwrap();
                dispatch(scalar, OneBit { sums, rows: signs, panels: &panels, table });
            });
            assert_eq!(scalars, vectors);
        }
    }
}
