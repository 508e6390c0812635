//! Eigenvalues that change by factors: what keeps the factors, and what they lead to, inside the range of numbers.

use ascribe_core::{Error as CoreError, Real, Scalar};

/// The largest absolute logarithm of an eigenvalue of a preconditioner in `T`: a root, and the product of two
/// eigenvalues, stay finite. About 80 in f32, 340 in f64.
pub(super) fn reach<T: Real>() -> f64 {
    (Scalar::ln(T::MAX.to_f64()) - 8.0).min(340.0)
}

/// Positive numbers within [`reach`].
pub(super) fn check_values<T: Real>(what: &'static str, values: &[f64]) -> Result<(), CoreError> {
    crate::error::check_finite(what, values)?;
    match values.iter().find(|&&d| d <= 0.0 || Scalar::ln(d).abs() > reach::<T>() + 1e-9) {
        Some(&value) => Err(CoreError::Parameter { what, value, must_be: "positive and of moderate size" }),
        None => Ok(()),
    }
}

/// Multiplies each number by the exponential of its step, and counts the steps that had to be shortened: to `longest`,
/// or because the number would leave the range.
pub(super) fn grow<T: Real>(values: &mut [f64], steps: &[f64], longest: f64) -> usize {
    let bound = Scalar::exp(reach::<T>());
    let mut limited = 0;
    for (value, &step) in values.iter_mut().zip(steps) {
        let allowed = step.clamp(-longest, longest);
        let moved = *value * Scalar::exp(allowed);
        *value = moved.clamp(1.0 / bound, bound);
        limited += usize::from(allowed != step || *value != moved);
    }
    limited
}

/// As [`grow`] for steps that add up to zero: all are shortened alike, so that the product of the numbers stays.
pub(super) fn grow_together<T: Real>(values: &mut [f64], steps: &[f64], longest: f64) -> usize {
    let largest = steps.iter().fold(0.0_f64, |largest, step| largest.max(step.abs()));
    let mut share = if largest > longest { longest / largest } else { 1.0 };
    for (value, step) in values.iter().zip(steps) {
        let room = (reach::<T>() - Scalar::ln(*value) * step.signum()).max(0.0);
        if share * step.abs() > room {
            share = room / step.abs();
        }
    }
    for (value, step) in values.iter_mut().zip(steps) {
        *value *= Scalar::exp(share * step);
    }
    usize::from(share < 1.0)
}
