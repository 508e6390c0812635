use super::{Adjoint, LinOp, apply_two, check_apply};
use crate::error::{Error, check_shape};
use crate::matmul::matmul;
use crate::scalar::Real;
use crate::view::{MatMut, MatRef};

/// `U^T diag(s) V` with `r` directions as the rows of `U [r, out]` and `V [r, in]`.
///
/// $y = \sum_{j<r} s_j\, u_j \langle v_j, x \rangle$: what a few eigenpairs or singular triplets know of an operator.
///
/// Cost: `2 k r (in + out)` flops for `k` rows. Scratch: `k r` elements.
///
/// # Errors
/// [`Error::Shape`] from [`LowRank::new`] when `U`, `s` and `V` do not have the same number of directions.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, linop::{LowRank, apply_alloc}};
/// let u = MatRef::new(&[0.6, 0.8], 1, 2)?;
/// let op = LowRank::symmetric(u, &[10.0])?;
/// assert_eq!(apply_alloc(&op, u)?, [6.0, 8.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LowRank<'a, T> {
    u: MatRef<'a, T>,
    s: &'a [T],
    v: MatRef<'a, T>,
}

impl<'a, T: Real> LowRank<'a, T> {
    /// `U^T diag(s) V`.
    ///
    /// # Errors
    /// [`Error::Shape`] when `u`, `s` and `v` do not have the same number of rows.
    pub fn new(u: MatRef<'a, T>, s: &'a [T], v: MatRef<'a, T>) -> Result<Self, Error> {
        check_shape("u rows", s.len(), u.rows())?;
        check_shape("v rows", s.len(), v.rows())?;
        Ok(Self { u, s, v })
    }

    /// `U^T diag(s) U`, which is self-adjoint, and positive semidefinite when no `s` is negative; wrap it in
    /// [`AssumeSelfAdjoint`](super::AssumeSelfAdjoint) or
    /// [`AssumePositiveSemidefinite`](super::AssumePositiveSemidefinite) to say so by type.
    ///
    /// # Errors
    /// As [`LowRank::new`].
    pub fn symmetric(u: MatRef<'a, T>, s: &'a [T]) -> Result<Self, Error> {
        Self::new(u, s, u)
    }

    /// `out = (X from^T) diag(s) to`.
    fn project(
        &self,
        out: MatMut<'_, T>,
        x: MatRef<'_, T>,
        (from, to): (MatRef<'_, T>, MatRef<'_, T>),
        scratch: &mut [T],
    ) -> Result<(), Error> {
        check_apply(from.cols(), to.cols(), &out, &x)?;
        let scratch = (scratch, self.scratch_len(x.rows()));
        apply_two(
            out,
            x,
            self.s.len(),
            scratch,
            |mut coefficients, x, _| {
                matmul(coefficients.rb_mut(), T::ZERO, T::ONE, x, from.t())?;
                coefficients.for_each_row(|_, row| row.iter_mut().zip(self.s).for_each(|(c, &s)| *c *= s));
                Ok(())
            },
            |out, coefficients, _| matmul(out, T::ZERO, T::ONE, coefficients, to),
        )
    }
}

impl<T: Real> LinOp<T> for LowRank<'_, T> {
    fn dim_in(&self) -> usize {
        self.v.cols()
    }
    fn dim_out(&self) -> usize {
        self.u.cols()
    }
    fn scratch_len(&self, rows: usize) -> usize {
        rows.saturating_mul(self.s.len())
    }
    fn apply(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        self.project(out, x, (self.v, self.u), scratch)
    }
}

impl<T: Real> Adjoint<T> for LowRank<'_, T> {
    fn apply_transpose(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        self.project(out, x, (self.u, self.v), scratch)
    }
}
