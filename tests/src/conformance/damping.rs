//! `damping.xi`: rules and indicators for choosing a damping.

use ascribe_core::Real;
use ascribe_solvers::curvature::{DampingIndicator, DampingSelection};
use ascribe_solvers::parallel::Parallelism::Serial;

use super::Op;
use super::case::{Inputs, Outputs};
use crate::Failure;
use crate::failure::fail;

/// The operations of this folder.
pub const OPS: &[Op] = &[Op::new("damping.xi", xi::<f64>, xi::<f32>)];

fn xi<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (grads, q, lambdas) =
        (inputs.floats::<T>("grads")?, inputs.floats::<T>("q")?, inputs.floats::<f64>("lambdas")?);
    let indicator = DampingIndicator::from_gradients(grads.matrix()?, q.matrix()?, Serial)?;
    let (spectrum, [queries, _], m) = (indicator.spectrum(), q.dims()?, lambdas.data.len());
    let mut log_t = vec![0.0; 4 * queries * m];
    let mut values = vec![0.0; queries * m];
    let (mut mean, mut dimension) = (Vec::new(), Vec::new());
    for (j, &lambda) in lambdas.data.iter().enumerate() {
        for (query, moments) in indicator.ln_moments(lambda)?.into_iter().enumerate() {
            for (k, ln_t) in moments.into_iter().enumerate() {
                log_t[(k * queries + query) * m + j] = ln_t;
            }
        }
        for (query, xi) in indicator.xi(lambda)?.into_iter().enumerate() {
            values[query * m + j] = xi;
        }
        mean.push(indicator.mean_xi(lambda)?);
        dimension.push(spectrum.effective_dimension(lambda)?);
    }
    let mut outputs = Outputs::new();
    let mut least = lambdas.data.iter().copied().fold(f64::INFINITY, f64::min);
    if inputs.has_param("target_effective_dim") {
        let target = inputs.number("target_effective_dim")?;
        let Some(damping) = spectrum.damping_for_effective_dimension(target)? else {
            return fail(format!("no damping has the effective dimension {target}"));
        };
        least = least.min(damping);
        outputs = outputs.float("lambda_effective_dim", damping);
    }
    if inputs.has_param("target_xi") {
        let target = inputs.number("target_xi")?;
        let DampingSelection::Reached { damping } = indicator.select(target)? else {
            return fail(format!("the mean of xi stays above {target}"));
        };
        least = least.min(damping);
        outputs = outputs.float("lambda_xi_target", damping);
    }
    // The powers of `F + lambda I` magnify a relative error of F by its condition number on the range of F, and the
    // dampings that reach a target follow eigenvalues that are off by as much.
    let (lowest, largest) = (spectrum.positive().first(), spectrum.positive().last());
    let condition = match (lowest, largest) {
        (Some(lowest), Some(largest)) => (largest + least) / (lowest + least),
        _ => 1.0,
    };
    Ok(outputs
        .with_condition(condition)
        .floats("log_t", &[4, queries, m], &log_t)
        .floats("xi", &[queries, m], &values)
        .floats("xi_mean", &[m], &mean)
        .floats("effective_dim", &[m], &dimension)
        .float("lambda_relative", spectrum.relative_damping(0.1)))
}
