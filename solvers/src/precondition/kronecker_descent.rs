//! Gradient descent with momentum under a preconditioner that is a Kronecker product: KL-Shampoo's step, for any root.

use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};

use super::spectral::check_unit;
use super::{KroneckerReport, KroneckerSpectral, KroneckerState};
use crate::Error;
use crate::error::{check_finite, check_shape, zeros};

/// `W <- (1 - lr weight_decay) (W - lr P)`, where `P` is the moving average of gradients under an inverse root of the
/// preconditioner, which then learns from the gradient.
///
/// The first gradient only [initialises](KroneckerState::initialise) the preconditioner, and no weight moves. Without
/// corrections of the bias of the averages.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef};
/// use ascribe_solvers::precondition::KroneckerDescent;
/// let mut state = KroneckerDescent { lr: 0.05, ..Default::default() }.start::<f64>(2, 2)?;
/// let mut w = [1.0, 2.0, 3.0, 4.0];
/// for _ in 0..300 {
///     let gradient = w; // of |W|^2 / 2
///     state.step(MatMut::new(&mut w, 2, 2)?, MatRef::new(&gradient, 2, 2)?)?;
/// }
/// assert!(w.iter().all(|x| x.abs() < 0.3));
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KroneckerDescent {
    /// The learning rate; default 1e-3.
    pub lr: f64,
    /// The momentum, in `0 ..= 1`; default 0.9.
    pub beta1: f64,
    /// The root: 2, the default, divides by the root of the curvature, as Adam and Shampoo do; 1 by the curvature.
    pub p: f64,
    /// What is added to the root; default 1e-8.
    pub epsilon: f64,
    /// Decoupled weight decay; default 0.
    pub weight_decay: f64,
    /// The preconditioner.
    pub preconditioner: KroneckerSpectral,
}

impl Default for KroneckerDescent {
    fn default() -> Self {
        let preconditioner = KroneckerSpectral::default();
        Self { lr: 1e-3, beta1: 0.9, p: 2.0, epsilon: 1e-8, weight_decay: 0.0, preconditioner }
    }
}

/// The optimizer of one weight; see [`KroneckerDescent`].
#[derive(Debug, Clone, PartialEq)]
pub struct KroneckerDescentState<T> {
    options: KroneckerDescent,
    preconditioner: KroneckerState<T>,
    /// Empty before the first gradient.
    momentum: Vec<T>,
}

impl KroneckerDescent {
    /// The optimizer of a weight `[rows, cols]`.
    ///
    /// # Errors
    /// As [`KroneckerSpectral::start`]; [`CoreError::Parameter`] for an option outside its range.
    pub fn start<T: Real>(self, rows: usize, cols: usize) -> Result<KroneckerDescentState<T>, Error> {
        check_unit("beta1", self.beta1)?;
        for (what, value) in [("lr", self.lr), ("epsilon", self.epsilon), ("weight_decay", self.weight_decay)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(CoreError::Parameter { what, value, must_be: "finite and at least 0" }.into());
            }
        }
        if !self.p.is_finite() || self.p == 0.0 {
            return Err(CoreError::Parameter { what: "root p", value: self.p, must_be: "finite and not 0" }.into());
        }
        let preconditioner = self.preconditioner.start(rows, cols)?;
        Ok(KroneckerDescentState { options: self, preconditioner, momentum: Vec::new() })
    }
}

impl<T: Real> KroneckerDescentState<T> {
    /// The preconditioner so far.
    pub fn preconditioner(&self) -> &KroneckerState<T> {
        &self.preconditioner
    }

    /// Moves the weight by its gradient, and learns from that.
    ///
    /// Cost: [`KroneckerState::precondition`] and [`KroneckerState::step`]; memory for two gradients besides.
    ///
    /// # Errors
    /// A shape error; [`CoreError::NonFinite`] for NaN or infinity in the gradient, or a weight that would become so.
    /// Weight and state are untouched.
    pub fn step(&mut self, mut weight: MatMut<'_, T>, gradient: MatRef<'_, T>) -> Result<KroneckerReport, Error> {
        let [r, c] = self.preconditioner.shape();
        check_shape("rows of the weight", r, weight.rows())?;
        check_shape("columns of the weight", c, weight.cols())?;
        check_shape("rows of the gradient", r, gradient.rows())?;
        check_shape("columns of the gradient", c, gradient.cols())?;
        let flat: Vec<T> = gradient.row_iter().flatten().copied().collect();
        let gradients = MatRef::from_row(&flat);
        if self.momentum.is_empty() {
            self.preconditioner.initialise(gradients)?;
            self.momentum = vec![T::ZERO; r * c];
            return Ok(KroneckerReport::default());
        }
        check_finite("gradient", &flat)?;
        let KroneckerDescent { lr, beta1, p, epsilon, weight_decay, .. } = self.options;
        let (keep, add) = (T::from_f64(beta1), T::from_f64(1.0 - beta1));
        let momentum: Vec<T> = self.momentum.iter().zip(&flat).map(|(&m, &g)| keep * m + add * g).collect();
        let mut moved: Vec<T> = zeros("step", Some(r * c))?;
        let (out, direction) = (MatMut::new(&mut moved, r, c)?, MatRef::new(&momentum, r, c)?);
        self.preconditioner.precondition(out, direction, p, epsilon)?;
        let (lr, shrink) = (T::from_f64(lr), T::from_f64(1.0 - lr * weight_decay));
        for (i, moved) in moved.chunks_exact_mut(c).enumerate() {
            moved.iter_mut().zip(weight.as_ref().row(i)).for_each(|(x, &w)| *x = shrink * (w - lr * *x));
        }
        check_finite("weight", &moved)?;
        let report = self.preconditioner.step(gradients)?;
        self.momentum = momentum;
        weight.copy_from(MatRef::new(&moved, r, c)?)?;
        Ok(report)
    }
}
