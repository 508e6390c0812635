//! How Shampoo finds the roots of its factors.

use ascribe_core::{Error as CoreError, MatRef};

use super::check::{check, check_rate};
use super::matrix_root::{
    CoupledNewton, RefinedEigenbasis, assemble, coupled_inverse_root, inverse_root, power, pseudo_inverse_root,
};
use crate::Error;
use crate::parallel::Parallelism;

/// A coupled root whose residual is above this is taken for failed.
const WORST_RESIDUAL: f64 = 0.1;
/// The largest numerator of an exponent that the coupled iterations are used for.
const NUMERATORS: u32 = 16;

/// How `(A + epsilon I)^(-exponent)` is computed, in f64.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RootEngine {
    /// [`inverse_root`].
    Eigen,
    /// [`pseudo_inverse_root`], without `epsilon`. Nothing bounds its roots, so that steps are made on a copy of the state,
    /// as they are for `epsilon = 0`.
    PseudoInverse {
        /// Eigenvalues up to this, relative to the largest, become zero.
        rtol: f64,
    },
    /// [`coupled_inverse_root`], for exponents `q / p` with small `q`: the root `1/p`, to the power `q`. A root whose
    /// residual exceeds 0.1 has failed.
    Coupled {
        /// The iteration.
        newton: CoupledNewton,
        /// Added to the diagonal beside `epsilon`, relative to the largest row sum.
        relative_epsilon: f64,
    },
    /// [`RefinedEigenbasis`] from the basis of the root before; the first is an eigendecomposition.
    Refined(RefinedEigenbasis),
}

impl RootEngine {
    pub(super) fn check(&self, exponent: f64) -> Result<(), CoreError> {
        match *self {
            Self::Eigen => Ok(()),
            Self::PseudoInverse { rtol } => check_rate("rtol", rtol),
            Self::Refined(refined) => check_rate("tolerance", refined.tolerance),
            Self::Coupled { newton, relative_epsilon } => {
                newton.check()?;
                check_rate("relative epsilon", relative_epsilon)?;
                check("exponent", exponent, fraction(exponent).is_some(), "q / p with q at most 16")
            }
        }
    }

    /// Whether it needs the eigenvectors of last time.
    pub(super) fn has_basis(&self) -> bool {
        matches!(self, Self::Refined(_))
    }

    /// A bound of the norm of a new root of `n` rows; infinite where only its computation tells.
    pub(super) fn reach(&self, n: usize, exponent: f64, epsilon: f64) -> f64 {
        match self {
            Self::PseudoInverse { .. } => f64::INFINITY,
            _ => (n as f64).sqrt() * epsilon.powf(-exponent),
        }
    }

    /// The root of `a`, `[n, n]`; `basis` is that of last time, if there was one, and becomes the new one.
    pub(super) fn root(
        &self,
        a: MatRef<'_, f64>,
        exponent: f64,
        epsilon: f64,
        basis: Option<&[f64]>,
        par: Parallelism,
    ) -> Result<(Vec<f64>, Option<Vec<f64>>), Error> {
        match *self {
            Self::Eigen => Ok((inverse_root(a, 1.0 / exponent, epsilon, par)?, None)),
            Self::PseudoInverse { rtol } => Ok((pseudo_inverse_root(a, 1.0 / exponent, rtol, par)?, None)),
            Self::Refined(refined) => {
                let eigen = refined.refine(a, basis, par)?;
                let shift = epsilon - eigen.values.iter().fold(0.0_f64, |least, &value| least.min(value));
                let powers: Vec<f64> = eigen.values.iter().map(|value| (value + shift).powf(-exponent)).collect();
                Ok((assemble(&eigen.vectors, &powers, par)?, Some(eigen.vectors)))
            }
            Self::Coupled { newton, relative_epsilon } => {
                let (q, p) = fraction(exponent).ok_or(CoreError::Parameter {
                    what: "exponent",
                    value: exponent,
                    must_be: "q / p with q at most 16",
                })?;
                let sum = |row: &[f64]| row.iter().map(|x| x.abs()).sum::<f64>();
                let size = a.row_iter().map(sum).fold(0.0_f64, f64::max);
                let root = coupled_inverse_root(&newton, a, p, epsilon + relative_epsilon * size, par)?;
                // Not `>`, so that NaN fails too.
                if root.residual <= WORST_RESIDUAL {
                    Ok((power(&root.root, a.rows(), q, par)?, None))
                } else {
                    Err(Error::NoConvergence { what: "coupled Newton iteration" })
                }
            }
        }
    }
}

/// `exponent = q / p` with the smallest `q`.
fn fraction(exponent: f64) -> Option<(u32, u32)> {
    (1..=NUMERATORS).find_map(|q| {
        let p = (f64::from(q) / exponent).round();
        let near = (f64::from(q) / p - exponent).abs() <= 1e-12 * exponent;
        (near && (1.0..=f64::from(u32::MAX)).contains(&p)).then_some((q, p as u32))
    })
}
