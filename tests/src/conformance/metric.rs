//! `metrics.*`: the library computes them in f64 from scores of either type.

use ascribe_core::Real;
use ascribe_core::metric::{
    QueryCorrelations, QueryRetrieval, QueryValues, Relevance, auc, average_precision, brittleness, lds, loo, midranks,
    ndcg, retrieval, spearman_columns, tail_patch,
};

use super::Op;
use super::case::{Inputs, Outputs, Tensor};
use crate::Failure;

/// The operations of this folder.
pub const OPS: &[Op] = &[
    Op::new("metrics.spearman", spearman_op::<f64>, spearman_op::<f32>),
    Op::new("metrics.lds", lds_op::<f64>, lds_op::<f32>),
    Op::new("metrics.loo", loo_op::<f64>, loo_op::<f32>),
    Op::new("metrics.mislabel_auc", auc_op::<f64>, auc_op::<f32>),
    Op::new("metrics.ndcg", ndcg_op::<f64>, ndcg_op::<f32>),
    Op::new("metrics.mrr_recall", retrieval_op::<f64>, retrieval_op::<f32>),
    Op::new("metrics.tail_patch", tail_patch_op::<f64>, tail_patch_op::<f32>),
    Op::new("metrics.brittleness", brittleness_op, brittleness_op),
];

impl Outputs {
    /// A correlation a query under `name`, and which of them are defined under `valid`.
    fn correlations(self, name: &str, found: &QueryCorrelations) -> Self {
        let per_query = &found.per_query;
        let values: Vec<_> = per_query.iter().map(|c| c.value).collect();
        self.floats(name, &[values.len()], &values).integers(
            "valid",
            &[values.len()],
            per_query.iter().map(|c| c.valid.into()),
        )
    }

    /// A value a query under `name`, and their mean.
    fn per_query(self, name: &str, found: &QueryValues) -> Self {
        self.floats(name, &[found.per_query.len()], &found.per_query).float("mean", found.mean)
    }
}

fn spearman_op<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (a, b) = (inputs.floats::<T>("a")?, inputs.floats::<T>("b")?);
    let found = spearman_columns(a.matrix()?, b.matrix()?)?;
    Ok(Outputs::new()
        .floats("rank_a", &a.shape, &column_ranks(&a)?)
        .floats("rank_b", &b.shape, &column_ranks(&b)?)
        .correlations("rho", &found))
}

fn column_ranks<T: Real>(x: &Tensor<T>) -> Result<Vec<f64>, Failure> {
    let [rows, cols] = x.dims()?;
    let mut ranks = vec![0.0; rows * cols];
    for q in 0..cols {
        let column: Vec<_> = x.data.iter().skip(q).step_by(cols).copied().collect();
        for (i, rank) in midranks(&column)?.into_iter().enumerate() {
            ranks[i * cols + q] = rank;
        }
    }
    Ok(ranks)
}

fn lds_op<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (scores, truth) = (inputs.floats::<T>("scores")?, inputs.floats::<T>("truth")?);
    let subsets = inputs.indices("subsets")?;
    let subsets: Vec<_> = subsets.matrix()?.row_iter().collect();
    let found = lds(scores.matrix()?, &subsets, truth.matrix()?)?;
    Ok(Outputs::new()
        .floats("pred", &truth.shape, &found.prediction)
        .correlations("lds", &found.correlations)
        .float("mean", found.correlations.mean.value))
}

fn loo_op<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let found = loo(inputs.floats::<T>("scores")?.matrix()?, inputs.floats("truth")?.matrix()?)?;
    Ok(Outputs::new().correlations("corr", &found).float("mean", found.mean.value))
}

fn auc_op<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (scores, mislabeled) = (inputs.floats::<T>("scores")?.data, inputs.flags("mislabeled")?.data);
    Ok(Outputs::new()
        .float("auc", auc(&scores, &mislabeled)?)
        .float("average_precision", average_precision(&scores, &mislabeled)?))
}

fn ndcg_op<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (scores, reference) = (inputs.floats::<T>("scores")?, inputs.floats("reference")?);
    let relevance =
        inputs.choice("relevance", &[("binary_topk", Relevance::BinaryTopK), ("graded", Relevance::Graded)])?;
    let found = ndcg(scores.matrix()?, reference.matrix()?, inputs.count("k")?, relevance)?;
    Ok(Outputs::new().per_query("ndcg", &found))
}

fn retrieval_op<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (scores, relevant) = (inputs.floats::<T>("scores")?, inputs.flags("relevant")?);
    let found = retrieval(scores.matrix()?, relevant.matrix()?, inputs.count("k")?, inputs.count("list_len")?)?;
    let per_query = &found.per_query;
    let shape = [per_query.len()];
    let values = |f: fn(&QueryRetrieval) -> f64| per_query.iter().map(f).collect::<Vec<_>>();
    Ok(Outputs::new()
        .integers("first_rank", &shape, per_query.iter().map(|q| or_minus_one(q.first_rank)))
        .floats("reciprocal_rank", &shape, &values(|q| q.reciprocal_rank))
        .floats("recall", &shape, &values(|q| q.recall))
        .floats("precision", &shape, &values(|q| q.precision))
        .float("mrr", found.mrr)
        .float("mean_recall", found.mean_recall)
        .float("mean_precision", found.mean_precision))
}

fn tail_patch_op<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let found = tail_patch(&inputs.floats::<T>("p_before")?.data, inputs.floats("p_after")?.matrix()?)?;
    // Percentage points, differences of probabilities of at most 100 %.
    Ok(Outputs::new().with_magnitude(100.0).per_query("per_query", &found))
}

fn brittleness_op(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (base, pred, grid) = (inputs.integers("base")?, inputs.integers("pred")?, inputs.indices("grid")?);
    let found = brittleness(&base.data, pred.matrix()?, &grid.data)?;
    Ok(Outputs::new().integers("first_k", &base.shape, found.first_k.iter().map(|k| or_minus_one(*k))).floats(
        "fraction",
        &grid.shape,
        &found.fraction,
    ))
}

/// How cases write a place or a count that does not exist.
fn or_minus_one(x: Option<usize>) -> i64 {
    x.map_or(-1, |x| x as i64)
}
