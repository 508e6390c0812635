//! `solve.*`: inverse-Hessian products of given matrices.

use ascribe_core::linop::{Adjoint, Dense};
use ascribe_core::{Error as CoreError, ExampleLinOp, LinOp, MatMut, MatRef, Real};
use ascribe_solvers::inverse::{Batch, Cg, ExplicitSpectrum, Lissa, Neumann, Solve, Start, Woodbury};
use ascribe_solvers::parallel::Parallelism::Serial;

use super::Op;
use super::case::{Inputs, Outputs, Tensor};
use crate::Failure;

/// The operations of this folder.
pub const OPS: &[Op] = &[
    Op::new("solve.explicit_damped", explicit_damped::<f64>, explicit_damped::<f32>),
    Op::new("solve.woodbury", woodbury::<f64>, woodbury::<f32>),
    Op::new("solve.cg", cg::<f64>, cg::<f32>),
    Op::new("solve.pcg_iterates", pcg_iterates::<f64>, pcg_iterates::<f32>),
    Op::new("solve.neumann", neumann::<f64>, neumann::<f32>),
    Op::new("solve.lissa", lissa::<f64>, lissa::<f32>),
];

/// Solves for every row of `v`.
pub(super) fn solve<T: Real>(solver: &dyn Solve<T>, v: &Tensor<T>) -> Result<Vec<T>, Failure> {
    let v = v.matrix()?;
    let mut out = vec![T::ZERO; v.rows() * v.cols()];
    solver.solve(MatMut::new(&mut out, v.rows(), v.cols())?, v)?;
    Ok(out)
}

/// The condition number of `a + lambda I`: what the solution magnifies rounding by.
pub(super) fn condition<T: Real>(a: &Tensor<T>, lambda: f64) -> Result<f64, Failure> {
    let spectrum = ExplicitSpectrum::new(&Dense::new(a.matrix()?), Serial)?;
    let sizes = spectrum.eigenvalues().iter().map(|value| (value + lambda).abs());
    let (low, high) = sizes.fold((f64::INFINITY, 0.0_f64), |(low, high), x| (low.min(x), high.max(x)));
    Ok(high / low)
}

fn explicit_damped<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (a, v, lambdas) = (inputs.floats::<T>("a")?, inputs.floats::<T>("v")?, inputs.floats::<f64>("lambdas")?);
    let spectrum = ExplicitSpectrum::new(&Dense::new(a.matrix()?), Serial)?;
    let [k, n] = v.dims()?;
    let mut x = vec![T::ZERO; lambdas.data.len() * k * n];
    let mut worst = 1.0_f64;
    for (block, &lambda) in x.chunks_exact_mut((k * n).max(1)).zip(&lambdas.data) {
        spectrum.solve(lambda, MatMut::new(block, k, n)?, v.matrix()?)?;
        worst = worst.max(condition(&a, lambda)?);
    }
    Ok(Outputs::new().with_condition(worst).floats("x", &[lambdas.data.len(), k, n], &x))
}

fn woodbury<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (psi, v, lambda) = (inputs.floats::<T>("psi")?, inputs.floats::<T>("v")?, inputs.number("lambda")?);
    let psi = psi.matrix()?;
    let scale = 1.0 / psi.rows() as f64;
    let x = solve(&Woodbury::from_rows(psi, scale, lambda, Serial)?, &v)?;
    // The largest eigenvalue is at most the trace.
    let trace: f64 = psi.row_iter().flatten().map(|x| scale * x.to_f64().powi(2)).sum();
    Ok(Outputs::new().with_condition(1.0 + trace / lambda).floats("x", &v.shape, &x))
}

fn cg<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (a, v) = (inputs.floats::<T>("a")?, inputs.floats::<T>("v")?);
    let options = Cg {
        damping: inputs.number("lambda")?,
        // No residual gets below the rounding of its own computation.
        rtol: inputs.number("rtol")?.max(T::EPSILON.to_f64()),
        max_iterations: inputs.count("max_iter")?,
        ..Cg::default()
    };
    let x = solve(&options.prepare(&Dense::new(a.matrix()?))?, &v)?;
    Ok(Outputs::new().with_condition(condition(&a, options.damping)?).floats("x", &v.shape, &x))
}

fn pcg_iterates<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (a, v) = (inputs.floats::<T>("a")?, inputs.floats::<T>("v")?);
    let start_at_rhs = inputs.choice("x0", &[("zero", false), ("rhs", true)])?;
    let (damping, steps, [k, n]) = (inputs.number("lambda")?, inputs.count("steps")?, v.dims()?);
    let op = Dense::new(a.matrix()?);
    let inverse = if inputs.has("minv") { Some(inputs.floats::<T>("minv")?) } else { None };
    let inverse = inverse.as_ref().map(|m| Ok::<_, Failure>(Dense::new(m.matrix()?))).transpose()?;
    let mut iterates = vec![T::ZERO; k * (steps + 1) * n];
    let mut residuals = vec![T::ZERO; k * (steps + 1)];
    for step in 0..=steps {
        let options = Cg { damping, rtol: 0.0, max_iterations: step, start_at_rhs, refresh_every: 0, ..Cg::default() };
        let prepared = match &inverse {
            None => options.prepare(&op)?,
            Some(inverse) => options.prepare_with(&op, inverse)?,
        };
        let x = solve(&prepared, &v)?;
        let mut ax = vec![T::ZERO; k * n];
        op.apply(MatMut::new(&mut ax, k, n)?, MatRef::new(&x, k, n)?, &mut [])?;
        for row in 0..k {
            let place = row * (steps + 1) + step;
            iterates[place * n..(place + 1) * n].copy_from_slice(&x[row * n..(row + 1) * n]);
            let residual: Vec<T> =
                (row * n..(row + 1) * n).map(|i| v.data[i] - (ax[i] + T::from_f64(damping) * x[i])).collect();
            residuals[place] = ascribe_core::reduce::norm2(&residual);
        }
    }
    Ok(Outputs::new().with_condition(condition(&a, damping)?).floats("iterates", &[k, steps + 1, n], &iterates).floats(
        "residual_norms",
        &[k, steps + 1],
        &residuals,
    ))
}

fn neumann<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (a, v) = (inputs.floats::<T>("a")?, inputs.floats::<T>("v")?);
    let starts = [
        ("zero", Start::Zero),
        ("rhs", Start::Rhs),
        ("alpha_rhs", Start::AlphaRhs),
        ("precond_rhs", Start::PreconditionedRhs),
    ];
    let options = Neumann {
        alpha: inputs.number("alpha")?,
        damping: inputs.number("lambda")?,
        steps: inputs.count("steps")?,
        start: inputs.choice("x0", &starts)?,
        // Exactly so many steps, wherever they lead.
        divergence: f64::INFINITY,
        ..Neumann::default()
    };
    let op = Dense::new(a.matrix()?);
    let x = if inputs.has("minv") {
        let inverse = inputs.floats::<T>("minv")?;
        solve(&options.prepare_with(&op, &Dense::new(inverse.matrix()?))?, &v)?
    } else {
        solve(&options.prepare(&op)?, &v)?
    };
    // Each step adds the rounding of a product; the sum of the series is bounded by its number of terms.
    Ok(Outputs::new().with_condition(1.0 + options.steps as f64).floats("x", &v.shape, &x))
}

fn lissa<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (h, v, steps) = (inputs.floats::<T>("h")?, inputs.floats::<T>("v")?, inputs.count("steps")?);
    let conventions = [("koh_liang", 0), ("torch_influence", 1), ("pydvl", 2), ("sni", 3)];
    let options = match inputs.choice("convention", &conventions)? {
        0 => Lissa::koh_liang(inputs.number("scale")?, inputs.number("damping")?, steps),
        1 => Lissa::torch_influence(inputs.number("scale")?, inputs.number("lambda")?, steps),
        2 => Lissa::pydvl(inputs.number("scale")?, inputs.number("damping")?, inputs.number("lambda")?, steps),
        _ => Lissa::stochastic_neumann(inputs.number("alpha")?, inputs.number("lambda")?, steps),
    };
    let op = OneExample(Dense::new(h.matrix()?));
    // Exactly so many steps, wherever they lead.
    let options = Lissa { batch: Batch::Full, divergence: f64::INFINITY, ..options };
    let x = solve(&options.prepare(&op)?, &v)?;
    Ok(Outputs::new().with_condition(1.0 + steps as f64).floats("x", &v.shape, &x))
}

/// A matrix as the curvature of a data set of one example.
struct OneExample<A>(A);

impl<T: Real, A: LinOp<T>> LinOp<T> for OneExample<A> {
    fn dim_in(&self) -> usize {
        self.0.dim_in()
    }
    fn dim_out(&self) -> usize {
        self.0.dim_out()
    }
    fn scratch_len(&self, rows: usize) -> usize {
        self.0.scratch_len(rows)
    }
    fn apply(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), CoreError> {
        self.0.apply(out, x, scratch)
    }
}

impl<T: Real, A: Adjoint<T>> ExampleLinOp<T> for OneExample<A> {
    fn examples(&self) -> usize {
        1
    }
    fn examples_scratch_len(&self, rows: usize, _: usize) -> usize {
        self.0.scratch_len(rows)
    }
    fn apply_examples(
        &self,
        out: MatMut<'_, T>,
        x: MatRef<'_, T>,
        _: &[usize],
        scratch: &mut [T],
    ) -> Result<(), CoreError> {
        self.0.apply(out, x, scratch)
    }
}
