//! The damping rules: moments, the indicator xi, effective dimension, and the searches for a target.

use ascribe_core::random::Stream;
use ascribe_core::{Error as CoreError, MatRef};
use ascribe_solvers::Error;
use ascribe_solvers::curvature::{DampingIndicator, DampingSelection, Spectrum, implicit_damping};
use ascribe_solvers::parallel::Parallelism;
use ascribe_tests::{oracle, tolerance, with_eight_threads};
use proptest::prelude::*;

/// Eigenvalues over twelve decades with zeros and ties, and queries of which some coordinates are zero.
#[derive(Debug, Clone)]
struct Eigenform {
    values: Vec<f64>,
    projections: Vec<f64>,
    queries: usize,
}

impl Eigenform {
    fn indicator(&self) -> DampingIndicator {
        let projections = MatRef::new(&self.projections, self.queries, self.values.len()).unwrap();
        DampingIndicator::new(&self.values, projections, Parallelism::Serial).unwrap()
    }
    /// `s_i b_i` of the eigenvalues that a query sees.
    fn weights(&self, query: usize) -> Vec<(f64, f64)> {
        let row = &self.projections[query * self.values.len()..][..self.values.len()];
        let terms = self.values.iter().zip(row).map(|(s, c)| (*s, s * c * c));
        terms.filter(|(_, weight)| *weight > 0.0).collect()
    }
    /// The largest exponent in a moment.
    fn exponent(&self, damping: f64) -> f64 {
        let least = self.values.iter().filter(|s| **s > 0.0).fold(f64::INFINITY, |least, s| least.min(*s));
        let values = self.values.iter().map(|s| s + damping).chain([least + damping, least]);
        let logs = values.filter(|v| *v > 0.0 && v.is_finite()).map(|v| v.ln().abs());
        let of_weights = (0..self.queries).flat_map(|q| self.weights(q)).map(|(_, weight)| weight.ln().abs());
        5.0 * logs.chain(of_weights).fold(0.0, f64::max)
    }
}

fn eigenform() -> impl Strategy<Value = Eigenform> {
    let value = prop_oneof![6 => (-9.0..3.0).prop_map(|e: f64| 10.0_f64.powf(e)), 1 => Just(0.0), 1 => Just(0.25)];
    let coordinate = prop_oneof![5 => -2.0..2.0, 1 => Just(0.0)];
    (0..12_usize, 0..4_usize).prop_flat_map(move |(dim, queries)| {
        let values = prop::collection::vec(value.clone(), dim);
        let projections = prop::collection::vec(coordinate.clone(), dim * queries);
        (values, projections).prop_map(move |(values, projections)| Eigenform { values, projections, queries })
    })
}

fn damping() -> impl Strategy<Value = f64> {
    (-8.0..4.0).prop_map(|e: f64| 10.0_f64.powf(e))
}

/// The mean indicator from its definition, in plain arithmetic.
fn mean_xi(form: &Eigenform, damping: f64) -> f64 {
    let moment = |q: usize, k: i32| form.weights(q).iter().map(|(s, w)| w / (s + damping).powi(k)).sum::<f64>();
    let seeing: Vec<usize> = (0..form.queries).filter(|q| !form.weights(*q).is_empty()).collect();
    let xi = |&q: &usize| moment(q, 3) / (moment(q, 2) * moment(q, 4)).sqrt();
    if seeing.is_empty() { 1.0 } else { seeing.iter().map(xi).sum::<f64>() / seeing.len() as f64 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn moments_are_their_definition(form in eigenform(), damping in damping()) {
        let moments = form.indicator().ln_moments(damping).unwrap();
        prop_assert_eq!(moments.len(), form.queries);
        let bound = tolerance::ln_moment(form.values.len(), form.exponent(damping));
        for (query, moments) in moments.into_iter().enumerate() {
            for (k, got) in (1..5).zip(moments) {
                let terms = form.weights(query).into_iter().map(|(s, w)| w / (s + damping).powi(k));
                let want = terms.sum::<f64>().ln();
                prop_assert!(got == want || (got - want).abs() <= bound, "{got} {want}");
            }
        }
    }

    #[test]
    fn moments_fall_with_the_damping(form in eigenform(), damping in damping(), factor in 1.001..1e3) {
        let indicator = form.indicator();
        let (low, high) = (indicator.ln_moments(damping).unwrap(), indicator.ln_moments(damping * factor).unwrap());
        let bound = tolerance::ln_moment(form.values.len(), form.exponent(damping * factor));
        for (low, high) in low.as_flattened().iter().zip(high.as_flattened()) {
            prop_assert!(high <= &(low + 2.0 * bound) && (*low > f64::NEG_INFINITY || high == low));
        }
    }

    /// `d ln t_k / d ln lambda = -k lambda t_{k+1} / t_k`.
    #[test]
    fn moments_have_their_derivative(form in eigenform(), damping in damping()) {
        let (indicator, h) = (form.indicator(), 1e-4);
        let at = |shift: f64| indicator.ln_moments(damping * shift.exp()).unwrap();
        let (below, here, above) = (at(-h), at(0.0), at(h));
        let values = tolerance::ln_moment(form.values.len(), form.exponent(2.0 * damping));
        for query in (0..form.queries).filter(|q| !form.weights(*q).is_empty()) {
            for k in 1..4 {
                let want = -(k as f64) * damping * (here[query][k] - here[query][k - 1]).exp();
                let got = (above[query][k - 1] - below[query][k - 1]) / (2.0 * h);
                prop_assert!((got - want).abs() <= tolerance::slope(k as f64, h, values) + 8.0 * values, "{got} {want}");
            }
        }
    }

    #[test]
    fn xi_is_a_cosine(form in eigenform(), damping in damping()) {
        let indicator = form.indicator();
        for damping in [0.0, damping, 1e18] {
            let values = indicator.xi(damping).unwrap();
            let bound = 4.0 * tolerance::ln_moment(form.values.len(), form.exponent(damping));
            for (query, xi) in values.into_iter().enumerate() {
                prop_assert!(xi > 0.0 && xi <= 1.0);
                let mut seen: Vec<f64> = form.weights(query).iter().map(|(s, _)| *s).collect();
                seen.sort_by(f64::total_cmp);
                seen.dedup();
                if seen.len() < 2 {
                    prop_assert!(1.0 - xi <= bound, "one eigenvalue: {xi}");
                }
                // Far above the spectrum everything is only rescaled.
                prop_assert!(damping < 1e17 || 1.0 - xi <= bound, "{xi}");
            }
            let mean = indicator.mean_xi(damping).unwrap();
            prop_assert!((mean - mean_xi(&form, damping)).abs() <= bound);
        }
    }

    /// One eigenvalue is the only way to 1.
    #[test]
    fn two_eigenvalues_are_seen(low in 0.1..1.0, ratio in 1.5..10.0, share in 0.1..10.0, damping in 0.0..1.0) {
        let form = Eigenform { values: vec![low, low * ratio], projections: vec![1.0, share], queries: 1 };
        let xi = form.indicator().xi(damping).unwrap()[0];
        // Lagrange's identity for the cosine of (sqrt(w_i) / r_i) and (sqrt(w_i) / r_i^2).
        let (w, r) = ([low, low * ratio * share * share], [low + damping, low * ratio + damping]);
        let moment = |k: i32| w[0] / r[0].powi(k) + w[1] / r[1].powi(k);
        let gap = w[0] * w[1] * (1.0 / r[0] - 1.0 / r[1]).powi(2) / (r[0] * r[1]).powi(2);
        let want = gap / (moment(2) * moment(4));
        let bound = 8.0 * tolerance::ln_moment(2, form.exponent(damping));
        prop_assert!((1.0 - xi * xi - want).abs() <= bound && want > 100.0 * bound, "{xi} {want}");
    }

    #[test]
    fn scaling_curvature_and_damping_changes_nothing(form in eigenform(), damping in damping(), power in -300..300) {
        let factor = 2.0_f64.powi(power);
        let scaled = Eigenform { values: form.values.iter().map(|s| s * factor).collect(), ..form.clone() };
        let (xi, of_scaled) = (form.indicator().xi(damping).unwrap(), scaled.indicator().xi(damping * factor).unwrap());
        let exponent = form.exponent(damping) + 5.0 * f64::from(power.abs());
        let bound = 8.0 * tolerance::ln_moment(form.values.len(), exponent);
        prop_assert!(xi.iter().zip(&of_scaled).all(|(a, b)| (a - b).abs() <= bound), "{xi:?} {of_scaled:?}");
        let (a, b) = (Spectrum::new(&form.values).unwrap(), Spectrum::new(&scaled.values).unwrap());
        let dims = [a.effective_dimension(damping).unwrap(), b.effective_dimension(damping * factor).unwrap()];
        prop_assert_eq!(dims[0], dims[1]);
    }

    /// The target is met, nothing above reaches it, and where it is not met nothing on a fine grid goes below it.
    #[test]
    fn the_largest_solution_is_found(form in eigenform(), target in 0.05..0.999) {
        let indicator = form.indicator();
        let grid = (0..3000).map(|i| 1e6 * 10.0_f64.powf(-f64::from(i) / 150.0)).chain([0.0]);
        // A dip that is at most 1 % deep may be stepped over.
        let floor = |above: f64| grid.clone().take_while(move |x| *x > above).map(|x| mean_xi(&form, x)).fold(1.0, f64::min);
        match indicator.select(target).unwrap() {
            DampingSelection::Reached { damping } => {
                let bound = 8.0 * tolerance::ln_moment(form.values.len(), form.exponent(damping));
                prop_assert!((mean_xi(&form, damping) - target).abs() <= bound);
                prop_assert!(floor(damping * (1.0 + 1e-9)) > 0.99 * target);
            }
            DampingSelection::NotBracketed { lowest_xi, at } => {
                prop_assert!(lowest_xi > target);
                let bound = 8.0 * tolerance::ln_moment(form.values.len(), form.exponent(at));
                prop_assert!((mean_xi(&form, at) - lowest_xi).abs() <= bound);
                prop_assert!(floor(-1.0) > 0.99 * target);
            }

        }
    }

    #[test]
    fn effective_dimension_lies_between_zero_and_rank(form in eigenform(), damping in damping(), share in 0.01..1.2) {
        let spectrum = Spectrum::new(&form.values).unwrap();
        let rank = form.values.iter().filter(|s| **s > 0.0).count();
        prop_assert_eq!((spectrum.rank(), spectrum.dim(), spectrum.clamped()), (rank, form.values.len(), 0));
        let dimension = |damping| spectrum.effective_dimension(damping).unwrap();
        prop_assert_eq!(dimension(0.0), rank as f64);
        let (got, want) = (dimension(damping), form.values.iter().map(|s| s / (s + damping)).sum::<f64>());
        let bound = tolerance::mean(form.values.len() + 4, 1.0) * (rank as f64 + 1.0);
        prop_assert!((got - want).abs() <= bound && got >= 0.0 && got <= rank as f64);
        prop_assert!(dimension(2.0 * damping) <= got);

        let target = share * rank as f64;
        if target <= 0.0 {
            return Ok(());
        }
        match spectrum.damping_for_effective_dimension(target).unwrap() {
            Some(found) => prop_assert!((dimension(found) - target).abs() <= bound, "{found}"),
            None => prop_assert!(target > rank as f64),
        }
    }

    /// By the Gram matrix, by the covariance, and by an eigenform that is known.
    #[test]
    fn gradients_give_the_same_as_their_eigenform(
        n in 1..9_usize, dim in 0..9_usize, queries in 0..3_usize, repeat in any::<bool>(), damping in 0.01..10.0, seed in any::<u64>()
    ) {
        let stream = Stream::new(seed, "gradients");
        let mut gradients: Vec<f64> = oracle::uniform(stream, n * dim);
        if repeat && n > 1 {
            let (first, rest) = gradients.split_at_mut(dim);
            rest[..dim].copy_from_slice(first);
        }
        let query: Vec<f64> = oracle::uniform(stream.child(1), queries * dim);
        let rows = MatRef::new(&gradients, n, dim).unwrap();
        let indicator =
            DampingIndicator::from_gradients(rows, MatRef::new(&query, queries, dim).unwrap(), Parallelism::Serial).unwrap();
        prop_assert_eq!(indicator.spectrum().dim(), dim);
        let covariance: Vec<f64> = (0..dim * dim)
            .map(|at| rows.row_iter().map(|g| g[at / dim] * g[at % dim]).sum::<f64>() / n as f64)
            .collect();
        let trace: f64 = (0..dim).map(|i| covariance[i * dim + i]).sum();
        let mean = if dim == 0 { 0.0 } else { trace / dim as f64 };
        // Eigenvalues are off by the backward error of the decomposition, and the moments by the condition times as much.
        let bound = tolerance::orthogonal_factor(n, dim, f64::EPSILON) * trace.max(1e-300);
        prop_assert!((indicator.spectrum().mean() - mean).abs() <= bound);
        let condition = 1.0 + trace / damping;
        for (query, moments) in query.chunks_exact(dim.max(1)).zip(indicator.ln_moments(damping).unwrap()) {
            let mut solved = oracle::mat_vec(&covariance, dim, query);
            for got in moments {
                solved = oracle::solve(&covariance, damping, &solved);
                let want = oracle::dot(query, &solved);
                let error = bound * condition.powi(5) * 8.0 / damping.powi(4).min(1.0) * oracle::dot(query, query);
                prop_assert!((got.exp() - want).abs() <= error, "{} {want} {error}", got.exp());
            }
        }
    }
}

#[test]
fn extreme_numbers_stay_finite() {
    for scale in [1e-300, 1e300] {
        let form = Eigenform { values: vec![scale, 1e-4 * scale], projections: vec![1e-150, 1e150], queries: 1 };
        let indicator = form.indicator();
        for damping in [0.0, scale, f64::MAX, f64::MIN_POSITIVE] {
            assert!(indicator.ln_moments(damping).unwrap()[0].iter().all(|t| t.is_finite()), "{scale} {damping}");
            assert!((0.0..=1.0).contains(&indicator.xi(damping).unwrap()[0]));
        }
        assert!(indicator.select(0.5).is_ok());
        let spectrum = indicator.spectrum();
        let damping = spectrum.damping_for_effective_dimension(0.5).unwrap().unwrap();
        assert!((spectrum.effective_dimension(damping).unwrap() - 0.5).abs() < 1e-12);
        assert!(spectrum.report(f64::MAX).unwrap().condition >= 1.0);
    }
    // As far apart as numbers are: the search ends all the same.
    let form = Eigenform { values: vec![5e-324, f64::MAX], projections: vec![1.0, 1.0], queries: 1 };
    assert!(form.indicator().select(0.5).is_ok());
    for target in [1e-300, 9e-188, 1.0 - f64::EPSILON / 2.0] {
        match form.indicator().select(target).unwrap() {
            DampingSelection::Reached { damping } => assert!(form.indicator().mean_xi(damping).unwrap() <= target),
            DampingSelection::NotBracketed { lowest_xi, .. } => assert!(lowest_xi > target),
        }
    }
}

#[test]
fn zero_curvature_is_an_answer() {
    for (values, queries) in [(vec![], 0), (vec![0.0; 3], 1), (vec![0.0, -1.0, 0.0], 2), (vec![1.0], 0)] {
        let form = Eigenform { projections: vec![1.0; values.len() * queries], values, queries };
        let indicator = form.indicator();
        assert_eq!(indicator.select(0.5), Ok(DampingSelection::NotBracketed { lowest_xi: 1.0, at: 0.0 }));
        assert_eq!(indicator.mean_xi(0.0), Ok(1.0));
        assert_eq!(indicator.xi(0.0), Ok(vec![1.0; queries]));
    }
    let spectrum = Spectrum::new(&[0.0, -1.0, 0.0]).unwrap();
    assert_eq!(spectrum.damping_for_effective_dimension(0.5), Ok(None));
    let report = spectrum.report(0.0).unwrap();
    assert_eq!((report.dim, report.rank, report.clamped, report.lowest), (3, 0, 1, -1.0));
    assert_eq!((report.mean, report.stable_rank, report.effective_dimension), (0.0, 0.0, 0.0));
    assert_eq!((report.condition, report.suggested_damping), (f64::INFINITY, 0.0));
    assert_eq!(spectrum.report(2.0).unwrap().condition, 1.0);
    // A query that the curvature does not see does not count in the mean.
    let form = Eigenform { values: vec![1.0, 1e-4, 0.0], projections: vec![1.0, 1.0, 0.0, 0.0, 0.0, 1.0], queries: 2 };
    let indicator = form.indicator();
    let xi = indicator.xi(0.05).unwrap();
    assert!(xi[0] < 0.9 && xi[1] == 1.0 && indicator.mean_xi(0.05) == Ok(xi[0]));
}

#[test]
fn a_report_of_a_known_spectrum() {
    let spectrum = Spectrum::new(&[4.0_f32, -0.5, 1.0, 0.0, 3.0]).unwrap();
    let report = spectrum.report(1.0).unwrap();
    assert_eq!((report.dim, report.rank, report.clamped, report.lowest), (5, 3, 1, -0.5));
    assert_eq!(report.quantiles, [0.0, 0.0, 1.0, 3.0, 4.0]);
    assert_eq!((report.stable_rank, report.condition, report.damping), (2.0, 5.0, 1.0));
    assert!((report.mean - 1.6).abs() <= f64::EPSILON * 2.0);
    assert!((report.suggested_damping - 0.16).abs() <= f64::EPSILON);
    assert!((report.effective_dimension - (0.5 + 0.75 + 0.8)).abs() <= 4.0 * f64::EPSILON);
    assert_eq!((spectrum.quantile(0.625), spectrum.quantile(-1.0), spectrum.quantile(2.0)), (2.0, 0.0, 4.0));
    let padded = Spectrum::new(&[2.0, 1.0]).unwrap().with_dim(4).unwrap();
    assert_eq!((padded.dim(), padded.mean(), padded.quantile(0.5), padded.positive()), (4, 0.75, 0.5, &[1.0, 2.0][..]));
    assert_eq!(padded.report(0.0).unwrap().lowest, 0.0);
}

/// Where the mean falls below the target twice, the larger damping is the answer.
#[test]
fn the_first_crossing_from_above_wins() {
    // Two gaps in the spectrum, each of which separates scores from their derivative.
    let form = Eigenform { values: vec![1.0, 1e-6, 1e-12], projections: vec![1.0, 1e-1, 1e-2], queries: 1 };
    let curve: Vec<(f64, f64)> =
        (-600..100).map(|i| 10.0_f64.powf(f64::from(i) / 50.0)).map(|x| (x, mean_xi(&form, x))).collect();
    let low = curve.iter().map(|(_, xi)| *xi).fold(1.0, f64::min);
    let target = low.max(0.2);
    let falls = curve.windows(2).filter(|pair| pair[0].1 <= target && pair[1].1 > target).count();
    assert!(falls >= 2, "{falls}");
    let DampingSelection::Reached { damping } = form.indicator().select(target).unwrap() else { panic!("reached") };
    assert!(curve.iter().filter(|(x, _)| *x > damping).all(|(_, xi)| *xi > target));
    assert!((mean_xi(&form, damping) - target).abs() < 1e-9);
}

#[test]
fn threads_change_no_bit() {
    let stream = Stream::new(2, "damping threads");
    for (n, dim) in [(7, 40), (40, 7), (1100, 5), (5, 1100)] {
        let (gradients, queries): (Vec<f32>, Vec<f32>) =
            (oracle::uniform(stream, n * dim), oracle::uniform(stream, 3 * dim));
        let compute = |threads| {
            let (gradients, queries) =
                (MatRef::new(&gradients, n, dim).unwrap(), MatRef::new(&queries, 3, dim).unwrap());
            let indicator =
                DampingIndicator::from_gradients(gradients, queries, Parallelism::threads(threads)).unwrap();
            (indicator.ln_moments(0.1).unwrap(), indicator.select(0.9).unwrap(), indicator.spectrum().clone())
        };
        assert_eq!(with_eight_threads(|| compute(8)), compute(1));
    }
}

#[test]
fn refuses_what_is_out_of_range() {
    let form = Eigenform { values: vec![1.0, 0.1], projections: vec![1.0, 1.0], queries: 1 };
    let indicator = form.indicator();
    for damping in [-1.0, f64::NAN, f64::INFINITY] {
        let refused = |error: Option<Error>| matches!(error, Some(Error::Core(CoreError::Damping { .. })));
        assert!(refused(indicator.xi(damping).err()) && refused(indicator.mean_xi(damping).err()));
        assert!(refused(indicator.ln_moments(damping).err()));
        assert!(refused(indicator.spectrum().effective_dimension(damping).err()));
        assert!(refused(indicator.spectrum().report(damping).err()));
    }
    let parameter = |error: Option<Error>| matches!(error, Some(Error::Core(CoreError::Parameter { .. })));
    for target in [0.0, 1.0, -0.5, 2.0, f64::NAN] {
        assert!(parameter(indicator.select(target).err()), "{target}");
    }
    for target in [0.0, -1.0, f64::INFINITY, f64::NAN] {
        assert!(parameter(indicator.spectrum().damping_for_effective_dimension(target).err()), "{target}");
    }
    for (rate, steps, momentum) in [(0.0, 1, 0.0), (f64::NAN, 1, 0.0), (1.0, 0, 0.0), (1.0, 1, 1.0), (1.0, 1, -0.1)] {
        assert!(parameter(implicit_damping(rate, steps, momentum).err()));
    }
    assert_eq!(implicit_damping(0.25, 8, 0.5), Ok(0.25));
    let non_finite = |what| Some(Error::Core(CoreError::NonFinite { what, index: 1 }));
    let bad = [1.0, f64::NAN];
    let bad = MatRef::from_row(&bad);
    assert_eq!(Spectrum::new(bad.row(0)).err(), non_finite("eigenvalues"));
    assert_eq!(DampingIndicator::new(&[1.0, 1.0], bad, Parallelism::Serial).err(), non_finite("projections"));
    let good = MatRef::from_row(&[1.0, 1.0]);
    assert_eq!(DampingIndicator::from_gradients(bad, good, Parallelism::Serial).err(), non_finite("gradients"));
    assert_eq!(DampingIndicator::from_gradients(good, bad, Parallelism::Serial).err(), non_finite("queries"));
    let none = MatRef::<f64>::new(&[], 0, 2).unwrap();
    let empty = Some(Error::Core(CoreError::Empty { what: "gradients" }));
    assert_eq!(DampingIndicator::from_gradients(none, good, Parallelism::Serial).err(), empty);
    let shape = |what, expected, got| Some(Error::Core(CoreError::Shape { what, expected, got }));
    assert_eq!(DampingIndicator::new(&[1.0], good, Parallelism::Serial).err(), shape("projection columns", 1, 2));
    let narrow = MatRef::from_row(&good.row(0)[..1]);
    let refused = DampingIndicator::from_gradients(good, narrow, Parallelism::Serial).err();
    assert_eq!(refused, shape("query columns", 2, 1));
    let what = "dimension (at least the number of eigenvalues)";
    assert_eq!(Spectrum::new(&[1.0, 2.0]).unwrap().with_dim(1).err(), shape(what, 2, 1));
    let huge = [1e200];
    let huge = MatRef::from_row(&huge);
    let refused = DampingIndicator::from_gradients(huge, huge, Parallelism::Serial).err();
    assert!(matches!(refused, Some(Error::Core(CoreError::NonFinite { .. }))));
}

#[test]
fn queries_without_elements_are_not_gone_through() {
    const MANY: usize = usize::MAX;
    let none = MatRef::<f64>::new(&[], MANY, 0).unwrap();
    let indicator = DampingIndicator::new(&[], none, Parallelism::Serial).unwrap();
    assert!(matches!(indicator.xi(1.0), Err(Error::Core(CoreError::Overflow { .. }))));
    let one = MatRef::<f64>::new(&[], 1, 0).unwrap();
    DampingIndicator::from_gradients(none, one, Parallelism::Serial).unwrap();
}
