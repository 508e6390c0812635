//! Laws of the Walsh-Hadamard transform and of the sketch that subsamples it.

use ascribe_core::linop::{Adjoint, apply_alloc};
use ascribe_core::random::Stream;
use ascribe_core::sketch::{Rademacher, Scale, Sketch, Srht, walsh_hadamard};
use ascribe_core::{Error, LinOp, MatMut, MatRef, Real};
use ascribe_tests::exact::{Integers, dot};
use ascribe_tests::oracle::{norm, uniform, wide};
use ascribe_tests::tolerance;
use proptest::prelude::*;

/// Row `i` of the transform without its factor.
fn hadamard(i: usize, n: usize) -> Vec<f64> {
    (0..n).map(|j| if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 }).collect()
}

fn transform<T: Real>(x: &[T], rows: usize) -> Vec<T> {
    let mut out = x.to_vec();
    walsh_hadamard(MatMut::new(&mut out, rows, x.len() / rows).unwrap()).unwrap();
    out
}

fn transpose_alloc<T: Real>(op: &Srht, y: &[T]) -> Vec<T> {
    let mut out = vec![T::ONE; LinOp::<T>::dim_in(op)];
    let mut scratch = vec![T::from_f64(f64::NAN); Adjoint::<T>::transpose_scratch_len(op, 1)];
    op.apply_transpose(MatMut::from_row(&mut out), MatRef::from_row(y), &mut scratch).unwrap();
    out
}

fn check_transform<T: Real>(seed: u64, rows: usize, levels: u32) {
    let n = 1 << levels;
    let x: Vec<T> = uniform(Stream::new(seed, "hadamard"), rows * n);
    let y = transform(&x, rows);
    let back = transform(&y, rows);
    let sum = |x: &[f64]| x.iter().map(|x| x.abs()).sum::<f64>();
    for ((x, y), back) in x.chunks(n).zip(y.chunks(n)).zip(back.chunks(n)) {
        let (x, y, back, root) = (wide(x), wide(y), wide(back), (n as f64).sqrt());
        // All elements of short rows, a few of long ones.
        for i in (0..n).step_by(if n <= 64 { 1 } else { n / 4 }).chain([n - 1]) {
            assert!((y[i] - dot(&hadamard(i, n), &x) / root).abs() <= tolerance::hadamard::<T>(n, sum(&x) / root));
        }
        // The error as a vector is at most sqrt(n) times that of an element; the second H leaves its norm.
        let first = tolerance::hadamard::<T>(n, sum(&x));
        assert!((norm(&x) - norm(&y)).abs() <= first);
        let both = first + tolerance::hadamard::<T>(n, sum(&y) / root);
        assert!(x.iter().zip(&back).all(|(x, back)| (x - back).abs() <= both));
    }
}

/// The sketch by its definition.
fn definition(signs: &[i8], rows: &[usize], padded: usize, x: &[f64]) -> Vec<f64> {
    let flipped: Vec<f64> = x.iter().zip(signs).map(|(x, &s)| x * f64::from(s)).collect();
    rows.iter().map(|&row| dot(&hadamard(row, padded)[..x.len()], &flipped) / (rows.len() as f64).sqrt()).collect()
}

fn check_sketch<T: Real>(seed: u64, [n, cols]: [usize; 2], share: f64) {
    let stream = Stream::new(seed, "srht");
    let mut draws = stream.draws();
    let padded = cols.next_power_of_two();
    let mut rows: Vec<usize> = (0..padded).collect();
    draws.shuffle(&mut rows);
    rows.truncate((share * padded as f64) as usize);
    let signs: Vec<i8> = (0..cols).map(|_| if draws.next_u32() & 1 == 1 { 1 } else { -1 }).collect();
    let sketch = Srht::new(&signs, &rows).unwrap();
    assert_eq!((sketch.padded(), sketch.rows()), (padded, &rows[..]));

    let (x, y): (Vec<T>, Vec<T>) = (uniform(stream.child(0), n * cols), uniform(stream.child(1), rows.len()));
    let short = apply_alloc(&sketch, MatRef::new(&x, n, cols).unwrap()).unwrap();
    let factor = 1.0 / (rows.len().max(1) as f64).sqrt();
    for i in 0..n {
        let (x, short) = (wide(&x[i * cols..][..cols]), &short[i * rows.len()..][..rows.len()]);
        let bound = tolerance::hadamard::<T>(padded, factor * x.iter().map(|x| x.abs()).sum::<f64>());
        for (got, want) in short.iter().zip(definition(&signs, &rows, padded, &x)) {
            assert!((got.to_f64() - want).abs() <= bound, "{got} {want}");
        }
    }
    let bound = tolerance::hadamard::<T>(padded, factor * y.iter().map(|y| y.to_f64().abs()).sum::<f64>());
    for (c, got) in transpose_alloc(&sketch, &y).iter().enumerate() {
        let column: Vec<f64> =
            rows.iter().map(|&row| hadamard(row, padded)[c] * f64::from(signs[c]) * factor).collect();
        assert!((got.to_f64() - dot(&column, &wide(&y))).abs() <= bound);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_transform_is_orthonormal_and_its_own_inverse(seed: u64, rows in 1_usize..4, levels in 0_u32..12) {
        check_transform::<f64>(seed, rows, levels);
        check_transform::<f32>(seed, rows, levels);
    }

    #[test]
    fn the_sketch_is_its_definition(seed: u64, n in 1_usize..4, cols in 0_usize..300, share in 0.0..=1.0) {
        check_sketch::<f64>(seed, [n, cols], share);
        check_sketch::<f32>(seed, [n, cols], share);
    }

    /// Whole numbers with a factor that is a power of two: linearity and the independence of rows without rounding.
    #[test]
    fn the_transform_is_linear(seed: u64, levels in 0_u32..6) {
        let (n, mut integers) = (1 << (2 * levels), Integers::new(seed));
        let (x, y): (Vec<f32>, Vec<f32>) = (integers.vector(n), integers.vector(n));
        let sum: Vec<f32> = x.iter().zip(&y).map(|(x, y)| x - 2.0 * y).collect();
        let both = transform(&[x, y].concat(), 2);
        let expected: Vec<f32> = both[..n].iter().zip(&both[n..]).map(|(x, y)| x - 2.0 * y).collect();
        prop_assert_eq!(transform(&sum, 1), expected);
    }
}

/// Beyond the length that is transformed within the cache, for an even and an odd number of levels.
#[test]
fn long_rows() {
    for levels in [12, 13, 14, 15, 17] {
        check_transform::<f32>(3, 1, levels);
        check_transform::<f64>(4, 2, levels);
    }
}

#[test]
fn drawn_signs_and_rows_are_documented() {
    let stream = Stream::new(5, "drawn");
    let sketch = Srht::draw(stream, 300, 40).unwrap();
    let mut rows = vec![0; 40];
    stream.draws().sample_without_replacement(&mut rows, 512).unwrap();
    let mut signs = vec![0.0_f32; 300];
    let matrix = Rademacher::from_key(stream.key(), 1, 300, Scale::None).unwrap();
    matrix.block(MatMut::from_row(&mut signs), 0, 0).unwrap();
    let signs: Vec<i8> = signs.into_iter().map(|sign| sign as i8).collect();
    let given = Srht::new(&signs, &rows).unwrap();
    assert_eq!((given.padded(), given.rows()), (sketch.padded(), sketch.rows()));
    // Signs after the last coordinate may differ; none is used.
    let x: Vec<f64> = uniform(Stream::new(6, "drawn"), 300);
    let apply = |sketch| apply_alloc(sketch, MatRef::from_row(&x)).unwrap();
    assert_eq!(apply(&sketch), apply(&given));
}

#[test]
fn inner_products_in_the_mean() {
    let (runs, cols, rows) = (4000, 40, 16);
    let (x, mut y): (Vec<f64>, Vec<f64>) =
        (uniform(Stream::new(7, "moments"), cols), uniform(Stream::new(8, "moments"), cols));
    y[3] = 4.0;
    let pair = [x.clone(), y.clone()].concat();
    let products: Vec<f64> = (0..runs)
        .map(|run| {
            let sketch = Srht::draw(Stream::new(9, "moments").child(run), cols, rows).unwrap();
            let short = apply_alloc(&sketch, MatRef::new(&pair, 2, cols).unwrap()).unwrap();
            dot(&short[..rows], &short[rows..])
        })
        .collect();
    let runs = products.len();
    let mean = products.iter().sum::<f64>() / runs as f64;
    let variance = products.iter().map(|p| (p - mean).powi(2)).sum::<f64>() / runs as f64;
    assert!((mean - dot(&x, &y)).abs() <= tolerance::monte_carlo(runs, variance.sqrt()), "{mean} {}", dot(&x, &y));
}

#[test]
fn all_rows_are_an_isometry() {
    let x: Vec<f64> = uniform(Stream::new(10, "isometry"), 100);
    let sketch = Srht::draw(Stream::new(11, "isometry"), 100, 128).unwrap();
    assert!(sketch.rows().iter().copied().eq(0..128));
    let y = apply_alloc(&sketch, MatRef::from_row(&x)).unwrap();
    let sum = |x: &[f64]| x.iter().map(|x| x.abs()).sum::<f64>();
    let bound = tolerance::hadamard::<f64>(128, sum(&x));
    assert!((norm(&y) - norm(&x)).abs() <= bound);
    let back = transpose_alloc(&sketch, &y);
    let bound = bound + tolerance::hadamard::<f64>(128, sum(&y) / 128_f64.sqrt());
    assert!(x.iter().zip(&back).all(|(x, b)| (x - b).abs() <= bound));
}

#[test]
fn refusals_and_edges() {
    let mut odd = [1.0; 6];
    for cols in [0, 3, 6] {
        let refused = walsh_hadamard(MatMut::new(&mut odd[..cols], 1, cols).unwrap());
        assert_eq!(refused, Err(Error::Parameter { what: "columns", value: cols as f64, must_be: "a power of two" }));
    }
    assert_eq!(odd, [1.0; 6]);
    let signs = [1, -1, 1];
    assert_eq!(Srht::new(&signs, &[0, 4]), Err(Error::Index { what: "rows", index: 4, len: 4 }));
    assert_eq!(Srht::new(&signs, &[2, 0, 2]), Err(Error::Duplicate { what: "rows", index: 2 }));
    assert!(Srht::new(&[1, 0, 1], &[0]).is_err() && Srht::new(&[1, -128], &[]).is_err());
    assert!(Srht::draw(Stream::new(0, ""), 5, 9).is_err());
    assert!(Srht::draw(Stream::new(0, ""), usize::MAX, 1).is_err());
    assert!(Srht::draw(Stream::new(0, ""), 5, usize::MAX).is_err());

    // No coordinate: padded to one zero. No row: nothing comes out, and the transpose is zero.
    let empty = Srht::new(&[], &[0]).unwrap();
    assert_eq!(apply_alloc(&empty, MatRef::<f64>::new(&[], 2, 0).unwrap()), Ok(vec![0.0; 2]));
    let none = Srht::new(&signs, &[]).unwrap();
    assert_eq!(apply_alloc(&none, MatRef::from_row(&[1.0; 3])), Ok(vec![]));
    assert_eq!(transpose_alloc::<f64>(&none, &[]), [0.0; 3]);
    assert_eq!(Sketch::<f64>::gain(&none), 0.0);

    let (sketch, x, mut out) = (Srht::new(&signs, &[3, 1]).unwrap(), [1.0; 3], [7.0; 2]);
    let short = Err(Error::Length { what: "scratch", needed: 4, got: 3 });
    assert_eq!(sketch.apply(MatMut::from_row(&mut out), MatRef::from_row(&x), &mut [0.0; 3]), short);
    assert!(sketch.apply(MatMut::from_row(&mut out), MatRef::from_row(&x[..2]), &mut [0.0; 4]).is_err());
    assert_eq!(sketch.apply_transpose(MatMut::from_row(&mut [0.0; 3]), MatRef::from_row(&out), &mut [0.0; 3]), short);
    assert_eq!(out, [7.0; 2]);
}

/// Said before there is memory for the rows, which there is not.
#[test]
fn no_more_rows_are_drawn_than_there_are_coordinates() {
    let refused = Srht::draw(Stream::new(0, "srht"), 4, 1 << 50);
    assert_eq!(refused, Err(Error::Length { what: "coordinates to draw from", needed: 1 << 50, got: 4 }));
}
