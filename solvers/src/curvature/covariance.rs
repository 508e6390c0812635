//! Covariances of a layer's inputs and output gradients, accumulated from records.

use core::marker::PhantomData;

use ascribe_core::record::LayerRecord;
use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};

use super::Fisher;
use crate::Error;
use crate::error::{check_finite, check_shape, zeros};
use crate::linalg::gram;
use crate::parallel::Parallelism;

/// The sizes of a layer's weight, `[d_out, d_in]`, and whether a bias is its last column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerShape {
    /// Inputs, without the 1 that a bias appends.
    pub d_in: usize,
    /// Outputs.
    pub d_out: usize,
    /// Whether there is a bias.
    pub bias: bool,
}

impl LayerShape {
    /// The columns of a gradient: the inputs, and one more with a bias.
    pub fn weight_cols(&self) -> usize {
        self.d_in + usize::from(self.bias)
    }
}

/// What a layer whose weight is used at several positions of an example counts as a sample
/// (Eschenhagen et al., arXiv:2311.00636).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// Each position: `A` is the mean of `a a^T` over positions, `G` the sum of `g g^T` over them. Exact for deep linear
    /// networks whose loss sums over positions.
    #[default]
    Expand,
    /// Each example: `A` is the mean over examples of the mean input's `a a^T`, `G` that of the summed gradient's
    /// `g g^T`. Exact for deep linear networks that pool over positions.
    Reduce,
}

/// What `G` is divided by. Under [`Sharing::Reduce`] both are the examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Count {
    /// The examples with at least one position that counts: the block is that of a mean over examples.
    #[default]
    Example,
    /// The positions that count: smaller by the positions of an example, as some libraries have it.
    Position,
}

/// Accumulates K-FAC's two factors of one layer from records, batch after batch: `A` `[weight_cols, weight_cols]` of
/// the inputs, with a 1 for the bias as last entry, and `G` `[d_out, d_out]` of the output gradients, whose law is
/// `F`.
///
/// Positions that are masked contribute to nothing, counts and bias included. What one accumulator would have seen,
/// several that are merged have seen; [`Covariances`] has files. `S` is the precision of the sums: each record is
/// summed in its own precision, pairwise over blocks of rows, and added to the state.
///
/// Cost: `I'^2 + O^2` flops a position, half those of a product. Memory: `(I'^2 + O^2) size_of::<S>()` bytes; while
/// adding, copies of `4096` rows of a masked or reduced record, and the work space of [`gram`]. Rounding: `gram`'s, and
/// one addition in `S` for each block of rows.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, record::LayerRecord};
/// use ascribe_solvers::{curvature::*, parallel::Parallelism::Serial};
/// let shape = LayerShape { d_in: 1, d_out: 1, bias: true };
/// let mut covariance = LayerCovariance::<f64, Empirical>::new(shape, Sharing::Expand, Count::Example, Serial)?;
/// let (x, delta) = ([1.0, 3.0], [2.0, -1.0]); // one example of two positions
/// covariance.add(&LayerRecord::new(1, MatRef::new(&x, 2, 1)?, MatRef::new(&delta, 2, 1)?, None, true)?, &[])?;
/// let (a, g) = covariance.factors()?;
/// assert_eq!(a, [5.0, 2.0, 2.0, 1.0]); // the means of x^2, x and 1
/// assert_eq!(g, [5.0]); // a sum over positions, the mean over one example
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Martens and Grosse, arXiv:1503.05671, section 3; expand and reduce: arXiv:2311.00636.
#[derive(Debug, Clone)]
pub struct LayerCovariance<S, F> {
    shape: LayerShape,
    sharing: Sharing,
    count: Count,
    /// The lower triangle of the sum of `a a^T`.
    pub(super) a: Vec<S>,
    /// The lower triangle of the sum of `g g^T`.
    pub(super) g: Vec<S>,
    pub(super) examples: u64,
    pub(super) positions: u64,
    par: Parallelism,
    fisher: PhantomData<F>,
}

/// Rows that are summed at once. The cut does not depend on the mask, so padding changes no bit.
const ROWS: usize = 4096;

impl<S: Real, F: Fisher> LayerCovariance<S, F> {
    /// Of a layer of this shape, before any example.
    ///
    /// # Errors
    /// [`CoreError::Overflow`] for a layer whose factors do not fit into memory.
    pub fn new(shape: LayerShape, sharing: Sharing, count: Count, par: Parallelism) -> Result<Self, Error> {
        let cols = shape.d_in.checked_add(usize::from(shape.bias));
        let a = zeros("input covariance", cols.and_then(|cols| cols.checked_mul(cols)))?;
        let g = zeros("output gradient covariance", shape.d_out.checked_mul(shape.d_out))?;
        Ok(Self { shape, sharing, count, a, g, examples: 0, positions: 0, par, fisher: PhantomData })
    }

    /// The layer's sizes.
    pub fn shape(&self) -> LayerShape {
        self.shape
    }

    /// What counts as a sample.
    pub fn sharing(&self) -> Sharing {
        self.sharing
    }

    /// What `G` is divided by.
    pub fn count(&self) -> Count {
        self.count
    }

    /// The examples so far, those without a position that counts left out.
    pub fn examples(&self) -> u64 {
        self.examples
    }

    /// The positions that counted so far.
    pub fn positions(&self) -> u64 {
        self.positions
    }

    /// The bytes of the state: `(I'^2 + O^2) size_of::<S>()`.
    pub fn bytes(&self) -> usize {
        (self.a.len() + self.g.len()) * size_of::<S>()
    }

    /// Adds the examples of `record`, with the output gradients in it and, one matrix
    /// `[examples * positions, d_out]` each, `more` draws of the same examples: the columns of a type-2 root or
    /// further sampled targets. These add to `G`, but not to `A` and not to the counts. Masked positions may hold
    /// anything.
    ///
    /// # Errors
    /// A shape error; [`CoreError::NonFinite`] for NaN or infinity in an element that counts, or for one whose squares
    /// add up to more than `T` can hold. Nothing is added then.
    pub fn add<T: Real>(&mut self, record: &LayerRecord<'_, T>, more: &[MatRef<'_, T>]) -> Result<(), Error> {
        check_shape("inputs of the record", self.shape.d_in, record.d_in())?;
        check_shape("outputs of the record", self.shape.d_out, record.d_out())?;
        check_shape("biases of the record", usize::from(self.shape.bias), usize::from(record.has_bias()))?;
        let rows = record.inputs().rows();
        for draw in more {
            check_shape("rows of a further draw", rows, draw.rows())?;
            check_shape("columns of a further draw", record.d_out(), draw.cols())?;
        }
        let counts = |row: usize| record.mask().is_none_or(|mask| mask[row]);
        check_squares("inputs", record.inputs(), counts)?;
        let draws = || core::iter::once(record.output_grads()).chain(more.iter().copied());
        draws().try_for_each(|draw| check_squares("output gradients", draw, counts))?;

        let (cols, d_in, d_out) = (self.shape.weight_cols(), self.shape.d_in, self.shape.d_out);
        let (mut examples, mut positions) = (0_u64, 0_u64);
        for n in 0..record.examples() {
            let length: usize = record.runs(n).map(|run| run.len()).sum();
            examples += u64::from(length > 0);
            positions += length as u64;
        }
        let samples = if self.sharing == Sharing::Expand { positions } else { examples };
        let (a, g, par) = (&mut self.a, &mut self.g, self.par);
        let mut sums = vec![0.0; if self.shape.bias { d_in } else { 0 }];
        for_each_block(record, record.inputs(), self.sharing, Pool::Mean, |block| {
            if !sums.is_empty() {
                block.row_iter().for_each(|row| sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x.to_f64()));
            }
            gram(MatMut::new(a, cols, cols)?.block(0, d_in, 0, d_in)?, block, par)
        })?;
        for draw in draws() {
            for_each_block(record, draw, self.sharing, Pool::Sum, |block| {
                gram(MatMut::new(g, d_out, d_out)?, block, par)
            })?;
        }
        if self.shape.bias {
            let last = &mut self.a[d_in * cols..];
            last.iter_mut().zip(&sums).for_each(|(sum, &x)| *sum += S::from_f64(x));
            last[d_in] += S::from_f64(samples as f64);
        }
        self.examples += examples;
        self.positions += positions;
        Ok(())
    }

    /// Adds what `other` has seen: as if one accumulator had seen it all.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when the layers' sizes, their sharing or their counts differ.
    pub fn merge(&mut self, other: &Self) -> Result<(), Error> {
        if (self.shape, self.sharing, self.count) != (other.shape, other.sharing, other.count) {
            return Err(Error::Mismatch { what: "layers of the covariances" });
        }
        self.a.iter_mut().zip(&other.a).for_each(|(sum, &x)| *sum += x);
        self.g.iter_mut().zip(&other.g).for_each(|(sum, &x)| *sum += x);
        self.examples += other.examples;
        self.positions += other.positions;
        Ok(())
    }

    /// `A` and `G`, symmetric and divided by their counts.
    ///
    /// # Errors
    /// [`CoreError::Empty`] before any position that counts, [`CoreError::NonFinite`] when a sum overflowed.
    pub fn factors(&self) -> Result<(Vec<f64>, Vec<f64>), Error> {
        if self.examples == 0 {
            return Err(CoreError::Empty { what: "examples" }.into());
        }
        let (examples, positions) = (self.examples as f64, self.positions as f64);
        let (over_a, over_g) = match (self.sharing, self.count) {
            (Sharing::Reduce, _) => (examples, examples),
            (Sharing::Expand, Count::Example) => (positions, examples),
            (Sharing::Expand, Count::Position) => (positions, positions),
        };
        let symmetric = |sum: &[S], n: usize, over: f64| {
            (0..n * n)
                .map(|at| sum[(at / n).max(at % n) * n + (at / n).min(at % n)].to_f64() / over)
                .collect::<Vec<_>>()
        };
        let a = symmetric(&self.a, self.shape.weight_cols(), over_a);
        let g = symmetric(&self.g, self.shape.d_out, over_g);
        check_finite("input covariance", &a)?;
        check_finite("output gradient covariance", &g)?;
        Ok((a, g))
    }
}

/// Refuses what is not finite, or has squares that do not add up to a finite number.
fn check_squares<T: Real>(what: &'static str, x: MatRef<'_, T>, counts: impl Fn(usize) -> bool) -> Result<(), Error> {
    let mut largest = T::ZERO;
    for (_, row) in x.row_iter().enumerate().filter(|(row, _)| counts(*row)) {
        check_finite(what, row)?;
        largest = row.iter().fold(largest, |largest, x| if x.abs() > largest { x.abs() } else { largest });
    }
    if (largest * largest * T::from_f64(x.rows() as f64)).is_finite() {
        return Ok(());
    }
    let place = |(row, x): (usize, &[T])| Some((row, x.iter().position(|x| x.abs() == largest)?));
    let (row, col) = x.row_iter().enumerate().filter(|(row, _)| counts(*row)).find_map(place).unwrap_or_default();
    Err(CoreError::NonFinite { what: "sum of squares", index: row * x.cols() + col }.into())
}

/// What an example's positions become under [`Sharing::Reduce`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pool {
    Mean,
    Sum,
}

/// The samples of a matrix with the rows of a record, in blocks of [`ROWS`]; read in place where they can be.
fn for_each_block<T: Real>(
    record: &LayerRecord<'_, T>,
    x: MatRef<'_, T>,
    sharing: Sharing,
    pool: Pool,
    mut f: impl FnMut(MatRef<'_, T>) -> Result<(), CoreError>,
) -> Result<(), CoreError> {
    let width = x.cols();
    if record.mask().is_none() && (sharing == Sharing::Expand || record.positions() == 1) {
        let starts = (0..x.rows()).step_by(ROWS);
        return starts.into_iter().try_for_each(|start| f(x.row_range(start, ROWS.min(x.rows() - start))?));
    }
    let (mut block, mut samples) = (Vec::new(), 0);
    let mut add = |sample: &mut dyn FnMut(&mut Vec<T>)| {
        sample(&mut block);
        samples += 1;
        if samples == ROWS {
            f(MatRef::new(&block, samples, width)?)?;
            block.clear();
            samples = 0;
        }
        Ok::<(), CoreError>(())
    };
    for n in 0..record.examples() {
        let mut rows = record.runs(n).flatten();
        match sharing {
            Sharing::Expand => rows.try_for_each(|row| add(&mut |block| block.extend_from_slice(x.row(row))))?,
            Sharing::Reduce => {
                let Some(first) = rows.next() else { continue };
                let mut sample = x.row(first).to_vec();
                let mut length = T::ONE;
                for row in rows {
                    sample.iter_mut().zip(x.row(row)).for_each(|(sum, &x)| *sum += x);
                    length += T::ONE;
                }
                if pool == Pool::Mean {
                    sample.iter_mut().for_each(|x| *x /= length);
                }
                add(&mut |block| block.extend_from_slice(&sample))?;
            }
        }
    }
    if samples > 0 { f(MatRef::new(&block, samples, width)?) } else { Ok(()) }
}

/// The covariances of a network's layers, each with a name.
#[derive(Debug, Clone)]
pub struct Covariances<S, F> {
    layers: Vec<(String, LayerCovariance<S, F>)>,
}

impl<S, F> Default for Covariances<S, F> {
    fn default() -> Self {
        Self { layers: Vec::new() }
    }
}

impl<S: Real, F: Fisher> Covariances<S, F> {
    /// No layers yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a layer behind the others.
    pub fn push(&mut self, name: &str, layer: LayerCovariance<S, F>) {
        self.layers.push((name.to_owned(), layer));
    }

    /// The layers with their names.
    pub fn layers(&self) -> impl ExactSizeIterator<Item = (&str, &LayerCovariance<S, F>)> {
        self.layers.iter().map(|(name, layer)| (name.as_str(), layer))
    }

    /// The bytes of all layers' states.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(|(_, layer)| layer.bytes()).sum()
    }

    /// Adds a record of layer `l`: see [`LayerCovariance::add`].
    ///
    /// # Errors
    /// [`CoreError::Index`] when there is no such layer; otherwise [`Error::Block`] with the layer's name.
    pub fn add<T: Real>(&mut self, l: usize, record: &LayerRecord<'_, T>, more: &[MatRef<'_, T>]) -> Result<(), Error> {
        let len = self.layers.len();
        let Some((name, layer)) = self.layers.get_mut(l) else {
            return Err(CoreError::Index { what: "layer", index: l, len }.into());
        };
        layer.add(record, more).map_err(|error| error.in_block(name))
    }

    /// Adds what `other` has seen, layer by layer.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when the layers or their names differ; nothing is added then.
    pub fn merge(&mut self, other: &Self) -> Result<(), Error> {
        let key = |layer: &LayerCovariance<S, F>| (layer.shape, layer.sharing, layer.count);
        let pairs = self.layers.iter().zip(&other.layers);
        let same = pairs.fold(self.layers.len() == other.layers.len(), |same, ((name, own), (other_name, other))| {
            same && name == other_name && key(own) == key(other)
        });
        if !same {
            return Err(Error::Mismatch { what: "layers of the covariances" });
        }
        let mut pairs = self.layers.iter_mut().zip(&other.layers);
        pairs.try_for_each(|((_, own), (_, other))| own.merge(other))
    }
}
