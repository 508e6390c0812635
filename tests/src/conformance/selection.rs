//! What is selected, dropped or masked, and the scores that it is selected by.

use ascribe_core::record::LayerRecord;
use ascribe_core::score::row_norms;
use ascribe_core::{MatMut, MatRef, Real};
use ascribe_solvers::attribution::{Bids, IfGuide, Iif, IifFilter, query_contrast, token_scores};
use ascribe_solvers::parallel::Parallelism::Serial;

use super::Op;
use super::case::{Inputs, Outputs, Tensor};
use super::ghost::mask_of;
use crate::Failure;

/// The operations of this folder. Selections are those of the scores in the case: rounded to f32, two of them could
/// become one.
pub const OPS: &[Op] = &[
    Op::new("bids.select", bids, bids),
    Op::new("if_guide.mask", if_guide_mask, if_guide_mask),
    Op::new("if_guide.token_scores", if_guide_scores::<f64>, if_guide_scores::<f32>),
    Op::new("iif.filter", iif_filter, iif_filter),
    Op::new("iif.scores", iif_scores::<f64>, iif_scores::<f32>),
];

fn bids(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (influence, budget) = (inputs.floats::<f64>("a")?, inputs.count("budget")?);
    let bids = Bids::new(influence.matrix()?, Serial)?;
    let selected = bids.select(budget)?;
    Ok(Outputs::new().floats("standardized", &influence.shape, bids.standardized()).integers(
        "selected",
        &[budget],
        selected.into_iter().map(|row| row as i64),
    ))
}

fn if_guide_mask(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let scores = inputs.floats::<f64>("scores")?;
    let (window, max_tokens) = (inputs.count("window")?, inputs.count("max_tokens")?);
    let found = IfGuide { quantile: inputs.number("quantile")?, window, max_tokens }.select(scores.matrix()?)?;
    let documents = [found.order.len()];
    Ok(Outputs::new()
        .float("threshold", found.threshold)
        .floats("key", &documents, &found.importance)
        .integers("order", &documents, found.order.iter().map(|&document| document as i64))
        .integers("mask", &scores.shape, found.mask.iter().map(|&marked| marked.into()))
        .integers("used", &[1], [found.used as i64]))
}

fn if_guide_scores<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (layers, bias) = (inputs.count("layers")?, inputs.switch("bias")?);
    let mask = if inputs.has("token_mask") { Some(mask_of(inputs, "token_mask")?) } else { None };
    let mut shape = None;
    let (mut scores, mut magnitude) = (Vec::new(), 0.0);
    for l in 0..layers {
        let (x, delta) = (inputs.floats::<T>(&format!("x.{l}"))?, inputs.floats::<T>(&format!("delta.{l}"))?);
        let ([n, t, d_in], [_, _, d_out]) = (x.dims()?, delta.dims()?);
        let (x, delta) = (MatRef::new(&x.data, n * t, d_in)?, MatRef::new(&delta.data, n * t, d_out)?);
        let record = LayerRecord::new(n, x, delta, mask.as_deref(), bias)?;
        let (toxic, safe) = (inputs.floats::<T>(&format!("q_tox.{l}"))?, inputs.floats::<T>(&format!("q_safe.{l}"))?);
        let mut direction = vec![T::ZERO; record.dim()];
        query_contrast(&mut direction, gradients(&toxic)?, gradients(&safe)?)?;
        scores.resize(n * t, T::ZERO);
        token_scores(MatMut::new(&mut scores, n, t)?, T::ONE, &record, &direction, Serial)?;
        shape = Some([n, t]);
        let sizes = |x: MatRef<'_, T>| {
            let mut norms = vec![T::ZERO; x.rows()];
            row_norms(&mut norms, x)?;
            Ok::<_, Failure>(norms.iter().map(|norm| norm.to_f64()).fold(0.0, f64::max))
        };
        let of_queries = sizes(gradients(&toxic)?)? + sizes(gradients(&safe)?)?;
        magnitude += sizes(delta)? * sizes(x)?.hypot(1.0) * of_queries;
    }
    let [n, t] = shape.unwrap_or_default();
    let per_document: Vec<T> = scores.chunks_exact(t.max(1)).map(ascribe_core::reduce::sum).collect();
    Ok(Outputs::new()
        .with_magnitude(magnitude)
        .floats("scores", &[n, t], &scores)
        .with_magnitude(magnitude * t as f64)
        .floats("per_document", &[n], &per_document))
}

/// Query gradients `[m, d_out, weight_cols]`, one a row.
fn gradients<T: Real>(queries: &Tensor<T>) -> Result<MatRef<'_, T>, Failure> {
    let [m, d_out, cols] = queries.dims()?;
    Ok(MatRef::new(&queries.data, m, d_out * cols)?)
}

fn iif_scores<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (advantages, gradients) = (inputs.floats::<T>("adv")?.data, inputs.floats::<T>("grad_logp")?);
    let gradients = gradients.matrix()?;
    let iif = Iif { chunk: inputs.count("chunk")?, epsilon: inputs.number("eps")? };
    let standardized = iif.standardize(&advantages)?;
    let target = iif.target(&advantages, gradients, Serial)?;
    let scores = iif.scores(&standardized, gradients, &target, Serial)?;
    let largest = |x: &[T]| x.iter().fold(0.0_f64, |largest, x| largest.max(x.to_f64().abs()));
    let mut norms = vec![T::ZERO; gradients.rows()];
    row_norms(&mut norms, gradients)?;
    // Standardising divides the rounding of an advantage by the deviation of its chunk.
    let mut condition = 1.0_f64;
    for chunk in advantages.chunks(iif.chunk).filter(|chunk| chunk.iter().any(|a| *a != chunk[0])) {
        let mean = chunk.iter().map(|a| a.to_f64()).sum::<f64>() / chunk.len() as f64;
        let squares: f64 = chunk.iter().map(|a| (a.to_f64() - mean).powi(2)).sum();
        condition = condition.max(largest(chunk) / (squares / (chunk.len() - 1) as f64).sqrt());
    }
    let of_target = largest(&advantages) * largest(&norms);
    Ok(Outputs::new()
        .with_magnitude(of_target)
        .floats("target_grad", &[target.len()], &target)
        .with_condition(condition)
        .with_magnitude(1.0)
        .floats("adv_normalized", &[standardized.len()], &standardized)
        .with_magnitude(largest(&standardized) * largest(&norms) * of_target)
        .floats("scores", &[scores.len()], &scores))
}

fn iif_filter(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let scores = inputs.floats::<f64>("scores")?.data;
    let percent = if inputs.has_param("percent") { inputs.number("percent")? } else { 0.0 };
    let modes = [("percent_of_negative", IifFilter::PercentOfNegative(percent)), ("positive", IifFilter::Positive)];
    let keep = inputs.choice("mode", &modes)?.keep(&scores)?;
    let dropped = keep.iter().filter(|&&keep| !keep).count();
    Ok(Outputs::new().integers("keep", &[keep.len()], keep.iter().map(|&keep| keep.into())).integers(
        "dropped",
        &[1],
        [dropped as i64],
    ))
}
