//! The Jacobian of all outputs in the parameters, as an operator with its transpose.

use ascribe_core::linop::{Adjoint, check_apply};
use ascribe_core::{Error as CoreError, LinOp, MatMut, MatRef, Real};

use super::Linearized;
use super::sweep::{Examples, push_forward, sum_over_examples};

/// `J = dz/dtheta`: from parameter vectors to tangents of the outputs, flattened `[examples, outputs]`. Nothing is
/// divided by the number of examples.
///
/// Cost per row and example: about `4 P` flops for `J v` (half of that in the first layer) and for `J^T u`.
#[derive(Debug, Clone, Copy)]
pub struct Jacobian<'l, 'a, T> {
    pub(super) lin: &'l Linearized<'a, T>,
}

impl<'a, T: Real> Linearized<'a, T> {
    /// The Jacobian of the outputs.
    pub fn jacobian(&self) -> Jacobian<'_, 'a, T> {
        Jacobian { lin: self }
    }
}

impl<T: Real> LinOp<T> for Jacobian<'_, '_, T> {
    fn dim_in(&self) -> usize {
        self.lin.net.params()
    }
    fn dim_out(&self) -> usize {
        self.lin.examples() * self.lin.net.outputs()
    }
    fn apply(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, _: &mut [T]) -> Result<(), CoreError> {
        check_apply(self.dim_in(), self.dim_out(), &out, &x)?;
        push_forward(self.lin, out, x)
    }
}

impl<T: Real> Adjoint<T> for Jacobian<'_, '_, T> {
    fn apply_transpose(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, _: &mut [T]) -> Result<(), CoreError> {
        check_apply(self.dim_out(), self.dim_in(), &out, &x)?;
        let (net, params, width) = (self.lin.net, self.lin.params, self.lin.net.outputs());

        sum_over_examples(self.lin, out, x, Examples::All, T::ONE, |work, chunk, place, u, sum| {
            let (start, len) = (place.of(0) * width, chunk.cache.rows * width);
            work.outputs.clear();
            u.row_iter().for_each(|row| work.outputs.extend_from_slice(&row[start..start + len]));
            work.pull_back(net, params, chunk, None, sum)
        })
    }
}
