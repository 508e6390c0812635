//! Selections: BIDS, IF-Guide and IIF against searches that are written out, and what must hold for any scores.

use ascribe_core::random::Stream;
use ascribe_core::record::LayerRecord;
use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};
use ascribe_solvers::Error;
use ascribe_solvers::attribution::{Bids, IfGuide, Iif, IifFilter, TokenSelection, query_contrast, token_scores};
use ascribe_solvers::parallel::Parallelism::{self, Serial};
use ascribe_tests::{oracle, tolerance, with_eight_threads};
use proptest::prelude::*;

/// Few different numbers, so that scores tie; or numbers so close that gains tie once they are rounded.
fn tied(len: usize, close: bool, stream: Stream) -> Vec<f64> {
    (0..len as u64)
        .map(|i| {
            let small = stream.uniform_index(i, 0, 4) as f64;
            if close && stream.uniform(i, 1) < 0.8 { 1e-17 * small } else { small }
        })
        .collect()
}

/// The greedy search over all rows.
fn bids(standardized: &[f64], [n, v]: [usize; 2], budget: usize) -> Vec<usize> {
    let mut picks: Vec<usize> = Vec::new();
    let mut sums = vec![0.0; v];
    while picks.len() < budget {
        let count = picks.len().max(1) as f64;
        let gain = |i: usize| {
            let gains = standardized[i * v..(i + 1) * v].iter().zip(&sums).map(|(x, sum)| x - sum / count);
            gains.fold(f64::NEG_INFINITY, f64::max)
        };
        let left = (0..n).filter(|i| !picks.contains(i));
        let pick = left.fold(None, |best: Option<usize>, i| match best {
            Some(best) if gain(best) >= gain(i) => Some(best),
            _ => Some(i),
        });
        let pick = pick.unwrap();
        picks.push(pick);
        sums.iter_mut().zip(&standardized[pick * v..]).for_each(|(sum, x)| *sum += x);
    }
    picks
}

/// The definition of IF-Guide, step by step: threshold, order, mask and how many are marked.
fn if_guide(scores: &[f64], [b, t]: [usize; 2], options: IfGuide) -> (f64, Vec<usize>, Vec<bool>, usize) {
    let mut sorted = scores.to_vec();
    sorted.sort_by(f64::total_cmp);
    let position = options.quantile * (sorted.len() - 1) as f64;
    let low = position.floor() as usize;
    let next = sorted.get(low + 1).copied().unwrap_or(sorted[low]);
    let threshold = sorted[low] + (next - sorted[low]) * (position - low as f64);
    let above = |i: usize| (0..t).filter(move |j| scores[i * t + j] > threshold);
    let normalized = |x: Vec<f64>| {
        let (least, largest) = (x.iter().copied().fold(f64::MAX, f64::min), x.iter().copied().fold(f64::MIN, f64::max));
        x.into_iter().map(|x| (x - least) / (largest - least + 1e-6)).collect::<Vec<f64>>()
    };
    let c = normalized((0..b).map(|i| above(i).count() as f64).collect());
    let s = normalized((0..b).map(|i| above(i).map(|j| scores[i * t + j]).sum()).collect());
    let key: Vec<f64> = (0..b).map(|i| 2.0 * c[i] * s[i] / (c[i] + s[i] + 1e-6)).collect();
    let mut order: Vec<usize> = (0..b).collect();
    order.sort_by(|&i, &j| key[j].total_cmp(&key[i]).then(i.cmp(&j)));
    let (mut mask, mut used) = (vec![false; b * t], 0);
    for &i in &order {
        for j in above(i) {
            let span = j.saturating_sub(options.window)..(j.saturating_add(options.window)).min(t - 1) + 1;
            let new = span.clone().filter(|j| !mask[i * t + j]).count();
            if used + new > options.max_tokens {
                return (threshold, order, mask, used);
            }
            span.for_each(|j| mask[i * t + j] = true);
            used += new;
        }
    }
    (threshold, order, mask, used)
}

fn select(scores: &[f64], [b, t]: [usize; 2], options: IfGuide) -> TokenSelection {
    options.select(MatRef::new(scores, b, t).unwrap()).unwrap()
}

/// Position scores against `delta^T V x`, with rubbish where masked.
fn check_tokens<T: Real>([n, t, d_in, d_out]: [usize; 4], bias: bool, seed: u64) -> Result<(), TestCaseError> {
    let stream = Stream::new(seed, "tokens");
    let (rows, cols) = (n * t, d_in + usize::from(bias));
    let (mut x, mut delta): (Vec<T>, Vec<T>) =
        (oracle::uniform(stream.child(1), rows * d_in), oracle::uniform(stream.child(2), rows * d_out));
    let mask: Vec<bool> = (0..rows).map(|row| stream.uniform(row as u64, 9) < 0.8).collect();
    for row in (0..rows).filter(|row| !mask[*row]) {
        x[row * d_in..(row + 1) * d_in].fill(T::from_f64(f64::NAN));
        delta[row * d_out..(row + 1) * d_out].fill(T::from_f64(f64::INFINITY));
    }
    let (toxic, safe): (Vec<T>, Vec<T>) =
        (oracle::uniform(stream.child(3), 2 * d_out * cols), oracle::uniform(stream.child(4), 3 * d_out * cols));
    let mut direction = vec![T::ZERO; d_out * cols];
    let sides = [MatRef::new(&toxic, 2, d_out * cols).unwrap(), MatRef::new(&safe, 3, d_out * cols).unwrap()];
    query_contrast(&mut direction, sides[0], sides[1]).unwrap();
    for (at, got) in direction.iter().enumerate() {
        let mean = |side: MatRef<'_, T>| side.row_iter().map(|row| row[at].to_f64()).sum::<f64>() / side.rows() as f64;
        let error = (got.to_f64() - (mean(sides[0]) - mean(sides[1]))).abs();
        prop_assert!(error <= tolerance::gamma::<T>(1) * 2.0 + tolerance::mean(5, 2.0));
    }
    let inputs = MatRef::new(&x, rows, d_in).unwrap();
    let grads = MatRef::new(&delta, rows, d_out).unwrap();
    let record = LayerRecord::new(n, inputs, grads, Some(&mask), bias).unwrap();
    // Without examples there are no positions.
    let t = record.positions();
    let (mut first, mut twice) = (vec![T::from_f64(f64::NAN); rows], vec![T::ONE; rows]);
    token_scores(MatMut::new(&mut first, n, t).unwrap(), T::ZERO, &record, &direction, Serial).unwrap();
    token_scores(MatMut::new(&mut twice, n, t).unwrap(), T::from_f64(2.0), &record, &direction, Serial).unwrap();
    for row in 0..rows {
        if !mask[row] {
            prop_assert_eq!((first[row].to_f64(), twice[row].to_f64()), (0.0, 2.0));
            continue;
        }
        let (mut x, delta) = (oracle::wide(inputs.row(row)), oracle::wide(grads.row(row)));
        x.extend(bias.then_some(1.0));
        let v = oracle::wide(&direction);
        let (mut want, mut absolute) = (0.0, 2.0);
        for (o, delta) in delta.iter().enumerate() {
            for (i, x) in x.iter().enumerate() {
                want += delta * v[o * cols + i] * x;
                absolute += (delta * v[o * cols + i] * x).abs();
            }
        }
        let allowed = tolerance::token_score::<T>(d_in, d_out, absolute);
        prop_assert!((first[row].to_f64() - want).abs() <= allowed);
        prop_assert!((twice[row].to_f64() - 2.0 - want).abs() <= allowed);
    }
    Ok(())
}

fn shape() -> impl Strategy<Value = [usize; 2]> {
    (1..6_usize, 1..9_usize).prop_map(|(b, t)| [b, t])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn bids_picks_the_rows_of_the_full_search(n in 0..14_usize, v in 1..5_usize, close in any::<bool>(), seed in any::<u64>()) {
        let data = tied(n * v, close, Stream::new(seed, "bids"));
        let prepared = Bids::new(MatRef::new(&data, n, v).unwrap(), Serial).unwrap();
        let all = prepared.select(n).unwrap();
        prop_assert_eq!(&all, &bids(prepared.standardized(), [n, v], n));
        let mut once = all.clone();
        once.sort_unstable();
        prop_assert_eq!(once, (0..n).collect::<Vec<_>>());
        for budget in 0..=n {
            prop_assert_eq!(&prepared.select(budget).unwrap()[..], &all[..budget], "a selection begins every larger one");
        }
        // Units of a column: powers of two change no bit.
        let scaled: Vec<f64> = data.iter().enumerate().map(|(at, x)| x * 2.0_f64.powi(300 * (at % v) as i32 - 500)).collect();
        let scaled = Bids::new(MatRef::new(&scaled, n, v).unwrap(), Serial).unwrap();
        prop_assert_eq!(scaled.standardized(), prepared.standardized());
        for j in 0..v {
            let column: Vec<f64> = prepared.standardized().iter().skip(j).step_by(v).copied().collect();
            let constant = data.iter().skip(j).step_by(v).all(|x| *x == data[j]);
            let (mean, square) = (column.iter().sum::<f64>(), column.iter().map(|x| x * x).sum::<f64>());
            let want = if constant { 0.0 } else { n as f64 };
            prop_assert!(mean.abs() <= tolerance::mean(4 * n, 1.0 + n as f64) * n as f64);
            prop_assert!((square - want).abs() <= tolerance::mean(4 * n, 1.0 + n as f64) * n as f64, "{square} {want}");
        }
    }

    #[test]
    fn bids_does_not_see_shift_and_scale_of_a_column(seed in any::<u64>(), shift in -3.0..3.0_f64, scale in 0.1..9.0_f64) {
        // Random numbers do not tie, so that rounding decides nothing.
        let data: Vec<f64> = oracle::uniform(Stream::new(seed, "affine"), 40);
        let moved: Vec<f64> =
            data.iter().enumerate().map(|(at, x)| if at % 4 == 1 { scale * x + shift } else { *x }).collect();
        let select = |data: &[f64]| Bids::new(MatRef::new(data, 10, 4).unwrap(), Serial).unwrap().select(6).unwrap();
        prop_assert_eq!(select(&data), select(&moved));
    }

    #[test]
    fn if_guide_follows_its_definition(
        shape in shape(), quantile in 0.0..=1.0_f64, window in 0..4_usize, budget in 0..40_usize, ties in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let len = shape[0] * shape[1];
        let stream = Stream::new(seed, "if_guide");
        let scores = if ties { tied(len, false, stream) } else { oracle::uniform(stream, len) };
        let options = IfGuide { quantile, window, max_tokens: budget };
        let got = select(&scores, shape, options);
        let (threshold, order, mask, used) = if_guide(&scores, shape, options);
        prop_assert_eq!((got.threshold, &got.order, &got.mask, got.used), (threshold, &order, &mask, used));
        prop_assert!(used <= budget && mask.iter().filter(|marked| **marked).count() == used);
        // What is marked has a token above the threshold within its window, in a document that was walked.
        let [_, t] = shape;
        for at in (0..len).filter(|at| mask[*at]) {
            let (document, token) = (at / t, at % t);
            let near = token.saturating_sub(window)..(token + window + 1).min(t);
            prop_assert!(near.clone().any(|j| scores[document * t + j] > threshold));
            prop_assert!(got.documents().contains(&document), "by rank, whatever its number");
        }
        prop_assert!(got.documents() == &order[..got.documents().len()]);
        let covers = |more: &[bool], less: &[bool]| more.iter().zip(less).all(|(more, less)| *more || !*less);
        let larger = select(&scores, shape, IfGuide { max_tokens: budget + 3, ..options });
        prop_assert!(covers(&larger.mask, &mask), "a larger budget");
        let free = IfGuide { max_tokens: usize::MAX, ..options };
        let (all, wider) =
            (select(&scores, shape, free), select(&scores, shape, IfGuide { window: window + 1, ..free }));
        prop_assert!(covers(&wider.mask, &all.mask) && covers(&all.mask, &mask), "a larger window");
        prop_assert_eq!(all.documents().len(), shape[0]);
        let centres = select(&scores, shape, IfGuide { window: 0, ..free });
        let above: Vec<bool> = scores.iter().map(|x| *x > threshold).collect();
        prop_assert_eq!(centres.mask, above);
        let whole = select(&scores, shape, IfGuide { window: usize::MAX, ..free });
        for document in 0..shape[0] {
            let row = document * t..(document + 1) * t;
            prop_assert!(whole.mask[row.clone()].iter().all(|marked| *marked == scores[row.clone()].iter().any(|x| *x > threshold)));
        }
    }

    #[test]
    fn a_position_scores_its_part_of_the_gradient(
        n in 0..4_usize, t in prop::sample::select(&[0_usize, 1, 3, 300]), d_in in 0..5_usize, d_out in 0..5_usize,
        bias in any::<bool>(), seed in any::<u64>(),
    ) {
        check_tokens::<f64>([n, t, d_in, d_out], bias, seed)?;
        check_tokens::<f32>([n, t, d_in, d_out], bias, seed)?;
    }

    #[test]
    fn iif_scores_sum_to_the_step_of_the_round(n in 1..20_usize, p in 0..6_usize, chunk in 1..8_usize, seed in any::<u64>()) {
        let stream = Stream::new(seed, "iif");
        let (advantages, g): (Vec<f64>, Vec<f64>) = (oracle::uniform(stream, n), oracle::uniform(stream.child(1), n * p));
        let gradients = MatRef::new(&g, n, p).unwrap();
        let iif = Iif { chunk, ..Iif::default() };
        let standardized = iif.standardize(&advantages).unwrap();
        let mut condition = 1.0_f64;
        for (a, got) in advantages.chunks(chunk).zip(standardized.chunks(chunk)) {
            let count = a.len() as f64;
            let mean = a.iter().sum::<f64>() / count;
            let deviation = (a.iter().map(|a| (a - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt();
            for (a, got) in a.iter().zip(got) {
                if count == 1.0 {
                    prop_assert_eq!(*got, 0.0);
                    continue;
                }
                condition = condition.max(1.0 / deviation);
                let allowed = tolerance::iif::<f64>(n, p, 1.0 / deviation, count);
                prop_assert!((got - (a - mean) / (deviation + 1e-8)).abs() <= allowed);
            }
        }
        let target = iif.target(&advantages, gradients, Serial).unwrap();
        let scores = iif.scores(&standardized, gradients, &target, Serial).unwrap();
        let round: Vec<f64> = (0..p).map(|c| (0..n).map(|i| standardized[i] * g[i * p + c]).sum()).collect();
        let exact: Vec<f64> = (0..p).map(|c| (0..n).map(|i| advantages[i] * g[i * p + c] / n as f64).sum()).collect();
        let size = (n * p) as f64 * (n as f64).sqrt();
        let allowed = tolerance::iif::<f64>(n, p, condition, size);
        prop_assert!((scores.iter().sum::<f64>() - oracle::dot(&round, &exact)).abs() <= allowed);
        // Records with the same contents in one chunk are two records, with the same score.
        if n > 1 && chunk > 1 {
            let (mut advantages, mut g) = (advantages.clone(), g.clone());
            advantages[1] = advantages[0];
            g.copy_within(0..p, p);
            let gradients = MatRef::new(&g, n, p).unwrap();
            let standardized = iif.standardize(&advantages).unwrap();
            let target = iif.target(&advantages, gradients, Serial).unwrap();
            let scores = iif.scores(&standardized, gradients, &target, Serial).unwrap();
            prop_assert_eq!(standardized[0], standardized[1]);
            prop_assert!((scores[0] - scores[1]).abs() <= allowed);
        }
    }

    #[test]
    fn the_filter_drops_the_most_harmful_share(n in 0..20_usize, percent in 0.0..=100.0_f64, ties in any::<bool>(), seed in any::<u64>()) {
        let stream = Stream::new(seed, "filter");
        let scores: Vec<f64> = if ties {
            tied(n, false, stream).iter().map(|x| x - 2.0).collect()
        } else {
            oracle::uniform(stream, n)
        };
        let keep = |percent| IifFilter::PercentOfNegative(percent).keep(&scores).unwrap();
        let kept = keep(percent);
        let negative = scores.iter().filter(|x| **x < 0.0).count();
        let k = (negative as f64 * percent / 100.0).floor() as usize;
        let dropped: Vec<f64> = scores.iter().zip(&kept).filter(|(_, keep)| !**keep).map(|(x, _)| *x).collect();
        if k < n {
            let mut sorted = scores.clone();
            sorted.sort_by(f64::total_cmp);
            prop_assert!(dropped.len() <= k && scores.iter().zip(&kept).all(|(x, keep)| *keep == (*x >= sorted[k])));
        } else {
            prop_assert!(dropped.len() == n);
        }
        prop_assert!(dropped.len() <= negative && dropped.iter().all(|x| *x < 0.0));
        if n > 0 {
            prop_assert!(keep(0.0).iter().all(|keep| *keep), "nothing is nothing");
        }
        let positive = IifFilter::Positive.keep(&scores).unwrap();
        prop_assert!(scores.iter().zip(positive).all(|(x, keep)| keep == (*x > 0.0)));
    }
}

#[test]
fn equal_advantages_have_no_direction() {
    let iif = Iif { chunk: 3, epsilon: 0.0 };
    // 0.1 three times has a mean that is off by one bit, and no deviation.
    assert_eq!(iif.standardize(&[0.1, 0.1, 0.1, 5.0]).unwrap(), [0.0; 4]);
    assert!(iif.standardize::<f64>(&[]).unwrap().is_empty());
    // Squares that vanish: without an epsilon, no difference rather than infinity.
    assert_eq!(iif.standardize(&[1e-200, 2e-200]).unwrap(), [0.0; 2]);
}

#[test]
fn the_bits_do_not_depend_on_the_threads() {
    let stream = Stream::new(4, "threads");
    let (n, t, d_in, d_out) = (6, 130, 40, 30);
    let (x, delta, v): (Vec<f32>, Vec<f32>, Vec<f32>) = (
        oracle::uniform(stream.child(0), n * t * d_in),
        oracle::uniform(stream.child(1), n * t * d_out),
        oracle::uniform(stream.child(2), d_out * (d_in + 1)),
    );
    let run = |threads| {
        let par = Parallelism::threads(threads);
        let (x, delta) = (MatRef::new(&x, n * t, d_in).unwrap(), MatRef::new(&delta, n * t, d_out).unwrap());
        let record = LayerRecord::new(n, x, delta, None, true).unwrap();
        let mut scores = vec![f32::NAN; n * t];
        token_scores(MatMut::new(&mut scores, n, t).unwrap(), 0.0, &record, &v, par).unwrap();
        let bids = Bids::new(MatRef::new(&scores, t, n).unwrap(), par).unwrap();
        let target = Iif::default().target(&scores[..n], MatRef::new(&v[..n * d_in], n, d_in).unwrap(), par).unwrap();
        (bids.select(20).unwrap(), target, scores)
    };
    let serial = run(1);
    for threads in [2, 8] {
        assert!(with_eight_threads(|| run(threads)) == serial, "{threads} threads");
    }
}

#[test]
fn wrong_input_is_named_and_writes_nothing() {
    let bad = |x: f64| MatRef::new(&[1.0, 2.0, 3.0], 3, 1).map(|_| vec![1.0, x, 3.0]).unwrap();
    for x in [f64::NAN, f64::INFINITY] {
        let data = bad(x);
        let matrix = MatRef::new(&data, 3, 1).unwrap();
        assert!(matches!(Bids::new(matrix, Serial), Err(Error::Core(CoreError::NonFinite { .. }))));
        assert!(matches!(IfGuide::default().select(matrix), Err(Error::Core(CoreError::NonFinite { index: 1, .. }))));
        assert!(matches!(Iif::default().standardize(&data), Err(Error::Core(CoreError::NonFinite { index: 1, .. }))));
    }
    assert!(matches!(IifFilter::Positive.keep(&[f64::NAN]), Err(Error::Core(CoreError::NonFinite { .. }))));
    assert_eq!(IifFilter::Positive.keep(&[f64::NEG_INFINITY, f64::INFINITY]).unwrap(), [false, true]);
    let three = MatRef::new(&[1.0, 2.0, 3.0], 3, 1).unwrap();
    let error = Bids::new(three, Serial).unwrap().select(4).unwrap_err();
    assert!(matches!(error, Error::Core(CoreError::Length { needed: 4, got: 3, .. })), "{error}");
    let no_columns = Bids::new(MatRef::<f64>::new(&[], 3, 0).unwrap(), Serial).unwrap();
    assert_eq!(no_columns.select(2).unwrap(), [0, 1]);
    // Numbers at the end of the range neither overflow nor lose their order.
    let wide = [f64::MAX, -f64::MAX, 0.0];
    assert_eq!(Bids::new(MatRef::new(&wide, 3, 1).unwrap(), Serial).unwrap().select(1).unwrap(), [0]);
    assert!(Bids::new(MatRef::<f64>::new(&[], usize::MAX, 0).unwrap(), Serial).is_ok());

    for quantile in [-0.1, 1.1, f64::NAN] {
        let refused = IfGuide { quantile, ..IfGuide::default() }.select(three);
        assert!(matches!(refused, Err(Error::Core(CoreError::Parameter { .. }))));
    }
    let empty = IfGuide::default().select(MatRef::<f64>::new(&[], 2, 0).unwrap());
    assert!(matches!(empty, Err(Error::Core(CoreError::Empty { .. }))));
    let half = IfGuide { quantile: 0.5, ..IfGuide::default() };
    let overflow = half.select(MatRef::new(&[-f64::MAX, f64::MAX], 1, 2).unwrap());
    assert!(matches!(overflow, Err(Error::Core(CoreError::NonFinite { .. }))), "the quantile");
    let overflow = half.select(MatRef::new(&[0.0, 0.0, 0.0, 0.0, f64::MAX, f64::MAX, f64::MAX], 1, 7).unwrap());
    assert!(matches!(overflow, Err(Error::Core(CoreError::NonFinite { .. }))), "the sum of a document");

    let gradients = MatRef::new(&[1.0, 2.0], 2, 1).unwrap();
    let (zero, negative) = (Iif { chunk: 0, ..Iif::default() }, Iif { epsilon: -1.0, ..Iif::default() });
    for iif in [zero, negative] {
        assert!(matches!(iif.standardize(&[1.0]), Err(Error::Core(CoreError::Parameter { .. }))));
    }
    assert!(Iif::default().standardize(&[1e200, -1e200]).is_err());
    assert!(Iif::default().target(&[1.0], gradients, Serial).is_err());
    assert!(Iif::default().target(&[], MatRef::<f64>::new(&[], 0, 1).unwrap(), Serial).is_err());
    assert!(Iif::default().scores(&[1.0, 1.0], gradients, &[1.0, 1.0], Serial).is_err());
    assert!(Iif::default().scores(&[1.0], gradients, &[1.0], Serial).is_err());
    for percent in [-1.0, f64::NAN] {
        assert!(IifFilter::PercentOfNegative(percent).keep(&[1.0]).is_err());
    }

    let mut direction = [7.0; 2];
    let one = MatRef::from_row(&[1.0, 2.0]);
    assert!(query_contrast(&mut direction, one, MatRef::from_row(&[1.0])).is_err());
    assert!(query_contrast(&mut direction, one, MatRef::new(&[], 0, 2).unwrap()).is_err());
    let record = LayerRecord::new(1, one, MatRef::from_row(&[1.0]), None, false).unwrap();
    let mut out = [7.0; 2];
    for (rows, cols, v) in [(2, 1, &direction[..]), (1, 2, &direction), (1, 1, &direction[..1])] {
        let out = MatMut::new(&mut out[..rows * cols], rows, cols).unwrap();
        assert!(token_scores(out, 0.0, &record, v, Serial).is_err());
    }
    assert_eq!((direction, out), ([7.0; 2], [7.0; 2]));
}

/// Methods that go from row to row: over none of `usize::MAX` rows without elements.
#[test]
fn rows_without_elements_are_not_stepped_over() {
    use ascribe_solvers::attribution::{CrossCovariance, Dabuf, ProjectedFisher, Trak, fuse_ranks};
    use ascribe_solvers::attribution::{LowRankQuery, TrakEnsemble};
    use ascribe_solvers::curvature::{Filter, Gram};
    const MANY: usize = usize::MAX;
    let none = MatRef::<f64>::new(&[], MANY, 0).unwrap();
    let out = || MatMut::<f64>::new(&mut [], MANY, 0).unwrap();
    let one = MatRef::<f64>::new(&[], 1, 0).unwrap();
    let empty = IfGuide::default().select(none).err();
    assert!(matches!(empty, Some(Error::Core(CoreError::Empty { what: "scores" }))));
    query_contrast(&mut [], none, none).unwrap();
    let refused = LowRankQuery::default().prepare(none, [0, 0]).err();
    assert!(matches!(refused, Some(Error::Core(CoreError::Overflow { .. }))));
    LowRankQuery::default().prepare(one, [MANY, 0]).unwrap();

    let mut covariance = CrossCovariance::new(0, 0).unwrap();
    covariance.add(one, one, Serial).unwrap();
    Dabuf::<f64>::new(&covariance, 0.5, Serial).unwrap().whiten(out(), none).unwrap();
    let before = covariance.rows();
    assert!(covariance.add(none, none, Serial).is_err());
    assert_eq!(covariance.rows(), before);
    let some = MatRef::<f64>::new(&[], 1 << 40, 0).unwrap();
    covariance.add(some, some, Serial).unwrap();
    assert_eq!(covariance.rows(), before + (1 << 40));

    let ensemble: TrakEnsemble = Trak::default().prepare(&[Gram::<f64>::new(0, Serial).unwrap()]).unwrap();
    ensemble.precondition(out(), &[none]).unwrap();
    let fisher = ProjectedFisher::of_rows(&[one], &Filter::default(), Serial).unwrap();
    fisher.precondition(out(), &[none]).unwrap();
    fuse_ranks(out(), &[none], Serial).unwrap();
}
