use super::Dual;
use crate::error::{Error, check_shape, take_scratch};
#[cfg(feature = "alloc")]
use crate::linop::{Adjoint, LinOp, SelfAdjoint, check_apply, zeros};
use crate::scalar::{Real, Scalar};
#[cfg(feature = "alloc")]
use crate::view::{MatMut, MatRef};

/// The gradient of a loss, written once over [`Scalar`]: evaluated at numbers it is the gradient, at [`Dual`]
/// numbers the exact product of the Hessian and a vector.
///
/// Data of the model enter as constants by [`Scalar::from_f64`].
pub trait DifferentiableGradient {
    /// The number of parameters `D`.
    fn dim(&self) -> usize;
    /// Sets every element of `out` (length `D`, whatever it held) to the gradient at `params` (length `D`).
    ///
    /// # Errors
    /// [`Error::Model`] with a code of the model's own.
    fn gradient<S: Scalar>(&self, params: &[S], out: &mut [S]) -> Result<(), Error>;
}

impl<M: DifferentiableGradient> DifferentiableGradient for &M {
    fn dim(&self) -> usize {
        (**self).dim()
    }
    fn gradient<S: Scalar>(&self, params: &[S], out: &mut [S]) -> Result<(), Error> {
        (**self).gradient(params, out)
    }
}

/// `H v`, the exact product of the Hessian at `params` and `v`: the tangent of the gradient at `params + ε v`.
///
/// Cost: one evaluation of the gradient at dual numbers, about three times its flops. `work` holds at least `2 D`
/// numbers, whatever they are; `out` is written only when the model succeeds.
///
/// # Errors
/// [`Error::Shape`] when `out`, `params` or `v` does not have `D` elements, [`Error::Length`] when `work` is too
/// short, and what the model returns.
///
/// # Examples
/// ```
/// use ascribe_core::{Error, Scalar, derivative::{DifferentiableGradient, Dual, hvp}};
/// struct Cubes; // loss x^3 + y^3
/// impl DifferentiableGradient for Cubes {
///     fn dim(&self) -> usize { 2 }
///     fn gradient<S: Scalar>(&self, x: &[S], out: &mut [S]) -> Result<(), Error> {
///         for (out, &x) in out.iter_mut().zip(x) { *out = S::from_f64(3.0) * x * x; }
///         Ok(())
///     }
/// }
/// let (mut out, mut work) = ([0.0; 2], [Dual::ZERO; 4]);
/// hvp(&mut out, &Cubes, &[1.0, 2.0], &[1.0, 1.0], &mut work)?;
/// assert_eq!(out, [6.0, 12.0]);
/// # Ok::<(), Error>(())
/// ```
///
/// # References
/// Pearlmutter 1994, "Fast exact multiplication by the Hessian", doi:10.1162/neco.1994.6.1.147.
pub fn hvp<T: Real, M: DifferentiableGradient>(
    out: &mut [T],
    model: &M,
    params: &[T],
    v: &[T],
    work: &mut [Dual<T>],
) -> Result<(), Error> {
    let dim = model.dim();
    check_shape("out elements", dim, out.len())?;
    check_shape("params elements", dim, params.len())?;
    check_shape("v elements", dim, v.len())?;
    let (point, rest) = take_scratch(work, dim)?;
    let (gradient, _) = take_scratch(rest, dim)?;
    for (point, (&value, &tangent)) in point.iter_mut().zip(params.iter().zip(v)) {
        *point = Dual { value, tangents: [tangent] };
    }
    model.gradient(point, gradient)?;
    for (out, gradient) in out.iter_mut().zip(gradient) {
        *out = gradient.tangents[0];
    }
    Ok(())
}

/// The Hessian of a loss at fixed parameters, $y = \nabla^2 L(\theta) x$ for each row `x`, by [`hvp`].
///
/// Self-adjoint, not positive semidefinite away from a minimum. Cost for `k` rows: `k` evaluations of the gradient
/// at dual numbers. Allocates `2 D` dual numbers at each application; use [`hvp`] to allocate nothing.
///
/// # Errors
/// [`Error::Shape`] from [`Hessian::new`] when `params` does not have `D` elements. When the model fails at one
/// row of an application, the rows before it have been written.
///
/// # References
/// As [`hvp`].
#[cfg(feature = "alloc")]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hessian<'a, M, T> {
    model: M,
    params: &'a [T],
}

#[cfg(feature = "alloc")]
impl<'a, M: DifferentiableGradient, T: Real> Hessian<'a, M, T> {
    /// The Hessian of `model` at `params`.
    ///
    /// # Errors
    /// [`Error::Shape`] when `params` does not have `D` elements.
    pub fn new(model: M, params: &'a [T]) -> Result<Self, Error> {
        check_shape("params elements", model.dim(), params.len())?;
        Ok(Self { model, params })
    }
}

#[cfg(feature = "alloc")]
impl<M: DifferentiableGradient, T: Real> LinOp<T> for Hessian<'_, M, T> {
    fn dim_in(&self) -> usize {
        self.params.len()
    }
    fn dim_out(&self) -> usize {
        self.params.len()
    }
    fn apply(&self, mut out: MatMut<'_, T>, x: MatRef<'_, T>, _: &mut [T]) -> Result<(), Error> {
        check_apply(self.dim_in(), self.dim_out(), &out, &x)?;
        // There may be any number of rows without elements.
        if out.cols() == 0 {
            return Ok(());
        }
        let mut work = zeros("dual numbers", self.params.len().saturating_mul(2))?;
        for i in 0..x.rows() {
            hvp(out.row_mut(i), &self.model, self.params, x.row(i), &mut work)?;
        }
        Ok(())
    }
}

#[cfg(feature = "alloc")]
impl<M: DifferentiableGradient, T: Real> SelfAdjoint<T> for Hessian<'_, M, T> {}

#[cfg(feature = "alloc")]
impl<M: DifferentiableGradient, T: Real> Adjoint<T> for Hessian<'_, M, T> {
    fn apply_transpose(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        self.apply(out, x, scratch)
    }
}
