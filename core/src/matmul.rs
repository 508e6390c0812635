//! The matrix product, `out = beta out + alpha A B`.

use crate::error::{Error, check_shape};
use crate::reduce;
use crate::scalar::Real;
use crate::view::{MatMut, Operand};

/// Depth of a panel of `B` in the plain loops, and the number of elements of `A` gathered at a time.
const PANEL_DEPTH: usize = 128;
/// Width of a panel: 128 x 128 elements of `f32` or `f64` stay in the second-level cache.
const PANEL_WIDTH: usize = 128;

/// `out = beta out + alpha A B`, where `A` and `B` are views or their transposes ([`MatRef::t`]).
///
/// With `beta = 0`, `out` is overwritten whatever it held, NaN included. An inner dimension of zero leaves
/// `beta out`. `alpha = 0` still reads `A` and `B`: a NaN in them stays visible.
///
/// Shapes: `A` is `m x k`, `B` is `k x n`, `out` is `m x n`. Cost: `2 m k n` flops, no scratch; under the feature
/// `matrixmultiply` a packing buffer is allocated inside.
///
/// The order of summation depends on the sizes alone. Under `matrixmultiply` it also depends on the vector
/// instructions that the processor has; the plain loops give the same bits everywhere. In both, barring underflow,
///
/// $$|\hat C_{ij} - C_{ij}| \le \gamma_{k+3} \left(|\alpha| (|A| |B|)_{ij} + |\beta C^0_{ij}|\right),
/// \qquad \gamma_m = \frac{m u}{1 - m u}.$$
///
/// # Errors
/// [`Error::Shape`] when a dimension does not fit; `out` is then untouched.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef, matmul::matmul};
/// let x = [1.0, 2.0]; // one row
/// let weight = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]; // [out, in] = [3, 2]
/// let mut y = [f64::NAN; 3];
/// let out = MatMut::from_row(&mut y);
/// matmul(out, 0.0, 1.0, MatRef::from_row(&x), MatRef::new(&weight, 3, 2)?.t())?;
/// assert_eq!(y, [1.0, 2.0, 3.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
///
/// [`MatRef::t`]: crate::view::MatRef::t
pub fn matmul<'a, 'b, T: Real>(
    out: MatMut<'_, T>,
    beta: T,
    alpha: T,
    a: impl Into<Operand<'a, T>>,
    b: impl Into<Operand<'b, T>>,
) -> Result<(), Error> {
    product(out, beta, alpha, a.into(), b.into())
}

fn product<T: Real>(
    mut out: MatMut<'_, T>,
    beta: T,
    alpha: T,
    a: Operand<'_, T>,
    b: Operand<'_, T>,
) -> Result<(), Error> {
    check_shape("rows of b", a.cols(), b.rows())?;
    check_shape("out rows", a.rows(), out.rows())?;
    check_shape("out columns", b.cols(), out.cols())?;
    if out.rows() == 0 || out.cols() == 0 {
        return Ok(());
    }
    #[cfg(feature = "matrixmultiply")]
    if a.cols() > 0 && a.rows() >= packed::MIN_ROWS {
        packed::product(out, beta, alpha, a, b);
        return Ok(());
    }
    if beta == T::ZERO {
        out.fill(T::ZERO);
    } else {
        out.for_each_row(|_, row| reduce::scale(row, beta));
    }
    accumulate(out, alpha, a, b)
}

/// `out += alpha A B`, panel by panel of `B`, so that a panel is read from memory once for all rows of `A`.
fn accumulate<T: Real>(mut out: MatMut<'_, T>, alpha: T, a: Operand<'_, T>, b: Operand<'_, T>) -> Result<(), Error> {
    let mut buffer = [T::ZERO; PANEL_DEPTH];
    for p in (0..a.cols()).step_by(PANEL_DEPTH) {
        let depth = PANEL_DEPTH.min(a.cols() - p);
        for j in (0..b.cols()).step_by(PANEL_WIDTH) {
            let width = PANEL_WIDTH.min(b.cols() - j);
            for i in 0..a.rows() {
                let x = &mut buffer[..depth];
                gather(x, alpha, a, i, p);
                let y = &mut out.row_mut(i)[j..j + width];
                if b.transposed {
                    for (l, y) in y.iter_mut().enumerate() {
                        *y += reduce::dot(x, &b.mat.row(j + l)[p..p + depth])?;
                    }
                } else {
                    for (l, &x) in x.iter().enumerate() {
                        reduce::axpy(y, x, &b.mat.row(p + l)[j..j + width])?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// `x = alpha a[i, p..p + x.len()]`.
fn gather<T: Real>(x: &mut [T], alpha: T, a: Operand<'_, T>, i: usize, p: usize) {
    if a.transposed {
        for (l, x) in x.iter_mut().enumerate() {
            *x = alpha * a.mat.row(p + l)[i];
        }
    } else {
        for (x, &a) in x.iter_mut().zip(&a.mat.row(i)[p..]) {
            *x = alpha * a;
        }
    }
}

/// The routines of the crate `matrixmultiply`, which take pointers and strides.
#[cfg(feature = "matrixmultiply")]
#[allow(unsafe_code)]
mod packed {
    use super::{MatMut, Operand, Real};
    use crate::scalar::{Typed, TypedMut};

    /// With fewer rows, packing `B` costs more than the plain loops take to read it once.
    pub(super) const MIN_ROWS: usize = 6;

    /// `out = beta out + alpha A B`. The caller has checked that the shapes fit and that no dimension is zero.
    pub(super) fn product<T: Real>(out: MatMut<'_, T>, beta: T, alpha: T, a: Operand<'_, T>, b: Operand<'_, T>) {
        let (m, k, n) = (a.rows(), a.cols(), b.cols());
        assert!(m > 0 && k > 0 && n > 0 && b.rows() == k && out.rows() == m && out.cols() == n);
        let (a_row, a_col) = signed_strides(a);
        let (b_row, b_col) = signed_strides(b);
        let out_row = signed_stride(m, n, out.row_stride());
        match (T::typed(a.mat.as_span()), T::typed(b.mat.as_span()), T::typed_mut(out.into_span())) {
            // SAFETY: `as_span` and `into_span` hold every element of the view: with no dimension zero, the last
            // one that a routine touches is at `(rows - 1) * stride + cols - 1`, which is inside the span (the
            // constructors of the views check it), and `signed_strides` gives those strides, exchanged for a
            // transpose. A span fits in memory, so its offsets fit in `isize`. `out` is borrowed mutably, so it
            // overlaps neither `a` nor `b`; its rows do not overlap each other, as `stride >= cols`. All elements
            // are initialised floats.
            (Typed::F32(a), Typed::F32(b), TypedMut::F32(out)) => unsafe {
                let (alpha, beta) = (alpha.to_f64() as f32, beta.to_f64() as f32);
                let (a, b, out) = (a.as_ptr(), b.as_ptr(), out.as_mut_ptr());
                matrixmultiply::sgemm(m, k, n, alpha, a, a_row, a_col, b, b_row, b_col, beta, out, out_row, 1);
            },
            // SAFETY: as above.
            (Typed::F64(a), Typed::F64(b), TypedMut::F64(out)) => unsafe {
                let (alpha, beta) = (alpha.to_f64(), beta.to_f64());
                let (a, b, out) = (a.as_ptr(), b.as_ptr(), out.as_mut_ptr());
                matrixmultiply::dgemm(m, k, n, alpha, a, a_row, a_col, b, b_row, b_col, beta, out, out_row, 1);
            },
            _ => unreachable!("one type has one variant"),
        }
    }

    fn signed_strides<T: Copy>(x: Operand<'_, T>) -> (isize, isize) {
        let stride = signed_stride(x.mat.rows(), x.mat.cols(), x.mat.row_stride());
        if x.transposed { (1, stride) } else { (stride, 1) }
    }

    /// A matrix of one row may have any stride, also one that no offset can hold; it is never used.
    fn signed_stride(rows: usize, cols: usize, stride: usize) -> isize {
        (if rows == 1 { cols } else { stride }) as isize
    }
}
