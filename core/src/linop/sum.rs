use super::{Adjoint, LinOp, PositiveSemidefinite, SelfAdjoint, add_scaled, apply_two, check_apply};
use crate::error::{Error, check_shape};
use crate::scalar::Real;
use crate::view::{MatMut, MatRef};

/// `A + B`.
///
/// Cost: one application of each and `k dim_out` flops for `k` rows. Scratch: `k dim_out` elements and the larger
/// of the operators' scratch.
///
/// # Errors
/// [`Error::Shape`] from [`Sum::new`] when the dimensions differ.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, linop::{Diagonal, Identity, Sum, apply_alloc}};
/// let sum = Sum::new(Identity::new(2), Diagonal::new(&[1.0, 2.0]))?;
/// assert_eq!(apply_alloc(&sum, MatRef::from_row(&[1.0, 1.0]))?, [2.0, 3.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sum<A, B> {
    a: A,
    b: B,
}

impl<A, B> Sum<A, B> {
    /// `a + b`.
    ///
    /// # Errors
    /// [`Error::Shape`] when the dimensions differ.
    pub fn new<T: Real>(a: A, b: B) -> Result<Self, Error>
    where
        A: LinOp<T>,
        B: LinOp<T>,
    {
        check_shape("second operator's input", a.dim_in(), b.dim_in())?;
        check_shape("second operator's output", a.dim_out(), b.dim_out())?;
        Ok(Self { a, b })
    }
}

impl<T: Real, A: LinOp<T>, B: LinOp<T>> LinOp<T> for Sum<A, B> {
    fn dim_in(&self) -> usize {
        self.a.dim_in()
    }
    fn dim_out(&self) -> usize {
        self.a.dim_out()
    }
    fn scratch_len(&self, rows: usize) -> usize {
        let inner = self.a.scratch_len(rows).max(self.b.scratch_len(rows));
        rows.saturating_mul(self.dim_out()).saturating_add(inner)
    }
    fn apply(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        check_apply(self.dim_in(), self.dim_out(), &out, &x)?;
        let scratch = (scratch, self.scratch_len(x.rows()));
        apply_two(
            out,
            x,
            self.dim_out(),
            scratch,
            |b_x, x, scratch| self.b.apply(b_x, x, scratch),
            |mut out, b_x, scratch| {
                self.a.apply(out.rb_mut(), x, scratch)?;
                add_scaled(out, T::ONE, b_x);
                Ok(())
            },
        )
    }
}

impl<T: Real, A: SelfAdjoint<T>, B: SelfAdjoint<T>> SelfAdjoint<T> for Sum<A, B> {}
impl<T: Real, A: PositiveSemidefinite<T>, B: PositiveSemidefinite<T>> PositiveSemidefinite<T> for Sum<A, B> {}

impl<T: Real, A: Adjoint<T>, B: Adjoint<T>> Adjoint<T> for Sum<A, B> {
    fn transpose_scratch_len(&self, rows: usize) -> usize {
        let inner = self.a.transpose_scratch_len(rows).max(self.b.transpose_scratch_len(rows));
        rows.saturating_mul(self.dim_in()).saturating_add(inner)
    }
    fn apply_transpose(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        check_apply(self.dim_out(), self.dim_in(), &out, &x)?;
        let scratch = (scratch, self.transpose_scratch_len(x.rows()));
        apply_two(
            out,
            x,
            self.dim_in(),
            scratch,
            |b_x, x, scratch| self.b.apply_transpose(b_x, x, scratch),
            |mut out, b_x, scratch| {
                self.a.apply_transpose(out.rb_mut(), x, scratch)?;
                add_scaled(out, T::ONE, b_x);
                Ok(())
            },
        )
    }
}
