//! Inverse-curvature products: solve `(A + damping I) x = v` for every row `v` of a block.
//!
//! | solver | needs | use it when |
//! |---|---|---|
//! | [`Explicit`] | `A` small enough to form (`n^2` numbers) | a reference; few parameters |
//! | [`ExplicitSpectrum`] | the same | many dampings for one matrix |
//! | [`Woodbury`] | a factor `A = c Psi^T Psi` with few rows | fewer examples times outputs than parameters |
//! | [`Cg`] | products with a fixed positive definite `A` | the deterministic standard |
//! | [`Minres`] | the same with a symmetric `A` of any signs | the true Hessian |
//! | [`Neumann`] | products, a step size below `2 / largest eigenvalue` | fixed cost, truncation as damping |
//! | [`Lissa`] | products on batches of examples | more data than a product may touch |
//! | [`Astra`] | the same, and an approximate inverse such as EKFAC's | to correct that inverse on batches |
//! | [`Lanczos`] | a few dozen products, once | many right-hand sides, top eigenpairs, negative curvature |
//! | [`Nystrom`] | a block of products, once | the same for a positive semidefinite `A`; a preconditioner |
//! | [`DataInf`] | per-example gradients | cheapest; exact for one example, too long for many |
//! | [`LowRankInverse`] | orthonormal eigenvectors | a low-rank curvature found elsewhere |
//!
//! A solver is a plain struct of options; `prepare` binds it to an operator and gives a [`Solve`], which takes
//! blocks of right-hand sides, each with its own stop and its own [`SolveReport`]. Not converging is a report, a
//! wrong input is an error. [`AsOperator`] makes an operator of a prepared solver, so that any of them can
//! precondition another. [`FixedBatch`] lets a deterministic solver run on a batch, [`SpectralRadius`] says which
//! step size is safe.

mod astra;
mod block;
mod cg;
mod datainf;
mod explicit;
mod fixed_batch;
mod heavy_ball;
mod lanczos;
mod lissa;
mod low_rank;
mod minres;
mod neumann;
mod nystrom;
mod report;
mod spectral_radius;
mod step_size;
mod tridiagonal;
mod woodbury;

pub use astra::{Astra, AstraReport, PreparedAstra};
pub use cg::{Cg, PreparedCg};
pub use datainf::{DataInf, DataInfInverse, GradientSource};
pub use explicit::{Explicit, ExplicitInverse, ExplicitSpectrum};
pub use fixed_batch::FixedBatch;
pub use lanczos::{Lanczos, LanczosBasis, NegativeRitz};
pub use lissa::{Batch, Lissa, PreparedLissa};
pub use low_rank::{LowRankInverse, LowRankSpectrum};
pub use minres::{Minres, MinresReport, PreparedMinres};
pub use neumann::{Neumann, PreparedNeumann, Start};
pub use nystrom::Nystrom;
pub use report::{AsOperator, AsSolver, Solve, SolveReport, Stop};
pub use spectral_radius::SpectralRadius;
pub use step_size::StepSize;
pub use woodbury::Woodbury;
