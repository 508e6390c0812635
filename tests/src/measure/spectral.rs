//! Spectral-factorized preconditioners: a step of the state, and the rotation in it.

use std::hint::black_box;
use std::time::Instant;

use ascribe_core::{MatMut, MatRef, Real};
use ascribe_solvers::linalg::{Lu, gram, matmul};
use ascribe_solvers::parallel::Parallelism;
use ascribe_solvers::precondition::{Cayley, KroneckerDescent, KroneckerSpectral, Layout, Optimizer, Spectral};

use super::{Kernel, Measured, Settings, uniform};
use crate::Failure;
use crate::failure::fail;

pub(super) const CAYLEY: Kernel = Kernel {
    name: "cayley",
    about: "a basis times the Cayley map of a skew matrix; order 0 is the exact one",
    sizes: &["n", "order"],
    defaults: &[&[1024, 0]],
    f32: cayley::<f32>,
    f64: cayley::<f64>,
};

pub(super) const STEP: Kernel = Kernel {
    name: "spectral_step",
    about: "a step of a full matrix with m gradients, the repair of the basis spread over eight",
    sizes: &["n", "m"],
    defaults: &[&[1024, 1024]],
    f32: step::<f32>,
    f64: step::<f64>,
};

pub(super) const KRONECKER_STEP: Kernel = Kernel {
    name: "kronecker_spectral_step",
    about: "a step with one gradient, bases every so many steps, averaged over 8 times as many",
    sizes: &["rows", "cols", "every"],
    defaults: &[&[1024, 1024, 1], &[1024, 1024, 10]],
    f32: kronecker_step::<f32>,
    f64: kronecker_step::<f64>,
};

pub(super) const KRONECKER_PARTS: Kernel = Kernel {
    name: "kronecker_spectral_parts",
    about: "the products and solutions alone of a step that moves the bases, copies that they overwrite not counted",
    sizes: &["n"],
    defaults: &[&[1024]],
    f32: kronecker_parts::<f32>,
    f64: kronecker_parts::<f64>,
};

pub(super) const DESCENT: Kernel = Kernel {
    name: "kronecker_descent_step",
    about: "the same and the preconditioned step of the weight, as an optimizer makes it",
    sizes: &["rows", "cols", "every"],
    defaults: &[&[1024, 1024, 10]],
    f32: descent::<f32>,
    f64: descent::<f64>,
};

/// Flops of a rotation and its share of a repair.
fn rotation_flops(n: usize) -> usize {
    n * n * n * 8 / 3 + n * n * n * 3 / 8
}

fn step<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let &[n, m] = sizes else { return fail("the table names two sizes") };
    let g: Vec<T> = uniform(settings.seed, 0, &[m, n])?;
    let g = MatRef::new(&g, m, n)?;
    let mut state =
        Spectral { parallelism: Parallelism::threads(settings.threads), ..Spectral::default() }.start(n, 0.1)?;
    // With equal eigenvalues nothing turns.
    state.step_gradients(g)?;
    let mut result = Ok(());
    let seconds = settings.time(|| {
        for _ in 0..8 {
            result = state.step_gradients(black_box(g)).map(|_| ());
        }
    });
    result?;
    let flops = (3 * m * n * n + rotation_flops(n)) as u64;
    let bytes = ((m * n + 2 * n * n) * size_of::<T>()) as u64;
    Ok(Measured { seconds: seconds.iter().map(|s| s / 8.0).collect(), flops, bytes })
}

fn kronecker_step<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let &[rows, cols, every] = sizes else { return fail("the table names three sizes") };
    let g: Vec<T> = uniform(settings.seed, 0, &[1, rows * cols])?;
    let options = KroneckerSpectral {
        basis_every: every,
        parallelism: Parallelism::threads(settings.threads),
        ..KroneckerSpectral::default()
    };
    let mut state = options.start(rows, cols)?;
    state.step(MatRef::from_row(&g))?;
    let steps = 8 * every;
    let mut result = Ok(());
    let seconds = settings.time(|| {
        for _ in 0..steps {
            result = state.step(black_box(MatRef::from_row(&g))).map(|_| ());
        }
    });
    result?;
    let flops = (kronecker_flops(rows, cols, every)) as u64;
    let bytes = ((rows * cols + 2 * (rows * rows + cols * cols)) * size_of::<T>()) as u64;
    Ok(Measured { seconds: seconds.iter().map(|s| s / steps as f64).collect(), flops, bytes })
}

/// For both sides: a rotation of the gradient, a Gram matrix, and the map of a generator; in every eighth step a repair.
fn kronecker_parts<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let &[n] = sizes else { return fail("the table names one size") };
    let par = Parallelism::threads(settings.threads);
    let (g, b): (Vec<T>, Vec<T>) = (uniform(settings.seed, 0, &[n, n])?, uniform(settings.seed, 1, &[n, n])?);
    let (g, b) = (MatRef::new(&g, n, n)?, MatRef::new(&b, n, n)?);
    let mut factor: Vec<T> = skew(settings, n)?;
    for x in &mut factor {
        *x = -*x;
    }
    factor.iter_mut().step_by(n + 1).for_each(|x| *x = T::ONE);
    let mut out = vec![T::ZERO; n * n];
    let mut product = |transposed: bool| -> Result<f64, Failure> {
        let (out, start) = (MatMut::new(&mut out, n, n)?, Instant::now());
        if transposed {
            matmul(out, T::ZERO, T::ONE, b.t(), g, par)?;
        } else {
            matmul(out, T::ZERO, T::ONE, g, b, par)?;
        }
        Ok(start.elapsed().as_secs_f64())
    };
    let mut lower = vec![T::ZERO; n * n];
    let mut square = || -> Result<f64, Failure> {
        lower.fill(T::ZERO);
        let start = Instant::now();
        gram(MatMut::new(&mut lower, n, n)?, g, par)?;
        Ok(start.elapsed().as_secs_f64())
    };
    let mut turned = vec![T::ZERO; n * n];
    let mut map = || -> Result<f64, Failure> {
        let factor = factor.clone();
        MatMut::new(&mut turned, n, n)?.copy_from(b)?;
        let start = Instant::now();
        Lu::new(factor, n, par)?.solve_in_place(MatMut::new(&mut turned, n, n)?, par)?;
        Ok(start.elapsed().as_secs_f64())
    };
    let mut step = || -> Result<f64, Failure> {
        let sides = product(false)? + product(true)? + square()? + square()? + map()? + map()?;
        let repairs = square()? + square()? + product(false)? + product(false)?;
        Ok(sides + repairs / 8.0)
    };
    step()?;
    let seconds = (0..settings.runs).map(|_| step()).collect::<Result<_, _>>()?;
    let flops = kronecker_flops(n, n, 1) as u64;
    Ok(Measured { seconds, flops, bytes: (5 * n * n * size_of::<T>()) as u64 })
}

/// The rotated gradient in each step; the two Gram matrices and rotations when the bases move.
fn kronecker_flops(rows: usize, cols: usize, every: usize) -> usize {
    let product = rows * cols * (rows + cols);
    2 * product + (product + rotation_flops(rows) + rotation_flops(cols)) / every
}

fn descent<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let &[rows, cols, every] = sizes else { return fail("the table names three sizes") };
    let g: Vec<T> = uniform(settings.seed, 0, &[rows, cols])?;
    let mut w: Vec<T> = uniform(settings.seed, 1, &[rows, cols])?;
    let preconditioner = KroneckerSpectral { basis_every: every, ..KroneckerSpectral::default() };
    let options = KroneckerDescent { preconditioner, ..KroneckerDescent::default() };
    let layout = Layout::new(&[("layer", &[rows, cols])])?;
    let mut state = options.start(&layout, Parallelism::threads(settings.threads))?;
    state.step(&mut w, &g)?;
    let mut result = Ok(());
    let seconds = settings.time(|| {
        for _ in 0..every {
            result = state.step(black_box(&mut w), &g);
        }
    });
    result?;
    // Back to the weight, and the momentum to new bases.
    let carried = 4 * rows * cols * (rows + cols) / every;
    let flops = (kronecker_flops(rows, cols, every) + 2 * rows * cols * (rows + cols) + carried) as u64;
    let bytes = ((5 * rows * cols + 2 * (rows * rows + cols * cols)) * size_of::<T>()) as u64;
    Ok(Measured { seconds: seconds.iter().map(|s| s / every as f64).collect(), flops, bytes })
}

/// A skew matrix whose Frobenius norm is one half.
fn skew<T: Real>(settings: &Settings, n: usize) -> Result<Vec<T>, Failure> {
    let mut skew: Vec<T> = uniform(settings.seed, 0, &[n, n])?;
    let scale = T::from_f64(0.5 * 3.0_f64.sqrt() / n.max(1) as f64);
    for i in 0..n {
        skew[i * n + i] = T::ZERO;
        for j in 0..i {
            skew[i * n + j] *= scale;
            skew[j * n + i] = -skew[i * n + j];
        }
    }
    Ok(skew)
}

fn cayley<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let &[n, order] = sizes else { return fail("the table names two sizes") };
    let (skew, b): (Vec<T>, Vec<T>) = (skew(settings, n)?, uniform(settings.seed, 1, &[n, n])?);
    let (skew, b) = (MatRef::new(&skew, n, n)?, MatRef::new(&b, n, n)?);
    let map = if order == 0 { Cayley::Exact } else { Cayley::Truncated(u32::try_from(order)?) };
    let parallelism = Parallelism::threads(settings.threads);
    let mut out = vec![T::ZERO; n * n];
    let mut result = Ok(());
    let seconds = settings.time(|| {
        result = MatMut::new(black_box(&mut out), n, n)
            .map_err(Into::into)
            .and_then(|out| map.rotate(out, b, skew, parallelism));
    });
    result?;
    let cube = (n * n * n) as u64;
    let flops = if order == 0 { 8 * cube / 3 } else { 4 * order as u64 * cube };
    Ok(Measured { seconds, flops, bytes: (3 * n * n * size_of::<T>()) as u64 })
}
