//! Products of a tensor with matrices along its axes, and its second moments along them: what Shampoo and SOAP are
//! made of.

use ascribe_core::view::Operand;
use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};

use super::transpose::transpose;
use crate::linalg::{gram, matmul};
use crate::parallel::Parallelism;

/// The elements before and after an axis: a tensor is `[outer, shape[axis], inner]`.
fn around(shape: &[usize], axis: usize) -> (usize, usize) {
    (shape[..axis].iter().product(), shape[axis + 1..].iter().product())
}

/// `out_{.. i ..} = sum_j M_ij x_{.. j ..}` along `axis`.
pub(super) fn product<'m, T: Real>(
    out: &mut [T],
    matrix: impl Into<Operand<'m, T>>,
    x: &[T],
    shape: &[usize],
    axis: usize,
    par: Parallelism,
) -> Result<(), CoreError> {
    let (matrix, d, (outer, inner)) = (matrix.into(), shape[axis], around(shape, axis));
    if inner == 1 {
        let transpose = Operand { mat: matrix.mat, transposed: !matrix.transposed };
        let (out, x) = (MatMut::new(out, outer, d)?, MatRef::new(x, outer, d)?);
        return matmul(out, T::ZERO, T::ONE, x, transpose, par);
    }
    let len = (d * inner).max(1);
    for (out, x) in out.chunks_exact_mut(len).zip(x.chunks_exact(len)) {
        let (out, x) = (MatMut::new(out, d, inner)?, MatRef::new(x, d, inner)?);
        matmul(out, T::ZERO, T::ONE, matrix, x, par)?;
    }
    Ok(())
}

/// Multiplies along every axis that has a matrix, first to last; `transposed` for all of them or none.
pub(super) fn products<'m, T: Real>(
    x: &mut Vec<T>,
    matrices: impl Iterator<Item = Option<&'m [T]>>,
    transposed: bool,
    shape: &[usize],
    par: Parallelism,
) -> Result<(), CoreError> {
    let mut out = vec![T::ZERO; x.len()];
    for (axis, matrix) in matrices.enumerate() {
        if let Some(matrix) = matrix {
            let matrix = MatRef::new(matrix, shape[axis], shape[axis])?;
            let matrix = if transposed { matrix.t() } else { matrix.into() };
            product(&mut out, matrix, x, shape, axis, par)?;
            std::mem::swap(x, &mut out);
        }
    }
    Ok(())
}

/// `lower = keep lower + weight X X^T` on the lower triangle, `X` being the tensor unfolded along `axis`.
pub(super) fn accumulate<T: Real>(
    lower: &mut [T],
    keep: f64,
    weight: f64,
    x: &[T],
    shape: &[usize],
    axis: usize,
    par: Parallelism,
) -> Result<(), CoreError> {
    let (d, (outer, inner)) = (shape[axis], around(shape, axis));
    if keep != 1.0 {
        ascribe_core::reduce::scale(lower, T::from_f64(keep));
    }
    // The weight goes into the factors: the product has none.
    let root = T::from_f64(weight.sqrt());
    let mut rows = vec![T::ZERO; x.len()];
    if inner == 1 {
        rows.iter_mut().zip(x).for_each(|(row, &x)| *row = root * x);
    } else {
        for (rows, x) in rows.chunks_exact_mut((d * inner).max(1)).zip(x.chunks_exact((d * inner).max(1))) {
            transpose(rows, x, d, inner, par, |_, x| root * x);
        }
    }
    gram(MatMut::new(lower, d, d)?, MatRef::new(&rows, outer * inner, d)?, par)
}
