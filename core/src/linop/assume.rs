use super::{Adjoint, Invertible, LinOp, PositiveSemidefinite, SelfAdjoint};
use crate::error::{Error, check_shape};
use crate::scalar::Real;
use crate::view::{MatMut, MatRef};

/// `A`, which the caller knows to be self-adjoint: a symmetric matrix, a symmetric product of a chain.
///
/// The knowledge is not tested, only that `A` is square; the transpose comes with it. When it is wrong, a solver
/// that relies on it converges to something else or not at all.
///
/// ```
/// use ascribe_core::{MatRef, SelfAdjoint, linop::{AssumeSelfAdjoint, Dense}};
/// fn solve(_: &impl SelfAdjoint<f64>) {}
/// solve(&AssumeSelfAdjoint::new(Dense::new(MatRef::new(&[2.0, 1.0, 1.0, -2.0], 2, 2)?))?);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AssumeSelfAdjoint<A> {
    op: A,
}

impl<A> AssumeSelfAdjoint<A> {
    /// `op`, with the caller's word that it is self-adjoint.
    ///
    /// # Errors
    /// [`Error::Shape`] when `op` is not square.
    pub fn new<T: Real>(op: A) -> Result<Self, Error>
    where
        A: LinOp<T>,
    {
        check_shape("operator output", op.dim_in(), op.dim_out())?;
        Ok(Self { op })
    }
}

impl<T: Real, A: LinOp<T>> LinOp<T> for AssumeSelfAdjoint<A> {
    fn dim_in(&self) -> usize {
        self.op.dim_in()
    }
    fn dim_out(&self) -> usize {
        self.op.dim_out()
    }
    fn scratch_len(&self, rows: usize) -> usize {
        self.op.scratch_len(rows)
    }
    fn apply(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        self.op.apply(out, x, scratch)
    }
}

impl<T: Real, A: LinOp<T>> SelfAdjoint<T> for AssumeSelfAdjoint<A> {}

impl<T: Real, A: LinOp<T>> Adjoint<T> for AssumeSelfAdjoint<A> {
    fn apply_transpose(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        self.op.apply(out, x, scratch)
    }
}

impl<T: Real, A: Invertible<T>> Invertible<T> for AssumeSelfAdjoint<A> {
    fn inverse_scratch_len(&self, rows: usize) -> usize {
        self.op.inverse_scratch_len(rows)
    }
    fn check_invertible(&self) -> Result<(), Error> {
        self.op.check_invertible()
    }
    fn apply_inverse(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        self.op.apply_inverse(out, x, scratch)
    }
}

/// As [`AssumeSelfAdjoint`], for an operator that the caller knows to be positive semidefinite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AssumePositiveSemidefinite<A> {
    op: AssumeSelfAdjoint<A>,
}

impl<A> AssumePositiveSemidefinite<A> {
    /// `op`, with the caller's word that it is positive semidefinite.
    ///
    /// # Errors
    /// [`Error::Shape`] when `op` is not square.
    pub fn new<T: Real>(op: A) -> Result<Self, Error>
    where
        A: LinOp<T>,
    {
        Ok(Self { op: AssumeSelfAdjoint::new(op)? })
    }
}

impl<T: Real, A: LinOp<T>> LinOp<T> for AssumePositiveSemidefinite<A> {
    fn dim_in(&self) -> usize {
        self.op.dim_in()
    }
    fn dim_out(&self) -> usize {
        self.op.dim_out()
    }
    fn scratch_len(&self, rows: usize) -> usize {
        self.op.scratch_len(rows)
    }
    fn apply(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        self.op.apply(out, x, scratch)
    }
}

impl<T: Real, A: LinOp<T>> SelfAdjoint<T> for AssumePositiveSemidefinite<A> {}
impl<T: Real, A: LinOp<T>> PositiveSemidefinite<T> for AssumePositiveSemidefinite<A> {}

impl<T: Real, A: LinOp<T>> Adjoint<T> for AssumePositiveSemidefinite<A> {
    fn apply_transpose(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        self.op.apply(out, x, scratch)
    }
}

impl<T: Real, A: Invertible<T>> Invertible<T> for AssumePositiveSemidefinite<A> {
    fn inverse_scratch_len(&self, rows: usize) -> usize {
        self.op.inverse_scratch_len(rows)
    }
    fn check_invertible(&self) -> Result<(), Error> {
        self.op.check_invertible()
    }
    fn apply_inverse(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        self.op.apply_inverse(out, x, scratch)
    }
}
