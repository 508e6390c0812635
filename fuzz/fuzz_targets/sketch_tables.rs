//! Sparse transforms, masks and permutations, of any tables, indices and sizes: a typed error, or the same sums from
//! every form.
#![no_main]

use arbitrary::Arbitrary;
use ascribe_core::linop::{Adjoint, apply_alloc};
use ascribe_core::random::Stream;
use ascribe_core::sketch::{Grass, Mask, MaskScale, Permutation, Sjlt, SjltTable};
use ascribe_core::{LinOp, MatMut, MatRef};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input {
    buckets: Vec<usize>,
    signs: Vec<i8>,
    dim_out: usize,
    slots: usize,
    seed: u64,
    indices: Vec<usize>,
    dim_in: usize,
    first: usize,
    data: Vec<f32>,
    rows: u8,
}

/// Bits with one NaN.
fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }).collect()
}

fuzz_target!(|input: Input| {
    let stream = Stream::new(input.seed, "fuzz");
    let rows = usize::from(input.rows % 20);
    // Sizes as they come must not panic; what is computed has to fit into memory.
    if let Ok(sjlt) = Sjlt::new(input.dim_in, input.dim_out, input.slots, stream) {
        let _ = sjlt.entry(input.first, input.slots / 2);
        let _ = sjlt.accumulate(MatMut::from_row(&mut [0.0]), MatRef::from_row(&input.data), input.first, &mut []);
    }
    let order = Permutation::new(input.dim_in, stream);
    assert!(order.image(input.first).map_or(input.first >= input.dim_in, |image| image < input.dim_in));
    let _ = Mask::new(&input.indices, input.dim_in, MaskScale::Unbiased);

    let (dim_out, slots) = (input.dim_out % 64, input.slots % 8);
    let given = SjltTable::new(dim_out, slots, &input.buckets, &input.signs);
    let drawn = Sjlt::new(input.data.len() / rows.max(1), dim_out, slots, stream);
    let drawn = drawn.ok().and_then(|sjlt| SjltTable::draw(&sjlt).ok());
    for table in [given.ok(), drawn].into_iter().flatten() {
        let p = LinOp::<f32>::dim_in(&table);
        let rows = rows.min(input.data.len().checked_div(p).unwrap_or(rows));
        let Ok(x) = MatRef::new(&input.data[..rows * p], rows, p) else { panic!("the shape fits") };
        let Ok(expected) = apply_alloc(&table, x) else { panic!("the shape fits") };
        let gathered = table.by_bucket().and_then(|buckets| apply_alloc(&buckets, x));
        assert_eq!(gathered.as_deref().map(bits), Ok(bits(&expected)));
        let (mut pieces, mut scratch) = (vec![0.0; expected.len()], vec![f32::NAN; 8 * dim_out]);
        let cut = input.first % (p + 1);
        for (first, last) in [(0, cut), (cut, p)] {
            let (Ok(out), Ok(x)) = (MatMut::new(&mut pieces, rows, dim_out), x.block(0, rows, first, last - first))
            else {
                panic!("the shape fits")
            };
            assert!(table.accumulate(out, x, first, &mut scratch).is_ok());
        }
        let Ok(out) = MatMut::new(&mut pieces, rows, dim_out) else { panic!("the shape fits") };
        table.finish(out);
        assert_eq!(bits(&pieces), bits(&expected));
        for (row, expected) in x.row_iter().zip(expected.chunks(dim_out.max(1))) {
            let mut sparse = vec![0.0; dim_out];
            let _ = table.apply_sparse(&mut sparse, &input.indices, &input.data);
            assert!(table.apply_sparse(&mut sparse, &(0..p).collect::<Vec<_>>(), row).is_ok());
            assert_eq!(bits(&sparse), bits(expected));
        }
        let mut back = vec![0.0; rows * p];
        if let (Ok(y), Ok(out)) = (MatRef::new(&expected, rows, dim_out), MatMut::new(&mut back, rows, p)) {
            assert!(table.apply_transpose(out, y, &mut []).is_ok());
        }
        if let Ok(mask) = Mask::new(&input.indices, input.dim_in % 4096, MaskScale::None) {
            let fits = mask.indices().len() == p;
            assert_eq!(Grass::new(mask, table).is_ok(), fits);
        }
    }
});
