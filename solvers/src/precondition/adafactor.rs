//! Adafactor's factored second moments, as a curvature.

use ascribe_core::Real;

use crate::Error;
use crate::curvature::{Basis, EigenBlock, products};

/// The diagonal curvature `examples * V` of a matrix layer from Adafactor's state,
/// $V_{ij} = r_i c_j / \operatorname{mean}(r)$.
///
/// `rows` are the moving averages of the mean squares over each row of the gradient, `cols` over each column. As for
/// [`AdamWState::curvature`](super::AdamWState::curvature), `examples` is the size of the batch that a gradient was the
/// mean of, or 1. Without any gradient (`mean(r) = 0`) the curvature is zero.
///
/// # Errors
/// [`Error::Block`] with `name` when an element of the factors or `examples` is negative, NaN or infinite, a product
/// overflows, or there is no memory for all of them.
///
/// # Examples
/// ```
/// use ascribe_solvers::precondition::adafactor_block;
/// let block = adafactor_block::<f32>("fc", &[1.0, 3.0], &[2.0, 4.0, 0.0], 1.0)?;
/// assert_eq!(block.values(), [1.0, 2.0, 0.0, 3.0, 6.0, 0.0]);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Shazeer and Stern, arXiv:1804.04235, section 3.
pub fn adafactor_block<T: Real>(name: &str, rows: &[f64], cols: &[f64], examples: f64) -> Result<EigenBlock<T>, Error> {
    let mean = rows.iter().sum::<f64>() / rows.len().max(1) as f64;
    // Two negative factors have a positive product.
    EigenBlock::<T>::diagonal(name, rows)?;
    EigenBlock::<T>::diagonal(name, cols)?;
    let shares: Vec<f64> = rows.iter().map(|r| if mean == 0.0 { 0.0 } else { r / mean }).collect();
    let values = products(&shares, cols).map_err(|error| Error::from(error).in_block(name))?;
    let mut block = EigenBlock::from_parts(name, Basis::Units(rows.len()), Basis::Units(cols.len()), values)?;
    block.scale(examples)?;
    Ok(block)
}
