//! Linear operators on blocks of row vectors, and their algebra.
//!
//! One file a combinator. An operator is applied to every row of a `k x dim_in` block at once; curvature, its
//! inverses and sketches are all operators, so any of them can stand where an operator is asked for.
//! A combinator holds operators by value or by reference, `&dyn LinOp<T>` included.

mod assume;
mod block_diagonal;
mod chain;
mod damped;
mod dense;
mod diagonal;
mod identity;
mod inverse;
mod kronecker;
mod low_rank;
mod scaled;
mod sum;
mod transposed;

pub use assume::{AssumePositiveSemidefinite, AssumeSelfAdjoint};
pub use block_diagonal::BlockDiagonal;
pub use chain::Chain;
pub use damped::Damped;
pub use dense::Dense;
#[cfg(feature = "alloc")]
pub use dense::to_dense;
pub use diagonal::Diagonal;
pub use identity::Identity;
pub use inverse::Inverse;
pub use kronecker::Kronecker;
pub use low_rank::LowRank;
pub use scaled::Scaled;
pub use sum::Sum;
pub use transposed::Transposed;

use crate::error::{Error, check_shape, take_scratch};
use crate::scalar::Real;
use crate::view::{MatMut, MatRef};
#[cfg(feature = "alloc")]
use alloc::vec::Vec;

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
    /// [`Error::Shape`] when a dimension does not fit, [`Error::Length`] when `scratch` is too short; `out` is then
    /// untouched. Only an operator that runs a caller's code may have written to `out` when that code fails.
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
    /// Whether there is an inverse, as far as a look at the entries tells. Always `Ok` unless implemented.
    ///
    /// # Errors
    /// [`Error::Singular`] with the entry that has no inverse.
    fn check_invertible(&self) -> Result<(), Error> {
        Ok(())
    }
    /// Sets each row of `out` to the inverse applied to that row of `x`.
    ///
    /// # Errors
    /// As [`LinOp::apply`]; [`Error::Singular`] when [`Invertible::check_invertible`] says so, with `out` untouched.
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

impl<T: Real, A: Adjoint<T> + ?Sized> Adjoint<T> for &A {
    fn transpose_scratch_len(&self, rows: usize) -> usize {
        (**self).transpose_scratch_len(rows)
    }
    fn apply_transpose(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        (**self).apply_transpose(out, x, scratch)
    }
}

impl<T: Real, A: Invertible<T> + ?Sized> Invertible<T> for &A {
    fn inverse_scratch_len(&self, rows: usize) -> usize {
        (**self).inverse_scratch_len(rows)
    }
    fn check_invertible(&self) -> Result<(), Error> {
        (**self).check_invertible()
    }
    fn apply_inverse(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        (**self).apply_inverse(out, x, scratch)
    }
}

impl<T: Real, A: ExampleLinOp<T> + ?Sized> ExampleLinOp<T> for &A {
    fn examples(&self) -> usize {
        (**self).examples()
    }
    fn examples_scratch_len(&self, rows: usize, batch: usize) -> usize {
        (**self).examples_scratch_len(rows, batch)
    }
    fn apply_examples(
        &self,
        out: MatMut<'_, T>,
        x: MatRef<'_, T>,
        indices: &[usize],
        scratch: &mut [T],
    ) -> Result<(), Error> {
        (**self).apply_examples(out, x, indices, scratch)
    }
}

/// Checks the shapes that every `apply` checks: `x` is `k x dim_in` and `out` is `k x dim_out`.
///
/// # Errors
/// [`Error::Shape`] with the dimension that differs.
pub fn check_apply<T>(dim_in: usize, dim_out: usize, out: &MatMut<'_, T>, x: &MatRef<'_, T>) -> Result<(), Error> {
    check_shape("x columns", dim_in, x.cols())?;
    check_shape("out columns", dim_out, out.cols())?;
    check_shape("out rows", x.rows(), out.rows())
}

/// `second(first(x))` through a `rows x cols` block at the start of `scratch`, of which `needed` elements are used.
/// `needed` counts that block with saturating arithmetic, so a size that overflows is a missing length here.
pub(crate) fn apply_two<T: Real>(
    out: MatMut<'_, T>,
    x: MatRef<'_, T>,
    cols: usize,
    (scratch, needed): (&mut [T], usize),
    first: impl FnOnce(MatMut<'_, T>, MatRef<'_, T>, &mut [T]) -> Result<(), Error>,
    second: impl FnOnce(MatMut<'_, T>, MatRef<'_, T>, &mut [T]) -> Result<(), Error>,
) -> Result<(), Error> {
    let rows = x.rows();
    let (scratch, _) = take_scratch(scratch, needed)?;
    let (middle, rest) = take_scratch(scratch, rows.saturating_mul(cols))?;
    first(MatMut::new(middle, rows, cols)?, x, rest)?;
    second(out, MatRef::new(middle, rows, cols)?, rest)
}

/// `out += alpha x`, two roundings an element. The shapes have been checked.
pub(crate) fn add_scaled<T: Real>(mut out: MatMut<'_, T>, alpha: T, x: MatRef<'_, T>) {
    out.for_each_row(|i, row| row.iter_mut().zip(x.row(i)).for_each(|(y, &x)| *y += alpha * x));
}

/// `op` applied to each row of `x`, in a new vector of `x.rows() * op.dim_out()` elements; allocates the scratch.
///
/// # Errors
/// As [`LinOp::apply`]; [`Error::Overflow`] when the output or the scratch cannot be allocated.
///
/// ```
/// use ascribe_core::{MatRef, linop::{Diagonal, apply_alloc}};
/// let y = apply_alloc(&Diagonal::new(&[2.0, 3.0]), MatRef::from_row(&[1.0, 10.0]))?;
/// assert_eq!(y, [2.0, 30.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
#[cfg(feature = "alloc")]
pub fn apply_alloc<T: Real>(op: &(impl LinOp<T> + ?Sized), x: MatRef<'_, T>) -> Result<Vec<T>, Error> {
    let (rows, cols) = (x.rows(), op.dim_out());
    let len = rows.checked_mul(cols).ok_or(Error::Overflow { what: "operator output" })?;
    let mut out = zeros("operator output", len)?;
    let mut scratch = zeros("operator scratch", op.scratch_len(rows))?;
    op.apply(MatMut::new(&mut out, rows, cols)?, x, &mut scratch)?;
    Ok(out)
}

/// A vector of zeros, or an error where `vec!` would panic or abort.
#[cfg(feature = "alloc")]
pub(crate) fn zeros<S: crate::Scalar>(what: &'static str, len: usize) -> Result<Vec<S>, Error> {
    let mut zeros = Vec::new();
    zeros.try_reserve_exact(len).map_err(|_| Error::Overflow { what })?;
    zeros.resize(len, S::ZERO);
    Ok(zeros)
}
