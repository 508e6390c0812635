//! Attribution methods, selections and statistics on rows of any shape and any floats: a typed error that changes
//! nothing, or numbers within the bounds that they promise.
#![no_main]

use arbitrary::Arbitrary;
use ascribe_core::score::Similarity;
use ascribe_core::{MatMut, MatRef};
use ascribe_solvers::attribution::{
    Bids, CrossCovariance, Dabuf, Daunce, IfGuide, Iif, IifFilter, Less, Normalization, ProjectedFisher, TrackStar,
    Trak, best_subtask, fuse_ranks, margin, margin_cotangents, mixing_weight, tracin_scores, weight_by_residual,
};
use ascribe_solvers::curvature::{Damping, Filter, Gram, Inversion};
use ascribe_solvers::parallel::Parallelism::Serial;
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input {
    data: Vec<f32>,
    shape: [u8; 3],
    /// Rows that an output is off by.
    wrong: u8,
    weights: [f32; 2],
    damping: (bool, f64),
    kind: u8,
    power: f64,
    lambda: f64,
    rates: [f64; 2],
    subtask: Vec<u8>,
    options: [f64; 2],
    counts: [usize; 3],
    flag: bool,
}

fn view(data: &[f32], rows: usize, cols: usize) -> MatRef<'_, f32> {
    let Ok(view) = MatRef::new(data, rows, cols) else { panic!("the shape fits") };
    view
}

/// Runs `f` on an output of ones, which it must leave alone when it fails.
fn checked<E>(len: usize, f: impl FnOnce(&mut [f32]) -> Result<(), E>) -> Option<Vec<f32>> {
    let mut out = vec![1.0; len];
    if f(&mut out).is_ok() {
        return Some(out);
    }
    assert!(out.iter().all(|x| *x == 1.0));
    None
}

fn matrix(out: &mut [f32], rows: usize, cols: usize) -> MatMut<'_, f32> {
    let Ok(out) = MatMut::new(out, rows, cols) else { panic!("the shape fits") };
    out
}

fn influence(input: &Input, train: &[MatRef<'_, f32>], query: &[MatRef<'_, f32>], [n, m]: [usize; 2]) {
    let damping = if input.damping.0 { Damping::Absolute(input.damping.1) } else { Damping::Relative(input.damping.1) };
    let kinds = [Inversion::Damped, Inversion::PseudoInverse, Inversion::Tikhonov, Inversion::Factored];
    let filter = Filter { damping, inversion: kinds[usize::from(input.kind % 4)], power: input.power };
    let mut grams = Vec::new();
    for rows in train {
        let Ok(mut gram) = Gram::<f64>::new(rows.cols(), Serial) else { panic!("a small matrix") };
        if gram.add(*rows, None).is_err() {
            return;
        }
        grams.push(gram);
    }
    if let Ok(fisher) = ProjectedFisher::<f32>::from_grams(&grams, &filter, Serial) {
        let dim = fisher.dim();
        let solved = checked(m * dim, |out| fisher.precondition(matrix(out, m, dim), query));
        let Some(solved) = solved else { panic!("the shapes fit") };
        let Some(mut scores) = checked(n * m, |out| fisher.scores(matrix(out, n, m), train, view(&solved, m, dim)))
        else {
            panic!("the shapes fit")
        };
        let Some(own) = checked(n, |out| fisher.self_influence(out, train)) else { panic!("the shapes fit") };
        assert!(own.iter().all(|x| *x >= 0.0 || x.is_nan()));
        assert!(Normalization::Loss { self_train: &own }.apply(matrix(&mut scores, n, m)).is_ok());
    }
    let mix = input.flag.then_some((&grams[..], input.lambda));
    if let Ok(trackstar) = TrackStar::<f32>::new(&grams, mix, &filter, Serial) {
        let dim = trackstar.dim();
        let Some(embedded) = checked(m * dim, |out| trackstar.embed(matrix(out, m, dim), query)) else {
            panic!("the shapes fit")
        };
        let scores = checked(n * m, |out| trackstar.scores(matrix(out, n, m), train, view(&embedded, m, dim)));
        assert!(scores.is_some_and(|scores| scores.iter().all(|x| x.is_nan() || x.abs() < 1.001)));
    }
    if let Ok(trak) = (Trak { regularization: input.damping.1, parallelism: Serial }).prepare(&grams) {
        let dim = trak.dim();
        if let Some(solved) = checked(m * dim, |out| trak.precondition(matrix(out, m, dim), query)) {
            let scores = checked(n * m, |out| trak.scores(matrix(out, n, m), train, view(&solved, m, dim)));
            assert!(scores.is_some());
        }
    }
}

fuzz_target!(|input: Input| {
    let [n, m, k] = input.shape.map(usize::from);
    let (n, m, k) = (n % 9, m % 5, k % 6);
    let needed = 2 * (n + m) * k;
    if input.data.len() < needed {
        return;
    }
    let (train, query) = input.data[..needed].split_at(2 * n * k);
    let parts = |data, rows| {
        let (first, second) = <[f32]>::split_at(data, rows * k);
        [view(first, rows, k), view(second, rows, k)]
    };
    let (train, query) = (parts(train, n), parts(query, m));
    let rows = n + usize::from(input.wrong % 2);
    for similarity in [Similarity::Dot, Similarity::Cosine] {
        let scores = checked(rows * m, |out| {
            tracin_scores(matrix(out, rows, m), &train, &query, &input.weights, similarity, Serial)
        });
        assert_eq!(scores.is_some(), rows == n && input.weights.iter().all(|w| w.is_finite()));
        let Some(scores) = scores else { continue };
        let scores = view(&scores, n, m);
        let mut fused = vec![1.0; n * m];
        let Ok(out) = MatMut::new(&mut fused, n, m) else { panic!("the shape fits") };
        if fuse_ranks(out, &[scores, scores], Serial).is_ok() {
            assert!(fused.iter().all(|x| (0.0..=1.0).contains(x)));
        }
        if let Ok(bids) = Bids::new(scores, Serial) {
            let Ok(picks) = bids.select(n) else { panic!("as many as there are") };
            assert!((0..n).all(|i| picks.contains(&i)) && bids.select(n + 1).is_err());
        }
        let [quantile, percent] = input.options;
        let [window, max_tokens, chunk] = input.counts;
        if let Ok(selection) = (IfGuide { quantile, window, max_tokens }).select(scores) {
            assert!(selection.used <= max_tokens && selection.order.len() == n);
            assert_eq!(selection.mask.iter().filter(|marked| **marked).count(), selection.used);
        }
        let flat: Vec<f32> = scores.row_iter().flatten().copied().collect();
        if let Ok(keep) = IifFilter::PercentOfNegative(percent).keep(&flat) {
            assert_eq!(keep.len(), flat.len());
        }
        let _ = IifFilter::Positive.keep(&flat);
        if let Ok(standardized) = (Iif { chunk, epsilon: quantile }).standardize(&flat) {
            assert!(standardized.iter().all(|x| !x.is_nan()));
        }
        let _ = weight_by_residual(matrix(&mut flat.clone(), n, m), &[&flat[..flat.len().min(n)]]);
        let mut statistics = match CrossCovariance::new(m, m) {
            Ok(statistics) => statistics,
            Err(_) => panic!("a small matrix"),
        };
        let before = statistics.clone();
        if statistics.add(scores, scores, Serial).is_err() || statistics.merge(&before).is_err() {
            assert_eq!(statistics, before);
        } else if let Ok(correlation) = statistics.correlation() {
            assert!(correlation.iter().all(|x| x.abs() <= 1.0));
            let _ = Dabuf::<f32>::new(&statistics, input.lambda, Serial);
        }
        for row in scores.row_iter() {
            let label = input.counts[0] % 5;
            let odds = margin(row, label);
            let cotangents =
                checked(m, |out| margin_cotangents(MatMut::from_row(out), MatRef::from_row(row), &[label]));
            assert_eq!(odds.is_ok(), cotangents.is_some());
        }
    }
    influence(&input, &train, &query, [n, m]);

    let subtask: Vec<usize> = input.subtask.iter().take(m).map(|group| usize::from(group % 4)).collect();
    if let Ok(less) = Less::new(&query, &input.rates, &subtask, 3) {
        if let Some(scores) = checked(n * 3, |out| less.scores(matrix(out, n, 3), &train, Serial)) {
            assert!(best_subtask(view(&scores, n, 3)).is_ok_and(|best| best.len() == n));
        }
    }
    let daunce = Daunce { radius: input.options[0], ratio: input.options[1], seed: input.counts[0] as u64 };
    if let Ok(drawn) = daunce.perturbation(input.counts[1] as u64, input.counts[2] % 1000) {
        assert!(drawn.iter().all(|(_, u)| u.abs() <= daunce.radius));
    }
    if let Ok(weight) = mixing_weight(&[&input.rates], &[&input.options], input.counts[0]) {
        assert!((0.0..=1.0).contains(&weight));
    }
});
