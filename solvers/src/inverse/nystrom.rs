//! The Nystrom approximation of a positive semidefinite operator.

use ascribe_core::random::Stream;
use ascribe_core::reduce::{axpy, dot, norm2, norm2_squared};
use ascribe_core::{Error as CoreError, LinOp, MatMut, MatRef, Real};

use super::low_rank::LowRankSpectrum;
use super::report::check_operator;
use crate::Error;
use crate::error::{check_finite, check_rows_finite, check_shape, zeros};
use crate::linalg::{matmul, qr, svd, symmetric_eigen};
use crate::parallel::Parallelism;

/// Approximates a positive semidefinite operator by its products with `r` orthonormal rows `W`:
/// $A_{nys} = Y^\top (W Y^\top)^{-1} Y$ with $Y = W A$.
///
/// `A_nys` lies below `A` in the order of symmetric matrices, so each eigenvalue is underestimated; it is `A` itself
/// when the rank of `A` is at most `r` (with probability 1 for random rows). With Gaussian rows the expected error in
/// the spectral norm is at most `3 e_p + 2 e^2 / p * sum_{j >= p} e_j` for `r = 2p - 1`, the eigenvalues descending.
///
/// The result has exactly `min(r, n)` eigenvalues, descending, 0 where the rank of `A` is smaller. Its inverse and its
/// preconditioner are those of [`LowRankSpectrum`]. The core `W Y^T` is factorised in f64 with a shift of
/// `2 sqrt(n) eps |Y|` that is taken off the eigenvalues again, so a singular one is no special case;
/// eigenvalues below about `sqrt(n) eps |A|` are noise.
///
/// Cost: one product with a block of `r` vectors, about `9 r^2 n` flops. Memory: `4 r n` numbers.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef, linop::Diagonal};
/// use ascribe_solvers::inverse::{Cg, Nystrom, Solve};
/// let a = Diagonal::new(&[100.0, 10.0, 0.1, 0.1, 0.1, 0.1]);
/// let spectrum = Nystrom { rank: 3, ..Nystrom::default() }.prepare(&a)?;
/// let preconditioner = spectrum.preconditioner(0.01)?;
/// let mut x = [0.0; 6];
/// let cg = Cg { damping: 0.01, ..Cg::default() };
/// let reports = cg.prepare_with(&a, &preconditioner)?.solve(MatMut::from_row(&mut x), MatRef::from_row(&[1.0; 6]))?;
/// assert!(reports[0].is_converged() && reports[0].iterations <= 6);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Frangella, Tropp and Udell, arXiv:2110.02820, algorithm 2.1 and proposition 2.2. An orthonormal basis of the products
/// takes the place of their singular value decomposition: what is decomposed is then `r x r`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Nystrom {
    /// Rows of the random matrix of [`Nystrom::prepare`]; at most the dimension are used; default 50.
    pub rank: usize,
    /// Its seed; default 0.
    pub seed: u64,
    /// Threads; default one.
    pub parallelism: Parallelism,
}

impl Default for Nystrom {
    fn default() -> Self {
        Self { rank: 50, seed: 0, parallelism: Parallelism::Serial }
    }
}

impl Nystrom {
    /// From orthonormalised Gaussian rows.
    ///
    /// # Errors
    /// As [`Nystrom::prepare_with`].
    pub fn prepare<T: Real>(&self, op: &dyn LinOp<T>) -> Result<LowRankSpectrum<T>, Error> {
        let dim = check_operator(op, 0.0)?;
        let rank = self.rank.min(dim);
        let mut omega = zeros("Nystrom rows", rank.checked_mul(dim))?;
        let mut draws = Stream::new(self.seed, "nystrom.omega").draws();
        for x in &mut omega {
            *x = T::from_f64(draws.next_normal());
        }
        let (columns, _) = factor(MatRef::new(&omega, rank, dim)?)?;
        let rows = transpose(&columns, dim, rank);
        self.prepare_with(op, MatRef::new(&rows, rank, dim)?)
    }

    /// From rows of the identity: the columns `landmarks` of the matrix. An operator with quick single columns, such
    /// as a kernel matrix, is approximated without more.
    ///
    /// # Errors
    /// As [`Nystrom::prepare_with`]; [`CoreError::Index`], [`CoreError::Duplicate`] in `landmarks`.
    pub fn prepare_landmarks<T: Real>(
        &self,
        op: &dyn LinOp<T>,
        landmarks: &[usize],
    ) -> Result<LowRankSpectrum<T>, Error> {
        let dim = check_operator(op, 0.0)?;
        let mut omega = zeros("Nystrom rows", landmarks.len().checked_mul(dim))?;
        let mut taken = zeros("landmarks", Some(dim))?;
        for (row, &index) in landmarks.iter().enumerate() {
            match taken.get_mut(index) {
                None => return Err(CoreError::Index { what: "landmarks", index, len: dim }.into()),
                Some(true) => return Err(CoreError::Duplicate { what: "landmarks", index }.into()),
                Some(taken) => *taken = true,
            }
            omega[row * dim + index] = T::ONE;
        }
        self.prepare_with(op, MatRef::new(&omega, landmarks.len(), dim)?)
    }

    /// From given orthonormal rows `omega [r, n]`. That they are orthonormal is not tested.
    ///
    /// # Errors
    /// A shape error when `op` is not square or `omega` does not fit it, or has more rows than columns;
    /// [`CoreError::NonFinite`] in `omega` or the products; [`Error::Indefinite`] when the operator has negative
    /// curvature on the rows, beyond `2 sqrt(n) eps |Y|`; [`CoreError::Overflow`]; the operator's own errors.
    pub fn prepare_with<T: Real>(&self, op: &dyn LinOp<T>, omega: MatRef<'_, T>) -> Result<LowRankSpectrum<T>, Error> {
        let (dim, rank, par) = (check_operator(op, 0.0)?, omega.rows(), self.parallelism);
        check_shape("Nystrom row length", dim, omega.cols())?;
        check_shape("Nystrom rows (at most one for each dimension)", rank.min(dim), rank)?;
        check_rows_finite("Nystrom rows", omega)?;
        let mut products = zeros("Nystrom products", rank.checked_mul(dim))?;
        let mut scratch = zeros("operator scratch", Some(op.scratch_len(rank)))?;
        op.apply(MatMut::new(&mut products, rank, dim)?, omega, &mut scratch)?;
        check_finite("Nystrom products", &products)?;

        let noise = (dim as f64).sqrt() * T::EPSILON.to_f64() * norm2(&products).to_f64();
        let mut core = zeros("Nystrom core", rank.checked_mul(rank))?;
        let y = MatRef::new(&products, rank, dim)?;
        matmul(MatMut::new(&mut core, rank, rank)?, T::ZERO, T::ONE, omega, y.t(), par)?;
        if noise == 0.0 {
            let rows: Vec<T> = omega.row_iter().flatten().copied().collect();
            return LowRankSpectrum::new(rows, vec![0.0; rank], dim, par);
        }
        let shift = 2.0 * noise;
        let Some(l) = cholesky(&core, rank, shift) else {
            let curvature = symmetric_eigen(MatRef::new(&core, rank, rank)?, self.parallelism)?.values[0];
            return Err(Error::Indefinite { what: "the operator of a Nystrom approximation", curvature });
        };
        for (products, omega) in products.chunks_exact_mut(dim.max(1)).zip(omega.row_iter()) {
            axpy(products, T::from_f64(shift), omega)?;
        }
        // B = L^-1 Y by forward substitution. Neither an inverse of L nor a factor of Y would do in its place: where the
        // core is all shift, an error of size d in Y becomes one of d^2 / shift.
        for i in 0..rank {
            let (above, below) = products.split_at_mut(i * dim);
            let (row, left) = (&mut below[..dim], &l[i * rank..i * rank + i]);
            let left: Vec<T> = left.iter().map(|&x| T::from_f64(x)).collect();
            let (left, above) = (MatRef::from_row(&left), MatRef::new(above, i, dim)?);
            matmul(MatMut::from_row(row), T::ONE, -T::ONE, left, above, par)?;
            let pivot = T::from_f64(l[i * rank + i]);
            for x in row {
                *x /= pivot;
            }
        }
        let (columns, r) = factor(MatRef::new(&products, rank, dim)?)?;
        let small = svd(MatRef::new(&r, rank, rank)?)?;
        let rotation: Vec<T> = small.u.iter().map(|&u| T::from_f64(u)).collect();
        let (rotation, columns) = (MatRef::new(&rotation, rank, rank)?, MatRef::new(&columns, dim, rank)?);
        let mut vectors = products;
        matmul(MatMut::new(&mut vectors, rank, dim)?, T::ZERO, T::ONE, rotation.t(), columns.t(), par)?;
        let eigenvalues = small.s.iter().map(|s| (s * s - shift).max(0.0)).collect();
        LowRankSpectrum::new(vectors, eigenvalues, dim, par)
    }
}

/// The lower triangular `L` with `L L^T = C + shift`; `None` when that is not positive definite.
fn cholesky<T: Real>(core: &[T], rank: usize, shift: f64) -> Option<Vec<f64>> {
    let mut l: Vec<f64> = core.iter().map(|x| x.to_f64()).collect();
    for i in 0..rank {
        let (above, row) = l.split_at_mut(i * rank);
        for (j, other) in above.chunks_exact(rank).enumerate() {
            row[j] = (row[j] - dot(&row[..j], &other[..j]).ok()?) / other[j];
        }
        let pivot = row[i] + shift - norm2_squared(&row[..i]);
        row[i] = pivot.sqrt();
        if !(pivot > 0.0 && pivot.is_finite()) {
            return None;
        }
    }
    Some(l)
}

/// The QR factorisation of the transpose of `rows [r, n]`: `Q [n, r]`, and `R [r, r]` in f64.
fn factor<T: Real>(rows: MatRef<'_, T>) -> Result<(Vec<T>, Vec<f64>), Error> {
    let columns = transpose(rows.as_span(), rows.rows(), rows.cols());
    let factor = qr(MatRef::new(&columns, rows.cols(), rows.rows())?)?;
    Ok((factor.q, factor.r.iter().map(|x| x.to_f64()).collect()))
}

/// `[cols, rows]` from a contiguous `[rows, cols]`.
fn transpose<T: Real>(x: &[T], rows: usize, cols: usize) -> Vec<T> {
    (0..cols * rows).map(|at| x[at % rows * cols + at / rows]).collect()
}
