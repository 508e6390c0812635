//! Scores of attribution methods from rows that are ready.

use ascribe_core::derivative::Reduction;
use ascribe_core::linop::apply_alloc;
use ascribe_core::score::{Similarity, row_dots, row_norms};
use ascribe_core::sketch::{Grass, Mask, MaskScale};
use ascribe_core::{MatMut, MatRef, Real};
use ascribe_solvers::attribution::{
    CrossCovariance, Dabuf, Less, Normalization, ProjectedFisher, TrackStar, Trak, best_subtask, mixing_weight,
    tracin_scores, weight_by_residual,
};
use ascribe_solvers::curvature::{Damping, Filter, Gram};
use ascribe_solvers::linalg::symmetric_eigen;
use ascribe_solvers::parallel::Parallelism::Serial;

use super::Op;
use super::case::{Inputs, Outputs, Tensor};
use super::sketch::table;
use crate::Failure;

/// The operations of this folder.
pub const OPS: &[Op] = &[
    Op::new("crosscov.streaming", cross_covariance::<f64>, cross_covariance::<f32>),
    Op::new("dabuf.whiten_cosine", whiten_cosine::<f64>, whiten_cosine::<f32>),
    Op::new("daunce.scores", daunce::<f64>, daunce::<f32>),
    Op::new("grass.scores", grass::<f64>, grass::<f32>),
    Op::new("gradcos.scores", gradcos::<f64>, gradcos::<f32>),
    Op::new("less.scores", less::<f64>, less::<f32>),
    Op::new("logra.scores", logra::<f64>, logra::<f32>),
    Op::new("tracin.scores", tracin::<f64>, tracin::<f32>),
    Op::new("trackstar.lambda", lambda, lambda),
    Op::new("trackstar.scores", trackstar::<f64>, trackstar::<f32>),
    Op::new("trak.scores", trak::<f64>, trak::<f32>),
];

/// The inputs `<name>.0`, `<name>.1`, ..
fn numbered<T: Real>(inputs: &Inputs<'_>, name: &str, count: usize) -> Result<Vec<Tensor<T>>, Failure> {
    (0..count).map(|i| inputs.floats(&format!("{name}.{i}"))).collect()
}

fn views<T: Real>(tensors: &[Tensor<T>]) -> Result<Vec<MatRef<'_, T>>, Failure> {
    tensors.iter().map(Tensor::matrix).collect()
}

/// The first axis of the first of `tensors`.
fn rows<T: Real>(tensors: &[MatRef<'_, T>]) -> usize {
    tensors.first().map_or(0, MatRef::rows)
}

/// The largest norm of a row.
fn largest_norm<T: Real>(x: MatRef<'_, T>) -> Result<f64, Failure> {
    let mut norms = vec![T::ZERO; x.rows()];
    row_norms(&mut norms, x)?;
    Ok(norms.iter().fold(0.0, |largest, norm| norm.to_f64().max(largest)))
}

/// The size of what the rounding of a number changes in a covariance: the number times a deviation on the other side.
fn covariance_size<T: Real>(a: MatRef<'_, T>, b: MatRef<'_, T>) -> f64 {
    let largest = |x: MatRef<'_, T>| x.row_iter().flatten().fold(0.0_f64, |m, x| m.max(x.to_f64().abs()));
    let spread = |column: Vec<f64>| {
        column.iter().copied().fold(f64::MIN, f64::max) - column.iter().copied().fold(f64::MAX, f64::min)
    };
    let column = |x: MatRef<'_, T>, j: usize| x.row_iter().map(|row| row[j].to_f64()).collect();
    let deviation = |x: MatRef<'_, T>| (0..x.cols()).map(|j| spread(column(x, j))).fold(0.0, f64::max);
    largest(a) * deviation(b) + largest(b) * deviation(a)
}

fn cross_covariance<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (a, b) = (inputs.floats::<T>("a")?, inputs.floats::<T>("b")?);
    let (a, b) = (a.matrix()?, b.matrix()?);
    let mut statistics = CrossCovariance::new(a.cols(), b.cols())?;
    for chunk in inputs.indices("chunks")?.data.windows(2) {
        let (start, count) = (chunk[0], chunk[1] - chunk[0]);
        statistics.add(a.row_range(start, count)?, b.row_range(start, count)?, Serial)?;
    }
    Ok(Outputs::new()
        .floats("mean_a", &[a.cols()], &statistics.mean_a())
        .floats("mean_b", &[b.cols()], &statistics.mean_b())
        .with_magnitude(covariance_size(a, b))
        .floats("cov", &[a.cols(), b.cols()], &statistics.covariance()?))
}

fn daunce<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (train, query) = (inputs.floats::<T>("train_loss")?, inputs.floats::<T>("query_loss")?);
    let (train, query) = (train.matrix()?, query.matrix()?);
    let mut statistics = CrossCovariance::new(train.cols(), query.cols())?;
    statistics.add(train, query, Serial)?;
    let shape = [train.cols(), query.cols()];
    // A column's rounding is relative to its largest number, a correlation is to its deviation.
    let (mut own, columns) = (vec![0.0_f64; 2], [train, query]);
    for (condition, x) in own.iter_mut().zip(columns) {
        for j in 0..x.cols() {
            let column: Vec<f64> = x.row_iter().map(|row| row[j].to_f64()).collect();
            let mean = column.iter().sum::<f64>() / column.len() as f64;
            let deviation = column.iter().map(|x| (x - mean).powi(2)).sum::<f64>().sqrt();
            if column.iter().any(|x| *x != column[0]) {
                *condition = condition.max(column.iter().map(|x| x * x).sum::<f64>().sqrt() / deviation);
            }
        }
    }
    Ok(Outputs::new()
        .with_magnitude(covariance_size(train, query))
        .floats("cov", &shape, &statistics.covariance()?)
        .with_condition(1.0 + own[0] + own[1])
        .with_magnitude(1.0)
        .floats("corr", &shape, &statistics.correlation()?))
}

fn whiten_cosine<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (train, query) = (inputs.floats::<T>("train")?, inputs.floats::<T>("query")?);
    let (train, query, shrinkage) = (train.matrix()?, query.matrix()?, inputs.number("shrinkage")?);
    let (n, m, d) = (train.rows(), query.rows(), train.cols());
    let mut statistics = CrossCovariance::new(d, d)?;
    statistics.add(train, train, Serial)?;
    let dabuf = Dabuf::<T>::new(&statistics, shrinkage, Serial)?;
    let (mut white_train, mut white_query) = (vec![T::ZERO; n * d], vec![T::ZERO; m * d]);
    dabuf.whiten(MatMut::new(&mut white_train, n, d)?, train)?;
    dabuf.whiten(MatMut::new(&mut white_query, m, d)?, query)?;
    let (mut unit_train, mut unit_query) = (vec![T::ZERO; n * d], vec![T::ZERO; m * d]);
    dabuf.embed(MatMut::new(&mut unit_train, n, d)?, train)?;
    dabuf.embed(MatMut::new(&mut unit_query, m, d)?, query)?;
    let mut scores = vec![T::ZERO; n * m];
    let (unit_train, unit_query) = (MatRef::new(&unit_train, n, d)?, MatRef::new(&unit_query, m, d)?);
    ascribe_core::score::scores(MatMut::new(&mut scores, n, m)?, unit_train, unit_query)?;
    // The eigenvalues lie between the shrunk mean and the trace.
    let condition = (1.0 - shrinkage) * d as f64 / shrinkage + 1.0;
    Ok(Outputs::new()
        .with_condition(condition)
        .floats("white_train", &[n, d], &white_train)
        .floats("white_query", &[m, d], &white_query)
        .with_magnitude(1.0)
        .floats("scores", &[n, m], &scores))
}

fn tracin<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    over_checkpoints::<T>(inputs, Similarity::Dot)
}

fn gradcos<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    // The floor of a norm is part of the definition: `NORM_FLOOR`.
    inputs.choice_of_floor()?;
    over_checkpoints::<T>(inputs, Similarity::Cosine)
}

fn over_checkpoints<T: Real>(inputs: &Inputs<'_>, similarity: Similarity) -> Result<Outputs, Failure> {
    let count = inputs.count("checkpoints")?;
    let (train, query) = (numbered::<T>(inputs, "train", count)?, numbered::<T>(inputs, "query", count)?);
    let (train, query, eta) = (views(&train)?, views(&query)?, inputs.floats::<T>("eta")?.data);
    let (n, m) = (rows(&train), rows(&query));
    let mut scores = vec![T::ZERO; n * m];
    tracin_scores(MatMut::new(&mut scores, n, m)?, &train, &query, &eta, similarity, Serial)?;
    let mut magnitude = 0.0;
    for ((train, query), eta) in train.iter().zip(&query).zip(&eta) {
        let size = match similarity {
            Similarity::Dot => largest_norm(*train)? * largest_norm(*query)?,
            Similarity::Cosine => 1.0,
        };
        magnitude += eta.to_f64().abs() * size;
    }
    Ok(Outputs::new().with_magnitude(magnitude).floats("scores", &[n, m], &scores))
}

impl Inputs<'_> {
    /// Checks that the floor of a norm, where a case names it, is the library's.
    fn choice_of_floor(&self) -> Result<(), Failure> {
        let eps = self.number("eps")?;
        if eps == ascribe_core::score::NORM_FLOOR {
            return Ok(());
        }
        crate::failure::fail(format!("a floor of {eps} under norms"))
    }
}

fn less<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    inputs.choice_of_floor()?;
    let (count, subtasks) = (inputs.count("checkpoints")?, inputs.count("subtasks")?);
    let (train, query) = (numbered::<T>(inputs, "train", count)?, numbered::<T>(inputs, "query", count)?);
    let (train, query) = (views(&train)?, views(&query)?);
    let (eta, subtask) = (inputs.floats::<f64>("eta")?.data, inputs.indices("subtask")?.data);
    let n = rows(&train);
    let mut by_subtask = vec![T::ZERO; n * subtasks];
    let less = Less::new(&query, &eta, &subtask, subtasks)?;
    less.scores(MatMut::new(&mut by_subtask, n, subtasks)?, &train, Serial)?;
    let scores = best_subtask(MatRef::new(&by_subtask, n, subtasks)?)?;
    Ok(Outputs::new().with_magnitude(1.0).floats("per_subtask", &[n, subtasks], &by_subtask).floats(
        "scores",
        &[n],
        &scores,
    ))
}

/// The largest condition of `F + d I` over the layers. A relative error `e` of F or of a row changes an influence by at
/// most `e` times this and the roots of the two rows' influences on themselves.
fn condition<T: Real>(fisher: &ProjectedFisher<T>, filter: &Filter) -> Result<f64, Failure> {
    let mut condition = 1.0_f64;
    for block in fisher.blocks() {
        let multipliers = filter.multipliers(block)?;
        let largest = multipliers.iter().copied().fold(0.0, f64::max);
        let least = multipliers.iter().copied().fold(f64::INFINITY, f64::min);
        if least > 0.0 && least.is_finite() {
            condition = condition.max(largest / least);
        }
    }
    Ok(condition)
}

/// The largest element.
fn largest<T: Real>(x: &[T]) -> f64 {
    x.iter().fold(0.0, |largest, x| x.to_f64().max(largest))
}

fn logra<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    inputs.choice_of_floor()?;
    let count = inputs.count("layers")?;
    let (train, query) = (numbered::<T>(inputs, "train", count)?, numbered::<T>(inputs, "query", count)?);
    let (train, query) = (views(&train)?, views(&query)?);
    let (n, m) = (rows(&train), rows(&query));
    let filter = Filter { damping: Damping::Relative(inputs.number("c")?), ..Filter::default() };
    let fisher = ProjectedFisher::of_rows(&train, &filter, Serial)?;
    let [dot, self_train, self_query] = influence(&fisher, &train, &query)?;
    let normalized = |by: Normalization<'_, T>| {
        let mut scores = dot.clone();
        by.apply(MatMut::new(&mut scores, n, m)?)?;
        Ok::<_, Failure>(scores)
    };
    let l_relatif = normalized(Normalization::Loss { self_train: &self_train })?;
    let l2 = normalized(Normalization::Distance { self_train: &self_train })?;
    let cosine = normalized(Normalization::Cosine { self_train: &self_train, self_query: &self_query })?;
    let (of_train, of_query) = (largest(&self_train), largest(&self_query));
    let to_query = (of_train * of_query).sqrt();
    Ok(Outputs::new()
        .with_condition(condition(&fisher, &filter)?)
        .with_magnitude(to_query)
        .floats("dot", &[n, m], &dot)
        .floats("self_train", &[n], &self_train)
        .floats("self_query", &[m], &self_query)
        .with_magnitude(of_query.sqrt())
        .floats("l_relatif", &[n, m], &l_relatif)
        .with_magnitude(to_query + 0.5 * of_train)
        .floats("l2", &[n, m], &l2)
        .with_magnitude(1.0)
        .floats("cosine", &[n, m], &cosine))
}

/// Influence on rows that are sketched first.
fn grass<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (count, k) = (inputs.count("layers")?, inputs.count("k")?);
    let (train, query) = (numbered::<T>(inputs, "train", count)?, numbered::<T>(inputs, "query", count)?);
    let (n, m) = (rows(&views(&train)?), rows(&views(&query)?));
    let (mut train_rows, mut query_rows) = (Vec::new(), Vec::new());
    for l in 0..count {
        let indices = inputs.indices(&format!("idx.{l}"))?.data;
        let mask = Mask::new(&indices, train[l].dims::<2>()?[1], MaskScale::None)?;
        let grass = Grass::new(mask, table(inputs, &format!("sjlt_idx.{l}"), &format!("sjlt_sign.{l}"))?)?;
        let shape = |rows| [rows, k].to_vec();
        train_rows.push(Tensor { shape: shape(n), data: apply_alloc(&grass, train[l].matrix()?)? });
        query_rows.push(Tensor { shape: shape(m), data: apply_alloc(&grass, query[l].matrix()?)? });
    }
    let (train, query) = (views(&train_rows)?, views(&query_rows)?);
    if inputs.choice("hessian", &[("fisher", false), ("identity", true)])? {
        inputs.number("c")?;
        let mut scores = vec![T::ZERO; n * m];
        tracin_scores(MatMut::new(&mut scores, n, m)?, &train, &query, &vec![T::ONE; count], Similarity::Dot, Serial)?;
        let sizes = train.iter().zip(&query).map(|(t, q)| Ok(largest_norm(*t)? * largest_norm(*q)?));
        let magnitude = sizes.sum::<Result<f64, Failure>>()?;
        return Ok(Outputs::new().with_magnitude(magnitude).floats("scores", &[n, m], &scores));
    }
    let filter = Filter { damping: Damping::Relative(inputs.number("c")?), ..Filter::default() };
    let fisher = ProjectedFisher::of_rows(&train, &filter, Serial)?;
    let [scores, self_train, self_query] = influence(&fisher, &train, &query)?;
    Ok(Outputs::new()
        .with_condition(condition(&fisher, &filter)?)
        .with_magnitude((largest(&self_train) * largest(&self_query)).sqrt())
        .floats("scores", &[n, m], &scores))
}

/// The influence of each training row on each query, and of every row on itself.
fn influence<T: Real>(
    fisher: &ProjectedFisher<T>,
    train: &[MatRef<'_, T>],
    query: &[MatRef<'_, T>],
) -> Result<[Vec<T>; 3], Failure> {
    let (n, m, dim) = (rows(train), rows(query), fisher.dim());
    let (mut dot, mut solved) = (vec![T::ZERO; n * m], vec![T::ZERO; m * dim]);
    fisher.precondition(MatMut::new(&mut solved, m, dim)?, query)?;
    fisher.scores(MatMut::new(&mut dot, n, m)?, train, MatRef::new(&solved, m, dim)?)?;
    let (mut self_train, mut self_query) = (vec![T::ZERO; n], vec![T::ZERO; m]);
    fisher.self_influence(&mut self_train, train)?;
    fisher.self_influence(&mut self_query, query)?;
    Ok([dot, self_train, self_query])
}

fn lambda(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let count = inputs.count("modules")?;
    let pool = |name| {
        Ok::<_, Failure>(
            numbered::<f64>(inputs, name, count)?.into_iter().map(|module| module.data).collect::<Vec<_>>(),
        )
    };
    // A negative number of components stands for none.
    let components = inputs.number("target_components")?.max(0.0) as usize;
    Ok(Outputs::new().float("lambda", mixing_weight(&pool("eval")?, &pool("train")?, components)?))
}

fn grams<T: Real>(parts: &[MatRef<'_, T>]) -> Result<Vec<Gram<f64>>, Failure> {
    let gram = |rows: &MatRef<'_, T>| {
        let mut gram = Gram::new(rows.cols(), Serial)?;
        gram.add(*rows, None)?;
        Ok(gram)
    };
    parts.iter().map(gram).collect()
}

fn trackstar<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (count, lambda) = (inputs.count("blocks")?, inputs.number("lambda")?);
    let (train, query) = (numbered::<T>(inputs, "train", count)?, numbered::<T>(inputs, "query", count)?);
    let (train, query) = (views(&train)?, views(&query)?);
    let (n, m) = (rows(&train), rows(&query));
    let filter = Filter { damping: Damping::Relative(inputs.number("c")?), ..Filter::default() };
    let trackstar = TrackStar::new(&grams(&train)?, Some((&grams(&query)?, lambda)), &filter, Serial)?;
    let (mut embedded, mut scores) = (vec![T::ZERO; m * trackstar.dim()], vec![T::ZERO; n * m]);
    trackstar.embed(MatMut::new(&mut embedded, m, trackstar.dim())?, &query)?;
    trackstar.scores(MatMut::new(&mut scores, n, m)?, &train, MatRef::new(&embedded, m, trackstar.dim())?)?;
    // With a damping of `c` times the mean of `d` eigenvalues, `R + d I` has a condition of at most `1 + d / c`.
    let widest = train.iter().map(MatRef::cols).max().unwrap_or(0);
    let (Damping::Absolute(c) | Damping::Relative(c)) = filter.damping;
    Ok(Outputs::new().with_condition(1.0 + widest as f64 / c).with_magnitude(1.0).floats("scores", &[n, m], &scores))
}

fn trak<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let count = inputs.count("checkpoints")?;
    let regularization = inputs.number("reg")?;
    let (train, query) = (numbered::<T>(inputs, "train", count)?, numbered::<T>(inputs, "query", count)?);
    let (train, query, p) = (views(&train)?, views(&query)?, numbered::<T>(inputs, "p", count)?);
    let (n, m) = (rows(&train), rows(&query));
    let grams = grams(&train)?;
    let trak = Trak { regularization, ..Trak::default() }.prepare(&grams)?;
    let (mut solved, mut scores) = (vec![T::ZERO; m * trak.dim()], vec![T::ZERO; n * m]);
    trak.precondition(MatMut::new(&mut solved, m, trak.dim())?, &query)?;
    trak.scores(MatMut::new(&mut scores, n, m)?, &train, MatRef::new(&solved, m, trak.dim())?)?;
    let without_q = scores.clone();
    let p: Vec<&[T]> = p.iter().map(|p| p.data.as_slice()).collect();
    weight_by_residual(MatMut::new(&mut scores, n, m)?, &p)?;
    let (mut condition, mut magnitude) = (1.0_f64, 0.0);
    let mut start = 0;
    for (gram, query) in grams.iter().zip(&query) {
        let matrix = gram.matrix(Reduction::Sum)?;
        let values = symmetric_eigen(MatRef::new(&matrix, gram.dim(), gram.dim())?, Serial)?.values;
        if let (Some(least), Some(largest)) = (values.first(), values.last()) {
            condition = condition.max((largest + regularization) / (least + regularization));
        }
        // As for an influence; that of a training row on itself, its leverage, is at most 1.
        let mut own = vec![T::ZERO; m];
        let solved = MatRef::new(&solved, m, trak.dim())?.block(0, m, start, gram.dim())?;
        row_dots(&mut own, *query, solved)?;
        magnitude += (largest(&own) / count as f64).sqrt();
        start += gram.dim();
    }
    Ok(Outputs::new()
        .with_condition(condition)
        .with_magnitude(magnitude)
        .floats("without_q", &[n, m], &without_q)
        .floats("scores", &[n, m], &scores))
}
