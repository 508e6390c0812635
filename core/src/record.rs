//! What a training step leaves behind: a layer's inputs and the gradients at its outputs.
//!
//! A linear layer's gradient for one example is `sum_t delta_t x_t^T` over positions (tokens, or the one position of
//! a plain layer), so the two factors say everything that sketches and Kronecker factors need, in far less memory.
//! Where a training stack hands over gradients themselves, a [`MatRef`] `[examples, p]` is the record.

use crate::error::{Error, check_shape};
use crate::matmul::matmul;
use crate::scalar::Real;
use crate::view::{MatMut, MatRef};
use core::ops::Range;

/// The record of one linear layer: inputs `x` `[examples, positions, d_in]` and gradients at the outputs `delta`
/// `[examples, positions, d_out]`, seen as matrices with one row a position.
///
/// `delta` is the gradient of a loss *summed* over the example's positions; nothing here divides by a count. The
/// mask `[examples, positions]` is true where a position counts; a masked one contributes nothing, its bias
/// included, and may hold anything, NaN too. With a bias, every `x_t` has a 1 appended, so the bias is the last
/// column of the gradient `[d_out, d_in + 1]`, which is flattened row-major.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, record::LayerRecord};
/// let x = MatRef::new(&[1.0, 2.0, 3.0, 4.0], 2, 2)?; // one example of two positions
/// let delta = MatRef::new(&[1.0, 10.0], 2, 1)?;
/// let record = LayerRecord::new(1, x, delta, None, true)?;
/// let mut gradient = [0.0; 3];
/// record.gradient(&mut gradient, 0)?;
/// assert_eq!(gradient, [31.0, 42.0, 11.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct LayerRecord<'a, T> {
    inputs: MatRef<'a, T>,
    output_grads: MatRef<'a, T>,
    mask: Option<&'a [bool]>,
    bias: bool,
    examples: usize,
    positions: usize,
    dim: usize,
}

impl<'a, T: Real> LayerRecord<'a, T> {
    /// A record of `examples` examples; `inputs` is `[examples * positions, d_in]`, `output_grads`
    /// `[examples * positions, d_out]` and `mask` has one element a row. Without examples there are no positions.
    ///
    /// # Errors
    /// [`Error::Shape`] when the rows of the three differ or are not a multiple of `examples`;
    /// [`Error::Overflow`] when `d_out * (d_in + bias)` does not fit.
    pub fn new(
        examples: usize,
        inputs: MatRef<'a, T>,
        output_grads: MatRef<'a, T>,
        mask: Option<&'a [bool]>,
        bias: bool,
    ) -> Result<Self, Error> {
        let positions = inputs.rows().checked_div(examples).unwrap_or(0);
        check_shape("input rows (a multiple of the examples)", examples * positions, inputs.rows())?;
        check_shape("output gradient rows", inputs.rows(), output_grads.rows())?;
        if let Some(mask) = mask {
            check_shape("mask elements", inputs.rows(), mask.len())?;
        }
        let weight_cols = inputs.cols().checked_add(usize::from(bias));
        let dim = weight_cols.and_then(|cols| cols.checked_mul(output_grads.cols()));
        let dim = dim.ok_or(Error::Overflow { what: "layer gradient" })?;
        Ok(Self { inputs, output_grads, mask, bias, examples, positions, dim })
    }

    /// The inputs, `[examples * positions, d_in]`, without the appended 1.
    pub fn inputs(&self) -> MatRef<'a, T> {
        self.inputs
    }

    /// The gradients at the outputs, `[examples * positions, d_out]`.
    pub fn output_grads(&self) -> MatRef<'a, T> {
        self.output_grads
    }

    /// Which positions count, one element a row; `None` when all do.
    pub fn mask(&self) -> Option<&'a [bool]> {
        self.mask
    }

    /// Whether the layer has a bias.
    pub fn has_bias(&self) -> bool {
        self.bias
    }

    /// The number of examples.
    pub fn examples(&self) -> usize {
        self.examples
    }

    /// The number of positions of each example, masked ones included.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// The number of inputs, without the appended 1.
    pub fn d_in(&self) -> usize {
        self.inputs.cols()
    }

    /// The number of outputs.
    pub fn d_out(&self) -> usize {
        self.output_grads.cols()
    }

    /// The columns of the gradient: `d_in`, and one more with a bias.
    pub fn weight_cols(&self) -> usize {
        self.d_in() + usize::from(self.bias)
    }

    /// The length of the flattened gradient, `d_out * weight_cols`.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The record of the examples `start..start + examples`.
    ///
    /// # Errors
    /// [`Error::Index`] when the range is not inside the record.
    pub fn example_range(&self, start: usize, examples: usize) -> Result<Self, Error> {
        match start.checked_add(examples) {
            Some(end) if end <= self.examples => (),
            _ => {
                return Err(Error::Index {
                    what: "example",
                    index: start.saturating_add(examples),
                    len: self.examples,
                });
            }
        }
        let (first, rows) = (start * self.positions, examples * self.positions);
        Ok(Self {
            inputs: self.inputs.row_range(first, rows)?,
            output_grads: self.output_grads.row_range(first, rows)?,
            mask: self.mask.map(|mask| &mask[first..first + rows]),
            examples,
            ..*self
        })
    }

    /// The rows of one example that count, as maximal runs of neighbours: what a kernel may hand to one matrix
    /// product. None when there is no such example.
    pub fn runs(&self, example: usize) -> impl Iterator<Item = Range<usize>> + use<'a, T> {
        let mask = self.mask;
        let rows =
            if example < self.examples { example * self.positions..(example + 1) * self.positions } else { 0..0 };
        let mut next = rows.start;
        core::iter::from_fn(move || {
            let start = (next..rows.end).find(|&row| mask.is_none_or(|mask| mask[row]))?;
            next = mask.and_then(|mask| (start..rows.end).find(|&row| !mask[row])).unwrap_or(rows.end);
            Some(start..next)
        })
    }

    /// The gradient of one example, `sum_t m_t delta_t x_t^T`, flattened.
    ///
    /// One matrix product for each [run](Self::runs), in order, so masked padding at the end changes no bit. Cost:
    /// `2 positions dim` flops. Error of each element: at most `(positions + 3 runs) u sum_t |delta_t| |x_t|` with
    /// the unit roundoff `u` of `T`, to first order.
    ///
    /// # Errors
    /// [`Error::Shape`] when `out` is not [`dim`](Self::dim) long, [`Error::Index`] when there is no such example.
    pub fn gradient(&self, out: &mut [T], example: usize) -> Result<(), Error> {
        check_shape("gradient elements", self.dim, out.len())?;
        if example >= self.examples {
            return Err(Error::Index { what: "example", index: example, len: self.examples });
        }
        out.fill(T::ZERO);
        let (d_in, d_out, cols) = (self.d_in(), self.d_out(), self.weight_cols());
        for run in self.runs(example) {
            let x = self.inputs.row_range(run.start, run.len())?;
            let delta = self.output_grads.row_range(run.start, run.len())?;
            let weight = MatMut::new(out, d_out, cols)?.block(0, d_out, 0, d_in)?;
            matmul(weight, T::ONE, T::ONE, delta.t(), x)?;
            if self.bias {
                for delta in delta.row_iter() {
                    for (row, &delta) in out.chunks_exact_mut(cols).zip(delta) {
                        row[d_in] += delta;
                    }
                }
            }
        }
        Ok(())
    }

    /// The gradients of all examples, one a row of `out` `[examples, dim]`; see [`gradient`](Self::gradient).
    ///
    /// # Errors
    /// [`Error::Shape`] when `out` has another shape.
    pub fn gradients(&self, mut out: MatMut<'_, T>) -> Result<(), Error> {
        check_shape("gradient rows", self.examples, out.rows())?;
        check_shape("gradient columns", self.dim, out.cols())?;
        if self.dim == 0 {
            return Ok(());
        }
        (0..self.examples).try_for_each(|example| self.gradient(out.row_mut(example), example))
    }
}
