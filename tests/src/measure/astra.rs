//! ASTRA and preconditioned CG on a network, and the two products that a step of either cannot do without.

use std::hint::black_box;

use ascribe_core::derivative::Reduction;
use ascribe_core::random::Stream;
use ascribe_core::{ExampleLinOp, LinOp, MatMut, MatRef, Real};
use ascribe_solvers::curvature::{Blocks, Damping};
use ascribe_solvers::inverse::{Astra, Cg, FixedBatch, Solve, StepSize};
use ascribe_solvers::network::{Activation, Linearized, Loss, Mlp, Targets};
use ascribe_solvers::parallel::Parallelism;

use super::ekfac::block;
use super::{Kernel, Measured, Settings, uniform};
use crate::Failure;
use crate::failure::fail;

const SIZES: &[&str] = &["examples", "inputs", "hidden1", "hidden2", "outputs", "batch", "queries", "steps"];
const DEFAULTS: &[&[usize]] = &[&[1024, 784, 512, 256, 10, 256, 1, 20], &[1024, 784, 512, 256, 10, 256, 64, 10]];

pub(super) const ASTRA: Kernel = Kernel {
    name: "astra",
    about: "a step of ASTRA, start and monitor included: time of all steps over their number",
    sizes: SIZES,
    defaults: DEFAULTS,
    f32: astra::<f32>,
    f64: astra::<f64>,
};

pub(super) const ASTRA_FLOOR: Kernel = Kernel {
    name: "astra_floor",
    about: "a product on the batch and an application of EKFAC's inverse",
    sizes: SIZES,
    defaults: DEFAULTS,
    f32: floor::<f32>,
    f64: floor::<f64>,
};

pub(super) const PCG: Kernel = Kernel {
    name: "pcg",
    about: "an iteration of preconditioned CG on a fixed batch",
    sizes: SIZES,
    defaults: DEFAULTS,
    f32: pcg::<f32>,
    f64: pcg::<f64>,
};

const DAMPING: f64 = 1e-2;

/// What is timed: the curvature, the preconditioner and the queries.
struct Problem<'p, T> {
    op: &'p dyn ExampleLinOp<T>,
    inverse: &'p dyn LinOp<T>,
    rhs: MatRef<'p, T>,
    batch: usize,
    steps: usize,
    parallelism: Parallelism,
}

fn astra<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    measure::<T>(settings, sizes, |problem, out| {
        let &Problem { batch, steps, parallelism, .. } = problem;
        let step_size = StepSize::Fixed(0.1 * DAMPING);
        let options = Astra { damping: DAMPING, steps, batch, step_size, parallelism, ..Astra::default() };
        options.prepare(problem.op, problem.inverse)?.solve(out, problem.rhs)?;
        Ok(steps)
    })
}

fn pcg<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    measure::<T>(settings, sizes, |problem, out| {
        let &Problem { steps, parallelism, .. } = problem;
        let batch = FixedBatch::sampled(problem.op, problem.batch, Stream::new(0, "measure.batch"))?;
        let cg = Cg { damping: DAMPING, rtol: 0.0, max_iterations: steps, parallelism, ..Cg::default() };
        cg.prepare_with(&batch, problem.inverse)?.solve(out, problem.rhs)?;
        Ok(steps)
    })
}

fn floor<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let mut scratch = Vec::new();
    let mut product = Vec::new();
    measure::<T>(settings, sizes, |problem, out| {
        let (k, n) = (problem.rhs.rows(), problem.rhs.cols());
        let len = problem.inverse.scratch_len(k).max(problem.op.examples_scratch_len(k, problem.batch));
        scratch.resize(len, T::ZERO);
        product.resize(k * n, T::ZERO);
        let indices: Vec<usize> = (0..problem.batch).map(|i| 7 * i % problem.op.examples()).collect();
        problem.op.apply_examples(MatMut::new(&mut product, k, n)?, problem.rhs, &indices, &mut scratch)?;
        problem.inverse.apply(out, MatRef::new(&product, k, n)?, &mut scratch)?;
        Ok(1)
    })
}

/// Times `run`, which says how many steps it made, and gives the time of one.
fn measure<T: Real>(
    settings: &Settings,
    sizes: &[usize],
    mut run: impl FnMut(&Problem<'_, T>, MatMut<'_, T>) -> Result<usize, Failure>,
) -> Result<Measured, Failure> {
    let &[examples, inputs, hidden1, hidden2, outputs, batch, queries, steps] = sizes else {
        return fail("the table names eight sizes");
    };
    let net = Mlp::new(&[inputs, hidden1, hidden2, outputs], Activation::Relu, Loss::CrossEntropy)?;
    let params = net.params();
    let mut theta = uniform(settings.seed, 0, &[params])?;
    ascribe_core::reduce::scale(&mut theta, T::from_f64(0.05));
    let input = uniform(settings.seed, 1, &[examples, inputs])?;
    let rhs = uniform(settings.seed, 2, &[queries, params])?;
    let labels: Vec<usize> = (0..examples).map(|i| i % outputs).collect();
    let parallelism = Parallelism::threads(settings.threads);
    let (view, targets) = (MatRef::new(&input, examples, inputs)?, Targets::Classes(&labels));
    let train = Linearized::new(&net, &theta, view, targets, Reduction::Mean, parallelism)?;
    let op = train.gauss_newton();
    let blocks = net.layers().iter().map(|layer| block(settings, layer.outputs, layer.cols()));
    let blocks = Blocks::new(blocks.collect::<Result<_, _>>()?);
    let inverse = blocks.inverse(Damping::Absolute(DAMPING), parallelism)?;

    let rhs = MatRef::new(&rhs, queries, params)?;
    let problem = Problem { op: &op, inverse: &inverse, rhs, batch, steps, parallelism };
    let mut out = vec![T::ZERO; queries * params];
    let mut result = Ok(1);
    let seconds = settings.time(|| {
        result =
            MatMut::new(black_box(&mut out), queries, params).map_err(Failure::from).and_then(|out| run(&problem, out));
    });
    let made = result?;
    let rotations: usize = net.layers().iter().map(|l| l.len() * (l.outputs + l.cols())).sum();
    let bottom = net.layers().first().map_or(0, |l| l.inputs * l.outputs);
    let weights: usize = net.layers().iter().map(|l| l.inputs * l.outputs).sum();
    // 2 multiply-adds an example and weight of the first layer, 4 above; 4 for each rotation of a layer.
    let flops = queries * (2 * batch * (2 * bottom + 4 * (weights - bottom)) + 4 * rotations);
    let bytes = (batch * inputs + 2 * queries * params) * size_of::<T>();
    let seconds = seconds.into_iter().map(|seconds| seconds / made as f64).collect();
    Ok(Measured { seconds, flops: flops as u64, bytes: bytes as u64 })
}
