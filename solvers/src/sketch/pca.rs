use ascribe_core::sketch::LoGra;
use ascribe_core::{Error as CoreError, MatRef, Real};

use crate::Error;
use crate::curvature::{Fisher, LayerCovariance};
use crate::error::zeros;
use crate::linalg::symmetric_eigen;
use crate::parallel::Parallelism;

/// The `k` leading eigenvectors of a symmetric matrix, `[k, n]`, the one of the largest eigenvalue first.
///
/// Computed in f64 and rounded to `T`. The first of the largest elements of each is positive, so that a projection
/// is the same however the decomposition came out; inside an eigenspace of several dimensions any basis may result.
/// Cost: that of [`symmetric_eigen`].
///
/// # Errors
/// [`CoreError::Length`] when `k > n`; otherwise as [`symmetric_eigen`].
///
/// # Examples
/// ```
/// use ascribe_core::MatRef;
/// use ascribe_solvers::{parallel::Parallelism, sketch::principal_axes};
/// let covariance = [1.0, 0.0, 0.0, 4.0];
/// let axis: Vec<f64> = principal_axes(MatRef::new(&covariance, 2, 2)?, 1, Parallelism::Serial)?;
/// assert_eq!(axis, [0.0, 1.0]);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
pub fn principal_axes<S: Real, T: Real>(matrix: MatRef<'_, S>, k: usize, par: Parallelism) -> Result<Vec<T>, Error> {
    let n = matrix.rows();
    if k > n {
        return Err(CoreError::Length { what: "eigenvectors", needed: k, got: n }.into());
    }
    let eigen = symmetric_eigen(matrix, par)?;
    let mut axes: Vec<T> = zeros("principal axes", k.checked_mul(n))?;
    if n == 0 {
        return Ok(axes);
    }
    for (j, axis) in axes.chunks_exact_mut(n).enumerate() {
        let column = || eigen.vectors.iter().skip(n - 1 - j).step_by(n).copied();
        let largest = column().fold(0.0, |largest: f64, v| if v.abs() > largest.abs() { v } else { largest });
        for (out, v) in axis.iter_mut().zip(column()) {
            *out = T::from_f64(v * largest.signum());
        }
    }
    Ok(axes)
}

/// The projections of [`LoGra`] that keep the directions in which a layer's gradients are largest: the leading
/// eigenvectors of both of its covariances.
///
/// The covariances are not centred, and counted as their [`LayerCovariance`] is, which does not move eigenvectors.
/// Under K-FAC's approximation of the curvature this projection is the best of its size.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, record::LayerRecord};
/// use ascribe_solvers::curvature::{Count, Empirical, LayerCovariance, LayerShape, Sharing};
/// use ascribe_solvers::{parallel::Parallelism::Serial, sketch::Pca};
/// let shape = LayerShape { d_in: 2, d_out: 1, bias: false };
/// let mut covariance = LayerCovariance::<f64, Empirical>::new(shape, Sharing::Expand, Count::Example, Serial)?;
/// let (x, delta) = (MatRef::new(&[3.0, 4.0], 1, 2)?, MatRef::new(&[2.0], 1, 1)?);
/// covariance.add(&LayerRecord::new(1, x, delta, None, false)?, &[])?;
/// let pca: Pca<f64> = Pca::new(&covariance, 1, 1, Serial)?;
/// let p_in = pca.logra()?.p_in().row(0);
/// assert!((p_in[0] - 0.6).abs() < 1e-15 && (p_in[1] - 0.8).abs() < 1e-15);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Choe et al., arXiv:2405.13954, section 3.2.
#[derive(Debug, Clone, PartialEq)]
pub struct Pca<T> {
    p_out: Vec<T>,
    p_in: Vec<T>,
    /// `k_out, d_out, k_in, d_in + bias`.
    shape: [usize; 4],
}

impl<T: Real> Pca<T> {
    /// `k_out` directions of the output gradients and `k_in` of the inputs, the appended 1 included.
    ///
    /// # Errors
    /// [`CoreError::Empty`] when the covariance has seen no position; [`CoreError::Length`] for more directions than
    /// there are dimensions; otherwise as [`symmetric_eigen`].
    pub fn new<S: Real, F: Fisher>(
        covariance: &LayerCovariance<S, F>,
        k_out: usize,
        k_in: usize,
        par: Parallelism,
    ) -> Result<Self, Error> {
        let (d_out, d_in) = (covariance.shape().d_out, covariance.shape().weight_cols());
        let (g, a) = (covariance.factor_g()?, covariance.factor_a()?);
        let p_out = principal_axes(MatRef::new(&g, d_out, d_out)?, k_out, par)?;
        let p_in = principal_axes(MatRef::new(&a, d_in, d_in)?, k_in, par)?;
        Ok(Self { p_out, p_in, shape: [k_out, d_out, k_in, d_in] })
    }

    /// The sketch.
    ///
    /// # Errors
    /// [`CoreError::Overflow`] when `k_out k_in` does not fit.
    pub fn logra(&self) -> Result<LoGra<'_, T>, CoreError> {
        let [k_out, d_out, k_in, d_in] = self.shape;
        LoGra::new(MatRef::new(&self.p_out, k_out, d_out)?, MatRef::new(&self.p_in, k_in, d_in)?)
    }
}
