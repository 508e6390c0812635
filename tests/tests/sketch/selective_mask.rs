//! The learned mask: its gradient, its two forms, and that it learns.

use ascribe_core::random::Stream;
use ascribe_core::record::LayerRecord;
use ascribe_core::sketch::SelectiveMask;
use ascribe_core::{Error, MatMut, MatRef};
use ascribe_tests::tolerance;
use proptest::prelude::*;

fn normals(stream: Stream, len: usize) -> Vec<f64> {
    (0..len).map(|i| stream.normals(i as u64, 0)[0]).collect()
}

/// Central differences of `loss` in each logit against its gradient.
fn check_gradient(logits: &[f64], gradient: &[f64], loss: impl Fn(&[f64]) -> f64) -> Result<(), TestCaseError> {
    // With temperatures from 1/2 and masks of at most a few dozen entries, the derivatives up to the third of a
    // correlation stay below 10^4, unless all its scores are nearly one: then it turns within less.
    let h = 1e-4;
    let bound = tolerance::smooth_difference(h, 1000, 1e4);
    for i in 0..logits.len() {
        let at = |step: f64| {
            let mut logits = logits.to_vec();
            logits[i] += step;
            loss(&logits)
        };
        let [difference, coarse] = [h, 2.0 * h].map(|h| (at(h) - at(-h)) / (2.0 * h));
        let doubled = tolerance::doubled_step(difference, coarse);
        // A correlation that turns within the steps has no difference that says anything.
        prop_assume!(doubled <= 0.01);
        let bound = bound + doubled;
        prop_assert!((difference - gradient[i]).abs() <= bound, "{i}: {difference} for {}", gradient[i]);
    }
    Ok(())
}

fn options() -> SelectiveMask {
    SelectiveMask { lambda: 0.01, min_active: 2, max_active: 4, ..SelectiveMask::default() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_gradient_is_that_of_the_loss(p in 1_usize..14, q in 1_usize..5, n in 2_usize..7, seed in any::<u64>()) {
        let stream = Stream::new(seed, "gradient");
        let data = |child, len| normals(stream.child(child), len);
        let (a, b, logits, tau) = (data(0, q * p), data(1, n * p), data(2, p), 0.5 + stream.uniform(0, 1));
        // Steps that change the number of active coordinates would change f.
        prop_assume!(logits.iter().all(|logit| logit.abs() > 1e-3));
        let (a, b) = (MatRef::new(&a, q, p).unwrap(), MatRef::new(&b, n, p).unwrap());
        let of = |logits: &[f64]| options().loss(a, b, logits, tau).unwrap();
        let loss = of(&logits);
        check_gradient(&logits, &loss.gradient, |logits| of(logits).loss)?;
        // Beyond the size of a panel nothing changes but the order of the sums.
        prop_assert!(loss.correlations.iter().flatten().all(|rho| rho.abs() <= 1.0 + tolerance::gamma::<f64>(20 * p * n)));
    }

    #[test]
    fn factored_masks_are_masks_of_formed_gradients(
        d_in in 1_usize..5, d_out in 1_usize..5, t in 1_usize..4, bias in any::<bool>(), seed in any::<u64>(),
    ) {
        let (stream, q, n) = (Stream::new(seed, "factors"), 3, 5);
        let data = |child, len| normals(stream.child(child), len);
        let block = |child, rows, cols| (data(child, rows * cols), rows, cols);
        let parts = [block(0, q * t, d_in), block(1, q * t, d_out), block(2, n * t, d_in), block(3, n * t, d_out)];
        let view = |i: usize| MatRef::new(&parts[i].0, parts[i].1, parts[i].2).unwrap();
        let counts: Vec<bool> = (0..n * t).map(|row| row % 3 != 1).collect();
        let query = LayerRecord::new(q, view(0), view(1), None, bias).unwrap();
        let train = LayerRecord::new(n, view(2), view(3), Some(&counts), bias).unwrap();
        let cols = query.weight_cols();
        let (logits_out, logits_in, tau) = (data(4, d_out), data(5, cols), 0.7);
        prop_assume!(logits_out.iter().chain(&logits_in).all(|logit| logit.abs() > 1e-3));
        let options = SelectiveMask { lambda: 0.0, ..options() };
        let of = |logits: &[f64]| {
            let (outputs, inputs) = logits.split_at(d_out);
            options.loss_factors(&query, &train, [outputs, inputs], tau).unwrap()
        };
        let logits = [&logits_out[..], &logits_in].concat();
        let loss = of(&logits);
        check_gradient(&logits, &loss.gradient, |logits| of(logits).loss)?;

        let formed = |record: &LayerRecord<'_, f64>| {
            let mut out = vec![0.0; record.examples() * record.dim()];
            record.gradients(MatMut::new(&mut out, record.examples(), record.dim()).unwrap()).unwrap();
            out
        };
        let soft = |x: f64| 1.0 / (1.0 + (-x / tau).exp());
        let product = |o: f64, i: f64| soft(o) * soft(i);
        let joint: Vec<f64> = logits_out.iter().flat_map(|o| logits_in.iter().map(move |i| (*o, *i)))
            .map(|(o, i)| tau * (product(o, i) / (1.0 - product(o, i))).ln()).collect();
        let (a, b) = (formed(&query), formed(&train));
        let (a, b) = (MatRef::new(&a, q, query.dim()).unwrap(), MatRef::new(&b, n, train.dim()).unwrap());
        let plain = options.loss(a, b, &joint, tau).unwrap();
        for (factored, plain) in loss.correlations.iter().zip(&plain.correlations) {
            prop_assert_eq!(factored.is_some(), plain.is_some());
            let (factored, plain) = (factored.unwrap_or(0.0), plain.unwrap_or(0.0));
            // Both from sums of at most dim products, divided by deviations of at least sqrt(eps) = 1e-3.
            prop_assert!((factored - plain).abs() <= 1e6 * tolerance::gamma::<f64>(100), "{factored} {plain}");
        }
    }
}

/// Gradients whose coordinates `planted` are large.
fn planted(stream: Stream, rows: usize, p: usize, planted: &[usize]) -> Vec<f64> {
    let mut data = normals(stream, rows * p);
    for (at, x) in data.iter_mut().enumerate() {
        *x *= if planted.contains(&(at % p)) { 3.0 } else { 0.05 };
    }
    data
}

#[test]
fn it_finds_planted_coordinates() {
    let (stream, p, large) = (Stream::new(5, "planted"), 20, [1, 7, 8, 19]);
    let (query, train) = (planted(stream.child(0), 8, p, &large), planted(stream.child(1), 60, p, &large));
    let (query, train) = (MatRef::new(&query, 8, p).unwrap(), MatRef::new(&train, 60, p).unwrap());
    let options = SelectiveMask {
        lambda: 1e-3,
        learning_rate: 0.05,
        epochs: 60,
        batch: 16,
        min_active: 4,
        max_active: 4,
        ..options()
    };
    let learned = options.learn(query, train, stream.child(2)).unwrap();
    assert_eq!((learned.indices.as_slice(), learned.epochs), (&large[..], 60));
    assert_eq!(options.learn(query, train, stream.child(2)).unwrap(), learned);
    // In single precision too.
    let narrow = |x: MatRef<'_, f64>| x.row_iter().flatten().map(|x| *x as f32).collect::<Vec<_>>();
    let (query, train) = (narrow(query), narrow(train));
    let (query, train) = (MatRef::new(&query, 8, p).unwrap(), MatRef::new(&train, 60, p).unwrap());
    assert_eq!(options.learn(query, train, stream.child(2)).unwrap().indices, large);
}

#[test]
fn it_finds_planted_outputs_and_inputs() {
    let stream = Stream::new(6, "planted layer");
    let (d_in, d_out, t) = (8, 6, 3);
    let data = |child, n: usize| {
        let (x, delta) = (stream.child(child), stream.child(child + 1));
        (planted(x, n * t, d_in, &[2, 5]), planted(delta, n * t, d_out, &[0, 3]))
    };
    let (query, train) = (data(0, 6), data(2, 50));
    let record = |data: &'static (Vec<f64>, Vec<f64>), n: usize| {
        let (x, delta) = (MatRef::new(&data.0, n * t, d_in).unwrap(), MatRef::new(&data.1, n * t, d_out).unwrap());
        LayerRecord::new(n, x, delta, None, false).unwrap()
    };
    let (query, train) = (Box::leak(Box::new(query)), Box::leak(Box::new(train)));
    let options = SelectiveMask {
        lambda: 1e-3,
        learning_rate: 0.05,
        epochs: 60,
        batch: 0,
        min_active: 2,
        max_active: 2,
        ..options()
    };
    let learned = options.learn_factors(&record(query, 6), &record(train, 50), stream.child(4)).unwrap();
    assert_eq!(learned.map(|mask| mask.indices), [vec![0, 3], vec![2, 5]]);
}

#[test]
fn learning_stops_and_selects_within_its_limits() {
    let (stream, p) = (Stream::new(7, "limits"), 12);
    let (query, train) = (normals(stream.child(0), 4 * p), normals(stream.child(1), 9 * p));
    let (query, train) = (MatRef::new(&query, 4, p).unwrap(), MatRef::new(&train, 9, p).unwrap());
    let base = SelectiveMask { epochs: 10, check_every: 3, stop_below: 2.0, ..options() };
    assert_eq!(base.learn(query, train, stream).unwrap().epochs, 3);
    assert_eq!(SelectiveMask { stop_below: -2.0, ..base }.learn(query, train, stream).unwrap().epochs, 10);
    let select = |options: SelectiveMask| options.learn(query, train, stream).unwrap().indices.len();
    assert_eq!(select(SelectiveMask { min_active: 100, ..base }), p);
    assert_eq!(select(SelectiveMask { min_active: 0, max_active: 0, ..base }), 0);
    // Even a penalty that pushes everything down leaves min_active coordinates.
    let harsh = SelectiveMask { lambda: 1e3, learning_rate: 1.0, min_active: 3, max_active: 5, ..base };
    assert!((3..=5).contains(&select(harsh)));
    let empty = MatRef::new(&[], 0, p).unwrap();
    assert!(base.learn(empty, train, stream).is_ok() && base.learn(query, empty, stream).is_ok());
}

#[test]
fn without_variance_there_is_no_correlation() {
    let (a, b) = ([1.0, 2.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]);
    let (a, b) = (MatRef::new(&a, 2, 2).unwrap(), MatRef::new(&b, 2, 2).unwrap());
    let loss = options().loss(a, b, &[0.5, -0.5], 1.0).unwrap();
    assert_eq!((loss.correlations, loss.active), (vec![None, None], vec![1]));
    // What is left is the penalty, relaxed to max(0.1, 1 / 4).
    assert!((loss.loss - 0.01 * 0.25).abs() <= tolerance::gamma::<f64>(10));
}

#[test]
fn what_is_wrong_is_said() {
    let data = [1.0, f64::NAN, 3.0, 4.0, f64::MAX, 6.0];
    let good = MatRef::new(&[1.0, 2.0, 3.0, 4.0], 2, 2).unwrap();
    let nan = MatRef::new(&data[..2], 1, 2).unwrap();
    assert!(matches!(options().loss(nan, good, &[0.0; 2], 1.0), Err(Error::NonFinite { index: 0, .. })));
    assert!(matches!(options().loss(good, good, &[0.0; 3], 1.0), Err(Error::Shape { .. })));
    assert!(matches!(options().loss(good, MatRef::from_row(&data[2..5]), &[0.0; 2], 1.0), Err(Error::Shape { .. })));
    for tau in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(options().loss(good, good, &[0.0; 2], tau), Err(Error::Parameter { .. })));
    }
    for wrong in [
        SelectiveMask { lambda: -1.0, ..options() },
        SelectiveMask { eps: 0.0, ..options() },
        SelectiveMask { learning_rate: f64::NAN, ..options() },
        SelectiveMask { cooling: -1.0, ..options() },
    ] {
        assert!(matches!(wrong.learn(good, good, Stream::new(0, "wrong")), Err(Error::Parameter { .. })));
    }
}

#[test]
fn sizes_that_no_memory_holds_are_named() {
    let none = |rows, cols| MatRef::<f64>::new(&[], rows, cols).unwrap();
    let stream = Stream::new(0, "mask");
    for batch in [0, 1, 100] {
        let learned = SelectiveMask { batch, ..options() }.learn(none(0, 0), none(usize::MAX, 0), stream);
        assert!(learned.is_ok() == (batch == 0) || matches!(learned, Err(Error::Overflow { .. })), "{learned:?}");
    }
    let wide = LayerRecord::new(0, none(0, 1), none(0, usize::MAX), None, false).unwrap();
    let refused = SelectiveMask::default().learn_factors(&wide, &wide, stream);
    assert_eq!(refused.err(), Some(Error::Overflow { what: "logits" }));
}
