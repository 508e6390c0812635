//! Dense networks with exact derivatives.
//!
//! ```text
//! Mlp (shape) ──► Linearized (one pass over the data at fixed parameters)
//!                     ├── Hessian, GaussNewton, EmpiricalFisher, SampledFisher   operators on parameter vectors
//!                     ├── Jacobian, GaussNewtonFactor                            operators between parameters and outputs
//!                     └── gradients, records                                     what attribution starts from
//! ```
//!
//! A [`Linearized`] network has done the forward and the backward pass once; every product after that costs only
//! its own arithmetic. All sums run over blocks of examples in a fixed order.

mod activation;
mod cache;
mod cotangent;
mod factor;
mod jacobian;
mod linearized;
mod loss;
mod mlp;
mod product;
mod sweep;
mod tangent;

pub use activation::Activation;
pub(crate) use cache::Cache;
pub use factor::GaussNewtonFactor;
pub use jacobian::Jacobian;
pub use linearized::Linearized;
pub use loss::{Loss, Targets};
pub use mlp::{Layer, Mlp};
pub use product::{Curvature, EmpiricalFisher, GaussNewton, Hessian, Kind, SampledFisher};
