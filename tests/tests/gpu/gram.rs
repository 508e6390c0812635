//! Gram matrices against sums in f64, and symmetric to the bit.

use ascribe_core::random::Stream;
use ascribe_core::{Error as CoreError, MatRef};
use ascribe_gpu::kernel::gram_cost;
use ascribe_gpu::{Error, Gpu, Matrix};
use ascribe_tests::tolerance;
use proptest::prelude::*;

use crate::{SMALL_BINDING, devices};

/// Sums over `n` rows within their bound and symmetric; and how many dispatches they took.
fn check(gpu: &Gpu, [n, d]: [usize; 2], weighted: bool, beta: f32, seed: u64) -> Result<u64, TestCaseError> {
    let stream = Stream::new(seed, "gram");
    let normals = |lane, len: usize| (0..len).map(|i| stream.normals(i as u64, lane)[0] as f32).collect::<Vec<_>>();
    let (x, weights, alpha) = (normals(0, n * d), normals(1, n), 0.25_f32);
    let symmetric = |i: usize, j: usize| stream.normals(i.min(j) as u64 + i.max(j) as u64 * 1000, 2)[0] as f32;
    let start: Vec<f32> = (0..d * d).map(|at| symmetric(at / d, at % d)).collect();
    let x_device = gpu.upload(MatRef::new(&x, n, d).unwrap()).unwrap();
    let weights_device = gpu.upload(MatRef::new(&weights, n, 1).unwrap()).unwrap();
    let mut c = gpu.upload(MatRef::new(&start, d, d).unwrap()).unwrap();
    let mut recorder = gpu.record();
    recorder.gram_onto(&mut c, beta, alpha, &x_device, weighted.then_some(&weights_device)).unwrap();
    let c = recorder.download(&c).unwrap();
    let dispatches = recorder.submit().unwrap().counters().dispatches;
    let c = c.wait().unwrap();
    for i in 0..d {
        for j in 0..d {
            prop_assert_eq!(c[i * d + j].to_bits(), c[j * d + i].to_bits());
            let term = |r: usize| {
                let weight = if weighted { weights[r] } else { 1.0 };
                f64::from(alpha) * f64::from(weight) * f64::from(x[r * d + i]) * f64::from(x[r * d + j])
            };
            let before = f64::from(beta) * f64::from(start[i * d + j]);
            let (sum, absolute) = (0..n).map(term).fold((before, before.abs()), |(s, t), x| (s + x, t + x.abs()));
            let error = (f64::from(c[i * d + j]) - sum).abs();
            prop_assert!(error <= tolerance::device_gram(n, absolute), "{} for {sum}", c[i * d + j]);
        }
    }
    Ok(dispatches)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn within_the_bound_and_symmetric(
        n in prop::sample::select(vec![0, 1, 3, 16, 17, 33]),
        d in prop::sample::select(vec![0, 1, 3, 4, 5, 16, 31, 64, 65, 129]),
        weighted in any::<bool>(), beta in prop::sample::select(vec![0.0_f32, 1.0, -0.5]), seed in any::<u64>(),
    ) {
        for gpu in devices() {
            check(gpu, [n, d], weighted, beta, seed)?;
        }
    }
}

/// Many rows of few columns are summed over slices, and only these.
#[test]
fn slices() {
    for gpu in devices().iter().filter(|gpu| gpu.capabilities().max_binding_bytes > SMALL_BINDING) {
        for (shape, dispatches) in [([1023, 36], 1), ([1024, 1], 2), ([1029, 65], 2), ([5000, 36], 2), ([2100, 5], 2)] {
            for (weighted, beta) in [(false, 0.0), (true, -0.5)] {
                let counted = check(gpu, shape, weighted, beta, 7).unwrap();
                assert!(counted == dispatches || gpu.capabilities().max_workgroups < 1 << 10, "{shape:?}: {counted}");
            }
        }
    }
}

#[test]
fn what_it_costs_and_refuses() {
    let [one, other, ..] = devices() else { return };
    let mut recorder = one.record();
    let x: Matrix<f32> = recorder.zeros(10, 6).unwrap();
    let mut c = recorder.gram(&x).unwrap();
    assert_eq!(recorder.cost(), gram_cost(10, 6));
    assert_eq!((recorder.cost().flops, recorder.counters().dispatches), (10 * 6 * 7, 1));
    let shape = |what, expected, got| Error::Core(CoreError::Shape { what, expected, got });
    let (wide, low, many) =
        (recorder.zeros(6, 5).unwrap(), recorder.zeros(5, 6).unwrap(), recorder.zeros(9, 1).unwrap());
    assert_eq!(recorder.gram_onto(&mut { wide }, 0.0, 1.0, &x, None).unwrap_err(), shape("columns of the sum", 6, 5));
    assert_eq!(recorder.gram_onto(&mut { low }, 0.0, 1.0, &x, None).unwrap_err(), shape("rows of the sum", 6, 5));
    assert_eq!(recorder.gram_onto(&mut c, 0.0, 1.0, &x, Some(&many)).unwrap_err(), shape("weights", 10, 9));
    assert_eq!(recorder.gram_onto(&mut c, 0.0, 1.0, &x, Some(&x)).unwrap_err(), shape("columns of the weights", 1, 6));
    assert_eq!(other.record().gram(&x).unwrap_err(), Error::Foreign);
}
