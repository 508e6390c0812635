//! Derivatives without a framework: dual numbers, and the curvature matrices as operators.
//!
//! | operator | matrix | exact for |
//! |---|---|---|
//! | [`Hessian`] | second derivatives of the loss | any gradient written over [`Scalar`](crate::Scalar) |
//! | [`FiniteDifferenceHessian`] | the same, to about `u^(2/3)` | any gradient |
//! | [`GaussNewton`] | $J^T H_{out} J$ | a loss of a linearised model |
//! | [`SampledFisher`] | the same in expectation over sampled labels | exponential-family losses |
//! | [`EmpiricalFisher`] | outer products of the training gradients | itself only |

pub mod dual;
mod finite_difference;
mod fisher;
mod gauss_newton;
mod hessian;

pub use dual::Dual;
pub use finite_difference::FiniteDifferenceHessian;
pub use fisher::{EmpiricalFisher, SampledFisher};
pub use gauss_newton::GaussNewton;
#[cfg(feature = "alloc")]
pub use hessian::Hessian;
pub use hessian::{DifferentiableGradient, hvp};

use crate::scalar::Real;

/// How the losses of the examples make up the total, and so the scale of its curvature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Reduction {
    /// The total is the mean over `N` examples: the factor `1/N`.
    #[default]
    Mean,
    /// The total is the sum: the factor 1.
    Sum,
}

impl Reduction {
    /// The factor before a sum over `examples` terms; infinite for the mean of none.
    pub fn factor<T: Real>(self, examples: usize) -> T {
        match self {
            Self::Mean => T::ONE / T::from_f64(examples as f64),
            Self::Sum => T::ONE,
        }
    }
}
