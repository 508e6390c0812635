use crate::error::{Error, check_shape, take_scratch};
use crate::linop::{Adjoint, LinOp, PositiveSemidefinite, SelfAdjoint, apply_two, check_apply};
use crate::reduce;
use crate::scalar::Real;
use crate::view::{MatMut, MatRef};

/// The generalised Gauss-Newton matrix $G = c\, J^T H J$: the Hessian of the loss of the linearised model.
///
/// `J` is the Jacobian of all outputs, from `D` parameters to the `N C` outputs of `N` examples; `H` is the Hessian
/// of the loss with respect to these outputs, block diagonal over examples; `c` is the factor of the reduction,
/// `1/N` for a mean. Self-adjoint (positive semidefinite) when `H` is, as it is for every convex loss. Equal to the
/// Hessian when the model is linear, or when the gradient of the loss with respect to the outputs vanishes.
///
/// Cost: one application each of `J`, `H` and `J^T`. Scratch for `k` rows: `2 k N C` elements and the largest
/// scratch of the three.
///
/// # Errors
/// From [`GaussNewton::new`]: [`Error::Shape`] when `H` is not square on the outputs of `J`, [`Error::Parameter`]
/// when the scale is negative or not finite.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, linop::{Dense, Identity, apply_alloc}, derivative::GaussNewton};
/// // Half the squared error of two examples with one output each: H = I.
/// let jacobian = Dense::new(MatRef::new(&[1.0, 2.0, 0.0, 1.0], 2, 2)?);
/// let g = GaussNewton::new(jacobian, Identity::new(2), 0.5)?;
/// assert_eq!(apply_alloc(&g, MatRef::from_row(&[1.0, 0.0]))?, [0.5, 1.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
///
/// # References
/// Schraudolph 2002, doi:10.1162/08997660260028683; Martens 2020, arXiv:1412.1193, section 8.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GaussNewton<J, H, T> {
    jacobian: J,
    output_hessian: H,
    scale: T,
}

impl<J: Adjoint<T>, H: LinOp<T>, T: Real> GaussNewton<J, H, T> {
    /// `scale * jacobian^T output_hessian jacobian`.
    ///
    /// # Errors
    /// [`Error::Shape`] when `output_hessian` is not square on the outputs of `jacobian`, [`Error::Parameter`] when
    /// `scale` is negative or not finite.
    pub fn new(jacobian: J, output_hessian: H, scale: T) -> Result<Self, Error> {
        check_shape("output Hessian input", jacobian.dim_out(), output_hessian.dim_in())?;
        check_shape("output Hessian output", jacobian.dim_out(), output_hessian.dim_out())?;
        if !(scale.is_finite() && scale >= T::ZERO) {
            return Err(Error::Parameter { what: "scale", value: scale.to_f64(), must_be: "finite and not negative" });
        }
        Ok(Self { jacobian, output_hessian, scale })
    }
}

impl<J: Adjoint<T>, H: LinOp<T>, T: Real> LinOp<T> for GaussNewton<J, H, T> {
    fn dim_in(&self) -> usize {
        self.jacobian.dim_in()
    }
    fn dim_out(&self) -> usize {
        self.jacobian.dim_in()
    }
    fn scratch_len(&self, rows: usize) -> usize {
        through_outputs_scratch_len(&self.jacobian, rows, self.output_hessian.scratch_len(rows))
    }
    fn apply(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        let scratch = (scratch, self.scratch_len(x.rows()));
        through_outputs(out, x, &self.jacobian, self.scale, scratch, |out, x, scratch| {
            self.output_hessian.apply(out, x, scratch)
        })
    }
}

impl<J: Adjoint<T>, H: SelfAdjoint<T>, T: Real> SelfAdjoint<T> for GaussNewton<J, H, T> {}
impl<J: Adjoint<T>, H: PositiveSemidefinite<T>, T: Real> PositiveSemidefinite<T> for GaussNewton<J, H, T> {}

/// The scratch of [`through_outputs`], given what the operator on the outputs needs.
pub(super) fn through_outputs_scratch_len<T: Real>(
    jacobian: &impl Adjoint<T>,
    rows: usize,
    on_outputs: usize,
) -> usize {
    let inner = jacobian.scratch_len(rows).max(jacobian.transpose_scratch_len(rows)).max(on_outputs);
    rows.saturating_mul(jacobian.dim_out()).saturating_mul(2).saturating_add(inner)
}

/// `out = scale J^T H J x` for each row, where `on_outputs` applies `H`.
pub(super) fn through_outputs<T: Real>(
    mut out: MatMut<'_, T>,
    x: MatRef<'_, T>,
    jacobian: &impl Adjoint<T>,
    scale: T,
    (scratch, needed): (&mut [T], usize),
    on_outputs: impl FnOnce(MatMut<'_, T>, MatRef<'_, T>, &mut [T]) -> Result<(), Error>,
) -> Result<(), Error> {
    check_apply(jacobian.dim_in(), jacobian.dim_in(), &out, &x)?;
    let (rows, outputs) = (x.rows(), jacobian.dim_out());
    let (scratch, _) = take_scratch(scratch, needed)?;
    let (cotangent, scratch) = take_scratch(scratch, rows.saturating_mul(outputs))?;
    let rest = scratch.len();
    apply_two(
        MatMut::new(cotangent, rows, outputs)?,
        x,
        outputs,
        (scratch, rest),
        |tangent, x, scratch| jacobian.apply(tangent, x, scratch),
        on_outputs,
    )?;
    // The vector of outputs that `apply_two` used is free again: all of the rest is scratch.
    jacobian.apply_transpose(out.rb_mut(), MatRef::new(cotangent, rows, outputs)?, scratch)?;
    out.for_each_row(|_, row| reduce::scale(row, scale));
    Ok(())
}
