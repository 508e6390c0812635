//! Shampoo's options, and settings that have won.

use ascribe_core::{Error as CoreError, Real};

use super::ShampooState;
use super::block_state::BlockState;
use crate::Error;
use crate::parallel::Parallelism;
use crate::precondition::optimizer::{check, check_beta, check_rate};
use crate::precondition::{Blocking, Grafting, Layout, RootEngine};

/// What weight decay is added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decay {
    /// The step, before momentum.
    Decoupled,
    /// The gradient.
    L2,
}

/// Shampoo. For each block of a layer, a tensor `W` with gradient `G` and `o` axes, at step `t = 1, 2, ..`:
///
/// $$L_a \leftarrow \beta_2 L_a + (1-\beta_2) G_{(a)} G_{(a)}^\top, \quad
/// P = F \times_1 \hat L_1^{-1/(2o)} \times_2 \cdots \times_o \hat L_o^{-1/(2o)}, \quad W \leftarrow W - \eta P,$$
///
/// with `G_(a)` the gradient unfolded along axis `a`, $\hat L = L/(1-\beta_2^t) + \epsilon I$ (from which a negative least
/// eigenvalue is taken away), and `F` the moving average of the gradients. For a matrix
/// `P = L^(-1/4) F R^(-1/4)`. Roots are computed every `frequency` steps; until the first, and where the roots fail, the
/// last good one (at first the identity) stands.
///
/// One step: L2 decay; factors, and second moments of the grafting; roots; `F = beta3 m + (1 - beta3) G`,
/// `m = beta1 m + (1 - beta1) G`, `F /= 1 - beta3 beta1^(t-1)`; `P`, with the norm of the grafted step; decoupled decay;
/// momentum. Before `start_step` the grafted step is made as it is.
///
/// Cost for a matrix `m x n`: `3 m n (m + n)` flops a step and `10 (m^3 + n^3)` for the roots, in f64. Memory:
/// `2 (m^2 + n^2)` numbers and one to three for each parameter.
///
/// # Errors
/// [`Shampoo::start`] refuses rates that are negative or not finite, a `beta1`, `beta3`, `momentum` or grafting `beta2`
/// outside `[0, 1)`, a `beta2` outside `[0, 1]`, frequencies of 0 and exponents that the engine cannot compute
/// ([`CoreError::Parameter`]); sizes that do not fit into memory ([`CoreError::Overflow`]).
///
/// # Examples
/// ```
/// use ascribe_solvers::{parallel::Parallelism, precondition::{Layout, Optimizer, Shampoo}};
/// let layout = Layout::new(&[("w", &[2, 2])])?;
/// let shampoo = Shampoo { learning_rate: 0.1, beta2: 0.9, ..Shampoo::default() };
/// let mut optimizer = shampoo.start(&layout, Parallelism::Serial)?;
/// let mut w = [3.0_f64, 0.0, 0.0, 0.01]; // a badly scaled |W|^2 / 2
/// for _ in 0..100 {
///     let gradient = w;
///     optimizer.step(&mut w, &gradient)?;
/// }
/// assert!(w.iter().all(|w| w.abs() < 0.3), "{w:?}");
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Gupta, Koren and Singer, arXiv:1802.09568, algorithm 1; Shi et al., arXiv:2309.06497. As in the code of the latter
/// and unlike its text, `epsilon` is added after the bias correction.
#[derive(Debug, Clone, PartialEq)]
pub struct Shampoo {
    /// `eta`; default 0.01.
    pub learning_rate: f64,
    /// Weight of the past in the mean of the gradients; 0 for none; default 0.9.
    pub beta1: f64,
    /// Weight of the past in the factors; 1 for plain sums; default 1.
    pub beta2: f64,
    /// Weight of the mean in `F`; `None`, the default, is `beta1`, and `beta1^2` gives something like NAdam.
    pub beta3: Option<f64>,
    /// Default 1e-12.
    pub epsilon: f64,
    /// Default 0.
    pub weight_decay: f64,
    /// Default [`Decay::Decoupled`].
    pub decay: Decay,
    /// Whether means are divided by the weight that they have so far; default true.
    pub bias_correction: bool,
    /// Default [`Grafting::None`].
    pub grafting: Grafting,
    /// Default 0: none.
    pub momentum: f64,
    /// Part of a step that momentum leaves away; default 0.
    pub dampening: f64,
    /// Nesterov's form of momentum; default false.
    pub nesterov: bool,
    /// Steps from root to root; default 1.
    pub frequency: u64,
    /// The first step with roots; `None`, the default, is `frequency`.
    pub start_step: Option<u64>,
    /// The exponent `e` of $\hat L_a^{-e}$ for each axis, 0 for the identity; `1/(2 o)` for axes beyond the list, which is
    /// empty by default.
    pub exponents: Vec<f64>,
    /// Default [`RootEngine::Eigen`].
    pub engine: RootEngine,
    /// Default: edges of 1024, short axes merged.
    pub blocking: Blocking,
}

impl Default for Shampoo {
    fn default() -> Self {
        Self {
            learning_rate: 0.01,
            beta1: 0.9,
            beta2: 1.0,
            beta3: None,
            epsilon: 1e-12,
            weight_decay: 0.0,
            decay: Decay::Decoupled,
            bias_correction: true,
            grafting: Grafting::None,
            momentum: 0.0,
            dampening: 0.0,
            nesterov: false,
            frequency: 1,
            start_step: None,
            exponents: Vec::new(),
            engine: RootEngine::Eigen,
            blocking: Blocking::default(),
        }
    }
}

/// Learning rate, `beta1`, `beta2`, weight decay, momentum of the points.
const ALGOPERF: [[f64; 5]; 5] = [
    [1.749e-3, 0.9327, 0.9955, 0.0812, 0.0],
    [1.438e-3, 0.9747, 0.9749, 1.97e-4, 0.0],
    [4.199, 0.0, 0.9976, 6.4e-5, 0.9685],
    [1.2e-3, 0.9834, 0.9941, 4.0e-4, 0.5],
    [1.308e-3, 0.9731, 0.9981, 0.1638, 0.0],
];

impl Shampoo {
    /// Point 1 to 5 of the search space of the submission that won the external tuning of AlgoPerf v0.5, rounded to four
    /// digits: grafting on Adam (on SGD at point 3), blocks of 1024, roots every 100 steps. The schedule, a linear
    /// warm-up over 2 to 10 % of the steps and a cosine, is the caller's
    /// ([`Optimizer::set_learning_rate`](crate::precondition::Optimizer::set_learning_rate)). One of the points also
    /// overrides the exponents by 1/2; which one is left to the caller.
    ///
    /// # Errors
    /// [`CoreError::Index`] for another number.
    pub fn algoperf(point: usize) -> Result<Self, Error> {
        let index = CoreError::Index { what: "points of AlgoPerf, from 1", index: point, len: ALGOPERF.len() + 1 };
        let &[learning_rate, beta1, beta2, weight_decay, momentum] =
            point.checked_sub(1).and_then(|at| ALGOPERF.get(at)).ok_or(index)?;
        let sgd = beta1 == 0.0;
        Ok(Self {
            learning_rate,
            beta1,
            beta2,
            beta3: (!sgd).then_some(beta1 * beta1),
            epsilon: 1e-8,
            weight_decay,
            grafting: if sgd { Grafting::Sgd } else { Grafting::Adam { beta2, epsilon: 1e-8 } },
            momentum,
            nesterov: true,
            frequency: 100,
            ..Self::default()
        })
    }

    /// A state with no step made.
    ///
    /// # Errors
    /// See [`Shampoo`].
    pub fn start<T: Real>(&self, layout: &Layout, par: Parallelism) -> Result<ShampooState<T>, Error> {
        let count = self.blocking.blocks(layout)?.len();
        self.start_on(layout, &(0..count).collect::<Vec<_>>(), par)
    }

    /// The state of a worker that is to step on the blocks with these numbers alone; see [`ShampooState`].
    ///
    /// # Errors
    /// See [`Shampoo`]; [`CoreError::Index`] or [`CoreError::Duplicate`] for a number that is none of a block or comes
    /// twice.
    pub fn start_on<T: Real>(
        &self,
        layout: &Layout,
        numbers: &[usize],
        par: Parallelism,
    ) -> Result<ShampooState<T>, Error> {
        self.check::<T>()?;
        let blocks = self.blocking.blocks(layout)?;
        let mut numbers = numbers.to_vec();
        numbers.sort_unstable();
        if let Some(pair) = numbers.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(CoreError::Duplicate { what: "blocks of a worker", index: pair[0] }.into());
        }
        let mut states = Vec::with_capacity(numbers.len());
        for index in numbers {
            let missing = CoreError::Index { what: "blocks of a worker", index, len: blocks.len() };
            states.push(BlockState::new(self, index, blocks.get(index).ok_or(missing)?)?);
        }
        Ok(ShampooState { options: self.clone(), layout: layout.clone(), par, steps: 0, largest: 0.0, blocks, states })
    }

    fn check<T: Real>(&self) -> Result<(), Error> {
        for (what, value) in [
            ("learning rate", self.learning_rate),
            ("weight decay", self.weight_decay),
            ("epsilon", self.epsilon),
            ("dampening", self.dampening),
        ] {
            check_rate(what, value)?;
        }
        check("dampening", self.dampening, self.dampening <= 1.0, "at most 1")?;
        for (what, value) in [("beta1", self.beta1), ("beta3", self.beta3()), ("momentum", self.momentum)] {
            check_beta(what, value)?;
        }
        check("beta2", self.beta2, (0.0..=1.0).contains(&self.beta2), "in [0, 1]")?;
        check("frequency", 0.0, self.frequency > 0, "at least 1")?;
        self.grafting.check::<T>()?;
        self.exponents.iter().try_for_each(|&e| check_rate("exponent", e))?;
        Ok(())
    }

    pub(super) fn beta3(&self) -> f64 {
        self.beta3.unwrap_or(self.beta1)
    }

    /// The exponent of an axis of a block with so many.
    pub(super) fn exponent(&self, axis: usize, axes: usize) -> f64 {
        self.exponents.get(axis).copied().unwrap_or(0.5 / axes as f64)
    }

    pub(super) fn start_at(&self) -> u64 {
        self.start_step.unwrap_or(self.frequency)
    }
}
