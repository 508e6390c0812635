//! How curvature is damped, inverted, and raised to a power: functions of its eigenvalues.

use ascribe_core::Error as CoreError;

use crate::Error;

/// What is added to the curvature, or what small eigenvalues are measured against.
///
/// A number that is fixed by training is [`Absolute`](Self::Absolute), such as `1 / (learning rate * steps)`;
/// where curvature is only known up to a scale, or differs from layer to layer, take
/// [`Relative`](Self::Relative). A solver that takes `damping` as an `f64` means an absolute one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Damping {
    /// This number, in the units of the curvature.
    Absolute(f64),
    /// This multiple of the block's mean eigenvalue, over all of its parameters: 0.1 in Grosse et al. 2023.
    Relative(f64),
}

impl Damping {
    /// The number that is meant for a block of this mean eigenvalue.
    ///
    /// # Errors
    /// [`CoreError::Damping`] when it is negative or not finite.
    pub fn amount(self, mean: f64) -> Result<f64, Error> {
        let amount = match self {
            Self::Absolute(amount) => amount,
            // A negative factor is refused also where the mean is 0.
            Self::Relative(factor) if factor < 0.0 => factor,
            Self::Relative(factor) => factor * mean,
        };
        if amount.is_finite() && amount >= 0.0 { Ok(amount) } else { Err(CoreError::Damping { value: amount }.into()) }
    }
}

impl Default for Damping {
    fn default() -> Self {
        Self::Relative(0.1)
    }
}

/// How an eigenvalue `s` is inverted, with a damping of `d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Inversion {
    /// `1 / (s + d)`: the inverse of the curvature with `d` on its diagonal.
    #[default]
    Damped,
    /// `1 / s` where `s > d`, else 0.
    PseudoInverse,
    /// `s / (s^2 + d^2)`: large directions as they are, small ones not at all.
    Tikhonov,
    /// `1 / ((g + sqrt(d) / pi) (a + pi sqrt(d)))` for a Kronecker product with eigenvalues `s = g a`, and
    /// `pi = sqrt(mean a / mean g)`: each factor is damped by itself, so that the inverse stays a Kronecker product
    /// (Martens and Grosse, arXiv:1503.05671, section 6.3). Only K-FAC has such factors; corrected eigenvalues
    /// are no products.
    Factored,
}

/// A damped inverse of a block, or a power of it: how each eigenvalue is treated.
///
/// A block whose eigenvalues are all zero has no scale of its own: under a relative damping its inverse is zero, so
/// that a layer without gradients contributes nothing. Changing a filter needs no pass over the data.
///
/// # Examples
/// ```
/// use ascribe_core::MatRef;
/// use ascribe_solvers::curvature::{Damping, EigenBlock, Filter};
/// use ascribe_solvers::parallel::Parallelism::Serial;
/// let block = EigenBlock::<f64>::dense("layer", MatRef::new(&[3.0, 0.0, 0.0, 1.0], 2, 2)?, Serial)?;
/// let half = Filter { power: -0.5, damping: Damping::Absolute(1.0), ..Filter::default() };
/// assert_eq!(half.multipliers(&block)?, [0.5_f64.sqrt(), 0.5]); // ascending: (1 + 1)^-1/2, (3 + 1)^-1/2
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Filter {
    /// The damping; default 0.1 times the mean eigenvalue.
    pub damping: Damping,
    /// The kind of inverse; default [`Inversion::Damped`].
    pub inversion: Inversion,
    /// The power of the curvature: -1, the default, for its inverse, -0.5 for the root of that, 1 for the damped
    /// curvature itself. Only [`Inversion::Damped`] and [`Inversion::Factored`] have positive ones.
    pub power: f64,
}

impl Default for Filter {
    fn default() -> Self {
        Self { damping: Damping::default(), inversion: Inversion::default(), power: -1.0 }
    }
}

/// What a [`Filter`] has to know of a block: the eigenvalues, and those of its two factors when they are products.
#[derive(Debug, Clone, Copy)]
pub(super) struct Eigenvalues<'s> {
    pub values: &'s [f64],
    pub factors: Option<(&'s [f64], &'s [f64])>,
}

impl Filter {
    /// What each eigenvalue becomes.
    pub(super) fn apply(&self, eigenvalues: Eigenvalues<'_>) -> Result<Vec<f64>, Error> {
        let Self { damping, inversion, power } = *self;
        let keeps_sign = matches!(inversion, Inversion::Damped | Inversion::Factored);
        if !power.is_finite() || !keeps_sign && power >= 0.0 {
            let must_be = if keeps_sign { "finite" } else { "negative for this kind of inverse" };
            return Err(CoreError::Parameter { what: "power", value: power, must_be }.into());
        }
        let scale = mean(eigenvalues.values);
        let amount = damping.amount(scale)?;
        if matches!(damping, Damping::Relative(_)) && scale == 0.0 {
            return Ok(vec![0.0; eigenvalues.values.len()]);
        }
        let multipliers: Vec<f64> = match inversion {
            Inversion::Damped => eigenvalues.values.iter().map(|s| (s + amount).powf(power)).collect(),
            Inversion::PseudoInverse => {
                eigenvalues.values.iter().map(|&s| if s > amount { s.powf(power) } else { 0.0 }).collect()
            }
            Inversion::Tikhonov => eigenvalues.values.iter().map(|&s| tikhonov(s, amount).powf(-power)).collect(),
            Inversion::Factored => {
                let Some((left, right)) = eigenvalues.factors else {
                    return Err(Error::NotKronecker);
                };
                let pi = (mean(right) / mean(left)).sqrt();
                let root = amount.sqrt();
                let (add_left, add_right) =
                    if pi.is_finite() && pi > 0.0 { (root / pi, root * pi) } else { (root, root) };
                left.iter()
                    .flat_map(|g| right.iter().map(move |a| ((g + add_left) * (a + add_right)).powf(power)))
                    .collect()
            }
        };
        match multipliers.iter().position(|m| !m.is_finite()) {
            Some(index) => Err(CoreError::Singular { what: "eigenvalue", index }.into()),
            None => Ok(multipliers),
        }
    }
}

/// `s / (s^2 + d^2)` without squares that overflow or vanish; 0 where both are.
fn tikhonov(s: f64, d: f64) -> f64 {
    let largest = s.max(d);
    if largest == 0.0 {
        return 0.0;
    }
    let (s, d) = (s / largest, d / largest);
    s / (s * s + d * d) / largest
}

/// The mean; 0 without values. Divided before it is added, because a sum may overflow where the mean does not.
pub(super) fn mean(values: &[f64]) -> f64 {
    let n = values.len().max(1) as f64;
    let sum = ascribe_core::reduce::sum(values);
    if sum.is_finite() { sum / n } else { values.iter().map(|v| v / n).sum() }
}
