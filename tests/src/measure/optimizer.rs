//! Steps of Shampoo and SOAP on one layer, and the matrix root that Shampoo waits for.

use std::hint::black_box;

use ascribe_core::{MatMut, MatRef, Real};
use ascribe_solvers::linalg::matmul;
use ascribe_solvers::parallel::Parallelism;
use ascribe_solvers::precondition::{Grafting, Layout, Optimizer, Shampoo, Soap, inverse_root};

use super::{Kernel, Measured, Settings, uniform};
use crate::Failure;
use crate::failure::fail;

pub(super) const SHAMPOO: Kernel = Kernel {
    name: "shampoo_step",
    about: "one step of Shampoo grafted on Adam, averaged over those from root to root",
    sizes: &["rows", "cols", "frequency"],
    defaults: &[&[1024, 1024, 10]],
    f32: shampoo::<f32>,
    f64: shampoo::<f64>,
};

pub(super) const SOAP: Kernel = Kernel {
    name: "soap_step",
    about: "one step of SOAP, averaged over those from basis to basis",
    sizes: &["rows", "cols", "frequency"],
    defaults: &[&[1024, 1024, 10]],
    f32: soap::<f32>,
    f64: soap::<f64>,
};

pub(super) const ROOT: Kernel = Kernel {
    name: "matrix_root",
    about: "the inverse fourth root of a covariance of 2 n examples, in f64 whatever it comes in",
    sizes: &["n"],
    defaults: &[&[1024]],
    f32: root::<f32>,
    f64: root::<f64>,
};

fn shampoo<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let &[rows, cols, frequency] = sizes else { return fail("the table names three sizes") };
    let options = Shampoo {
        beta2: 0.99,
        epsilon: 1e-8,
        grafting: Grafting::Adam { beta2: 0.99, epsilon: 1e-8 },
        weight_decay: 0.01,
        frequency: frequency as u64,
        start_step: Some(1),
        ..Shampoo::default()
    };
    let layout = Layout::new(&[("layer", &[rows, cols])])?;
    let mut state = options.start::<T>(&layout, Parallelism::threads(settings.threads))?;
    let seconds = cycles(settings, &mut state, frequency)?;
    // A product and half of one along each axis; roots by eigendecompositions and half a product.
    let (products, cubes) = products_and_cubes(rows, cols);
    let flops = 3 * products + 17 * cubes / 3 / frequency as u64;
    let numbers = 4 * (rows * rows + cols * cols) + 8 * rows * cols;
    Ok(Measured { seconds, flops, bytes: (numbers * size_of::<T>()) as u64 })
}

fn soap<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let &[rows, cols, frequency] = sizes else { return fail("the table names three sizes") };
    let options = Soap { frequency: frequency as u64, ..Soap::default() };
    let layout = Layout::new(&[("layer", &[rows, cols])])?;
    let mut state = options.start::<T>(&layout, Parallelism::threads(settings.threads))?;
    let seconds = cycles(settings, &mut state, frequency)?;
    // There and back along each axis, and half a product; for new bases a product, a QR factorisation, and m again.
    let (products, cubes) = products_and_cubes(rows, cols);
    let flops = 5 * products + (14 * cubes / 3 + 4 * products) / frequency as u64;
    let numbers = 3 * (rows * rows + cols * cols) + 7 * rows * cols;
    Ok(Measured { seconds, flops, bytes: (numbers * size_of::<T>()) as u64 })
}

/// `m n (m + n)` and `m^3 + n^3`.
fn products_and_cubes(m: usize, n: usize) -> (u64, u64) {
    let [m, n] = [m as u64, n as u64];
    (m * n * (m + n), m * m * m + n * n * n)
}

/// Seconds of a step, from runs of `steps` steps.
fn cycles<T: Real>(settings: &Settings, state: &mut dyn Optimizer<T>, steps: usize) -> Result<Vec<f64>, Failure> {
    let len = state.layout().len();
    let mut params = uniform::<T>(settings.seed, 0, &[len])?;
    let gradients: Vec<Vec<T>> =
        (0..steps).map(|step| uniform(settings.seed, 1 + step as u64, &[len])).collect::<Result<_, _>>()?;
    // The first step differs: SOAP's is all eigendecomposition.
    state.step(&mut params, &gradients[0])?;
    let mut result = Ok(());
    let seconds = settings.time(|| {
        for gradient in &gradients {
            result = result.clone().and_then(|()| state.step(black_box(&mut params), gradient));
        }
    });
    result?;
    Ok(seconds.into_iter().map(|seconds| seconds / steps as f64).collect())
}

fn root<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let &[n] = sizes else { return fail("the table names one size") };
    let examples: Vec<T> = uniform(settings.seed, 0, &[2, n, n])?;
    let examples = MatRef::new(&examples, 2 * n, n)?;
    let mut a = uniform(settings.seed, 1, &[n, n])?;
    let par = Parallelism::threads(settings.threads);
    let scale = T::from_f64(1.5 / n.max(1) as f64);
    matmul(MatMut::new(&mut a, n, n)?, T::ZERO, scale, examples.t(), examples, par)?;
    let a = MatRef::new(&a, n, n)?;
    let mut result = Ok(());
    let seconds =
        settings.time(|| result = inverse_root(black_box(a), 4.0, 1e-8, par).map(|root| drop(black_box(root))));
    result?;
    let cube = (n * n * n) as u64;
    let bytes = n * n * (size_of::<T>() + size_of::<f64>());
    Ok(Measured { seconds, flops: 17 * cube / 3, bytes: bytes as u64 })
}
