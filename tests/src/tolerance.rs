//! The table of tolerances: every bound that a test uses, as a formula with its reason.
//!
//! Notation: `eps` is the distance from 1 to the next number, `u = eps / 2` the unit roundoff.

mod algebra;
mod attribution;
mod curvature;
mod device;
mod inverse;
mod precondition;
mod sketch;
mod solvers;
mod statistics;

use ascribe_core::Real;

pub use algebra::*;
pub use attribution::*;
pub use curvature::*;
pub use device::*;
pub use inverse::*;
pub use precondition::*;
pub use sketch::*;
pub use solvers::*;
pub use statistics::*;

/// Relative error that arithmetic in f32 may add to a result of the conformance cases.
///
/// Rounding errors of a sum of `n` terms behave as a random walk: the error is at most `l sqrt(n) u` times the sum
/// of absolute values with probability `1 - 2 exp(-l^2 / 2)` (Higham and Mary, SIAM J. Sci. Comput. 41, 2019,
/// theorem 2.4). With `l = 4` (one failure in 1,500 sums) and four such sums behind one another (layers, a
/// normalisation, a solve), `4 * 4 * u = 8 eps`. `condition` is what the problem multiplies its input's rounding by:
/// the smaller of a bound that the handler derives and what the same computation in f64 does to disturbed inputs.
pub fn conformance_f32(n: usize, condition: f64) -> f64 {
    8.0 * (n as f64).sqrt() * f64::from(f32::EPSILON) * condition
}

/// `gamma_n = n u / (1 - n u)`: bounds the relative error of `n` roundings in a row (Higham, Accuracy and Stability
/// of Numerical Algorithms, lemma 3.1), `u` being half of `eps`.
pub fn roundings(n: usize, eps: f64) -> f64 {
    let nu = n as f64 * eps / 2.0;
    nu / (1.0 - nu)
}

/// [`roundings`] in the precision of `T`.
pub fn gamma<T: Real>(n: usize) -> f64 {
    roundings(n, T::EPSILON.to_f64())
}
