//! The product against one in f64, within the bound of core's.

use ascribe_core::random::Stream;
use ascribe_core::{Error as CoreError, MatRef};
use ascribe_gpu::kernel::{gemm_cost, gram_cost, quantize_int8_cost};
use ascribe_gpu::shader::SUBGROUPS;
use ascribe_gpu::{Error, Gpu, GpuOptions, Matrix, Operand, Step};
use ascribe_tests::tolerance;
use proptest::prelude::*;

use crate::common::tiles;
use crate::{SMALL_BINDING, devices, open};

/// `rows x cols` normal numbers, and the same on the device, stored transposed or not.
fn operand(gpu: &Gpu, stream: Stream, rows: usize, cols: usize, transposed: bool) -> (Vec<f64>, Matrix<f32>) {
    let value = |i: usize| stream.normals(i as u64, 0)[0] as f32;
    let at = |i: usize| if transposed { i % rows.max(1) * cols + i / rows.max(1) } else { i };
    let stored: Vec<f32> = (0..rows * cols).map(|i| value(at(i))).collect();
    let (r, c) = if transposed { (cols, rows) } else { (rows, cols) };
    let matrix = gpu.upload(MatRef::new(&stored, r, c).unwrap()).unwrap();
    ((0..rows * cols).map(|i| f64::from(value(i))).collect(), matrix)
}

/// `alpha A B + beta C` and the same of absolute values.
fn product(a: &[f64], b: &[f64], c: &[f64], k: usize, n: usize, [beta, alpha]: [f64; 2]) -> Vec<(f64, f64)> {
    let element = |(i, &c): (usize, &f64)| {
        let (row, col) = (i / n, i % n);
        let terms = (0..k).map(|p| a[row * k + p] * b[p * n + col]);
        let (sum, absolute) = terms.fold((0.0, 0.0), |(s, t), x: f64| (s + x, t + x.abs()));
        (alpha * sum + beta * c, alpha.abs() * absolute + (beta * c).abs())
    };
    c.iter().enumerate().map(element).collect()
}

fn check(gpu: &Gpu, [m, k, n]: [usize; 3], [at, bt]: [bool; 2], seed: u64) -> Result<(), TestCaseError> {
    let stream = Stream::new(seed, "gemm");
    let (a, a_device) = operand(gpu, stream.child(0), m, k, at);
    let (b, b_device) = operand(gpu, stream.child(1), k, n, bt);
    let (c, mut c_device) = operand(gpu, stream.child(2), m, n, false);
    let a_device = Operand { matrix: &a_device, transposed: at };
    let b_device = Operand { matrix: &b_device, transposed: bt };
    let mut recorder = gpu.record();
    let new = recorder.gemm(0.5, a_device, b_device).unwrap();
    recorder.gemm_onto(&mut c_device, -2.0, 1.0, a_device, b_device).unwrap();
    let (new, onto) = (recorder.download(&new).unwrap(), recorder.download(&c_device).unwrap());
    recorder.submit().unwrap();
    for (got, factors) in [(new, [0.0, 0.5]), (onto, [-2.0, 1.0])] {
        let got = got.wait().unwrap();
        prop_assert_eq!(got.len(), m * n);
        for (i, (got, (expected, absolute))) in got.iter().zip(product(&a, &b, &c, k, n, factors)).enumerate() {
            let error = (f64::from(*got) - expected).abs();
            let bound = tolerance::device_matmul(k, absolute);
            prop_assert!(error <= bound, "element {i} of {m} x {k} x {n}: {got} for {expected}");
        }
    }
    Ok(())
}

/// Around the tiles of 32, 64 and 128 and the panels of 4 and 16, primes, and shapes in fours.
fn size() -> impl Strategy<Value = usize> {
    prop::sample::select(vec![0, 1, 3, 4, 5, 15, 16, 17, 31, 32, 33, 60, 64, 65, 97, 127, 129])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn within_the_bound_of_core(
        shape in [size(), size(), size()], transposed in any::<[bool; 2]>(), seed in any::<u64>(),
    ) {
        for gpu in devices() {
            check(gpu, shape, transposed, seed)?;
        }
    }
}

/// Outputs so large, and devices so small, that each tile of the table is chosen; a thin output takes the smallest.
#[test]
fn every_tile() {
    for (bytes, shape, tile) in [
        (u32::MAX, [2052, 19, 1028], [16, 16, 16]),
        (u32::MAX, [1028, 37, 1020], [16, 8, 16]),
        (u32::MAX, [516, 37, 508], [8, 4, 16]),
        (u32::MAX, [516, 19, 1020], [16, 8, 16]),
        (u32::MAX, [16_388, 19, 5], [8, 4, 16]),
        (1024, [61, 37, 67], [8, 4, 4]),
    ] {
        let options = GpuOptions { max_workgroup_bytes: Some(bytes), ..GpuOptions::default() };
        let Some(gpu) = open(&options) else { return };
        let mut recorder = gpu.record();
        let (a, b) = (recorder.zeros(shape[0], shape[1]).unwrap(), recorder.zeros(shape[1], shape[2]).unwrap());
        recorder.gemm(1.0, &a, &b).unwrap();
        assert_eq!(tiles(&recorder, "gemm"), [tile], "{shape:?}");
        for transposed in [[false, false], [true, false], [false, true]] {
            check(&gpu, shape, transposed, 5).unwrap();
        }
    }
    let Some(gpu) = open(&GpuOptions { max_workgroup_bytes: Some(512), ..GpuOptions::default() }) else { return };
    let x = gpu.upload(MatRef::from_row(&[1.0_f32])).unwrap();
    let error = gpu.record().gemm(1.0, &x, &x).unwrap_err();
    let what = "bytes of workgroup memory for a product";
    assert_eq!(error, Error::Limit { what, needed: 1024, limit: 512 });
}

/// Thin outputs are summed over slices of the inner dimension, and only these.
#[test]
fn slices() {
    for gpu in devices().iter().filter(|gpu| gpu.capabilities().max_binding_bytes > SMALL_BINDING) {
        for shape in [[1, 1024, 1], [5, 1029, 36], [32, 2100, 7], [3, 5000, 4]] {
            for transposed in [[false, false], [true, false], [false, true], [true, true]] {
                check(gpu, shape, transposed, 7).unwrap();
            }
        }
    }
    let Some(gpu) = devices().first() else { return };
    for (shape, dispatches) in [([40, 1023, 40], 1), ([40, 1024, 40], 2), ([1030, 1024, 1030], 1)] {
        let [m, k, n] = shape;
        let mut recorder = gpu.record();
        let (a, b) = (recorder.zeros(m, k).unwrap(), recorder.zeros(k, n).unwrap());
        recorder.gemm(1.0, &a, &b).unwrap();
        assert_eq!(recorder.counters().dispatches, dispatches, "{shape:?}");
    }
}

/// Subgroups are taken where they have one size that fits the tile, and change no bit.
#[test]
fn subgroups_have_the_bits_of_the_plain_variant() {
    let variant = |plain| open(&GpuOptions { plain, ..GpuOptions::default() });
    let (Some(gpu), Some(plain)) = (variant(false), variant(true)) else { return };
    assert_eq!(plain.capabilities().subgroups, None);
    let fits = |gpu: &Gpu, wide: u32| {
        gpu.capabilities().subgroups.is_some_and(|(min, max)| min == max && min >= 8 && wide.is_multiple_of(min))
    };
    for shape in [[1, 1, 1], [33, 17, 31], [65, 97, 127], [64, 1024, 32], [1028, 37, 1020], [2052, 19, 1028]] {
        for transposed in [[false, false], [true, false], [false, true], [true, true]] {
            let run = |gpu: &Gpu| {
                let [m, k, n] = shape;
                let (_, a) = operand(gpu, Stream::new(0, "a"), m, k, transposed[0]);
                let (_, b) = operand(gpu, Stream::new(0, "b"), k, n, transposed[1]);
                let [a, b] = [(&a, transposed[0]), (&b, transposed[1])]
                    .map(|(matrix, transposed)| Operand { matrix, transposed });
                let mut recorder = gpu.record();
                let c = recorder.gemm(1.0, a, b).unwrap();
                let plan = recorder.plan();
                let Step::Dispatch { flags, constants, .. } = &plan.steps[0] else { panic!("not a dispatch") };
                assert_eq!(flags.contains(&SUBGROUPS), fits(gpu, constants[0].1), "{shape:?}");
                let c = recorder.download(&c).unwrap();
                recorder.submit().unwrap();
                c.wait().unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            assert_eq!(run(&gpu), run(&plain), "{shape:?}");
        }
    }
}

#[test]
fn runs_repeat_their_bits() {
    for gpu in devices() {
        let (_, a) = operand(gpu, Stream::new(0, "bits"), 65, 97, false);
        let run = || {
            let mut recorder = gpu.record();
            let gram = recorder.gemm(1.0, &a, a.t()).unwrap();
            let gram = recorder.download(&gram).unwrap();
            recorder.submit().unwrap();
            gram.wait().unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        assert_eq!(run(), run());
    }
}

#[test]
fn what_it_costs() {
    let Some(gpu) = devices().first() else { return };
    let mut recorder = gpu.record();
    let (a, b) = (recorder.zeros(64, 32).unwrap(), recorder.zeros(32, 48).unwrap());
    let c = recorder.gemm(1.0, &a, &b).unwrap();
    assert_eq!(recorder.cost(), gemm_cost(64, 32, 48));
    assert_eq!(recorder.cost().flops, 2 * 64 * 32 * 48);
    assert_eq!(recorder.cost().bytes, a.bytes() + b.bytes() + c.bytes());
    let counters = recorder.submit().unwrap().counters();
    assert_eq!((counters.dispatches, counters.passes, counters.submissions, counters.bytes_up), (1, 1, 1, 256));
}

#[test]
fn beta_zero_forgets() {
    for gpu in devices() {
        let mut c = gpu.upload(MatRef::from_row(&[f32::NAN; 5])).unwrap();
        let (a, b) =
            (gpu.upload(MatRef::from_row(&[2.0_f32])).unwrap(), gpu.upload(MatRef::from_row(&[3.0; 5])).unwrap());
        let mut recorder = gpu.record();
        recorder.gemm_onto(&mut c, 0.0, 1.0, &a, &b).unwrap();
        let got = recorder.download(&c).unwrap();
        recorder.submit().unwrap();
        assert_eq!(got.wait().unwrap(), [6.0; 5]);
    }
}

#[test]
fn wrong_arguments() {
    for gpu in devices() {
        let mut recorder = gpu.record();
        let (a, b) = (recorder.zeros(2, 3).unwrap(), recorder.zeros(4, 5).unwrap());
        let shape = |what, expected, got| Error::Core(CoreError::Shape { what, expected, got });
        assert_eq!(recorder.gemm(1.0, &a, &b).unwrap_err(), shape("rows of b", 3, 4));
        let mut c = recorder.zeros(2, 2).unwrap();
        assert_eq!(recorder.gemm_onto(&mut c, 1.0, 1.0, a.t(), &a).unwrap_err(), shape("out rows", 3, 2));
        assert_eq!(recorder.gemm_onto(&mut c, 1.0, 1.0, &a, a.t()), Ok(()));
    }
    let [one, other, ..] = devices() else { return };
    let mut recorder = one.record();
    let a = recorder.zeros(2, 2).unwrap();
    let b = other.record().zeros(2, 2).unwrap();
    assert_eq!(recorder.gemm(1.0, &a, &b).unwrap_err(), Error::Foreign);
    let [nothing, foreign] = [one, other].map(|gpu| gpu.record().zeros(2, 0).unwrap());
    assert_eq!(recorder.gemm(1.0, &nothing, foreign.t()).unwrap_err(), Error::Foreign);
}

#[test]
fn costs_of_absurd_sizes_are_the_largest_number() {
    let most = usize::MAX;
    let costs = [gemm_cost(most, most, most), gram_cost(most, most), quantize_int8_cost(most, most, 1)];
    assert!(costs.iter().all(|cost| cost.flops == u64::MAX && cost.bytes == u64::MAX), "{costs:?}");
}
