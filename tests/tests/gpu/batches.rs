//! A stream of batches gives what each gives alone, in order, with bounded memory.

use ascribe_core::MatRef;
use ascribe_gpu::{Error, GpuOptions, Matrix, Recorder};

use crate::open;

fn gram(recorder: &mut Recorder, x: &Matrix<f32>) -> Result<Matrix<f32>, Error> {
    recorder.gemm(1.0, x.t(), x)
}

#[test]
fn results_in_order_with_bounded_memory() {
    let Some(gpu) = open(&GpuOptions::default()) else { return };
    for depth in [0, 1, 3] {
        let mut batches = gpu.batches(depth, gram);
        let (mut results, mut most) = (Vec::new(), 0);
        for i in 0..10 {
            let row = [i as f32, 1.0];
            results.extend(batches.push(MatRef::from_row(&row)).unwrap());
            assert_eq!(results.len(), (i + 1_usize).saturating_sub(depth));
            most = most.max(gpu.memory().0);
        }
        // An empty batch has an empty result.
        results.extend(batches.push(MatRef::new(&[], 0, 0).unwrap()).unwrap());
        while let Some(result) = batches.pop().unwrap() {
            results.push(result);
        }
        let expected: Vec<Vec<f32>> = (0..10).map(|i| i as f32).map(|x| vec![x * x, x, x, 1.0]).collect();
        assert_eq!(results[..10], expected);
        assert_eq!(results[10..], [Vec::<f32>::new()]);
        // Those under way and their readback memory; what is in between is free again as soon as it is submitted.
        assert_eq!(most, 2 * 256 * depth as u64);
        assert_eq!(gpu.memory().0, 0);
    }
}
