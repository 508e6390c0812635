//! Scales, norms, codes and scores; and what is left of a recorder that was dropped.

use ascribe_core::linop::apply_alloc;
use ascribe_core::quantize::int8_block::scales_len;
use ascribe_core::random::Stream;
use ascribe_core::scale;
use ascribe_core::score::Similarity;
use ascribe_core::sketch::Sjlt;
use ascribe_core::{MatMut, MatRef};
use ascribe_gpu::{Adafactor, Best, Error, Int8Rows, Matrix, Scorer, StoredRows};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::{Case, Operation, Stop, equal, judge, zeros};

pub(super) const OPERATIONS: &[(&str, Operation)] = &[
    ("adam", adam),
    ("less", less),
    ("adafactor", adafactor),
    ("normalize", normalize),
    ("quantize_int8", quantize_int8),
    ("score_top_k", score_top_k),
    ("dropped", dropped),
];

fn eps(case: &mut Case<'_>) -> f64 {
    if case.mismatched { case.value().into() } else { 1e-8 }
}

fn adam(case: &mut Case<'_>) -> Result<(), Stop> {
    let [n, p] = [case.size(), case.size()];
    let [rows, of] = [case.fit(1), case.fit(p)];
    let (x, v, eps) = (case.matrix(n, p)?, case.matrix(rows, of)?, eps(case));
    let core =
        case.core(|| apply_alloc(&scale::Adam::new(&zeros(of), eps)?, MatRef::new(&zeros(n * p), n, p)?).map(drop));
    case.made([n, p], core.map(|core| core && rows == 1), |recorder| recorder.adam(&x, &v, eps))
}

fn less(case: &mut Case<'_>) -> Result<(), Stop> {
    let [n, p] = [case.size(), case.size()];
    let [rows, of_m, of_v] = [case.fit(1), case.fit(p), case.fit(p)];
    let (x, m, v) = (case.matrix(n, p)?, case.matrix(1, of_m)?, case.matrix(rows, of_v)?);
    let mut rule = scale::Less { eps: eps(case), ..scale::Less::default() };
    if case.mismatched {
        (rule.beta1, rule.beta2) = (case.value().into(), case.value().into());
    }
    let core = case.core(|| {
        let (x, mut out) = (zeros(n * p), zeros(n * p));
        rule.apply(MatMut::new(&mut out, n, p)?, MatRef::new(&x, n, p)?, &zeros(of_m), &zeros(of_v))
    });
    case.made([n, p], core.map(|core| core && rows == 1), |recorder| recorder.less(&rule, &x, &m, &v))
}

fn adafactor(case: &mut Case<'_>) -> Result<(), Stop> {
    let [n, outputs, inputs] = [case.size(), case.size() % 3000, case.size() % 3000];
    let (row, col, eps) = (case.values(outputs), case.values(inputs), eps(case));
    let moments = scale::Adafactor { row: &row, col: &col, eps };
    let on_device = Adafactor::upload(case.place(), &moments);
    let valid = eps >= 0.0 && eps.is_finite();
    judge(&on_device, (!valid).then_some(false))?;
    let (on_device, [d_out, d_in]) = (on_device?, [case.fit(outputs), case.fit(inputs)]);
    let delta = case.matrix(n, d_out)?;
    case.made(
        [n, d_out],
        case.core(|| {
            let (x, mut out) = (zeros(n * d_out), zeros(n * d_out));
            moments.scale_outputs(MatMut::new(&mut out, n, d_out)?, MatRef::new(&x, n, d_out)?)
        }),
        |recorder| recorder.adafactor_outputs(&on_device, &delta),
    )?;
    let x = case.matrix(n, d_in)?;
    case.made(
        [n, d_in],
        case.core(|| {
            let (x, mut out) = (zeros(n * d_in), zeros(n * d_in));
            moments.scale_inputs(MatMut::new(&mut out, n, d_in)?, MatRef::new(&x, n, d_in)?)
        }),
        |recorder| recorder.adafactor_inputs(&on_device, &x),
    )?;
    let v = case.matrix(1, inputs)?;
    case.made([n, d_in], case.core(|| Ok(())).map(|core| core && d_in == inputs), |recorder| {
        recorder.adafactor_bias(&x, &v, eps)
    })
}

/// Rows in any format.
enum Rows {
    F32(Matrix<f32>),
    F16(Matrix<u16>),
    Bf16(Matrix<u16>),
    Int8(Int8Rows),
}

impl Rows {
    fn draw(case: &mut Case<'_>, n: usize, d: usize) -> Result<Self, Stop> {
        let halves = |x: f32| (x.to_bits() >> 16) as u16;
        Ok(match case.byte() % 5 {
            0 => Self::F32(case.matrix(n, d)?),
            1 => Self::F16(case.matrix_of(n, d, halves)?),
            2 => Self::Bf16(case.matrix_of(n, d, halves)?),
            _ => {
                let block = case.size();
                let [rows, cols] = [case.fit(n), case.fit(scales_len(d, block))];
                let codes = case.matrix_of(n, d, |x| (x.to_bits() >> 20) as i8)?;
                let scales = case.matrix(rows, cols)?;
                let made = Int8Rows::new(codes, scales, block);
                // All of it may live elsewhere.
                let fits = (rows, cols) == (n, scales_len(d, block)) && block > 0;
                judge(&made, (!case.drawn.foreign).then_some(fits))?;
                Self::Int8(made?)
            }
        })
    }

    fn stored(&self) -> StoredRows<'_> {
        match self {
            Self::F32(x) => x.into(),
            Self::F16(bits) => StoredRows::F16(bits),
            Self::Bf16(bits) => StoredRows::Bf16(bits),
            Self::Int8(x) => x.into(),
        }
    }
}

fn normalize(case: &mut Case<'_>) -> Result<(), Stop> {
    let [n, d] = [case.size(), case.size()];
    let rows = Rows::draw(case, n, d)?;
    case.made([n, d], case.core(|| Ok(())), |recorder| recorder.normalize(rows.stored()))?;
    case.made([n, 1], case.core(|| Ok(())), |recorder| recorder.row_norms(rows.stored()))
}

fn quantize_int8(case: &mut Case<'_>) -> Result<(), Stop> {
    let [n, d, block] = [case.size(), case.size(), case.size()];
    let x = case.matrix(n, d)?;
    let core = case.core(|| Ok(())).map(|core| core && block > 0);
    let made = case.attempt(core, |recorder| recorder.quantize_int8(&x, block))?;
    equal(&[made.codes().rows(), made.codes().cols()], &[n, d])?;
    equal(&[made.scales().rows(), made.scales().cols()], &[n, scales_len(d, block)])?;
    case.arrives(made.codes(), n * d)?;
    case.arrives(made.scales(), n * scales_len(d, block))
}

/// Scores of any rows, offered to a selection twice: what is refused changes nothing, and what is selected was offered.
fn score_top_k(case: &mut Case<'_>) -> Result<(), Stop> {
    let [n, d, q] = [case.size(), case.size(), case.short()];
    let rows = Rows::draw(case, n, d)?;
    let [of_queries, of_selection, of_scales, width] = [d, q, n, 1].map(|size| case.fit(size));
    let queries = case.matrix(q, of_queries)?;
    let scales = case.flag().then(|| case.matrix(of_scales, width)).transpose()?;
    let offsets = case.flag().then(|| case.matrix(n, 1)).transpose()?;
    let k = [case.size(), case.size()];
    let mut best = case.attempt(None, |recorder| recorder.selection(of_selection, k[0], k[1]))?;
    let first = if case.flag() { case.size() } else { (u32::MAX as usize).saturating_sub(case.fit(n)) };
    let similarity = case.one_of(&[Similarity::Dot, Similarity::Cosine]);
    let scorer = Scorer { similarity, row_scale: scales.as_ref(), row_offset: offsets.as_ref() };
    let fits = (of_queries, of_selection) == (d, q)
        && (scales.is_none() || (of_scales, width) == (n, 1))
        && first.checked_add(n).is_some_and(|end| u32::try_from(end).is_ok())
        && (n == 0 || d > 0);
    for offered in [n, 2 * n] {
        let before = case.recorder.download_best(&best)?;
        let core = case.core(|| Ok(())).map(|core| core && fits);
        let result =
            case.attempt(core, |recorder| recorder.score_top_k(&mut best, first, rows.stored(), &queries, &scorer));
        if let Err(Stop::Law(_)) = result {
            return result;
        }
        let after = case.recorder.download_best(&best)?;
        case.later.push(Box::new(move || {
            let [before, after] = [before, after].map(ascribe_gpu::PendingBest::wait);
            // Equal texts, because of NaN.
            let unchanged = || equal(&format!("{before:?}"), &format!("{after:?}"));
            if result.is_ok() { selected(after, of_selection, k, offered, first, n) } else { unchanged() }
        }));
    }
    Ok(())
}

fn selected(
    best: Result<Best, Error>,
    q: usize,
    k: [usize; 2],
    offered: usize,
    first: usize,
    n: usize,
) -> TestCaseResult {
    let Best { proponents, opponents } = best.map_err(|error| TestCaseError::fail(error.to_string()))?;
    for (lists, k) in [(proponents, k[0]), (opponents, k[1])] {
        prop_assert_eq!(lists.len(), q);
        for list in lists {
            prop_assert_eq!(list.len(), k.min(offered));
            prop_assert!(list.iter().all(|ranked| (first..first + n).contains(&ranked.index)), "{list:?}");
        }
    }
    Ok(())
}

/// Handles whose recorder was never submitted: what they stand for was never computed, and the memory holds anything. They
/// may be used, and come to an end: a table without entries gives zeros, a selection gives anything.
fn dropped(case: &mut Case<'_>) -> Result<(), Stop> {
    let (p, k, n, q) = (1 + case.size() % 300, 1 + case.size() % 300, case.size() % 70, 1 + case.byte() % 3);
    // What comes back from the pool: ends of buckets before and after their starts, and counts of candidates.
    let odd = case.byte() % 2;
    let garbage: Vec<u32> = (odd..512 + odd).map(|i| if i % 2 == 0 { 0 } else { u32::MAX - 7 }).collect();
    let used = [1, q, p, k + 1].map(|len| [0; 6].map(|_: u8| case.gpu.upload(MatRef::from_row(&garbage[..len]))));
    drop(used);
    let mut unsubmitted = case.gpu.record();
    let table = unsubmitted.draw_sjlt(&Sjlt::new(p, k, 1, Stream::new(0, "dropped"))?)?;
    let mut best = unsubmitted.selection(q, 1, 1)?;
    let rows = unsubmitted.zeros(n, p)?;
    let queries = unsubmitted.scaled(1.0, &rows)?;
    let lost = unsubmitted.download(&queries)?;
    drop(unsubmitted);
    // Without elements there is nothing to wait for.
    equal(&lost.wait().is_err(), &(n > 0))?;
    let sketch = case.attempt(None, |recorder| recorder.sjlt(&table, &queries))?;
    let sketch = case.recorder.download(&sketch)?;
    // Its buckets are empty.
    case.later.push(Box::new(move || equal(&sketch.wait(), &Ok(zeros(n * k)))));
    let queries = case.matrix(q, p)?;
    case.attempt(None, |recorder| recorder.score_top_k(&mut best, 0, &rows, &queries, &Scorer::default()))?;
    let best = case.recorder.download_best(&best)?;
    case.later.push(Box::new(move || {
        prop_assert!(best.wait().is_ok());
        Ok(())
    }));
    Ok(())
}
