//! Newton's method with conjugate gradients, for convex problems that must be solved to high precision.

use ascribe_core::derivative::Reduction;
use ascribe_core::reduce::{axpy, norm2};
use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};

use crate::Error;
use crate::inverse::{Cg, Solve};
use crate::network::{Linearized, Mlp, Targets};
use crate::parallel::Parallelism;

/// Minimises `r sum_n l_n(theta) + weight_decay/2 |theta|^2` (over all parameters, biases too).
///
/// Each step solves with the damped Gauss-Newton matrix by conjugate gradients, the more exactly the closer the
/// minimum is, and is halved until it lowers the objective. For a network of one layer the matrix is the Hessian,
/// the objective is strictly convex when `weight_decay > 0`, and the steps converge quadratically to the one
/// minimum. Deeper networks are taken to a stationary point.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, derivative::Reduction};
/// use ascribe_solvers::{network::*, train::Newton};
/// let net = Mlp::new(&[1, 2], Activation::Identity, Loss::CrossEntropy)?; // logistic regression
/// let mut theta = vec![0.0_f64; net.params()];
/// let x = MatRef::new(&[-1.0, 1.0, 0.5], 3, 1)?;
/// let newton = Newton { weight_decay: 1e-2, ..Newton::default() };
/// let report = newton.train(&net, &mut theta, x, Targets::Classes(&[0, 1, 0]), Reduction::Mean)?;
/// assert!(report.converged && report.gradient_norm <= 1e-6);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Newton {
    /// Coefficient of `|theta|^2 / 2`; default `1e-3`.
    pub weight_decay: f64,
    /// Stop when the norm of the gradient is at most this; default `1e-6`.
    pub gradient_tolerance: f64,
    /// Steps at most; default 100.
    pub max_iterations: usize,
    /// Threads; default one.
    pub parallelism: Parallelism,
}

impl Default for Newton {
    fn default() -> Self {
        Self { weight_decay: 1e-3, gradient_tolerance: 1e-6, max_iterations: 100, parallelism: Parallelism::Serial }
    }
}

/// How a [`Newton`] run ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NewtonReport {
    /// Whether the gradient reached the tolerance. If not, rounding or the limit on steps ended the run.
    pub converged: bool,
    /// Steps made.
    pub iterations: usize,
    /// The norm of the gradient of the objective at the end.
    pub gradient_norm: f64,
}

/// Halvings of a step before it is given up: rounding has been reached.
const HALVINGS: usize = 40;

impl Newton {
    /// Trains `params` in place.
    ///
    /// # Errors
    /// Those of [`Linearized::new`]; a damping error for the weight decay; [`CoreError::Parameter`] for a negative
    /// tolerance; [`CoreError::NonFinite`] when a gradient overflows, although inputs and parameters are finite. The
    /// parameters are those of the last step that lowered the objective.
    pub fn train<T: Real>(
        &self,
        net: &Mlp,
        params: &mut [T],
        input: MatRef<'_, T>,
        targets: Targets<'_, T>,
        reduction: Reduction,
    ) -> Result<NewtonReport, Error> {
        if self.gradient_tolerance.is_nan() || self.gradient_tolerance < 0.0 {
            let value = self.gradient_tolerance;
            return Err(CoreError::Parameter { what: "gradient tolerance", value, must_be: "at least 0" }.into());
        }
        if !(self.weight_decay.is_finite() && self.weight_decay >= 0.0) {
            return Err(CoreError::Damping { value: self.weight_decay }.into());
        }
        let decay = T::from_f64(self.weight_decay);
        let mut step = vec![T::ZERO; params.len()];
        let mut trial = params.to_vec();
        let mut iterations = 0;
        loop {
            let lin = Linearized::new(net, params, input, targets, reduction, self.parallelism)?;
            let mut gradient = lin.gradient()?;
            axpy(&mut gradient, decay, params)?;
            let norm = norm2(&gradient).to_f64();
            let converged = norm <= self.gradient_tolerance;
            if converged || iterations == self.max_iterations {
                return Ok(NewtonReport { converged, iterations, gradient_norm: norm });
            }
            let cg = Cg {
                damping: self.weight_decay,
                rtol: norm.sqrt().clamp(1e-10, 0.1),
                parallelism: self.parallelism,
                ..Cg::default()
            };
            let curvature = lin.gauss_newton();
            cg.prepare(&curvature)?.solve(MatMut::from_row(&mut step), MatRef::from_row(&gradient))?;
            let before = objective(&lin, params, self.weight_decay);
            drop(lin);
            let mut size = 1.0;
            let accepted = (0..HALVINGS).any(|_| {
                trial.copy_from_slice(params);
                let moved = axpy(&mut trial, T::from_f64(-size), &step).is_ok();
                size *= 0.5;
                let after = Linearized::new(net, &trial, input, targets, reduction, self.parallelism)
                    .map_or(f64::INFINITY, |lin| objective(&lin, &trial, self.weight_decay));
                // Near the minimum the change is below the rounding of the objective: a step is as good as none.
                moved && after <= before + 4.0 * T::EPSILON.to_f64() * before.abs()
            });
            if !accepted {
                return Ok(NewtonReport { converged, iterations, gradient_norm: norm });
            }
            params.copy_from_slice(&trial);
            iterations += 1;
        }
    }
}

fn objective<T: Real>(lin: &Linearized<'_, T>, params: &[T], weight_decay: f64) -> f64 {
    lin.loss().to_f64() + 0.5 * weight_decay * norm2(params).to_f64().powi(2)
}
