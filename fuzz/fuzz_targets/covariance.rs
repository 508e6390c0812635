//! Records of any floats and files of any bytes: a typed error that leaves the accumulator alone, or finite factors
//! that go through a file bit for bit.
#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use ascribe_core::MatRef;
use ascribe_core::derivative::Reduction;
use ascribe_core::record::LayerRecord;
use ascribe_solvers::curvature::{
    Blocks, Count, Covariances, DiagonalFisher, EigenBlock, EigenvalueCorrection, Empirical, Gram, LayerCovariance,
    LayerShape, Sharing,
};
use ascribe_solvers::parallel::Parallelism::Serial;
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input {
    sizes: [u8; 4],
    bias: bool,
    reduce: bool,
    by_position: bool,
    mask: Option<u64>,
    numbers: Vec<f32>,
}

fuzz_target!(|bytes: &[u8]| {
    // The header of a safetensors file begins after its length.
    if bytes.get(8) == Some(&b'{') {
        return load(bytes);
    }
    if let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(bytes)) {
        accumulate(input);
    }
});

fn load(bytes: &[u8]) {
    if let Ok(network) = Covariances::<f32, Empirical>::from_bytes(bytes, Serial) {
        let Ok(bytes) = network.to_bytes() else { panic!("what was read can be written") };
        assert_eq!(Covariances::from_bytes(&bytes, Serial).as_ref(), Ok(&network));
        let mut twice = network.clone();
        // Counts or sums may overflow; then nothing has changed.
        if twice.merge(&network).is_err() {
            assert_eq!(twice, network);
        }
    }
    if let Ok(blocks) = Blocks::<f32>::from_bytes(bytes) {
        let Ok(bytes) = blocks.to_bytes() else { panic!("what was read can be written") };
        assert!(Blocks::<f32>::from_bytes(&bytes).is_ok());
    }
    if let Ok(block) = EigenBlock::<f32>::diagonal("block", &[1.0, 2.0]) {
        let _ = EigenvalueCorrection::<f32, Empirical>::from_bytes(bytes, &block, Serial);
    }
}

fn accumulate(input: Input) {
    let Input { sizes, bias, reduce, by_position, mask, numbers } = input;
    let [examples, positions, d_in, d_out] = sizes.map(|size| usize::from(size % 6));
    let rows = examples * positions;
    let number = |i: usize| numbers.get(i).copied().unwrap_or(1.0);
    let x: Vec<f32> = (0..rows * d_in).map(number).collect();
    let grads: Vec<f32> = (0..rows * d_out).map(|i| number(rows * d_in + i)).collect();
    let draws: Vec<f32> = (0..rows * d_out).map(|i| number(rows * (d_in + d_out) + i)).collect();
    let mask: Option<Vec<bool>> = mask.map(|bits| (0..rows).map(|row| bits >> (row % 64) & 1 == 1).collect());
    let shape = LayerShape { d_in, d_out, bias };
    let sharing = if reduce { Sharing::Reduce } else { Sharing::Expand };
    let count = if by_position { Count::Position } else { Count::Example };
    let (Ok(x), Ok(grads), Ok(draws)) =
        (MatRef::new(&x, rows, d_in), MatRef::new(&grads, rows, d_out), MatRef::new(&draws, rows, d_out))
    else {
        panic!("the shapes fit");
    };
    let (Ok(record), Ok(mut layer)) = (
        LayerRecord::new(examples, x, grads, mask.as_deref(), bias),
        LayerCovariance::<f32, Empirical>::new(shape, sharing, count, Serial),
    ) else {
        panic!("the sizes fit");
    };
    for _ in 0..2 {
        let before = layer.clone();
        if layer.add(&record, &[draws]).is_err() {
            assert_eq!(layer, before);
        } else if layer.clone().merge(&before).is_ok()
            && let (Ok(a), Ok(g)) = (layer.factor_a(), layer.factor_g())
        {
            assert!(a.iter().chain(&g).all(|x| x.is_finite()), "{a:?} {g:?}");
        }
    }
    let mut network = Covariances::new();
    assert!(network.insert("layer", layer).is_ok());
    let Ok(bytes) = network.to_bytes() else { panic!("a layer fits into a file") };
    assert_eq!(Covariances::from_bytes(&bytes, Serial), Ok(network));

    if let Ok(mut gram) = Gram::<f64>::new(d_in, Serial)
        && gram.add(x, numbers.get(..rows)).is_ok()
        && let Ok(matrix) = gram.matrix(Reduction::Sum)
    {
        assert!(matrix.iter().all(|x| x.is_finite()));
    }
    if let Ok(mut fisher) = DiagonalFisher::new(record.dim(), Serial)
        && fisher.add_record(&record).is_ok()
        && let Ok(diagonal) = fisher.diagonal::<f32>()
    {
        assert!(diagonal.iter().all(|x| x.is_finite()));
    }
}
