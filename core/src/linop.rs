//! Linear operators on blocks of row vectors, and their algebra.
//!
//! One file a combinator. An operator is applied to every row of a `k x dim_in` block at once; curvature, its
//! inverses and sketches are all operators, so any of them can stand where an operator is asked for.

use crate::error::{Error, check_shape};
use crate::scalar::Real;
use crate::view::{MatMut, MatRef};

/// A linear map from rows of length `dim_in` to rows of length `dim_out`.
///
/// # Laws
/// `apply` is linear in `x`, treats each row by itself, overwrites `out` whatever it held, and reads nothing
/// from `scratch`. A row's result does not depend on the rows beside it beyond rounding.
pub trait LinOp<T: Real> {
    /// The length of an input row.
    fn dim_in(&self) -> usize;
    /// The length of an output row.
    fn dim_out(&self) -> usize;
    /// The number of elements of scratch that [`LinOp::apply`] needs for `rows` rows.
    fn scratch_len(&self, rows: usize) -> usize {
        let _ = rows;
        0
    }
    /// Sets each row of `out` to the operator applied to that row of `x`.
    ///
    /// # Errors
    /// [`Error::Shape`] when a dimension does not fit, [`Error::Length`] when `scratch` is too short.
    fn apply(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error>;
}

/// A promise, tested as a law: `<u, A v> = <A u, v>`.
pub trait SelfAdjoint<T: Real>: LinOp<T> {}

/// A promise, tested as a law: `<v, A v> >= 0`.
pub trait PositiveSemidefinite<T: Real>: SelfAdjoint<T> {}

/// An operator with its transpose: `<u, A v> = <A^T u, v>`.
pub trait Adjoint<T: Real>: LinOp<T> {
    /// The scratch that [`Adjoint::apply_transpose`] needs for `rows` rows.
    fn transpose_scratch_len(&self, rows: usize) -> usize {
        self.scratch_len(rows)
    }
    /// Sets each row of `out` (length `dim_in`) to the transpose applied to that row of `x` (length `dim_out`).
    ///
    /// # Errors
    /// As [`LinOp::apply`].
    fn apply_transpose(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error>;
}

/// An operator with its inverse: `A^-1 A v = v`.
pub trait Invertible<T: Real>: LinOp<T> {
    /// The scratch that [`Invertible::apply_inverse`] needs for `rows` rows.
    fn inverse_scratch_len(&self, rows: usize) -> usize {
        self.scratch_len(rows)
    }
    /// Sets each row of `out` to the inverse applied to that row of `x`.
    ///
    /// # Errors
    /// As [`LinOp::apply`]; [`Error::Singular`] when there is no inverse.
    fn apply_inverse(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error>;
}

/// An operator that is a mean over examples, and can be estimated from some of them.
///
/// # Laws
/// [`ExampleLinOp::apply_examples`] with every index once equals [`LinOp::apply`]; its mean over batches drawn
/// uniformly with replacement is the full operator. An index that occurs twice counts twice.
pub trait ExampleLinOp<T: Real>: LinOp<T> {
    /// The number of examples `N`.
    fn examples(&self) -> usize;
    /// The scratch that [`ExampleLinOp::apply_examples`] needs for `rows` rows and `batch` indices.
    fn examples_scratch_len(&self, rows: usize, batch: usize) -> usize;
    /// The estimate of the operator from the examples `indices`: the mean over them, on the scale of the full
    /// operator.
    ///
    /// # Errors
    /// As [`LinOp::apply`]; [`Error::Index`] for an index `>= N`, [`Error::Empty`] for no index at all.
    fn apply_examples(
        &self,
        out: MatMut<'_, T>,
        x: MatRef<'_, T>,
        indices: &[usize],
        scratch: &mut [T],
    ) -> Result<(), Error>;
}

impl<T: Real, A: LinOp<T> + ?Sized> LinOp<T> for &A {
    fn dim_in(&self) -> usize {
        (**self).dim_in()
    }
    fn dim_out(&self) -> usize {
        (**self).dim_out()
    }
    fn scratch_len(&self, rows: usize) -> usize {
        (**self).scratch_len(rows)
    }
    fn apply(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        (**self).apply(out, x, scratch)
    }
}
impl<T: Real, A: SelfAdjoint<T> + ?Sized> SelfAdjoint<T> for &A {}
impl<T: Real, A: PositiveSemidefinite<T> + ?Sized> PositiveSemidefinite<T> for &A {}

/// Checks the shapes that every `apply` checks: `x` is `k x dim_in` and `out` is `k x dim_out`.
///
/// # Errors
/// [`Error::Shape`] with the dimension that differs.
pub fn check_apply<T>(dim_in: usize, dim_out: usize, out: &MatMut<'_, T>, x: &MatRef<'_, T>) -> Result<(), Error> {
    check_shape("x columns", dim_in, x.cols())?;
    check_shape("out columns", dim_out, out.cols())?;
    check_shape("out rows", x.rows(), out.rows())
}
