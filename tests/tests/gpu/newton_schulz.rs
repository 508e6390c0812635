//! The polynomials against those of solvers in f64.

use ascribe_core::random::Stream;
use ascribe_core::{MatMut, MatRef};
use ascribe_gpu::Error;
use ascribe_solvers::parallel::Parallelism;
use ascribe_solvers::precondition::{Orthogonalize, Polynomials};
use ascribe_tests::tolerance;
use proptest::prelude::*;

use crate::devices;

const CUBIC: [f32; 3] = [1.5, -0.5, 0.0];
const QUINTIC: [f32; 3] = [1.875, -1.25, 0.375];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn within_the_bound_of_solvers(
        m in prop::sample::select(vec![0, 1, 2, 5, 16, 33]),
        n in prop::sample::select(vec![0, 1, 3, 7, 17, 64]),
        polynomials in prop::sample::select(vec![vec![], vec![CUBIC], vec![QUINTIC], vec![CUBIC, QUINTIC], vec![CUBIC; 3]]),
        zero in any::<bool>(), seed in any::<u64>(),
    ) {
        let stream = Stream::new(seed, "newton_schulz");
        let value = |i: usize| if zero { 0.0 } else { stream.normals(i as u64, 0)[0] as f32 };
        let g: Vec<f32> = (0..m * n).map(value).collect();
        let wide: Vec<f64> = g.iter().map(|&x| x.into()).collect();
        let custom: Vec<[f64; 3]> = polynomials.iter().map(|p| p.map(f64::from)).collect();
        let mut expected = vec![0.0; m * n];
        // Solvers wants a polynomial even for no step.
        let rows = if custom.is_empty() { &[[1.0, 0.0, 0.0]][..] } else { &custom };
        let twin = Orthogonalize {
            polynomials: Polynomials::Custom(rows), steps: custom.len(), scale: false, norm_epsilon: 1e-7,
        };
        let out = MatMut::new(&mut expected, m, n).unwrap();
        twin.apply(out, MatRef::new(&wide, m, n).unwrap(), Parallelism::Serial).unwrap();
        for gpu in devices() {
            let g = gpu.upload(MatRef::new(&g, m, n).unwrap()).unwrap();
            let mut recorder = gpu.record();
            let q = recorder.newton_schulz(&g, &polynomials, 1e-7).unwrap();
            let q = recorder.download(&q).unwrap();
            let counters = recorder.submit().unwrap().counters();
            if gpu.capabilities().max_workgroups >= 1 << 10 && m * n > 0 {
                prop_assert_eq!(counters.dispatches, 3 + 5 * polynomials.len() as u64);
            }
            let got = q.wait().unwrap();
            let error = got.iter().zip(&expected).map(|(&q, x)| (f64::from(q) - x).powi(2)).sum::<f64>().sqrt();
            let bound = tolerance::device_newton_schulz(m, n, &polynomials);
            prop_assert!(got.len() == m * n && error <= bound, "{error} beyond {bound}");
        }
    }
}

#[test]
fn what_is_not_a_number_stays_visible() {
    for gpu in devices() {
        for bad in [f32::NAN, f32::INFINITY] {
            let g = gpu.upload(MatRef::new(&[1.0, bad, 2.0, 3.0], 2, 2).unwrap()).unwrap();
            let mut recorder = gpu.record();
            let q = recorder.newton_schulz(&g, &[CUBIC], 1e-7).unwrap();
            let q = recorder.download(&q).unwrap();
            recorder.submit().unwrap();
            assert!(q.wait().unwrap().iter().any(|x| x.is_nan()), "{bad}");
        }
    }
}

#[test]
fn of_another_device() {
    let [one, other, ..] = devices() else { return };
    let g = one.upload(MatRef::from_row(&[1.0_f32])).unwrap();
    assert_eq!(other.record().newton_schulz(&g, &[CUBIC], 0.0).unwrap_err(), Error::Foreign);
}
