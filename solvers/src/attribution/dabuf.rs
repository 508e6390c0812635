//! Cosines of whitened representations.

use ascribe_core::score::unit_rows;
use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};

use super::cross_covariance::CrossCovariance;
use super::projected::ProjectedFisher;
use crate::Error;
use crate::curvature::{Damping, EigenBlock, Filter};
use crate::error::{check_shape, zeros};
use crate::parallel::Parallelism;

/// The whitening of DABUF's representations: $z = W (x - \mu)$, $W = C_s^{-1/2}$ (symmetric, ZCA), $C_s = (1 -
/// \alpha) C + \alpha \frac{\mathrm{tr}\,C}{d} I$, with mean and covariance (divisor `n`) of the training rows. The
/// score of two rows is the inner product of their unit vectors.
///
/// Training rows come in batches: [`CrossCovariance::add`] them on both sides. Where they are all the same, `W` is 0.
/// Scores do not change under a rotation, a shift or a positive scale of the representations. Cost: `4 d^2` flops a
/// row.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef};
/// use ascribe_solvers::{attribution::{CrossCovariance, Dabuf}, parallel::Parallelism::Serial};
/// let train = MatRef::new(&[3.0_f64, 0.0, -3.0, 0.0, 0.0, 1.0, 0.0, -1.0], 4, 2)?;
/// let mut statistics = CrossCovariance::new(2, 2)?;
/// statistics.add(train, train, Serial)?;
/// let dabuf = Dabuf::new(&statistics, 1e-12, Serial)?; // C = diag(4.5, 0.5)
/// let mut white = [0.0; 2];
/// dabuf.whiten(MatMut::from_row(&mut white), MatRef::from_row(&[3.0, 1.0]))?;
/// assert!((white[0] - 2.0_f64.sqrt()).abs() < 1e-9 && (white[1] - 2.0_f64.sqrt()).abs() < 1e-9);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Pan et al., arXiv:2502.11411, whose second version centres and whitens representations (there named DRA); the
/// shrinkage is ours.
#[derive(Debug, Clone)]
pub struct Dabuf<T> {
    mean: Vec<f64>,
    whitening: ProjectedFisher<T>,
}

impl<T: Real> Dabuf<T> {
    /// From the statistics of the training rows with themselves, and the shrinkage `alpha` in (0, 1].
    ///
    /// # Errors
    /// [`CoreError::Parameter`] for another shrinkage; [`CoreError::Empty`] without rows; a shape error when the
    /// statistics are not those of one set of columns; the errors of [`EigenBlock::dense`].
    pub fn new(statistics: &CrossCovariance, shrinkage: f64, par: Parallelism) -> Result<Self, Error> {
        if !(shrinkage > 0.0 && shrinkage <= 1.0) {
            let must_be = "above 0 and at most 1";
            return Err(CoreError::Parameter { what: "shrinkage", value: shrinkage, must_be }.into());
        }
        if statistics.rows() == 0 {
            return Err(CoreError::Empty { what: "rows of a covariance" }.into());
        }
        let mean = statistics.mean_a();
        let d = mean.len();
        check_shape("columns of b", d, statistics.mean_b().len())?;
        let rows = statistics.rows() as f64;
        let mut covariance: Vec<f64> = statistics.products().iter().map(|x| x / rows).collect();
        let isotropic = shrinkage * covariance.iter().step_by(d + 1).map(|x| x / d as f64).sum::<f64>();
        for x in &mut covariance {
            *x *= 1.0 - shrinkage;
        }
        covariance.iter_mut().step_by(d + 1).for_each(|x| *x += isotropic);
        let block = EigenBlock::dense("whitening", MatRef::new(&covariance, d, d)?, par)?;
        // Relative, so that no variance at all gives the zero operator.
        let root = Filter { damping: Damping::Relative(0.0), power: -0.5, ..Filter::default() };
        Ok(Self { mean, whitening: ProjectedFisher::new(vec![block], &root, par)? })
    }

    /// `W (x - mu)` for each row, `out` and `rows` `[rows, d]`.
    ///
    /// # Errors
    /// A shape error.
    pub fn whiten(&self, out: MatMut<'_, T>, rows: MatRef<'_, T>) -> Result<(), Error> {
        let d = self.mean.len();
        check_shape("columns of the representations", d, rows.cols())?;
        let mut centred: Vec<T> = zeros("centred rows", rows.rows().checked_mul(d))?;
        for (out, row) in centred.chunks_exact_mut(d.max(1)).zip(rows.row_iter()) {
            out.iter_mut()
                .zip(row.iter().zip(&self.mean))
                .for_each(|(out, (x, mean))| *out = T::from_f64(x.to_f64() - mean));
        }
        self.whitening.precondition(out, &[MatRef::new(&centred, rows.rows(), d)?])
    }

    /// The unit vector of each whitened row: any inner product of two is their score.
    ///
    /// # Errors
    /// A shape error.
    pub fn embed(&self, mut out: MatMut<'_, T>, rows: MatRef<'_, T>) -> Result<(), Error> {
        self.whiten(out.rb_mut(), rows)?;
        unit_rows(out);
        Ok(())
    }
}
