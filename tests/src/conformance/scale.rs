//! `adam.scale` and `adafactor.scale`: gradients divided by an optimizer's second moments.

use ascribe_core::linop::apply_alloc;
use ascribe_core::record::LayerRecord;
use ascribe_core::scale::{Adafactor, Adam, Less, to_adafactor};
use ascribe_core::{MatMut, MatRef, Real};

use super::case::{Inputs, Outputs};
use super::{Op, gpu};
use crate::Failure;

/// The operations of this folder.
pub const OPS: &[Op] = &[
    Op::new("adam.scale", adam::<f64>, adam::<f32>).recorded(gpu::adam),
    Op::new("adafactor.scale", adafactor::<f64>, adafactor::<f32>).recorded(gpu::adafactor),
];

#[derive(Clone, Copy)]
enum Variant {
    Adam,
    Less,
    ToAdafactor,
}

fn adam<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let variants = [("adam", Variant::Adam), ("less", Variant::Less), ("to_adafactor", Variant::ToAdafactor)];
    let (v, eps) = (inputs.floats::<T>("v")?, inputs.number("eps")?);
    let [rows, cols] = v.dims()?;
    match inputs.choice("variant", &variants)? {
        Variant::Adam => {
            let g = inputs.floats::<T>("g")?;
            let gradients = MatRef::new(&g.data, g.dims::<3>()?[0], rows * cols)?;
            let scaled = apply_alloc(&Adam::new(&v.data, eps)?, gradients)?;
            Ok(Outputs::new().floats("g_scaled", &g.shape, &scaled))
        }
        Variant::Less => {
            let (g, m) = (inputs.floats::<T>("g")?, inputs.floats::<T>("m")?);
            let n = g.dims::<3>()?[0];
            let gradients = MatRef::new(&g.data, n, rows * cols)?;
            let less = Less { beta1: inputs.number("beta1")?, beta2: inputs.number("beta2")?, eps };
            let mut scaled = vec![T::ZERO; g.data.len()];
            less.apply(MatMut::new(&mut scaled, n, rows * cols)?, gradients, &m.data, &v.data)?;
            // The numerator may cancel.
            let largest = |x: &[T]| x.iter().fold(0.0, |largest: f64, x| largest.max(x.to_f64().abs()));
            let least = v.data.iter().fold(f64::INFINITY, |least, v| least.min(v.to_f64()));
            let terms = less.beta1 * largest(&m.data) + (1.0 - less.beta1) * largest(&g.data);
            let magnitude = terms / (less.beta2 * least + eps).sqrt();
            Ok(Outputs::new().with_magnitude(magnitude).floats("g_scaled", &g.shape, &scaled))
        }
        Variant::ToAdafactor => {
            let (mut row, mut col) = (vec![T::ZERO; rows], vec![T::ZERO; cols]);
            to_adafactor(&mut row, &mut col, v.matrix()?)?;
            let mean = row.iter().map(|r| r.to_f64()).sum::<f64>() / rows as f64;
            let product = |r: f64, c: f64| if mean == 0.0 { 0.0 } else { r * c / mean };
            let rank1: Vec<f64> =
                row.iter().flat_map(|r| col.iter().map(move |c| product(r.to_f64(), c.to_f64()))).collect();
            Ok(Outputs::new().floats("row", &[rows], &row).floats("col", &[cols], &col).floats(
                "v_rank1",
                &[rows, cols],
                &rank1,
            ))
        }
    }
}

fn adafactor<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (x, delta) = (inputs.floats::<T>("x")?, inputs.floats::<T>("delta")?);
    let (row, col) = (inputs.floats::<T>("row")?, inputs.floats::<T>("col")?);
    let ([n, t, d_in], [_, _, d_out]) = (x.dims()?, delta.dims()?);
    let (eps, bias_eps) = (inputs.number("eps")?, inputs.number("bias_eps")?);
    let moments = Adafactor { row: &row.data, col: &col.data, eps };
    let (mut x_scaled, mut delta_scaled) = (vec![T::ZERO; n * t * d_in], vec![T::ZERO; n * t * d_out]);
    let inputs_of = MatRef::new(&x.data, n * t, d_in)?;
    let outputs_of = MatRef::new(&delta.data, n * t, d_out)?;
    moments.scale_inputs(MatMut::new(&mut x_scaled, n * t, d_in)?, inputs_of)?;
    moments.scale_outputs(MatMut::new(&mut delta_scaled, n * t, d_out)?, outputs_of)?;
    let scaled = [MatRef::new(&x_scaled, n * t, d_in)?, MatRef::new(&delta_scaled, n * t, d_out)?];
    let mut g_scaled = vec![T::ZERO; n * d_out * d_in];
    let record = LayerRecord::new(n, scaled[0], scaled[1], None, false)?;
    record.gradients(MatMut::new(&mut g_scaled, n, d_out * d_in)?)?;
    let largest = |x: &[T]| x.iter().fold(0.0, |largest: f64, x| largest.max(x.to_f64().abs()));
    let magnitude = t as f64 * largest(&x_scaled) * largest(&delta_scaled);
    let outputs = Outputs::new()
        .floats("x_scaled", &x.shape, &x_scaled)
        .floats("delta_scaled", &delta.shape, &delta_scaled)
        .with_magnitude(magnitude)
        .floats("g_scaled", &[n, d_out, d_in], &g_scaled);
    if !inputs.has("bias_v") {
        return Ok(outputs);
    }
    let bias_v = inputs.floats::<T>("bias_v")?;
    // Without inputs and with a bias, the gradient is that of the bias alone.
    let empty = MatRef::new(&[], n * t, 0)?;
    let (mut bias, mut bias_scaled) = (vec![T::ZERO; n * d_out], vec![T::ZERO; n * d_out]);
    LayerRecord::new(n, empty, outputs_of, None, true)?.gradients(MatMut::new(&mut bias, n, d_out)?)?;
    let scaled = MatMut::new(&mut bias_scaled, n, d_out)?;
    Adafactor::scale_bias(scaled, MatRef::new(&bias, n, d_out)?, &bias_v.data, bias_eps)?;
    let least = bias_v.data.iter().fold(f64::INFINITY, |least, v| least.min(v.to_f64()));
    let magnitude = t as f64 * largest(&delta.data) / (least + bias_eps).sqrt();
    Ok(outputs.with_magnitude(magnitude).floats("bias_scaled", &[n, d_out], &bias_scaled))
}
