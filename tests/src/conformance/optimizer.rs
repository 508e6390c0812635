//! `shampoo.*`, `soap.*`, `adamw.run`, `schedule_free_adamw.*`, `eigenvalue_correction.*`, and the matrix roots that they need.

use ascribe_core::{MatMut, MatRef, Real, reduce};
use ascribe_solvers::curvature::{Basis, EigenBlock};
use ascribe_solvers::linalg::{svd, symmetric_eigen};
use ascribe_solvers::parallel::Parallelism::Serial;
use ascribe_solvers::precondition::{
    AdamW, Blocking, CoupledNewton, Decay, EigenvalueAverage, Grafting, Layout, Optimizer, Orthogonalize, Polynomials,
    ScheduleFreeAdamW, Shampoo, Soap, coupled_inverse_root, inverse_root, pseudo_inverse_root, rayleigh_quotients,
};

use super::Op;
use super::case::{Inputs, Outputs, Tensor};
use crate::Failure;
use crate::failure::fail;

/// The operations of this folder.
pub const OPS: &[Op] = &[
    Op::new("matrix_root.evd", evd::<f64>, evd::<f32>),
    Op::new("matrix_root.coupled_newton", coupled_newton::<f64>, coupled_newton::<f32>),
    Op::new("newton_schulz.orthogonalize", orthogonalize::<f64>, orthogonalize::<f32>),
    Op::new("adamw.run", adamw::<f64>, adamw::<f32>),
    Op::new("schedule_free_adamw.run", schedule_free::<f64>, schedule_free::<f32>),
    Op::new("shampoo.step", shampoo::<f64>, shampoo::<f32>),
    Op::new("soap.step", soap::<f64>, soap::<f32>),
    Op::new("eigenvalue_correction.refit", refit::<f64>, refit::<f32>),
];

/// What the rounding of a symmetric matrix is multiplied by in the power `-1/p` of `A + epsilon I`, relative to the result:
/// the largest slope of the power over its largest value.
fn root_condition<T: Real>(a: &Tensor<T>, p: f64, epsilon: f64, least: f64) -> Result<f64, Failure> {
    let values = symmetric_eigen(a.matrix()?, Serial)?.values;
    let size = values.iter().fold(0.0_f64, |size, value| size.max(value.abs()));
    let shift = epsilon - values.first().map_or(0.0, |value| value.min(0.0));
    let kept: Vec<f64> = values.iter().map(|value| value + shift).filter(|value| *value > least * size).collect();
    let largest = |power: f64| kept.iter().fold(0.0_f64, |most, value| most.max(value.powf(power)));
    Ok(1.0 + if kept.is_empty() { 0.0 } else { size * largest(-1.0 / p - 1.0) / largest(-1.0 / p) / p.abs() })
}

fn evd<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (a, p, epsilon) = (inputs.floats::<T>("a")?, inputs.number("p")?, inputs.number("epsilon")?);
    let (pseudo, rtol) = (inputs.choice("mode", &[("shift", false), ("pseudo", true)])?, inputs.number("rtol")?);
    let x = if pseudo {
        // What is zero in f64 is rounding in f32, and is to stay zero.
        pseudo_inverse_root(a.matrix()?, p, rtol.max(a.shape[0] as f64 * T::EPSILON.to_f64()), Serial)?
    } else {
        inverse_root(a.matrix()?, p, epsilon, Serial)?
    };
    let least = if pseudo { rtol.max(a.shape[0] as f64 * T::EPSILON.to_f64()) } else { 0.0 };
    let condition = root_condition(&a, p, epsilon, least)?;
    Ok(Outputs::new().with_condition(condition).floats("x", &a.shape, &x))
}

fn coupled_newton<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (a, epsilon) = (inputs.floats::<T>("a")?, inputs.number("epsilon")?);
    let p = u32::try_from(inputs.count("p")?)?;
    let newton = CoupledNewton {
        tolerance: inputs.number("tol")?,
        max_iterations: inputs.count("max_iter")?,
        ..CoupledNewton::default()
    };
    let x = coupled_inverse_root(&newton, a.matrix()?, p, epsilon, Serial)?;
    // An iteration magnifies an error of M near 1 by at most the slope of its map there and before, e each.
    let condition = root_condition(&a, f64::from(p), epsilon, 0.0)?;
    Ok(Outputs::new()
        .with_condition(condition)
        .floats("x", &a.shape, &x.root)
        .integers("iterations", &[1], [i64::try_from(x.iterations)?])
        .with_magnitude(1.0)
        .float("error", x.error)
        .float("residual", x.residual))
}

fn orthogonalize<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let g = inputs.floats::<T>("g")?;
    let coefficients = if inputs.has("coefficients") { inputs.floats::<f64>("coefficients")?.data } else { Vec::new() };
    let polynomials = inputs.choice(
        "scheme",
        &[
            ("muon", Polynomials::Muon),
            ("cubic", Polynomials::Cubic),
            ("quintic", Polynomials::Quintic),
            ("quintic_fast", Polynomials::QuinticFast),
            ("polar_express", Polynomials::PolarExpress),
            ("custom", Polynomials::Custom(coefficients.as_chunks().0)),
        ],
    )?;
    let options = Orthogonalize {
        polynomials,
        steps: inputs.count("steps")?,
        scale: inputs.choice("scale", &[("none", false), ("muon", true)])?,
        norm_epsilon: inputs.number("norm_eps")?,
    };
    let [m, n] = g.dims()?;
    let mut x = vec![T::ZERO; m * n];
    options.apply(MatMut::new(&mut x, m, n)?, g.matrix()?, Serial)?;
    let singular_values = singular_values(&g)?;
    let condition = polar_condition(&singular_values);
    let magnitude = rounded_terms(&options, &singular_values, [m, n]);
    Ok(Outputs::new().with_condition(condition).with_magnitude(magnitude).floats("x", &g.shape, &x))
}

fn singular_values<T: Real>(g: &Tensor<T>) -> Result<Vec<f64>, Failure> {
    let wide: Vec<f64> = g.data.iter().map(|x| x.to_f64()).collect();
    let [m, n] = g.dims()?;
    Ok(svd(MatRef::new(&wide, m, n)?)?.s)
}

/// What the roundings of all steps come to: each is as large as the terms of its polynomial, which cancel, and the slopes
/// of the polynomials after it magnify it.
fn rounded_terms(options: &Orthogonalize<'_>, singular_values: &[f64], [m, n]: [usize; 2]) -> f64 {
    let norm = singular_values.iter().map(|s| s * s).sum::<f64>().sqrt() + options.norm_epsilon;
    let steps = options.polynomials.coefficients();
    let steps: Vec<_> =
        steps.iter().chain(std::iter::repeat(steps.last().unwrap_or(&[0.0; 3]))).take(options.steps).collect();
    let through = |s: &f64| {
        let (mut x, mut size) = (s / norm, s / norm);
        for [a, b, c] in &steps {
            let (x2, slope) = (x * x, a + x * x * (3.0 * b + 5.0 * c * x * x));
            size = size * slope.abs() + x * (a.abs() + x2 * (b.abs() + x2 * c.abs()));
            x = (x * (a + x2 * (b + x2 * c))).abs();
        }
        size
    };
    let scale = if options.scale { (m as f64 / n as f64).max(1.0).sqrt() } else { 1.0 };
    singular_values.iter().filter(|s| **s > 0.0).map(through).fold(0.0, f64::max) * scale
}

/// The largest over the least singular value that is not rounding: what a polar factor magnifies a change of its matrix
/// by at most, and each of the polynomials no more.
fn polar_condition(s: &[f64]) -> f64 {
    let largest = s.first().copied().unwrap_or(0.0);
    let least = s.iter().copied().filter(|s| *s > 1e-12 * largest).fold(largest, f64::min);
    if largest > 0.0 { 1.0 + largest / least } else { 1.0 }
}

/// The gradients of a case: given, or of a quadratic at the point.
enum Gradients<T> {
    Given(Tensor<T>),
    Quadratic(Tensor<T>, Tensor<T>),
}

impl<T: Real> Gradients<T> {
    fn new(inputs: &Inputs<'_>) -> Result<Self, Failure> {
        Ok(if inputs.has("g") {
            Self::Given(inputs.floats("g")?)
        } else {
            Self::Quadratic(inputs.floats("h")?, inputs.floats("b")?)
        })
    }

    fn at(&self, step: usize, point: &[T]) -> Result<Vec<T>, Failure> {
        match self {
            Self::Given(g) => match g.data.chunks_exact(point.len().max(1)).nth(step) {
                Some(g) => Ok(g.to_vec()),
                None if point.is_empty() => Ok(Vec::new()),
                None => fail(format!("there is no gradient {step}")),
            },
            Self::Quadratic(h, b) => {
                let rows = h.matrix()?;
                rows.row_iter().zip(&b.data).map(|(row, &b)| Ok(reduce::dot(row, point)? - b)).collect()
            }
        }
    }
}

fn one_layer(shape: &[usize]) -> Result<Layout, Failure> {
    Ok(Layout::new(&[("w", shape)])?)
}

fn adamw<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (w, gradients, steps) = (inputs.floats::<T>("w")?, Gradients::<T>::new(inputs)?, inputs.count("steps")?);
    let options = AdamW {
        learning_rate: inputs.number("lr")?,
        beta1: inputs.number("beta1")?,
        beta2: inputs.number("beta2")?,
        epsilon: inputs.number("eps")?,
        weight_decay: inputs.number("weight_decay")?,
    };
    let mut state = options.start(&one_layer(&w.shape)?, Serial)?;
    let (mut point, mut path) = (w.data.clone(), Vec::new());
    for step in 0..steps {
        let gradient = gradients.at(step, &point)?;
        state.step(&mut point, &gradient)?;
        path.extend_from_slice(&point);
    }
    let n = w.data.len();
    Ok(Outputs::new()
        .with_condition(feedback(&gradients, options.learning_rate, options.epsilon, steps)?)
        .with_magnitude(1.0)
        .floats("w", &[steps, n], &path)
        .floats("m", &[n], state.first_moment())
        .floats("v", &[n], state.second_moment()))
}

/// What a rounding becomes by the gradients that depend on it. A relative error of a gradient moves the parameters by at
/// most as much of the learning rate; given gradients know nothing of it, those of a quadratic `h w - b` change by `h` times
/// as much, relative to the smallest of them, each step once.
fn feedback<T: Real>(gradients: &Gradients<T>, rate: f64, epsilon: f64, steps: usize) -> Result<f64, Failure> {
    match gradients {
        Gradients::Given(_) => Ok(1.0),
        Gradients::Quadratic(h, b) => {
            let h = symmetric_eigen(h.matrix()?, Serial)?.values;
            let size = h.iter().fold(0.0_f64, |size, h| size.max(h.abs()));
            let b = reduce::max_abs(&b.data).to_f64();
            Ok((1.0 + rate * size / (epsilon + b)).powi(i32::try_from(steps)?))
        }
    }
}

fn schedule_free<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (w, gradients, steps) = (inputs.floats::<T>("w")?, Gradients::<T>::new(inputs)?, inputs.count("steps")?);
    let options = ScheduleFreeAdamW {
        learning_rate: inputs.number("lr")?,
        beta1: inputs.number("beta1")?,
        beta2: inputs.number("beta2")?,
        epsilon: inputs.number("eps")?,
        weight_decay: inputs.number("weight_decay")?,
        warmup_steps: inputs.count("warmup_steps")? as u64,
        r: inputs.number("r")?,
        weight_lr_power: inputs.number("weight_lr_power")?,
        ..ScheduleFreeAdamW::default()
    };
    let n = w.data.len();
    let mut state = options.start(&one_layer(&w.shape)?, Serial)?;
    let (mut point, mut mean) = (w.data.clone(), w.data.clone());
    let (mut y, mut x, mut z, mut c, mut lr) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for step in 0..steps {
        let gradient = gradients.at(step, &point)?;
        state.step(&mut point, &gradient)?;
        state.model(&mut mean, &point)?;
        y.extend_from_slice(&point);
        x.extend_from_slice(&mean);
        z.extend_from_slice(state.base());
        c.push(state.last().weight);
        lr.push(state.last().learning_rate);
    }
    Ok(Outputs::new()
        .floats("c", &[steps], &c)
        .floats("lr", &[steps], &lr)
        .with_condition(feedback(&gradients, options.learning_rate, options.epsilon, steps)?)
        .with_magnitude(1.0)
        .floats("y", &[steps, n], &y)
        .floats("x", &[steps, n], &x)
        .floats("z", &[steps, n], &z))
}

/// The points of an optimizer on gradients that are given, `[steps, rows, cols]`.
fn run<T: Real>(state: &mut dyn Optimizer<T>, w: &Tensor<T>, g: &Tensor<T>) -> Result<Vec<T>, Failure> {
    let [steps, _, _] = g.dims()?;
    let (mut point, mut path) = (w.data.clone(), Vec::new());
    for step in 0..steps {
        let gradient = &g.data[step * point.len()..(step + 1) * point.len()];
        state.step(&mut point, gradient)?;
        path.extend_from_slice(&point);
    }
    Ok(path)
}

fn shampoo<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (w, g) = (inputs.floats::<T>("w")?, inputs.floats::<T>("g")?);
    let (beta2, epsilon) = (inputs.number("graft_beta2")?, inputs.number("graft_epsilon")?);
    let start = inputs.number("start_step")?;
    let options = Shampoo {
        learning_rate: inputs.number("lr")?,
        beta1: inputs.number("beta1")?,
        beta2: inputs.number("beta2")?,
        beta3: Some(inputs.number("beta3")?),
        epsilon: inputs.number("epsilon")?,
        weight_decay: inputs.number("weight_decay")?,
        decay: inputs.choice("weight_decay_type", &[("decoupled", Decay::Decoupled), ("l2", Decay::L2)])?,
        bias_correction: inputs.switch("bias_correction")?,
        grafting: inputs.choice(
            "grafting",
            &[
                ("none", Grafting::None),
                ("sgd", Grafting::Sgd),
                ("adagrad", Grafting::AdaGrad { epsilon }),
                ("rmsprop", Grafting::RmsProp { beta2, epsilon }),
                ("adam", Grafting::Adam { beta2, epsilon }),
            ],
        )?,
        momentum: inputs.number("momentum")?,
        dampening: inputs.number("dampening")?,
        nesterov: inputs.switch("nesterov")?,
        frequency: inputs.count("precondition_frequency")? as u64,
        start_step: (start >= 0.0).then_some(start as u64),
        exponents: vec![inputs.number("exponent_left")?, inputs.number("exponent_right")?],
        blocking: Blocking { max_dim: inputs.count("max_dim")?, merge: false },
        ..Shampoo::default()
    };
    let path = run(&mut options.start(&one_layer(&w.shape)?, Serial)?, &w, &g)?;
    // The weights are rounded as they are; a step, `lr` times as large, is rounded before its roots, which magnify the
    // smallest direction by that much more than the largest.
    let size = g.data.iter().map(|g| g.to_f64().powi(2)).sum::<f64>();
    let exponents = options.exponents.iter().sum::<f64>();
    let roots = (1.0 + size / options.epsilon.max(f64::MIN_POSITIVE)).powf(exponents);
    let condition = 1.0 + options.learning_rate * roots;
    Ok(Outputs::new().with_condition(condition).with_magnitude(1.0).floats("w", &g.shape, &path))
}

fn soap<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (w, g) = (inputs.floats::<T>("w")?, inputs.floats::<T>("g")?);
    let options = Soap {
        learning_rate: inputs.number("lr")?,
        beta1: inputs.number("beta1")?,
        beta2: inputs.number("beta2")?,
        shampoo_beta: inputs.number("shampoo_beta")?,
        epsilon: inputs.number("eps")?,
        weight_decay: inputs.number("weight_decay")?,
        frequency: inputs.count("precondition_frequency")? as u64,
        max_dim: inputs.count("max_dim")?,
        bias_correction: inputs.switch("bias_correction")?,
        ..Soap::default()
    };
    let mut state = options.start(&one_layer(&w.shape)?, Serial)?;
    let path = run(&mut state, &w, &g)?;
    // A rotated gradient is rounded relative to its norm and divided by the root of its own squares.
    let condition = match state.curvature(1.0) {
        Ok(blocks) if !w.data.is_empty() => {
            let least = blocks.layers()[0].values().iter().copied().fold(f64::INFINITY, f64::min);
            let norms = g.data.chunks_exact(w.data.len()).map(|g| reduce::norm2(g).to_f64());
            1.0 + options.learning_rate * norms.fold(0.0, f64::max) / (least.sqrt() + options.epsilon)
        }
        _ => 1.0,
    };
    Ok(Outputs::new().with_condition(condition).with_magnitude(1.0).floats("w", &g.shape, &path))
}

fn refit<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    if inputs.choice("kind", &[("dense", true), ("kronecker", false)])? {
        let (b, h) = (inputs.floats::<T>("b")?, inputs.floats::<T>("h")?);
        let (d, residual) = rayleigh_quotients(b.matrix()?, h.matrix()?, Serial)?;
        // Indefinite matrices cancel: the terms are as large as the matrix.
        let magnitude = reduce::norm2(&h.data).to_f64();
        return Ok(Outputs::new().with_magnitude(magnitude).floats("d", &[d.len()], &d).float("residual", residual));
    }
    let (left, right, g) = (inputs.floats::<T>("q_g")?, inputs.floats::<T>("q_a")?, inputs.floats::<T>("g")?);
    let ([_, n, r, c], correct) = (g.dims()?, inputs.switch("bias_correction")?);
    let basis = |q: &Tensor<T>| Basis::Columns { dim: q.shape[0], vectors: q.data.clone() };
    let mut average = EigenvalueAverage::new(basis(&left), basis(&right), inputs.number("beta")?)?;
    for batch in g.data.chunks_exact((n * r * c).max(1)) {
        average.add(MatRef::new(batch, n, r * c)?, Serial)?;
    }
    let eigenvalues = average.values(correct);
    let diag = EigenBlock::from_parts("case", basis(&left), basis(&right), eigenvalues.clone())?.matrix_diagonal()?;
    Ok(Outputs::new().floats("eigenvalues", &[r, c], &eigenvalues).floats("diag", &[r, c], &diag))
}
