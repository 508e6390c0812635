//! Metrics of any floats and shapes: a typed error, or a value in the range that its definition gives it.
#![no_main]

use arbitrary::Arbitrary;
use ascribe_core::MatRef;
use ascribe_core::metric::{
    QueryCorrelations, Relevance, auc, average_precision, bootstrap_interval, brittleness, lds, loo, ndcg, retrieval,
    spearman_columns, tail_patch,
};
use ascribe_core::random::Stream;
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input {
    a: Vec<f64>,
    b: Vec<f64>,
    flags: Vec<bool>,
    subsets: Vec<Vec<usize>>,
    queries: u8,
    k: usize,
    list_len: usize,
    level: f64,
    resamples: u8,
}

fuzz_target!(|input: Input| {
    let Input { mut a, mut b, mut flags, subsets, queries, k, list_len, level, resamples } = input;
    let len = a.len().min(b.len()).min(flags.len());
    let queries = usize::from(queries % 8);
    let examples = len.checked_div(queries).unwrap_or(0);
    let len = examples * queries;
    a.truncate(len);
    b.truncate(len);
    flags.truncate(len);
    let (Ok(scores), Ok(truth)) = (MatRef::new(&a, examples, queries), MatRef::new(&b, examples, queries)) else {
        panic!("the shapes fit");
    };
    let Ok(relevant) = MatRef::new(&flags, examples, queries) else { panic!("the shape fits") };

    let unit = |x: f64| assert!((0.0..=1.0 + 1e-12).contains(&x), "{x} is not in [0, 1]");
    let correlations = |found: QueryCorrelations| {
        for c in found.per_query.iter().chain([&found.mean]) {
            assert!(c.value.abs() <= 1.0 && (c.valid || c.value == 0.0), "{c:?}");
        }
    };
    for found in [loo(scores, truth), spearman_columns(scores, truth)].into_iter().flatten() {
        correlations(found);
    }
    let small = |n: usize| n % (examples + 2);
    for small in [false, true] {
        let reduced = |n: usize| if small { n % (examples + 2) } else { n };
        let mut subsets: Vec<Vec<usize>> =
            subsets.iter().map(|subset| subset.iter().map(|i| reduced(*i)).collect()).collect();
        if small {
            for subset in &mut subsets {
                subset.sort_unstable();
                subset.dedup();
            }
        }
        let rows = subsets.len().min(examples);
        let Ok(truth) = truth.row_range(0, rows) else { panic!("the range is inside") };
        if let Ok(found) = lds(scores, &subsets[..rows], truth) {
            correlations(found.correlations);
        }
    }
    for (k, list_len) in [(k, list_len), (small(k), small(list_len))] {
        for relevance in [Relevance::BinaryTopK, Relevance::Graded] {
            if let Ok(found) = ndcg(scores, truth, k, relevance) {
                found.per_query.into_iter().chain([found.mean]).for_each(unit);
            }
        }
        if let Ok(found) = retrieval(scores, relevant, k, list_len) {
            for x in [found.mrr, found.mean_recall, found.mean_precision] {
                unit(x);
            }
        }
    }
    for found in [auc(&a, &flags), average_precision(&a, &flags)].into_iter().flatten() {
        unit(found);
    }
    let _ = tail_patch(&a[..examples.min(len)], truth);
    let grid: Vec<usize> = subsets.first().cloned().unwrap_or_default();
    if let Ok(found) = brittleness(&flags[..examples.min(len)], relevant, &grid) {
        found.fraction.into_iter().for_each(unit);
    }
    if let Ok(interval) = bootstrap_interval(&a, level, resamples.into(), Stream::new(0, "fuzz")) {
        assert!(interval.lower <= interval.upper, "{interval:?}");
    }
});
