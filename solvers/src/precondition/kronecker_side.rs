//! One factor of a Kronecker product that is learned: what an observation makes of its eigenvalues and basis.

use ascribe_core::{MatMut, MatRef, Real, Scalar};

use super::basis::turn_basis;
use super::generator::{Generator, Turn};
use super::growth::{grow_together, reach};
use super::kronecker_spectral::{Eigenvalues, KroneckerSpectral};
use super::storage::Stored;
use crate::Error;
use crate::error::check_finite;
use crate::linalg::gram;

/// A factor `B diag(d) B^T`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Side<T> {
    pub(super) basis: Stored<T>,
    pub(super) values: Vec<f64>,
    /// The moving average of the factor's observations, lower triangle; empty where the update needs none.
    pub(super) moment: Vec<T>,
}

/// What a batch says about one side.
pub(super) struct Observed<T> {
    /// Of `M`, damping included.
    pub(super) diagonal: Vec<f64>,
    /// Rows whose Gram matrix is `M`, or `beta2 M` for updates that keep a moving average.
    pub(super) rows: Option<Vec<T>>,
    pub(super) damping: f64,
    pub(super) tau: f64,
}

/// What a side becomes; a basis or a moment that stays is `None`.
pub(super) struct Moved<T> {
    pub(super) values: Vec<f64>,
    pub(super) limited: usize,
    pub(super) basis: Option<Vec<T>>,
    pub(super) moment: Option<Vec<T>>,
    pub(super) turn: Turn,
}

impl<T: Real> Side<T> {
    /// The state after a step from `observed`; bases move when they are `due`, for the `updates`-th time.
    pub(super) fn moved(
        &self,
        options: &KroneckerSpectral,
        observed: &Observed<T>,
        basis: &[T],
        due: bool,
        updates: u64,
    ) -> Result<Moved<T>, Error> {
        let KroneckerSpectral { beta2, gaps, clip, parallelism: par, .. } = *options;
        let n = self.values.len();
        let (values, limited) = self.moved_values(options, observed);
        let Observed { diagonal, rows, damping, tau } = observed;
        let mut moved = Moved { values, limited, basis: None, moment: None, turn: Turn::default() };
        let Some(rows) = rows else { return Ok(moved) };
        let rows = MatRef::new(rows, rows.len() / n, n)?;
        if let Some(cayley) = options.basis.cayley() {
            let mut m = vec![T::ZERO; n * n];
            gram(MatMut::new(&mut m, n, n)?, rows, par)?;
            m.iter_mut().step_by(n + 1).zip(diagonal).for_each(|(m, &x)| *m = T::from_f64(x));
            let decay = if options.eigenvalues == Eigenvalues::Geometric { *tau } else { options.gamma };
            moved.turn = Generator { values: &self.values, rate: beta2, decay, gaps, clip }.fill(&mut m, par)?;
            if moved.turn.norm > 0.0 {
                let repair =
                    options.polish_every > 0 && updates.saturating_add(1).is_multiple_of(options.polish_every as u64);
                moved.basis = Some(turn_basis(cayley, basis, (m, moved.turn.norm.min(clip)), n, repair, par)?);
            }
        } else {
            let mut moment = self.moment.clone();
            ascribe_core::reduce::scale(&mut moment, T::from_f64(1.0 - beta2));
            gram(MatMut::new(&mut moment, n, n)?, rows, par)?;
            moment.iter_mut().step_by(n + 1).for_each(|x| *x += T::from_f64(beta2 * damping));
            check_finite("moving average of a factor", &moment)?;
            if due {
                moved.basis = Some(options.basis.follow_moment(&moment, basis, &mut moved.values, par)?);
            }
            moved.moment = Some(moment);
        }
        Ok(moved)
    }

    fn moved_values(&self, options: &KroneckerSpectral, observed: &Observed<T>) -> (Vec<f64>, usize) {
        let KroneckerSpectral { beta2, gamma, max_log_step, .. } = *options;
        let mut values = self.values.clone();
        let mut limited = 0;
        match options.eigenvalues {
            Eigenvalues::Geometric => {
                let step = |(m, d): (&f64, &f64)| beta2 * (m / d - observed.tau);
                let steps: Vec<f64> = observed.diagonal.iter().zip(&self.values).map(step).collect();
                limited = grow_together::<T>(&mut values, &steps, max_log_step);
            }
            Eigenvalues::Arithmetic { .. } => {
                let least = (values.len().clamp(10, 4000) as f64).powi(-2);
                let most = Scalar::exp(reach::<T>());
                for (d, m) in values.iter_mut().zip(&observed.diagonal) {
                    let moved = (1.0 - gamma * beta2) * *d + beta2 * m;
                    *d = moved.clamp(least, most);
                    limited += usize::from(*d != moved);
                }
            }
        }
        (values, limited)
    }
}
