//! Eigendecomposition of a symmetric matrix.

use ascribe_core::{MatRef, Real};
use faer::Side;

use crate::Error;
use crate::error::{check_finite, check_shape};

/// `A = Q diag(values) Q^T`, in double precision whatever the matrix came in.
#[derive(Debug, Clone)]
pub struct Eigen {
    /// The eigenvalues, ascending; length `n`.
    pub values: Vec<f64>,
    /// The eigenvectors as **columns** of a row-major `n x n` matrix: column `j` belongs to `values[j]`.
    pub vectors: Vec<f64>,
}

/// Eigendecomposition of a symmetric matrix, in f64.
///
/// The matrix is symmetrised first, `(A + A^T)/2`. Single-precision input is converted: eigenvectors of f32
/// routines lose orthogonality where eigenvalues cluster. Cost: about `9 n^3` flops, `3 n^2` doubles.
/// Backward stable: the result is exact for a matrix within a modest multiple of `n eps |A|` of the input.
///
/// # Errors
/// A shape error when `a` is not square, [`ascribe_core::Error::NonFinite`] when an element is NaN or infinite,
/// [`Error::NoConvergence`] when the iteration fails, or overflows because the elements are close to the largest number.
///
/// # Examples
/// ```
/// use ascribe_core::MatRef;
/// use ascribe_solvers::linalg::symmetric_eigen;
/// let eigen = symmetric_eigen(MatRef::new(&[2.0_f32, 1.0, 1.0, 2.0], 2, 2)?)?;
/// assert!((eigen.values[0] - 1.0).abs() < 1e-14 && (eigen.values[1] - 3.0).abs() < 1e-14);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
pub fn symmetric_eigen<T: Real>(a: MatRef<'_, T>) -> Result<Eigen, Error> {
    let n = a.rows();
    check_shape("columns of a symmetric matrix", n, a.cols())?;
    for row in a.row_iter() {
        check_finite("symmetric matrix", row)?;
    }
    if n == 0 {
        return Ok(Eigen { values: Vec::new(), vectors: Vec::new() });
    }
    // Halved before they are added: the sum of two finite numbers may overflow.
    let half = |i: usize, j: usize| 0.5 * a.row(i)[j].to_f64() + 0.5 * a.row(j)[i].to_f64();
    let symmetric = faer::Mat::from_fn(n, n, half);
    let failed = Error::NoConvergence { what: "eigendecomposition" };
    let Ok(evd) = symmetric.self_adjoint_eigen(Side::Lower) else { return Err(failed) };
    let values: Vec<f64> = evd.S().column_vector().iter().copied().collect();
    if values.iter().any(|value| !value.is_finite()) {
        return Err(failed);
    }
    let q = evd.U();
    let vectors = (0..n).flat_map(|i| (0..n).map(move |j| q[(i, j)])).collect();
    Ok(Eigen { values, vectors })
}
