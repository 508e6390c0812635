//! `solve.astra*`: preconditioned iterations with an EKFAC inverse, on a given matrix or on given batches.

use ascribe_core::linop::{BlockDiagonal, Chain, Dense, Diagonal, Kronecker, Transposed, check_apply};
use ascribe_core::{Error as CoreError, ExampleLinOp, LinOp, MatMut, MatRef, Real};
use ascribe_solvers::inverse::{Astra, ExplicitSpectrum, PreparedAstra, Start, StepSize};
use ascribe_solvers::parallel::Parallelism::Serial;

use super::Op;
use super::case::{Inputs, Outputs, Tensor};
use crate::Failure;

/// The operations of this folder.
pub const OPS: &[Op] = &[
    Op::new("solve.astra", full::<f64>, full::<f32>),
    Op::new("solve.astra_stochastic", stochastic::<f64>, stochastic::<f32>),
];

/// `(qg (x) qa) diag(entries) (qg (x) qa)^T`.
pub type EigenBlock<'a, T> = Chain<Rotation<'a, T>, Chain<Diagonal<'a, T>, Transposed<Rotation<'a, T>>>>;
type Rotation<'a, T> = Kronecker<Dense<'a, T>, Dense<'a, T>>;

/// The block of a layer whose eigenvectors are the columns of `qg (x) qa`.
///
/// # Errors
/// When the shapes do not fit together.
pub fn eigen_block<'a, T: Real>(
    qg: MatRef<'a, T>,
    qa: MatRef<'a, T>,
    entries: &'a [T],
) -> Result<EigenBlock<'a, T>, Failure> {
    let rotation = Kronecker::new(Dense::new(qg), Dense::new(qa))?;
    Ok(Chain::new(rotation, Chain::new(Diagonal::new(entries), Transposed::new(rotation))?)?)
}

/// The factors of `(P + lambda_tilde I)^-1`, a layer each.
struct Ekfac<T> {
    layers: Vec<[Tensor<T>; 3]>,
}

impl<T: Real> Ekfac<T> {
    fn read(inputs: &Inputs<'_>) -> Result<Self, Failure> {
        let damping = inputs.number("lambda_tilde")?;
        let layer = |l: usize| {
            let mut entries = inputs.floats::<T>(&format!("eig{l}"))?;
            for x in &mut entries.data {
                *x = T::from_f64(1.0 / (x.to_f64() + damping));
            }
            Ok([inputs.floats(&format!("qg{l}"))?, inputs.floats(&format!("qa{l}"))?, entries])
        };
        Ok(Self { layers: (0..inputs.count("layers")?).map(layer).collect::<Result<_, Failure>>()? })
    }

    fn blocks(&self) -> Result<Vec<EigenBlock<'_, T>>, Failure> {
        self.layers.iter().map(|[qg, qa, entries]| eigen_block(qg.matrix()?, qa.matrix()?, &entries.data)).collect()
    }

    /// The largest eigenvalue of the inverse.
    fn norm(&self) -> f64 {
        self.layers.iter().flat_map(|[_, _, entries]| &entries.data).fold(0.0, |max, x| x.to_f64().max(max))
    }
}

fn options(inputs: &Inputs<'_>) -> Result<Astra, Failure> {
    let starts = [("precond_rhs", Start::PreconditionedRhs), ("zero", Start::Zero)];
    Ok(Astra {
        damping: inputs.number("lambda")?,
        steps: inputs.count("steps")?,
        step_size: StepSize::Fixed(inputs.number("alpha")?),
        momentum: inputs.number("momentum")?,
        decay_factor: inputs.number("decay_factor")?,
        decay_every: inputs.count("decay_every")?,
        start: inputs.choice("x0", &starts)?,
        // The definition has no stop.
        monitor_every: 0,
        ..Astra::default()
    })
}

/// How the rounding of `d` is magnified: a step rounds numbers of the size `|W| (|A| |x| + |v|)`, `|v|` being at most
/// `|A|` times the solution; an error in `d` moves all later iterates by at most `2 alpha / (1 - momentum)` of it
/// ([`heavy_ball`](crate::tolerance::heavy_ball)), and the steps' errors add up as a random walk.
fn condition<T: Real>(options: &Astra, curvature: &dyn LinOp<T>, ekfac: &Ekfac<T>) -> Result<f64, Failure> {
    let StepSize::Fixed(alpha) = options.step_size else { return Ok(f64::INFINITY) };
    let spectrum = ExplicitSpectrum::new(curvature, Serial)?;
    let largest = spectrum.eigenvalues().last().copied().unwrap_or(0.0) + options.damping;
    let decayed = |t: usize| options.decay_factor.powi(t.checked_div(options.decay_every).unwrap_or(0) as i32);
    let squares: f64 = (0..options.steps).map(|t| decayed(t).powi(2)).sum();
    let moved = 2.0 * alpha * squares.sqrt() / (1.0 - options.momentum);
    Ok(1.0 + 2.0 * moved * ekfac.norm() * largest)
}

fn solve<T: Real>(prepared: &PreparedAstra<'_, T>, v: &Tensor<T>) -> Result<(Vec<T>, [Vec<f64>; 2]), Failure> {
    let v = v.matrix()?;
    let mut x = vec![T::ZERO; v.rows() * v.cols()];
    let reports = prepared.solve_monitored(MatMut::new(&mut x, v.rows(), v.cols())?, v)?;
    let objective = [
        reports.iter().map(|report| report.objective_start).collect(),
        reports.iter().map(|report| report.objective_end).collect(),
    ];
    Ok((x, objective))
}

fn full<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (g, v, ekfac) = (inputs.floats::<T>("g")?, inputs.floats::<T>("v")?, Ekfac::<T>::read(inputs)?);
    let options = options(inputs)?;
    let (op, blocks) = (Dense::new(g.matrix()?), ekfac.blocks()?);
    let inverse = BlockDiagonal::new(&blocks)?;
    let (x0, _) = solve(&Astra { steps: 0, ..options }.prepare_full(&op, &inverse)?, &v)?;
    // Evaluated at both ends alone, and without a bound.
    let watched = Astra { monitor_every: options.steps.max(1), divergence: f64::INFINITY, ..options };
    let (x, objective) = solve(&watched.prepare_full(&op, &inverse)?, &v)?;
    Ok(Outputs::new()
        .with_condition(condition(&options, &op, &ekfac)?)
        .floats("x0", &v.shape, &x0)
        .floats("x", &v.shape, &x)
        .floats("objective", &[2, v.shape[0]], &objective.concat()))
}

fn stochastic<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (jac, out_hess) = (inputs.floats::<T>("jac")?, inputs.floats::<T>("out_hess")?);
    let (v, ekfac, batches) = (inputs.floats::<T>("v")?, Ekfac::<T>::read(inputs)?, inputs.indices("batches")?);
    let options = options(inputs)?;
    let [steps, batch] = batches.dims()?;
    let batches: Vec<Vec<usize>> = (0..steps).map(|t| batches.data[t * batch..(t + 1) * batch].to_vec()).collect();
    let (op, blocks) = (Jacobians::new(&jac, &out_hess)?, ekfac.blocks()?);
    let inverse = BlockDiagonal::new(&blocks)?;
    let (x0, _) = solve(&Astra { steps: 0, ..options }.prepare_batches(&op, &inverse, &batches)?, &v)?;
    let (x, _) = solve(&options.prepare_batches(&op, &inverse, &batches)?, &v)?;
    Ok(Outputs::new()
        .with_condition(condition(&options, &op, &ekfac)?)
        .floats("x0", &v.shape, &x0)
        .floats("x", &v.shape, &x))
}

/// `(1/b) sum_n jac_n^T out_hess_n jac_n` over the examples of a batch.
struct Jacobians<'a, T> {
    jac: &'a [T],
    out_hess: &'a [T],
    examples: usize,
    outputs: usize,
    dim: usize,
}

impl<'a, T: Real> Jacobians<'a, T> {
    fn new(jac: &'a Tensor<T>, out_hess: &'a Tensor<T>) -> Result<Self, Failure> {
        let [examples, outputs, dim] = jac.dims()?;
        if out_hess.dims()? != [examples, outputs, outputs] {
            return crate::failure::fail("out_hess does not belong to jac");
        }
        Ok(Self { jac: &jac.data, out_hess: &out_hess.data, examples, outputs, dim })
    }
}

impl<T: Real> LinOp<T> for Jacobians<'_, T> {
    fn dim_in(&self) -> usize {
        self.dim
    }
    fn dim_out(&self) -> usize {
        self.dim
    }
    fn scratch_len(&self, rows: usize) -> usize {
        self.examples_scratch_len(rows, self.examples)
    }
    fn apply(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), CoreError> {
        self.apply_examples(out, x, &(0..self.examples).collect::<Vec<_>>(), scratch)
    }
}

impl<T: Real> ExampleLinOp<T> for Jacobians<'_, T> {
    fn examples(&self) -> usize {
        self.examples
    }
    fn examples_scratch_len(&self, _: usize, _: usize) -> usize {
        0
    }
    fn apply_examples(
        &self,
        mut out: MatMut<'_, T>,
        x: MatRef<'_, T>,
        indices: &[usize],
        _: &mut [T],
    ) -> Result<(), CoreError> {
        check_apply(self.dim, self.dim, &out, &x)?;
        let weight = T::ONE / T::from_f64(indices.len() as f64);
        let dot = |x: &[T], y: &[T]| x.iter().zip(y).fold(T::ZERO, |sum, (&x, &y)| sum + x * y);
        out.for_each_row(|i, out| {
            out.fill(T::ZERO);
            for &n in indices {
                let at = n * self.outputs;
                let row = |c: usize| &self.jac[(at + c) * self.dim..(at + c + 1) * self.dim];
                let tangent: Vec<T> = (0..self.outputs).map(|c| dot(row(c), x.row(i))).collect();
                for c in 0..self.outputs {
                    let along = weight * dot(&self.out_hess[(at + c) * self.outputs..][..self.outputs], &tangent);
                    out.iter_mut().zip(row(c)).for_each(|(out, &j)| *out += along * j);
                }
            }
        });
        Ok(())
    }
}
