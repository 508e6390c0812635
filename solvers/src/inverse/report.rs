//! What a solver gives beside its solution.

use core::fmt;

use ascribe_core::linop::check_apply;
use ascribe_core::{Error as CoreError, LinOp, MatMut, MatRef, Real};

use crate::Error;
use crate::error::{check_rows_finite, check_shape, zeros};

/// Why a solver stopped. `Display` gives advice.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Stop {
    /// A direct method, exact up to rounding.
    Direct,
    /// The tolerance was reached.
    Converged,
    /// The number of iterations asked for was made.
    IterationLimit,
    /// A direction `p` with `p^T A p <= 0` up to rounding: `A` is not positive definite. The solution is the
    /// iterate before it.
    NegativeCurvature {
        /// `p^T A p / p^T p`.
        curvature: f64,
    },
    /// The residual does not fall any more and is above the tolerance: it is that of a least-squares solution, because
    /// the right-hand side leaves the operator's range, or the tolerance is below the rounding of a product.
    Stagnated,
    /// The iterates grew without bound or left the finite numbers. The solution is the best one before that.
    Diverged {
        /// The step at which it was noticed.
        step: usize,
    },
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("solved directly"),
            Self::Converged => f.write_str("converged"),
            Self::IterationLimit => f.write_str("made the steps asked for; allow more if the residual is too large"),
            Self::NegativeCurvature { curvature } => {
                write!(f, "met curvature {curvature:.3e}: use a damping above {:.3e}, or MINRES", -curvature)
            }
            Self::Stagnated => {
                f.write_str("the residual does not fall any more; a damping makes a singular system solvable")
            }
            Self::Diverged { step } => {
                write!(f, "diverged at step {step}: use a smaller step size or a larger damping")
            }
        }
    }
}

/// How one right-hand side fared.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct SolveReport {
    /// Why the solver stopped.
    pub stop: Stop,
    /// Iterations made for this right-hand side.
    pub iterations: usize,
    /// Applications of the operator to this right-hand side's vectors.
    pub operator_applications: usize,
    /// `|v - (A + damping I) x| / |v|` as far as the solver knows it: 0 for a zero `v` and for direct methods, NaN
    /// where a stochastic method never sees the full operator.
    pub relative_residual: f64,
}

impl SolveReport {
    pub(super) fn direct() -> Self {
        Self { stop: Stop::Direct, iterations: 0, operator_applications: 0, relative_residual: 0.0 }
    }

    /// Whether the solution is as good as was asked for.
    pub fn is_converged(&self) -> bool {
        matches!(self.stop, Stop::Direct | Stop::Converged)
    }
}

/// A solver bound to an operator.
pub trait Solve<T: Real> {
    /// The length of a right-hand side and of a solution.
    fn dim(&self) -> usize;

    /// Sets each row of `out` to the solution for that row of `rhs`, with a report for each.
    ///
    /// # Errors
    /// A shape error, or [`CoreError::NonFinite`] when `rhs` holds NaN or infinity; `out` is untouched then.
    /// The operator's own errors, and [`CoreError::Overflow`] when its scratch, or what is kept of each of the
    /// right-hand sides of length 0, does not fit into memory.
    fn solve(&self, out: MatMut<'_, T>, rhs: MatRef<'_, T>) -> Result<Vec<SolveReport>, Error>;
}

impl<T: Real, S: Solve<T> + ?Sized> Solve<T> for &S {
    fn dim(&self) -> usize {
        (**self).dim()
    }
    fn solve(&self, out: MatMut<'_, T>, rhs: MatRef<'_, T>) -> Result<Vec<SolveReport>, Error> {
        (**self).solve(out, rhs)
    }
}

/// A prepared solver as an operator: `apply` solves.
///
/// It is linear only as far as the solver is: direct methods are, [`Neumann`](super::Neumann) with a fixed number
/// of steps is, CG with a tolerance is so to that tolerance.
#[derive(Debug, Clone, Copy)]
pub struct AsOperator<S>(
    /// The solver.
    pub S,
);

impl<T: Real, S: Solve<T>> LinOp<T> for AsOperator<S> {
    fn dim_in(&self) -> usize {
        self.0.dim()
    }
    fn dim_out(&self) -> usize {
        self.0.dim()
    }
    /// Besides the errors of every operator, [`CoreError::Unsolved`] when a row's solver diverged or met negative
    /// curvature. `out` then holds what the solver gave: the solutions of the other rows, and the best iterate of this.
    fn apply(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, _: &mut [T]) -> Result<(), CoreError> {
        check_apply(self.dim_in(), self.dim_out(), &out, &x)?;
        let reports = self.0.solve(out, x).map_err(|error| match error {
            Error::Core(error) => error,
            _ => CoreError::Unsolved { row: 0 },
        })?;
        let failed = |r: &SolveReport| matches!(r.stop, Stop::NegativeCurvature { .. } | Stop::Diverged { .. });
        match reports.iter().position(failed) {
            Some(row) => Err(CoreError::Unsolved { row }),
            None => Ok(()),
        }
    }
}

/// An operator that is an inverse already as a solver: `solve` applies it. The counterpart of [`AsOperator`], for the
/// inverses of [`curvature`](crate::curvature).
#[derive(Debug, Clone, Copy)]
pub struct AsSolver<A>(
    /// The inverse.
    pub A,
);

impl<T: Real, A: LinOp<T>> Solve<T> for AsSolver<A> {
    fn dim(&self) -> usize {
        self.0.dim_in()
    }
    fn solve(&self, out: MatMut<'_, T>, rhs: MatRef<'_, T>) -> Result<Vec<SolveReport>, Error> {
        check_system(check_operator(&self.0, 0.0)?, &out, &rhs)?;
        let mut scratch = zeros("scratch of the inverse", Some(self.0.scratch_len(rhs.rows())))?;
        self.0.apply(out, rhs, &mut scratch)?;
        Ok(vec![SolveReport::direct(); rhs.rows()])
    }
}

/// The checks that every solver makes before it writes anything. No slice vouches for the number of rows without
/// elements: there has to be memory for what a solver keeps of each, which is less than a KiB.
pub(super) fn check_system<T: Real>(dim: usize, out: &MatMut<'_, T>, rhs: &MatRef<'_, T>) -> Result<(), Error> {
    check_apply(dim, dim, out, rhs)?;
    check_rows_finite("right-hand side", *rhs)?;
    if dim == 0 {
        let reserved = Vec::<[u64; 128]>::new().try_reserve_exact(rhs.rows());
        reserved.map_err(|_| CoreError::Overflow { what: "right-hand sides without elements" })?;
    }
    Ok(())
}

/// The length of a square operator, with its damping checked.
pub(super) fn check_operator<T: Real>(op: &dyn LinOp<T>, damping: f64) -> Result<usize, Error> {
    check_shape("operator output (must equal its input)", op.dim_in(), op.dim_out())?;
    if damping.is_finite() && damping >= 0.0 {
        Ok(op.dim_in())
    } else {
        Err(CoreError::Damping { value: damping }.into())
    }
}
