//! SOAP: Adam in the eigenbasis of Shampoo's factors.

use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};

use super::check::{check, check_beta, check_epsilon, check_rate};
use super::modes::{accumulate, products};
use super::state::{Common, Field, Kind, Saved, State, bias_correction, implement_optimizer, share};
use super::transpose::mirrored;
use super::{Blocking, Layout};
use crate::Error;
use crate::curvature::{Basis, Blocks, EigenBlock};
use crate::error::zeros;
use crate::linalg::{matmul, qr, symmetric_eigen};
use crate::parallel::{Parallelism, for_each};

/// SOAP. For each layer, a matrix `W` with gradient `G` (or a tensor, with a basis for each axis):
///
/// $$G' = Q_L^\top G Q_R, \quad m \leftarrow \beta_1 m + (1-\beta_1) G', \quad v \leftarrow \beta_2 v + (1-\beta_2) G'^2,
/// \quad W \leftarrow W - \eta_t\,Q_L \frac{m}{\sqrt v + \epsilon} Q_R^\top, \quad W \leftarrow (1 - \eta\lambda) W,$$
///
/// with $\eta_t = \eta \sqrt{1-\beta_2^t}/(1-\beta_1^t)$. After that the factors `L` and `R`, moving averages of `G G^T` and
/// `G^T G`, take the gradient in, and every `frequency` steps the bases follow them by one power step: the columns sorted
/// by `diag(Q^T L Q)`, `Q` the orthogonal factor of `L Q`. `m` is carried over to the new basis, `v` is sorted alone.
///
/// **The first gradient moves nothing**: it gives the first factors, whose eigenvectors the bases are. An axis longer than
/// `max_dim`, and the one of a vector, has the unit vectors as its basis, so that a vector is left to Adam.
///
/// Cost for a matrix `m x n`: `5 m n (m + n)` flops a step, and `16/3 (m^3 + n^3) + 4 m n (m + n)` when the bases change.
/// Memory: `2 (m^2 + n^2) + 2 m n` numbers.
///
/// # Errors
/// [`Soap::start`] refuses rates that are negative or not finite, a `beta` outside `[0, 1)`, an `epsilon` that is not
/// positive in `T`, a frequency of 0 ([`CoreError::Parameter`]); sizes that do not fit into memory
/// ([`CoreError::Overflow`]).
///
/// # Examples
/// ```
/// use ascribe_solvers::{parallel::Parallelism, precondition::{Layout, Optimizer, Soap}};
/// let layout = Layout::new(&[("w", &[2, 2])])?;
/// let mut optimizer = Soap { learning_rate: 0.1, ..Soap::default() }.start(&layout, Parallelism::Serial)?;
/// let mut w = [1.0_f64, 0.5, -0.5, 0.25];
/// for _ in 0..200 {
///     let gradient = w; // of |W|^2 / 2
///     optimizer.step(&mut w, &gradient)?;
/// }
/// assert!(w.iter().all(|w| w.abs() < 0.1), "{w:?}");
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Vyas et al., arXiv:2409.11321, algorithm 3.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Soap {
    /// `eta`; default 0.003.
    pub learning_rate: f64,
    /// Weight of the past in `m`; default 0.95.
    pub beta1: f64,
    /// Weight of the past in `v`; default 0.95.
    pub beta2: f64,
    /// Weight of the past in the factors; default 0.95.
    pub shampoo_beta: f64,
    /// Added to the root; default 1e-8.
    pub epsilon: f64,
    /// `lambda`; default 0.01.
    pub weight_decay: f64,
    /// Steps from one change of the bases to the next; default 10.
    pub frequency: u64,
    /// The longest axis with a basis of its own; default 10000.
    pub max_dim: usize,
    /// Whether `eta_t` differs from `eta`; default true.
    pub bias_correction: bool,
    /// Whether vectors have a basis too; default false.
    pub rotate_vectors: bool,
}

impl Default for Soap {
    fn default() -> Self {
        Self {
            learning_rate: 0.003,
            beta1: 0.95,
            beta2: 0.95,
            shampoo_beta: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.01,
            frequency: 10,
            max_dim: 10_000,
            bias_correction: true,
            rotate_vectors: false,
        }
    }
}

impl Soap {
    /// A state with no step made.
    ///
    /// # Errors
    /// See [`Soap`].
    pub fn start<T: Real>(&self, layout: &Layout, par: Parallelism) -> Result<SoapState<T>, Error> {
        check_rate("learning rate", self.learning_rate)?;
        check_rate("weight decay", self.weight_decay)?;
        for (what, value) in [("beta1", self.beta1), ("beta2", self.beta2), ("shampoo_beta", self.shampoo_beta)] {
            check_beta(what, value)?;
        }
        check_epsilon::<T>("epsilon", self.epsilon)?;
        check("frequency", 0.0, self.frequency > 0, "at least 1")?;
        // A layer whole, as one block.
        let blocks = Blocking { max_dim: usize::MAX, merge: false }.blocks(layout)?;
        let mut layers = Vec::with_capacity(blocks.len());
        for block in blocks {
            let axis = |&dim: &usize| {
                let rotated = dim <= self.max_dim && (block.shape().len() > 1 || self.rotate_vectors);
                let len = if rotated { dim.checked_mul(dim) } else { Some(0) };
                let (lower, basis) = (zeros("factor of a layer", len)?, zeros("basis of a layer", len)?);
                Ok::<_, Error>(Axis { dim, lower, basis, failures: 0 })
            };
            let axes = block.shape().iter().map(axis).collect::<Result<_, _>>()?;
            let moment = || zeros("moments of a layer", Some(block.len()));
            layers.push(Layer {
                index: block.layer(),
                shape: block.shape().to_vec(),
                axes,
                m: moment()?,
                v: moment()?,
            });
        }
        Ok(SoapState { options: *self, common: Common::new(layout, par), layers })
    }
}

/// [`Soap`] at work.
#[derive(Debug, Clone)]
pub struct SoapState<T> {
    options: Soap,
    /// Its steps are the gradients taken in; the first of them moved nothing.
    common: Common,
    layers: Vec<Layer<T>>,
}

#[derive(Debug, Clone)]
struct Layer<T> {
    index: usize,
    shape: Vec<usize>,
    axes: Vec<Axis<T>>,
    /// In the eigenbasis.
    m: Vec<T>,
    v: Vec<T>,
}

/// The basis of one axis; without elements for the unit vectors.
#[derive(Debug, Clone)]
struct Axis<T> {
    dim: usize,
    /// The lower triangle of the factor.
    lower: Vec<T>,
    /// The vectors as columns.
    basis: Vec<T>,
    failures: u64,
}

impl<T: Real> SoapState<T> {
    /// How often the new basis of an axis could not be computed, so that the old one was kept.
    pub fn basis_failures(&self) -> u64 {
        self.layers.iter().flat_map(|layer| &layer.axes).fold(0, |sum, axis| sum.saturating_add(axis.failures))
    }

    /// What SOAP has learned, as a curvature for inverse-curvature products: a block per layer with its bases and the
    /// eigenvalues `examples * v / (1 - beta2^t)`.
    ///
    /// It is EKFAC's block, for the Fisher matrix of the batch's mean gradient instead of one example's: `examples`, the
    /// size of that batch, makes it an estimate of the latter, up to the square of the mean gradient. See
    /// [`AdamWState::curvature`](super::AdamWState::curvature).
    ///
    /// # Errors
    /// [`CoreError::Empty`] before the second gradient, when there is no `v`; [`Error::Mismatch`] for a layer of more than
    /// two axes or without elements; [`Error::Block`] when `examples` is negative or not finite.
    pub fn curvature(&self, examples: f64) -> Result<Blocks<T>, Error> {
        let Common { layout, steps, .. } = &self.common;
        if *steps < 2 {
            return Err(CoreError::Empty { what: "steps of the optimizer" }.into());
        }
        let scale = examples / bias_correction(self.options.beta2, steps - 1);
        let block = |l: usize| {
            let name = layout.layers()[l].name();
            let basis = |axis: &Axis<T>| match axis.basis.len() {
                0 => Basis::Units(axis.dim),
                _ => Basis::Columns { dim: axis.dim, vectors: axis.basis.clone() },
            };
            let layer = self.layers.iter().find(|layer| layer.index == l);
            let (layer, left, right) = match layer.map(|layer| (layer, &layer.axes[..])) {
                Some((layer, [left, right])) => (layer, basis(left), basis(right)),
                Some((layer, [only])) => (layer, Basis::Units(1), basis(only)),
                _ => return Err(Error::Mismatch { what: "layer and a block with one or two bases" }.in_block(name)),
            };
            let values = layer.v.iter().map(|v| v.to_f64()).collect();
            let mut block = EigenBlock::from_parts(name, left, right, values)?;
            block.scale(scale)?;
            Ok(block)
        };
        Ok(Blocks::new((0..layout.layers().len()).map(block).collect::<Result<_, _>>()?))
    }
}

impl<T: Real> Layer<T> {
    fn bases(&self) -> impl Iterator<Item = Option<&[T]>> {
        self.axes.iter().map(|axis| (!axis.basis.is_empty()).then_some(&axis.basis[..]))
    }

    fn accumulate(&mut self, beta: f64, gradient: &[T], par: Parallelism) -> Result<(), Error> {
        for (number, axis) in self.axes.iter_mut().enumerate().filter(|(_, axis)| !axis.basis.is_empty()) {
            accumulate(&mut axis.lower, beta, 1.0 - beta, gradient, &self.shape, number, par)?;
        }
        Ok(())
    }

    /// The step with gradient number `t = 1, 2, ..` after the first.
    fn advance(&mut self, options: &Soap, t: u64, w: &mut [T], gradient: &[T], par: Parallelism) -> Result<(), Error> {
        let Soap { learning_rate, beta1, beta2, epsilon, weight_decay, .. } = *options;
        let mut rotated = gradient.to_vec();
        products(&mut rotated, self.bases(), true, &self.shape, par)?;
        let [b1, own1, b2, own2, epsilon] = [beta1, 1.0 - beta1, beta2, 1.0 - beta2, epsilon].map(T::from_f64);
        for ((g, m), v) in rotated.iter_mut().zip(&mut self.m).zip(&mut self.v) {
            *m = b1 * *m + own1 * *g;
            *v = b2 * *v + own2 * (*g * *g);
            *g = *m / (v.sqrt() + epsilon);
        }
        products(&mut rotated, self.bases(), false, &self.shape, par)?;
        let correction = bias_correction(beta2, t).sqrt() / bias_correction(beta1, t);
        let rate = T::from_f64(learning_rate * if options.bias_correction { correction } else { 1.0 });
        let keep = T::from_f64(1.0 - learning_rate * weight_decay);
        w.iter_mut().zip(&rotated).for_each(|(w, &step)| *w = keep * (*w - rate * step));

        self.accumulate(options.shampoo_beta, gradient, par)?;
        if t.is_multiple_of(options.frequency) {
            let mut m = self.m.clone();
            products(&mut m, self.bases(), false, &self.shape, par)?;
            for number in 0..self.axes.len() {
                let axis = &mut self.axes[number];
                if !axis.basis.is_empty() {
                    match axis.follow(par) {
                        Ok(order) => permute(&mut self.v, &self.shape, number, &order),
                        Err(_) => axis.failures = axis.failures.saturating_add(1),
                    }
                }
            }
            products(&mut m, self.bases(), true, &self.shape, par)?;
            self.m = m;
        }
        Ok(())
    }
}

impl<T: Real> Axis<T> {
    /// The eigenvectors of the factor, largest first.
    fn begin(&mut self, par: Parallelism) {
        let n = self.dim;
        let full = mirrored(&self.lower, n);
        if let Ok(eigen) = MatRef::new(&full, n, n).map_err(Error::from).and_then(|full| symmetric_eigen(full, par)) {
            let rows = self.basis.chunks_exact_mut(n).zip(eigen.vectors.chunks_exact(n));
            for (row, vectors) in rows {
                row.iter_mut().zip(vectors.iter().rev()).for_each(|(x, &vector)| *x = T::from_f64(vector));
            }
        } else {
            self.failures = self.failures.saturating_add(1);
            self.basis.iter_mut().step_by(n + 1).for_each(|x| *x = T::ONE);
        }
    }

    /// One power step from the old basis; the order of its columns.
    fn follow(&mut self, par: Parallelism) -> Result<Vec<usize>, Error> {
        let n = self.dim;
        let full = mirrored(&self.lower, n);
        let mut image = vec![T::ZERO; n * n];
        let (factor, basis) = (MatRef::new(&full, n, n)?, MatRef::new(&self.basis, n, n)?);
        matmul(MatMut::new(&mut image, n, n)?, T::ZERO, T::ONE, factor, basis, par)?;
        let mut quotients = vec![0.0; n];
        for (q, image) in self.basis.chunks_exact(n).zip(image.chunks_exact(n)) {
            for ((sum, q), x) in quotients.iter_mut().zip(q).zip(image) {
                *sum += q.to_f64() * x.to_f64();
            }
        }
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| quotients[b].total_cmp(&quotients[a]));
        permute(&mut image, &[n, n], 1, &order);
        self.basis = qr(MatRef::new(&image, n, n)?)?.q;
        Ok(order)
    }
}

/// `x_{.. i ..} <- x_{.. order[i] ..}` along an axis.
fn permute<T: Copy>(x: &mut [T], shape: &[usize], axis: usize, order: &[usize]) {
    let inner: usize = shape[axis + 1..].iter().product();
    for slab in x.chunks_exact_mut((shape[axis] * inner).max(1)) {
        let old = slab.to_vec();
        for (new, &from) in slab.chunks_exact_mut(inner.max(1)).zip(order) {
            new.copy_from_slice(&old[from * inner..(from + 1) * inner]);
        }
    }
}

impl<T: Real> Saved<T> for SoapState<T> {
    #[cfg(feature = "safetensors")]
    const KIND: &'static str = "soap";

    #[cfg(feature = "safetensors")]
    fn shapes(&self) -> Vec<(&str, Vec<usize>)> {
        self.common.shapes()
    }

    fn fields(&mut self) -> Vec<(String, Field<'_, T>)> {
        let mut fields = self.common.fields();
        for layer in &mut self.layers {
            fields.push((format!("{}.m", layer.index), Field::Numbers(Kind::Average, &mut layer.m)));
            fields.push((format!("{}.v", layer.index), Field::Numbers(Kind::Squares, &mut layer.v)));
            for (number, axis) in layer.axes.iter_mut().enumerate() {
                let name = |part: &str| format!("{}.{number}.{part}", layer.index);
                fields.push((name("factor"), Field::Numbers(Kind::Covariance, &mut axis.lower)));
                fields.push((name("basis"), Field::Numbers(Kind::Basis, &mut axis.basis)));
                fields.push((name("failures"), Field::Count(&mut axis.failures)));
            }
        }
        fields
    }
}

impl<T: Real> State<T> for SoapState<T> {
    fn common(&self) -> &Common {
        &self.common
    }

    fn common_mut(&mut self) -> &mut Common {
        &mut self.common
    }

    fn reach(&self, params: f64, gradient: f64) -> f64 {
        let Soap { learning_rate, beta1, beta2, epsilon, weight_decay, .. } = self.options;
        let largest = self.common.largest.max(gradient);
        // The norm of the quotient is that of m over epsilon at most, and rotations keep it.
        let step = 2.0 * largest / epsilon;
        let moved = params + learning_rate / (1.0 - beta1) * step;
        // Bases of a file are orthonormal by their word alone: what is tested is that no row is longer than 1.1.
        let longest = self.layers.iter().flat_map(|layer| &layer.shape).fold(1, |n, &dim| n.max(dim)) as f64;
        let order = self.layers.iter().map(|layer| layer.shape.len()).max().unwrap_or(0);
        let rotation = (1.3 * longest).powi(order as i32);
        let squares = (largest * rotation).powi(2) / (1.0 - beta2);
        squares + rotation * (step + moved * (1.0 + learning_rate * weight_decay)) + learning_rate / (1.0 - beta1)
    }

    fn advance(&mut self, t: u64, params: &mut [T], gradients: &[T]) -> Result<(), Error> {
        let cost = |layer: &Layer<T>| layer.m.len() as f64 * layer.shape.iter().sum::<usize>() as f64;
        let [outer, inner] = share(self.common.par, self.layers.iter().map(cost));
        let (options, mut rest, mut taken) = (&self.options, params, 0);
        let mut tasks = Vec::with_capacity(self.layers.len());
        for layer in &mut self.layers {
            let range = self.common.layout.layers()[layer.index].range();
            let (w, others) = std::mem::take(&mut rest).split_at_mut(range.len());
            debug_assert_eq!(taken, range.start, "layers without elements are left out, and have no length");
            (rest, taken) = (others, range.end);
            tasks.push((layer, w, &gradients[range]));
        }
        for_each(outer, tasks, |(layer, w, gradient): (&mut Layer<T>, &mut [T], &[T])| {
            if t > 1 {
                return layer.advance(options, t - 1, w, gradient, inner);
            }
            // Every axis has its place before the first basis is there: begin() fills it.
            layer.accumulate(options.shampoo_beta, gradient, inner)?;
            layer.axes.iter_mut().filter(|axis| !axis.basis.is_empty()).for_each(|axis| axis.begin(inner));
            Ok(())
        })
    }
}

implement_optimizer!(SoapState);
