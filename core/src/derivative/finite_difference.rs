use crate::error::{Error, take_scratch};
use crate::linop::{LinOp, SelfAdjoint, check_apply};
use crate::reduce;
use crate::scalar::Real;
use crate::view::{MatMut, MatRef};
use core::fmt;

/// The Hessian of a loss whose gradient is a black box, by central differences:
/// $H v \approx \|v\|\, \frac{\nabla L(\theta + h \hat v) - \nabla L(\theta - h \hat v)}{2h}$, $\hat v = v / \|v\|$.
///
/// The step $h = (3u)^{1/3} \max(1, \|\theta\|_\infty)$ balances truncation and rounding: about `7e-6` for `f64` and
/// `6e-3` for `f32` (`u` is the unit roundoff). With $M$ a bound of the third derivative along $\hat v$, and gradients
/// that are exact to $\epsilon_g$,
///
/// $$\|\widehat{Hv} - Hv\| \le \|v\| \left(\frac{h^2}{6} M + \frac{\epsilon_g + \|H\|\, \|\delta\|}{h}\right),
/// \qquad |\delta_i| \le 2u\, (|\theta_i| + h),$$
///
/// where $\delta$ is the rounding of the points. That is a relative error of about $u^{2/3}$ at best, and none at
/// all across a kink such as that of `relu`: prefer [`Hessian`](super::Hessian) wherever the gradient can be written
/// over [`Scalar`](crate::Scalar). A gradient noisier than its type (sums in `f32` over many examples) wants a
/// larger step, about $(3 \epsilon_g)^{1/3}$: see [`FiniteDifferenceHessian::with_step`].
///
/// A zero row gives a zero row, a row without a finite norm gives NaN, both without evaluating the gradient.
/// Self-adjoint up to that error.
///
/// Cost: two gradients a row. Scratch: `3 D` elements, whatever the number of rows.
///
/// # Errors
/// [`Error::NonFinite`] from [`FiniteDifferenceHessian::new`] for a parameter that is NaN or infinite. When the
/// gradient fails at one row of an application, the rows before it have been written.
///
/// # Examples
/// ```
/// use ascribe_core::{Error, MatRef, linop::apply_alloc, derivative::FiniteDifferenceHessian};
/// let gradient = |x: &[f64], out: &mut [f64]| -> Result<(), Error> {
///     out[0] = x[0] * x[0] * x[0];
///     Ok(())
/// };
/// let hessian = FiniteDifferenceHessian::new(gradient, &[2.0])?;
/// let y = apply_alloc(&hessian, MatRef::from_row(&[10.0]))?;
/// assert!((y[0] - 120.0).abs() < 1e-7);
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct FiniteDifferenceHessian<'a, F, T> {
    gradient: F,
    params: &'a [T],
    step: T,
}

impl<'a, F, T: Real> FiniteDifferenceHessian<'a, F, T>
where
    F: Fn(&[T], &mut [T]) -> Result<(), Error>,
{
    /// The Hessian at `params` of the loss whose gradient `gradient(params, out)` writes to `out`, with the step
    /// that suits a gradient as exact as `T`.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a parameter that is NaN or infinite.
    pub fn new(gradient: F, params: &'a [T]) -> Result<Self, Error> {
        if let Some(index) = params.iter().position(|x| !x.is_finite()) {
            return Err(Error::NonFinite { what: "params", index });
        }
        let size = reduce::max_abs(params).to_f64().max(1.0);
        Self::with_step(gradient, params, T::from_f64(cube_root(1.5 * T::EPSILON.to_f64()) * size))
    }

    /// As [`FiniteDifferenceHessian::new`] with the length `step` of the displacement in parameter space.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a parameter that is NaN or infinite, [`Error::Parameter`] when `step` is not a
    /// positive finite number.
    pub fn with_step(gradient: F, params: &'a [T], step: T) -> Result<Self, Error> {
        if let Some(index) = params.iter().position(|x| !x.is_finite()) {
            return Err(Error::NonFinite { what: "params", index });
        }
        if !(step.is_finite() && step > T::ZERO) {
            return Err(Error::Parameter { what: "step", value: step.to_f64(), must_be: "positive and finite" });
        }
        Ok(Self { gradient, params, step })
    }

    /// The length of the displacement.
    pub fn step(&self) -> T {
        self.step
    }
}

/// The cube root of a number in `(0, 1]`, by Newton's method from above: `core` has none, and 64 steps from 1 reach
/// any root above `1e-8`.
fn cube_root(x: f64) -> f64 {
    (0..64).fold(1.0, |root, _| root - (root - x / (root * root)) / 3.0)
}

impl<F, T: fmt::Debug> fmt::Debug for FiniteDifferenceHessian<'_, F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FiniteDifferenceHessian").field("step", &self.step).finish_non_exhaustive()
    }
}

impl<F, T: Real> LinOp<T> for FiniteDifferenceHessian<'_, F, T>
where
    F: Fn(&[T], &mut [T]) -> Result<(), Error>,
{
    fn dim_in(&self) -> usize {
        self.params.len()
    }
    fn dim_out(&self) -> usize {
        self.params.len()
    }
    fn scratch_len(&self, _: usize) -> usize {
        self.params.len().saturating_mul(3)
    }
    fn apply(&self, mut out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        check_apply(self.dim_in(), self.dim_out(), &out, &x)?;
        let (scratch, _) = take_scratch(scratch, self.scratch_len(x.rows()))?;
        let (point, scratch) = take_scratch(scratch, self.params.len())?;
        let (plus, minus) = scratch.split_at_mut(self.params.len());
        // There may be any number of rows without elements.
        if out.cols() == 0 {
            return Ok(());
        }
        for i in 0..x.rows() {
            let v = x.row(i);
            let norm = reduce::norm2(v);
            if norm == T::ZERO || !norm.is_finite() {
                // Zero for zero, NaN for infinity and NaN.
                out.row_mut(i).fill(norm * T::ZERO);
                continue;
            }
            for (side, gradient) in [(self.step, &mut *plus), (-self.step, &mut *minus)] {
                for (point, (&param, &v)) in point.iter_mut().zip(self.params.iter().zip(v)) {
                    *point = param + side * (v / norm);
                }
                (self.gradient)(point, gradient)?;
            }
            let factor = norm / (self.step + self.step);
            for (out, (&plus, &minus)) in out.row_mut(i).iter_mut().zip(plus.iter().zip(minus.iter())) {
                *out = (plus - minus) * factor;
            }
        }
        Ok(())
    }
}

impl<F, T: Real> SelfAdjoint<T> for FiniteDifferenceHessian<'_, F, T> where F: Fn(&[T], &mut [T]) -> Result<(), Error> {}
