//! A positive definite matrix learned step by step in its own eigenbasis.

use std::borrow::Cow;

use ascribe_core::{Error as CoreError, MatMut, MatRef, Real, Scalar};

use super::basis::{check_basis, identity, reconstruct, turn_basis};
use super::check::{check_damping, check_positive, check_rate, check_unit};
use super::generator::Generator;
use super::growth::{check_values, grow};
use super::state::{Field, Saved};
use super::storage::Stored;
use super::transpose::symmetrise;
use super::{Cayley, Gaps, Storage};
use crate::Error;
use crate::curvature::{Basis, EigenBlock};
use crate::error::{check_finite, check_rows_finite, check_shape, zeros};
use crate::linalg::{Rows, matmul};
use crate::parallel::Parallelism;

/// `S = B diag(d) B^T`, moved towards curvature observations `H` along the affine-invariant geometry of positive
/// definite matrices: no decomposition, any root of `S` at once, and `S` stays positive definite whatever `H` is.
///
/// One step, everything on the right from before it: with $M = B^\top H B$,
/// $$A_{ij} = -\frac{M_{ij}}{d_i - d_j}, \quad B \leftarrow B\,\mathrm{Cay}(\tfrac{\beta_2}{2} A), \quad
///   d_i \leftarrow d_i \exp\!\big(\beta_2 (M_{ii} / d_i - \gamma)\big).$$
/// It equals the moving average `S + beta2 (H - gamma S)` to second order in `beta2`, while no bound below is met and the
/// eigenvalues are apart; with all of them equal, nothing turns in the first step.
///
/// Cost of a step: `4 n^3` flops for a dense `H`, `2 m n^2 + m n^2` for `m` gradients, `8 n^3 / 3` for the rotation and
/// `3 n^3 / polish_every` for its repair. Memory: `n^2` numbers of type `T` (half of that in 16 bits) and `n` doubles.
///
/// # References
/// Lin et al., arXiv:2502.06268: the factorisation, and the use of Cayley's map. The rules here are derived anew from
/// the geometry, with treatments of near-equal eigenvalues and bounds of the step of our own: agreement is to first
/// order, not to the bit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spectral {
    /// The step size, in `0 ..= 1`; default 0.01.
    pub beta2: f64,
    /// What is forgotten: 1, the default, for a moving average, 0 for a sum over the steps.
    pub gamma: f64,
    /// Near-equal eigenvalues; default [`Gaps::Regularised`] with 0.01.
    pub gaps: Gaps,
    /// The largest Frobenius norm of `beta2 A / 2`, to which longer ones are scaled; default 0.5, enough for
    /// [`Cayley::Truncated`]. A stream of single gradients meets it in nearly every step, which does no harm: it is a
    /// low-pass.
    pub clip: f64,
    /// The largest absolute change of `ln d` in a step; default 2. It is what keeps `exp(beta2 M_ii / d_i)` from
    /// overflowing when the curvature exceeds an eigenvalue by orders of magnitude. Infinity leaves only the range of
    /// `T`, inside of which `d` is kept always: `|ln d|` up to 80 in f32, 340 in f64.
    pub max_log_step: f64,
    /// The rotation; default exact.
    pub cayley: Cayley,
    /// Rotations between two repairs of orthogonality by [`polish`](super::polish()); default 8, 0 for never. Rounding
    /// adds up to about `1e-6` a rotation in f32. A truncated rotation is repaired each time.
    pub polish_every: usize,
    /// How the basis is kept; default full.
    pub storage: Storage,
    /// The threads; they change no bit.
    pub parallelism: Parallelism,
}

impl Default for Spectral {
    fn default() -> Self {
        Self {
            beta2: 0.01,
            gamma: 1.0,
            gaps: Gaps::Regularised(0.01),
            clip: 0.5,
            max_log_step: 2.0,
            cayley: Cayley::Exact,
            polish_every: 8,
            storage: Storage::Full,
            parallelism: Parallelism::Serial,
        }
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct SpectralReport {
    /// Frobenius' norm of the generator `beta2 A / 2` before it was clipped.
    pub generator_norm: f64,
    /// Whether it was.
    pub clipped: bool,
    /// Eigenvalues whose step was shortened.
    pub limited: usize,
}

/// The matrix so far; see [`Spectral`].
#[derive(Debug, Clone, PartialEq)]
pub struct SpectralState<T> {
    options: Spectral,
    basis: Stored<T>,
    values: Vec<f64>,
    rotations: u64,
    clipped: u64,
}

impl Spectral {
    /// `S = value I` with `n` rows.
    ///
    /// # Errors
    /// [`CoreError::Parameter`] for an option or value outside its range; [`CoreError::Overflow`].
    ///
    /// # Examples
    /// ```
    /// use ascribe_core::MatRef;
    /// use ascribe_solvers::precondition::Spectral;
    /// let mut state = Spectral { beta2: 0.1, ..Spectral::default() }.start::<f64>(2, 1.0)?;
    /// for _ in 0..200 {
    ///     state.step(MatRef::new(&[2.0, 1.0, 1.0, 3.0], 2, 2)?)?;
    /// }
    /// let s = state.matrix()?;
    /// assert!((s[0] - 2.0).abs() < 1e-6 && (s[1] - 1.0).abs() < 1e-6 && (s[3] - 3.0).abs() < 1e-6);
    /// # Ok::<(), ascribe_solvers::Error>(())
    /// ```
    pub fn start<T: Real>(self, n: usize, value: f64) -> Result<SpectralState<T>, Error> {
        // The basis first: where it fits into memory, so do the eigenvalues.
        let basis = identity(n)?;
        self.resume(basis, vec![value; n])
    }

    /// `S = B diag(d) B^T` from a basis `[n, n]`, by columns, and its eigenvalues, in any order.
    ///
    /// # Errors
    /// As [`start`](Self::start); a shape error, [`CoreError::NonFinite`]; [`Error::NoConvergence`] for a basis whose
    /// columns are not orthonormal to half of the digits.
    pub fn resume<T: Real>(self, basis: Vec<T>, values: Vec<f64>) -> Result<SpectralState<T>, Error> {
        self.check()?;
        check_basis(&basis, values.len(), self.parallelism)?;
        check_values::<T>("eigenvalues", &values)?;
        let basis = Stored::new(self.storage, basis);
        Ok(SpectralState { options: self, basis, values, rotations: 0, clipped: 0 })
    }

    fn check(&self) -> Result<(), CoreError> {
        let Self { beta2, gamma, clip, max_log_step, .. } = *self;
        check_unit("beta2", beta2)?;
        check_unit("gamma", gamma)?;
        check_positive("clip", clip)?;
        check_positive("max_log_step", max_log_step)?;
        self.gaps.check()?;
        self.cayley.check()
    }
}

impl<T: Real> SpectralState<T> {
    /// The number of rows.
    pub fn dim(&self) -> usize {
        self.values.len()
    }

    /// What it was made with.
    pub fn options(&self) -> &Spectral {
        &self.options
    }

    /// The eigenvalues `d`, in the order of the columns of the basis, which is not sorted.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// The basis `B`, `[n, n]`, eigenvectors as columns; decoded when it is kept in 16 bits.
    ///
    /// # Errors
    /// None for a basis in full; [`CoreError::Overflow`] when there is no memory to decode it.
    pub fn basis(&self) -> Result<Cow<'_, [T]>, Error> {
        self.basis.load(self.dim(), self.options.parallelism)
    }

    /// Steps so far whose generator was clipped.
    pub fn clipped(&self) -> u64 {
        self.clipped
    }

    /// A step towards a dense symmetric `h` `[n, n]`, which may be indefinite; `(h + h^T) / 2` is what counts.
    ///
    /// # Errors
    /// A shape error; [`CoreError::NonFinite`] for NaN or infinity in `h`, or numbers so large that products with them
    /// are. The state is untouched.
    pub fn step(&mut self, h: MatRef<'_, T>) -> Result<SpectralReport, Error> {
        let m = self.rotate_symmetric("curvature", h)?;
        self.follow(m)
    }

    /// A step towards `H = mean_k g_k g_k^T` for the rows of `gradients` `[m, n]`; `H` is never formed.
    ///
    /// # Errors
    /// As [`step`](Self::step); [`CoreError::Empty`] without gradients.
    pub fn step_gradients(&mut self, gradients: MatRef<'_, T>) -> Result<SpectralReport, Error> {
        let (n, m, par) = (self.dim(), gradients.rows(), self.options.parallelism);
        check_shape("columns of the gradients", n, gradients.cols())?;
        if m == 0 {
            return Err(CoreError::Empty { what: "gradients" }.into());
        }
        check_rows_finite("gradients", gradients)?;
        let mut rotated: Vec<T> = zeros("rotated gradients", m.checked_mul(n))?;
        let mut square: Vec<T> = zeros("curvature", n.checked_mul(n))?;
        let basis = self.basis()?;
        let out = MatMut::new(&mut rotated, m, n)?;
        matmul(out, T::ZERO, T::ONE, gradients, MatRef::new(&basis, n, n)?, par)?;
        let mut weights = zeros("weights", Some(m))?;
        weights.fill(T::from_f64(1.0 / m as f64));
        let rows = Rows { weights: Some(&weights), ..Rows::new(MatRef::new(&rotated, m, n)?) };
        rows.add_gram(MatMut::new(&mut square, n, n)?, par)?;
        self.follow(square)
    }

    /// A step of size `rate` down a loss `L(S)` whose derivative `dL/dS` is `gradient` `[n, n]`: steepest descent for the
    /// metric $\mathrm{tr}(S^{-1} V S^{-1} V)$, with the options' bounds and treatment of gaps.
    ///
    /// # Errors
    /// As [`step`](Self::step); [`CoreError::Parameter`] for a rate that is negative or not finite.
    pub fn descend(&mut self, gradient: MatRef<'_, T>, rate: f64) -> Result<SpectralReport, Error> {
        let g = self.rotate_symmetric("derivative", gradient)?;
        self.descend_rotated(g, rate)
    }

    /// [`descend`](Self::descend) for a derivative in the eigenbasis, lower triangle.
    pub(super) fn descend_rotated(&mut self, mut g: Vec<T>, rate: f64) -> Result<SpectralReport, Error> {
        check_rate("rate", rate)?;
        let n = self.dim();
        for (i, (row, x)) in g.chunks_exact_mut(n.max(1)).zip(&self.values).enumerate() {
            for (g, y) in row[..=i].iter_mut().zip(&self.values) {
                *g = T::from_f64(-g.to_f64() * x * y);
            }
        }
        let steps: Vec<f64> = self.values.iter().enumerate().map(|(i, d)| rate * g[i * n + i].to_f64() / d).collect();
        let values = self.values.clone();
        self.advance(g, &values, [rate, 0.0], &steps)
    }

    /// The matrix `B^T h B`, lower triangle.
    pub(super) fn rotate_symmetric(&self, what: &'static str, h: MatRef<'_, T>) -> Result<Vec<T>, Error> {
        let (n, par) = (self.dim(), self.options.parallelism);
        check_shape("rows of a symmetric matrix", n, h.rows())?;
        check_shape("columns of a symmetric matrix", n, h.cols())?;
        check_rows_finite(what, h)?;
        let (mut half, mut m): (Vec<T>, Vec<T>) = (zeros(what, Some(n * n))?, zeros(what, Some(n * n))?);
        let basis = self.basis()?;
        let basis = MatRef::new(&basis, n, n)?;
        matmul(MatMut::new(&mut half, n, n)?, T::ZERO, T::ONE, h, basis, par)?;
        matmul(MatMut::new(&mut m, n, n)?, T::ZERO, T::ONE, basis.t(), MatRef::new(&half, n, n)?, par)?;
        symmetrise(&mut m, n);
        Ok(m)
    }

    fn follow(&mut self, m: Vec<T>) -> Result<SpectralReport, Error> {
        let (n, Spectral { beta2, gamma, .. }) = (self.dim(), self.options);
        // The product first: with a step size of 0 nothing moves, however large the ratio.
        let step = |(i, d): (usize, &f64)| beta2 * m[i * n + i].to_f64() / d - beta2 * gamma;
        let steps: Vec<f64> = self.values.iter().enumerate().map(step).collect();
        let values = self.values.clone();
        self.advance(m, &values, [beta2, gamma], &steps)
    }

    /// Turns the basis by the generator of `m` (lower triangle) for the gaps of `values`, and multiplies the eigenvalues
    /// by the exponentials of `steps`.
    pub(super) fn advance(
        &mut self,
        mut m: Vec<T>,
        values: &[f64],
        [rate, decay]: [f64; 2],
        steps: &[f64],
    ) -> Result<SpectralReport, Error> {
        let (n, options) = (self.dim(), self.options);
        for (i, row) in m.chunks_exact(n.max(1)).enumerate() {
            check_finite("curvature in the eigenbasis", &row[..=i])?;
        }
        let par = options.parallelism;
        let generator = Generator { values, rate, decay, gaps: options.gaps, clip: options.clip };
        let turn = generator.fill(&mut m, par)?;
        if turn.norm > 0.0 {
            let rotations = self.rotations.saturating_add(1);
            let due = options.polish_every > 0 && rotations.is_multiple_of(options.polish_every as u64);
            let turned = turn_basis(options.cayley, &self.basis()?, (m, turn.norm.min(options.clip)), n, due, par)?;
            self.basis = Stored::new(options.storage, turned);
            self.rotations = rotations;
        }
        let limited = grow::<T>(&mut self.values, steps, options.max_log_step);
        self.clipped = self.clipped.saturating_add(u64::from(turn.clipped));
        Ok(SpectralReport { generator_norm: turn.norm, clipped: turn.clipped, limited })
    }

    /// `S`, `[n, n]`. Cost: `2 n^3` flops.
    ///
    /// # Errors
    /// [`CoreError::Overflow`] when there is no memory for it.
    pub fn matrix(&self) -> Result<Vec<T>, Error> {
        reconstruct(&self.basis()?, &self.values, self.options.parallelism)
    }

    /// `ln det(S + damping I)`.
    ///
    /// # Errors
    /// [`CoreError::Damping`] for a damping that is negative or not finite.
    pub fn log_det(&self, damping: f64) -> Result<f64, Error> {
        check_damping(damping)?;
        Ok(self.values.iter().map(|d| Scalar::ln(d + damping)).sum())
    }

    /// The state as a safetensors file, without the options: what [`load`](Self::load) goes on from bit for bit.
    ///
    /// # Errors
    /// [`Error::Archive`] when the bytes do not fit into memory.
    #[cfg(feature = "safetensors")]
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        super::archive::to_bytes(self)
    }

    /// Takes over the state of a file of [`to_bytes`](Self::to_bytes). Options, size and `T` have to be those of the state
    /// that wrote it.
    ///
    /// # Errors
    /// As [`Optimizer::load`](super::Optimizer::load); the state is untouched then.
    #[cfg(feature = "safetensors")]
    pub fn load(&mut self, bytes: &[u8]) -> Result<(), Error> {
        super::archive::load(self, bytes)
    }

    /// `scale S` as a block of curvature: its damped inverse, any power and any filter are operators on rows at the cost of
    /// two products with the basis, to precondition any solver.
    ///
    /// `scale` takes `S` to the curvature that is meant. `S` is a mean of what it was given: from gradients of single
    /// examples the empirical Fisher matrix (1); from mean gradients of batches of `b` examples that matrix over `b`, near
    /// a minimum (`b`); of Hessians the Hessian (1).
    ///
    /// # Errors
    /// [`Error::Block`] with `name` for a scale that is negative or not finite; [`CoreError::Overflow`].
    pub fn block(&self, name: &str, scale: f64) -> Result<EigenBlock<T>, Error> {
        let (n, vectors) = (self.dim(), self.basis()?.into_owned());
        let basis = Basis::Columns { dim: n, vectors };
        let mut block = EigenBlock::from_parts(name, Basis::Units(1), basis, self.values.clone())?;
        block.scale(scale)?;
        Ok(block)
    }
}

impl<T: Real> Saved<T> for SpectralState<T> {
    #[cfg(feature = "safetensors")]
    const KIND: &'static str = "spectral";

    #[cfg(feature = "safetensors")]
    fn shapes(&self) -> Vec<(&str, Vec<usize>)> {
        vec![("", vec![self.dim()])]
    }

    fn fields(&mut self) -> Vec<(String, Field<'_, T>)> {
        vec![
            ("rotations".to_owned(), Field::Count(&mut self.rotations)),
            ("clipped".to_owned(), Field::Count(&mut self.clipped)),
            ("basis".to_owned(), self.basis.field()),
            ("values".to_owned(), Field::Eigenvalues(&mut self.values)),
        ]
    }

    #[cfg(feature = "safetensors")]
    fn validate(&self) -> Result<(), Error> {
        check_basis(&self.basis()?, self.dim(), self.options.parallelism)
    }
}
