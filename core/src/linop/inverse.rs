use super::{Invertible, LinOp, PositiveSemidefinite, SelfAdjoint};
use crate::error::Error;
use crate::scalar::Real;
use crate::view::{MatMut, MatRef};

/// `A^-1` as an operator: a preconditioner, or a block of one. Cost and scratch: those of
/// [`Invertible::apply_inverse`]. Self-adjoint (positive semidefinite) when `A` is.
///
/// # Errors
/// [`Error::Singular`] from [`Inverse::new`] when [`Invertible::check_invertible`] finds no inverse.
///
/// ```
/// use ascribe_core::{MatRef, linop::{Damped, Diagonal, Inverse, apply_alloc}};
/// let inverse = Inverse::new(Damped::new(Diagonal::new(&[0.0, 1.0]), 1.0)?)?;
/// assert_eq!(apply_alloc(&inverse, MatRef::from_row(&[3.0, 3.0]))?, [3.0, 1.5]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Inverse<A> {
    op: A,
}

impl<A> Inverse<A> {
    /// The inverse of `op`.
    ///
    /// # Errors
    /// [`Error::Singular`] when [`Invertible::check_invertible`] finds no inverse.
    pub fn new<T: Real>(op: A) -> Result<Self, Error>
    where
        A: Invertible<T>,
    {
        op.check_invertible()?;
        Ok(Self { op })
    }
}

impl<T: Real, A: Invertible<T>> LinOp<T> for Inverse<A> {
    fn dim_in(&self) -> usize {
        self.op.dim_out()
    }
    fn dim_out(&self) -> usize {
        self.op.dim_in()
    }
    fn scratch_len(&self, rows: usize) -> usize {
        self.op.inverse_scratch_len(rows)
    }
    fn apply(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        self.op.apply_inverse(out, x, scratch)
    }
}

impl<T: Real, A: Invertible<T> + SelfAdjoint<T>> SelfAdjoint<T> for Inverse<A> {}
impl<T: Real, A: Invertible<T> + PositiveSemidefinite<T>> PositiveSemidefinite<T> for Inverse<A> {}

impl<T: Real, A: Invertible<T>> Invertible<T> for Inverse<A> {
    fn inverse_scratch_len(&self, rows: usize) -> usize {
        self.op.scratch_len(rows)
    }
    fn apply_inverse(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        self.op.apply(out, x, scratch)
    }
}
