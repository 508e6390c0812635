//! `sketch.rademacher`, `sketch.gaussian`, `sketch.srht` and `quantize.*`: dense sketches and storage formats.

use ascribe_core::linop::apply_alloc;
use ascribe_core::quantize::{half, int8_block, one_bit};
use ascribe_core::sketch::{Entries, Normals, Projection, Scale, Signs, Srht};
use ascribe_core::{Error, MatMut, MatRef, Real, reduce};

use super::case::{Inputs, Outputs, Tensor};
use super::{Op, gpu};
use crate::Failure;
use crate::failure::fail;

/// The operations of this folder. Codes are those of f32 numbers, whatever the precision of the run.
pub const OPS: &[Op] = &[
    Op::new("sketch.rademacher", rademacher::<f64>, rademacher::<f32>).recorded(gpu::rademacher),
    Op::new("sketch.gaussian", gaussian::<f64>, gaussian::<f32>).recorded(gpu::gaussian),
    Op::new("sketch.srht", srht::<f64>, srht::<f32>).recorded(gpu::srht),
    Op::new("quantize.f16", f16, f16),
    Op::new("quantize.bf16", bf16, bf16),
    Op::new("quantize.int8_block", int8, int8).recorded(gpu::int8_block),
    Op::new("quantize.one_bit", bits::<f64>, bits::<f32>),
];

/// The largest over the rows of the sum of absolute values.
fn largest_sum<T: Real>(x: MatRef<'_, T>) -> f64 {
    x.row_iter().map(|row| row.iter().map(|x| x.to_f64().abs()).sum()).fold(0.0, f64::max)
}

fn rademacher<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    projection::<T, Signs>(inputs, 1.0)
}

fn gaussian<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let outputs = projection::<T, Normals>(inputs, 6.8)?;
    let [rows, cols, row0, col0] = block_of(inputs)?;
    let identifier = inputs.text("identifier")?;
    let unscaled = Projection::<Normals>::new(&identifier, row0 + rows, col0 + cols, Scale::None)?;
    let mut entries = vec![0.0_f32; rows * cols];
    unscaled.block(MatMut::new(&mut entries, rows, cols)?, row0, col0)?;
    Ok(outputs.floats("entries_f32", &[rows, cols], &entries).optional())
}

fn block_of(inputs: &Inputs<'_>) -> Result<[usize; 4], Failure> {
    Ok([inputs.count("rows")?, inputs.count("cols")?, inputs.count("row0")?, inputs.count("col0")?])
}

/// The block of the matrix, and the columns of the sketches that its rows make; no entry exceeds `largest`.
fn projection<T: Real, E: Entries>(inputs: &Inputs<'_>, largest: f64) -> Result<Outputs, Failure> {
    let [rows, cols, row0, col0] = block_of(inputs)?;
    let scale = inputs.choice("scale", &[("jl", Scale::InvSqrtRows), ("none", Scale::None)])?;
    let total = inputs.count("total_rows")?;
    let sketch = Projection::<E>::new(&inputs.text("identifier")?, total, col0 + cols, scale)?;
    let mut matrix = vec![T::ZERO; rows * cols];
    sketch.block(MatMut::new(&mut matrix, rows, cols)?, row0, col0)?;

    let x = inputs.floats::<T>("x")?;
    let x = x.matrix()?;
    let mut whole = vec![T::ZERO; x.rows() * total];
    sketch.apply_columns(MatMut::new(&mut whole, x.rows(), total)?, x, col0)?;
    let y: Vec<T> = whole.chunks_exact(total.max(1)).flat_map(|y| &y[row0..row0 + rows]).copied().collect();
    Ok(Outputs::new()
        .integers("key", &[2], sketch.key().map(i64::from))
        .floats("matrix", &[rows, cols], &matrix)
        .optional()
        .with_magnitude(largest * sketch.factor() * largest_sum(x))
        .floats("y", &[x.rows(), rows], &y)
        .with_magnitude(0.0))
}

fn srht<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (x, rows) = (inputs.floats::<T>("x")?, inputs.indices("rows")?.data);
    let x = x.matrix()?;
    let signs = inputs.integers("sign")?.data.into_iter().map(i8::try_from).collect::<Result<Vec<_>, _>>()?;
    let sketch = Srht::new(&signs, &rows)?;
    if sketch.padded() != inputs.count("p2")? {
        return fail(format!("padded to {}", sketch.padded()));
    }
    let whole = Srht::new(&signs, &(0..sketch.padded()).collect::<Vec<_>>())?;
    let size = |k: usize| largest_sum(x) / (k as f64).sqrt();
    Ok(Outputs::new()
        .with_magnitude(size(sketch.padded()))
        .floats("hadamard", &[x.rows(), sketch.padded()], &apply_alloc(&whole, x)?)
        .with_magnitude(size(rows.len()))
        .floats("y", &[x.rows(), rows.len()], &apply_alloc(&sketch, x)?))
}

fn f16(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    sixteen_bits(inputs, half::encode_f16, half::decode_f16)
}

fn bf16(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    sixteen_bits(inputs, half::encode_bf16, half::decode_bf16)
}

fn sixteen_bits(
    inputs: &Inputs<'_>,
    encode: impl Fn(&mut [u16], &[f32], bool) -> Result<(), Error>,
    decode: impl Fn(&mut [f32], &[u16]) -> Result<(), Error>,
) -> Result<Outputs, Failure> {
    let (x, saturate) = (inputs.floats::<f32>("x")?, inputs.switch("saturate")?);
    let (mut bits, mut back) = (vec![0; x.data.len()], vec![0.0; x.data.len()]);
    encode(&mut bits, &x.data, saturate)?;
    decode(&mut back, &bits)?;
    Ok(Outputs::new().integers("bits", &x.shape, bits.into_iter().map(i64::from)).floats("roundtrip", &x.shape, &back))
}

fn int8(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (x, block) = (inputs.floats::<f32>("x")?, inputs.count("block")?);
    let ([n, d], x) = (x.dims()?, x.matrix()?);
    let blocks = int8_block::scales_len(d, block);
    let (mut codes, mut scales, mut back) = (vec![0; n * d], vec![0.0; n * blocks], vec![0.0; n * d]);
    for i in 0..n {
        let (codes, scales) = (&mut codes[i * d..][..d], &mut scales[i * blocks..][..blocks]);
        int8_block::quantize(codes, scales, x.row(i), block)?;
        int8_block::dequantize(&mut back[i * d..][..d], codes, scales, block)?;
    }
    Ok(Outputs::new()
        .integers("codes", &[n, d], codes.into_iter().map(i64::from))
        .floats("scales", &[n, blocks], &scales)
        .floats("dequant", &[n, d], &back))
}

fn bits<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (x, q): (Tensor<f32>, Tensor<T>) = (inputs.floats("x")?, inputs.floats("q")?);
    let ([n, d], [queries, _], x, q) = (x.dims()?, q.dims()?, x.matrix()?, q.matrix()?);
    let bytes = one_bit::packed_len(d);
    let (mut packed, mut scales, mut back) = (vec![0; n * bytes], vec![0.0_f32; n], vec![0.0; n * d]);
    let mut scores = Vec::new();
    for i in 0..n {
        let packed = &mut packed[i * bytes..][..bytes];
        scales[i] = one_bit::quantize(packed, x.row(i))?;
        one_bit::dequantize(&mut back[i * d..][..d], packed, scales[i])?;
        let row: Vec<T> = back[i * d..][..d].iter().map(|x| T::from_f64(f64::from(*x))).collect();
        for q in q.row_iter() {
            scores.push(reduce::dot(&row, q)?);
        }
    }
    let largest = scales.iter().fold(0.0, |max: f64, &scale| max.max(f64::from(scale)));
    Ok(Outputs::new()
        .integers("packed", &[n, bytes], packed.into_iter().map(i64::from))
        .floats("scale", &[n], &scales)
        .floats("dequant", &[n, d], &back)
        .with_magnitude(largest * largest_sum(q))
        .floats("scores", &[n, queries], &scores))
}
