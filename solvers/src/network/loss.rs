//! Losses: value, gradient and Hessian in the network's outputs, and the law that each one is the likelihood of.
//!
//! For every loss the Hessian in the outputs `z` is also the Fisher information of the law `p(y | z)`, so the
//! Gauss-Newton matrix and the true Fisher agree.

use core::fmt;
use core::str::FromStr;

use ascribe_core::random::Draws;
use ascribe_core::{MatRef, Real};

use super::activation::{sigmoid, softplus};
use crate::Error;
use crate::error::{check_rows_finite, check_shape};

/// A per-example loss of the outputs `z`. Nothing is ever divided by the number of outputs.
///
/// | loss | value | Hessian in `z` | law of `y` |
/// |---|---|---|---|
/// | `CrossEntropy` | `logsumexp(z) - z_y` | `diag(p) - p p^T` | categorical, `p = softmax(z)` |
/// | `HalfMse` | `1/2 sum (z - y)^2` | `I` | `N(z, I)` |
/// | `SumMse` | `sum (z - y)^2` | `2 I` | `N(z, I/2)` |
/// | `Bce` | `sum softplus(z) - y z` | `diag(s (1 - s))` | Bernoulli, `s = sigmoid(z)` |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Loss {
    /// Softmax cross entropy with one class label per example.
    CrossEntropy,
    /// Half the squared error.
    HalfMse,
    /// The squared error.
    SumMse,
    /// Binary cross entropy with logits; targets may be any value in `[0, 1]`.
    Bce,
}

impl FromStr for Loss {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "ce" => Ok(Self::CrossEntropy),
            "half_mse" => Ok(Self::HalfMse),
            "sum_mse" => Ok(Self::SumMse),
            "bce" => Ok(Self::Bce),
            _ => Err(Error::Name { expected: "a loss: ce, half_mse, sum_mse or bce" }),
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CrossEntropy => "ce",
            Self::HalfMse => "half_mse",
            Self::SumMse => "sum_mse",
            Self::Bce => "bce",
        })
    }
}

/// What the outputs are compared with.
#[derive(Debug, Clone, Copy)]
pub enum Targets<'a, T> {
    /// One class per example, for [`Loss::CrossEntropy`].
    Classes(&'a [usize]),
    /// `[examples, outputs]`, for the other losses.
    Values(MatRef<'a, T>),
}

impl<T: Real> Targets<'_, T> {
    /// The number of examples.
    pub fn examples(&self) -> usize {
        match self {
            Self::Classes(labels) => labels.len(),
            Self::Values(values) => values.rows(),
        }
    }

    /// Checks that the targets fit `loss`, the number of examples and the number of outputs.
    pub(crate) fn check(&self, loss: Loss, examples: usize, outputs: usize) -> Result<(), Error> {
        check_shape("targets", examples, self.examples())?;
        match (self, loss) {
            (Self::Classes(labels), Loss::CrossEntropy) => match labels.iter().position(|&label| label >= outputs) {
                None => Ok(()),
                Some(example) => Err(Error::Label { example, label: labels[example], classes: outputs }),
            },
            (Self::Values(values), Loss::HalfMse | Loss::SumMse | Loss::Bce) => {
                check_shape("target columns", outputs, values.cols())?;
                check_rows_finite("targets", *values)?;
                Ok(())
            }
            (Self::Values(_), Loss::CrossEntropy) => Err(Error::Targets { needs: "class labels" }),
            (Self::Classes(_), _) => Err(Error::Targets { needs: "a matrix of target values" }),
        }
    }
}

/// The target of one example.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target<'a, T> {
    Class(usize),
    Values(&'a [T]),
}

impl<'a, T> Targets<'a, T> {
    pub(crate) fn get(&self, example: usize) -> Target<'a, T> {
        match self {
            Self::Classes(labels) => Target::Class(labels[example]),
            Self::Values(values) => Target::Values(values.row(example)),
        }
    }
}

impl Loss {
    /// The length of one example's `state`, what the Hessian needs to know about it: the probabilities of a
    /// cross entropy, the variances of a binary one, nothing for a squared error.
    pub(crate) fn state_len(self, outputs: usize) -> usize {
        match self {
            Self::CrossEntropy | Self::Bce => outputs,
            Self::HalfMse | Self::SumMse => 0,
        }
    }

    /// Loss and gradient of one example at outputs `z`; fills `gradient` and `state`.
    ///
    /// Where an output saturates, the differences `p - 1` are computed as sums of the other probabilities.
    pub(crate) fn evaluate<T: Real>(self, z: &[T], target: Target<'_, T>, gradient: &mut [T], state: &mut [T]) -> T {
        match (self, target) {
            (Self::CrossEntropy, Target::Class(label)) => {
                let top = softmax(z, state);
                let mut others = T::ZERO;
                for (j, &p) in state.iter().enumerate() {
                    if j != label {
                        others += p;
                    }
                }
                gradient.copy_from_slice(state);
                gradient[label] = -others;
                // ln(sum of e^(z - z_top)) from what the top leaves over: exact when the top is certain.
                let mut rest = T::ZERO;
                for (j, &v) in z.iter().enumerate() {
                    if j != top {
                        rest += (v - z[top]).exp();
                    }
                }
                rest.ln_1p() + (z[top] - z[label])
            }
            (Self::HalfMse, Target::Values(y)) => squared_error(z, y, gradient, T::ONE),
            (Self::SumMse, Target::Values(y)) => squared_error(z, y, gradient, T::from_f64(2.0)),
            (Self::Bce, Target::Values(y)) => {
                let mut sum = T::ZERO;
                for (((&z, &y), g), v) in z.iter().zip(y).zip(gradient).zip(state) {
                    let (s, complement) = (sigmoid(z), sigmoid(-z));
                    *g = (T::ONE - y) * s - y * complement;
                    *v = s * complement;
                    // y softplus(-z) + (1 - y) softplus(z): no cancellation for y = 0 or 1.
                    sum += y * softplus(-z) + (T::ONE - y) * softplus(z);
                }
                sum
            }
            _ => unreachable!("targets are checked against the loss before any example is evaluated"),
        }
    }

    /// Replaces `u` by `H_z u` for one example.
    pub(crate) fn hessian_in_place<T: Real>(self, state: &[T], u: &mut [T]) {
        match self {
            Self::CrossEntropy => {
                // H (u - u_top 1) = H u, and the shift leaves no large terms to cancel when p_top is near 1.
                let Some(top) = argmax(state) else { return };
                let shift = u[top];
                let mut mean = T::ZERO;
                for (x, &p) in u.iter_mut().zip(state) {
                    *x -= shift;
                    mean += p * *x;
                }
                for (x, &p) in u.iter_mut().zip(state) {
                    *x = p * (*x - mean);
                }
            }
            Self::HalfMse => {}
            Self::SumMse => u.iter_mut().for_each(|x| *x *= T::from_f64(2.0)),
            Self::Bce => u.iter_mut().zip(state).for_each(|(x, &v)| *x *= v),
        }
    }

    /// The number of columns of [`Loss::factor_column`]'s factor: one less than the outputs for a cross entropy,
    /// whose Hessian has the null vector 1.
    pub(crate) fn factor_rank(self, outputs: usize) -> usize {
        match self {
            Self::CrossEntropy => outputs.saturating_sub(1),
            Self::HalfMse | Self::SumMse | Self::Bce => outputs,
        }
    }

    /// Column `r` of a matrix `S` with `S S^T = H_z` for one example.
    ///
    /// For a cross entropy, `diag(sqrt p) - p sqrt(p)^T = diag(sqrt p) (I - w w^T)` with `w = sqrt p` has `w` in
    /// its null space; the reflection that takes `w` to a unit vector leaves one zero column, which is dropped.
    pub(crate) fn factor_column<T: Real>(self, state: &[T], r: usize, out: &mut [T]) {
        out.fill(T::ZERO);
        match self {
            Self::CrossEntropy => {
                // Reflection I - 2 v v^T / v.v with v = w + e_last (w >= 0, so nothing cancels) maps e_r to
                // e_r - 2 v_r v / v.v, orthogonal to w for every r but the last.
                let last = state.len() - 1;
                let norm2 = T::from_f64(2.0) * (T::ONE + state[last].sqrt());
                let factor = T::from_f64(2.0) * state[r].sqrt() / norm2;
                for (j, (x, &p)) in out.iter_mut().zip(state).enumerate() {
                    let root = p.sqrt();
                    let v = if j == last { root + T::ONE } else { root };
                    let basis = if j == r { T::ONE } else { T::ZERO };
                    *x = root * (basis - factor * v);
                }
            }
            Self::HalfMse => out[r] = T::ONE,
            Self::SumMse => out[r] = T::from_f64(2.0).sqrt(),
            Self::Bce => out[r] = state[r].sqrt(),
        }
    }

    /// The gradient in `z` of one example's loss at a target drawn from the model's own law.
    pub(crate) fn sample_gradient<T: Real>(self, z: &[T], state: &[T], draws: &mut Draws, out: &mut [T]) {
        match self {
            Self::CrossEntropy => {
                let mut left = draws.next_f64();
                let mut label = state.len() - 1;
                for (j, &p) in state.iter().enumerate() {
                    left -= p.to_f64();
                    if left < 0.0 {
                        label = j;
                        break;
                    }
                }
                out.copy_from_slice(state);
                out[label] = T::ZERO;
                let others = out.iter().fold(T::ZERO, |sum, &p| sum + p);
                out[label] = -others;
            }
            Self::HalfMse => out.iter_mut().for_each(|x| *x = T::from_f64(draws.next_normal())),
            Self::SumMse => {
                for x in out {
                    *x = T::from_f64(core::f64::consts::SQRT_2 * draws.next_normal());
                }
            }
            Self::Bce => {
                for (x, &z) in out.iter_mut().zip(z) {
                    let s = sigmoid(z);
                    *x = if draws.next_f64() < s.to_f64() { -sigmoid(-z) } else { s };
                }
            }
        }
    }
}

fn squared_error<T: Real>(z: &[T], y: &[T], gradient: &mut [T], scale: T) -> T {
    let mut sum = T::ZERO;
    for ((&z, &y), g) in z.iter().zip(y).zip(gradient) {
        let difference = z - y;
        sum += difference * difference;
        *g = scale * difference;
    }
    T::from_f64(0.5) * scale * sum
}

/// Fills `p` with the softmax of `z` and returns the index of the largest output.
fn softmax<T: Real>(z: &[T], p: &mut [T]) -> usize {
    let top = argmax(z).unwrap_or(0);
    let mut sum = T::ZERO;
    for (p, &v) in p.iter_mut().zip(z) {
        *p = (v - z[top]).exp();
        sum += *p;
    }
    for p in p {
        *p /= sum;
    }
    top
}

fn argmax<T: Real>(x: &[T]) -> Option<usize> {
    let mut best = None;
    for (j, &v) in x.iter().enumerate() {
        if best.is_none_or(|b: usize| v > x[b]) {
            best = Some(j);
        }
    }
    best
}
