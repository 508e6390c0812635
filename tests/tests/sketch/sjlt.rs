//! Laws of the sparse transform: every form of it gives the same bits, and those are the definition's.

use ascribe_core::linop::{Adjoint, apply_alloc};
use ascribe_core::random::Stream;
use ascribe_core::sketch::{Sjlt, SjltTable, Sketch};
use ascribe_core::{Error, LinOp, MatMut, MatRef, Real};
use ascribe_solvers::parallel::Parallelism;
use ascribe_solvers::score::{Int8Rows, OneBitRows, StoredRows};
use ascribe_solvers::sketch::{apply_rows, apply_stored_rows};
use ascribe_tests::exact::Integers;
use ascribe_tests::{tolerance, with_eight_threads};
use proptest::prelude::*;

fn normals<T: Real>(stream: Stream, len: usize) -> Vec<T> {
    (0..len).map(|i| T::from_f64(stream.normals(i as u64, 0)[0])).collect()
}

/// The definition, one bucket after the other, with the sum of absolute values and the number of terms.
fn definition<T: Real>(sjlt: &Sjlt, x: &[T]) -> Vec<(f64, f64, usize)> {
    let k = LinOp::<T>::dim_out(sjlt);
    let mut sums = vec![(0.0, 0.0, 0); k];
    for (i, x) in x.iter().enumerate() {
        for slot in 0..sjlt.slots() {
            let entry = sjlt.entry(i, slot).unwrap();
            let sum = &mut sums[entry.bucket];
            let x = x.to_f64() / (sjlt.slots() as f64).sqrt();
            *sum = (sum.0 + if entry.negative { -x } else { x }, sum.1 + x.abs(), sum.2 + 1);
        }
    }
    sums
}

fn bits<T: Real>(x: &[T]) -> Vec<u64> {
    x.iter().map(|x| x.to_f64().to_bits()).collect()
}

fn every_form_is_the_definition<T: Real>(
    (n, p, k, slots): (usize, usize, usize, usize),
    cuts: [usize; 2],
    seed: u64,
) -> Result<(), TestCaseError> {
    let stream = Stream::new(seed, "sjlt");
    let sjlt = Sjlt::new(p, k, slots, stream).unwrap();
    let table = SjltTable::draw(&sjlt).unwrap();
    let mut data = normals::<T>(stream.child(1), n * p);
    data.iter_mut().step_by(3).for_each(|x| *x = T::ZERO);
    let x = MatRef::new(&data, n, p).unwrap();
    let implicit = apply_alloc(&sjlt, x).unwrap();
    for (i, row) in x.row_iter().enumerate() {
        for (got, (expected, absolute, terms)) in implicit[i * k..].iter().zip(definition(&sjlt, row)) {
            let bound = tolerance::signed_sum::<T>(terms, absolute);
            prop_assert!((got.to_f64() - expected).abs() <= bound, "{got} for {expected}");
        }
    }
    let expected = bits(&implicit);
    prop_assert_eq!(&bits(&apply_alloc(&table, x).unwrap()), &expected);
    prop_assert_eq!(&bits(&apply_alloc(&table.by_bucket().unwrap(), x).unwrap()), &expected);
    for threads in [1, 2, 5] {
        let mut out = vec![T::from_f64(f64::NAN); n * k];
        let view = MatMut::new(&mut out, n, k).unwrap();
        with_eight_threads(|| apply_rows(view, &sjlt, x, Parallelism::threads(threads))).unwrap();
        prop_assert_eq!(&bits(&out), &expected);
    }
    // Pieces of the vectors, and of the rows.
    let (mut out, mut scratch) = (vec![T::ZERO; n * k], vec![T::from_f64(f64::NAN); LinOp::<T>::scratch_len(&sjlt, n)]);
    let mut cuts = cuts.map(|cut| cut % (p + 1));
    cuts.sort_unstable();
    for (first, last) in [(0, cuts[0]), (cuts[0], cuts[1]), (cuts[1], p)] {
        let piece = x.block(0, n, first, last - first).unwrap();
        let view = MatMut::new(&mut out, n, k).unwrap();
        if first % 2 == 0 {
            sjlt.accumulate(view, piece, first, &mut scratch).unwrap();
        } else {
            table.accumulate(view, piece, first, &mut scratch).unwrap();
        }
    }
    table.finish(MatMut::new(&mut out, n, k).unwrap());
    prop_assert_eq!(&bits(&out), &expected);
    for (i, row) in x.row_iter().enumerate() {
        let (indices, values): (Vec<usize>, Vec<T>) = row.iter().enumerate().filter(|(_, x)| **x != T::ZERO).unzip();
        let mut sparse = vec![T::from_f64(f64::NAN); k];
        sjlt.apply_sparse(&mut sparse, &indices, &values).unwrap();
        prop_assert_eq!(&bits(&sparse), &expected[i * k..][..k]);
        table.apply_sparse(&mut sparse, &indices, &values).unwrap();
        prop_assert_eq!(&bits(&sparse), &expected[i * k..][..k]);
        prop_assert_eq!(&bits(&apply_alloc(&table, MatRef::from_row(row)).unwrap()), &expected[i * k..][..k]);
    }
    let y = normals::<T>(stream.child(2), n * k);
    let (mut drawn, mut read) = (vec![T::from_f64(f64::NAN); n * p], vec![T::from_f64(f64::NAN); n * p]);
    let y = MatRef::new(&y, n, k).unwrap();
    sjlt.apply_transpose(MatMut::new(&mut drawn, n, p).unwrap(), y, &mut []).unwrap();
    table.apply_transpose(MatMut::new(&mut read, n, p).unwrap(), y, &mut []).unwrap();
    prop_assert_eq!(bits(&drawn), bits(&read));
    Ok(())
}

fn shape() -> impl Strategy<Value = (usize, usize, usize, usize)> {
    let rows = prop::sample::select(vec![0, 1, 2, 4, 5, 7, 8, 13, 17]);
    let coordinates = prop::sample::select(vec![0, 1, 2, 3, 5, 31, 32, 33, 64, 97, 131]);
    let buckets = prop::sample::select(vec![1, 2, 3, 7, 16, 61]);
    (rows, coordinates, buckets).prop_flat_map(|(n, p, k)| (Just(n), Just(p), Just(k), 1..=k.min(5)))
}

proptest! {
    #[test]
    fn all_forms_give_the_bits_of_the_definition(
        shape in shape(), cuts in any::<[usize; 2]>(), seed in any::<u64>(),
    ) {
        every_form_is_the_definition::<f32>(shape, cuts, seed)?;
        every_form_is_the_definition::<f64>(shape, cuts, seed)?;
    }

    #[test]
    fn linear_and_adjoint((n, p, k, _) in shape(), slots in prop::sample::select(vec![1, 4]), seed in any::<u64>()) {
        // 1 / sqrt(s) is exact for these, and so is everything else.
        let slots = if slots <= k { slots } else { 1 };
        let sjlt = Sjlt::new(p, k, slots, Stream::new(seed, "adjoint")).unwrap();
        let mut integers = Integers::new(seed);
        let (x, z, y) = (integers.vector::<f32>(n * p), integers.vector::<f32>(n * p), integers.vector::<f32>(n * k));
        let apply = |x: &[f32]| apply_alloc(&sjlt, MatRef::new(x, n, p).unwrap()).unwrap();
        let combined: Vec<f32> = x.iter().zip(&z).map(|(x, z)| 2.0 * x - 3.0 * z).collect();
        let expected: Vec<f32> = apply(&x).iter().zip(apply(&z)).map(|(x, z)| 2.0 * x - 3.0 * z).collect();
        prop_assert_eq!(apply(&combined), expected);
        let mut back = vec![f32::NAN; n * p];
        sjlt.apply_transpose(MatMut::new(&mut back, n, p).unwrap(), MatRef::new(&y, n, k).unwrap(), &mut []).unwrap();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        prop_assert_eq!(dot(&apply(&x), &y), dot(&x, &back));
    }

    #[test]
    fn slots_are_in_blocks_of_their_own(p in 1_usize..1 << 40, k in 1_usize..5000, seed in any::<u64>()) {
        for slots in [1, 2, 3, 7].into_iter().filter(|slots| *slots <= k) {
            let sjlt = Sjlt::new(p, k, slots, Stream::new(seed, "blocks")).unwrap();
            for coordinate in [0, p / 2, p - 1] {
                for slot in 0..slots {
                    let bucket = sjlt.entry(coordinate, slot).unwrap().bucket;
                    prop_assert!((slot * k / slots..(slot + 1) * k / slots).contains(&bucket));
                }
            }
        }
    }

    #[test]
    fn given_tables_may_repeat_buckets(n in 0_usize..10, p in 0_usize..40, seed in any::<u64>()) {
        let (k, slots, mut integers) = (3, 4, Integers::new(seed));
        let buckets: Vec<usize> = (0..p * slots).map(|_| integers.below(k)).collect();
        let signs: Vec<i8> = (0..p * slots).map(|_| 1 - 2 * integers.below(2) as i8).collect();
        let table = SjltTable::new(k, slots, &buckets, &signs).unwrap();
        let x = integers.vector::<f64>(n * p);
        let mut expected = vec![0.0; n * k];
        for (at, (&bucket, &sign)) in buckets.iter().zip(&signs).enumerate() {
            for i in 0..n {
                expected[i * k + bucket] += f64::from(sign) * x[i * p + at / slots] / 2.0;
            }
        }
        let x = MatRef::new(&x, n, p).unwrap();
        prop_assert_eq!(&apply_alloc(&table, x).unwrap(), &expected);
        prop_assert_eq!(&apply_alloc(&table.by_bucket().unwrap(), x).unwrap(), &expected);
    }
}

/// The mean of a sample is within five standard errors of what it should be.
fn expect(sample: &[f64], expected: f64, what: &str) {
    let n = sample.len() as f64;
    let mean = sample.iter().sum::<f64>() / n;
    let deviation = (sample.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    let bound = tolerance::monte_carlo(sample.len(), deviation);
    assert!((mean - expected).abs() <= bound, "{what}: {mean} for {expected}, bound {bound}");
}

#[test]
fn inner_products_have_the_mean_and_the_variance_that_the_formula_says() {
    let (p, k, runs) = (40, 8, 20_000);
    let stream = Stream::new(3, "moments");
    let (x, y) = (normals::<f64>(stream.child(0), p), normals::<f64>(stream.child(1), p));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let squares: f64 = x.iter().zip(&y).map(|(x, y)| (x * y).powi(2)).sum();
    let variance = (dot(&x, &x) * dot(&y, &y) + dot(&x, &y).powi(2) - 2.0 * squares) / k as f64;
    for slots in [1, 4] {
        let products: Vec<f64> = (0..runs)
            .map(|run| {
                let sjlt = Sjlt::new(p, k, slots, stream.child(10 + run)).unwrap();
                let [x, y] = [&x, &y].map(|x| apply_alloc(&sjlt, MatRef::from_row(x)).unwrap());
                dot(&x, &y)
            })
            .collect();
        expect(&products, dot(&x, &y), "mean");
        let squares: Vec<f64> = products.iter().map(|e| (e - dot(&x, &y)).powi(2)).collect();
        if slots == 1 {
            expect(&squares, variance, "variance");
        } else {
            // With blocks the variance is at most that.
            assert!(squares.iter().sum::<f64>() / runs as f64 <= 1.1 * variance);
        }
    }
    assert_eq!(Sketch::<f64>::gain(&Sjlt::new(p, k, 2, stream).unwrap()), 1.0);
}

#[test]
fn the_entries_are_frozen() {
    let sjlt = Sjlt::new(1 << 40, 1000, 3, Stream::new(7, "golden")).unwrap();
    // From an independent implementation of Philox, of the key and of the layout.
    let golden = [
        (0, [(9, false), (422, false), (791, false)]),
        (1, [(104, false), (399, true), (973, false)]),
        (2, [(13, true), (544, true), (683, false)]),
        (3, [(206, false), (563, false), (849, false)]),
        (4, [(290, true), (417, true), (707, true)]),
        ((1 << 40) - 1, [(139, true), (489, true), (748, true)]),
    ];
    for (coordinate, slots) in golden {
        for (slot, expected) in slots.into_iter().enumerate() {
            let entry = sjlt.entry(coordinate, slot).unwrap();
            assert_eq!((entry.bucket, entry.negative), expected, "coordinate {coordinate}, slot {slot}");
        }
    }
}

#[test]
fn what_is_wrong_is_said_and_nothing_is_written() {
    let stream = Stream::new(0, "errors");
    for (k, slots) in [(0, 1), (4, 0), (4, 5), (1 << 31, 1)] {
        assert!(matches!(Sjlt::new(5, k, slots, stream), Err(Error::Parameter { .. })), "{k} {slots}");
    }
    assert!(matches!(SjltTable::new(4, 0, &[], &[]), Err(Error::Parameter { .. })));
    assert!(matches!(SjltTable::new(4, 2, &[0; 3], &[1; 3]), Err(Error::Shape { .. })));
    assert!(matches!(SjltTable::new(4, 1, &[0; 3], &[1; 2]), Err(Error::Shape { .. })));
    assert_eq!(SjltTable::new(4, 1, &[4], &[1]), Err(Error::Index { what: "bucket", index: 4, len: 4 }));
    assert!(matches!(SjltTable::new(4, 1, &[3], &[0]), Err(Error::Parameter { .. })));
    let huge = Sjlt::new(usize::MAX, 4, 2, stream).unwrap();
    assert!(matches!(SjltTable::draw(&huge), Err(Error::Overflow { .. })));
    assert!(huge.entry(usize::MAX - 1, 1).is_ok() && huge.entry(0, 2).is_err() && huge.entry(usize::MAX, 0).is_err());

    let sjlt = Sjlt::new(5, 4, 1, stream).unwrap();
    let mut out = [7.0_f32; 4];
    assert!(matches!(sjlt.apply_sparse(&mut out, &[1, 1], &[1.0, 1.0]), Err(Error::Duplicate { index: 1, .. })));
    assert!(matches!(sjlt.apply_sparse(&mut out, &[2, 1], &[1.0, 1.0]), Err(Error::Parameter { .. })));
    assert!(matches!(sjlt.apply_sparse(&mut out, &[1, 5], &[1.0, 1.0]), Err(Error::Index { index: 5, len: 5, .. })));
    assert!(matches!(sjlt.apply_sparse(&mut out, &[1], &[]), Err(Error::Shape { .. })));
    let x = [1.0; 5];
    for first in [1, usize::MAX] {
        let result = sjlt.accumulate(MatMut::from_row(&mut out), MatRef::from_row(&x), first, &mut []);
        assert!(matches!(result, Err(Error::Index { .. })));
    }
    let x = [1.0; 20];
    let mut four = [7.0_f32; 16];
    let result = sjlt.apply(MatMut::new(&mut four, 4, 4).unwrap(), MatRef::new(&x, 4, 5).unwrap(), &mut [0.0; 15]);
    assert_eq!(result, Err(Error::Length { what: "scratch", needed: 16, got: 15 }));
    assert!(out.iter().chain(&four).all(|x| *x == 7.0));
}

#[test]
fn stored_rows_are_decoded_rows() {
    let stream = Stream::new(3, "stored");
    for (n, p, k) in [(0, 5, 3), (1, 1, 1), (8, 64, 7), (21, 131, 16)] {
        let sjlt = Sjlt::new(p, k, 2.min(k), stream).unwrap();
        let words: Vec<u16> = (0..n * p).map(|i| stream.words(i as u64, 0)[0] as u16 & 0xbfff).collect();
        let codes: Vec<i8> = words.iter().map(|&word| word as i8).collect();
        let scales: Vec<f32> = (0..n * p.div_ceil(64)).map(|i| 0.5 + i as f32).collect();
        let signs: Vec<u8> = words[..n * p.div_ceil(8)].iter().map(|&word| word as u8).collect();
        let (halves, codes) = (MatRef::new(&words, n, p).unwrap(), MatRef::new(&codes, n, p).unwrap());
        let int8 = Int8Rows::new(codes, MatRef::new(&scales, n, p.div_ceil(64)).unwrap(), 64).unwrap();
        let one_bit = OneBitRows::new(MatRef::new(&signs, n, p.div_ceil(8)).unwrap(), &scales[..n], p).unwrap();
        for rows in
            [StoredRows::F16(halves), StoredRows::Bf16(halves), StoredRows::Int8(int8), StoredRows::OneBit(one_bit)]
        {
            let mut decoded = vec![0.0; n * p];
            rows.decode(MatMut::new(&mut decoded, n, p).unwrap()).unwrap();
            let expected = apply_alloc(&sjlt, MatRef::new(&decoded, n, p).unwrap()).unwrap();
            let mut out = vec![f32::NAN; n * k];
            let view = MatMut::new(&mut out, n, k).unwrap();
            apply_stored_rows(view, &sjlt, rows, Parallelism::threads(2)).unwrap();
            assert_eq!(bits(&out), bits(&expected), "{n} {p} {k}");
            let mut narrow = vec![7.0; n * (k - 1)];
            let narrow = MatMut::new(&mut narrow, n, k - 1).unwrap();
            assert!(matches!(apply_stored_rows(narrow, &sjlt, rows, Parallelism::Serial), Err(Error::Shape { .. })));
        }
    }
}

/// Neither many coordinates of no rows, nor many rows or examples of no elements, are gone through.
#[test]
fn sizes_without_elements_take_no_time() {
    use ascribe_core::record::LayerRecord;
    use ascribe_core::sketch::{FactGrass, Formed, LayerSketch, LoGra, Mask, MaskScale};
    use ascribe_solvers::sketch::{logra_records, sketch_records};
    const MANY: usize = usize::MAX;
    let none = |rows, cols| MatRef::<f64>::new(&[], rows, cols).unwrap();
    let sjlt = Sjlt::new(MANY, 4, 1, Stream::new(0, "sjlt")).unwrap();
    sjlt.apply_transpose(MatMut::new(&mut [], 0, MANY).unwrap(), none(0, 4), &mut []).unwrap();

    let record = LayerRecord::new(MANY, none(0, 0), none(0, 0), None, false).unwrap();
    let out = || MatMut::new(&mut [], MANY, 0).unwrap();
    let mask = || Mask::new(Vec::<usize>::new(), 0, MaskScale::None).unwrap();
    let table = SjltTable::new(0, 1, &[], &[]).unwrap();
    FactGrass::new(mask(), mask(), table).unwrap().sketch(out(), &record, &mut []).unwrap();
    Formed::new(mask()).sketch(out(), &record, &mut []).unwrap();
    let logra = LoGra::new(none(0, 0), none(0, 0)).unwrap();
    logra.sketch(out(), &record, &mut []).unwrap();
    logra_records(out(), &logra, &record, Parallelism::Serial).unwrap();
    sketch_records(out(), &logra, &record, Parallelism::Serial).unwrap();
    apply_rows(out(), &ascribe_core::linop::Identity::new(0), none(MANY, 0), Parallelism::Serial).unwrap();

    let wide = LoGra::new(none(1, 0), none(MANY, 0)).unwrap();
    let record = LayerRecord::new(0, none(0, 0), none(0, 0), None, false).unwrap();
    let refused = logra_records(MatMut::new(&mut [], 0, MANY).unwrap(), &wide, &record, Parallelism::Serial);
    assert!(matches!(refused, Err(Error::Overflow { .. })));
}
