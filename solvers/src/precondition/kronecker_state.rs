//! How a Kronecker product in the eigenbases of its factors learns.

use std::borrow::Cow;

use ascribe_core::record::LayerRecord;
use ascribe_core::{MatMut, MatRef, Real, Scalar, reduce};

use super::basis::identity;
use super::basis_update::descending_eigenvectors;
use super::growth::grow;
use super::kronecker_observation::{Coordinates, Observation, Seen, View};
use super::kronecker_side::{Moved, Observed, Side};
use super::state::{Field, Kind, Saved};
use super::storage::Stored;
use super::transpose::mirror;
use super::{BasisUpdate, Eigenvalues, KroneckerReport, KroneckerSpectral};
use crate::Error;
use crate::error::check_finite;
use crate::linalg::gram;

/// The product so far; see [`KroneckerSpectral`].
#[derive(Debug, Clone, PartialEq)]
pub struct KroneckerState<T> {
    options: KroneckerSpectral,
    /// Of the rows and of the columns.
    sides: [Side<T>; 2],
    alpha: f64,
    steps: u64,
    clipped: u64,
}

/// What a step changes.
pub(super) struct Next<T> {
    pub(super) moved: [Moved<T>; 2],
    tau: f64,
    /// `P`; none of a record.
    pub(super) rotated: Vec<T>,
}

impl<T: Real> KroneckerState<T> {
    /// The rows and columns of the weight.
    pub fn shape(&self) -> [usize; 2] {
        [0, 1].map(|side| self.sides[side].values.len())
    }

    /// What it was made with.
    pub fn options(&self) -> &KroneckerSpectral {
        &self.options
    }

    /// The scale of the product.
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// The eigenvalues of the factor over the rows and of that over the columns, in the order of their bases' columns.
    pub fn values(&self) -> [&[f64]; 2] {
        [0, 1].map(|side| self.sides[side].values.as_slice())
    }

    /// The two bases, eigenvectors as columns; decoded when they are kept in 16 bits.
    ///
    /// # Errors
    /// None for bases in full; [`Overflow`](ascribe_core::Error::Overflow) when there is no memory to decode them.
    pub fn bases(&self) -> Result<[Cow<'_, [T]>; 2], Error> {
        let ([k, c], par) = (&self.sides, self.options.parallelism);
        Ok([k.basis.load(k.values.len(), par)?, c.basis.load(c.values.len(), par)?])
    }

    /// Generators so far that were clipped, of both sides.
    pub fn clipped(&self) -> u64 {
        self.clipped
    }

    /// A step towards the curvature `mean_k vec(G_k) vec(G_k)^T` of the flat gradients `[m, rows * cols]`.
    ///
    /// # Errors
    /// A shape error; [`Empty`](ascribe_core::Error::Empty) without gradients;
    /// [`NonFinite`](ascribe_core::Error::NonFinite) for NaN or infinity in them, or numbers so large or small that
    /// products with them are. The state is untouched.
    pub fn step(&mut self, gradients: MatRef<'_, T>) -> Result<KroneckerReport, Error> {
        self.follow(Observation::Gradients(gradients))
    }

    /// A step towards K-FAC's curvature of a record, `mean over examples of sum_t (b_t b_t^T) (x) (a_t a_t^T)` with
    /// inputs `a_t` (1 appended for a bias) and output gradients `b_t` at each position that counts. Gradients are never
    /// formed: `P` costs `2 (r^2 + c^2)` flops a position.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn step_record(&mut self, record: &LayerRecord<'_, T>) -> Result<KroneckerReport, Error> {
        self.follow(Observation::Record(record))
    }

    /// Forgets everything and takes its bases from these gradients: the eigenvectors of `mean(G G^T)` and of
    /// `mean(G^T G)`, largest first. The eigenvalues are those of a new state; with determinants of 1, `alpha` becomes
    /// the mean square of the gradients' elements (unless that is zero).
    ///
    /// # Errors
    /// As [`step`](Self::step), and [`Error::NoConvergence`] of a decomposition.
    pub fn initialise(&mut self, gradients: MatRef<'_, T>) -> Result<(), Error> {
        *self = self.initialised(gradients)?;
        Ok(())
    }

    pub(super) fn initialised(&self, gradients: MatRef<'_, T>) -> Result<Self, Error> {
        let ([r, c], par) = (self.shape(), self.options.parallelism);
        let mut fresh: Self = self.options.start(r, c)?;
        let ones = [vec![1.0; r], vec![1.0; c]];
        let units: [Vec<T>; 2] = [identity(r)?, identity(c)?];
        let bases = [MatRef::new(&units[0], r, r)?, MatRef::new(&units[1], c, c)?];
        let view = View { bases, values: [&ones[0], &ones[1]], alpha: 1.0, share: 1.0, par };
        let seen = Observation::Gradients(gradients).see(view, Coordinates::Weight)?;
        let size = seen.diagonals[0].iter().sum::<f64>() / r as f64;
        check_finite("curvature", &[size])?;
        if size > 0.0 && fresh.options.eigenvalues == Eigenvalues::Geometric {
            grow::<T>(std::slice::from_mut(&mut fresh.alpha), &[Scalar::ln(size)], f64::INFINITY);
        }
        for (side, mut rows) in fresh.sides.iter_mut().zip(seen.rows.into_iter().flatten()) {
            let n = side.values.len();
            // Before their products, which may have no place in `T` otherwise.
            reduce::scale(&mut rows, T::from_f64(fresh.alpha.sqrt().recip()));
            let mut factor = vec![T::ZERO; n * n];
            gram(MatMut::new(&mut factor, n, n)?, MatRef::new(&rows, rows.len() / n, n)?, par)?;
            if size > 0.0 {
                mirror(&mut factor, n, |x| x);
                let basis = descending_eigenvectors(MatRef::new(&factor, n, n)?, par)?;
                side.basis = Stored::new(self.options.storage, basis);
            }
            if !side.moment.is_empty() {
                reduce::scale(&mut factor, T::from_f64(self.options.beta2));
                side.moment = factor;
            }
        }
        Ok(fresh)
    }

    /// The state as a safetensors file, without the options: what [`load`](Self::load) goes on from bit for bit.
    ///
    /// # Errors
    /// [`Error::Archive`] when the bytes do not fit into memory.
    #[cfg(feature = "safetensors")]
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        super::archive::to_bytes(self)
    }

    /// Takes over the state of a file of [`to_bytes`](Self::to_bytes). Options, shape and `T` have to be those of the state
    /// that wrote it.
    ///
    /// # Errors
    /// As [`Optimizer::load`](super::Optimizer::load); the state is untouched then.
    #[cfg(feature = "safetensors")]
    pub fn load(&mut self, bytes: &[u8]) -> Result<(), Error> {
        super::archive::load(self, bytes)
    }

    fn follow(&mut self, observation: Observation<'_, T>) -> Result<KroneckerReport, Error> {
        let next = self.next(&self.bases()?, observation)?;
        Ok(self.take(next))
    }

    /// What a step would change, seen from the bases. Nothing has changed yet, so that several layers can step together or
    /// not at all.
    pub(super) fn next(&self, bases: &[Cow<'_, [T]>; 2], observation: Observation<'_, T>) -> Result<Next<T>, Error> {
        let ([r, c], KroneckerSpectral { basis, beta2, damping, parallelism: par, .. }) = (self.shape(), self.options);
        let due = self.is_due();
        let coordinates = match basis {
            BasisUpdate::Cayley(_) if due => Coordinates::Eigenbasis,
            BasisUpdate::Cayley(_) => Coordinates::Diagonal,
            BasisUpdate::QrPower | BasisUpdate::Eigen => Coordinates::Weight,
        };
        let views = [MatRef::new(&bases[0], r, r)?, MatRef::new(&bases[1], c, c)?];
        let share = if basis.cayley().is_some() { 1.0 } else { beta2 };
        let view = View { bases: views, values: self.values(), alpha: self.alpha, share, par };
        let Seen { diagonals: [k, c], rows, rotated } = observation.see(view, coordinates)?;
        let inverse_means = self.values().map(|d| d.iter().map(|d| 1.0 / d).sum::<f64>() / d.len() as f64);
        let [of_rows, of_cols] = rows.map_or([None, None], |rows| rows.map(Some));
        let observed = [(0, k, of_rows), (1, c, of_cols)].map(|(side, diagonal, rows)| {
            let damping = damping / self.alpha * inverse_means[1 - side];
            let diagonal: Vec<f64> = diagonal.into_iter().map(|x| x + damping).collect();
            let ratios = diagonal.iter().zip(&self.sides[side].values).map(|(m, d)| m / d);
            let tau = ratios.sum::<f64>() / diagonal.len() as f64;
            Observed { diagonal, rows, damping, tau }
        });
        // No ratio is negative, so that a finite mean is one of finite numbers.
        check_finite("curvature in the eigenbasis", &[observed[0].tau, observed[1].tau])?;
        let updates = self.steps / (self.options.basis_every as u64).max(1);
        let moved = |side: usize| self.sides[side].moved(&self.options, &observed[side], &bases[side], due, updates);
        let moved = [moved(0)?, moved(1)?];
        Ok(Next { moved, tau: f64::midpoint(observed[0].tau, observed[1].tau), rotated })
    }

    /// Makes the step.
    pub(super) fn take(&mut self, next: Next<T>) -> KroneckerReport {
        let KroneckerSpectral { beta2, gamma, storage, .. } = self.options;
        let due = self.is_due();
        let mut report = KroneckerReport { tau: next.tau, ..KroneckerReport::default() };
        for (i, (side, moved)) in self.sides.iter_mut().zip(next.moved).enumerate() {
            side.values = moved.values;
            if let Some(basis) = moved.basis {
                side.basis = Stored::new(storage, basis);
            }
            if let Some(moment) = moved.moment {
                side.moment = moment;
            }
            (report.generator_norms[i], report.clipped[i]) = (moved.turn.norm, moved.turn.clipped);
            report.limited += moved.limited;
            self.clipped = self.clipped.saturating_add(u64::from(moved.turn.clipped));
        }
        if self.options.eigenvalues == Eigenvalues::Geometric {
            let step = beta2 * next.tau - beta2 * gamma;
            let alpha = std::slice::from_mut(&mut self.alpha);
            report.limited += grow::<T>(alpha, &[step], self.options.max_log_step);
            if due && self.options.basis == BasisUpdate::Eigen {
                self.normalise();
            }
        }
        self.steps = self.steps.saturating_add(1);
        report
    }

    /// Whether the bases move in the next step.
    fn is_due(&self) -> bool {
        let every = self.options.basis_every as u64;
        every > 0 && self.steps.saturating_add(1).is_multiple_of(every)
    }

    /// Before any step, with the determinants moved into `alpha` where they are to be 1.
    pub(super) fn new(options: KroneckerSpectral, sides: [Side<T>; 2], alpha: f64) -> Self {
        let mut state = Self { options, sides, alpha, steps: 0, clipped: 0 };
        state.normalise();
        state
    }

    /// Moves the determinants into `alpha`, where they are to be 1.
    fn normalise(&mut self) {
        if self.options.eigenvalues != Eigenvalues::Geometric {
            return;
        }
        for side in &mut self.sides {
            let mean = side.values.iter().map(|&d| Scalar::ln(d)).sum::<f64>() / side.values.len() as f64;
            side.values.iter_mut().for_each(|d| *d *= Scalar::exp(-mean));
            grow::<T>(std::slice::from_mut(&mut self.alpha), &[mean], f64::INFINITY);
        }
    }
}

impl<T: Real> Saved<T> for KroneckerState<T> {
    #[cfg(feature = "safetensors")]
    const KIND: &'static str = "kronecker spectral";

    #[cfg(feature = "safetensors")]
    fn shapes(&self) -> Vec<(&str, Vec<usize>)> {
        vec![("", self.shape().to_vec())]
    }

    fn fields(&mut self) -> Vec<(String, Field<'_, T>)> {
        let alpha = std::slice::from_mut(&mut self.alpha);
        let mut fields = vec![
            ("steps".to_owned(), Field::Count(&mut self.steps)),
            ("clipped".to_owned(), Field::Count(&mut self.clipped)),
            ("alpha".to_owned(), Field::Eigenvalues(alpha)),
        ];
        for (Side { basis, values, moment }, side) in self.sides.iter_mut().zip(["rows", "cols"]) {
            fields.push((format!("{side}.basis"), basis.field()));
            fields.push((format!("{side}.values"), Field::Eigenvalues(values)));
            fields.push((format!("{side}.moment"), Field::Numbers(Kind::Measured, moment)));
        }
        fields
    }

    #[cfg(feature = "safetensors")]
    fn validate(&self) -> Result<(), Error> {
        let (bases, par) = (self.bases()?, self.options.parallelism);
        bases
            .iter()
            .zip(self.values())
            .try_for_each(|(basis, values)| super::basis::check_basis(basis, values.len(), par))
    }
}
