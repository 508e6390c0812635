//! Views of any claimed shape: a typed error or a view whose every element can be reached.
#![no_main]

use arbitrary::Arbitrary;
use ascribe_core::{MatMut, MatRef};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input {
    data: Vec<u8>,
    shape: [usize; 3],
    block: [usize; 4],
    split: usize,
}

fuzz_target!(|input: Input| {
    let Input { mut data, shape: [rows, cols, stride], block: [row, rows2, col, cols2], split } = input;
    let (small, exact) = (|n: usize| n % 17, MatRef::new(&data, rows, cols));
    assert_eq!(exact.is_ok(), rows.checked_mul(cols) == Some(data.len()));
    // Sizes as they come, which are mostly absurd, and reduced ones, which are mostly valid.
    for (rows, cols, stride) in [(rows, cols, stride), (small(rows), small(cols), small(stride))] {
        let Ok(view) = MatRef::with_stride(&data, rows, cols, stride) else {
            assert!(MatMut::with_stride(&mut data, rows, cols, stride).is_err());
            continue;
        };
        if cols > 0 {
            view.row_iter().for_each(|row| assert_eq!(row.len(), cols));
        }
        assert!(view.get_row(rows).is_none());
        for [row, rows2, col, cols2] in [[row, rows2, col, cols2], [row, rows2, col, cols2].map(small)] {
            let inside = |start: usize, len: usize, of: usize| start.checked_add(len).is_some_and(|end| end <= of);
            let block = view.block(row, rows2, col, cols2);
            assert_eq!(block.is_ok(), inside(row, rows2, rows) && inside(col, cols2, cols));
            if let (Ok(block), true) = (block, cols2 > 0) {
                for (i, part) in block.row_iter().enumerate() {
                    assert_eq!(part, &view.row(row + i)[col..col + cols2]);
                }
            }
        }
        let before = if cols > 0 { view.row_iter().map(<[u8]>::to_vec).collect() } else { Vec::new() };
        for split in [split, small(split)] {
            let Ok(view) = MatMut::with_stride(&mut data, rows, cols, stride) else { panic!("MatRef accepted it") };
            let Ok((top, bottom)) = view.split_rows(split) else {
                assert!(split > rows);
                continue;
            };
            assert_eq!((top.rows(), bottom.rows()), (split, rows - split));
            if cols > 0 {
                let (top, bottom) = (top.as_ref(), bottom.as_ref());
                assert!(top.row_iter().chain(bottom.row_iter()).eq(before.iter().map(Vec::as_slice)));
            }
        }
    }
});
