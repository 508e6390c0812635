//! Laws of inverse roots and of the polar factor: residuals, agreement of the routes, and what is refused.

use ascribe_core::random::Stream;
use ascribe_core::{Error as CoreError, MatMut, MatRef};
use ascribe_solvers::Error;
use ascribe_solvers::linalg::{svd, symmetric_eigen};
use ascribe_solvers::parallel::Parallelism::{self, Serial};
use ascribe_solvers::precondition::{
    CoupledNewton, Orthogonalize, Polynomials, RefinedEigenbasis, coupled_inverse_root, inverse_root,
    inverse_root_residual, pseudo_inverse_root,
};
use ascribe_tests::{oracle, tolerance};
use proptest::prelude::*;

fn basis(n: usize, seed: u64) -> Vec<f64> {
    oracle::orthogonal(n, Stream::new(seed, "basis"))
}

/// `Q diag(values) Q^T`.
fn matrix(q: &[f64], values: &[f64]) -> Vec<f64> {
    let n = values.len();
    let element = |at: usize| (0..n).map(|k| q[at / n * n + k] * values[k] * q[at % n * n + k]).sum();
    (0..n * n).map(element).collect()
}

fn conditioned(n: usize, condition: f64, seed: u64) -> Vec<f64> {
    oracle::with_spectrum(&oracle::spectrum(n, 1.0, condition), Stream::new(seed, "matrix"))
}

fn distance(x: &[f64], y: &[f64]) -> f64 {
    oracle::norm(&oracle::minus(x, y))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn the_root_inverts(
        n in prop::sample::select(vec![0_usize, 1, 2, 3, 7, 13, 31]),
        p in 1..6_u32,
        decades in 0..7_i32,
        seed in any::<u64>(),
    ) {
        let condition = 10_f64.powi(decades);
        let a = conditioned(n, condition, seed);
        let view = MatRef::new(&a, n, n).unwrap();
        let x = inverse_root(view, f64::from(p), 0.0, Serial).unwrap();
        let residual = inverse_root_residual(&x, view, p, 0.0, Serial).unwrap();
        let bound = tolerance::inverse_root(n, p, condition);
        prop_assert!(residual <= bound, "{residual:e} > {bound:e}");
        // Threads change no bit, and a negative p is the power itself.
        prop_assert_eq!(&inverse_root(view, f64::from(p), 0.0, Parallelism::threads(2)).unwrap(), &x);
        let same = inverse_root(view, -1.0, 0.0, Serial).unwrap();
        prop_assert!(distance(&same, &a) <= tolerance::inverse_root(n, 1, 1.0) * (1.0 + oracle::norm(&a)));
    }

    #[test]
    fn the_coupled_iteration_agrees_and_says_how_well(
        n in prop::sample::select(vec![1_usize, 2, 5, 11, 17]),
        p in 1..7_u32,
        order in 2..5_usize,
        decades in 0..5_i32,
        seed in any::<u64>(),
    ) {
        let condition = 10_f64.powi(decades);
        let a = conditioned(n, condition, seed);
        let view = MatRef::new(&a, n, n).unwrap();
        let newton = CoupledNewton { order, tolerance: 1e-8, ..CoupledNewton::default() };
        let x = coupled_inverse_root(&newton, view, p, 0.0, Serial).unwrap();
        prop_assert!(x.iterations < 100, "{:?}", x);
        // The residual is of the root that is returned.
        let own = inverse_root_residual(&x.root, view, p, 0.0, Serial).unwrap();
        prop_assert_eq!(own, x.residual);
        let rounding = tolerance::inverse_root(n, p, condition);
        prop_assert!(x.residual <= 1e-8 + x.iterations as f64 * rounding, "{:?}", x);
        let exact = inverse_root(view, f64::from(p), 0.0, Serial).unwrap();
        let bound = tolerance::root_of_residual(n, x.residual, rounding) * oracle::norm(&exact);
        prop_assert!(distance(&x.root, &exact) <= bound, "{:e} > {bound:e}", distance(&x.root, &exact));
    }

    #[test]
    fn the_pseudo_inverse_root_is_zero_off_the_range(n in 1..12_usize, rank in 0..12_usize, seed in any::<u64>()) {
        let rank = rank.min(n);
        let q = basis(n, seed);
        let values: Vec<f64> = (0..n).map(|i| if i < rank { 4.0 + i as f64 } else { 0.0 }).collect();
        let a = matrix(&q, &values);
        let x = pseudo_inverse_root(MatRef::new(&a, n, n).unwrap(), 2.0, 1e-9, Serial).unwrap();
        let roots: Vec<f64> = values.iter().map(|v| if *v > 0.0 { v.powf(-0.5) } else { 0.0 }).collect();
        // Two gaps from zero and a condition below 4 on the range.
        prop_assert!(distance(&x, &matrix(&q, &roots)) <= tolerance::inverse_root(n, 2, 4.0) * (n as f64).sqrt());
    }

    #[test]
    fn a_refined_basis_is_orthonormal_and_nearer(n in 2..12_usize, seed in any::<u64>()) {
        let a = conditioned(n, 100.0, seed);
        let view = MatRef::new(&a, n, n).unwrap();
        let start = symmetric_eigen(view, Serial).unwrap();
        // The matrix moves on by a little.
        let step = conditioned(n, 10.0, seed ^ 1);
        let moved: Vec<f64> = a.iter().zip(&step).map(|(a, s)| 0.97 * a + 0.03 * s).collect();
        let view = MatRef::new(&moved, n, n).unwrap();
        let refine = |max_iterations| {
            let options = RefinedEigenbasis { tolerance: 0.0, max_iterations };
            options.refine(view, Some(&start.vectors), Serial).unwrap()
        };
        let off = |max_iterations| {
            let eigen = refine(max_iterations);
            let (norm, own) = (oracle::norm(&moved), oracle::norm(&eigen.values));
            ((norm * norm - own * own).max(0.0).sqrt(), eigen.orthogonality(Serial).unwrap())
        };
        let (before, _) = off(0);
        let (after, defect) = off(200);
        // QR iteration converges; the difference of squares is as good as the root of rounding.
        let rounding = (tolerance::symmetric_eigen(n) * 200.0).sqrt() * oracle::norm(&moved);
        prop_assert!(after <= 0.9 * before + rounding, "{before:e} to {after:e}");
        prop_assert!(defect <= 200.0 * tolerance::symmetric_eigen(n), "{defect:e}");
        // A basis that passes is left alone.
        let loose = RefinedEigenbasis { tolerance: 10.0, max_iterations: 5 };
        prop_assert_eq!(loose.refine(view, Some(&start.vectors), Serial).unwrap().vectors, start.vectors);
    }

    #[test]
    fn the_polar_factor_has_singular_values_of_one(
        (m, n) in (1..9_usize, 1..9_usize),
        scheme in prop::sample::select(vec![
            (Polynomials::PolarExpress, 14, 3e5), (Polynomials::Cubic, 20, 4e3), (Polynomials::Quintic, 14, 7e3),
            // Its rounding grows too fast to go on from a zero until it has converged.
            (Polynomials::QuinticFast, 60, f64::INFINITY),
        ]),
        zero in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let ((polynomials, steps, growth), k) = (scheme, m.min(n));
        let zero = zero && growth < 1e6;
        // U diag(s) V^T with s from 1 to 1/8 and perhaps one zero.
        let (u, v) = (basis(m, seed), basis(n, seed ^ 1));
        let s: Vec<f64> = (0..k).map(|i| if zero && i + 1 == k { 0.0 } else { 8_f64.powf(-(i as f64) / k as f64) }).collect();
        let product = |s: &[f64]| -> Vec<f64> {
            (0..m * n).map(|at| (0..k).map(|i| u[at / n * m + i] * s[i] * v[at % n * n + i]).sum()).collect()
        };
        let g = product(&s);
        let options = Orthogonalize { polynomials, steps, norm_epsilon: 0.0, ..Orthogonalize::default() };
        let mut x = vec![0.0; m * n];
        options.apply(MatMut::new(&mut x, m, n).unwrap(), MatRef::new(&g, m, n).unwrap(), Serial).unwrap();
        let expected = product(&s.iter().map(|s| if *s > 0.0 { 1.0 } else { 0.0 }).collect::<Vec<_>>());
        // Small errors grow as singular values do until they are 1; along a zero, by the product of the first coefficients.
        let bound = tolerance::polar(k, m.max(n), steps, if zero { growth } else { 8.0 * (k as f64).sqrt() });
        prop_assert!(distance(&x, &expected) <= bound, "{:e} > {bound:e}", distance(&x, &expected));

        // The transpose of a matrix has the transposed factor, bit for bit where one of them is wide.
        let transposed: Vec<f64> = (0..m * n).map(|at| g[at % m * n + at / m]).collect();
        let mut y = vec![0.0; m * n];
        options.apply(MatMut::new(&mut y, n, m).unwrap(), MatRef::new(&transposed, n, m).unwrap(), Serial).unwrap();
        let back: Vec<f64> = (0..m * n).map(|at| y[at % n * m + at / n]).collect();
        prop_assert!(distance(&x, &back) <= 2.0 * bound);
    }
}

#[test]
fn muon_brings_singular_values_near_one_without_converging() {
    let (m, n) = (12, 5);
    let g: Vec<f64> = oracle::uniform(Stream::new(3, "muon"), m * n);
    let mut x = vec![0.0; m * n];
    let (out, view) = (MatMut::new(&mut x, m, n).unwrap(), MatRef::new(&g, m, n).unwrap());
    Orthogonalize::muon().apply(out, view, Serial).unwrap();
    let scale = (m as f64 / n as f64).sqrt();
    let s = svd(MatRef::new(&x, m, n).unwrap()).unwrap().s;
    assert!(s.iter().all(|s| (0.65..1.3).contains(&(s / scale))), "{s:?}");
    assert!(s.iter().any(|s| (s / scale - 1.0).abs() > 0.01), "{s:?}");
}

#[test]
fn what_has_no_root_is_refused() {
    let square = |x: &'static [f64; 4]| MatRef::new(x, 2, 2).unwrap();
    let (good, singular, indefinite) = (&[2.0, 1.0, 1.0, 2.0], &[1.0, 1.0, 1.0, 1.0], &[0.0, 1.0, 1.0, 0.0]);
    let parameter = |e: Error| matches!(e, Error::Core(CoreError::Parameter { .. }));
    for p in [0.0, f64::NAN, f64::INFINITY] {
        assert!(parameter(inverse_root(square(good), p, 0.0, Serial).unwrap_err()));
        assert!(parameter(pseudo_inverse_root(square(good), p, 0.0, Serial).unwrap_err()));
    }
    for bad in [-1.0, f64::NAN] {
        assert!(parameter(inverse_root(square(good), 2.0, bad, Serial).unwrap_err()));
        assert!(parameter(pseudo_inverse_root(square(good), 2.0, bad, Serial).unwrap_err()));
        let newton = CoupledNewton::default();
        assert!(parameter(coupled_inverse_root(&newton, square(good), 2, bad, Serial).unwrap_err()));
        let refined = RefinedEigenbasis { tolerance: bad, ..RefinedEigenbasis::default() };
        assert!(parameter(refined.refine(square(good), None, Serial).unwrap_err()));
    }
    let zero = MatRef::new(&[0.0], 1, 1).unwrap();
    assert!(matches!(
        inverse_root(zero, 2.0, 0.0, Serial).unwrap_err(),
        Error::Core(CoreError::Singular { index: 0, .. })
    ));
    assert_eq!(pseudo_inverse_root(zero, 2.0, 0.0, Serial).unwrap(), [0.0]);
    // The negative eigenvalue is shifted to epsilon.
    let shifted = inverse_root(square(indefinite), 1.0, 0.5, Serial).unwrap();
    assert!((shifted[0] - 1.2).abs() < 1e-14, "{shifted:?}");

    let newton = CoupledNewton::default();
    let coupled = |a, p, options: &CoupledNewton| coupled_inverse_root(options, a, p, 0.0, Serial);
    assert!(parameter(coupled(square(good), 0, &newton).unwrap_err()));
    assert!(parameter(coupled(square(good), 2, &CoupledNewton { order: 1, ..newton }).unwrap_err()));
    assert!(matches!(coupled(zero, 2, &newton).unwrap_err(), Error::Core(CoreError::Singular { .. })));
    // Never an identity: a root of a singular matrix is none, and the residual says so.
    let report = coupled(square(singular), 2, &newton);
    assert!(report.is_err() || report.unwrap().residual > 0.1);
    let report = coupled(square(good), 3, &CoupledNewton { max_iterations: 0, ..newton }).unwrap();
    assert!(report.iterations == 0 && report.residual > 0.1);

    for bad in [f64::NAN, f64::INFINITY] {
        let a = [1.0, bad, bad, 1.0];
        let a = MatRef::new(&a, 2, 2).unwrap();
        let non_finite = |e: Error| matches!(e, Error::Core(CoreError::NonFinite { .. }));
        assert!(non_finite(inverse_root(a, 2.0, 0.0, Serial).unwrap_err()));
        assert!(non_finite(coupled_inverse_root(&newton, a, 2, 0.0, Serial).unwrap_err()));
        let mut out = [7.0; 4];
        let result = Orthogonalize::default().apply(MatMut::new(&mut out, 2, 2).unwrap(), a, Serial);
        assert!(non_finite(result.unwrap_err()) && out == [7.0; 4]);
    }
    let wide = MatRef::new(&[1.0, 2.0], 1, 2).unwrap();
    assert!(matches!(inverse_root(wide, 2.0, 0.0, Serial).unwrap_err(), Error::Core(CoreError::Shape { .. })));
    let mut out = [7.0; 2];
    let none = Orthogonalize { polynomials: Polynomials::Custom(&[]), ..Orthogonalize::default() };
    let empty = none.apply(MatMut::new(&mut out, 1, 2).unwrap(), wide, Serial).unwrap_err();
    assert!(matches!(empty, Error::Core(CoreError::Empty { .. })));
    let wild = [[1e200, 1e200, 1e200]];
    let wild = Orthogonalize { polynomials: Polynomials::Custom(&wild), ..Orthogonalize::default() };
    let diverged = wild.apply(MatMut::new(&mut out, 1, 2).unwrap(), wide, Serial).unwrap_err();
    assert!(matches!(diverged, Error::Diverged { .. }) && out == [7.0; 2]);
    // Zero and huge matrices are normalised like any other.
    for scale in [0.0, 1e-300, 1e300, f64::MAX] {
        let g = [scale, 0.0, 0.0, scale];
        let mut out = [7.0; 4];
        let options = Orthogonalize { norm_epsilon: 0.0, ..Orthogonalize::default() };
        options.apply(MatMut::new(&mut out, 2, 2).unwrap(), MatRef::new(&g, 2, 2).unwrap(), Serial).unwrap();
        let expected = if scale == 0.0 { 0.0 } else { 1.0 };
        assert!((out[0] - expected).abs() < 1e-6 && out[1] == 0.0, "{scale:e}: {out:?}");
    }
}

/// Each term of the series is a product: with the largest order there is, one step takes a moment.
#[test]
fn the_order_of_a_coupled_iteration_is_bounded() {
    let good = [1.0, 0.0, 0.0, 4.0];
    for (order, fits) in [(CoupledNewton::MAX_ORDER, true), (CoupledNewton::MAX_ORDER + 1, false), (usize::MAX, false)]
    {
        let newton = CoupledNewton { order, ..CoupledNewton::default() };
        let root = coupled_inverse_root(&newton, MatRef::new(&good, 2, 2).unwrap(), 2, 0.0, Serial);
        match root {
            Ok(root) => assert!(fits && (root.root[3] - 0.5).abs() < 1e-6),
            Err(error) => {
                assert!(!fits && matches!(error, Error::Core(CoreError::Parameter { what: "order", .. })), "{error}");
            }
        }
    }
}
