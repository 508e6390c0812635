//! Factorisations that are used on small or medium matrices: LDL^T, QR and SVD.

use ascribe_core::scalar::{Typed, TypedMut};
use ascribe_core::{MatMut, MatRef, Real};
use faer::linalg::solvers::{Lblt, Solve};
use faer::traits::ComplexField;
use faer::{Mat, Side};

use super::product::{view, view_mut};
use crate::Error;
use crate::error::{check_finite, check_rows_finite, check_shape};

/// Bunch-Kaufman factorisation `P A P^T = L B L^T` of a symmetric, possibly indefinite matrix, `B` having blocks
/// of one and two rows.
#[derive(Debug)]
pub struct Ldlt {
    factor: Lblt<f64>,
    n: usize,
}

impl Ldlt {
    /// Factorises a symmetric matrix (lower triangle read) in f64. Cost: `n^3/3` flops, `n^2` doubles.
    ///
    /// # Errors
    /// A shape error when `a` is not square, [`ascribe_core::Error::NonFinite`] for NaN or infinity.
    pub fn new<T: Real>(a: MatRef<'_, T>) -> Result<Self, Error> {
        let n = a.rows();
        check_shape("columns of a symmetric matrix", n, a.cols())?;
        check_rows_finite("symmetric matrix", a)?;
        let a = Mat::from_fn(n, n, |i, j| a.row(i)[j].to_f64());
        Ok(Self { factor: a.lblt(Side::Lower), n })
    }

    /// Replaces each row `v` of `rhs` by `A^-1 v`.
    ///
    /// # Errors
    /// A shape error; [`Error::NoConvergence`] when the matrix is singular to working precision, so that the
    /// result is not finite. `rhs` is overwritten in that case.
    pub fn solve_in_place(&self, mut rhs: MatMut<'_, f64>) -> Result<(), Error> {
        check_shape("right-hand side columns", self.n, rhs.cols())?;
        let (rows, cols, stride) = (rhs.rows(), rhs.cols(), rhs.row_stride());
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        self.factor.solve_in_place(view_mut(rhs.rb_mut().into_span(), rows, cols, stride).transpose_mut());
        for row in rhs.as_ref().row_iter() {
            check_finite("solution of a symmetric system", row)
                .map_err(|_| Error::NoConvergence { what: "LDL^T solution of a singular system" })?;
        }
        Ok(())
    }
}

/// `A = Q R` with orthonormal columns in `Q`; see [`qr`].
#[derive(Debug, Clone)]
pub struct Qr<T> {
    /// `m x min(m, n)`, row-major.
    pub q: Vec<T>,
    /// `min(m, n) x n`, row-major, upper triangular.
    pub r: Vec<T>,
}

/// The thin QR factorisation of an `m x n` matrix. Cost: `2 m n^2` flops for `m >= n`.
///
/// # Errors
/// [`ascribe_core::Error::NonFinite`] for NaN or infinity, [`Error::NoConvergence`] when the norm of a column
/// overflows.
pub fn qr<T: Real>(a: MatRef<'_, T>) -> Result<Qr<T>, Error> {
    check_rows_finite("matrix to factorise", a)?;
    let (m, n) = (a.rows(), a.cols());
    let k = m.min(n);
    let mut out = Qr { q: vec![T::ZERO; m * k], r: vec![T::ZERO; k * n] };
    if k == 0 {
        return Ok(out);
    }
    match (T::typed(a.as_span()), T::typed_mut(&mut out.q), T::typed_mut(&mut out.r)) {
        (Typed::F32(x), TypedMut::F32(q), TypedMut::F32(r)) => thin_qr(view(x, &a.into()), q, r),
        (Typed::F64(x), TypedMut::F64(q), TypedMut::F64(r)) => thin_qr(view(x, &a.into()), q, r),
        _ => unreachable!("input and output have one element type"),
    }
    if out.q.iter().chain(&out.r).any(|x| !x.is_finite()) {
        return Err(Error::NoConvergence { what: "QR of a matrix whose column norms overflow" });
    }
    Ok(out)
}

fn thin_qr<F: ComplexField + Copy>(a: faer::MatRef<'_, F>, q: &mut [F], r: &mut [F]) {
    let k = a.nrows().min(a.ncols());
    let factor = a.qr();
    view_mut(q, a.nrows(), k, k).copy_from(factor.compute_thin_Q());
    view_mut(r, k, a.ncols(), a.ncols()).copy_from(factor.thin_R());
}

/// `A = U diag(s) V^T`; see [`svd`].
#[derive(Debug, Clone)]
pub struct Svd<T> {
    /// Left singular vectors as columns: `m x min(m, n)`, row-major.
    pub u: Vec<T>,
    /// Singular values, descending.
    pub s: Vec<T>,
    /// Right singular vectors as columns: `n x min(m, n)`, row-major.
    pub v: Vec<T>,
}

/// The thin singular value decomposition of an `m x n` matrix.
///
/// # Errors
/// [`ascribe_core::Error::NonFinite`] for NaN or infinity, [`Error::NoConvergence`] when the iteration fails or the
/// squares of the elements overflow.
pub fn svd<T: Real>(a: MatRef<'_, T>) -> Result<Svd<T>, Error> {
    check_rows_finite("matrix to decompose", a)?;
    let (m, n) = (a.rows(), a.cols());
    let k = m.min(n);
    let mut out = Svd { u: vec![T::ZERO; m * k], s: vec![T::ZERO; k], v: vec![T::ZERO; n * k] };
    if k == 0 {
        return Ok(out);
    }
    let Svd { u, s, v } = &mut out;
    match (T::typed(a.as_span()), T::typed_mut(u), T::typed_mut(s), T::typed_mut(v)) {
        (Typed::F32(x), TypedMut::F32(u), TypedMut::F32(s), TypedMut::F32(v)) => thin_svd(view(x, &a.into()), u, s, v),
        (Typed::F64(x), TypedMut::F64(u), TypedMut::F64(s), TypedMut::F64(v)) => thin_svd(view(x, &a.into()), u, s, v),
        _ => unreachable!("input and output have one element type"),
    }?;
    Ok(out)
}

fn thin_svd<F: ComplexField + Copy>(
    a: faer::MatRef<'_, F>,
    u: &mut [F],
    s: &mut [F],
    v: &mut [F],
) -> Result<(), Error> {
    let (m, n) = (a.nrows(), a.ncols());
    let k = m.min(n);
    let failure = Error::NoConvergence { what: "singular value decomposition" };
    let Ok(factor) = a.thin_svd() else { return Err(failure) };
    view_mut(u, m, k, k).copy_from(factor.U());
    view_mut(v, n, k, k).copy_from(factor.V());
    for (to, from) in s.iter_mut().zip(factor.S().column_vector().iter()) {
        *to = *from;
    }
    // faer calls it success when numbers near the largest one overflowed on the way.
    if u.iter().chain(&*s).chain(&*v).any(|x| !F::is_finite_impl(x)) {
        return Err(failure);
    }
    Ok(())
}
