//! One ranking from the scores of several models.

use ascribe_core::metric::midranks;
use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};

use crate::Error;
use crate::error::{check_shape, zeros};
use crate::parallel::{Parallelism, for_each};

/// The mean over models of each training example's relative rank for a query: 1 for the first, 0 for the last, ties
/// sharing the mean of their ranks; 1/2 for a single example.
///
/// Scores of different models, checkpoints or methods have no common scale; ranks do. Each of `scores` and `out` is
/// `[n_train, n_query]`. Nothing changes when the scores of a model and query go through an increasing function. Cost:
/// `O(n log n)` a query and model.
///
/// # Errors
/// [`CoreError::Empty`] without models, a shape error when they differ, [`CoreError::NonFinite`] for NaN.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef};
/// use ascribe_solvers::{attribution::fuse_ranks, parallel::Parallelism::Serial};
/// let (small, large) = ([0.1, 0.3, 0.2], [50.0, 900.0, -1e6]);
/// let models = [MatRef::new(&small, 3, 1)?, MatRef::new(&large, 3, 1)?];
/// let mut fused = [0.0; 3];
/// fuse_ranks(MatMut::new(&mut fused, 3, 1)?, &models, Serial)?;
/// assert_eq!(fused, [0.25, 1.0, 0.25]);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// de Borda, "Mémoire sur les élections au scrutin", 1781.
pub fn fuse_ranks<T: Real>(mut out: MatMut<'_, f64>, scores: &[MatRef<'_, T>], par: Parallelism) -> Result<(), Error> {
    let (n, m) = (out.rows(), out.cols());
    if scores.is_empty() {
        return Err(CoreError::Empty { what: "models" }.into());
    }
    for model in scores {
        check_shape("score rows", n, model.rows())?;
        check_shape("score columns", m, model.cols())?;
    }
    let mut fused: Vec<f64> = zeros("fused ranks", n.checked_mul(m))?;
    for_each(par, fused.chunks_exact_mut(n.max(1)).enumerate().collect(), |(q, fused)| {
        for model in scores {
            let column: Vec<T> = model.row_iter().map(|row| row[q]).collect();
            for (sum, rank) in fused.iter_mut().zip(midranks(&column)?) {
                *sum += if n > 1 { (rank - 1.0) / (n - 1) as f64 } else { 0.5 };
            }
        }
        Ok::<_, Error>(())
    })?;
    let models = scores.len() as f64;
    out.for_each_row(|i, row| row.iter_mut().enumerate().for_each(|(q, out)| *out = fused[q * n + i] / models));
    Ok(())
}
