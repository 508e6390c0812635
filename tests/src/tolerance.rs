//! The table of tolerances: every bound that a test uses, as a formula with its reason.
//!
//! Notation: `eps` is the distance from 1 to the next number, `u = eps / 2` the unit roundoff.

// ---- conformance ----

/// Relative error that arithmetic in f32 may add to a result of the conformance cases.
///
/// Rounding errors of a sum of `n` terms behave as a random walk: the error is at most `l sqrt(n) u` times the sum
/// of absolute values with probability `1 - 2 exp(-l^2 / 2)` (Higham and Mary, SIAM J. Sci. Comput. 41, 2019,
/// theorem 2.4). With `l = 4` (one failure in 1,500 sums) and four such sums behind one another (layers, a
/// normalisation, a solve), `4 * 4 * u = 8 eps`. `condition` is what the problem multiplies its input's rounding by.
pub fn conformance_f32(n: usize, condition: f64) -> f64 {
    8.0 * (n as f64).sqrt() * f64::from(f32::EPSILON) * condition
}
