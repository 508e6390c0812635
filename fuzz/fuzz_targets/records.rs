//! Records of any claimed shape and any floats: a typed error, or gradients that masked positions cannot change.
#![no_main]

use arbitrary::Arbitrary;
use ascribe_core::record::LayerRecord;
use ascribe_core::{MatMut, MatRef};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input {
    inputs: Vec<f32>,
    grads: Vec<f32>,
    mask: Option<Vec<bool>>,
    examples: usize,
    rows: u8,
    bias: bool,
    range: [usize; 2],
}

fuzz_target!(|input: Input| {
    let Input { mut inputs, mut grads, mask, examples, rows, bias, range: [start, len] } = input;
    let rows = usize::from(rows % 12);
    let width = |data: &[f32]| data.len().checked_div(rows).unwrap_or(0).min(12);
    let (d_in, d_out) = (width(&inputs), width(&grads));
    inputs.truncate(rows * d_in);
    grads.truncate(rows * d_out);
    let mask = mask.as_deref();

    for examples in [examples, examples % 13] {
        let (Ok(x), Ok(delta)) = (MatRef::new(&inputs, rows, d_in), MatRef::new(&grads, rows, d_out)) else {
            panic!("the shapes fit");
        };
        let Ok(record) = LayerRecord::new(examples, x, delta, mask, bias) else { continue };
        assert_eq!(record.examples() * record.positions(), rows);
        assert_eq!(record.dim(), d_out * (d_in + usize::from(bias)));
        if let Ok(part) = record.example_range(start, len) {
            assert_eq!(part.examples(), len);
        }
        for example in [start, start % 13] {
            let mut gradient = vec![0.0; record.dim()];
            let done = record.gradient(&mut gradient, example);
            assert_eq!(done.is_ok(), example < examples);
        }
        if examples > 64 {
            continue;
        }
        let mut gradients = vec![f32::NAN; examples * record.dim()];
        let Ok(out) = MatMut::new(&mut gradients, examples, record.dim()) else { panic!("the shape fits") };
        assert!(record.gradients(out).is_ok());

        let Some(mask) = mask else { continue };
        let (mut x, mut delta) = (inputs.clone(), grads.clone());
        for row in (0..rows).filter(|row| !mask[*row]) {
            x[row * d_in..(row + 1) * d_in].fill(f32::NAN);
            delta[row * d_out..(row + 1) * d_out].fill(f32::NAN);
        }
        let (Ok(x), Ok(delta)) = (MatRef::new(&x, rows, d_in), MatRef::new(&delta, rows, d_out)) else {
            panic!("the shapes fit");
        };
        let Ok(record) = LayerRecord::new(examples, x, delta, Some(mask), bias) else { panic!("the same shapes") };
        let mut masked = vec![f32::NAN; gradients.len()];
        let Ok(out) = MatMut::new(&mut masked, examples, record.dim()) else { panic!("the shape fits") };
        assert!(record.gradients(out).is_ok());
        assert!(masked.iter().zip(&gradients).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())));
    }
});
