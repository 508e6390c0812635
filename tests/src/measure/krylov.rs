//! MINRES and Lanczos' method on softmax regression, as [`super::inverse`] measures the other solvers.

use ascribe_core::Real;
use ascribe_solvers::inverse::{Lanczos, Minres, NegativeRitz, Solve};
use ascribe_solvers::parallel::Parallelism;

use super::inverse::solve;
use super::{Kernel, Measured, Settings};
use crate::Failure;
use crate::failure::fail;

pub(super) const MINRES: Kernel = Kernel {
    name: "minres",
    about: "MINRES on softmax regression, the network's pass over the data included",
    sizes: &["examples", "inputs", "classes", "steps", "queries"],
    defaults: &[&[1000, 784, 10, 50, 1]],
    f32: minres::<f32>,
    f64: minres::<f64>,
};

pub(super) const LANCZOS: Kernel = Kernel {
    name: "lanczos",
    about: "a Lanczos basis of the same, its Ritz vectors, and the solves",
    sizes: &["examples", "inputs", "classes", "steps", "queries"],
    defaults: &[&[1000, 784, 10, 50, 1]],
    f32: lanczos::<f32>,
    f64: lanczos::<f64>,
};

fn minres<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let &[examples, inputs, classes, steps, queries] = sizes else { return fail("the table names five sizes") };
    let parallelism = Parallelism::threads(settings.threads);
    let options = Minres { damping: 1e-2, rtol: 0.0, max_iterations: steps, parallelism, ..Minres::default() };
    // The true residual at the end is one product more.
    solve::<T>(settings, [examples, inputs, classes, queries], (steps + 1) * examples, |train, out, rhs| {
        Ok(options.prepare(&train.gauss_newton())?.solve(out, rhs).map(|_| ())?)
    })
}

fn lanczos<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let &[examples, inputs, classes, steps, queries] = sizes else { return fail("the table names five sizes") };
    let options = Lanczos { steps, parallelism: Parallelism::threads(settings.threads), ..Lanczos::default() };
    let mut measured =
        solve::<T>(settings, [examples, inputs, classes, queries], steps * examples, |train, out, rhs| {
            let spectrum = options.decompose(&train.gauss_newton())?.spectrum(NegativeRitz::Keep, None)?;
            Ok(spectrum.inverse(1e-2)?.solve(out, rhs).map(|_| ())?)
        })?;
    // The products, one for each vector whatever the queries; two passes of two products with half of the basis on
    // average; the Ritz vectors; the solves.
    let params = (inputs + 1) * classes;
    let basis = params * (4 * steps * steps + 2 * steps * steps + 4 * steps * queries);
    measured.flops = (4 * steps * examples * inputs * classes + basis) as u64;
    Ok(measured)
}
