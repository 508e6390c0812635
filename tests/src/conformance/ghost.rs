//! `ghost.dot` and `lowrank_query.scores`: scores from layer records without per-example gradients.

use ascribe_core::ghost::{self, pooled};
use ascribe_core::record::LayerRecord;
use ascribe_core::{MatMut, MatRef, Real, score};
use ascribe_solvers::attribution::LowRankQuery;
use ascribe_solvers::linalg::svd;
use ascribe_solvers::parallel::Parallelism::Serial;

use super::Op;
use super::case::{Inputs, Outputs, Tensor};
use crate::Failure;
use crate::failure::fail;

/// The operations of this folder.
pub const OPS: &[Op] =
    &[Op::new("ghost.dot", dot::<f64>, dot::<f32>), Op::new("lowrank_query.scores", low_rank::<f64>, low_rank::<f32>)];

/// Inputs and output gradients of a layer, `[examples, positions, width]` each.
pub(super) struct Layer<T> {
    x: Tensor<T>,
    delta: Tensor<T>,
    mask: Option<Vec<bool>>,
    bias: bool,
}

impl<T: Real> Layer<T> {
    pub(super) fn read(inputs: &Inputs<'_>, [x, delta, mask]: [&str; 3], bias: bool) -> Result<Self, Failure> {
        let mask = if inputs.has(mask) { Some(mask_of(inputs, mask)?) } else { None };
        Ok(Self { x: inputs.floats(x)?, delta: inputs.floats(delta)?, mask, bias })
    }

    pub(super) fn record(&self) -> Result<LayerRecord<'_, T>, Failure> {
        let ([n, t, d_in], [_, _, d_out]) = (self.x.dims()?, self.delta.dims()?);
        let (x, delta) = (MatRef::new(&self.x.data, n * t, d_in)?, MatRef::new(&self.delta.data, n * t, d_out)?);
        Ok(LayerRecord::new(n, x, delta, self.mask.as_deref(), self.bias)?)
    }
}

/// A mask of 0 and 1, stored as integers or as floats.
pub(super) fn mask_of(inputs: &Inputs<'_>, name: &str) -> Result<Vec<bool>, Failure> {
    if let Ok(flags) = inputs.flags(name) {
        return Ok(flags.data);
    }
    let flag = |x: f64| if x == 0.0 || x == 1.0 { Ok(x == 1.0) } else { fail(format!("in.{name} holds {x}")) };
    inputs.floats::<f64>(name)?.data.into_iter().map(flag).collect()
}

/// The largest over the examples of `sum_t |x_t| |delta_t|`: no gradient has a larger norm.
fn largest_norm<T: Real>(record: &LayerRecord<'_, T>) -> f64 {
    let square = |row: &[T]| row.iter().map(|x| x.to_f64().powi(2)).sum::<f64>();
    let one = if record.has_bias() { 1.0 } else { 0.0 };
    let size = |row| ((square(record.inputs().row(row)) + one) * square(record.output_grads().row(row))).sqrt();
    (0..record.examples()).map(|n| record.runs(n).flatten().map(size).sum()).fold(0.0, f64::max)
}

fn dot<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let bias = inputs.switch("bias")?;
    let train = Layer::<T>::read(inputs, ["x", "delta", "token_mask"], bias)?;
    let query = Layer::<T>::read(inputs, ["xq", "deltaq", "token_mask_q"], bias)?;
    let (train, query) = (train.record()?, query.record()?);
    let (n, m) = (train.examples(), query.examples());
    let (mut dots, mut aggregate, mut norms) = (vec![T::ZERO; n * m], vec![T::ZERO; n], vec![T::ZERO; n]);
    ghost::dots(MatMut::new(&mut dots, n, m)?, T::ZERO, &train, &query)?;
    ghost::dots(MatMut::new(&mut aggregate, n, 1)?, T::ZERO, &train, &pooled(&query)?)?;
    ghost::squared_norms(&mut norms, T::ZERO, &train)?;
    // Products cancel; no sum of absolute terms is larger than a product of these.
    let (of_train, of_query) = (largest_norm(&train), largest_norm(&pooled(&query)?));
    Ok(Outputs::new()
        .with_magnitude(of_train * of_query.max(of_train))
        .floats("dot", &[n, m], &dots)
        .floats("aggregate", &[n], &aggregate)
        .floats("train_norm2", &[n], &norms))
}

fn low_rank<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (train, rank) = (Layer::<T>::read(inputs, ["x", "delta", "token_mask"], false)?, inputs.count("rank")?);
    let (queries, record) = (inputs.floats::<T>("vq")?, train.record()?);
    let ([count, d_out, d_in], n, rows) = (queries.dims()?, record.examples(), record.inputs().rows());
    let gradients = MatRef::new(&queries.data, count, d_out * d_in)?;
    let low_rank = LowRankQuery { max_rank: rank, ..LowRankQuery::default() }.prepare(gradients, [d_out, d_in])?;
    let (mut per_token, mut sums, mut full) =
        (vec![T::ZERO; rows * count], vec![T::ZERO; n * count], vec![T::ZERO; n * count]);
    low_rank.position_scores(MatMut::new(&mut per_token, rows, count)?, T::ZERO, &record, Serial)?;
    low_rank.scores(MatMut::new(&mut sums, n, count)?, T::ZERO, &record, Serial)?;
    let mut formed = vec![T::ZERO; n * record.dim()];
    record.gradients(MatMut::new(&mut formed, n, record.dim())?)?;
    score::scores(MatMut::new(&mut full, n, count)?, MatRef::new(&formed, n, record.dim())?, gradients)?;

    let (mut condition, mut norm) = (1.0_f64, 0.0_f64);
    for row in gradients.row_iter() {
        let s = svd(MatRef::new(&row.iter().map(|x| x.to_f64()).collect::<Vec<_>>(), d_out, d_in)?)?.s;
        norm = norm.max(s.iter().map(|s| s * s).sum::<f64>().sqrt());
        // A perturbation turns a kept singular vector towards a discarded one; what that changes is multiplied by the
        // divided difference of `s` kept and 0 discarded.
        if let (Some(kept), Some(left_out)) = (rank.checked_sub(1).and_then(|k| s.get(k)), s.get(rank)) {
            condition = condition.max(kept / (kept - left_out));
        }
    }
    Ok(Outputs::new()
        .with_condition(condition)
        .with_magnitude(norm * largest_norm(&record))
        .floats("per_token", &[n, record.positions(), count], &per_token)
        .floats("scores", &[n, count], &sums)
        .floats("full_rank", &[n, count], &full))
}
