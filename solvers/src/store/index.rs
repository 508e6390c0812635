//! Which rows of a store count, and where the row of an example is.

/// Neighbouring rows of a segment that count.
#[derive(Debug, PartialEq)]
pub(super) struct Run {
    pub(super) segment: usize,
    /// The first row in the segment.
    pub(super) start: usize,
    pub(super) rows: usize,
    /// The position of that row in the store.
    pub(super) first: usize,
}

/// The rows of all segments, each example once.
#[derive(Debug)]
pub(super) struct Index {
    /// In the order of the rows; none is empty.
    pub(super) runs: Vec<Run>,
    /// The id and the position of each row that counts, by ascending id.
    pub(super) by_id: Vec<(u64, usize)>,
    /// The number of rows that do not count.
    pub(super) hidden: usize,
}

impl Index {
    /// The index of segments with these ids: of the rows of an example, the first one counts.
    pub(super) fn new(segments: &[&[u64]]) -> Self {
        let mut by_id: Vec<_> = segments.iter().copied().flatten().copied().zip(0..).collect();
        // The order of the rows is kept among equal ids.
        by_id.sort_by_key(|(id, _)| *id);
        let (mut hidden, mut last) = (Vec::new(), None);
        by_id.retain(|(id, row)| {
            let counts = last.replace(*id) != Some(*id);
            if !counts {
                hidden.push(*row);
            }
            counts
        });
        hidden.sort_unstable();
        let position = |row: usize| row - hidden.partition_point(|h| *h < row);
        if !hidden.is_empty() {
            for (_, row) in &mut by_id {
                *row = position(*row);
            }
        }
        let (mut runs, mut end) = (Vec::new(), 0);
        for (segment, ids) in segments.iter().enumerate() {
            let (begin, mut row) = (end, end);
            end += ids.len();
            let between = hidden[hidden.partition_point(|h| *h < begin)..].iter().copied().take_while(|h| *h < end);
            for stop in between.chain([end]) {
                if row < stop {
                    runs.push(Run { segment, start: row - begin, rows: stop - row, first: position(row) });
                }
                row = stop + 1;
            }
        }
        Self { runs, by_id, hidden: hidden.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_row_of_an_example_counts() {
        let index = Index::new(&[&[5, 3, 5], &[], &[3, 9], &[3, 5], &[7]]);
        let run = |segment, start, rows, first| Run { segment, start, rows, first };
        assert_eq!(index.runs, [run(0, 0, 2, 0), run(2, 1, 1, 2), run(4, 0, 1, 3)]);
        assert_eq!((index.hidden, index.by_id), (4, vec![(3, 1), (5, 0), (7, 3), (9, 2)]));
    }
}
