use super::{Adjoint, Invertible, LinOp, SelfAdjoint, check_apply};
use crate::error::Error;
use crate::scalar::Real;
use crate::view::{MatMut, MatRef};

/// `diag(d)`: multiplies each column by its entry, $y_i = d_i x_i$.
///
/// Cost: `kn` flops for `k` rows of length `n`; one rounding an element, for the inverse as well.
/// A diagonal that is known to have no negative entry is positive semidefinite by
/// [`AssumePositiveSemidefinite`](super::AssumePositiveSemidefinite).
///
/// # Errors
/// [`Error::Singular`] from [`Invertible::apply_inverse`] with the index of the first zero.
///
/// # Examples
/// ```
/// use ascribe_core::{Error, MatMut, MatRef, linop::{Diagonal, Invertible}};
/// let x = MatRef::from_row(&[1.0, 9.0]);
/// let mut y = [0.0; 2];
/// Diagonal::new(&[4.0, 3.0]).apply_inverse(MatMut::from_row(&mut y), x, &mut [])?;
/// assert_eq!(y, [0.25, 3.0]);
/// let refused = Diagonal::new(&[4.0, 0.0]).apply_inverse(MatMut::from_row(&mut y), x, &mut []);
/// assert_eq!(refused, Err(Error::Singular { what: "diagonal", index: 1 }));
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Diagonal<'a, T> {
    entries: &'a [T],
}

impl<'a, T: Real> Diagonal<'a, T> {
    /// The square operator with these entries.
    pub fn new(entries: &'a [T]) -> Self {
        Self { entries }
    }

    /// The entries.
    pub fn entries(&self) -> &'a [T] {
        self.entries
    }
}

impl<T: Real> LinOp<T> for Diagonal<'_, T> {
    fn dim_in(&self) -> usize {
        self.entries.len()
    }
    fn dim_out(&self) -> usize {
        self.entries.len()
    }
    fn apply(&self, mut out: MatMut<'_, T>, x: MatRef<'_, T>, _: &mut [T]) -> Result<(), Error> {
        check_apply(self.dim_in(), self.dim_out(), &out, &x)?;
        out.for_each_row(|i, out| {
            for ((out, &x), &d) in out.iter_mut().zip(x.row(i)).zip(self.entries) {
                *out = d * x;
            }
        });
        Ok(())
    }
}

impl<T: Real> SelfAdjoint<T> for Diagonal<'_, T> {}

impl<T: Real> Adjoint<T> for Diagonal<'_, T> {
    fn apply_transpose(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        self.apply(out, x, scratch)
    }
}

impl<T: Real> Invertible<T> for Diagonal<'_, T> {
    fn check_invertible(&self) -> Result<(), Error> {
        match self.entries.iter().position(|&d| d == T::ZERO) {
            Some(index) => Err(Error::Singular { what: "diagonal", index }),
            None => Ok(()),
        }
    }
    fn apply_inverse(&self, mut out: MatMut<'_, T>, x: MatRef<'_, T>, _: &mut [T]) -> Result<(), Error> {
        check_apply(self.dim_in(), self.dim_out(), &out, &x)?;
        self.check_invertible()?;
        out.for_each_row(|i, out| {
            for ((out, &x), &d) in out.iter_mut().zip(x.row(i)).zip(self.entries) {
                *out = x / d;
            }
        });
        Ok(())
    }
}
