//! Eigenvalues fitted to a basis that is given: one matrix, or gradients that come batch by batch.

use ascribe_core::{Error as CoreError, MatMut, MatRef, Real, reduce};

use super::check::check_beta;
use super::state::bias_correction;
use crate::Error;
use crate::curvature::{Basis, EigenBlock};
use crate::error::{check_finite, check_rows_finite, check_shape, filled_rows, zeros};
use crate::linalg::matmul;
use crate::parallel::Parallelism;

/// `d = diag(B^T H B)` and `|H - B diag(d) B^T|_F`: of all diagonals in the orthonormal basis `B`, the nearest to the
/// symmetric matrix `H` in the norm of Frobenius, and how near it is.
///
/// Cost: `2 n^3` flops for `d` and `2 n^3` for the residual; `2 n^2` numbers.
///
/// # Errors
/// A shape error when the matrices are not square and of one size; [`CoreError::NonFinite`] for NaN or infinity in them.
///
/// # Examples
/// ```
/// use ascribe_core::MatRef;
/// use ascribe_solvers::{parallel::Parallelism, precondition::rayleigh_quotients};
/// let (basis, h) = (MatRef::new(&[1.0, 0.0, 0.0, 1.0], 2, 2)?, [3.0, 0.5, 0.5, 1.0]);
/// let (d, residual) = rayleigh_quotients(basis, MatRef::new(&h, 2, 2)?, Parallelism::Serial)?;
/// assert_eq!(d, [3.0, 1.0]);
/// assert!((residual - 0.5_f64.sqrt()).abs() < 1e-15);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
pub fn rayleigh_quotients<T: Real>(
    basis: MatRef<'_, T>,
    h: MatRef<'_, T>,
    par: Parallelism,
) -> Result<(Vec<T>, T), Error> {
    let n = basis.rows();
    check_shape("columns of the basis", n, basis.cols())?;
    check_shape("rows of the matrix", n, h.rows())?;
    check_shape("columns of the matrix", n, h.cols())?;
    check_rows_finite("basis", basis)?;
    check_rows_finite("matrix", h)?;
    let (mut image, mut d) = (vec![T::ZERO; n * n], vec![T::ZERO; n]);
    matmul(MatMut::new(&mut image, n, n)?, T::ZERO, T::ONE, h, basis, par)?;
    for (b, image) in basis.row_iter().zip(image.chunks_exact(n.max(1))) {
        d.iter_mut().zip(b).zip(image).for_each(|((d, &b), &x)| *d += b * x);
    }
    let (mut scaled, mut rest) = (Vec::with_capacity(n * n), Vec::with_capacity(n * n));
    for (b, h) in basis.row_iter().zip(h.row_iter()) {
        scaled.extend(b.iter().zip(&d).map(|(&b, &d)| b * d));
        rest.extend_from_slice(h);
    }
    matmul(MatMut::new(&mut rest, n, n)?, T::ONE, -T::ONE, MatRef::new(&scaled, n, n)?, basis.t(), par)?;
    Ok((d, reduce::norm2(&rest)))
}

/// A moving average of the eigenvalues that gradients have in a product basis:
/// $E \leftarrow \beta E + (1-\beta) \tfrac1N \sum_n (Q_l^\top V_n Q_r)^{\circ 2}$ for each batch of `N` gradients `V_n`.
///
/// The moving form of [`EigenvalueCorrection`](crate::curvature::EigenvalueCorrection), for a basis that is kept while
/// the parameters move: online EKFAC, or the second moments of SOAP.
///
/// Cost: `2 r c (r + c)` flops a gradient. Memory: `r c` doubles, and two gradients while one is added.
///
/// # Examples
/// ```
/// use ascribe_core::MatRef;
/// use ascribe_solvers::curvature::{Basis, EigenBlock};
/// use ascribe_solvers::{parallel::Parallelism, precondition::EigenvalueAverage};
/// let mut average = EigenvalueAverage::<f64>::new(Basis::Units(1), Basis::Units(2), 0.5)?;
/// average.add(MatRef::new(&[2.0, 0.0, 0.0, 2.0], 2, 2)?, Parallelism::Serial)?; // a batch of two
/// assert_eq!(average.values(false), [1.0, 1.0]);
/// assert_eq!(average.block("fc", 1.0)?.values(), [2.0, 2.0]); // with the bias corrected
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// George et al., arXiv:1806.03884, section 3.2.
#[derive(Debug, Clone)]
pub struct EigenvalueAverage<T> {
    left: Basis<T>,
    right: Basis<T>,
    beta: f64,
    batches: u64,
    sums: Vec<f64>,
}

impl<T: Real> EigenvalueAverage<T> {
    /// No batch yet, in the basis `left (x) right`, whose columns are taken to be orthonormal.
    ///
    /// # Errors
    /// [`CoreError::Parameter`] for a `beta` outside `[0, 1)`; [`Error::Block`] when a basis has another number of elements
    /// than its dimension says or one that is not finite; [`CoreError::Overflow`] for sizes that do not fit.
    pub fn new(left: Basis<T>, right: Basis<T>, beta: f64) -> Result<Self, Error> {
        check_beta("beta", beta)?;
        let sums: Vec<f64> = zeros("eigenvalues", left.dim().checked_mul(right.dim()))?;
        // The block checks the bases.
        let block = EigenBlock::from_parts("eigenvalues", left, right, sums)?;
        let (left, right) = (block.left().clone(), block.right().clone());
        Ok(Self { left, right, beta, batches: 0, sums: block.values().to_vec() })
    }

    /// Takes in a batch of gradients, one a row, each `[rows, cols]` flat. A batch without gradients has zero squares.
    ///
    /// # Errors
    /// A shape error; [`CoreError::NonFinite`] for NaN, infinity, or a square that overflows; nothing is changed then.
    pub fn add(&mut self, gradients: MatRef<'_, T>, par: Parallelism) -> Result<(), Error> {
        check_shape("columns of the gradients", self.sums.len(), gradients.cols())?;
        check_rows_finite("gradients", gradients)?;
        let mut sums = vec![0.0; self.sums.len()];
        let shape = [self.left.dim(), self.right.dim()];
        for row in filled_rows(gradients) {
            let mut rotated = row.to_vec();
            let bases = [&self.left, &self.right].map(|basis| match basis {
                Basis::Units(_) => None,
                Basis::Columns { vectors, .. } => Some(&vectors[..]),
            });
            super::modes::products(&mut rotated, bases.into_iter(), true, &shape, par)?;
            sums.iter_mut().zip(&rotated).for_each(|(sum, x)| *sum += x.to_f64() * x.to_f64());
        }
        let own = (1.0 - self.beta) / gradients.rows().max(1) as f64;
        for (sum, old) in sums.iter_mut().zip(&self.sums) {
            *sum = self.beta * old + own * *sum;
        }
        check_finite("squared gradients", &sums)?;
        self.sums = sums;
        self.batches = self.batches.saturating_add(1);
        Ok(())
    }

    /// The batches so far.
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// `E`, `[rows, cols]`; with `bias_correction` divided by `1 - beta^batches` (zero before the first batch).
    pub fn values(&self, bias_correction: bool) -> Vec<f64> {
        let weight =
            if bias_correction && self.batches > 0 { self::bias_correction(self.beta, self.batches) } else { 1.0 };
        self.sums.iter().map(|sum| sum / weight).collect()
    }

    /// The curvature with these eigenvalues, bias corrected, times `examples`: 1 when the gradients were those of examples,
    /// the size of the batch when they were means.
    ///
    /// # Errors
    /// [`CoreError::Empty`] before the first batch; [`Error::Block`] with `name` when `examples` is negative or not finite.
    pub fn block(&self, name: &str, examples: f64) -> Result<EigenBlock<T>, Error> {
        if self.batches == 0 {
            return Err(CoreError::Empty { what: "batches" }.into());
        }
        let mut block = EigenBlock::from_parts(name, self.left.clone(), self.right.clone(), self.values(true))?;
        block.scale(examples)?;
        Ok(block)
    }
}
