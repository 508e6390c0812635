use super::{Adjoint, Invertible, LinOp, PositiveSemidefinite, SelfAdjoint, check_apply};
use crate::error::Error;
use crate::scalar::Real;
use crate::view::{MatMut, MatRef};

/// The identity on rows of length `dim`; its own transpose and inverse. Cost: one copy.
///
/// ```
/// use ascribe_core::{MatRef, linop::{Identity, apply_alloc}};
/// assert_eq!(apply_alloc(&Identity::new(2), MatRef::from_row(&[1.0, 2.0]))?, [1.0, 2.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    dim: usize,
}

impl Identity {
    /// The identity on rows of length `dim`.
    pub fn new(dim: usize) -> Self {
        Self { dim }
    }
}

impl<T: Real> LinOp<T> for Identity {
    fn dim_in(&self) -> usize {
        self.dim
    }
    fn dim_out(&self) -> usize {
        self.dim
    }
    fn apply(&self, mut out: MatMut<'_, T>, x: MatRef<'_, T>, _: &mut [T]) -> Result<(), Error> {
        check_apply(self.dim, self.dim, &out, &x)?;
        out.copy_from(x)
    }
}

impl<T: Real> SelfAdjoint<T> for Identity {}
impl<T: Real> PositiveSemidefinite<T> for Identity {}

impl<T: Real> Adjoint<T> for Identity {
    fn apply_transpose(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        self.apply(out, x, scratch)
    }
}

impl<T: Real> Invertible<T> for Identity {
    fn apply_inverse(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        self.apply(out, x, scratch)
    }
}
