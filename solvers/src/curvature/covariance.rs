//! The Kronecker factors of linear layers, accumulated from records.

use std::iter::once;
use std::marker::PhantomData;

use ascribe_core::record::LayerRecord;
use ascribe_core::{Error as CoreError, MatRef, Real};

use super::Fisher;
use super::gram::{Sum, checked_sum, checked_trace};
use crate::Error;
use crate::error::check_shape;
use crate::linalg::Rows;
use crate::parallel::Parallelism;

/// The sizes of a linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerShape {
    /// Inputs, without the constant of a bias.
    pub d_in: usize,
    /// Outputs.
    pub d_out: usize,
    /// Whether a constant input 1 stands behind the others.
    pub bias: bool,
}

/// How the positions of an example, which share the layer's weight, enter the factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// Each position is a sample: for losses that are sums over positions (tokens).
    #[default]
    Expand,
    /// The inputs' mean and the gradients' sum over an example's positions are one: for models that pool them.
    Reduce,
}

/// What the sum of output gradients is divided by under [`Sharing::Expand`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Count {
    /// The number of examples: `G (x) A` is then on the scale of the mean curvature per example.
    #[default]
    Example,
    /// The number of positions.
    Position,
}

/// The two Kronecker factors of a layer's Fisher information, as sums in the precision `S`:
/// `A = 1/M sum a a^T` over the inputs with their constant 1, `G = 1/N sum g g^T` over the gradients at the outputs.
///
/// With `M` unmasked positions and `N` examples that have one, and with sums over unmasked positions:
///
/// | sharing | `A` `[d_in + bias, d_in + bias]` | `G` `[d_out, d_out]` |
/// |---|---|---|
/// | [`Expand`](Sharing::Expand) | `1/M sum_{n,s} a_ns a_ns^T` | `1/N` or, by [`Count`], `1/M` times `sum_{n,s} g_ns g_ns^T` |
/// | [`Reduce`](Sharing::Reduce) | `1/N sum_n a_n a_n^T` with the mean `a_n` over positions | `1/N sum_n g_n g_n^T` with the sum `g_n` |
///
/// Gradients are those of each example's own loss, not divided by a batch size; ones of a scaled loss have to be
/// unscaled first, since the factor enters squared. Masked positions contribute nothing and may hold anything;
/// masked padding changes no bit, threads do not either, and batches only round differently.
///
/// A batch of `r` rows costs `r (d_in + bias)^2 + r d_out^2` flops, the latter for each draw. Memory is [`bytes`](Self::bytes),
/// plus, while adding, the work space of [`linalg::gram`](crate::linalg::gram()), one index for each unmasked position
/// if there is a mask, and with [`Sharing::Reduce`] one row for each example and matrix. The sums of a batch have the
/// error bound of `linalg::gram`; each batch or draw adds one rounding in `S`.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, record::LayerRecord};
/// use ascribe_solvers::curvature::{Count, Empirical, LayerCovariance, LayerShape, Sharing};
/// use ascribe_solvers::parallel::Parallelism::Serial;
/// let shape = LayerShape { d_in: 1, d_out: 1, bias: true };
/// let mut layer = LayerCovariance::<f64, Empirical>::new(shape, Sharing::Expand, Count::Example, Serial)?;
/// // Two examples of two positions, the last of which is padding.
/// let (a, g) = (MatRef::new(&[1.0, 2.0, 3.0, f64::NAN], 4, 1)?, MatRef::new(&[1.0, 0.0, 2.0, f64::NAN], 4, 1)?);
/// layer.add(&LayerRecord::new(2, a, g, Some(&[true, true, true, false]), true)?, &[])?;
/// assert_eq!(layer.factor_a()?, [14.0 / 3.0, 2.0, 2.0, 1.0]);
/// assert_eq!(layer.factor_g()?, [2.5]);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Martens and Grosse, arXiv:1503.05671, section 3; for shared weights, Eschenhagen et al., arXiv:2311.00636,
/// section 3.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerCovariance<S, F> {
    shape: LayerShape,
    sharing: Sharing,
    count: Count,
    a: Sum<S>,
    g: Sum<S>,
    counts: Counts,
    par: Parallelism,
    fisher: PhantomData<F>,
}

/// What has been added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    /// Examples with an unmasked position.
    pub(super) examples: u64,
    /// Unmasked positions.
    pub(super) positions: u64,
}

impl Counts {
    fn plus(self, other: Self) -> Result<Self, Error> {
        let examples = checked_sum("examples", self.examples, other.examples)?;
        Ok(Self { examples, positions: checked_sum("positions", self.positions, other.positions)? })
    }
}

impl LayerShape {
    /// The columns of a gradient: the inputs, and one more with a bias; `usize::MAX` when that does not fit.
    pub fn weight_cols(&self) -> usize {
        self.d_in.saturating_add(usize::from(self.bias))
    }
}

impl<S: Real, F: Fisher> LayerCovariance<S, F> {
    /// Of no examples yet.
    ///
    /// # Errors
    /// [`CoreError::Overflow`] when the factors do not fit into memory.
    pub fn new(shape: LayerShape, sharing: Sharing, count: Count, par: Parallelism) -> Result<Self, Error> {
        let cols = shape.d_in.checked_add(usize::from(shape.bias));
        let (a, g) = (Sum::new(cols.ok_or(CoreError::Overflow { what: "layer inputs" })?)?, Sum::new(shape.d_out)?);
        Ok(Self { shape, sharing, count, a, g, counts: Counts::default(), par, fisher: PhantomData })
    }

    /// Adds the examples of a record.
    ///
    /// `more_draws` are further output gradients of the same examples, each `[examples * positions, d_out]`: the
    /// other columns of a root of the loss Hessian, or other sampled targets (then each draw, the record's included,
    /// divided by the root of their number). They add to `G`, not to `A` nor to the counts.
    ///
    /// # Errors
    /// A shape error when the record or a draw does not fit; [`CoreError::NonFinite`] with the index of the first
    /// unmasked element that is NaN or infinite; [`CoreError::Parameter`] when squares would overflow;
    /// [`CoreError::Overflow`] of a count. Nothing is added then.
    pub fn add<T: Real>(&mut self, record: &LayerRecord<'_, T>, more_draws: &[MatRef<'_, T>]) -> Result<(), Error> {
        let par = self.par;
        self.check_record(record, more_draws)?;
        let kept: Option<Vec<usize>> = record.mask().map(|mask| (0..mask.len()).filter(|&row| mask[row]).collect());
        let rows = |x| Rows { kept: kept.as_deref(), ..Rows::new(x) };
        let given: Vec<_> = once(record.inputs())
            .chain(once(record.output_grads()))
            .chain(more_draws.iter().copied())
            .map(rows)
            .collect();
        let added = Counts { examples: examples(record), positions: given[0].len() as u64 };
        let counts = self.counts.plus(added)?;
        let pooled: Vec<Vec<T>> = match self.sharing {
            Sharing::Expand => Vec::new(),
            Sharing::Reduce => given.iter().enumerate().map(|(i, rows)| pool(record, rows.x, i == 0)).collect(),
        };
        let mut samples = given.clone();
        for (sample, pooled) in samples.iter_mut().zip(&pooled) {
            *sample = Rows::new(MatRef::new(pooled, added.examples as usize, sample.x.cols())?);
        }
        samples[0].ones = self.shape.bias;

        let trace = |what, i: usize| checked_trace(what, &samples[i], &given[i], par);
        self.a.check_room::<T>("layer inputs", trace("layer inputs", 0)?)?;
        let mut gradients = trace("output gradients", 1)?;
        for draw in 2..samples.len() {
            gradients += trace("further output gradients", draw)?;
        }
        self.g.check_room::<T>("output gradients", gradients)?;

        for (i, sample) in samples.into_iter().enumerate() {
            if i == 0 { &mut self.a } else { &mut self.g }.add(sample, par)?;
        }
        self.counts = counts;
        Ok(())
    }

    fn check_record<T: Real>(&self, record: &LayerRecord<'_, T>, more_draws: &[MatRef<'_, T>]) -> Result<(), Error> {
        let LayerShape { d_in, d_out, bias } = self.shape;
        check_shape("layer inputs", d_in, record.d_in())?;
        check_shape("layer outputs", d_out, record.d_out())?;
        check_shape("bias", usize::from(bias), usize::from(record.has_bias()))?;
        for draw in more_draws {
            check_shape("rows of further output gradients", record.output_grads().rows(), draw.rows())?;
            check_shape("columns of further output gradients", d_out, draw.cols())?;
        }
        Ok(())
    }

    /// Adds what `other` has seen: for shards of a data set. Its kind of Fisher information is the same by type.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when shape, sharing or count differ; [`CoreError::Parameter`] when the sum overflows;
    /// [`CoreError::Overflow`] of a count. Nothing is added then.
    pub fn merge(&mut self, other: &Self) -> Result<(), Error> {
        self.check_merge(other)?;
        self.counts = self.counts.plus(other.counts)?;
        self.a.merge(&other.a);
        self.g.merge(&other.g);
        Ok(())
    }

    fn check_merge(&self, other: &Self) -> Result<(), Error> {
        let same = [
            ("shapes of the layer", self.shape == other.shape),
            ("ways of weight sharing", self.sharing == other.sharing),
            ("counts of output gradients", self.count == other.count),
        ];
        if let Some((what, _)) = same.into_iter().find(|(_, same)| !same) {
            return Err(Error::Mismatch { what });
        }
        self.counts.plus(other.counts)?;
        self.a.check_merge("layer inputs", &other.a)?;
        self.g.check_merge("output gradients", &other.g)
    }

    /// `A`, symmetric, row-major `[d_in + bias, d_in + bias]`.
    ///
    /// # Errors
    /// [`CoreError::Empty`] when no unmasked position has been added.
    pub fn factor_a(&self) -> Result<Vec<S>, Error> {
        let Counts { examples, positions } = self.counts()?;
        Ok(self.a.symmetric(if self.sharing == Sharing::Expand { positions } else { examples }))
    }

    /// `G`, symmetric, row-major `[d_out, d_out]`.
    ///
    /// # Errors
    /// As [`factor_a`](Self::factor_a).
    pub fn factor_g(&self) -> Result<Vec<S>, Error> {
        let Counts { examples, positions } = self.counts()?;
        let by_position = (self.sharing, self.count) == (Sharing::Expand, Count::Position);
        Ok(self.g.symmetric(if by_position { positions } else { examples }))
    }

    fn counts(&self) -> Result<Counts, Error> {
        let empty = CoreError::Empty { what: "unmasked positions of a layer's covariance" };
        if self.counts.positions == 0 { Err(empty.into()) } else { Ok(self.counts) }
    }

    /// The sizes of the layer.
    pub fn shape(&self) -> LayerShape {
        self.shape
    }

    /// How positions enter.
    pub fn sharing(&self) -> Sharing {
        self.sharing
    }

    /// What `G` is divided by.
    pub fn count(&self) -> Count {
        self.count
    }

    /// The number of examples added that have an unmasked position.
    pub fn examples(&self) -> u64 {
        self.counts.examples
    }

    /// The number of unmasked positions added.
    pub fn positions(&self) -> u64 {
        self.counts.positions
    }

    /// The memory of the sums: `((d_in + bias)^2 + d_out^2) * size_of::<S>()`.
    pub fn bytes(&self) -> usize {
        (self.a.lower.len() + self.g.lower.len()) * size_of::<S>()
    }

    /// The sums as they are: row-major, zero above the diagonal.
    #[cfg(feature = "safetensors")]
    pub(super) fn sums(&self) -> [&Sum<S>; 2] {
        [&self.a, &self.g]
    }

    /// From sums and counts that fit each other.
    #[cfg(feature = "safetensors")]
    pub(super) fn from_sums(
        shape: LayerShape,
        sharing: Sharing,
        count: Count,
        [a, g]: [Sum<S>; 2],
        counts: Counts,
        par: Parallelism,
    ) -> Self {
        Self { shape, sharing, count, a, g, counts, par, fisher: PhantomData }
    }
}

/// The number of examples with an unmasked position.
fn examples<T: Real>(record: &LayerRecord<'_, T>) -> u64 {
    match record.mask() {
        None if record.positions() == 0 => 0,
        None => record.examples() as u64,
        Some(mask) => mask.chunks(record.positions().max(1)).filter(|mask| mask.contains(&true)).count() as u64,
    }
}

/// The sum or the mean of the rows of `x` over the unmasked positions of every example that has one. Summed in f64,
/// since the factors see only the rounded result.
fn pool<T: Real>(record: &LayerRecord<'_, T>, x: MatRef<'_, T>, mean: bool) -> Vec<T> {
    let mut out = Vec::new();
    // Examples without positions may be as many as there are numbers.
    if x.cols() == 0 || record.positions() == 0 {
        return out;
    }
    let mut sums = vec![0.0; x.cols()];
    for example in 0..record.examples() {
        let mut count = 0.0;
        sums.fill(0.0);
        for row in record.runs(example).flatten() {
            count += 1.0;
            for (sum, x) in sums.iter_mut().zip(x.row(row)) {
                *sum += x.to_f64();
            }
        }
        if count > 0.0 {
            let scale = if mean { count } else { 1.0 };
            out.extend(sums.iter().map(|sum| T::from_f64(sum / scale)));
        }
    }
    out
}

/// The covariances of a network's layers, by name and in the order in which they were put in.
///
/// # Examples
/// ```
/// use ascribe_solvers::curvature::{Count, Covariances, LayerCovariance, LayerShape, Sharing, Type2};
/// use ascribe_solvers::parallel::Parallelism::Serial;
/// let mut network = Covariances::<f32, Type2>::new();
/// let shape = LayerShape { d_in: 784, d_out: 10, bias: true };
/// network.insert("head", LayerCovariance::new(shape, Sharing::Expand, Count::Example, Serial)?)?;
/// assert_eq!(network.bytes(), 4 * (785 * 785 + 10 * 10));
/// assert!(network.get("head").is_some_and(|layer| layer.examples() == 0));
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Covariances<S, F> {
    layers: Vec<(String, LayerCovariance<S, F>)>,
}

impl<S, F> Default for Covariances<S, F> {
    fn default() -> Self {
        Self { layers: Vec::new() }
    }
}

impl<S: Real, F: Fisher> Covariances<S, F> {
    /// Of no layers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a layer behind the others.
    ///
    /// # Errors
    /// [`CoreError::Duplicate`] when there is one of this name.
    pub fn insert(&mut self, name: impl Into<String>, layer: LayerCovariance<S, F>) -> Result<(), Error> {
        let name = name.into();
        if let Some(index) = self.layers.iter().position(|(other, _)| *other == name) {
            return Err(CoreError::Duplicate { what: "layer name", index }.into());
        }
        self.layers.push((name, layer));
        Ok(())
    }

    /// The layer of that name.
    pub fn get(&self, name: &str) -> Option<&LayerCovariance<S, F>> {
        self.iter().find_map(|(other, layer)| (other == name).then_some(layer))
    }

    /// The layer of that name, to add to.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut LayerCovariance<S, F>> {
        self.layers.iter_mut().find_map(|(other, layer)| (other == name).then_some(layer))
    }

    /// Adds a record to layer `l`: see [`LayerCovariance::add`].
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

    /// The layers in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &LayerCovariance<S, F>)> {
        self.layers.iter().map(|(name, layer)| (name.as_str(), layer))
    }

    /// Adds what `other` has seen, layer by layer.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when the names or their order differ, else as [`LayerCovariance::merge`]. Nothing is
    /// added then.
    pub fn merge(&mut self, other: &Self) -> Result<(), Error> {
        if !self.iter().map(|(name, _)| name).eq(other.iter().map(|(name, _)| name)) {
            return Err(Error::Mismatch { what: "names of the layers" });
        }
        for ((_, own), (_, other)) in self.layers.iter().zip(&other.layers) {
            own.check_merge(other)?;
        }
        self.layers.iter_mut().zip(&other.layers).try_for_each(|((_, own), (_, other))| own.merge(other))
    }

    /// The memory of all sums; see [`LayerCovariance::bytes`].
    pub fn bytes(&self) -> usize {
        self.iter().map(|(_, layer)| layer.bytes()).sum()
    }
}
