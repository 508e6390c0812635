//! `gram.accumulate`, `kfac.*`, `ekfac.*`, `embedding.kfac`, `psd.inverse_root`, and the K-FAC operations of networks.

use ascribe_core::derivative::Reduction;
use ascribe_core::matmul::matmul;
use ascribe_core::record::LayerRecord;
use ascribe_core::reduce::norm2;
use ascribe_core::{LinOp, MatMut, MatRef, Real};
use ascribe_solvers::curvature::{
    Count, Covariances, Damping, EigenBlock, EigenvalueCorrection, Ekfac, EmbeddingCorrection, EmbeddingCovariance,
    EmbeddingRecord, Empirical, Filter, Fisher, Gram, Inversion, Kfac, LayerCovariance, LayerShape, Sharing, Type2,
};
use ascribe_solvers::parallel::Parallelism::Serial;

use super::case::{Inputs, Outputs};
use super::mlp::{Problem, REDUCTIONS};
use super::{Op, gpu};
use crate::Failure;

/// The operations of this folder.
pub const OPS: &[Op] = &[
    Op::new("gram.accumulate", gram::<f64>, gram::<f32>).recorded(gpu::gram),
    Op::new("kfac.factors", kfac_factors::<f64>, kfac_factors::<f32>),
    Op::new("kfac.apply_inverse", kfac_inverse::<f64>, kfac_inverse::<f32>),
    Op::new("ekfac.eigenvalues", ekfac_eigenvalues::<f64>, ekfac_eigenvalues::<f32>),
    Op::new("ekfac.apply_inverse", ekfac_inverse::<f64>, ekfac_inverse::<f32>),
    Op::new("ekfac.apply_power", ekfac_power::<f64>, ekfac_power::<f32>),
    Op::new("embedding.kfac", embedding::<f64>, embedding::<f32>),
    Op::new("psd.inverse_root", inverse_root::<f64>, inverse_root::<f32>),
    Op::new("mlp.kfac_factors", mlp_factors::<f64>, mlp_factors::<f32>),
    Op::new("mlp.ekfac_scores", mlp_scores::<f64>, mlp_scores::<f32>),
];

fn apply<T: Real>(op: &dyn LinOp<T>, v: MatRef<'_, T>) -> Result<Vec<T>, Failure> {
    let mut out = vec![T::ZERO; v.rows() * op.dim_out()];
    let mut scratch = vec![T::ZERO; op.scratch_len(v.rows())];
    op.apply(MatMut::new(&mut out, v.rows(), op.dim_out())?, v, &mut scratch)?;
    Ok(out)
}

fn gram<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let g = inputs.floats::<T>("g")?;
    let weights = if inputs.has("weight") { Some(inputs.floats::<T>("weight")?.data) } else { None };
    let ([_, dim], chunks) = (g.dims()?, inputs.indices("chunks")?.data);
    let reduction = inputs.choice("normalize", &[("mean", Reduction::Mean), ("sum", Reduction::Sum)])?;
    let mut gram = Gram::<T>::new(dim, Serial)?;
    for bounds in chunks.windows(2) {
        let rows = g.matrix()?.row_range(bounds[0], bounds[1].saturating_sub(bounds[0]))?;
        gram.add(rows, weights.as_ref().and_then(|weights| weights.get(bounds[0]..bounds[1])))?;
    }
    Ok(Outputs::new().floats("gram", &[dim; 2], &gram.matrix(reduction)?))
}

pub(super) const SHARING: [(&str, Sharing); 2] = [("expand", Sharing::Expand), ("reduce", Sharing::Reduce)];
pub(super) const COUNT: [(&str, Count); 2] = [("example", Count::Example), ("position", Count::Position)];

fn kfac_factors<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (a, g) = (inputs.floats::<T>("a")?, inputs.floats::<T>("g")?);
    let ([n, s, d_in], [_, _, d_out], bias) = (a.dims()?, g.dims()?, inputs.switch("bias")?);
    let mask = if inputs.has("mask") { Some(inputs.flags("mask")?.data) } else { None };
    let (x, delta) = (MatRef::new(&a.data, n * s, d_in)?, MatRef::new(&g.data, n * s, d_out)?);
    let (sharing, count) = (inputs.choice("approx", &SHARING)?, inputs.choice("g_count", &COUNT)?);
    let shape = LayerShape { d_in, d_out, bias };
    let mut covariance = LayerCovariance::<T, Empirical>::new(shape, sharing, count, Serial)?;
    covariance.add(&LayerRecord::new(n, x, delta, mask.as_deref(), bias)?, &[])?;
    Ok(Outputs::new().floats("factor_a", &[shape.weight_cols(); 2], &covariance.factor_a()?).floats(
        "factor_g",
        &[d_out; 2],
        &covariance.factor_g()?,
    ))
}

/// What `f` of a corrected block magnifies rounding of the two factors by, relative to its largest value: rounding
/// turns two eigenvectors of a factor towards each other by its size over their gap; that mixes what `f` makes of
/// their eigenvalues, and adds twice their correlation, at most the root of their product, to each. `slope` is `|f'|`.
/// Eigenvalues that are equal up to rounding belong to an eigenspace in which no basis is asked for.
fn basis_condition<T: Real>(
    kfac: &EigenBlock<T>,
    corrected: &EigenBlock<T>,
    f: impl Fn(f64) -> f64,
    slope: impl Fn(f64) -> f64,
) -> f64 {
    let (rows, cols) = (corrected.rows(), corrected.cols());
    let value = |o: usize, i: usize| corrected.values()[o * cols + i];
    let largest = corrected.values().iter().fold(0.0_f64, |largest, &s| largest.max(f(s).abs()));
    let change = |x: f64, y: f64| (f(x) - f(y)).abs() + 2.0 * (x * y).sqrt() * slope(x).max(slope(y));
    let mut worst = largest;
    let (left, right) = kfac.factors().unwrap_or_default();
    for (factor, across, along) in [(right, rows, true), (left, cols, false)] {
        let size = factor.iter().fold(0.0_f64, |size, &x| size.max(x));
        for (j, y) in factor.iter().enumerate() {
            for (i, x) in factor[..j].iter().enumerate().filter(|(_, x)| (*x - y).abs() > 1e-9 * size) {
                let angle = size / (x - y).abs();
                for k in 0..across {
                    let (x, y) = if along { (value(k, i), value(k, j)) } else { (value(i, k), value(j, k)) };
                    worst = worst.max(angle * change(x, y));
                }
            }
        }
    }
    if largest > 0.0 { worst / largest } else { 1.0 }
}

/// What an inverse or a power of it magnifies rounding by: the spread of the damped eigenvalues.
fn inverse_condition<T: Real>(block: &EigenBlock<T>, amount: f64) -> f64 {
    let largest = block.values().iter().fold(0.0_f64, |largest, &value| largest.max(value));
    let smallest = block.values().iter().fold(f64::INFINITY, |smallest, &value| smallest.min(value));
    if smallest + amount > 0.0 { (largest + amount) / (smallest + amount) } else { 1.0 }
}

/// What a filter makes of a change of every eigenvalue by one rounding of the largest, in such roundings: a root of
/// Tikhonov's filter is steep where the curvature vanishes. Relative to its largest value.
fn filter_condition<T: Real>(filter: &Filter, block: &EigenBlock<T>) -> Result<f64, Failure> {
    let largest = block.values().iter().fold(0.0_f64, |largest, &value| largest.max(value));
    let moved: Vec<f64> = block.values().iter().map(|s| s + T::EPSILON.to_f64() * largest).collect();
    let moved = match block.factors() {
        None => EigenBlock::from_parts("moved", block.left().clone(), block.right().clone(), moved)?,
        Some(_) => return Ok(inverse_condition(block, filter.damping.amount(block.mean())?)),
    };
    let (before, after) = (filter.multipliers(block)?, filter.multipliers(&moved)?);
    let changes = before.iter().zip(&after).map(|(x, y)| (x - y).abs() / T::EPSILON.to_f64());
    let (change, size) = (changes.fold(0.0, f64::max), before.iter().fold(0.0_f64, |size, &x| size.max(x)));
    Ok(if size > 0.0 { 1.0 + change / size } else { 1.0 })
}

fn kfac_inverse<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (a, g) = (inputs.floats::<T>("factor_a")?, inputs.floats::<T>("factor_g")?);
    let v = inputs.floats::<T>("v")?;
    let damping = inputs.number("damping")?;
    let kinds = [
        ("exact", (Damping::Absolute(damping), Inversion::Damped)),
        ("relative", (Damping::Relative(damping), Inversion::Damped)),
        ("pi", (Damping::Absolute(damping), Inversion::Factored)),
    ];
    let (damping, inversion) = inputs.choice("damping_kind", &kinds)?;
    let block = EigenBlock::<T>::kronecker("case", a.matrix()?, g.matrix()?, Serial)?;
    let amount = damping.amount(block.mean())?;
    let filter = Filter { damping, inversion, ..Filter::default() };
    let x = apply(&block.filtered(&filter, Serial)?, v.matrix()?)?;
    Ok(Outputs::new()
        .with_condition(inverse_condition(&block, amount))
        .floats("x", &v.shape, &x)
        .float("lambda", amount))
}

/// K-FAC's block and the corrected one of `ekfac.*`.
fn ekfac_block<T: Real>(inputs: &Inputs<'_>) -> Result<[EigenBlock<T>; 2], Failure> {
    let (a, g) = (inputs.floats::<T>("a")?, inputs.floats::<T>("g")?);
    let mask = if inputs.has("mask") { Some(inputs.flags("mask")?.data) } else { None };
    let ([n, s, d_in], [_, _, d_out], bias) = (a.dims()?, g.dims()?, inputs.switch("bias")?);
    let (x, delta) = (MatRef::new(&a.data, n * s, d_in)?, MatRef::new(&g.data, n * s, d_out)?);
    let record = LayerRecord::new(n, x, delta, mask.as_deref(), bias)?;
    let shape = LayerShape { d_in, d_out, bias };
    let mut covariance = LayerCovariance::<T, Empirical>::new(shape, Sharing::Expand, Count::Example, Serial)?;
    covariance.add(&record, &[])?;
    let (a, g) = (covariance.factor_a()?, covariance.factor_g()?);
    let (a, g) = (MatRef::new(&a, shape.weight_cols(), shape.weight_cols())?, MatRef::new(&g, d_out, d_out)?);
    let kfac = EigenBlock::kronecker("case", a, g, Serial)?;
    let mut correction = EigenvalueCorrection::<T, Empirical>::new(&kfac, Serial);
    correction.add(&record, &[])?;
    let corrected = correction.finish()?;
    Ok([kfac, corrected])
}

fn ekfac_eigenvalues<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let [kfac, block] = ekfac_block::<T>(inputs)?;
    let v = inputs.floats::<T>("v")?;
    let fv = apply(&block.function(|s| s, Serial)?, v.matrix()?)?;
    Ok(Outputs::new()
        .with_condition(basis_condition(&kfac, &block, |s| s, |_| 1.0))
        .floats("fv", &v.shape, &fv)
        .floats("diag", &[block.dim()], &block.matrix_diagonal()?)
        .float("trace", block.trace())
        .float("frobenius", block.frobenius())
        .float("lambda_mean", block.mean()))
}

/// The damping of a case.
fn damping(inputs: &Inputs<'_>) -> Result<Damping, Failure> {
    let (relative, value) =
        (inputs.choice("damping_kind", &[("absolute", false), ("relative", true)])?, inputs.number("damping")?);
    Ok(if relative { Damping::Relative(value) } else { Damping::Absolute(value) })
}

fn ekfac_inverse<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let [kfac, block] = ekfac_block::<T>(inputs)?;
    let v = inputs.floats::<T>("v")?;
    let damping = damping(inputs)?;
    let amount = damping.amount(block.mean())?;
    let x = apply(&block.filtered(&Filter { damping, ..Filter::default() }, Serial)?, v.matrix()?)?;
    Ok(Outputs::new()
        .with_condition(power_condition(&kfac, &block, amount, -1.0))
        .floats("x", &v.shape, &x)
        .float("lambda", amount))
}

/// What `(F + d)^power` of a corrected block magnifies rounding by.
fn power_condition<T: Real>(kfac: &EigenBlock<T>, block: &EigenBlock<T>, d: f64, power: f64) -> f64 {
    // Without curvature and damping the operator is zero.
    let f = |s: f64| if s + d > 0.0 { (s + d).powf(power) } else { 0.0 };
    let slope = |s: f64| if s + d > 0.0 { power.abs() * (s + d).powf(power - 1.0) } else { 0.0 };
    basis_condition(kfac, block, f, slope)
}

fn ekfac_power<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let [kfac, block] = ekfac_block::<T>(inputs)?;
    let v = inputs.floats::<T>("v")?;
    let (amount, power) = (inputs.number("lambda")?, inputs.number("power")?);
    let filter = Filter { damping: Damping::Absolute(amount), power, ..Filter::default() };
    let x = apply(&block.filtered(&filter, Serial)?, v.matrix()?)?;
    Ok(Outputs::new().with_condition(power_condition(&kfac, &block, amount, power)).floats("x", &v.shape, &x))
}

fn embedding<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (tokens, g, v) = (inputs.indices("tokens")?, inputs.floats::<T>("g")?, inputs.floats::<T>("v")?);
    let mask = if inputs.has("mask") { Some(inputs.flags("mask")?.data) } else { None };
    let ([n, s, dim], vocabulary) = (g.dims()?, inputs.count("vocab")?);
    let lambda = inputs.number("lambda")?;
    let record = EmbeddingRecord::new(n, &tokens.data, MatRef::new(&g.data, n * s, dim)?, mask.as_deref())?;
    let mut covariance = EmbeddingCovariance::<Empirical>::new(vocabulary, dim, Serial)?;
    covariance.add(&record, &[])?;
    let factor = covariance.factor_g()?;
    let kfac = covariance.finish::<T>("case")?;
    let mut correction = EmbeddingCorrection::<T, Empirical>::new(&kfac, Serial)?;
    correction.add(&record, &[])?;
    let ekfac = correction.finish()?;
    let filter = Filter { damping: Damping::Absolute(lambda), ..Filter::default() };
    Ok(Outputs::new()
        .floats("a_diag", &[vocabulary], &covariance.frequencies()?)
        .floats("factor_g", &[dim, dim], &factor)
        .floats("kfac_v", &v.shape, &apply(&kfac.function(|s| s, Serial)?, v.matrix()?)?)
        .with_condition(basis_condition(&kfac, &ekfac, |s| s, |_| 1.0))
        .floats("ekfac_v", &v.shape, &apply(&ekfac.function(|s| s, Serial)?, v.matrix()?)?)
        .floats("ekfac_diag", &[ekfac.dim()], &ekfac.matrix_diagonal()?)
        .with_condition(power_condition(&kfac, &ekfac, lambda, -1.0))
        .floats("ekfac_inv_v", &v.shape, &apply(&ekfac.filtered(&filter, Serial)?, v.matrix()?)?))
}

fn inverse_root<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let inversions = [
        ("damped_inverse", Inversion::Damped),
        ("pseudoinverse", Inversion::PseudoInverse),
        ("tikhonov_filtered", Inversion::Tikhonov),
        ("factored_tikhonov", Inversion::Factored),
    ];
    let inversion = inputs.choice("mode", &inversions)?;
    let (damping, power) = (Damping::Relative(inputs.number("c")?), inputs.number("power")?);
    let v = inputs.floats::<T>("v")?;
    let block = if inversion == Inversion::Factored {
        let (a, s) = (inputs.floats::<T>("a")?, inputs.floats::<T>("s")?);
        EigenBlock::<T>::kronecker("case", a.matrix()?, s.matrix()?, Serial)?
    } else {
        EigenBlock::<T>::dense("case", inputs.floats::<T>("f")?.matrix()?, Serial)?
    };
    let filter = Filter { damping, inversion, power };
    let vectors = MatRef::new(&v.data, v.shape[0], block.dim())?;
    let y = apply(&block.filtered(&filter, Serial)?, vectors)?;
    let condition = filter_condition::<T>(&filter, &block)?;
    Ok(Outputs::new().with_condition(condition).floats("y", &v.shape, &y))
}

fn mlp_factors<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let type2 = inputs.choice("fisher", &[("type2", true), ("empirical", false)])?;
    if type2 { factors_of::<T, _>(inputs, &Type2) } else { factors_of::<T, _>(inputs, &Empirical) }
}

fn factors_of<T: Real, F: Fisher>(inputs: &Inputs<'_>, fisher: &F) -> Result<Outputs, Failure> {
    let problem = Problem::<T>::read(inputs, inputs.choice("reduction", &REDUCTIONS)?)?;
    let lin = problem.linearize()?;
    let covariances = Covariances::<T, F>::of(&lin, fisher)?;
    let kfac = Kfac::of(&lin, fisher)?;
    let ekfac = Ekfac::correct(&kfac, &lin, fisher)?;
    let scale = lin.scale().to_f64() * lin.examples() as f64;
    let mut outputs = Outputs::new();
    let blocks = kfac.blocks().layers().iter().zip(ekfac.blocks().layers());
    for (l, ((_, layer), (product, block))) in covariances.iter().zip(blocks).enumerate() {
        let (a, g) = (layer.factor_a()?, layer.factor_g()?);
        let g: Vec<T> = g.iter().map(|&g| T::from_f64(scale * g.to_f64())).collect();
        let (cols, rows) = (block.cols(), block.rows());
        let (a, g) = (MatRef::new(&a, cols, cols)?, MatRef::new(&g, rows, rows)?);
        outputs = outputs
            .with_condition(1.0)
            .floats(&format!("a{l}"), &[cols, cols], a.as_span())
            .with_condition(problem.condition(&lin))
            .floats(&format!("g{l}"), &[rows, rows], g.as_span())
            .with_condition(basis_condition(product, block, |s| s, |_| 1.0))
            .floats(&format!("ekfac_diag{l}"), &[block.dim()], &block.matrix_diagonal()?)
            .float(&format!("block_trace{l}"), block.trace());
    }
    Ok(outputs)
}

fn mlp_scores<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let type2 = inputs.choice("fisher", &[("type2", true), ("empirical", false)])?;
    if type2 { scores_of::<T, _>(inputs, &Type2) } else { scores_of::<T, _>(inputs, &Empirical) }
}

fn scores_of<T: Real, F: Fisher>(inputs: &Inputs<'_>, fisher: &F) -> Result<Outputs, Failure> {
    let damping = damping(inputs)?;
    let train = Problem::<T>::read(inputs, Reduction::Mean)?;
    let test = train.with_data(inputs, "x_test", "y_test")?;
    let (lin, queries) = (train.linearize()?, test.linearize()?);
    let (n, m, dim) = (lin.examples(), queries.examples(), lin.network().params());
    let (mut g, mut q) = (vec![T::ZERO; n * dim], vec![T::ZERO; m * dim]);
    lin.per_example_gradients(MatMut::new(&mut g, n, dim)?)?;
    queries.per_example_gradients(MatMut::new(&mut q, m, dim)?)?;
    let (g, q) = (MatRef::new(&g, n, dim)?, MatRef::new(&q, m, dim)?);
    let kfac = Kfac::of(&lin, fisher)?;
    let ekfac = Ekfac::correct(&kfac, &lin, fisher)?;
    let inverse = ekfac.blocks().inverse(damping, Serial)?;
    let solved = apply(&inverse, q)?;
    let mut scores = vec![T::ZERO; m * n];
    matmul(MatMut::new(&mut scores, m, n)?, T::ZERO, T::ONE, MatRef::new(&solved, m, dim)?, g.t())?;
    let (mut own, mut start) = (vec![T::ZERO; n], 0);
    for layer in inverse.layers() {
        let mut forms = vec![T::ZERO; n];
        layer.quadratic_forms(&mut forms, g.block(0, n, start, layer.dim_in())?)?;
        own.iter_mut().zip(&forms).for_each(|(sum, &x)| *sum += x);
        start += layer.dim_in();
    }
    let layers = ekfac.blocks().layers();
    let lambdas = layers.iter().map(|block| damping.amount(block.mean())).collect::<Result<Vec<_>, _>>()?;
    // A score is a sum over layers, in each of which the inverse multiplies a coordinate by its largest eigenvalue at
    // most, and magnifies rounding as much as it does.
    let (mut magnitude, mut start) = (0.0, 0);
    for (product, (block, &lambda)) in kfac.blocks().layers().iter().zip(layers.iter().zip(&lambdas)) {
        let smallest = block.values().iter().fold(f64::INFINITY, |smallest, &s| smallest.min(s));
        let longest = |rows: MatRef<'_, T>| {
            let part = rows.block(0, rows.rows(), start, block.dim())?;
            Ok::<_, Failure>(part.row_iter().fold(0.0_f64, |most, row| most.max(norm2(row).to_f64())))
        };
        let size = longest(q)? * longest(g)? / (smallest + lambda);
        magnitude += power_condition(product, block, lambda, -1.0) * size;
        start += block.dim();
    }
    Ok(Outputs::new()
        .with_condition(train.condition(&lin).max(test.condition(&queries)))
        .floats("lambdas", &[lambdas.len()], &lambdas)
        .with_magnitude(magnitude)
        .floats("scores", &[m, n], &scores)
        .floats("self", &[n], &own))
}
