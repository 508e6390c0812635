//! Dense linear algebra on our views: the only module that names faer.
//!
//! Every product is cut into tiles by the size of the problem and each tile is computed by one thread, so the bits
//! of a result do not depend on the number of threads. Symmetric input is read from the lower triangle.

mod cholesky;
mod divide_and_conquer;
mod eigen;
mod factor;
mod gram;
mod lu;
mod product;
mod secular;
mod skinny;
mod sweep;
mod tridiagonal;

pub use cholesky::Cholesky;
pub use eigen::{Clamped, Eigen, symmetric_eigen};
pub use factor::{Ldlt, Qr, Svd, qr, svd};
pub(crate) use gram::Rows;
pub use gram::gram;
pub use lu::Lu;
pub use product::matmul;
