use super::{Adjoint, LinOp, PositiveSemidefinite, SelfAdjoint};
use crate::error::Error;
use crate::scalar::Real;
use crate::view::{MatMut, MatRef};

/// `A^T` as an operator. Cost and scratch: those of [`Adjoint::apply_transpose`].
///
/// ```
/// use ascribe_core::{MatRef, linop::{Dense, Transposed, apply_alloc}};
/// let column = Transposed::new(Dense::new(MatRef::from_row(&[2.0, 3.0])));
/// assert_eq!(apply_alloc(&column, MatRef::from_row(&[10.0]))?, [20.0, 30.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transposed<A> {
    op: A,
}

impl<A> Transposed<A> {
    /// The transpose of `op`.
    pub fn new(op: A) -> Self {
        Self { op }
    }
}

impl<T: Real, A: Adjoint<T>> LinOp<T> for Transposed<A> {
    fn dim_in(&self) -> usize {
        self.op.dim_out()
    }
    fn dim_out(&self) -> usize {
        self.op.dim_in()
    }
    fn scratch_len(&self, rows: usize) -> usize {
        self.op.transpose_scratch_len(rows)
    }
    fn apply(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        self.op.apply_transpose(out, x, scratch)
    }
}

impl<T: Real, A: Adjoint<T> + SelfAdjoint<T>> SelfAdjoint<T> for Transposed<A> {}
impl<T: Real, A: Adjoint<T> + PositiveSemidefinite<T>> PositiveSemidefinite<T> for Transposed<A> {}

impl<T: Real, A: Adjoint<T>> Adjoint<T> for Transposed<A> {
    fn transpose_scratch_len(&self, rows: usize) -> usize {
        self.op.scratch_len(rows)
    }
    fn apply_transpose(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        self.op.apply(out, x, scratch)
    }
}
