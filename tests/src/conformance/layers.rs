//! `conv2d.kfac_factors` and `diffusion.ggn_factors`: layers whose records have to be made first.

use ascribe_core::record::LayerRecord;
use ascribe_core::{MatMut, MatRef, Real};
use ascribe_solvers::curvature::{
    Conv2d, Count, DenoiserJacobian, EigenBlock, EigenvalueCorrection, Empirical, LayerCovariance, LayerShape, Sampled,
    Sharing, Type2,
};
use ascribe_solvers::parallel::Parallelism::Serial;

use super::Op;
use super::case::{Inputs, Outputs};
use crate::Failure;
use crate::failure::fail;

/// The operations of this folder.
pub const OPS: &[Op] = &[
    Op::new("conv2d.kfac_factors", conv2d::<f64>, conv2d::<f32>),
    Op::new("diffusion.ggn_factors", diffusion::<f64>, diffusion::<f32>),
];

fn conv2d<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (x, g) = (inputs.floats::<T>("x")?, inputs.floats::<T>("g")?);
    let ([n, channels, height, width], [_, d_out, out_height, out_width]) = (x.dims()?, g.dims()?);
    let pair =
        |name: &str| Ok::<_, Failure>([inputs.count(&format!("{name}_h"))?, inputs.count(&format!("{name}_w"))?]);
    let conv = Conv2d {
        kernel: pair("kernel")?,
        stride: pair("stride")?,
        padding: pair("pad")?,
        dilation: pair("dil")?,
        groups: 1,
    };
    let sharing = if inputs.choice("approx", &[("expand", false), ("reduce", true)])? {
        Sharing::Reduce
    } else {
        Sharing::Expand
    };
    let count = if inputs.choice("g_count", &[("example", false), ("position", true)])? {
        Count::Position
    } else {
        Count::Example
    };
    let layer = conv.layer([channels, height, width], d_out, inputs.switch("bias")?)?;
    if layer.output_size() != [out_height, out_width] {
        return fail(format!("in.g has shape {:?}, the output is {:?}", g.shape, layer.output_size()));
    }
    let images = MatRef::new(&x.data, n, channels * height * width)?;
    let output_grads = MatRef::new(&g.data, n, d_out * layer.positions())?;
    let mut covariance = LayerCovariance::<T, Empirical>::new(layer.shape(), sharing, count, Serial)?;
    layer.each_record(images, &[output_grads], |_, _, record, more| covariance.add(record, more))?;
    let (factor_a, factor_g) = covariance.factors()?;
    let cols = layer.shape().weight_cols();
    let mut grads = vec![T::ZERO; n * layer.dim()];
    layer.gradients(MatMut::new(&mut grads, n, layer.dim())?, images, output_grads)?;
    // The terms of a gradient may cancel: rounding is relative to the sum of their absolute values.
    let absolute = |data: &[T]| data.iter().map(|x| x.abs()).collect::<Vec<_>>();
    let (x, g) = (absolute(&x.data), absolute(&g.data));
    let (images, output_grads) = (MatRef::new(&x, n, images.cols())?, MatRef::new(&g, n, output_grads.cols())?);
    let mut sums = vec![T::ZERO; grads.len()];
    layer.gradients(MatMut::new(&mut sums, n, layer.dim())?, images, output_grads)?;
    Ok(Outputs::new()
        .floats("factor_a", &[cols, cols], &factor_a)
        .floats("factor_g", &[d_out, d_out], &factor_g)
        .with_magnitude(sums.iter().fold(0.0, |largest, x| x.to_f64().max(largest)))
        .floats("grads", &[n, layer.dim()], &grads))
}

fn diffusion<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (a, jac, noise) = (inputs.floats::<T>("a")?, inputs.floats::<T>("jac")?, inputs.floats::<T>("noise")?);
    let ([m, s, d_in], [_, p, _, d_out]) = (a.dims()?, jac.dims()?);
    let x = MatRef::new(&a.data, m * s, d_in)?;
    let jacobian = DenoiserJacobian::new(m, s, MatRef::new(&jac.data, m * p, s * d_out)?)?;
    let (mut exact, mut sampled) = (vec![T::ZERO; p * m * s * d_out], vec![T::ZERO; m * s * d_out]);
    jacobian.exact(MatMut::new(&mut exact, p * m * s, d_out)?)?;
    jacobian.sampled(MatMut::new(&mut sampled, m * s, d_out)?, noise.matrix()?)?;
    let exact = MatRef::new(&exact, p * m * s, d_out)?;
    let draws = (0..p).map(|p| exact.row_range(p * m * s, m * s)).collect::<Result<Vec<_>, _>>()?;
    let shape = LayerShape { d_in, d_out, bias: inputs.switch("bias")? };
    let record = |draw| LayerRecord::new(m, x, draw, None, shape.bias);
    let mut covariance = LayerCovariance::<T, Type2>::new(shape, Sharing::Expand, Count::Example, Serial)?;
    covariance.add(&record(draws[0])?, &draws[1..])?;
    let (factor_a, factor_g) = covariance.factors()?;
    let mut monte_carlo = LayerCovariance::<T, Sampled>::new(shape, Sharing::Expand, Count::Example, Serial)?;
    monte_carlo.add(&record(MatRef::new(&sampled, m * s, d_out)?)?, &[])?;
    let (_, factor_g_mc) = monte_carlo.factors()?;
    let cols = shape.weight_cols();
    let (a, g) = (MatRef::new(&factor_a, cols, cols)?, MatRef::new(&factor_g, d_out, d_out)?);
    let block = EigenBlock::kronecker("case", a, g, Serial)?;
    let mut correction = EigenvalueCorrection::<T, Type2>::new(&block, Serial);
    correction.add(&record(draws[0])?, &draws[1..])?;
    Ok(Outputs::new()
        .floats("factor_a", &[cols, cols], &factor_a)
        .floats("factor_g", &[d_out, d_out], &factor_g)
        .floats("factor_g_mc", &[d_out, d_out], &factor_g_mc)
        .float("ggn_trace", correction.finish()?.trace()))
}
