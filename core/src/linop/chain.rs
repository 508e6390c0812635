use super::{Adjoint, Invertible, LinOp, apply_two, check_apply};
use crate::error::{Error, check_shape};
use crate::scalar::Real;
use crate::view::{MatMut, MatRef};

/// The product `A B`: applies `B` first, then `A`.
///
/// Transpose $B^T A^T$, inverse $B^{-1} A^{-1}$. Cost: one application of each. Scratch for `k` rows: `k` rows of
/// what lies between them and the larger of the operators' scratch.
///
/// # Errors
/// [`Error::Shape`] from [`Chain::new`] when `B`'s output is not `A`'s input.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, linop::{Chain, Dense, Diagonal, apply_alloc}};
/// let b = Dense::new(MatRef::new(&[1.0, 1.0, 0.0, 1.0], 2, 2)?);
/// let ab = Chain::new(Diagonal::new(&[2.0, 3.0]), b)?;
/// assert_eq!(apply_alloc(&ab, MatRef::from_row(&[1.0, 10.0]))?, [22.0, 30.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chain<A, B> {
    a: A,
    b: B,
}

impl<A, B> Chain<A, B> {
    /// `a b`: `b` first, then `a`.
    ///
    /// # Errors
    /// [`Error::Shape`] when `b`'s output is not `a`'s input.
    pub fn new<T: Real>(a: A, b: B) -> Result<Self, Error>
    where
        A: LinOp<T>,
        B: LinOp<T>,
    {
        check_shape("second operator's output", a.dim_in(), b.dim_out())?;
        Ok(Self { a, b })
    }
}

impl<T: Real, A: LinOp<T>, B: LinOp<T>> LinOp<T> for Chain<A, B> {
    fn dim_in(&self) -> usize {
        self.b.dim_in()
    }
    fn dim_out(&self) -> usize {
        self.a.dim_out()
    }
    fn scratch_len(&self, rows: usize) -> usize {
        let inner = self.a.scratch_len(rows).max(self.b.scratch_len(rows));
        rows.saturating_mul(self.b.dim_out()).saturating_add(inner)
    }
    fn apply(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        check_apply(self.dim_in(), self.dim_out(), &out, &x)?;
        let scratch = (scratch, self.scratch_len(x.rows()));
        apply_two(
            out,
            x,
            self.b.dim_out(),
            scratch,
            |out, x, scratch| self.b.apply(out, x, scratch),
            |out, x, scratch| self.a.apply(out, x, scratch),
        )
    }
}

impl<T: Real, A: Adjoint<T>, B: Adjoint<T>> Adjoint<T> for Chain<A, B> {
    fn transpose_scratch_len(&self, rows: usize) -> usize {
        let inner = self.a.transpose_scratch_len(rows).max(self.b.transpose_scratch_len(rows));
        rows.saturating_mul(self.a.dim_in()).saturating_add(inner)
    }
    fn apply_transpose(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        check_apply(self.dim_out(), self.dim_in(), &out, &x)?;
        let scratch = (scratch, self.transpose_scratch_len(x.rows()));
        apply_two(
            out,
            x,
            self.a.dim_in(),
            scratch,
            |out, x, scratch| self.a.apply_transpose(out, x, scratch),
            |out, x, scratch| self.b.apply_transpose(out, x, scratch),
        )
    }
}

impl<T: Real, A: Invertible<T>, B: Invertible<T>> Invertible<T> for Chain<A, B> {
    fn inverse_scratch_len(&self, rows: usize) -> usize {
        let inner = self.a.inverse_scratch_len(rows).max(self.b.inverse_scratch_len(rows));
        rows.saturating_mul(self.a.dim_in()).saturating_add(inner)
    }
    fn check_invertible(&self) -> Result<(), Error> {
        self.a.check_invertible()?;
        self.b.check_invertible()
    }
    fn apply_inverse(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        check_apply(self.dim_out(), self.dim_in(), &out, &x)?;
        self.check_invertible()?;
        let scratch = (scratch, self.inverse_scratch_len(x.rows()));
        apply_two(
            out,
            x,
            self.a.dim_in(),
            scratch,
            |out, x, scratch| self.a.apply_inverse(out, x, scratch),
            |out, x, scratch| self.b.apply_inverse(out, x, scratch),
        )
    }
}
