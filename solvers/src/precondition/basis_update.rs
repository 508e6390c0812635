//! How the eigenbasis of a Kronecker factor follows its observations.

use ascribe_core::{MatMut, MatRef, Real};

use super::Cayley;
use super::transpose::mirror;
use crate::Error;
use crate::error::zeros;
use crate::linalg::{matmul, qr, symmetric_eigen};
use crate::parallel::Parallelism;

/// How a basis moves. The first turns it by what one batch says; the others keep the moving average `F` of the factor's
/// observations, another matrix a side, and look for its eigenvectors.
///
/// | | flops of an update, side `n` | memory |
/// |---|---|---|
/// | `Cayley` | `n^3` and the map's | |
/// | `QrPower` | `6 n^3`, and `2 n^3` to `3 n^3` in every step for `F` | `n^2` |
/// | `Eigen` | `11 n^3` in f64, and the same | `n^2` |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BasisUpdate {
    /// The Riemannian step `B Cay(beta2 A / 2)`, exact or truncated.
    Cayley(Cayley),
    /// One step of the power method for all vectors, `B <- qr(F B)`, as SOAP and KL-Shampoo do. The vectors keep their
    /// places, and their eigenvalues with them. Directions in which `F` is zero are arbitrary.
    QrPower,
    /// The eigenvectors of `F`, the largest eigenvalue first. The factor's own eigenvalues become the diagonal of what it
    /// was in the new basis.
    Eigen,
}

impl Default for BasisUpdate {
    fn default() -> Self {
        Self::Cayley(Cayley::Exact)
    }
}

impl BasisUpdate {
    /// The map, of an update that turns by the last observation alone.
    pub(super) fn cayley(self) -> Option<Cayley> {
        match self {
            Self::Cayley(cayley) => Some(cayley),
            Self::QrPower | Self::Eigen => None,
        }
    }

    /// The basis and eigenvalues that follow from the moving average `moment` (lower triangle) of the factor.
    pub(super) fn follow_moment<T: Real>(
        self,
        moment: &[T],
        basis: &[T],
        values: &mut [f64],
        par: Parallelism,
    ) -> Result<Vec<T>, Error> {
        let n = values.len();
        let largest = moment.iter().fold(0.0_f64, |largest, x| largest.max(x.to_f64().abs()));
        if largest == 0.0 {
            return Ok(basis.to_vec());
        }
        // Of size 1, so that no square of the decompositions vanishes.
        let mut full: Vec<T> = moment.iter().map(|x| T::from_f64(x.to_f64() / largest)).collect();
        mirror(&mut full, n, |x| x);
        let full = MatRef::new(&full, n, n)?;
        if self == Self::QrPower {
            let mut product: Vec<T> = zeros("power step", Some(n * n))?;
            matmul(MatMut::new(&mut product, n, n)?, T::ZERO, T::ONE, full, MatRef::new(basis, n, n)?, par)?;
            return Ok(qr(MatRef::new(&product, n, n)?)?.q);
        }
        let eigenvectors = descending_eigenvectors(full, par)?;
        let mut overlap: Vec<T> = zeros("overlap of two bases", Some(n * n))?;
        let (old, new) = (MatRef::new(basis, n, n)?, MatRef::new(&eigenvectors, n, n)?);
        matmul(MatMut::new(&mut overlap, n, n)?, T::ZERO, T::ONE, old.t(), new, par)?;
        let mut diagonal = vec![0.0; n];
        for (row, d) in overlap.chunks_exact(n).zip(&*values) {
            diagonal.iter_mut().zip(row).for_each(|(sum, x)| *sum += x.to_f64() * x.to_f64() * d);
        }
        values.copy_from_slice(&diagonal);
        Ok(eigenvectors)
    }
}

/// The eigenvectors of a symmetric matrix as columns, the largest eigenvalue first.
pub(super) fn descending_eigenvectors<T: Real>(a: MatRef<'_, T>, par: Parallelism) -> Result<Vec<T>, Error> {
    let vectors = symmetric_eigen(a, par)?.vectors;
    let rows = vectors.chunks_exact(a.rows().max(1));
    Ok(rows.flat_map(|row| row.iter().rev().map(|&x| T::from_f64(x))).collect())
}
