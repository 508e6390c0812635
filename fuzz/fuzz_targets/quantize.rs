//! Storage formats of any floats and lengths, and codes that no encoder made.
#![no_main]

use arbitrary::Arbitrary;
use ascribe_core::Error;
use ascribe_core::quantize::half::{decode_bf16, decode_f16, encode_bf16, encode_f16};
use ascribe_core::quantize::{int8_block, one_bit};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input {
    row: Vec<f32>,
    block: usize,
    saturate: bool,
    codes: Vec<i8>,
    scales: Vec<f32>,
    bits: Vec<u8>,
    scale: f32,
    halves: Vec<u16>,
    out_len: u8,
}

fuzz_target!(|input: Input| {
    let Input { row, block, saturate, codes, scales, bits, scale, halves, out_len } = input;
    let finite = row.iter().position(|x| !x.is_finite());
    let refused = finite.map_or(Ok(()), |index| Err(Error::NonFinite { what: "row", index }));

    let (mut stored, mut back) = (vec![0; row.len()], vec![0.0; row.len()]);
    encode_f16(&mut stored, &row, saturate).unwrap();
    decode_f16(&mut back, &stored).unwrap();
    check_half(&row, &back, saturate, 65504.0, 2.0_f32.powi(-11), 2.0_f32.powi(-14));
    encode_bf16(&mut stored, &row, saturate).unwrap();
    decode_bf16(&mut back, &stored).unwrap();
    check_half(&row, &back, saturate, f32::from_bits(0x7F7F_0000), 2.0_f32.powi(-8), f32::MIN_POSITIVE);

    for block in [block, block % 100] {
        let mut own_scales = vec![7.0; int8_block::scales_len(row.len(), block)];
        let mut own_codes = vec![7; row.len()];
        let result = int8_block::quantize(&mut own_codes, &mut own_scales, &row, block);
        let largest = row.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        if block == 0 || refused.is_ok() && (largest / 127.0 * 127.0).is_infinite() {
            assert!(matches!(result, Err(Error::Parameter { .. })));
        } else {
            assert_eq!(result, refused);
        }
        if result.is_err() {
            assert!(own_codes.iter().all(|code| *code == 7) && own_scales.iter().all(|scale| *scale == 7.0));
            continue;
        }
        int8_block::dequantize(&mut back, &own_codes, &own_scales, block).unwrap();
        for (i, (x, y)) in row.iter().zip(&back).enumerate() {
            let step = f64::from(own_scales[i / block]);
            let bound = if step == 0.0 { 127.0 * f64::from(f32::MIN_POSITIVE) } else { step * 0.500_02 };
            assert!(own_codes[i] != i8::MIN && (f64::from(*x) - f64::from(*y)).abs() <= bound, "{x:e} became {y:e}");
        }
    }

    let mut own_bits = vec![7; one_bit::packed_len(row.len())];
    let result = one_bit::quantize(&mut own_bits, &row);
    assert_eq!(result.map(|_| ()), refused);
    match result {
        Ok(scale) => {
            let largest = row.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
            assert!((0.0..=largest).contains(&scale), "scale {scale:e} of {largest:e}");
            one_bit::dequantize(&mut back, &own_bits, scale).unwrap();
            assert!(row.iter().zip(&back).all(|(x, y)| *y == if *x >= 0.0 { scale } else { -scale }));
        }
        Err(_) => assert!(own_bits.iter().all(|byte| *byte == 7)),
    }

    // Codes from a file may be anything, and as many as they like.
    let mut out = vec![0.0; usize::from(out_len)];
    let _ = int8_block::dequantize(&mut out, &codes, &scales, block);
    let _ = one_bit::dequantize(&mut out, &bits, scale);
    let _ = decode_f16(&mut out, &halves);
    let _ = decode_bf16(&mut out, &halves);
});

/// Within half a step of the format, or at its largest number, or beyond it infinite.
fn check_half(row: &[f32], back: &[f32], saturate: bool, largest: f32, relative: f32, normal: f32) {
    for (&x, &y) in row.iter().zip(back) {
        if x.is_nan() {
            assert!(y.is_nan());
        } else if x.abs() > largest && saturate {
            assert_eq!(y.abs(), largest);
        } else if x.abs() > largest {
            assert!(y.abs() == largest || y.is_infinite());
        } else {
            let bound = f64::from(x.abs().max(normal)) * f64::from(relative);
            assert!((f64::from(x) - f64::from(y)).abs() <= bound, "{x:e} became {y:e}");
        }
        assert_eq!(x.is_sign_negative(), y.is_sign_negative());
    }
}
