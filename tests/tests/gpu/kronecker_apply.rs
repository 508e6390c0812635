//! A function of the curvature in its eigenform, against the same products in f64.

use ascribe_core::random::Stream;
use ascribe_core::{Error as CoreError, MatRef};
use ascribe_gpu::{EigenFunction, Error, Gpu, Matrix};
use ascribe_tests::tolerance;
use proptest::prelude::*;

use crate::common::tiles;
use crate::devices;

fn normals(stream: Stream, len: usize) -> Vec<f32> {
    (0..len).map(|i| stream.normals(i as u64, 0)[0] as f32).collect()
}

fn upload(gpu: &Gpu, x: &[f32], rows: usize, cols: usize) -> Matrix<f32> {
    gpu.upload(MatRef::new(x, rows, cols).unwrap()).unwrap()
}

/// A number and the sum of the magnitudes that went into it.
type Sum = (f64, f64);

/// `A B`, or `A^T B`, of numbers with their magnitudes; `None` for the identity.
fn times_left(a: Option<&[f32]>, b: &[Sum], [rows, cols]: [usize; 2], transposed: bool) -> Vec<Sum> {
    let Some(a) = a else { return b.to_vec() };
    let element = |i: usize, j: usize| {
        let terms =
            (0..rows).map(|k| (f64::from(if transposed { a[k * rows + i] } else { a[i * rows + k] }), b[k * cols + j]));
        terms.fold((0.0, 0.0), |(s, t), (a, (b, c))| (s + a * b, t + a.abs() * c))
    };
    (0..rows * cols).map(|at| element(at / cols, at % cols)).collect()
}

fn transpose(x: &[Sum], [rows, cols]: [usize; 2]) -> Vec<Sum> {
    (0..rows * cols).map(|at| x[at % rows * cols + at / rows]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn within_the_bound_of_four_products(
        n in prop::sample::select(vec![0, 1, 2, 5]),
        rows in prop::sample::select(vec![1, 2, 5, 13, 16]),
        cols in prop::sample::select(vec![1, 3, 4, 11, 16]),
        units in any::<[bool; 2]>(), seed in any::<u64>(),
    ) {
        let stream = Stream::new(seed, "kronecker");
        let (left, right) = (normals(stream.child(0), rows * rows), normals(stream.child(1), cols * cols));
        let (multipliers, v) = (normals(stream.child(2), rows * cols), normals(stream.child(3), n * rows * cols));
        let (left_basis, right_basis) = ((!units[0]).then_some(&left[..]), (!units[1]).then_some(&right[..]));
        for gpu in devices() {
            let basis = |x: Option<&[f32]>, dim| x.map(|x| upload(gpu, x, dim, dim));
            let (l, r) = (basis(left_basis, rows), basis(right_basis, cols));
            let function = EigenFunction::new(l, r, upload(gpu, &multipliers, rows, cols)).unwrap();
            let v_device = upload(gpu, &v, n, rows * cols);
            let mut recorder = gpu.record();
            let y = recorder.kronecker_apply(&function, &v_device).unwrap();
            prop_assert_eq!(recorder.cost(), function.cost(n));
            let y = recorder.download(&y).unwrap();
            let counters = recorder.submit().unwrap().counters();
            if gpu.capabilities().max_workgroups >= 1 << 10 && n > 0 {
                let [left, right] = units.map(|units| 2 * u64::from(!units));
                prop_assert_eq!(counters.dispatches, left.max(1) + right);
            }
            let y = y.wait().unwrap();
            prop_assert_eq!(y.len(), n * rows * cols);
            for (got, v) in y.chunks(rows * cols).zip(v.chunks(rows * cols)) {
                let shape = [rows, cols];
                let turned = [cols, rows];
                let v: Vec<Sum> = v.iter().map(|&x| (f64::from(x), f64::from(x).abs())).collect();
                let v = transpose(&times_left(right_basis, &transpose(&v, shape), turned, true), turned);
                let mut v = times_left(left_basis, &v, shape, true);
                for ((x, size), &m) in v.iter_mut().zip(&multipliers) {
                    *x *= f64::from(m);
                    *size *= f64::from(m).abs();
                }
                let v = times_left(left_basis, &v, shape, false);
                let v = transpose(&times_left(right_basis, &transpose(&v, shape), turned, false), turned);
                for (got, (expected, absolute)) in got.iter().zip(v) {
                    let error = (f64::from(*got) - expected).abs();
                    prop_assert!(error <= tolerance::device_kronecker(rows, cols, absolute), "{got} for {expected}");
                }
            }
        }
    }
}

/// Many gradients keep a device as busy as a large one, but a tile is no larger than they can fill.
#[test]
fn many_gradients_have_a_large_tile() {
    let Some(gpu) = devices().first() else { return };
    for (n, rows, cols, tile) in
        [(1, 128, 64, [8, 4, 16]), (256, 128, 64, [16, 16, 16]), (256, 64, 64, [16, 8, 16]), (256, 16, 16, [8, 4, 16])]
    {
        let mut recorder = gpu.record();
        let (left, multipliers) = (recorder.zeros(rows, rows).unwrap(), recorder.zeros(rows, cols).unwrap());
        let function = EigenFunction::new(Some(left), None, multipliers).unwrap();
        let v = recorder.zeros(n, rows * cols).unwrap();
        recorder.kronecker_apply(&function, &v).unwrap();
        assert_eq!(tiles(&recorder, "kronecker_apply"), [tile; 2], "{n} gradients");
    }
}

#[test]
fn wrong_arguments() {
    let [one, other, ..] = devices() else { return };
    let zeros = |gpu: &Gpu, rows: usize, cols: usize| upload(gpu, &vec![0.0; rows * cols], rows, cols);
    let shape = |what, expected, got| Error::Core(CoreError::Shape { what, expected, got });
    let error = EigenFunction::new(Some(zeros(one, 2, 3)), None, zeros(one, 3, 4)).unwrap_err();
    assert_eq!(error, shape("left basis", 3, 2));
    let error = EigenFunction::new(None, Some(zeros(one, 4, 3)), zeros(one, 3, 4)).unwrap_err();
    assert_eq!(error, shape("right basis", 4, 3));
    assert_eq!(EigenFunction::new(Some(zeros(other, 3, 3)), None, zeros(one, 3, 4)).unwrap_err(), Error::Foreign);
    let error = EigenFunction::new(Some(zeros(other, 17, 17)), None, zeros(other, 17, 2)).unwrap_err();
    assert_eq!(error, Error::Limit { what: "bytes of the left basis", needed: 1156, limit: 1024 });
    let function = EigenFunction::new(None, None, zeros(one, 3, 4)).unwrap();
    let error = one.record().kronecker_apply(&function, &zeros(one, 2, 11)).unwrap_err();
    assert_eq!(error, shape("gradient columns", 12, 11));
    assert_eq!(one.record().kronecker_apply(&function, &zeros(other, 2, 12)).unwrap_err(), Error::Foreign);
    assert_eq!(other.record().kronecker_apply(&function, &zeros(other, 2, 12)).unwrap_err(), Error::Foreign);
}
