//! A positive definite Kronecker product learned step by step in the eigenbases of its factors.

use std::borrow::Cow;

use ascribe_core::record::LayerRecord;
use ascribe_core::{Error as CoreError, MatMut, MatRef, Real, Scalar};

use super::basis_update::descending_eigenvectors;
use super::generator::mirror;
use super::growth::{check_values, grow};
use super::kronecker_observation::{Coordinates, Observation, View};
use super::kronecker_side::{Observed, Side};
use super::spectral::{check_basis, check_damping, check_positive, check_unit, identity, reconstruct};
use super::storage::Stored;
use super::{BasisUpdate, Cayley, Gaps, Storage};
use crate::Error;
use crate::curvature::{Basis, EigenBlock};
use crate::error::{check_finite, check_shape, zeros};
use crate::linalg::matmul;
use crate::parallel::Parallelism;

/// `S = alpha K (x) C` for a layer's weight `[r, c]`, with `K = B_K diag(d_K) B_K^T` over its rows, `C` over its columns
/// and `det K = det C = 1`, moved towards the curvature `H` of gradients along the affine-invariant geometry of such
/// products.
///
/// One step, from the old state, with means over the gradients `G` of the batch and $P = B_K^\top G B_C$:
/// $$M_C = \frac{\overline{P^\top D_K^{-1} P}}{r \alpha}, \quad M_K = \frac{\overline{P D_C^{-1} P^\top}}{c \alpha},
///   \quad \tau = \overline{M_{C,jj} / d_{C,j}} = \overline{M_{K,ii} / d_{K,i}},$$
/// $$d \leftarrow d \exp\big(\beta_2 (\mathrm{diag} M / d - \tau)\big), \quad B \leftarrow B\,\mathrm{Cay}(\tfrac{\beta_2}{2}
///   A(M, d)), \quad \alpha \leftarrow \alpha \exp\big(\beta_2 (\tau - \gamma)\big)$$
/// for either side, `A` being the generator of [`Spectral`](super::Spectral). The sum of `ln d` stays 0. Where it comes to
/// rest, `K = mean(G C^-1 G^T) / (c alpha)` and `C` likewise: the maximum likelihood of matrix normal gradients.
///
/// Cost of a step with `m` gradients: `2 m r c (r + c)` flops for `P`; every `basis_every` steps also `m r c (r + c)` for
/// the two `M` and the rotations of both sides. Memory: `r^2 + c^2` numbers of type `T`, or half of that in 16 bits, twice
/// that for updates that keep a moving average; eigenvalues are doubles.
///
/// # References
/// Lin et al., arXiv:2502.06268 (the scheme, derived anew here: see [`Spectral`](super::Spectral)); Lin et al.,
/// arXiv:2509.03378 (KL-Shampoo, which is the same core with another [`BasisUpdate`] and [`Eigenvalues`]).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KroneckerSpectral {
    /// The step size, in `0 ..= 1`; default 0.01.
    pub beta2: f64,
    /// What is forgotten: 1, the default, for a moving average, 0 for a sum over the steps.
    pub gamma: f64,
    /// Near-equal eigenvalues; default [`Gaps::Regularised`] with 0.01.
    pub gaps: Gaps,
    /// The largest Frobenius norm of a generator; default 0.5.
    pub clip: f64,
    /// The largest absolute change of the logarithm of `alpha` or an eigenvalue in a step; default 2. The steps of one
    /// factor are shortened alike, so that its determinant stays 1.
    pub max_log_step: f64,
    /// `H + damping I` takes the place of `H`; default 0.
    pub damping: f64,
    /// How the bases move; default Cayley's map.
    pub basis: BasisUpdate,
    /// Steps from one update of the bases to the next; default 10, 0 for never. Eigenvalues and `alpha` move in each.
    pub basis_every: usize,
    /// Updates by Cayley's exact map between two repairs of orthogonality; default 8, 0 for never.
    pub polish_every: usize,
    /// How the eigenvalues move; default [`Eigenvalues::Geometric`].
    pub eigenvalues: Eigenvalues,
    /// How the bases are kept; default full.
    pub storage: Storage,
    /// The threads; they change no bit.
    pub parallelism: Parallelism,
}

/// How the eigenvalues of the factors move.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Eigenvalues {
    /// By factors, with determinants of 1 and the scale in `alpha`.
    #[default]
    Geometric,
    /// As a moving average, `d <- (1 - gamma beta2) d + beta2 diag M`, both factors free and `alpha` 1: KL-Shampoo. They
    /// start at `start`, 0.1 in the reference code, and as there `d^-1/2` is at most `max(10, min(n, 4000))` for a side of
    /// length `n`.
    Arithmetic {
        /// The eigenvalues before the first step.
        start: f64,
    },
}

impl Default for KroneckerSpectral {
    fn default() -> Self {
        Self {
            beta2: 0.01,
            gamma: 1.0,
            gaps: Gaps::Regularised(0.01),
            clip: 0.5,
            max_log_step: 2.0,
            damping: 0.0,
            basis: BasisUpdate::default(),
            basis_every: 10,
            polish_every: 8,
            eigenvalues: Eigenvalues::Geometric,
            storage: Storage::Full,
            parallelism: Parallelism::Serial,
        }
    }
}

/// What a step did. Pairs are of the rows and of the columns.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct KroneckerReport {
    /// `tau`: how large the observation was, measured in `S`; 1 where it is at rest.
    pub tau: f64,
    /// Frobenius' norms of the generators before they were clipped; 0 where no generator was made.
    pub generator_norms: [f64; 2],
    /// Whether they were.
    pub clipped: [bool; 2],
    /// How often `alpha` or the eigenvalues of a factor were kept from moving as far as they should have.
    pub limited: usize,
}

/// The product so far; see [`KroneckerSpectral`].
#[derive(Debug, Clone, PartialEq)]
pub struct KroneckerState<T> {
    options: KroneckerSpectral,
    /// Of the rows and of the columns.
    sides: [Side<T>; 2],
    alpha: f64,
    steps: usize,
    clipped: usize,
}

impl KroneckerSpectral {
    /// KL-Shampoo with the defaults of its reference code: a power step every ten gradients, moving averages with
    /// `beta2 = 0.98` of theirs.
    pub fn kl_shampoo() -> Self {
        Self {
            beta2: 0.02,
            basis: BasisUpdate::QrPower,
            eigenvalues: Eigenvalues::Arithmetic { start: 0.1 },
            ..Self::default()
        }
    }

    /// The state before any gradient of a weight `[rows, cols]`: unit bases, eigenvalues 1 (or the start of
    /// [`Eigenvalues::Arithmetic`]).
    ///
    /// # Errors
    /// [`CoreError::Parameter`] or [`CoreError::Damping`] for an option outside its range, [`CoreError::Empty`] for a
    /// weight without elements, [`CoreError::Overflow`].
    ///
    /// # Examples
    /// ```
    /// use ascribe_core::{MatMut, MatRef};
    /// use ascribe_solvers::precondition::KroneckerSpectral;
    /// let mut state = KroneckerSpectral { beta2: 0.1, ..Default::default() }.start::<f64>(1, 2)?;
    /// for _ in 0..300 {
    ///     state.step(MatRef::new(&[2.0, 0.0, 0.0, 4.0], 2, 2)?)?; // two gradients
    /// }
    /// let mut x = [2.0, 8.0];
    /// let v = MatRef::new(&[2.0, 8.0], 1, 2)?;
    /// state.precondition(MatMut::new(&mut x, 1, 2)?, v, 1.0, 0.0)?; // H = diag(2, 8)
    /// assert!((x[0] - 1.0).abs() < 1e-9 && (x[1] - 1.0).abs() < 1e-9);
    /// # Ok::<(), ascribe_solvers::Error>(())
    /// ```
    pub fn start<T: Real>(self, rows: usize, cols: usize) -> Result<KroneckerState<T>, Error> {
        let value = match self.eigenvalues {
            Eigenvalues::Geometric => 1.0,
            Eigenvalues::Arithmetic { start } => start,
        };
        // The bases first: where they fit into memory, so do the eigenvalues.
        let bases = [identity(rows)?, identity(cols)?];
        self.resume(bases, [vec![value; rows], vec![value; cols]], 1.0)
    }

    /// The state of given bases, by columns, and eigenvalues, of the rows and of the columns, and `alpha`. Determinants
    /// other than 1 move into `alpha`.
    ///
    /// # Errors
    /// As [`start`](Self::start); a shape error; [`CoreError::NonFinite`]; [`Error::NoConvergence`] for a basis whose
    /// columns are not orthonormal to half of the digits.
    pub fn resume<T: Real>(
        self,
        bases: [Vec<T>; 2],
        values: [Vec<f64>; 2],
        alpha: f64,
    ) -> Result<KroneckerState<T>, Error> {
        self.check()?;
        let [rows, cols] = [values[0].len(), values[1].len()];
        if rows == 0 || cols == 0 {
            return Err(CoreError::Empty { what: "weight" }.into());
        }
        rows.checked_mul(cols).ok_or(CoreError::Overflow { what: "weight" })?;
        check_values::<T>("alpha", &[alpha])?;
        for (basis, values) in bases.iter().zip(&values) {
            check_basis(basis, values.len(), self.parallelism)?;
            check_values::<T>("eigenvalues", values)?;
        }
        let keeps = self.basis.cayley().is_none();
        let [b_k, b_c] = bases;
        let [d_k, d_c] = values;
        let side = |basis, values: Vec<f64>| -> Result<Side<T>, Error> {
            let n = values.len();
            let moment = if keeps { zeros("moving average of a factor", n.checked_mul(n))? } else { Vec::new() };
            Ok(Side { basis: Stored::new(self.storage, basis), values, moment })
        };
        let sides = [side(b_k, d_k)?, side(b_c, d_c)?];
        let mut state = KroneckerState { options: self, sides, alpha, steps: 0, clipped: 0 };
        state.normalise();
        Ok(state)
    }

    fn check(&self) -> Result<(), CoreError> {
        let Self { beta2, gamma, clip, max_log_step, damping, .. } = *self;
        check_unit("beta2", beta2)?;
        check_unit("gamma", gamma)?;
        check_positive("clip", clip)?;
        check_positive("max_log_step", max_log_step)?;
        check_damping(damping)?;
        self.gaps.check()?;
        self.basis.cayley().map_or(Ok(()), Cayley::check)
    }
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
    /// None for bases in full; [`CoreError::Overflow`] when there is no memory to decode them.
    pub fn bases(&self) -> Result<[Cow<'_, [T]>; 2], Error> {
        let ([k, c], par) = (&self.sides, self.options.parallelism);
        Ok([k.basis.load(k.values.len(), par)?, c.basis.load(c.values.len(), par)?])
    }

    /// Generators so far that were clipped, of both sides.
    pub fn clipped(&self) -> usize {
        self.clipped
    }

    /// A step towards the curvature `mean_k vec(G_k) vec(G_k)^T` of the flat gradients `[m, rows * cols]`.
    ///
    /// # Errors
    /// A shape error; [`CoreError::Empty`] without gradients; [`CoreError::NonFinite`] for NaN or infinity in them, or
    /// numbers so large or small that products with them are. The state is untouched.
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
        let ([r, c], par) = (self.shape(), self.options.parallelism);
        let mut fresh: Self = self.options.start(r, c)?;
        let ones = [vec![1.0; r], vec![1.0; c]];
        let units: [Vec<T>; 2] = [identity(r)?, identity(c)?];
        let bases = [MatRef::new(&units[0], r, r)?, MatRef::new(&units[1], c, c)?];
        let view = View { bases, values: [&ones[0], &ones[1]], alpha: 1.0, par };
        let seen = Observation::Gradients(gradients).see(view, Coordinates::Weight)?;
        let size = seen.diagonals[0].iter().sum::<f64>() / r as f64;
        check_finite("curvature", &[size])?;
        if size > 0.0 && fresh.options.eigenvalues == Eigenvalues::Geometric {
            grow::<T>(std::slice::from_mut(&mut fresh.alpha), &[Scalar::ln(size)], f64::INFINITY);
        }
        for (side, weighted) in fresh.sides.iter_mut().zip(seen.rows.into_iter().flatten()) {
            let n = side.values.len();
            let mut factor = weighted.gram(vec![T::ZERO; n * n], n, 1.0 / fresh.alpha, par)?;
            if size > 0.0 {
                mirror(&mut factor, n);
                let basis = descending_eigenvectors(MatRef::new(&factor, n, n)?, par)?;
                side.basis = Stored::new(self.options.storage, basis);
            }
            if !side.moment.is_empty() {
                ascribe_core::reduce::scale(&mut factor, T::from_f64(self.options.beta2));
                side.moment = factor;
            }
        }
        *self = fresh;
        Ok(())
    }

    /// `K` `[rows, rows]` and `C` `[cols, cols]`. Cost: `2 (r^3 + c^3)` flops.
    ///
    /// # Errors
    /// [`CoreError::Overflow`] when there is no memory for them.
    pub fn factors(&self) -> Result<[Vec<T>; 2], Error> {
        let ([k, c], [d_k, d_c], par) = (self.bases()?, self.values(), self.options.parallelism);
        Ok([reconstruct(&k, d_k, par)?, reconstruct(&c, d_c, par)?])
    }

    /// Writes a root of the inverse applied to `v` `[rows, cols]`: $B_K \big((B_K^\top V B_C) \circ h\big) B_C^\top$ with
    /// $h_{ij} = 1 / ((\alpha d_{K,i} d_{C,j})^{1/p} + \epsilon)$.
    ///
    /// `p` is 1 for Newton's step, 2 for one like Adam's, and may be any number but 0; `epsilon` is added to the root, as
    /// Adam's is. For a damping inside of the root take [`block`](Self::block). Cost: `4 r c (r + c)` flops, memory for
    /// two gradients.
    ///
    /// # Errors
    /// A shape error; [`CoreError::Parameter`] for a `p` of 0 or an `epsilon` below 0, or either not finite;
    /// [`CoreError::NonFinite`] for a result that is not finite. `out` is then untouched.
    pub fn precondition(&self, mut out: MatMut<'_, T>, v: MatRef<'_, T>, p: f64, epsilon: f64) -> Result<(), Error> {
        let ([r, c], par) = (self.shape(), self.options.parallelism);
        check_shape("rows of the gradient", r, v.rows())?;
        check_shape("columns of the gradient", c, v.cols())?;
        check_shape("rows of the output", r, out.rows())?;
        check_shape("columns of the output", c, out.cols())?;
        if !p.is_finite() || p == 0.0 {
            return Err(CoreError::Parameter { what: "root p", value: p, must_be: "finite and not 0" }.into());
        }
        if !(epsilon.is_finite() && epsilon >= 0.0) {
            return Err(CoreError::Parameter { what: "epsilon", value: epsilon, must_be: "at least 0" }.into());
        }
        let [b_k, b_c] = self.bases()?;
        let (b_k, b_c) = (MatRef::new(&b_k, r, r)?, MatRef::new(&b_c, c, c)?);
        let root = |d: &f64| d.powf(-1.0 / p);
        let [h_k, h_c] = self.values().map(|d| d.iter().map(root).collect::<Vec<f64>>());
        let scale = root(&self.alpha);
        let (mut first, mut second): (Vec<T>, Vec<T>) =
            (zeros("gradient", Some(r * c))?, zeros("gradient", Some(r * c))?);
        matmul(MatMut::new(&mut first, r, c)?, T::ZERO, T::ONE, v, b_c, par)?;
        matmul(MatMut::new(&mut second, r, c)?, T::ZERO, T::ONE, b_k.t(), MatRef::new(&first, r, c)?, par)?;
        for (row, h) in second.chunks_exact_mut(c).zip(h_k) {
            for (x, other) in row.iter_mut().zip(&h_c) {
                let inverse = scale * h * other;
                *x *= T::from_f64(inverse / (1.0 + epsilon * inverse));
            }
        }
        matmul(MatMut::new(&mut first, r, c)?, T::ZERO, T::ONE, b_k, MatRef::new(&second, r, c)?, par)?;
        matmul(MatMut::new(&mut second, r, c)?, T::ZERO, T::ONE, MatRef::new(&first, r, c)?, b_c.t(), par)?;
        check_finite("preconditioned gradient", &second)?;
        Ok(out.copy_from(MatRef::new(&second, r, c)?)?)
    }

    /// `ln det(S + damping I)`. Cost: `r c` logarithms.
    ///
    /// # Errors
    /// [`CoreError::Damping`] for a damping that is negative or not finite.
    pub fn log_det(&self, damping: f64) -> Result<f64, Error> {
        check_damping(damping)?;
        let [d_k, d_c] = self.values();
        Ok(d_k.iter().flat_map(|k| d_c.iter().map(move |c| Scalar::ln(self.alpha * k * c + damping))).sum())
    }

    /// `scale S` as the block of a layer: its damped inverse, any power and any filter are operators on flat gradients, to
    /// precondition any solver.
    ///
    /// `scale` takes `S` to the curvature that is meant. From gradients of single examples, `S` stands for the empirical
    /// Fisher matrix (1); from mean gradients of batches of `b` examples, near a minimum, for that over `b` (`b`). KL-Shampoo's
    /// factors are a curvature to the power 1 as well.
    ///
    /// # Errors
    /// [`Error::Block`] with `name` for a scale that is negative or not finite, or eigenvalues that overflow;
    /// [`CoreError::Overflow`].
    pub fn block(&self, name: &str, scale: f64) -> Result<EigenBlock<T>, Error> {
        let ([r, c], [d_k, d_c], [b_k, b_c]) = (self.shape(), self.values(), self.bases()?);
        let values = d_k.iter().flat_map(|k| d_c.iter().map(move |c| self.alpha * k * c)).collect();
        let left = Basis::Columns { dim: r, vectors: b_k.into_owned() };
        let right = Basis::Columns { dim: c, vectors: b_c.into_owned() };
        let mut block = EigenBlock::from_parts(name, left, right, values)?;
        block.scale(scale)?;
        Ok(block)
    }

    fn follow(&mut self, observation: Observation<'_, T>) -> Result<KroneckerReport, Error> {
        let ([r, c], KroneckerSpectral { beta2, gamma, damping, .. }) = (self.shape(), self.options);
        let every = self.options.basis_every;
        let due = every > 0 && (self.steps + 1).is_multiple_of(every);
        let coordinates = match self.options.basis {
            BasisUpdate::Cayley(_) if due => Coordinates::Eigenbasis,
            BasisUpdate::Cayley(_) => Coordinates::Diagonal,
            BasisUpdate::QrPower | BasisUpdate::Eigen => Coordinates::Weight,
        };
        let bases = self.bases()?;
        let views = [MatRef::new(&bases[0], r, r)?, MatRef::new(&bases[1], c, c)?];
        let view = View { bases: views, values: self.values(), alpha: self.alpha, par: self.options.parallelism };
        let seen = observation.see(view, coordinates)?;
        let inverse_means = self.values().map(|d| d.iter().map(|d| 1.0 / d).sum::<f64>() / d.len() as f64);
        let [of_rows, of_cols] = seen.rows.map_or([None, None], |rows| rows.map(Some));
        let [k, c] = seen.diagonals;
        let observed = [(0, k, of_rows), (1, c, of_cols)].map(|(side, diagonal, weighted)| {
            let damping = damping / self.alpha * inverse_means[1 - side];
            let diagonal: Vec<f64> = diagonal.into_iter().map(|x| x + damping).collect();
            let ratios = diagonal.iter().zip(&self.sides[side].values).map(|(m, d)| m / d);
            let tau = ratios.sum::<f64>() / diagonal.len() as f64;
            Observed { diagonal, weighted, damping, tau }
        });
        // No ratio is negative, so that a finite mean is one of finite numbers.
        check_finite("curvature in the eigenbasis", &[observed[0].tau, observed[1].tau])?;
        let tau = f64::midpoint(observed[0].tau, observed[1].tau);
        let [of_rows, of_cols] = observed;
        let moved = [
            self.sides[0].moved(&self.options, of_rows, &bases[0], due, self.steps / every.max(1))?,
            self.sides[1].moved(&self.options, of_cols, &bases[1], due, self.steps / every.max(1))?,
        ];
        drop(bases);
        let mut report = KroneckerReport { tau, ..KroneckerReport::default() };
        for (i, (side, moved)) in self.sides.iter_mut().zip(moved).enumerate() {
            side.values = moved.values;
            if let Some(basis) = moved.basis {
                side.basis = Stored::new(self.options.storage, basis);
            }
            if let Some(moment) = moved.moment {
                side.moment = moment;
            }
            (report.generator_norms[i], report.clipped[i]) = (moved.turn.norm, moved.turn.clipped);
            report.limited += moved.limited;
            self.clipped += usize::from(moved.turn.clipped);
        }
        if self.options.eigenvalues == Eigenvalues::Geometric {
            let step = beta2 * tau - beta2 * gamma;
            let alpha = std::slice::from_mut(&mut self.alpha);
            report.limited += grow::<T>(alpha, &[step], self.options.max_log_step);
            if due && self.options.basis == BasisUpdate::Eigen {
                self.normalise();
            }
        }
        self.steps += 1;
        Ok(report)
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
