//! The fused selection against scores and ranks of core.

use ascribe_core::quantize::half::{bf16_from_f32, f16_from_f32};
use ascribe_core::random::Stream;
use ascribe_core::rank::{Direction, Ranked, top_k};
use ascribe_core::score::{NORM_FLOOR, Similarity};
use ascribe_core::{Error as CoreError, MatMut, MatRef, score};
use ascribe_gpu::kernel::score_top_k_cost;
use ascribe_gpu::{Best, Error, Gpu, Matrix, Scorer, Selection, StoredRows};
use ascribe_tests::tolerance;
use proptest::prelude::*;

use crate::common::tiles;
use crate::{devices, open};

/// Small integers, of which every product and sum is exact, and with them ties.
fn integers(stream: Stream, len: usize, spread: u32) -> Vec<f32> {
    (0..len).map(|i| (stream.words(i as u64, 0)[0] % spread) as f32 - (spread / 2) as f32).collect()
}

fn upload(gpu: &Gpu, x: &[f32], rows: usize, cols: usize) -> Matrix<f32> {
    gpu.upload(MatRef::new(x, rows, cols).unwrap()).unwrap()
}

/// Indices, and bits of scores, where one NaN is as good as another.
fn plain(best: &[Vec<Ranked<f32>>]) -> Vec<Vec<(usize, u32)>> {
    let bits = |x: f32| if x.is_nan() { f32::NAN.to_bits() } else { (x + 0.0).to_bits() };
    best.iter().map(|best| best.iter().map(|r| (r.index, bits(r.score))).collect()).collect()
}

fn check_exact(best: &Best, scores: MatRef<'_, f32>, k: [usize; 2]) -> Result<(), TestCaseError> {
    let expected = top_k(scores, k[0], Direction::Largest).unwrap();
    prop_assert_eq!(plain(&best.proponents), plain(&expected));
    let expected = top_k(scores, k[1], Direction::Smallest).unwrap();
    prop_assert_eq!(plain(&best.opponents), plain(&expected));
    Ok(())
}

fn rows_of(stored: &Stored, first: usize, rows: usize) -> StoredRows<'_> {
    match stored {
        Stored::F32(parts) => StoredRows::F32(&parts.iter().find(|part| part.0 == (first, rows)).unwrap().1),
        Stored::F16(parts) => StoredRows::F16(&parts.iter().find(|part| part.0 == (first, rows)).unwrap().1),
        Stored::Bf16(parts) => StoredRows::Bf16(&parts.iter().find(|part| part.0 == (first, rows)).unwrap().1),
    }
}

/// The same rows in each format, cut into parts.
enum Stored {
    F32(Vec<((usize, usize), Matrix<f32>)>),
    F16(Vec<((usize, usize), Matrix<u16>)>),
    Bf16(Vec<((usize, usize), Matrix<u16>)>),
}

fn stored(gpu: &Gpu, x: &[f32], d: usize, parts: &[(usize, usize)]) -> [Stored; 3] {
    let part = |&(first, rows): &(usize, usize)| &x[first * d..(first + rows) * d];
    let halves = |encode: fn(f32) -> u16| {
        let upload = |at: &(usize, usize)| {
            let bits: Vec<u16> = part(at).iter().map(|&x| encode(x)).collect();
            (*at, gpu.upload(MatRef::new(&bits, at.1, d).unwrap()).unwrap())
        };
        parts.iter().map(upload).collect()
    };
    let numbers = parts.iter().map(|at| (*at, upload(gpu, part(at), at.1, d))).collect();
    [Stored::F32(numbers), Stored::F16(halves(f16_from_f32)), Stored::Bf16(halves(bf16_from_f32))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Integers with ties, NaN and infinities among them, in two batches that come in any order: core's selection.
    #[test]
    fn the_selection_of_core(
        n in prop::sample::select(vec![0, 1, 2, 31, 64, 65, 130, 200]),
        q in prop::sample::select(vec![0, 1, 3, 4, 5, 8, 9, 17, 33]),
        d in prop::sample::select(vec![1, 2, 3, 4, 7, 16, 19, 64]),
        k in [prop::sample::select(vec![0_usize, 1, 2, 7, 40, 60]), prop::sample::select(vec![0, 1, 5])],
        cut in 0_usize..100, swapped in any::<bool>(), adjusted in any::<[bool; 2]>(), odd in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let stream = Stream::new(seed, "top k");
        let mut x = integers(stream.child(0), n * d, 9);
        let y = integers(stream.child(1), q * d, 5);
        if odd && n > 2 {
            (x[0], x[d], x[2 * d]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
        }
        let factors: Vec<f32> = integers(stream.child(2), n, 4).iter().map(|x| 2.0_f32.powi(*x as i32)).collect();
        let offsets = integers(stream.child(3), n, 6);
        let mut scores = vec![0.0; n * q];
        let (train, queries) = (MatRef::new(&x, n, d).unwrap(), MatRef::new(&y, q, d).unwrap());
        score::scores(MatMut::new(&mut scores, n, q).unwrap(), train, queries).unwrap();
        for (i, score) in scores.iter_mut().enumerate() {
            if adjusted[0] { *score *= factors[i / q]; }
            if adjusted[1] { *score += offsets[i / q]; }
        }
        let scores = MatRef::new(&scores, n, q).unwrap();
        let first = n * cut / 100;
        let mut parts = [(0, first), (first, n - first)];
        if swapped {
            parts.reverse();
        }
        for gpu in devices() {
            let queries = upload(gpu, &y, q, d);
            for format in stored(gpu, &x, d, &parts) {
                let mut recorder = gpu.record();
                let mut best = recorder.selection(q, k[0], k[1]).unwrap();
                for (first, rows) in parts {
                    let [row_scale, row_offset] =
                        [&factors, &offsets].map(|values| upload(gpu, &values[first..first + rows], rows, 1));
                    let scorer = Scorer {
                        row_scale: adjusted[0].then_some(&row_scale),
                        row_offset: adjusted[1].then_some(&row_offset),
                        ..Scorer::default()
                    };
                    let rows = rows_of(&format, first, rows);
                    recorder.score_top_k(&mut best, first, rows, &queries, &scorer).unwrap();
                }
                let best = recorder.download_best(&best).unwrap();
                recorder.submit().unwrap();
                check_exact(&best.wait().unwrap(), scores, k)?;
            }
        }
    }

    /// Normal numbers, and the cosine: scores within their bound, and none left out that is better by more.
    #[test]
    fn scores_within_their_bound(
        n in prop::sample::select(vec![1, 33, 129]), q in prop::sample::select(vec![1, 5, 66]),
        d in prop::sample::select(vec![1, 5, 64, 131, 252]), k in 1_usize..20, cosine in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let stream = Stream::new(seed, "scores");
        let normals = |lane, len: usize| (0..len).map(|i| stream.normals(i as u64, lane)[0] as f32).collect::<Vec<_>>();
        let (x, y) = (normals(0, n * d), normals(1, q * d));
        let similarity = if cosine { Similarity::Cosine } else { Similarity::Dot };
        let truth = |i: usize, query: usize| {
            let (x, y) = (&x[i * d..(i + 1) * d], &y[query * d..(query + 1) * d]);
            let norm = |x: &[f32]| x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt().max(NORM_FLOOR);
            let scale = if cosine { norm(x) * norm(y) } else { 1.0 };
            let terms = x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y));
            let (sum, absolute) = terms.fold((0.0, 0.0), |(s, t), x| (s + x, t + x.abs()));
            (sum / scale, absolute / scale)
        };
        let bound = |absolute| tolerance::device_score(d, cosine, absolute);
        for gpu in devices() {
            let (train, queries) = (upload(gpu, &x, n, d), upload(gpu, &y, q, d));
            let mut recorder = gpu.record();
            let mut best = recorder.selection(q, k, k).unwrap();
            let scorer = Scorer { similarity, ..Scorer::default() };
            recorder.score_top_k(&mut best, 0, &train, &queries, &scorer).unwrap();
            let best = recorder.download_best(&best).unwrap();
            recorder.submit().unwrap();
            let best = pollster::block_on(best).unwrap();
            for (side, sign) in [(best.proponents, 1.0), (best.opponents, -1.0)] {
                for (query, best) in side.iter().enumerate() {
                    prop_assert_eq!(best.len(), k.min(n));
                    for ranked in best {
                        let (expected, absolute) = truth(ranked.index, query);
                        let error = (f64::from(ranked.score) - expected).abs();
                        prop_assert!(error <= bound(absolute), "{} for {expected}", ranked.score);
                    }
                    let last = f64::from(best[best.len() - 1].score);
                    for i in (0..n).filter(|i| best.iter().all(|ranked| ranked.index != *i)) {
                        let (score, absolute) = truth(i, query);
                        prop_assert!(sign * (score - last) <= bound(absolute), "row {i} was left out");
                    }
                }
            }
        }
    }
}

/// More rows than one chunk, in an order in which every row is a candidate, and in the opposite one.
#[test]
fn chunks_that_grow() {
    let Some(gpu) = devices().first() else { return };
    let n = 40_000;
    for rising in [1.0, -1.0] {
        let x: Vec<f32> = (0..n).map(|i| rising * (i / 3) as f32).collect();
        let (train, queries) = (upload(gpu, &x, n, 1), upload(gpu, &[1.0, -2.0, 0.0], 3, 1));
        let mut recorder = gpu.record();
        let mut best = recorder.selection(3, 300, 5).unwrap();
        recorder.score_top_k(&mut best, 0, &train, &queries, &Scorer::default()).unwrap();
        let best = recorder.download_best(&best).unwrap();
        // Of 4096 rows, 28,672, and the rest.
        assert_eq!(recorder.submit().unwrap().counters().dispatches, 6);
        let best = best.wait().unwrap();
        let scores: Vec<f32> = x.iter().flat_map(|x| [*x, -2.0 * x, 0.0 * x]).collect();
        check_exact(&best, MatRef::new(&scores, n, 3).unwrap(), [300, 5]).unwrap();
    }
}

/// Batches that bring no candidate for a side leave its list, and what later rows are measured by, as they are.
#[test]
fn batches_without_candidates() {
    for gpu in devices() {
        let batches =
            [[4.0_f32, -4.0, 3.0, -3.0], [0.5, 1.0, 2.0, -2.0], [0.0; 4], [5.0, 0.0, 3.0, -1.0], [0.0, 9.0, 1.0, 3.5]];
        let queries = upload(gpu, &[1.0, 0.5], 2, 1);
        let mut recorder = gpu.record();
        let mut best = recorder.selection(2, 2, 2).unwrap();
        for (i, batch) in batches.iter().enumerate() {
            let rows = upload(gpu, batch, 4, 1);
            recorder.score_top_k(&mut best, 4 * i, &rows, &queries, &Scorer::default()).unwrap();
        }
        let best = recorder.download_best(&best).unwrap();
        recorder.submit().unwrap();
        let scores: Vec<f32> = batches.iter().flatten().flat_map(|x| [*x, 0.5 * x]).collect();
        check_exact(&best.wait().unwrap(), MatRef::new(&scores, 20, 2).unwrap(), [2, 2]).unwrap();
    }
}

/// Few queries take the narrowest tile that has room for all of them.
#[test]
fn every_narrow_tile() {
    let Some(gpu) = devices().first() else { return };
    let (n, d) = (259, 21);
    let x = integers(Stream::new(0, "narrow"), n * d, 9);
    let halves: Vec<u16> = x.iter().map(|&x| f16_from_f32(x)).collect();
    let train = upload(gpu, &x, n, d);
    let halves = gpu.upload(MatRef::new(&halves, n, d).unwrap()).unwrap();
    for (q, tile) in [
        (4, [1, 32, 8]),
        (5, [2, 16, 16]),
        (8, [2, 16, 16]),
        (9, [4, 16, 16]),
        (16, [4, 16, 16]),
        (17, [8, 16, 16]),
        (32, [8, 16, 16]),
        (33, [8, 4, 16]),
    ] {
        let y = integers(Stream::new(1, "narrow"), q * d, 5);
        let mut scores = vec![0.0; n * q];
        let queries = MatRef::new(&y, q, d).unwrap();
        score::scores(MatMut::new(&mut scores, n, q).unwrap(), MatRef::new(&x, n, d).unwrap(), queries).unwrap();
        let queries = upload(gpu, &y, q, d);
        for rows in [StoredRows::F32(&train), StoredRows::F16(&halves)] {
            let mut recorder = gpu.record();
            let mut best = recorder.selection(q, 7, 3).unwrap();
            recorder.score_top_k(&mut best, 0, rows, &queries, &Scorer::default()).unwrap();
            assert_eq!(tiles(&recorder, "score_top_k"), [tile], "{q} queries");
            let best = recorder.download_best(&best).unwrap();
            recorder.submit().unwrap();
            check_exact(&best.wait().unwrap(), MatRef::new(&scores, n, q).unwrap(), [7, 3]).unwrap();
        }
    }
}

#[test]
fn what_it_costs() {
    let Some(gpu) = devices().first() else { return };
    for (cosine, dispatches) in [(Similarity::Dot, 2), (Similarity::Cosine, 4)] {
        let mut recorder = gpu.record();
        let (train, queries) = (recorder.zeros::<f32>(100, 12).unwrap(), recorder.zeros(10, 12).unwrap());
        let mut best = recorder.selection(10, 3, 3).unwrap();
        let scorer = Scorer { similarity: cosine, ..Scorer::default() };
        recorder.score_top_k(&mut best, 7, &train, &queries, &scorer).unwrap();
        if cosine == Similarity::Dot {
            assert_eq!(recorder.cost(), score_top_k_cost(&(&train).into(), 10));
        }
        let pending = recorder.download_best(&best).unwrap();
        let counters = recorder.submit().unwrap().counters();
        assert_eq!((counters.dispatches, counters.passes, counters.bytes_down), (dispatches, 1, 10 * 6 * 8));
        // Zeros all tie.
        assert!(pending.wait().unwrap().opponents.iter().all(|best| best.iter().map(|r| r.index).eq(7..10)));
    }
}

#[test]
fn runs_repeat_their_bits() {
    for gpu in devices() {
        let x: Vec<f32> = (0..100 * 37).map(|i| Stream::new(1, "bits").normals(i, 0)[0] as f32).collect();
        let train = upload(gpu, &x, 100, 37);
        let queries = upload(gpu, &x[..5 * 37], 5, 37);
        let run = || {
            let mut recorder = gpu.record();
            let mut best = recorder.selection(5, 9, 9).unwrap();
            recorder.score_top_k(&mut best, 0, &train, &queries, &Scorer::default()).unwrap();
            let best = recorder.download_best(&best).unwrap();
            recorder.submit().unwrap();
            best.wait().unwrap()
        };
        assert_eq!(run(), run());
    }
}

#[test]
fn wrong_arguments() {
    let [one, other, ..] = devices() else { return };
    let mut recorder = one.record();
    let x = recorder.zeros::<f32>(4, 3).unwrap();
    let (y, wide) = (recorder.zeros::<f32>(2, 3).unwrap(), recorder.zeros::<f32>(2, 4).unwrap());
    let mut best: Selection = recorder.selection(2, 1, 0).unwrap();
    let scorer = Scorer::default();
    let shape = |what, expected, got| Error::Core(CoreError::Shape { what, expected, got });
    let error = recorder.score_top_k(&mut best, 0, &x, &wide, &scorer).unwrap_err();
    assert_eq!(error, shape("query columns", 3, 4));
    let error = recorder.score_top_k(&mut best, 0, &x, &x, &scorer).unwrap_err();
    assert_eq!(error, shape("queries of the selection", 2, 4));
    let wrong = Scorer { row_scale: Some(&y), ..scorer };
    assert_eq!(recorder.score_top_k(&mut best, 0, &x, &y, &wrong).unwrap_err(), shape("row scales", 1, 3));
    let few = recorder.zeros::<f32>(3, 1).unwrap();
    let wrong = Scorer { row_offset: Some(&few), ..scorer };
    assert_eq!(recorder.score_top_k(&mut best, 0, &x, &y, &wrong).unwrap_err(), shape("row offsets", 4, 3));
    let last = u32::MAX as usize - 4;
    assert_eq!(recorder.score_top_k(&mut best, last, &x, &y, &scorer), Ok(()));
    let error = recorder.score_top_k(&mut best, last + 1, &x, &y, &scorer).unwrap_err();
    assert_eq!(error, Error::Limit { what: "example index", needed: 1 << 32, limit: u32::MAX.into() });
    let error = recorder.score_top_k(&mut best, usize::MAX, &x, &y, &scorer).unwrap_err();
    assert!(matches!(error, Error::Limit { what: "example index", .. }));
    let (nothing, none) = (recorder.zeros::<f32>(4, 0).unwrap(), recorder.zeros::<f32>(2, 0).unwrap());
    let error = recorder.score_top_k(&mut best, 0, &nothing, &none, &scorer).unwrap_err();
    assert_eq!(error, Error::Core(CoreError::Empty { what: "columns of the rows" }));
    assert_eq!(
        recorder.selection(2, usize::MAX, 1).unwrap_err(),
        Error::Core(CoreError::Overflow { what: "examples of a query" })
    );
    let theirs = other.record().zeros::<f32>(2, 3).unwrap();
    assert_eq!(recorder.score_top_k(&mut best, 0, &x, &theirs, &scorer).unwrap_err(), Error::Foreign);
    assert_eq!(recorder.score_top_k(&mut best, 0, &theirs, &y, &scorer).unwrap_err(), Error::Foreign);
    let mut elsewhere = other.record().selection(2, 1, 0).unwrap();
    assert_eq!(recorder.score_top_k(&mut elsewhere, 0, &x, &y, &scorer).unwrap_err(), Error::Foreign);
}

/// A device whose workgroups have little memory takes other tiles.
#[test]
fn with_little_workgroup_memory() {
    let options = ascribe_gpu::GpuOptions { max_workgroup_bytes: Some(4096), ..Default::default() };
    let Some(gpu) = open(&options) else { return };
    let x: Vec<f32> = (0..30).map(|i| (i % 7) as f32).collect();
    let (train, queries) = (upload(&gpu, &x, 15, 2), upload(&gpu, &[1.0, 1.0, 0.5, -1.0], 2, 2));
    let mut recorder = gpu.record();
    let mut best = recorder.selection(2, 20, 20).unwrap();
    recorder.score_top_k(&mut best, 0, &train, &queries, &Scorer::default()).unwrap();
    let best = recorder.download_best(&best).unwrap();
    recorder.submit().unwrap();
    let scores: Vec<f32> = x.chunks(2).flat_map(|x| [x[0] + x[1], 0.5 * x[0] - x[1]]).collect();
    check_exact(&best.wait().unwrap(), MatRef::new(&scores, 15, 2).unwrap(), [20, 20]).unwrap();
}
