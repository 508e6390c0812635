//! Masks that are learned: which coordinates keep the inner products of gradients.

mod products;

use self::products::{Gradients, Products, by_mask};
use crate::error::{Error, check_shape};
use crate::linop::zeros;
use crate::random::Stream;
use crate::rank::{Direction, Ranked};
use crate::record::LayerRecord;
use crate::scalar::{Real, Scalar};
use crate::view::MatRef;
use alloc::vec::Vec;

/// The lowest temperature.
const COLDEST: f64 = 0.01;

/// Learns which coordinates of gradients to keep, so that inner products with the kept ones correlate with those of
/// all.
///
/// A coordinate has a logit `S_i` and the soft mask $m_i = \sigma(S_i / \tau)$. For queries `a` and training examples
/// `b`, with $K_{ab} = \langle g_a, g_b \rangle$, $\hat K_{ab} = \sum_i m_i^2 g_{ai} g_{bi}$ and both centred over
/// `b`,
///
/// $$L = -\mathop{\mathrm{mean}}_a \frac{\sum_b K_{ab} \hat K_{ab}}{\sqrt{v_a \hat v_a + \epsilon}}
///   + \lambda f \sum_i m_i, \qquad v_a = \sum_b K_{ab}^2,\\ \hat v_a = \sum_b \hat K_{ab}^2.$$
///
/// The mean is over queries with `v > eps` and `v^ > eps`. `f` relaxes the penalty where few coordinates are left:
/// with `active` of them above one half, it is `max(0.1, active / (2 min_active))` up to twice `min_active`, else 1;
/// it counts as a constant in the gradient.
///
/// [`learn`](Self::learn) masks coordinates of gradients, [`learn_factors`](Self::learn_factors) the outputs and inputs
/// of a layer, from records: there the mask of entry `(o, i)` is `m_o m_i`, and each factor has its penalty.
///
/// Each step of Adam takes the queries and a block of training examples; an epoch visits the blocks in a random order.
/// After a step with fewer than `min_active` active coordinates, the `min_active` largest logits are set to `2 tau`.
/// At the end the active coordinates are selected, or the `min_active` largest logits if there are fewer, or the
/// `max_active` largest if there are more; the lower index first among equal ones.
///
/// Cost of a step with `q` queries and `b` examples: `6 q b p` flops; from records, twice the forming of their
/// gradients beside. Memory: `q b` and 4096 elements of each gradient (at least one row of a layer's).
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, random::Stream, sketch::SelectiveMask};
/// let options = SelectiveMask { min_active: 2, max_active: 2, learning_rate: 0.1, epochs: 50, ..Default::default() };
/// // Coordinates 0 and 2 are a hundred times as large as the others.
/// let entry = |i: u64| [1.0, 0.01, 1.0, 0.01][i as usize % 4] * (Stream::new(0, "data").uniform(i, 0) - 0.5);
/// let (query, train): (Vec<f64>, Vec<f64>) = ((0..20).map(entry).collect(), (20..80).map(entry).collect());
/// let (query, train) = (MatRef::new(&query, 5, 4)?, MatRef::new(&train, 15, 4)?);
/// let learned = options.learn(query, train, Stream::new(0, "mask"))?;
/// assert_eq!(learned.indices, [0, 2]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
///
/// # References
/// Hu et al., arXiv:2505.18976, section 3.3 and its code, from which two things differ: the factored form there pairs
/// inputs and output gradients of different examples (two loaders, shuffled apart), and a step may be taken twice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SelectiveMask {
    /// `lambda`, the weight of the penalty; 5e-5 for language models and 1e-6 for small networks in the paper's code.
    pub lambda: f64,
    /// `eps`, below which a variance counts as none.
    pub eps: f64,
    /// The fewest coordinates that stay active.
    pub min_active: usize,
    /// The most that are selected.
    pub max_active: usize,
    /// Adam's step size.
    pub learning_rate: f64,
    /// Passes over the training examples.
    pub epochs: usize,
    /// Training examples of a step; 0 for all.
    pub batch: usize,
    /// `tau` at first.
    pub temperature: f64,
    /// `tau = max(0.01, temperature exp(-cooling epoch))`.
    pub cooling: f64,
    /// Every so many epochs the mean Spearman correlation of `K` and `K^` is looked at; 0 for never.
    pub check_every: usize,
    /// Learning stops when it is below this.
    pub stop_below: f64,
}

impl Default for SelectiveMask {
    /// The settings of the paper's code for layers of language models, with steps that suit 4096 of 16384 coordinates.
    fn default() -> Self {
        Self {
            lambda: 5e-5,
            eps: 1e-6,
            min_active: 4096,
            max_active: 8192,
            learning_rate: 1e-5,
            epochs: 500,
            batch: 100,
            temperature: 1.0,
            cooling: 0.0,
            check_every: 0,
            stop_below: 0.9,
        }
    }
}

/// The objective of a [`SelectiveMask`] and its gradient.
#[derive(Debug, Clone, PartialEq)]
pub struct MaskLoss {
    /// `L`.
    pub loss: f64,
    /// The gradient of `L` in each logit; those of the outputs before those of the inputs.
    pub gradient: Vec<f64>,
    /// The correlation of each query, none where a variance is too small.
    pub correlations: Vec<Option<f64>>,
    /// The number of active coordinates: of all, or of the outputs and of the inputs.
    pub active: Vec<usize>,
}

/// A mask that was learned.
#[derive(Debug, Clone, PartialEq)]
pub struct LearnedMask {
    /// The coordinates to keep, ascending: what [`Mask::new`](super::Mask::new) takes.
    pub indices: Vec<usize>,
    /// The logits at the end.
    pub logits: Vec<f64>,
    /// The epochs that were run; fewer than asked for when learning was stopped.
    pub epochs: usize,
}

impl SelectiveMask {
    /// The objective of masks of coordinates, for gradients `query` `[q, p]` and `train` `[n, p]`, at the temperature
    /// `tau`.
    ///
    /// # Errors
    /// [`Error::Shape`] when a length does not fit; [`Error::Parameter`] for an option or `tau` out of range;
    /// [`Error::NonFinite`] with the query whose inner products are not finite; [`Error::Overflow`] when `q n` numbers
    /// or as many as there are logits cannot be allocated.
    pub fn loss<T: Real>(
        &self,
        query: MatRef<'_, T>,
        train: MatRef<'_, T>,
        logits: &[f64],
        tau: f64,
    ) -> Result<MaskLoss, Error> {
        check_shape("train columns", query.cols(), train.cols())?;
        self.evaluate(Gradients::Rows(query), Gradients::Rows(train), &[logits], tau)
    }

    /// The objective of a mask of outputs and one of inputs (the appended 1 included) of a layer.
    ///
    /// # Errors
    /// As [`loss`](Self::loss).
    pub fn loss_factors<T: Real>(
        &self,
        query: &LayerRecord<'_, T>,
        train: &LayerRecord<'_, T>,
        logits: [&[f64]; 2],
        tau: f64,
    ) -> Result<MaskLoss, Error> {
        check_layers(query, train)?;
        self.evaluate(Gradients::Record(*query), Gradients::Record(*train), &logits, tau)
    }

    /// Learns a mask of coordinates from gradients `query` `[q, p]` and `train` `[n, p]`. The logits start as normal
    /// numbers of deviation 0.01 from `stream`.
    ///
    /// # Errors
    /// As [`loss`](Self::loss).
    pub fn learn<T: Real>(
        &self,
        query: MatRef<'_, T>,
        train: MatRef<'_, T>,
        stream: Stream,
    ) -> Result<LearnedMask, Error> {
        check_shape("train columns", query.cols(), train.cols())?;
        let dims = [query.cols()];
        let [mask] = self.train(Gradients::Rows(query), Gradients::Rows(train), dims, stream)?;
        Ok(mask)
    }

    /// Learns a mask of outputs and one of inputs, the appended 1 included: what
    /// [`FactGrass`](super::FactGrass) takes. `min_active` and `max_active` hold for each.
    ///
    /// # Errors
    /// As [`loss`](Self::loss).
    pub fn learn_factors<T: Real>(
        &self,
        query: &LayerRecord<'_, T>,
        train: &LayerRecord<'_, T>,
        stream: Stream,
    ) -> Result<[LearnedMask; 2], Error> {
        check_layers(query, train)?;
        let dims = [query.d_out(), query.weight_cols()];
        self.train(Gradients::Record(*query), Gradients::Record(*train), dims, stream)
    }

    fn check(&self, tau: f64) -> Result<(), Error> {
        let ranges = [
            ("lambda", self.lambda, self.lambda >= 0.0, "finite and not negative"),
            ("eps", self.eps, self.eps > 0.0, "positive and finite"),
            ("learning rate", self.learning_rate, self.learning_rate >= 0.0, "finite and not negative"),
            ("temperature", tau, tau > 0.0, "positive and finite"),
            ("cooling", self.cooling, self.cooling >= 0.0, "finite and not negative"),
        ];
        match ranges.into_iter().find(|(_, value, inside, _)| !(value.is_finite() && *inside)) {
            Some((what, value, _, must_be)) => Err(Error::Parameter { what, value, must_be }),
            None => Ok(()),
        }
    }

    fn evaluate<T: Real>(
        &self,
        query: Gradients<'_, T>,
        train: Gradients<'_, T>,
        logits: &[&[f64]],
        tau: f64,
    ) -> Result<MaskLoss, Error> {
        self.check(tau)?;
        for (logits, dim) in logits.iter().zip(query.dims()) {
            check_shape("logits", dim, logits.len())?;
        }
        let masks: Vec<Vec<f64>> = logits.iter().map(|logits| soft(logits, tau)).collect();
        let parts = [&masks[0][..], masks.get(1).map_or(&[1.0][..], |mask| mask)];
        let (correlations, weights) = Products::new(query, train, parts)?.correlations(self.eps)?;
        let share = 1.0 / correlations.iter().flatten().count().max(1) as f64;
        let mut loss = -share * correlations.iter().flatten().sum::<f64>();
        let by_mask = by_mask(query, train, parts, &weights)?;
        let (mut gradient, mut active) = (Vec::new(), Vec::new());
        for (mask, by_mask) in masks.iter().zip(by_mask) {
            let above = mask.iter().filter(|m| **m > 0.5).count();
            let penalty = self.lambda * relaxation(above, self.min_active);
            loss += penalty * mask.iter().sum::<f64>();
            gradient.extend(mask.iter().zip(by_mask).map(|(m, d)| (penalty - share * d) * m * (1.0 - m) / tau));
            active.push(above);
        }
        Ok(MaskLoss { loss, gradient, correlations, active })
    }

    fn train<T: Real, const N: usize>(
        &self,
        query: Gradients<'_, T>,
        train: Gradients<'_, T>,
        dims: [usize; N],
        stream: Stream,
    ) -> Result<[LearnedMask; N], Error> {
        self.check(self.temperature)?;
        let len = dims.iter().try_fold(0_usize, |len, &dim| len.checked_add(dim));
        let len = len.ok_or(Error::Overflow { what: "logits" })?;
        let starts: [usize; N] = core::array::from_fn(|part| dims[..part].iter().sum());
        let mut logits: Vec<f64> = zeros("logits", len)?;
        let mut draws = stream.draws();
        logits.fill_with(|| 0.01 * draws.next_normal());
        let mut adam = Adam::new(len)?;
        let examples = train.examples();
        let batch = if self.batch == 0 { examples } else { self.batch.min(examples) };
        let mut order: Vec<usize> = Vec::new();
        let batches = examples.div_ceil(batch.max(1));
        order.try_reserve_exact(batches).map_err(|_| Error::Overflow { what: "batches" })?;
        order.extend((0..examples).step_by(batch.max(1)));
        let mut epochs = 0;
        while epochs < self.epochs {
            let tau = COLDEST.max(self.temperature * Scalar::exp(-self.cooling * epochs as f64));
            draws.shuffle(&mut order);
            for &first in &order {
                let block = train.block(first, batch.min(examples - first))?;
                let parts: [&[f64]; N] = core::array::from_fn(|part| &logits[starts[part]..][..dims[part]]);
                let loss = self.evaluate(query, block, &parts, tau)?;
                adam.step(&mut logits, &loss.gradient, self.learning_rate);
                for (start, dim) in starts.into_iter().zip(dims) {
                    self.keep_active(&mut logits[start..][..dim], tau);
                }
            }
            epochs += 1;
            if self.check_every > 0 && epochs.is_multiple_of(self.check_every) {
                let masks: [Vec<f64>; N] =
                    core::array::from_fn(|part| soft(&logits[starts[part]..][..dims[part]], tau));
                let parts = [&masks[0][..], masks.get(1).map_or(&[1.0][..], |mask| mask)];
                if Products::new(query, train, parts)?.mean_spearman()? < self.stop_below {
                    break;
                }
            }
        }
        Ok(core::array::from_fn(|part| {
            let logits = logits[starts[part]..][..dims[part]].to_vec();
            LearnedMask { indices: self.select(&logits), logits, epochs }
        }))
    }

    /// Raises the largest logits when too few are active.
    fn keep_active(&self, logits: &mut [f64], tau: f64) {
        let least = self.min_active.min(logits.len());
        if logits.iter().filter(|logit| **logit > 0.0).count() < least {
            for index in largest(logits, least) {
                logits[index] = 2.0 * tau;
            }
        }
    }

    fn select(&self, logits: &[f64]) -> Vec<usize> {
        let active = logits.iter().filter(|logit| **logit > 0.0).count();
        let count = active.min(self.max_active).max(self.min_active.min(logits.len()));
        let mut indices = largest(logits, count);
        indices.sort_unstable();
        indices
    }
}

fn check_layers<T: Real>(query: &LayerRecord<'_, T>, train: &LayerRecord<'_, T>) -> Result<(), Error> {
    check_shape("layer outputs", query.d_out(), train.d_out())?;
    check_shape("layer inputs, with the bias", query.weight_cols(), train.weight_cols())
}

/// `sigma(S / tau)`.
fn soft(logits: &[f64], tau: f64) -> Vec<f64> {
    logits.iter().map(|logit| 1.0 / (1.0 + Scalar::exp(-logit / tau))).collect()
}

/// `f`.
fn relaxation(active: usize, min_active: usize) -> f64 {
    let twice = 2.0 * min_active as f64;
    if active as f64 <= twice && twice > 0.0 { (active as f64 / twice).max(0.1) } else { 1.0 }
}

/// The indices of the `count` largest.
fn largest(logits: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<_> = logits.iter().enumerate().map(|(index, &score)| Ranked { score, index }).collect();
    order.sort_unstable_by(|a, b| Direction::Largest.compare(a, b));
    order.iter().take(count).map(|ranked| ranked.index).collect()
}

/// The moments of Kingma and Ba, arXiv:1412.6980, with their default decays.
struct Adam {
    first: Vec<f64>,
    second: Vec<f64>,
    decays: [f64; 2],
}

impl Adam {
    fn new(len: usize) -> Result<Self, Error> {
        Ok(Self { first: zeros("first moments", len)?, second: zeros("second moments", len)?, decays: [1.0; 2] })
    }

    fn step(&mut self, x: &mut [f64], gradient: &[f64], rate: f64) {
        self.decays[0] *= 0.9;
        self.decays[1] *= 0.999;
        let [bias1, bias2] = self.decays.map(|decay| 1.0 - decay);
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((x, &g), (m, v)) in x.iter_mut().zip(gradient).zip(moments) {
            *m += 0.1 * (g - *m);
            *v += 0.001 * (g * g - *v);
            *x -= rate * (*m / bias1) / (Scalar::sqrt(*v / bias2) + 1e-8);
        }
    }
}
