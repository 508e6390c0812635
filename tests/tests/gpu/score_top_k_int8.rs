//! The fused selection of rows of int8: exact sums, core's order, and the codes of solvers.

use ascribe_core::MatRef;
use ascribe_core::quantize::int8_block::scales_len;
use ascribe_core::random::Stream;
use ascribe_core::rank::{Direction, Ranked, top_k};
use ascribe_core::score::{NORM_FLOOR, Similarity};
use ascribe_gpu::kernel::score_top_k_cost;
use ascribe_gpu::{Best, Error, Gpu, GpuOptions, Int8Rows, Scorer};
use ascribe_tests::tolerance;
use proptest::prelude::*;

use crate::common::tiles;
use crate::{devices, open};

/// The largest code of a query.
const LARGEST: f32 = 32767.0;

struct Rows {
    codes: Vec<i8>,
    scales: Vec<f32>,
    n: usize,
    d: usize,
    block: usize,
}

impl Rows {
    fn upload(&self, gpu: &Gpu) -> Result<Int8Rows, Error> {
        let scales = MatRef::new(&self.scales, self.n, scales_len(self.d, self.block)).unwrap();
        Int8Rows::upload(gpu, MatRef::new(&self.codes, self.n, self.d).unwrap(), scales, self.block)
    }

    fn best(&self, gpu: &Gpu, queries: &[f32], k: [usize; 2], similarity: Similarity) -> Result<Best, Error> {
        let rows = self.upload(gpu)?;
        let q = queries.len() / self.d;
        let queries = gpu.upload(MatRef::new(queries, q, self.d).unwrap())?;
        let mut recorder = gpu.record();
        let mut best = recorder.selection(q, k[0], k[1])?;
        recorder.score_top_k(&mut best, 0, &rows, &queries, &Scorer { similarity, ..Scorer::default() })?;
        let best = recorder.download_best(&best)?;
        let counters = recorder.submit()?.counters();
        let something = self.n * q > 0 && k != [0, 0];
        if gpu.capabilities().max_workgroups >= 1 << 10 && similarity == Similarity::Dot && something {
            // The queries' codes, the scores, and what is kept of them.
            assert_eq!(counters.dispatches, 3);
        }
        best.wait()
    }
}

fn indices(best: &[Vec<Ranked<f32>>]) -> Vec<Vec<(usize, f32)>> {
    best.iter().map(|best| best.iter().map(|ranked| (ranked.index, ranked.score)).collect()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Scales of one and small codes: every sum is exact, and ties are core's.
    #[test]
    fn the_selection_of_core(
        n in prop::sample::select(vec![0, 1, 31, 65, 130]),
        q in prop::sample::select(vec![0, 1, 5, 9]),
        d in prop::sample::select(vec![1, 3, 4, 5, 17, 64, 67]),
        block in prop::sample::select(vec![1, 3, 4, 16, 30, 64, 100]),
        k in [0_usize..20, 0_usize..5], seed in any::<u64>(),
    ) {
        let stream = Stream::new(seed, "int8");
        let code = |i: usize| {
            let spread = if (i % d).is_multiple_of(block) { 3 } else { 9 };
            (stream.words(i as u64, 0)[0] % spread) as i8 - (spread / 2) as i8
        };
        let number = |i: usize| {
            let [random, sign, ..] = stream.words(i as u64, 1);
            if (i % d).is_multiple_of(block) { LARGEST * (2.0 * (sign % 2) as f32 - 1.0) } else { (random % 201) as f32 - 100.0 }
        };
        let rows = Rows {
            codes: (0..n * d).map(code).collect(), scales: vec![1.0; n * scales_len(d, block)], n, d, block,
        };
        let queries: Vec<f32> = (0..q * d).map(number).collect();
        let score = |at: usize| {
            let (x, y) = (&rows.codes[at / q * d..][..d], &queries[at % q * d..][..d]);
            x.iter().zip(y).map(|(&x, &y)| f32::from(x) * y).sum::<f32>()
        };
        let scores: Vec<f32> = (0..n * q).map(score).collect();
        let scores = MatRef::new(&scores, n, q).unwrap();
        for gpu in devices() {
            // A query with a scale for every column is longer than what the small device binds.
            let best = match rows.best(gpu, &queries, k, Similarity::Dot) {
                Err(Error::Limit { what: "bytes of a row", limit, .. }) if limit < 1 << 20 => continue,
                best => best.unwrap(),
            };
            let expected = top_k(scores, k[0], Direction::Largest).unwrap();
            prop_assert_eq!(indices(&best.proponents), indices(&expected));
            let expected = top_k(scores, k[1], Direction::Smallest).unwrap();
            prop_assert_eq!(indices(&best.opponents), indices(&expected));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any numbers: the sum over blocks of exact integers times both scales, with the codes that solvers gives queries.
    #[test]
    fn the_codes_of_solvers(
        n in prop::sample::select(vec![1, 33]), q in prop::sample::select(vec![1, 3, 17]),
        d in prop::sample::select(vec![1, 5, 64, 131, 700, 1100]),
        block in prop::sample::select(vec![1, 7, 64, 512, 600, 5000]),
        cosine in any::<bool>(), exponent in -20_i32..20, seed in any::<u64>(),
    ) {
        let stream = Stream::new(seed, "codes");
        let blocks = scales_len(d, block);
        let codes = (0..n * d).map(|i| stream.words(i as u64, 0)[0] as i8).collect();
        let normals = |lane, len: usize| (0..len).map(move |i| stream.normals(i as u64, lane)[0]);
        let scales = normals(1, n * blocks).map(|x| x.abs() as f32 / 100.0).collect();
        let rows = Rows { codes, scales, n, d, block };
        let queries: Vec<f32> = normals(2, q * d).map(|x| (x * 2.0_f64.powi(exponent)) as f32).collect();
        let number = |i: usize, c: usize| f64::from(rows.codes[i * d + c]) * f64::from(rows.scales[i * blocks + c / block]);
        // Of a row and a query: the score, the sum of magnitudes, and what the steps of the codes are good for.
        let truth = |i: usize, query: &[f32]| {
            let (mut sum, mut absolute, mut coded) = (0.0, 0.0, 0.0);
            for (b, y) in query.chunks(block).enumerate() {
                let step = y.iter().fold(0.0_f32, |largest, y| largest.max(y.abs())) / LARGEST;
                for (c, y) in (b * block..).zip(y) {
                    let code = if cosine { f64::from(*y) } else { f64::from((y / step).round_ties_even()) * f64::from(step) };
                    sum += number(i, c) * code;
                    absolute += (number(i, c) * code).abs();
                    coded += number(i, c).abs() * f64::from(step);
                }
            }
            (sum, absolute, coded)
        };
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt().max(NORM_FLOOR);
        let segments = blocks * block.min(d).div_ceil(512);
        let similarity = if cosine { Similarity::Cosine } else { Similarity::Dot };
        let Some(gpu) = devices().first() else { return Ok(()) };
        let best = rows.best(gpu, &queries, [n, 0], similarity).unwrap();
        for (query, best) in queries.chunks(d).zip(best.proponents) {
            for ranked in best {
                let (sum, absolute, coded) = truth(ranked.index, query);
                let scale = if cosine {
                    norm(&mut (0..d).map(|c| number(ranked.index, c))) * norm(&mut query.iter().map(|&y| y.into()))
                } else {
                    1.0
                };
                let bound = tolerance::device_int8(d, segments, cosine, coded / scale, absolute / scale);
                let error = (f64::from(ranked.score) - sum / scale).abs();
                prop_assert!(error <= bound, "{} for {} within {bound}", ranked.score, sum / scale);
            }
        }
    }
}

/// A scale that is NaN makes a row rank last in both directions; so does a query that is not finite, for all rows.
#[test]
fn what_is_not_finite() {
    for gpu in devices() {
        let rows = Rows { codes: vec![1, 2, 3, 4, 5, 6], scales: vec![1.0, f32::NAN, 1.0], n: 3, d: 2, block: 2 };
        let best = rows.best(gpu, &[1.0, 0.0, f32::INFINITY, 0.0, 0.0, 0.0], [3, 3], Similarity::Dot).unwrap();
        let order = |best: &[Ranked<f32>]| best.iter().map(|ranked| ranked.index).collect::<Vec<_>>();
        assert_eq!(order(&best.proponents[0]), [2, 0, 1]);
        assert_eq!(order(&best.opponents[0]), [0, 2, 1]);
        assert!(best.proponents[1].iter().all(|ranked| ranked.score.is_nan()));
        assert_eq!(order(&best.opponents[2]), [0, 2, 1]);
        assert_eq!(best.proponents[2][0].score, 0.0);
    }
}

/// The narrowest tile for few queries; for many, and enough rows, the largest one whose panels of codes fit.
#[test]
fn every_tile() {
    let (n, d) = (4096, 3);
    let codes = (0..n * d).map(|i| (i * 7 % 31) as i8 - 15).collect();
    let rows = Rows { codes, scales: vec![1.0; n], n, d, block: d };
    for (bytes, q, tile) in [
        (16 << 10, 4, [1, 32, 8]),
        (16 << 10, 8, [2, 16, 16]),
        (16 << 10, 16, [4, 16, 16]),
        (16 << 10, 32, [8, 16, 16]),
        (16 << 10, 512, [16, 16, 16]),
        (12 << 10, 256, [16, 8, 16]),
        (8 << 10, 32, [8, 4, 16]),
    ] {
        let Some(gpu) = open(&GpuOptions { max_workgroup_bytes: Some(bytes), ..GpuOptions::default() }) else { return };
        let queries: Vec<f32> = (0..q * d).map(|i| if i % d == 0 { LARGEST } else { (i % 201) as f32 }).collect();
        let score = |at: usize| {
            let (x, y) = (&rows.codes[at / q * d..][..d], &queries[at % q * d..][..d]);
            x.iter().zip(y).map(|(&x, &y)| f32::from(x) * y).sum::<f32>()
        };
        let scores: Vec<f32> = (0..n * q).map(score).collect();
        let rows = rows.upload(&gpu).unwrap();
        let queries = gpu.upload(MatRef::new(&queries, q, d).unwrap()).unwrap();
        let mut recorder = gpu.record();
        let mut best = recorder.selection(q, 5, 0).unwrap();
        recorder.score_top_k(&mut best, 0, &rows, &queries, &Scorer::default()).unwrap();
        assert_eq!(tiles(&recorder, "score_top_k_int8"), [tile]);
        assert!(score_top_k_cost(&(&rows).into(), q).workgroup_bytes >= 32 * tile[2] * (tile[0] + tile[1]));
        let best = recorder.download_best(&best).unwrap();
        recorder.submit().unwrap();
        let expected = top_k(MatRef::new(&scores, n, q).unwrap(), 5, Direction::Largest).unwrap();
        assert_eq!(indices(&best.wait().unwrap().proponents), indices(&expected));
    }
}

#[test]
fn with_little_workgroup_memory() {
    for (bytes, enough) in [(4096, true), (1024, false)] {
        let options = GpuOptions { max_workgroup_bytes: Some(bytes), ..GpuOptions::default() };
        let Some(gpu) = open(&options) else { return };
        let rows = Rows { codes: vec![1, -2, 3, 4], scales: vec![1.0, 2.0], n: 2, d: 2, block: 64 };
        let best = rows.best(&gpu, &[1.0, 1.0], [1, 1], Similarity::Dot);
        match best {
            Ok(best) => assert!(enough && best.proponents[0][0].index == 1 && best.opponents[0][0].index == 0),
            Err(error) => assert!(!enough && matches!(error, Error::Limit { .. }), "{error}"),
        }
    }
}
