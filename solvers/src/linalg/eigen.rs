//! Eigendecomposition of a symmetric matrix.

use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};

use super::divide_and_conquer::tridiagonal_eigen;
use super::matmul;
use super::tridiagonal::Tridiagonal;
use crate::Error;
use crate::error::check_shape;
use crate::parallel::{Parallelism, inside};

/// Columns of `Q^T Q` that [`Eigen::orthogonality`] holds at a time.
const CHECKED: usize = 256;
/// Rows and columns of the matrix that are symmetrised at a time, so that both its halves stay in the cache.
const TILE: usize = 32;

/// `A = Q diag(values) Q^T`, in double precision whatever the matrix came in.
#[derive(Debug, Clone)]
pub struct Eigen {
    /// The eigenvalues, ascending; length `n`.
    pub values: Vec<f64>,
    /// The eigenvectors as **columns** of a row-major `n x n` matrix: column `j` belongs to `values[j]`.
    pub vectors: Vec<f64>,
}

/// What [`Eigen::clamp_negative`] has changed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clamped {
    /// How many eigenvalues were negative.
    pub count: usize,
    /// The most negative of them; 0 when there was none.
    pub most_negative: f64,
}

impl Eigen {
    /// `max |Q^T Q - I|`, element by element: how far the eigenvectors are from orthonormal.
    ///
    /// At most about `n eps` after [`symmetric_eigen`]. Cost: `2 n^3` flops, `256 n` doubles.
    ///
    /// # Errors
    /// A shape error when `vectors` does not have `n^2` elements.
    pub fn orthogonality(&self, par: Parallelism) -> Result<f64, Error> {
        let n = self.values.len();
        let q = MatRef::new(&self.vectors, n, n)?;
        let mut product = vec![0.0; CHECKED.min(n) * n];
        let mut largest = 0.0_f64;
        for start in (0..n).step_by(CHECKED) {
            let rows = CHECKED.min(n - start);
            let product = &mut product[..rows * n];
            matmul(MatMut::new(product, rows, n)?, 0.0, 1.0, q.block(0, n, start, rows)?.t(), q, par)?;
            for (i, row) in product.chunks_exact_mut(n).enumerate() {
                row[start + i] -= 1.0;
                for x in row {
                    // Not `f64::max`: it would pass over a NaN.
                    if x.abs() > largest || x.is_nan() {
                        largest = x.abs();
                    }
                }
            }
        }
        Ok(largest)
    }

    /// Sets negative eigenvalues to 0, for a matrix that should be positive semidefinite, and says what they were.
    ///
    /// Negative eigenvalues up to about `n eps` times the largest are rounding, as a matrix without full rank has
    /// them. Larger ones say that the matrix was not positive semidefinite; the caller decides what that means.
    ///
    /// ```
    /// use ascribe_core::MatRef;
    /// use ascribe_solvers::{linalg::symmetric_eigen, parallel::Parallelism};
    /// let indefinite = [0.0, 1.0, 1.0, 0.0];
    /// let mut eigen = symmetric_eigen(MatRef::new(&indefinite, 2, 2)?, Parallelism::Serial)?;
    /// let clamped = eigen.clamp_negative();
    /// assert!(clamped.count == 1 && (clamped.most_negative + 1.0).abs() < 1e-14);
    /// assert_eq!(eigen.values[0], 0.0);
    /// # Ok::<(), ascribe_solvers::Error>(())
    /// ```
    pub fn clamp_negative(&mut self) -> Clamped {
        let mut clamped = Clamped { count: 0, most_negative: 0.0 };
        for value in self.values.iter_mut().filter(|value| **value < 0.0) {
            clamped.count += 1;
            clamped.most_negative = clamped.most_negative.min(*value);
            *value = 0.0;
        }
        clamped
    }
}

/// Eigendecomposition of a symmetric matrix, in f64.
///
/// The matrix is symmetrised first, `(A + A^T)/2`. Single-precision input is converted: eigenvectors of f32
/// routines lose orthogonality where eigenvalues cluster. Householder reflections make it tridiagonal, divide and
/// conquer decomposes that, and the reflections are applied to its eigenvectors.
///
/// Cost: at most about `14/3 n^3` flops, a third of them bound by memory, and `4 n^2` doubles. Backward stable: the
/// result is exact for a matrix within a modest multiple of `n eps |A|` of the input, and the eigenvectors are
/// orthonormal to as much, however small, large or clustered the eigenvalues.
///
/// # Errors
/// A shape error when `a` is not square; [`CoreError::NonFinite`] with the row-major index of an element that is NaN
/// or infinite; [`Error::NoConvergence`] when the iteration fails, or an eigenvalue overflows because the elements
/// are close to the largest number.
///
/// # Examples
/// ```
/// use ascribe_core::MatRef;
/// use ascribe_solvers::{linalg::symmetric_eigen, parallel::Parallelism};
/// let eigen = symmetric_eigen(MatRef::new(&[2.0_f32, 1.0, 1.0, 2.0], 2, 2)?, Parallelism::Serial)?;
/// assert!((eigen.values[0] - 1.0).abs() < 1e-14 && (eigen.values[1] - 3.0).abs() < 1e-14);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Golub and Van Loan, *Matrix Computations*, section 8.3.1 (reflections); Gu and Eisenstat, SIAM J. Matrix Anal.
/// Appl. 16 (1995), 172-191 (divide and conquer that keeps eigenvectors orthogonal).
pub fn symmetric_eigen<T: Real>(a: MatRef<'_, T>, par: Parallelism) -> Result<Eigen, Error> {
    let n = a.rows();
    check_shape("columns of a symmetric matrix", n, a.cols())?;
    if let Some(index) = a.row_iter().flatten().position(|x| !x.is_finite()) {
        return Err(CoreError::NonFinite { what: "symmetric matrix", index }.into());
    }
    if n == 0 {
        return Ok(Eigen { values: Vec::new(), vectors: Vec::new() });
    }
    // A power of two, so that nothing is rounded: squares of elements must not leave the range of f64.
    let largest = a.row_iter().flatten().fold(0.0, |largest: f64, x| largest.max(x.to_f64().abs()));
    let scale = inverse_power_of_two(largest);
    let (mut values, vectors) = inside(par, || {
        let tridiagonal = Tridiagonal::reduce(symmetrised(a, scale), n, par);
        let mut vectors = vec![0.0; n * n];
        let values = tridiagonal_eigen(&tridiagonal.diagonal, &tridiagonal.off_diagonal, &mut vectors, par)?;
        tridiagonal.rotate(&mut vectors, par)?;
        Ok::<_, Error>((values, vectors))
    })?;
    for value in &mut values {
        *value /= scale;
    }
    if values.iter().any(|value| !value.is_finite()) {
        return Err(Error::NoConvergence { what: "eigendecomposition (an eigenvalue overflows)" });
    }
    Ok(Eigen { values, vectors })
}

/// The upper triangle of `scale (A + A^T)/2`; what is below the diagonal is of no meaning.
fn symmetrised<T: Real>(a: MatRef<'_, T>, scale: f64) -> Vec<f64> {
    let n = a.rows();
    let mut out = vec![0.0; n * n];
    for top in (0..n).step_by(TILE) {
        for left in (top..n).step_by(TILE) {
            for i in top..n.min(top + TILE) {
                let (row, out) = (a.row(i), &mut out[i * n..(i + 1) * n]);
                for j in left..n.min(left + TILE) {
                    out[j] = 0.5 * (scale * row[j].to_f64() + scale * a.row(j)[i].to_f64());
                }
            }
        }
    }
    out
}

/// About `1 / x`, within the powers of two whose inverse is a normal number too.
fn inverse_power_of_two(x: f64) -> f64 {
    let exponent = ((x.to_bits() >> 52) & 0x7ff).clamp(23, 2023);
    f64::from_bits((2046 - exponent) << 52)
}
