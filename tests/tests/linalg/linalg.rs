//! Laws of the dense factorisations and of the tiled product: residuals within their bounds, errors with numbers,
//! the same bits for any number of threads, and nothing written outside of a view.

use ascribe_core::random::Stream;
use ascribe_core::view::Operand;
use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};
use ascribe_solvers::Error;
use ascribe_solvers::linalg::{Cholesky, Ldlt, matmul, qr, svd};
use ascribe_solvers::parallel::Parallelism;
use ascribe_tests::exact::Integers;
use ascribe_tests::with_eight_threads;
use ascribe_tests::{oracle, tolerance};
use proptest::prelude::*;

/// What stands before, between and after the rows of a view: no product may read or write it.
const GUARD: f64 = -77.25;

/// A matrix inside a longer slice.
#[derive(Debug, Clone)]
struct Guarded<T> {
    data: Vec<T>,
    shape: [usize; 2],
    gap: usize,
    margin: usize,
}

impl<T: Real> Guarded<T> {
    fn new(rows: usize, cols: usize, gap: usize, mut element: impl FnMut() -> T) -> Self {
        let (stride, margin) = (cols + gap, 3);
        let mut data = vec![T::from_f64(GUARD); rows * stride + 2 * margin];
        for row in 0..rows {
            data[margin + row * stride..][..cols].fill_with(&mut element);
        }
        Self { data, shape: [rows, cols], gap, margin }
    }
    fn stride(&self) -> usize {
        self.shape[1] + self.gap
    }
    fn view(&self) -> MatRef<'_, T> {
        MatRef::with_stride(&self.data[self.margin..], self.shape[0], self.shape[1], self.stride()).unwrap()
    }
    fn view_mut(&mut self) -> MatMut<'_, T> {
        let ([rows, cols], stride) = (self.shape, self.stride());
        MatMut::with_stride(&mut self.data[self.margin..], rows, cols, stride).unwrap()
    }
    fn guards_stand(&self) -> bool {
        let inside = |i: usize| {
            i.checked_sub(self.margin)
                .is_some_and(|i| i / self.stride().max(1) < self.shape[0] && i % self.stride().max(1) < self.shape[1])
        };
        (0..self.data.len()).all(|i| inside(i) || self.data[i] == T::from_f64(GUARD))
    }
}

fn element<T: Real>(x: Operand<'_, T>, i: usize, j: usize) -> f64 {
    if x.transposed { x.mat.row(j)[i].to_f64() } else { x.mat.row(i)[j].to_f64() }
}

#[derive(Debug, Clone, Copy)]
struct Product {
    shape: [usize; 3],
    transposed: [bool; 2],
    gap: usize,
    beta: f64,
    seed: u64,
}

fn product() -> impl Strategy<Value = Product> {
    // 96 is the edge of a tile.
    let size = || prop::sample::select(vec![0, 1, 2, 3, 7, 17, 95, 97]);
    let beta = prop::sample::select(vec![0.0, 1.0, -2.0]);
    let square = [size(), size(), size()].prop_map(|[m, n, k]| (m, n, k));
    // Few columns of long rows: inner products, in tiles of 4 x 4 and vectors of up to 16, from a depth of 128 on.
    let skinny = (
        prop::sample::select(vec![0, 1, 3, 4, 5, 131]),
        1..14_usize,
        prop::sample::select(vec![127, 128, 129, 143, 257]),
    );
    let general = (square, any::<[bool; 2]>());
    let shape = prop_oneof![general, (skinny, Just([false, true]))];
    (shape, 0..3_usize, beta, any::<u64>()).prop_map(|(((m, n, k), transposed), gap, beta, seed)| Product {
        shape: [m, n, k],
        transposed,
        gap,
        beta,
        seed,
    })
}

/// Small integers, whose products and sums are exact: no tolerance.
fn check_product<T: Real>(case: Product) -> Result<(), TestCaseError> {
    let Product { shape: [m, n, k], transposed: [at, bt], gap, beta, seed } = case;
    let mut integers = Integers::new(seed);
    let stored = |rows, cols, transposed| if transposed { [cols, rows] } else { [rows, cols] };
    let ([ar, ac], [br, bc]) = (stored(m, k, at), stored(k, n, bt));
    let a = Guarded::<T>::new(ar, ac, gap, || integers.small());
    let b = Guarded::<T>::new(br, bc, gap, || integers.small());
    let mut out = Guarded::<T>::new(m, n, gap, || if beta == 0.0 { T::from_f64(f64::NAN) } else { integers.small() });
    let before = out.clone();
    let a = Operand { mat: a.view(), transposed: at };
    let b = Operand { mat: b.view(), transposed: bt };
    matmul(out.view_mut(), T::from_f64(beta), T::from_f64(3.0), a, b, Parallelism::threads(2)).unwrap();
    prop_assert!(out.guards_stand());
    for i in 0..m {
        for j in 0..n {
            let sum: f64 = (0..k).map(|l| element(a, i, l) * element(b, l, j)).sum();
            let kept = if beta == 0.0 { 0.0 } else { beta * before.view().row(i)[j].to_f64() };
            prop_assert_eq!(out.view().row(i)[j].to_f64(), kept + 3.0 * sum);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn products_are_exact_on_integers_and_stay_inside_their_view(case in product()) {
        check_product::<f32>(case)?;
        check_product::<f64>(case)?;
    }

    #[test]
    fn a_wrong_shape_leaves_the_output_alone(m in 0..4_usize, n in 0..4_usize, k in 0..4_usize, at in 0..3_usize) {
        let a = vec![1.0; (m + usize::from(at == 0)) * k];
        let b = vec![1.0; (k + usize::from(at == 1)) * n];
        let mut out = vec![7.0; m * (n + usize::from(at == 2))];
        let untouched = out.clone();
        let result = matmul(
            MatMut::new(&mut out, m, n + usize::from(at == 2)).unwrap(),
            0.0,
            1.0,
            MatRef::new(&a, m + usize::from(at == 0), k).unwrap(),
            MatRef::new(&b, k + usize::from(at == 1), n).unwrap(),
            Parallelism::Serial,
        );
        let is_shape = matches!(result, Err(CoreError::Shape { .. }));
        prop_assert!(is_shape, "{:?}", result);
        prop_assert_eq!(out, untouched);
    }
}

/// The result of `f` with one thread has the same bits as with 2, 3 and 8, and is given back.
fn same_bits<T: Real>(f: impl Fn(Parallelism) -> Vec<T> + Sync) -> Vec<T> {
    let serial = f(Parallelism::Serial);
    for threads in [2, 3, 8] {
        let parallel = with_eight_threads(|| f(Parallelism::threads(threads)));
        assert!(parallel == serial, "{threads} threads");
    }
    serial
}

fn check_tiled_product<T: Real>([m, n, k]: [usize; 3]) {
    let stream = Stream::new(1, "tiles");
    let a: Vec<T> = oracle::uniform(stream.child(0), m * k);
    let b: Vec<T> = oracle::uniform(stream.child(1), k * n);
    let (a, b) = (MatRef::new(&a, m, k).unwrap(), MatRef::new(&b, k, n).unwrap());
    let out = same_bits(|par| {
        let mut out = vec![T::ZERO; m * n];
        matmul(MatMut::new(&mut out, m, n).unwrap(), T::ZERO, T::ONE, a, b, par).unwrap();
        out
    });
    let last = (0..m).flat_map(|i| [(i, 0), (i, n - 1)]).chain((0..n).flat_map(|j| [(0, j), (m - 1, j)]));
    for (i, j) in last {
        let products = (0..k).map(|l| a.row(i)[l].to_f64() * b.row(l)[j].to_f64());
        let (sum, absolute) = products.fold((0.0, 0.0), |(sum, absolute), p: f64| (sum + p, absolute + p.abs()));
        let bound = tolerance::matmul::<T>(k, absolute) + tolerance::matmul::<f64>(k, absolute);
        assert!((out[i * n + j].to_f64() - sum).abs() <= bound, "element {i}, {j}");
    }
}

#[test]
fn products_cut_into_tiles_have_the_same_bits_for_any_number_of_threads() {
    // 2^22 multiply-adds make a tile: these are cut into several, by rows and by columns.
    for shape in [[331, 193, 211], [193, 331, 211], [97, 1021, 131]] {
        check_tiled_product::<f32>(shape);
        check_tiled_product::<f64>(shape);
    }
}

#[test]
fn skinny_products_have_the_same_bits_for_any_number_of_threads() {
    let (m, n, k) = (7001, 10, 131);
    let stream = Stream::new(2, "skinny");
    let a: Vec<f32> = oracle::uniform(stream.child(0), m * k);
    let b: Vec<f32> = oracle::uniform(stream.child(1), n * k);
    same_bits(|par| {
        let mut out = vec![0.0; m * n];
        let (a, b) = (MatRef::new(&a, m, k).unwrap(), MatRef::new(&b, n, k).unwrap());
        matmul(MatMut::new(&mut out, m, n).unwrap(), 0.0, 1.0, a, b.t(), par).unwrap();
        out
    });
}

/// A random matrix of this spectrum in `T`, and as the f64 numbers that it holds.
fn symmetric<T: Real>(values: &[f64], seed: u64) -> (Vec<T>, Vec<f64>) {
    let a: Vec<T> = oracle::narrow(&oracle::with_spectrum(values, Stream::new(seed, "symmetric")));
    let wide = oracle::wide(&a);
    (a, wide)
}

fn check_cholesky<T: Real>(n: usize, rows: usize) {
    let (a, wide) = symmetric::<T>(&oracle::spectrum(n, 3.0, 100.0), n as u64);
    let rhs: Vec<T> = oracle::uniform(Stream::new(2, "rhs"), rows * n);
    let x = same_bits(|par| {
        let mut x = rhs.clone();
        let factor = Cholesky::new(a.clone(), n, par).unwrap();
        factor.solve_in_place(MatMut::new(&mut x, rows, n).unwrap(), par).unwrap();
        x
    });
    let trace: f64 = (0..n).map(|i| wide[i * n + i]).sum();
    for (x, v) in x.chunks_exact(n.max(1)).zip(rhs.chunks_exact(n.max(1))) {
        let x = oracle::wide(x);
        let residual = oracle::norm(&oracle::minus(&oracle::mat_vec(&wide, n, &x), &oracle::wide(v)));
        assert!(residual <= tolerance::cholesky::<T>(n, trace, oracle::norm(&x)), "n = {n}: {residual}");
    }
}

#[test]
fn cholesky_solves_within_its_bound_around_blocks_and_strips() {
    // Strips of 128 rows, blocks of 256 columns.
    for n in [0, 1, 2, 3, 17, 127, 129, 255, 256, 257, 389] {
        for rows in [1, 5] {
            check_cholesky::<f64>(n, rows);
            check_cholesky::<f32>(n, rows);
        }
    }
    check_cholesky::<f64>(31, 129);
    check_cholesky::<f64>(31, 0);
}

#[test]
fn cholesky_reads_the_lower_triangle_and_knows_the_determinant() {
    let n = 131;
    let values = oracle::spectrum(n, 2.0, 50.0);
    let (mut a, wide) = symmetric::<f64>(&values, 3);
    let log_det: f64 = values.iter().map(|x| x.ln()).sum();
    for i in 0..n {
        a[i * n + i + 1..(i + 1) * n].fill(f64::NAN);
    }
    let factor = Cholesky::new(a, n, Parallelism::Serial).unwrap();
    // Each pivot is relatively accurate to the backward error times the condition.
    let trace: f64 = (0..n).map(|i| wide[i * n + i]).sum();
    let bound = n as f64 * tolerance::cholesky::<f64>(n, trace, 50.0 / 2.0);
    assert!((factor.log_det() - log_det).abs() <= bound);
    assert_eq!(factor.dim(), n);
}

#[test]
fn cholesky_names_the_pivot_that_is_not_positive() {
    for (n, bad) in [(1, 0), (5, 3), (300, 0), (300, 255), (300, 256), (300, 299)] {
        for value in [0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut a: Vec<f64> = (0..n * n).map(|i| if i % (n + 1) == 0 { 2.0 } else { 0.0 }).collect();
            a[bad * n + bad] = value;
            let result = Cholesky::new(a, n, Parallelism::threads(2));
            assert_eq!(result.err(), Some(Error::NotPositiveDefinite { pivot: bad }), "{value} in row {bad} of {n}");
        }
        // NaN beside the diagonal reaches the pivot of its row.
        if bad > 0 {
            let mut a: Vec<f64> = (0..n * n).map(|i| if i % (n + 1) == 0 { 2.0 } else { 0.0 }).collect();
            a[bad * n] = f64::NAN;
            let result = Cholesky::new(a, n, Parallelism::Serial);
            assert_eq!(result.err(), Some(Error::NotPositiveDefinite { pivot: bad }));
        }
    }
    assert!(matches!(Cholesky::new(vec![1.0; 3], 2, Parallelism::Serial), Err(Error::Core(CoreError::Shape { .. }))));
    assert!(Cholesky::new(Vec::<f64>::new(), usize::MAX, Parallelism::Serial).is_err());
}

#[test]
fn cholesky_solves_strided_rows_and_leaves_the_gaps() {
    let n = 5;
    let (a, wide) = symmetric::<f64>(&oracle::spectrum(n, 3.0, 10.0), 9);
    let mut values = oracle::uniform::<f64>(Stream::new(4, "rhs"), 3 * n).into_iter();
    let mut rhs = Guarded::new(3, n, 2, || values.next().unwrap());
    let before = rhs.clone();
    Cholesky::new(a, n, Parallelism::Serial).unwrap().solve_in_place(rhs.view_mut(), Parallelism::threads(2)).unwrap();
    assert!(rhs.guards_stand());
    for i in 0..3 {
        let x = rhs.view().row(i);
        let residual = oracle::norm(&oracle::minus(&oracle::mat_vec(&wide, n, x), before.view().row(i)));
        assert!(residual <= tolerance::cholesky::<f64>(n, 15.0, oracle::norm(x)));
    }
}

#[test]
fn bunch_kaufman_solves_indefinite_systems() {
    for n in [0, 1, 2, 3, 13, 61, 131] {
        let mut values = oracle::spectrum(n, 2.0, 100.0);
        values.iter_mut().step_by(2).for_each(|x| *x = -*x);
        let (mut a, wide) = symmetric::<f64>(&values, n as u64);
        for i in 0..n {
            a[i * n + i + 1..(i + 1) * n].fill(3.5);
        }
        let v: Vec<f64> = oracle::uniform(Stream::new(5, "rhs"), 2 * n);
        let mut x = v.clone();
        let ldlt = Ldlt::new(MatRef::new(&a, n, n).unwrap()).unwrap();
        ldlt.solve_in_place(MatMut::new(&mut x, 2, n).unwrap()).unwrap();
        for (x, v) in x.chunks_exact(n.max(1)).zip(v.chunks_exact(n.max(1))) {
            let residual = oracle::norm(&oracle::minus(&oracle::mat_vec(&wide, n, x), v));
            let bound = tolerance::orthogonal_factor(n, n, f64::EPSILON) * oracle::norm(&wide) * oracle::norm(x);
            assert!(residual <= bound, "n = {n}: {residual} > {bound}");
        }
    }
    // Pivots of two rows: a zero diagonal.
    let mut x = [1.0, 2.0];
    let swap = Ldlt::new(MatRef::new(&[0.0, 0.0, 1.0, 0.0], 2, 2).unwrap()).unwrap();
    swap.solve_in_place(MatMut::from_row(&mut x)).unwrap();
    assert_eq!(x, [2.0, 1.0]);
}

#[test]
fn bunch_kaufman_refuses_what_it_cannot_solve() {
    let nan = Ldlt::new(MatRef::new(&[1.0, 0.0, f64::NAN, 1.0], 2, 2).unwrap());
    assert!(matches!(nan, Err(Error::Core(CoreError::NonFinite { .. }))));
    assert!(matches!(Ldlt::new(MatRef::new(&[1.0; 2], 1, 2).unwrap()), Err(Error::Core(CoreError::Shape { .. }))));
    for n in [1, 2, 5] {
        let zero = vec![0.0; n * n];
        let singular = Ldlt::new(MatRef::new(&zero, n, n).unwrap()).unwrap();
        let mut x = vec![1.0; n];
        let result = singular.solve_in_place(MatMut::from_row(&mut x));
        assert!(matches!(result, Err(Error::NoConvergence { .. })), "{result:?}");
        let shape = singular.solve_in_place(MatMut::from_row(&mut [1.0; 7]));
        assert!(matches!(shape, Err(Error::Core(CoreError::Shape { .. }))));
    }
}

/// `max |Q^T Q - I|` of the columns of a row-major `[m, k]` matrix.
fn orthonormality(q: &[f64], m: usize, k: usize) -> f64 {
    let column = |j: usize| (0..m).map(|i| q[i * k + j]).collect::<Vec<_>>();
    let pairs = (0..k).flat_map(|j| (0..=j).map(move |l| (j, l)));
    pairs.map(|(j, l)| (oracle::dot(&column(j), &column(l)) - f64::from(u8::from(j == l))).abs()).fold(0.0, f64::max)
}

/// `|A - left right|`, with `left` `[m, k]` and `right` `[k, n]`.
fn factor_error(a: &[f64], left: &[f64], right: &[f64], [m, k, n]: [usize; 3]) -> f64 {
    let product = |i: usize, j: usize| (0..k).map(|l| left[i * k + l] * right[l * n + j]).sum::<f64>();
    let parts: Vec<f64> = (0..m * n).map(|e| a[e] - product(e / n, e % n)).collect();
    oracle::norm(&parts)
}

fn check_rectangular<T: Real>(a: &[T], m: usize, n: usize) {
    let (k, wide) = (m.min(n), oracle::wide(a));
    let bound = tolerance::orthogonal_factor(m, n, T::EPSILON.to_f64());
    let view = MatRef::new(a, m, n).unwrap();
    let found = qr(view).unwrap();
    let (q, r) = (oracle::wide(&found.q), oracle::wide(&found.r));
    assert_eq!((q.len(), r.len()), (m * k, k * n));
    assert!(orthonormality(&q, m, k) <= bound, "Q of {m} x {n}");
    assert!(factor_error(&wide, &q, &r, [m, k, n]) <= bound * oracle::norm(&wide), "QR of {m} x {n}");
    assert!((0..k).all(|i| r[i * n..i * n + i].iter().all(|&x| x == 0.0)), "R of {m} x {n}");

    let found = svd(view).unwrap();
    let (u, s, v) = (oracle::wide(&found.u), oracle::wide(&found.s), oracle::wide(&found.v));
    assert_eq!((u.len(), s.len(), v.len()), (m * k, k, n * k));
    assert!(s.is_sorted_by(|a, b| a >= b) && s.iter().all(|&s| s >= 0.0), "{s:?}");
    assert!(orthonormality(&u, m, k) <= bound && orthonormality(&v, n, k) <= bound, "U, V of {m} x {n}");
    let right: Vec<f64> = (0..k * n).map(|e| s[e / n] * v[e % n * k + e / n]).collect();
    assert!(factor_error(&wide, &u, &right, [m, k, n]) <= bound * oracle::norm(&wide), "SVD of {m} x {n}");
}

#[test]
fn rectangular_factorisations_rebuild_the_matrix() {
    for (m, n) in [(0, 0), (0, 3), (3, 0), (1, 1), (1, 7), (7, 1), (5, 3), (3, 5), (31, 31), (67, 29), (29, 67)] {
        let a: Vec<f64> = oracle::uniform(Stream::new(8, "rectangle"), m * n);
        check_rectangular(&a, m, n);
        check_rectangular(&oracle::narrow::<f32>(&a), m, n);
        check_rectangular(&vec![0.0; m * n], m, n);
        check_rectangular(&vec![2.0_f32; m * n], m, n);
    }
    // Squares beyond the largest number: a finite result or an error, never NaN with `Ok`.
    for m in [1, 2, 5] {
        let a: Vec<f64> = oracle::uniform(Stream::new(8, "extreme"), 3 * m);
        let scaled = |by: f64| a.iter().map(|x| x * by).collect::<Vec<f64>>();
        check_rectangular(&scaled(1e-140), m, 3);
        check_rectangular(&scaled(1e140), m, 3);
        for by in [1e-300, 1e300, f64::MAX] {
            let a = scaled(by);
            let a = MatRef::new(&a, m, 3).unwrap();
            let finite = |parts: &[&[f64]]| parts.iter().all(|part| part.iter().all(|x| x.is_finite()));
            assert!(svd(a).map_or(by > 1.0, |x| finite(&[&x.u, &x.s, &x.v])), "SVD of {m} x 3, {by:e}");
            assert!(qr(a).map_or(by > 1.0, |x| finite(&[&x.q, &x.r])), "QR of {m} x 3, {by:e}");
        }
    }
    let nan = MatRef::new(&[1.0, f64::NAN], 1, 2).unwrap();
    assert!(matches!(qr(nan), Err(Error::Core(CoreError::NonFinite { .. }))));
    assert!(matches!(svd(nan), Err(Error::Core(CoreError::NonFinite { .. }))));
}

#[test]
fn factorisations_of_strided_views_read_the_elements_alone() {
    let mut values = oracle::uniform::<f64>(Stream::new(8, "strided"), 15).into_iter();
    let a = Guarded::new(5, 3, 4, || values.next().unwrap());
    let packed: Vec<f64> = a.view().row_iter().flatten().copied().collect();
    let packed = MatRef::new(&packed, 5, 3).unwrap();
    let (strided, plain) = (qr(a.view()).unwrap(), qr(packed).unwrap());
    assert_eq!((strided.q, strided.r), (plain.q, plain.r));
    assert_eq!(svd(a.view()).unwrap().s, svd(packed).unwrap().s);
}

#[test]
fn factorisations_do_not_step_over_rows_without_elements() {
    let none = MatRef::<f64>::new(&[], usize::MAX, 0).unwrap();
    assert!(qr(none).unwrap().r.is_empty() && svd(none).unwrap().s.is_empty());
}
