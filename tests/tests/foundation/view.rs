//! Laws of the matrix views.

use ascribe_core::{MatMut, MatRef};
use proptest::prelude::*;

/// Shapes with 0, 1, gaps between the rows, and a stride that one row does not need.
fn shapes() -> impl Strategy<Value = (usize, usize, usize)> {
    (0_usize..6, 0_usize..6, 0_usize..4)
        .prop_map(|(rows, cols, gap)| (rows, cols, if rows <= 1 { gap } else { cols + gap }))
}

fn rows_of(view: MatRef<'_, i32>) -> Vec<Vec<i32>> {
    (0..view.rows()).map(|i| view.row(i).to_vec()).collect()
}

proptest! {
    #[test]
    fn rows_are_the_strided_slices((rows, cols, stride) in shapes()) {
        let data: Vec<i32> = (0..64).collect();
        let view = MatRef::with_stride(&data, rows, cols, stride)?;
        for (i, row) in view.row_iter().enumerate() {
            prop_assert_eq!(row, &data[i * stride..][..cols]);
        }
        prop_assert_eq!(view.row_iter().len(), rows);
        prop_assert!(view.get_row(rows).is_none());
    }

    #[test]
    fn a_split_loses_nothing_and_reaches_no_gap((rows, cols, stride) in shapes(), at in 0_usize..8) {
        let mut data: Vec<i32> = (0..64).collect();
        let before = rows_of(MatRef::with_stride(&data, rows, cols, stride)?);
        let split = MatMut::with_stride(&mut data, rows, cols, stride)?.split_rows(at);
        prop_assert_eq!(split.is_ok(), at <= rows);
        let Ok((mut top, mut bottom)) = split else { return Ok(()) };
        prop_assert_eq!([rows_of(top.as_ref()), rows_of(bottom.as_ref())].concat(), before);
        top.fill(-1);
        bottom.fill(-1);
        let touched = data.iter().filter(|x| **x == -1).count();
        prop_assert_eq!(touched, rows * cols);
    }

    #[test]
    fn a_block_is_the_part_of_each_row(
        (rows, cols, stride) in shapes(),
        (row, height, col, width) in (0_usize..7, 0_usize..7, 0_usize..7, 0_usize..7),
    ) {
        let data: Vec<i32> = (0..64).collect();
        let view = MatRef::with_stride(&data, rows, cols, stride)?;
        let block = view.block(row, height, col, width);
        prop_assert_eq!(block.is_ok(), row + height <= rows && col + width <= cols);
        for (i, part) in block.into_iter().flat_map(|block| rows_of(block).into_iter().enumerate()) {
            prop_assert_eq!(part.as_slice(), &view.row(row + i)[col..col + width]);
        }
    }
}

/// A view without columns holds no element, so nothing vouches for its number of rows or its stride.
#[test]
fn absurd_shapes_without_elements() {
    let huge = usize::MAX / 2;
    let view = MatRef::<f64>::with_stride(&[], huge, 0, huge).unwrap();
    assert!(view.row(huge - 1).is_empty());
    assert_eq!(view.block(7, huge - 7, 0, 0).unwrap().rows(), huge - 7);
    let (top, bottom) = MatMut::<f64>::with_stride(&mut [], huge, 0, huge).unwrap().split_rows(5).unwrap();
    assert_eq!((top.rows(), bottom.rows()), (5, huge - 5));
    assert!(MatRef::<f64>::with_stride(&[], huge, 1, huge).is_err());
    assert!(MatRef::<f64>::new(&[], huge, 3).is_err());
}

#[test]
fn rows_without_elements_are_not_stepped_over() {
    let mut view = MatMut::<f64>::new(&mut [], usize::MAX, 0).unwrap();
    view.for_each_row(|i, _| panic!("row {i} has no elements"));
    view.fill(1.0);
    view.copy_from(MatRef::new(&[], usize::MAX, 0).unwrap()).unwrap();
}
