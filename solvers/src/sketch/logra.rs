use ascribe_core::record::LayerRecord;
use ascribe_core::sketch::LoGra;
use ascribe_core::{Error, MatMut, MatRef, Real};

use super::Workspaces;
use crate::error::check_shape;
use crate::linalg::matmul;
use crate::parallel::{Parallelism, Parallelism::Serial as SERIAL, run};

/// Positions that a task projects, unless one example has more: their projections stay in a second-level cache.
const POSITIONS: usize = 512;

/// [`LoGra`] of a whole record: the positions of several examples are projected by one matrix product each side, then
/// each example is summed up.
///
/// Faster than [`sketch_records`](super::sketch_records()), and with other roundings: the error bound is that of
/// [`LoGra`]. The bits depend on the sizes alone, not on the number of threads. Memory, which is allocated for each
/// thread: `k_in + k_out` for each position of a block of examples that has at least 512.
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
    out: MatMut<'_, T>,
    sketch: &LoGra<'_, T>,
    record: &LayerRecord<'_, T>,
    par: Parallelism,
) -> Result<(), Error> {
    let (k_out, k_in, d_in) = (sketch.p_out().rows(), sketch.p_in().rows(), record.d_in());
    sketch.check_layer(record)?;
    check_shape("out rows", record.examples(), out.rows())?;
    check_shape("out columns", k_out * k_in, out.cols())?;
    // There may be any number of rows without elements.
    if out.cols() == 0 {
        return Ok(());
    }
    let block = POSITIONS.div_ceil(record.positions().max(1)).clamp(1, record.examples().max(1));
    let width = k_out.checked_add(k_in);
    let projected = block.checked_mul(record.positions()).zip(width).and_then(|(rows, width)| rows.checked_mul(width));
    let workers = par.workers().min(record.examples().div_ceil(block));
    let mut projected = Workspaces::new("projected positions", workers, projected)?;
    let weight = sketch.p_in().block(0, k_in, 0, d_in)?;
    let (mut tasks, mut rest) = (Vec::new(), out);
    for first in (0..record.examples()).step_by(block) {
        let len = block.min(record.examples() - first);
        let (rows, after) = rest.split_rows(len)?;
        rest = after;
        tasks.push((rows, record.example_range(first, len)?));
    }
    run(&mut projected.split(), tasks, |projected, (mut out, part)| {
        let rows = part.inputs().rows();
        let (delta, x) = projected.split_at_mut(rows * k_out);
        let x = &mut x[..rows * k_in];
        matmul(MatMut::new(delta, rows, k_out)?, T::ZERO, T::ONE, part.output_grads(), sketch.p_out().t(), SERIAL)?;
        sketch.project_appended(MatMut::new(x, rows, k_in)?, part.has_bias())?;
        matmul(MatMut::new(x, rows, k_in)?, T::ONE, T::ONE, part.inputs(), weight.t(), SERIAL)?;
        let (delta, x) = (MatRef::new(delta, rows, k_out)?, MatRef::new(x, rows, k_in)?);
        (0..part.examples()).try_for_each(|i| sketch.contract(out.row_mut(i), &part, i, delta, x))
    })
}
