//! One weight used several times in the same example.

use ascribe_core::record::LayerRecord;
use ascribe_core::{Error as CoreError, MatRef, Real};

use crate::Error;
use crate::error::{check_shape, zeros};

/// The record of a weight that several layers share: the positions of all its uses, one after the other.
///
/// An example's gradient is the sum over the uses, so it is summed before anything squares it, which
/// accumulating the uses one by one would not do; for K-FAC the uses are further positions.
///
/// Memory: copies of the records. With one record that is masked the joined one is masked.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, record::LayerRecord};
/// use ascribe_solvers::curvature::TiedRecord;
/// let (x, up, down) = ([1.0, 2.0], [3.0, 0.0], [1.0, 1.0]);
/// let uses = [(&x, &up), (&x, &down)].map(|(x, g)| {
///     LayerRecord::new(2, MatRef::new(x, 2, 1).unwrap(), MatRef::new(g, 2, 1).unwrap(), None, false).unwrap()
/// });
/// let tied = TiedRecord::new(&uses)?;
/// let mut gradient = [0.0];
/// tied.record()?.gradient(&mut gradient, 0)?;
/// assert_eq!(gradient, [1.0 * 3.0 + 1.0 * 1.0]);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct TiedRecord<T> {
    examples: usize,
    positions: usize,
    d_in: usize,
    d_out: usize,
    inputs: Vec<T>,
    output_grads: Vec<T>,
    mask: Option<Vec<bool>>,
    bias: bool,
}

impl<T: Real> TiedRecord<T> {
    /// Joins the uses of one weight.
    ///
    /// # Errors
    /// [`CoreError::Empty`] without any use, a shape error when they differ in examples or sizes,
    /// [`Error::Mismatch`] when some have a bias and some do not, [`CoreError::Overflow`] for too many positions.
    pub fn new(uses: &[LayerRecord<'_, T>]) -> Result<Self, Error> {
        let Some(first) = uses.first() else { return Err(CoreError::Empty { what: "uses of the weight" }.into()) };
        for one in uses {
            check_shape("examples of a use", first.examples(), one.examples())?;
            check_shape("inputs of a use", first.d_in(), one.d_in())?;
            check_shape("outputs of a use", first.d_out(), one.d_out())?;
            if one.has_bias() != first.has_bias() {
                return Err(Error::Mismatch { what: "biases of the uses" });
            }
        }
        let (examples, d_in, d_out) = (first.examples(), first.d_in(), first.d_out());
        let positions = uses.iter().try_fold(0_usize, |sum, one| sum.checked_add(one.positions()));
        let rows = positions.and_then(|positions| positions.checked_mul(examples));
        let mut inputs = zeros("joined inputs", rows.and_then(|rows| rows.checked_mul(d_in)))?;
        let mut output_grads = zeros("joined output gradients", rows.and_then(|rows| rows.checked_mul(d_out)))?;
        let (positions, rows) = (positions.unwrap_or(0), rows.unwrap_or(0));
        let masked = uses.iter().any(|one| one.mask().is_some());
        let mut mask = if masked { Some(zeros("joined mask", Some(rows))?) } else { None };
        let mut to = 0;
        // There may be any number of examples without a position.
        let filled = if rows == 0 { 0 } else { examples };
        for n in 0..filled {
            for one in uses {
                for from in n * one.positions()..(n + 1) * one.positions() {
                    inputs[to * d_in..(to + 1) * d_in].copy_from_slice(one.inputs().row(from));
                    output_grads[to * d_out..(to + 1) * d_out].copy_from_slice(one.output_grads().row(from));
                    if let Some(mask) = &mut mask {
                        mask[to] = one.mask().is_none_or(|own| own[from]);
                    }
                    to += 1;
                }
            }
        }
        Ok(Self { examples, positions, d_in, d_out, inputs, output_grads, mask, bias: first.has_bias() })
    }

    /// The joined record.
    ///
    /// # Errors
    /// None that a [`TiedRecord`] can cause; the signature is that of [`LayerRecord::new`].
    pub fn record(&self) -> Result<LayerRecord<'_, T>, CoreError> {
        let rows = self.examples * self.positions;
        let inputs = MatRef::new(&self.inputs, rows, self.d_in)?;
        let output_grads = MatRef::new(&self.output_grads, rows, self.d_out)?;
        LayerRecord::new(self.examples, inputs, output_grads, self.mask.as_deref(), self.bias)
    }
}
