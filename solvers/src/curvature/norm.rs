//! Normalisation layers: gradients of the scale and the bias.

use ascribe_core::record::LayerRecord;
use ascribe_core::{MatMut, Real};

use crate::Error;
use crate::error::check_shape;

/// The gradients of a normalisation layer's scale `w` and bias `b` in `y = w o x + b`, one example a row of `out`
/// `[examples, d]`, or `[examples, 2 d]` with a bias: first the scale, then the bias.
///
/// `record` has the *normalised* inputs `x` and the gradients at the outputs `y`, both of `d` features; a bias of
/// the record is that of the layer. A feature's scale sees no other feature, so there is no Kronecker structure: take
/// the rows to a [`Gram`](super::Gram) matrix and [`EigenBlock::dense`](super::EigenBlock::dense) for a small layer,
/// or to a [`DiagonalFisher`](super::DiagonalFisher) and [`EigenBlock::diagonal`](super::EigenBlock::diagonal).
/// Cost: `3 d` flops a position. Masked positions may hold anything.
///
/// # Errors
/// A shape error when inputs and outputs differ in number or `out` does not fit.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef, record::LayerRecord};
/// use ascribe_solvers::curvature::norm_gradients;
/// let (x, delta) = ([1.0, -1.0], [2.0, 5.0]);
/// let record = LayerRecord::new(1, MatRef::new(&x, 1, 2)?, MatRef::new(&delta, 1, 2)?, None, true)?;
/// let mut gradient = [0.0; 4];
/// norm_gradients(MatMut::from_row(&mut gradient), &record)?;
/// assert_eq!(gradient, [2.0, -5.0, 2.0, 5.0]);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
pub fn norm_gradients<T: Real>(mut out: MatMut<'_, T>, record: &LayerRecord<'_, T>) -> Result<(), Error> {
    let d = record.d_out();
    check_shape("normalised inputs", d, record.d_in())?;
    check_shape("rows of the gradients", record.examples(), out.rows())?;
    // `d * (d + 1)` fits, or there would be no record.
    check_shape("columns of the gradients", if record.has_bias() { 2 * d } else { d }, out.cols())?;
    out.for_each_row(|n, gradient| {
        gradient.fill(T::ZERO);
        let (scale, bias) = gradient.split_at_mut(d);
        for row in record.runs(n).flatten() {
            let (x, delta) = (record.inputs().row(row), record.output_grads().row(row));
            scale.iter_mut().zip(x).zip(delta).for_each(|((sum, &x), &delta)| *sum += delta * x);
            bias.iter_mut().zip(delta).for_each(|(sum, &delta)| *sum += delta);
        }
    });
    Ok(())
}
