//! `mlp.*`: derivative products of small networks.

use ascribe_core::derivative::Reduction;
use ascribe_core::{LinOp, MatMut, MatRef, Real};
use ascribe_solvers::network::{Activation, Linearized, Loss, Mlp, Targets};
use ascribe_solvers::parallel::Parallelism::Serial;

use super::Op;
use super::case::{Inputs, Outputs, Tensor};
use crate::Failure;
use crate::failure::fail;

/// The operations of this folder.
pub const OPS: &[Op] = &[
    Op::new("mlp.loss_grad", loss_grad::<f64>, loss_grad::<f32>),
    Op::new("mlp.per_example_grads", per_example_grads::<f64>, per_example_grads::<f32>),
    Op::new("mlp.hvp", hvp::<f64>, hvp::<f32>),
    Op::new("mlp.ggnvp", ggnvp::<f64>, ggnvp::<f32>),
    Op::new("mlp.empirical_fisher_vp", empirical_fisher_vp::<f64>, empirical_fisher_vp::<f32>),
    Op::new("mlp.true_fisher_dense", true_fisher_dense::<f64>, true_fisher_dense::<f32>),
];

const LOSSES: [(&str, Loss); 4] =
    [("ce", Loss::CrossEntropy), ("half_mse", Loss::HalfMse), ("sum_mse", Loss::SumMse), ("bce", Loss::Bce)];

pub(super) const REDUCTIONS: [(&str, Reduction); 2] = [("mean", Reduction::Mean), ("sum", Reduction::Sum)];

/// A network with its parameters and data, as a case gives them.
pub(super) struct Problem<T> {
    net: Mlp,
    params: Vec<T>,
    x: Tensor<T>,
    labels: Vec<usize>,
    values: Option<Tensor<T>>,
    reduction: Reduction,
}

impl<T: Real> Problem<T> {
    pub(super) fn read(inputs: &Inputs<'_>, reduction: Reduction) -> Result<Self, Failure> {
        let (activation, loss) = (inputs.choice("activation", &Activation::NAMES)?, inputs.choice("loss", &LOSSES)?);
        let (mut widths, mut biases, mut params) = (Vec::new(), Vec::new(), Vec::new());
        for l in 0..inputs.count("layers")? {
            let weights = inputs.floats::<T>(&format!("w{l}"))?;
            let [outputs, inputs_of_layer] = weights.dims()?;
            let name = format!("b{l}");
            let bias = if inputs.has(&name) { Some(inputs.floats::<T>(&name)?) } else { None };
            if bias.as_ref().is_some_and(|bias| bias.data.len() != outputs) {
                return fail(format!("in.{name} does not have {outputs} elements"));
            }
            for o in 0..outputs {
                params.extend_from_slice(&weights.data[o * inputs_of_layer..(o + 1) * inputs_of_layer]);
                params.extend(bias.as_ref().map(|bias| bias.data[o]));
            }
            if l == 0 {
                widths.push(inputs_of_layer);
            }
            widths.push(outputs);
            biases.push(bias.is_some());
        }
        let (mut labels, mut values) = (Vec::new(), None);
        match loss {
            Loss::CrossEntropy => labels = inputs.indices("y")?.data,
            _ => values = Some(inputs.floats::<T>("y")?),
        }
        let net = Mlp::with_biases(&widths, &biases, activation, loss)?;
        Ok(Self { net, params, x: inputs.floats("x")?, labels, values, reduction })
    }

    /// The same network on other data.
    pub(super) fn with_data(&self, inputs: &Inputs<'_>, x: &str, y: &str) -> Result<Self, Failure> {
        let (mut labels, mut values) = (Vec::new(), None);
        match self.net.loss() {
            Loss::CrossEntropy => labels = inputs.indices(y)?.data,
            _ => values = Some(inputs.floats(y)?),
        }
        let (net, params) = (self.net.clone(), self.params.clone());
        Ok(Self { net, params, x: inputs.floats(x)?, labels, values, reduction: self.reduction })
    }

    pub(super) fn linearize(&self) -> Result<Linearized<'_, T>, Failure> {
        let targets = match &self.values {
            None => Targets::Classes(&self.labels),
            Some(values) => Targets::Values(values.matrix()?),
        };
        Ok(Linearized::new(&self.net, &self.params, self.x.matrix()?, targets, self.reduction, Serial)?)
    }

    /// What the loss magnifies: a logit is rounded at its own size, and a probability far from one half, or what it lacks
    /// of one, changes by as much relative to itself.
    pub(super) fn condition(&self, lin: &Linearized<'_, T>) -> f64 {
        match self.net.loss() {
            Loss::HalfMse | Loss::SumMse => 1.0,
            Loss::CrossEntropy | Loss::Bce => {
                1.0 + lin.outputs().flatten().fold(0.0, |most, z| z.abs().to_f64().max(most))
            }
        }
    }
}

fn loss_grad<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let problem = Problem::<T>::read(inputs, inputs.choice("reduction", &REDUCTIONS)?)?;
    let lin = problem.linearize()?;
    let output: Vec<T> = lin.outputs().flatten().copied().collect();
    let gradient = lin.gradient()?;
    Ok(Outputs::new()
        .floats("output", &[lin.examples(), problem.net.outputs()], &output)
        .with_condition(problem.condition(&lin))
        .float("loss", lin.loss())
        .floats("grad", &[gradient.len()], &gradient))
}

fn per_example_grads<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let problem = Problem::<T>::read(inputs, Reduction::Sum)?;
    let lin = problem.linearize()?;
    let (examples, params) = (lin.examples(), problem.net.params());
    let mut grads = vec![T::ZERO; examples * params];
    lin.per_example_gradients(MatMut::new(&mut grads, examples, params)?)?;
    let losses: Vec<T> = lin.losses().collect();
    Ok(Outputs::new().with_condition(problem.condition(&lin)).floats("losses", &[examples], &losses).floats(
        "grads",
        &[examples, params],
        &grads,
    ))
}

/// Applies an operator to the rows of `v`.
fn apply<T: Real>(op: &dyn LinOp<T>, v: &Tensor<T>) -> Result<Vec<T>, Failure> {
    let v = v.matrix()?;
    let mut out = vec![T::ZERO; v.rows() * op.dim_out()];
    let mut scratch = vec![T::ZERO; op.scratch_len(v.rows())];
    op.apply(MatMut::new(&mut out, v.rows(), op.dim_out())?, v, &mut scratch)?;
    Ok(out)
}

fn hvp<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let problem = Problem::<T>::read(inputs, inputs.choice("reduction", &REDUCTIONS)?)?;
    let v = inputs.floats("v")?;
    let lin = problem.linearize()?;
    let out = apply(&lin.hessian(), &v)?;
    Ok(Outputs::new().with_condition(problem.condition(&lin)).floats("hv", &v.shape, &out))
}

fn ggnvp<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let problem = Problem::<T>::read(inputs, inputs.choice("reduction", &REDUCTIONS)?)?;
    let v = inputs.floats("v")?;
    let lin = problem.linearize()?;
    let out = apply(&lin.gauss_newton(), &v)?;
    Ok(Outputs::new().with_condition(problem.condition(&lin)).floats("gv", &v.shape, &out))
}

fn empirical_fisher_vp<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let problem = Problem::<T>::read(inputs, inputs.choice("reduction", &REDUCTIONS)?)?;
    let v = inputs.floats("v")?;
    let lin = problem.linearize()?;
    let out = apply(&lin.empirical_fisher(), &v)?;
    Ok(Outputs::new().with_condition(problem.condition(&lin)).floats("ev", &v.shape, &out))
}

/// The exact expectation over targets is the Gauss-Newton matrix; here through its factor, `r Psi^T Psi`, which is
/// another path than that of `mlp.ggnvp`.
fn true_fisher_dense<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let problem = Problem::<T>::read(inputs, inputs.choice("reduction", &REDUCTIONS)?)?;
    let lin = problem.linearize()?;
    let factor = lin.gauss_newton_factor()?;
    let params = problem.net.params();
    let mut identity = vec![T::ZERO; params * params];
    (0..params).for_each(|i| identity[i * params + i] = T::ONE);
    let identity = Tensor { shape: vec![params, params], data: identity };
    let columns = Tensor { shape: vec![params, factor.dim_out()], data: apply(&factor, &identity)? };
    let columns = columns.matrix()?;
    let mut fisher = vec![T::ZERO; params * params];
    let out = MatMut::new(&mut fisher, params, params)?;
    ascribe_core::matmul::matmul(out, T::ZERO, lin.scale(), columns, columns.t())?;
    Ok(Outputs::new().with_condition(problem.condition(&lin)).floats(
        "fisher",
        &[params, params],
        MatRef::new(&fisher, params, params)?.as_span(),
    ))
}
