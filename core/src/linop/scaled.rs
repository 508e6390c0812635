use super::{Adjoint, Invertible, LinOp, SelfAdjoint, check_apply};
use crate::error::Error;
use crate::reduce;
use crate::scalar::Real;
use crate::view::{MatMut, MatRef};

/// `alpha A`, for any `alpha`. Not positive semidefinite by type, since `alpha` may be negative.
///
/// Cost: one application of `A` and `k dim_out` flops for `k` rows. Scratch: that of `A`.
/// Its inverse is $A^{-1} / \alpha$, with [`Error::Singular`] when `alpha` is zero.
///
/// ```
/// use ascribe_core::{MatRef, linop::{Identity, Scaled, apply_alloc}};
/// let minus = Scaled::new(-1.0, Identity::new(2));
/// assert_eq!(apply_alloc(&minus, MatRef::from_row(&[1.0, 2.0]))?, [-1.0, -2.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scaled<A, T> {
    op: A,
    alpha: T,
}

impl<A: LinOp<T>, T: Real> Scaled<A, T> {
    /// `alpha` times `op`.
    pub fn new(alpha: T, op: A) -> Self {
        Self { op, alpha }
    }
}

impl<A: LinOp<T>, T: Real> LinOp<T> for Scaled<A, T> {
    fn dim_in(&self) -> usize {
        self.op.dim_in()
    }
    fn dim_out(&self) -> usize {
        self.op.dim_out()
    }
    fn scratch_len(&self, rows: usize) -> usize {
        self.op.scratch_len(rows)
    }
    fn apply(&self, mut out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        check_apply(self.dim_in(), self.dim_out(), &out, &x)?;
        self.op.apply(out.rb_mut(), x, scratch)?;
        out.for_each_row(|_, row| reduce::scale(row, self.alpha));
        Ok(())
    }
}

impl<A: SelfAdjoint<T>, T: Real> SelfAdjoint<T> for Scaled<A, T> {}

impl<A: Adjoint<T>, T: Real> Adjoint<T> for Scaled<A, T> {
    fn transpose_scratch_len(&self, rows: usize) -> usize {
        self.op.transpose_scratch_len(rows)
    }
    fn apply_transpose(&self, mut out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        check_apply(self.dim_out(), self.dim_in(), &out, &x)?;
        self.op.apply_transpose(out.rb_mut(), x, scratch)?;
        out.for_each_row(|_, row| reduce::scale(row, self.alpha));
        Ok(())
    }
}

impl<A: Invertible<T>, T: Real> Invertible<T> for Scaled<A, T> {
    fn inverse_scratch_len(&self, rows: usize) -> usize {
        self.op.inverse_scratch_len(rows)
    }
    fn check_invertible(&self) -> Result<(), Error> {
        if self.alpha == T::ZERO {
            return Err(Error::Singular { what: "scaled operator", index: 0 });
        }
        self.op.check_invertible()
    }
    fn apply_inverse(&self, mut out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        check_apply(self.dim_out(), self.dim_in(), &out, &x)?;
        self.check_invertible()?;
        self.op.apply_inverse(out.rb_mut(), x, scratch)?;
        // Divided, not multiplied by 1/alpha: one rounding less, and no overflow of 1/alpha.
        out.for_each_row(|_, row| row.iter_mut().for_each(|y| *y /= self.alpha));
        Ok(())
    }
}
