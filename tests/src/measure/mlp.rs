//! Derivative products of a dense tanh network with softmax cross entropy.

use std::hint::black_box;

use ascribe_core::derivative::Reduction;
use ascribe_core::{LinOp, MatMut, MatRef, Real};
use ascribe_solvers::network::{Activation, Linearized, Loss, Mlp, Targets};
use ascribe_solvers::parallel::Parallelism;

use super::{Kernel, Measured, Settings, uniform};
use crate::Failure;
use crate::failure::fail;

const SIZES: &[&str] = &["batch", "inputs", "hidden", "outputs"];
const DEFAULTS: &[&[usize]] = &[&[512, 784, 256, 10]];

pub(super) const GRADIENT: Kernel = Kernel {
    name: "mlp_grad",
    about: "gradient of the mean loss: forward and backward pass, nothing kept from before",
    sizes: SIZES,
    defaults: DEFAULTS,
    f32: gradient::<f32>,
    f64: gradient::<f64>,
};

pub(super) const HVP: Kernel = Kernel {
    name: "mlp_hvp",
    about: "exact Hessian-vector product of a linearised network with two hidden layers",
    sizes: SIZES,
    defaults: DEFAULTS,
    f32: hvp::<f32>,
    f64: hvp::<f64>,
};

pub(super) const GGNVP: Kernel = Kernel {
    name: "mlp_ggnvp",
    about: "Gauss-Newton-vector product of the same",
    sizes: SIZES,
    defaults: DEFAULTS,
    f32: ggnvp::<f32>,
    f64: ggnvp::<f64>,
};

struct Problem<T> {
    net: Mlp,
    params: Vec<T>,
    input: Vec<T>,
    labels: Vec<usize>,
    parallelism: Parallelism,
}

impl<T: Real> Problem<T> {
    fn new(settings: &Settings, sizes: &[usize]) -> Result<Self, Failure> {
        let &[batch, inputs, hidden, outputs] = sizes else { return fail("the table names four sizes") };
        let net = Mlp::new(&[inputs, hidden, hidden, outputs], Activation::Tanh, Loss::CrossEntropy)?;
        let mut params = uniform(settings.seed, 0, &[net.params()])?;
        ascribe_core::reduce::scale(&mut params, T::from_f64(0.05));
        let input = uniform(settings.seed, 1, &[batch, inputs])?;
        let labels = (0..batch).map(|i| i % outputs).collect();
        Ok(Self { net, params, input, labels, parallelism: Parallelism::threads(settings.threads) })
    }

    fn linearize(&self) -> Result<Linearized<'_, T>, Failure> {
        let input = MatRef::new(&self.input, self.labels.len(), self.net.inputs())?;
        let targets = Targets::Classes(&self.labels);
        Ok(Linearized::new(&self.net, &self.params, input, targets, Reduction::Mean, self.parallelism)?)
    }

    /// `2 n` times the multiply-adds of an example: `first` for each weight of the first layer, where nothing has to
    /// be passed further down, `other` for those above.
    fn flops(&self, first: u64, other: u64) -> u64 {
        let weights = |layer: &ascribe_solvers::network::Layer| (layer.inputs * layer.outputs) as u64;
        let all: u64 = self.net.layers().iter().map(weights).sum();
        let bottom = self.net.layers().first().map_or(0, weights);
        2 * self.labels.len() as u64 * (first * bottom + other * (all - bottom))
    }

    fn measured(&self, seconds: Vec<f64>, flops: u64) -> Measured {
        Measured { seconds, flops, bytes: ((2 * self.params.len() + self.input.len()) * size_of::<T>()) as u64 }
    }

    fn product(&self, settings: &Settings, op: &dyn LinOp<T>, flops: u64) -> Result<Measured, Failure> {
        let v = uniform(settings.seed, 2, &[self.params.len()])?;
        let mut out = vec![T::ZERO; v.len()];
        let mut scratch = vec![T::ZERO; op.scratch_len(1)];
        let mut result = Ok(());
        let seconds = settings.time(|| {
            result = op.apply(MatMut::from_row(black_box(&mut out)), MatRef::from_row(&v), &mut scratch);
        });
        result?;
        Ok(self.measured(seconds, flops))
    }
}

fn gradient<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let problem = Problem::<T>::new(settings, sizes)?;
    let mut result = Ok(Vec::new());
    let seconds = settings.time(|| {
        result = problem.linearize().and_then(|lin| Ok(lin.gradient()?));
        let _ = black_box(&result);
    });
    result?;
    Ok(problem.measured(seconds, problem.flops(2, 3)))
}

fn hvp<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let problem = Problem::<T>::new(settings, sizes)?;
    problem.product(settings, &problem.linearize()?.hessian(), problem.flops(2, 6))
}

fn ggnvp<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let problem = Problem::<T>::new(settings, sizes)?;
    problem.product(settings, &problem.linearize()?.gauss_newton(), problem.flops(2, 4))
}
