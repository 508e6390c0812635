use super::{Adjoint, LinOp, check_apply};
#[cfg(feature = "alloc")]
use super::{apply_alloc, zeros};
use crate::error::Error;
use crate::matmul::matmul;
use crate::scalar::Real;
use crate::view::{MatMut, MatRef};
#[cfg(feature = "alloc")]
use alloc::vec::Vec;

/// A matrix `M [out, in]` as an operator, $y = M x$ for each row: `Y = X M^T`.
///
/// Cost: `2 k in out` flops for `k` rows, no scratch. Error: that of [`matmul`].
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, linop::{Dense, apply_alloc}};
/// let m = Dense::new(MatRef::new(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3, 2)?);
/// assert_eq!(apply_alloc(&m, MatRef::from_row(&[1.0, 10.0]))?, [21.0, 43.0, 65.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dense<'a, T> {
    matrix: MatRef<'a, T>,
}

impl<'a, T: Real> Dense<'a, T> {
    /// The operator with this matrix, `[out, in]`.
    pub fn new(matrix: MatRef<'a, T>) -> Self {
        Self { matrix }
    }

    /// The matrix, `[out, in]`.
    pub fn matrix(&self) -> MatRef<'a, T> {
        self.matrix
    }
}

impl<T: Real> LinOp<T> for Dense<'_, T> {
    fn dim_in(&self) -> usize {
        self.matrix.cols()
    }
    fn dim_out(&self) -> usize {
        self.matrix.rows()
    }
    fn apply(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, _: &mut [T]) -> Result<(), Error> {
        check_apply(self.dim_in(), self.dim_out(), &out, &x)?;
        matmul(out, T::ZERO, T::ONE, x, self.matrix.t())
    }
}

impl<T: Real> Adjoint<T> for Dense<'_, T> {
    fn apply_transpose(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, _: &mut [T]) -> Result<(), Error> {
        check_apply(self.dim_out(), self.dim_in(), &out, &x)?;
        matmul(out, T::ZERO, T::ONE, x, self.matrix)
    }
}

/// The matrix of an operator, row-major `[dim_out, dim_in]`: column `j` is the operator applied to unit vector `j`.
///
/// Cost: one application to `dim_in` rows, and memory for two more matrices.
///
/// # Errors
/// As [`apply_alloc`].
///
/// ```
/// use ascribe_core::linop::{Diagonal, to_dense};
/// assert_eq!(to_dense(&Diagonal::new(&[2.0, 3.0]))?, [2.0, 0.0, 0.0, 3.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
#[cfg(feature = "alloc")]
pub fn to_dense<T: Real>(op: &(impl LinOp<T> + ?Sized)) -> Result<Vec<T>, Error> {
    let (rows, cols) = (op.dim_out(), op.dim_in());
    let what = "dense operator";
    let overflow = Error::Overflow { what };
    let mut units = zeros(what, cols.checked_mul(cols).ok_or(overflow)?)?;
    units.iter_mut().step_by(cols.saturating_add(1)).for_each(|x| *x = T::ONE);
    let columns = apply_alloc(op, MatRef::new(&units, cols, cols)?)?;
    let mut matrix = zeros(what, columns.len())?;
    for (i, x) in matrix.iter_mut().enumerate() {
        *x = columns[i % cols * rows + i / cols];
    }
    Ok(matrix)
}
