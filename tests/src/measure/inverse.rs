//! Iterative solvers on softmax regression.

use std::hint::black_box;

use ascribe_core::derivative::Reduction;
use ascribe_core::{MatMut, MatRef, Real};
use ascribe_solvers::inverse::{Batch, Cg, Lissa, Solve};
use ascribe_solvers::network::{Activation, Linearized, Loss, Mlp, Targets};
use ascribe_solvers::parallel::Parallelism;

use super::{Kernel, Measured, Settings, uniform};
use crate::Failure;
use crate::failure::fail;

pub(super) const CG: Kernel = Kernel {
    name: "cg",
    about: "conjugate gradients on softmax regression, the network's pass over the data included",
    sizes: &["examples", "inputs", "classes", "steps", "queries"],
    defaults: &[&[1000, 784, 10, 50, 1]],
    f32: cg::<f32>,
    f64: cg::<f64>,
};

pub(super) const LISSA: Kernel = Kernel {
    name: "lissa",
    about: "LiSSA on the same, a batch of examples drawn for every step",
    sizes: &["examples", "inputs", "classes", "steps", "queries", "batch"],
    defaults: &[&[1000, 784, 10, 500, 1, 64]],
    f32: lissa::<f32>,
    f64: lissa::<f64>,
};

fn cg<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let &[examples, inputs, classes, steps, queries] = sizes else { return fail("the table names five sizes") };
    let parallelism = Parallelism::threads(settings.threads);
    let options = Cg { damping: 1e-2, rtol: 0.0, max_iterations: steps, parallelism, ..Cg::default() };
    // The residual is computed afresh every so many steps, by one product more.
    let products = steps + steps / options.refresh_every;
    solve::<T>(settings, [examples, inputs, classes, queries], products * examples, |train, out, rhs| {
        Ok(options.prepare(&train.gauss_newton())?.solve(out, rhs).map(|_| ())?)
    })
}

fn lissa<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let &[examples, inputs, classes, steps, queries, batch] = sizes else { return fail("the table names six sizes") };
    let parallelism = Parallelism::threads(settings.threads);
    let options = Lissa { batch: Batch::Sampled(batch), parallelism, ..Lissa::koh_liang(100.0, 1e-4, steps) };
    solve::<T>(settings, [examples, inputs, classes, queries], steps * batch, |train, out, rhs| {
        Ok(options.prepare(&train.gauss_newton())?.solve(out, rhs).map(|_| ())?)
    })
}

/// Times `solver`; `visits` is the number of examples that its products pass over in all.
pub(super) fn solve<T: Real>(
    settings: &Settings,
    [examples, inputs, classes, queries]: [usize; 4],
    visits: usize,
    solver: impl Fn(&Linearized<'_, T>, MatMut<'_, T>, MatRef<'_, T>) -> Result<(), Failure>,
) -> Result<Measured, Failure> {
    let net = Mlp::new(&[inputs, classes], Activation::Identity, Loss::CrossEntropy)?;
    let params = net.params();
    let mut theta = uniform(settings.seed, 0, &[params])?;
    ascribe_core::reduce::scale(&mut theta, T::from_f64(0.02));
    let (input, rhs) =
        (uniform(settings.seed, 1, &[examples, inputs])?, uniform(settings.seed, 2, &[queries, params])?);
    let labels: Vec<usize> = (0..examples).map(|i| i % classes).collect();
    let parallelism = Parallelism::threads(settings.threads);
    let (input, rhs) = (MatRef::new(&input, examples, inputs)?, MatRef::new(&rhs, queries, params)?);
    let mut out = vec![T::ZERO; queries * params];
    let mut result = Ok(());
    let seconds = settings.time(|| {
        let targets = Targets::Classes(&labels);
        result = Linearized::new(&net, &theta, input, targets, Reduction::Mean, parallelism)
            .map_err(Failure::from)
            .and_then(|train| solver(&train, MatMut::new(black_box(&mut out), queries, params)?, rhs));
    });
    result?;
    // A tangent forward and a cotangent back for every visit.
    let flops = 4 * (visits * queries * inputs * classes) as u64;
    let bytes = (visits * inputs + 2 * queries * params) * size_of::<T>();
    Ok(Measured { seconds, flops, bytes: bytes as u64 })
}
