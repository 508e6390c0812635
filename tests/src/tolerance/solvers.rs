//! Dense linear algebra, networks, exact inverses, training.

use ascribe_core::Real;

use super::{gamma, roundings};

// ---- solvers: linalg, network, inverse, train ----

/// Residual `|A x - v|` of a Cholesky solution: the solution is that of `A + E` with `|E| <= gamma_{3n+1} |L| |L^T|`
/// (Higham, theorem 10.4), and the norm of `|L| |L^T|` is at most its trace, which is that of `A`. Two more roundings
/// for the matrix and the right-hand side of the oracle.
pub fn cholesky<T: Real>(n: usize, trace: f64, solution: f64) -> f64 {
    gamma::<T>(3 * n + 3) * trace * solution
}

/// Relative backward error of what is built of reflections or rotations of an `m x n` matrix (QR, SVD, symmetric
/// eigendecomposition, and Bunch-Kaufman's elimination): `gamma_{c k}` with `k = max(m, n)`, in Frobenius' norm
/// (Higham, theorems 19.4 and 11.4, with the roundings of a column adding up as a random walk). `c = 16` covers the
/// two sides of a reflection, its making, and the product that the test forms.
pub fn orthogonal_factor(m: usize, n: usize, eps: f64) -> f64 {
    roundings(16 * m.max(n) + 16, eps)
}

/// How far a result of a network of at most three layers may be off: what a per-example product adds up is at most
/// `absolute`, a bound from [`NetworkSize::absolute`]; every term of it passes two roundings for each unit that is
/// summed over and 16 for an activation, its derivatives and those of the loss, on the way up, down, and (for a
/// second derivative) once more each.
pub fn network<T: Real>(size: NetworkSize, absolute: f64) -> f64 {
    let way = size.layers * (2 * size.width + 16) + 16;
    gamma::<T>(4 * way + size.examples) * absolute
}

/// What [`network`] has to know.
#[derive(Debug, Clone, Copy)]
pub struct NetworkSize {
    /// Layers.
    pub layers: usize,
    /// The largest number of inputs, bias included, or outputs of a layer.
    pub width: usize,
    /// Examples that are summed over.
    pub examples: usize,
    /// Bound of the parameters, inputs and targets, at least 1.
    pub largest: f64,
}

impl NetworkSize {
    /// The sum of absolute products that an entry of a derivative of this order is made of, for directions of norm
    /// `direction` in the maximum: an activation multiplies by at most 1.13 (its slope; its second derivative is
    /// smaller), a layer by `width * largest`, and there are `2 order` passes over the layers and one choice of the
    /// layer that each derivative falls on. The loss and its derivatives multiply by at most twice that once more.
    pub fn absolute(self, order: i32, direction: f64) -> f64 {
        let layer = 1.13 * self.width as f64 * self.largest;
        let passes = layer.powi(self.layers as i32 * (order + 1)) * (self.layers as f64).powi(order);
        4.0 * layer * passes * direction.max(1.0)
    }
}

/// Residual that a direct solution may leave, relative to `|A| |x|`: as [`orthogonal_factor`], of which Cholesky's and
/// Bunch-Kaufman's eliminations are no worse.
pub fn direct_residual<T: Real>(n: usize) -> f64 {
    orthogonal_factor(n, n, T::EPSILON.to_f64())
}

/// Relative distance of two solutions of one system whose relative residuals are at most `residual`:
/// `|x - y| <= 2 condition residual |x|`.
pub fn solutions(condition: f64, residual: f64) -> f64 {
    2.0 * condition * residual
}

/// How far the residual that a solver carries along is from the true one after some steps, relative to
/// `|A| max |x_k| + |v|`: each step rounds the product (`n` terms), the two updates and their coefficient.
pub fn residual_drift<T: Real>(n: usize, steps: usize) -> f64 {
    gamma::<T>((steps + 1) * (n + 6))
}

/// A mean of `runs` independent results whose standard deviation was estimated as `deviation`: five standard errors,
/// which a normal mean exceeds once in 1.7 million.
pub fn monte_carlo(runs: usize, deviation: f64) -> f64 {
    5.0 * deviation / (runs as f64).sqrt()
}

/// Parameters after `steps` updates of two codes with the same formulas, for gradients that change by at most
/// `smoothness` times the parameters': an error grows by `1 + rate` a step, `rate` being the learning rate times that
/// (over `1 - momentum`), and each step adds `roundings` of numbers of at most `largest`.
pub fn trajectory<T: Real>(steps: usize, rate: f64, count: usize, largest: f64) -> f64 {
    steps as f64 * (1.0 + rate).powi(steps as i32) * gamma::<T>(count) * largest
}

/// The gradient at which a descent cannot be told from rounding any more: a step along it changes the objective by
/// `|g|^2 / (2 curvature)`, and what is accepted may raise it by `4 eps objective` as often as it is lowered, each sum
/// over the examples being off by as much once more.
pub fn stationary<T: Real>(objective: f64, curvature: f64) -> f64 {
    (2.0 * curvature * 8.0 * T::EPSILON.to_f64() * objective).sqrt()
}

// ---- symmetric eigendecomposition ----

/// Relative backward error (in Frobenius' norm) of the eigendecomposition of a symmetric `n x n` matrix, and how far
/// an element of `Q^T Q - I` may be from 0. Reflections there and back are an [`orthogonal_factor`]. Of the `log2 n`
/// rounds of merges, each drops at most `n` numbers of at most `8 eps |T|`, which are orthogonal to one another
/// (`8 sqrt(n) eps`), and multiplies by a matrix of at most `n` rows whose elements have a few roundings each.
pub fn symmetric_eigen(n: usize) -> f64 {
    let (rounds, eps) = ((n.max(2) as f64).log2().ceil(), f64::EPSILON);
    orthogonal_factor(n, n, eps) + rounds * (8.0 * (n as f64).sqrt() * eps + roundings(n + 16, eps))
}

/// Error of the eigenvalues from `oracle::jacobi`, relative to Frobenius' norm: a sweep rounds each element in `2 n`
/// rotations of four roundings, and what is left beside the diagonal is below `eps |A|`.
pub fn jacobi(n: usize, sweeps: usize) -> f64 {
    roundings(8 * n * sweeps + 2, f64::EPSILON)
}
