//! `solve.*` and `woodbury.*`: MINRES, DataInf and the low-rank inverses.

use ascribe_core::linop::{AssumeSelfAdjoint, Dense, apply_alloc};
use ascribe_core::{MatMut, MatRef, Real};
use ascribe_solvers::curvature::Damping;
use ascribe_solvers::inverse::{DataInf, Lanczos, LowRankInverse, Minres, NegativeRitz, Nystrom};
use ascribe_solvers::parallel::Parallelism::Serial;

use super::Op;
use super::case::{Inputs, Outputs, Tensor};
use super::solve::{condition, solve};
use crate::Failure;
use crate::failure::fail;

/// The operations of this folder.
pub const OPS: &[Op] = &[
    Op::new("solve.minres", minres::<f64>, minres::<f32>),
    Op::new("solve.datainf", datainf::<f64>, datainf::<f32>),
    Op::new("solve.nystrom", nystrom::<f64>, nystrom::<f32>),
    Op::new("solve.lanczos_damped", lanczos_damped::<f64>, lanczos_damped::<f32>),
    Op::new("woodbury.lowrank_inverse", lowrank_inverse::<f64>, lowrank_inverse::<f32>),
];

fn minres<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (a, v) = (inputs.floats::<T>("a")?, inputs.floats::<T>("v")?);
    let (damping, steps, [k, n]) = (inputs.number("lambda")?, inputs.count("steps")?, v.dims()?);
    let op = Dense::new(a.matrix()?);
    let converged = Minres {
        damping,
        // No residual gets below the rounding of its own computation.
        rtol: inputs.number("rtol")?.max(T::EPSILON.to_f64()),
        max_iterations: inputs.count("max_iter")?,
        ..Minres::default()
    };
    let x = solve(&converged.prepare(&op)?, &v)?;
    let mut x_steps = Vec::new();
    let mut residuals = vec![T::ZERO; k * (steps + 1)];
    for step in 0..=steps {
        x_steps = solve(&Minres { rtol: 0.0, max_iterations: step, ..converged }.prepare(&op)?, &v)?;
        let ax = apply_alloc(&op, MatRef::new(&x_steps, k, n)?)?;
        for row in 0..k {
            let residual: Vec<T> =
                (row * n..(row + 1) * n).map(|i| v.data[i] - (ax[i] + T::from_f64(damping) * x_steps[i])).collect();
            residuals[row * (steps + 1) + step] = ascribe_core::reduce::norm2(&residual);
        }
    }
    Ok(Outputs::new()
        .with_condition(condition(&a, damping)?)
        .floats("x", &v.shape, &x)
        .floats("x_steps", &v.shape, &x_steps)
        .floats("residual_norms", &[k, steps + 1], &residuals))
}

fn datainf<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (gradients, v) = (inputs.floats::<T>("grads")?, inputs.floats::<T>("v")?);
    let (layers, damping) = (inputs.indices("layer_sizes")?.data, inputs.number("damping")?);
    let absolute = inputs.choice("damping_mode", &[("absolute", true), ("relative", false)])?;
    let damping = if absolute { Damping::Absolute(damping) } else { Damping::Relative(damping) };
    let inverse = DataInf { damping, ..DataInf::default() }.prepare(gradients.matrix()?, &layers)?;
    let dampings: Vec<f64> = inverse.dampings().collect();
    // |g|^2 over the damping, which is what one example's inverse magnifies by.
    let squares = gradients.matrix()?.row_iter().map(|g| g.iter().map(|x| x.to_f64().powi(2)).sum::<f64>());
    let smallest = dampings.iter().copied().fold(f64::INFINITY, f64::min);
    let x = solve(&inverse, &v)?;
    Ok(Outputs::new().with_condition(1.0 + squares.fold(0.0, f64::max) / smallest).floats("x", &v.shape, &x).floats(
        "lambdas",
        &[layers.len()],
        &dampings,
    ))
}

fn nystrom<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (a, omega, v) = (inputs.floats::<T>("a")?, inputs.floats::<T>("omega")?, inputs.floats::<T>("v")?);
    let (lambda, [n, rank]) = (inputs.number("lambda")?, omega.dims()?);
    let rows: Vec<T> = (0..rank * n).map(|at| omega.data[at % n * rank + at / n]).collect();
    let op = Dense::new(a.matrix()?);
    let spectrum = Nystrom::default().prepare_with(&op, MatRef::new(&rows, rank, n)?)?;
    let x = solve(&spectrum.inverse(lambda)?, &v)?;
    let preconditioned = apply_alloc(&spectrum.preconditioner(lambda)?, v.matrix()?)?;
    // The approximation divides by its core, the inverse by the damping: no case has the one well and both ill.
    let core = apply_alloc(&op, MatRef::new(&rows, rank, n)?)?;
    let mut projected = vec![T::ZERO; rank * rank];
    let (omega, products) = (MatRef::new(&rows, rank, n)?, MatRef::new(&core, rank, n)?);
    ascribe_core::matmul::matmul(MatMut::new(&mut projected, rank, rank)?, T::ZERO, T::ONE, omega, products.t())?;
    let core = condition(&Tensor { shape: vec![rank, rank], data: projected }, 0.0)?;
    Ok(Outputs::new()
        .with_condition(condition(&a, lambda)?.max(core))
        .floats("x", &v.shape, &x)
        .floats("eigenvalues", &[rank], spectrum.eigenvalues())
        .floats("precond", &v.shape, &preconditioned))
}

fn lanczos_damped<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (a, v, q0) = (inputs.floats::<T>("a")?, inputs.floats::<T>("v")?, inputs.floats::<T>("q0")?);
    let (lambda, steps) = (inputs.number("lambda")?, inputs.count("steps")?);
    let op = AssumeSelfAdjoint::new::<T>(Dense::new(a.matrix()?))?;
    let basis = Lanczos { steps, ..Lanczos::default() }.decompose_from(&op, &q0.data)?;
    let spectrum = basis.spectrum(NegativeRitz::Keep, None)?;
    let x = solve(&spectrum.inverse(lambda)?, &v)?;
    let s = basis.len();
    // Each new vector is divided by its norm, and the rounding of the product it comes from with it.
    let size = basis.ritz_values().iter().fold(0.0_f64, |size, value| size.max(value.abs()));
    let division = basis.beta().iter().fold(1.0_f64, |worst, beta| worst.max(size / beta));
    let outputs = Outputs::new()
        .with_condition(condition(&a, lambda)?.max(division))
        .floats("x", &v.shape, &x)
        .floats("ritz", &[s], basis.ritz_values())
        .floats("alpha", &[s], basis.alpha());
    Ok(if s > 1 { outputs.floats("beta", &[s - 1], basis.beta()) } else { outputs })
}

fn lowrank_inverse<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (columns, sigma, x) = (inputs.floats::<T>("v")?, inputs.floats::<f64>("sigma")?, inputs.floats::<T>("x")?);
    let (lambda, [d, rank]) = (inputs.number("lambda")?, columns.dims()?);
    if sigma.data.len() != rank {
        return fail(format!("{} singular values for {rank} vectors", sigma.data.len()));
    }
    let rows: Vec<T> = (0..rank * d).map(|at| columns.data[at % d * rank + at / d]).collect();
    let squares: Vec<f64> = sigma.data.iter().map(|s| s * s).collect();
    let inverse = LowRankInverse::new(MatRef::new(&rows, rank, d)?, &squares, lambda, Serial)?;
    let y = solve(&inverse, &x)?;
    let largest = squares.iter().copied().fold(0.0, f64::max);
    Ok(Outputs::new().with_condition(1.0 + largest / lambda).floats("y", &x.shape, &y))
}
