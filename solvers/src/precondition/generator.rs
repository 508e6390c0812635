//! The rotation that a curvature observation asks for, in the eigenbasis: a skew generator, bounded.

use ascribe_core::{Error as CoreError, Real, reduce};

use super::transpose::mirror;
use crate::parallel::{Parallelism, for_each};

/// How eigenvalues that are nearly equal are treated: between them a rotation of any angle changes almost nothing, and
/// the exact generator $-M_{ij} / (d_i - d_j)$ has no bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Gaps {
    /// The exact generator, 0 where the two are equal to the last bit. For eigenvalues known to be apart.
    Strict,
    /// $-M_{ij} g / (g^2 + \epsilon^2 d_i d_j)$ with the gap `g` and this `epsilon`, relative to the eigenvalues; about
    /// the step size `beta2` loses nothing to noisy observations; an optimisation that is to converge wants it small.
    Regularised(f64),
    /// The tangent of half of Jacobi's angle, which diagonalises each pair of the moved matrix: at most
    /// `tan(pi / 8)` a pair.
    Jacobi,
}

impl Gaps {
    pub(super) fn check(self) -> Result<(), CoreError> {
        match self {
            Self::Regularised(value) if !(value.is_finite() && value >= 0.0) => {
                Err(CoreError::Parameter { what: "epsilon of the gaps", value, must_be: "finite and at least 0" })
            }
            _ => Ok(()),
        }
    }
}

/// What turns a symmetric matrix in the eigenbasis into a generator.
#[derive(Debug, Clone, Copy)]
pub(super) struct Generator<'d> {
    /// The eigenvalues whose gaps count.
    pub values: &'d [f64],
    /// The step size.
    pub rate: f64,
    /// What the eigenvalues lose in the step, relatively and before the rate.
    pub decay: f64,
    pub gaps: Gaps,
    /// The largest Frobenius norm of the result.
    pub clip: f64,
}

/// The size of a generator.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Turn {
    /// Frobenius' norm before it was clipped.
    pub norm: f64,
    pub clipped: bool,
}

/// Rows that one task takes.
const STRIP: usize = 64;

impl Generator<'_> {
    /// Replaces the symmetric matrix `m` (lower triangle read) by `rate / 2` times its generator, clipped.
    ///
    /// One triangle is computed, the other is its negative: the result is skew to the last bit.
    pub(super) fn fill<T: Real>(&self, m: &mut [T], par: Parallelism) -> Result<Turn, CoreError> {
        let n = self.values.len();
        let half = 0.5 * self.rate;
        let norm = match self.gaps {
            Gaps::Strict => self.each(m, par, |m, [_, _], gap| if gap == 0.0 { 0.0 } else { -half * m / gap }),
            Gaps::Regularised(epsilon) => {
                let square = epsilon * epsilon;
                self.each(m, par, |m, [x, y], gap| {
                    let denominator = gap * gap + square * x * y;
                    if denominator == 0.0 { 0.0 } else { -half * m * gap / denominator }
                })
            }
            Gaps::Jacobi => {
                let kept = 1.0 - self.rate * self.decay;
                let moved: Vec<f64> =
                    self.values.iter().enumerate().map(|(i, d)| kept * d + self.rate * m[i * n + i].to_f64()).collect();
                Generator { values: &moved, ..*self }.each(m, par, |m, _, gap| {
                    // tan(phi / 4) for the phi of tan(phi) = y / |gap|, by two halvings.
                    let y = 2.0 * self.rate * m;
                    let whole = gap.abs() + (gap * gap + y * y).sqrt();
                    let tangent = if whole == 0.0 { 0.0 } else { y / whole };
                    let quarter = tangent / (1.0 + (1.0 + tangent * tangent).sqrt());
                    if gap > 0.0 { -quarter } else { quarter }
                })
            }
        };
        // A NaN, or what the numbers of the matrix cannot hold.
        if norm.is_nan() || norm > T::MAX.to_f64() {
            return Err(CoreError::NonFinite { what: "generator of the rotation", index: 0 });
        }
        let clipped = norm > self.clip;
        if clipped {
            reduce::scale(m, T::from_f64(self.clip / norm));
        }
        mirror(m, n, |x| -x);
        Ok(Turn { norm, clipped })
    }

    /// Replaces each element below the diagonal by `f` of it, its two eigenvalues and their gap, and those on it by zero;
    /// gives Frobenius' norm of the skew matrix that is meant.
    fn each<T: Real>(&self, m: &mut [T], par: Parallelism, f: impl Fn(f64, [f64; 2], f64) -> f64 + Sync) -> f64 {
        let (values, n) = (self.values, self.values.len());
        let mut sums = vec![0.0; n.div_ceil(STRIP)];
        let strips = m.chunks_mut((STRIP * n).max(1)).zip(&mut sums).zip((0..n).step_by(STRIP)).collect();
        let _: Result<(), std::convert::Infallible> =
            for_each(par, strips, |((strip, sum), start): ((&mut [T], &mut f64), usize)| {
                for (i, row) in strip.chunks_exact_mut(n).enumerate().map(|(i, row)| (start + i, row)) {
                    let x = values[i];
                    for (m, &y) in row[..i].iter_mut().zip(values) {
                        *m = T::from_f64(f(m.to_f64(), [x, y], x - y));
                    }
                    row[i] = T::ZERO;
                    *sum += 2.0 * reduce::norm2(&row[..i]).to_f64().powi(2);
                }
                Ok(())
            });
        sums.iter().sum::<f64>().sqrt()
    }
}
