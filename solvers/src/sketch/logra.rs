use ascribe_core::record::LayerRecord;
use ascribe_core::sketch::LoGra;
use ascribe_core::{Error, MatMut, MatRef, Real};

use crate::error::{check_shape, zeros};
use crate::linalg::matmul;
use crate::parallel::{Parallelism, for_each, inside};

/// [`LoGra`] of a whole record: the positions of all examples are projected by one matrix product each side, then each
/// example is summed up.
///
/// Faster than [`sketch_records`](super::sketch_records()), and with other roundings: the error bound is that of
/// [`LoGra`]. The bits depend on the sizes alone, not on the number of threads. Memory, which is allocated:
/// `k_in + k_out` for each position.
///
/// # Errors
/// [`Error::Shape`] when the layer or `out` does not fit, [`Error::Overflow`] when the projections cannot be
/// allocated; `out` is then untouched.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef, record::LayerRecord, sketch::LoGra};
/// use ascribe_solvers::{parallel::Parallelism, sketch::logra_records};
/// let (p_in, p_out) = (MatRef::new(&[1.0, 1.0, 0.0, 0.0, 0.0, 1.0], 2, 3)?, MatRef::new(&[2.0], 1, 1)?);
/// let (x, delta) = (MatRef::new(&[1.0, 2.0, 3.0, 4.0], 2, 2)?, MatRef::new(&[1.0, 10.0], 2, 1)?);
/// let record = LayerRecord::new(1, x, delta, None, true)?; // the gradient is [31, 42, 11]
/// let mut y = [0.0; 2];
/// logra_records(MatMut::from_row(&mut y), &LoGra::new(p_out, p_in)?, &record, Parallelism::Serial)?;
/// assert_eq!(y, [2.0 * (31.0 + 42.0), 2.0 * 11.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
pub fn logra_records<T: Real>(
    mut out: MatMut<'_, T>,
    sketch: &LoGra<'_, T>,
    record: &LayerRecord<'_, T>,
    par: Parallelism,
) -> Result<(), Error> {
    let (k_out, k_in, rows) = (sketch.p_out().rows(), sketch.p_in().rows(), record.inputs().rows());
    sketch.check_layer(record)?;
    check_shape("out rows", record.examples(), out.rows())?;
    check_shape("out columns", k_out * k_in, out.cols())?;
    let mut delta: Vec<T> = zeros("projected output gradients", rows.checked_mul(k_out))?;
    let mut x: Vec<T> = zeros("projected inputs", rows.checked_mul(k_in))?;
    let weight = sketch.p_in().block(0, k_in, 0, record.d_in())?;
    inside(par, || {
        sketch.project_appended(MatMut::new(&mut x, rows, k_in)?, record.has_bias())?;
        matmul(MatMut::new(&mut x, rows, k_in)?, T::ONE, T::ONE, record.inputs(), weight.t(), par)?;
        let projected = MatMut::new(&mut delta, rows, k_out)?;
        matmul(projected, T::ZERO, T::ONE, record.output_grads(), sketch.p_out().t(), par)?;
        let (delta, x) = (MatRef::new(&delta, rows, k_out)?, MatRef::new(&x, rows, k_in)?);
        let (mut tasks, mut rest) = (Vec::with_capacity(record.examples()), out.rb_mut());
        for example in 0..record.examples() {
            let (row, after) = rest.split_rows(1)?;
            rest = after;
            tasks.push((example, row));
        }
        for_each(par, tasks, |(example, mut out)| sketch.contract(out.row_mut(0), record, example, delta, x))
    })
}
