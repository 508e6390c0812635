//! Inverse roots by the coupled Newton iteration and its relatives of higher order: products alone.

use ascribe_core::{Error as CoreError, MatMut, MatRef, Real, reduce};

use crate::Error;
use crate::error::{check_rows_finite, check_shape};
use crate::linalg::matmul;
use crate::parallel::Parallelism;
use crate::precondition::check::{check, check_rate};

/// The coupled iteration for `A^(-1/p)`: `M = X^p A` is carried along and driven to the identity,
///
/// $$X \leftarrow X T, \quad M \leftarrow T^p M, \quad T = \sum_{j < o} b_j (I - M)^j \approx M^{-1/p},$$
///
/// the `b_j` being the binomial series of $(1 - x)^{-1/p}$. Order 2 is Newton's method.
///
/// Order 2 starts from `z = (p+1)/(2 |A|_F)`, higher ones, which converge for eigenvalues in `(0, 2)` alone, from
/// `1 / tr(A)` and with one step of order 2. Converges quadratically (with power `o`) after about
/// `ln(kappa) / (p ln(1 + 1/p))` steps for the condition number `kappa`. Cost of a step: `2 n^3 (o + log2 p)` flops, about.
///
/// # Errors
/// [`coupled_inverse_root`] refuses `p = 0`, an order outside of 2 to 64, and a tolerance or `epsilon` that is negative or
/// not finite.
///
/// # References
/// Guo and Higham, SIAM J. Matrix Anal. Appl. 28 (2006), 788-804; Iannazzo, SIAM J. Matrix Anal. Appl. 28 (2006), 503-523.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CoupledNewton {
    /// Stop when `max |M - I|` is at most this; default 1e-6.
    pub tolerance: f64,
    /// Default 100.
    pub max_iterations: usize,
    /// `o`, 2 to 64; default 2.
    pub order: usize,
}

impl Default for CoupledNewton {
    fn default() -> Self {
        Self { tolerance: 1e-6, max_iterations: 100, order: 2 }
    }
}

impl CoupledNewton {
    /// The largest [`order`](Self::order). Far smaller ones are of use: a term is a product more in every step.
    pub const MAX_ORDER: usize = 64;

    pub(in crate::precondition) fn check(&self) -> Result<(), CoreError> {
        check_rate("tolerance", self.tolerance)?;
        check("order", self.order as f64, (2..=Self::MAX_ORDER).contains(&self.order), "2 to 64")
    }
}

/// An inverse root, and how good it is.
#[derive(Debug, Clone, PartialEq)]
pub struct CoupledRoot {
    /// `(A + epsilon I)^(-1/p)`, row-major.
    pub root: Vec<f64>,
    /// Steps made; 0 when the start already passes.
    pub iterations: usize,
    /// `max |M - I|` at the end, as the iteration sees it.
    pub error: f64,
    /// `max |X^p (A + epsilon I) - I|`, computed afresh. What to trust: the iteration does not see its own rounding.
    pub residual: f64,
}

/// `(A + epsilon I)^(-1/p)` of a symmetric positive definite matrix by products, with its residual verified.
///
/// Not converging is in the result, whose residual says what it is worth: stopped by the number of steps, or, in orders
/// above 2, because the error grew by a fifth, which rounding makes it do at the end.
///
/// # Errors
/// A shape error when `a` is not square; [`CoreError::NonFinite`]; [`CoreError::Parameter`], see [`CoupledNewton`];
/// [`CoreError::Singular`] for a matrix of zeros; [`Error::Diverged`] with the step at which a number overflowed, as it
/// does for an indefinite matrix.
///
/// # Examples
/// ```
/// use ascribe_core::MatRef;
/// use ascribe_solvers::{parallel::Parallelism, precondition::{CoupledNewton, coupled_inverse_root}};
/// let a = MatRef::new(&[5.0, 4.0, 4.0, 5.0], 2, 2)?; // eigenvalues 1 and 9
/// let x = coupled_inverse_root(&CoupledNewton::default(), a, 2, 0.0, Parallelism::Serial)?;
/// assert!((x.root[0] - 2.0 / 3.0).abs() < 1e-6); // the mean of 1 and 1/3
/// assert!(x.residual < 1e-6);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
pub fn coupled_inverse_root<T: Real>(
    options: &CoupledNewton,
    a: MatRef<'_, T>,
    p: u32,
    epsilon: f64,
    par: Parallelism,
) -> Result<CoupledRoot, Error> {
    let CoupledNewton { tolerance, max_iterations, order } = *options;
    options.check()?;
    check_rate("epsilon", epsilon)?;
    check("p", p.into(), p > 0, "at least 1")?;
    let n = a.rows();
    let a = damped(a, epsilon)?;
    let size = if order == 2 { reduce::norm2(&a) } else { a.iter().step_by(n + 1).sum() };
    if n > 0 && (size <= 0.0 || !size.is_finite()) {
        return Err(CoreError::Singular { what: "matrix under a root", index: 0 }.into());
    }
    let p_f = f64::from(p);
    let z = if order == 2 { (p_f + 1.0) / (2.0 * size) } else { 1.0 / size };
    let mut x = identity(n, z.powf(1.0 / p_f));
    let mut m: Vec<f64> = a.iter().map(|a| z * a).collect();
    let (mut iterations, mut error) = (0, distance(&m, n));
    while error > tolerance && iterations < max_iterations {
        let t = correction(&m, n, p_f, if iterations == 0 { 2 } else { order }, par)?;
        let (next_x, next_m) = (times(&x, &t, n, par)?, times(&power(&t, n, p, par)?, &m, n, par)?);
        let next = distance(&next_m, n);
        if !next.is_finite() {
            return Err(Error::Diverged { step: iterations });
        }
        if order > 2 && iterations > 0 && next > 1.2 * error {
            break;
        }
        (x, m, error) = (next_x, next_m, next);
        iterations += 1;
    }
    let residual = distance(&times(&power(&x, n, p, par)?, &a, n, par)?, n);
    Ok(CoupledRoot { root: x, iterations, error, residual })
}

/// `max |X^p (A + epsilon I) - I|`: whether `x` is an inverse root.
///
/// Cost: about `2 n^3 (1 + log2 p)` flops.
///
/// # Errors
/// A shape error, [`CoreError::NonFinite`] for NaN or infinity in `a`, [`CoreError::Parameter`] for a damping that is
/// negative or not finite.
pub fn inverse_root_residual<T: Real>(
    x: &[f64],
    a: MatRef<'_, T>,
    p: u32,
    epsilon: f64,
    par: Parallelism,
) -> Result<f64, Error> {
    let n = a.rows();
    check_rate("epsilon", epsilon)?;
    let a = damped(a, epsilon)?;
    check_shape("elements of the root", a.len(), x.len())?;
    Ok(distance(&times(&power(x, n, p, par)?, &a, n, par)?, n))
}

fn damped<T: Real>(a: MatRef<'_, T>, epsilon: f64) -> Result<Vec<f64>, Error> {
    let n = a.rows();
    check_shape("columns of a symmetric matrix", n, a.cols())?;
    check_rows_finite("symmetric matrix", a)?;
    let mut a: Vec<f64> = a.row_iter().flatten().map(|x| x.to_f64()).collect();
    a.iter_mut().step_by(n + 1).for_each(|x| *x += epsilon);
    Ok(a)
}

/// `T` from `M`, by Horner's rule.
fn correction(m: &[f64], n: usize, p: f64, order: usize, par: Parallelism) -> Result<Vec<f64>, Error> {
    let mut rest: Vec<f64> = m.iter().map(|m| -m).collect();
    rest.iter_mut().step_by(n + 1).for_each(|x| *x += 1.0);
    // b_j / b_(j-1), so that T = I + r_1 E (I + r_2 E (I + ..)).
    let ratio = |j: usize| (1.0 + (j as f64 - 1.0) * p) / (j as f64 * p);
    let mut t: Vec<f64> = rest.iter().map(|x| ratio(order - 1) * x).collect();
    t.iter_mut().step_by(n + 1).for_each(|x| *x += 1.0);
    for j in (1..order - 1).rev() {
        t = times(&rest, &t, n, par)?;
        reduce::scale(&mut t, ratio(j));
        t.iter_mut().step_by(n + 1).for_each(|x| *x += 1.0);
    }
    Ok(t)
}

/// `X^p` by squarings.
pub(in crate::precondition) fn power(x: &[f64], n: usize, p: u32, par: Parallelism) -> Result<Vec<f64>, CoreError> {
    let (mut rest, mut square, mut result) = (p, x.to_vec(), None::<Vec<f64>>);
    loop {
        if rest % 2 == 1 {
            result = Some(match result {
                None => square.clone(),
                Some(result) => times(&result, &square, n, par)?,
            });
        }
        rest /= 2;
        if rest == 0 {
            return Ok(result.unwrap_or_else(|| identity(n, 1.0)));
        }
        square = times(&square, &square, n, par)?;
    }
}

fn identity(n: usize, scale: f64) -> Vec<f64> {
    let mut x = vec![0.0; n * n];
    x.iter_mut().step_by(n + 1).for_each(|x| *x = scale);
    x
}

fn times(a: &[f64], b: &[f64], n: usize, par: Parallelism) -> Result<Vec<f64>, CoreError> {
    let mut out = vec![0.0; n * n];
    let (a, b) = (MatRef::new(a, n, n)?, MatRef::new(b, n, n)?);
    matmul(MatMut::new(&mut out, n, n)?, 0.0, 1.0, a, b, par)?;
    Ok(out)
}

/// `max |M - I|`; NaN when an element is.
fn distance(m: &[f64], n: usize) -> f64 {
    let mut difference = m.to_vec();
    difference.iter_mut().step_by(n + 1).for_each(|x| *x -= 1.0);
    reduce::max_abs(&difference)
}
