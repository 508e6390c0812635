//! Sketches of layer records, the learned mask and the optimizers' scalings, of any shapes and any floats: a typed
//! error, or numbers that masked positions cannot change.
#![no_main]

use arbitrary::Arbitrary;
use ascribe_core::random::Stream;
use ascribe_core::record::LayerRecord;
use ascribe_core::scale::{Adafactor, Adam, Less, to_adafactor};
use ascribe_core::sketch::{FactGrass, Formed, LayerSketch, LoGra, Mask, MaskScale, SelectiveMask, Sjlt};
use ascribe_core::{LinOp, MatMut, MatRef};
use ascribe_solvers::parallel::Parallelism::Serial;
use ascribe_solvers::sketch::{logra_records, principal_axes, sketch_records};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input {
    inputs: Vec<f32>,
    grads: Vec<f32>,
    mask: Option<Vec<bool>>,
    examples: u8,
    rows: u8,
    bias: bool,
    kept: [Vec<usize>; 2],
    dims: [u8; 2],
    scale: bool,
    options: [f64; 6],
    counts: [usize; 2],
    moments: Vec<f32>,
}

/// The sketch of every example, serially and by blocks, when the layer fits.
fn sketched(sketch: &(impl LayerSketch<f32> + Sync), record: &LayerRecord<'_, f32>) -> Vec<f32> {
    let (n, k) = (record.examples(), sketch.dim_out());
    let (mut out, mut scratch) = (vec![7.0; n * k], vec![f32::NAN; sketch.scratch_len(record)]);
    let Ok(view) = MatMut::new(&mut out, n, k) else { panic!("the shape fits") };
    let fits = sketch.sketch(view, record, &mut scratch).is_ok();
    assert!(fits || out.iter().all(|x| *x == 7.0));
    let mut blocks = vec![7.0; n * k];
    let Ok(view) = MatMut::new(&mut blocks, n, k) else { panic!("the shape fits") };
    assert!(n == 0 || sketch_records(view, sketch, record, Serial).is_ok() == fits);
    out
}

fn results(input: &Input, record: &LayerRecord<'_, f32>) -> Vec<u32> {
    let [k_out, k_in] = input.dims.map(|dim| usize::from(dim % 5));
    let stream = Stream::new(0, "fuzz");
    let scale = if input.scale { MaskScale::Unbiased } else { MaskScale::None };
    let mut all = Vec::new();
    let [outputs, inputs] = &input.kept;
    if let (Ok(mask_out), Ok(mask_in)) =
        (Mask::new(&outputs[..], record.d_out(), scale), Mask::new(&inputs[..], record.weight_cols(), scale))
    {
        if let Ok(sjlt) = Sjlt::new(outputs.len() * inputs.len(), k_out + 1, 1, stream) {
            let Ok(sketch) = FactGrass::new(mask_out, mask_in, sjlt) else { panic!("the shape fits") };
            all.extend(sketched(&sketch, record));
        }
    }
    if let Ok(sjlt) = Sjlt::new(record.dim(), k_out + 1, 1, stream) {
        all.extend(sketched(&Formed::new(sjlt), record));
    }
    let ones = vec![1.0; (k_out * record.d_out()).max(k_in * record.weight_cols())];
    if let (Ok(p_out), Ok(p_in)) = (
        MatRef::new(&ones[..k_out * record.d_out()], k_out, record.d_out()),
        MatRef::new(&ones[..k_in * record.weight_cols()], k_in, record.weight_cols()),
    ) {
        let Ok(sketch) = LoGra::new(p_out, p_in) else { panic!("the shape fits") };
        all.extend(sketched(&sketch, record));
        let mut out = vec![0.0; record.examples() * k_out * k_in];
        let Ok(view) = MatMut::new(&mut out, record.examples(), k_out * k_in) else { panic!("the shape fits") };
        assert!(logra_records(view, &sketch, record, Serial).is_ok());
        all.extend(out);
    }
    let [lambda, eps, learning_rate, temperature, cooling, stop_below] = input.options;
    let [min_active, max_active] = input.counts;
    let batch = usize::from(input.dims[0]);
    let options = SelectiveMask {
        lambda,
        eps,
        learning_rate,
        temperature,
        cooling,
        stop_below,
        min_active,
        max_active,
        batch,
        epochs: 3,
        check_every: 2,
    };
    if let Ok(masks) = options.learn_factors(record, record, stream) {
        for (mask, dim) in masks.into_iter().zip([record.d_out(), record.weight_cols()]) {
            assert!(Mask::new(&mask.indices, dim, scale).is_ok());
            all.extend(mask.indices.into_iter().map(|index| index as f32));
        }
    }
    all.iter().map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }).collect()
}

fuzz_target!(|input: Input| {
    let rows = usize::from(input.rows % 12);
    let mask = input.mask.as_deref().filter(|mask| mask.len() >= rows).map(|mask| &mask[..rows]);
    let compute = |rubbish: Option<f32>| {
        let [(inputs, d_in), (grads, d_out)] = [&input.inputs, &input.grads].map(|data| {
            let width = data.len().checked_div(rows).unwrap_or(0).min(6);
            let mut data = data[..rows * width].to_vec();
            if let (Some(rubbish), Some(mask)) = (rubbish, mask) {
                for row in (0..rows).filter(|row| !mask[*row]) {
                    data[row * width..(row + 1) * width].fill(rubbish);
                }
            }
            (data, width)
        });
        let (Ok(x), Ok(delta)) = (MatRef::new(&inputs, rows, d_in), MatRef::new(&grads, rows, d_out)) else {
            panic!("the shapes fit");
        };
        let record = LayerRecord::new(usize::from(input.examples % 13), x, delta, mask, input.bias).ok()?;
        Some(results(&input, &record))
    };
    assert_eq!(compute(None), compute(Some(f32::NAN)));

    let moments = &input.moments[..input.moments.len().min(36)];
    let side = moments.len().isqrt();
    let Ok(square) = MatRef::new(&moments[..side * side], side, side) else { panic!("the shape fits") };
    let _ = principal_axes::<f32, f32>(square, input.counts[0], Serial);
    let (mut row, mut col) = (vec![0.0; side], vec![0.0; side]);
    assert!(to_adafactor(&mut row, &mut col, square).is_ok());
    let mut out = vec![0.0; side];
    let x = MatRef::from_row(&moments[..side]);
    let adafactor = Adafactor { row: &row, col: &col, eps: input.options[0] };
    let _ = adafactor.scale_outputs(MatMut::from_row(&mut out), x);
    let _ = adafactor.scale_inputs(MatMut::from_row(&mut out), x);
    let less = Less { beta1: input.options[1], beta2: input.options[2], eps: input.options[3] };
    let _ = less.apply(MatMut::from_row(&mut out), x, &row, &col);
    if let Ok(adam) = Adam::new(&row, input.options[4]) {
        assert!(adam.apply(MatMut::from_row(&mut out), x, &mut []).is_ok());
    }
});
