use super::{Adjoint, Diagonal, Invertible, LinOp, PositiveSemidefinite, SelfAdjoint, add_scaled, check_apply};
use crate::error::{Error, check_damping, check_shape};
use crate::scalar::Real;
use crate::view::{MatMut, MatRef};

/// `A + λI`: the damped operator that every influence solver inverts.
///
/// $y = A x + \lambda x$ for each row $x$. Positive semidefinite when `A` is; then its smallest eigenvalue is at
/// least `lambda`, which is what bounds the solvers' iteration counts. A damped [`Diagonal`] has its inverse here,
/// $x_i / (d_i + \lambda)$; other inverses are the solvers'.
///
/// Cost: one application of `A` and `2kn` flops for `k` rows. Scratch: that of `A`.
///
/// # Errors
/// [`Error::Damping`] from [`Damped::new`] when `lambda` is negative or not finite, [`Error::Shape`] when `A` is
/// not square.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, linop::{Damped, Diagonal, apply_alloc}};
/// let damped = Damped::new(Diagonal::new(&[0.0, 1.0]), 0.5)?;
/// assert_eq!(apply_alloc(&damped, MatRef::from_row(&[1.0, 1.0]))?, [0.5, 1.5]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Damped<A, T> {
    op: A,
    lambda: T,
}

impl<A: LinOp<T>, T: Real> Damped<A, T> {
    /// `op + lambda I`.
    ///
    /// # Errors
    /// [`Error::Damping`] when `lambda` is negative or not finite, [`Error::Shape`] when `op` is not square.
    pub fn new(op: A, lambda: T) -> Result<Self, Error> {
        check_damping(lambda.to_f64())?;
        check_shape("operator output", op.dim_in(), op.dim_out())?;
        Ok(Self { op, lambda })
    }

    /// The damping.
    pub fn lambda(&self) -> T {
        self.lambda
    }
}

impl<A: LinOp<T>, T: Real> LinOp<T> for Damped<A, T> {
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
        add_scaled(out, self.lambda, x);
        Ok(())
    }
}

impl<A: SelfAdjoint<T>, T: Real> SelfAdjoint<T> for Damped<A, T> {}
impl<A: PositiveSemidefinite<T>, T: Real> PositiveSemidefinite<T> for Damped<A, T> {}

impl<A: Adjoint<T>, T: Real> Adjoint<T> for Damped<A, T> {
    fn transpose_scratch_len(&self, rows: usize) -> usize {
        self.op.transpose_scratch_len(rows)
    }
    fn apply_transpose(&self, mut out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        check_apply(self.dim_out(), self.dim_in(), &out, &x)?;
        self.op.apply_transpose(out.rb_mut(), x, scratch)?;
        add_scaled(out, self.lambda, x);
        Ok(())
    }
}

impl<T: Real> Invertible<T> for Damped<Diagonal<'_, T>, T> {
    fn check_invertible(&self) -> Result<(), Error> {
        match self.op.entries().iter().position(|&d| d + self.lambda == T::ZERO) {
            Some(index) => Err(Error::Singular { what: "damped diagonal", index }),
            None => Ok(()),
        }
    }
    fn apply_inverse(&self, mut out: MatMut<'_, T>, x: MatRef<'_, T>, _: &mut [T]) -> Result<(), Error> {
        check_apply(self.dim_in(), self.dim_out(), &out, &x)?;
        self.check_invertible()?;
        out.for_each_row(|i, out| {
            for ((out, &x), &d) in out.iter_mut().zip(x.row(i)).zip(self.op.entries()) {
                *out = x / (d + self.lambda);
            }
        });
        Ok(())
    }
}
