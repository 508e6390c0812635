//! Matrix products.

use ascribe_core::scalar::{Typed, TypedMut};
use ascribe_core::view::Operand;
use ascribe_core::{Error, MatMut, Real};
use faer::traits::ComplexField;
use faer::{Accum, Par};

use crate::error::check_shape;
use crate::parallel::{Parallelism, for_each};

/// A tile has at least this many multiply-adds: below that, waking a thread costs more than it saves.
const TILE_WORK: usize = 1 << 22;
/// A tile has at least this many rows or columns, so that packing the other operand again stays cheap.
const TILE_EDGE: usize = 96;

/// `out = beta * out + alpha * a * b`; with `beta = 0`, `out` is overwritten whatever it held.
///
/// Shapes: `out` is `m x n`, `a` is `m x k`, `b` is `k x n`; pass `mat.t()` for a transpose.
/// Cost: `2 m n k` flops. Each element is a sum of `k` products in some fixed order, so its error is at most
/// `k eps / (1 - k eps) * sum |a_il| |b_lj|`.
///
/// # Errors
/// [`Error::Shape`] when the dimensions do not fit.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef};
/// use ascribe_solvers::{linalg::matmul, parallel::Parallelism};
/// let a = MatRef::new(&[1.0, 2.0, 3.0, 4.0], 2, 2)?;
/// let mut out = [0.0; 4];
/// matmul(MatMut::new(&mut out, 2, 2)?, 0.0, 1.0, a, a.t(), Parallelism::Serial)?;
/// assert_eq!(out, [5.0, 11.0, 11.0, 25.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
pub fn matmul<'a, 'b, T: Real>(
    out: MatMut<'_, T>,
    beta: T,
    alpha: T,
    a: impl Into<Operand<'a, T>>,
    b: impl Into<Operand<'b, T>>,
    par: Parallelism,
) -> Result<(), Error> {
    product(out, beta, alpha, a.into(), b.into(), par)
}

fn product<T: Real>(
    mut out: MatMut<'_, T>,
    beta: T,
    alpha: T,
    a: Operand<'_, T>,
    b: Operand<'_, T>,
    par: Parallelism,
) -> Result<(), Error> {
    check_shape("rows of the product", a.rows(), out.rows())?;
    check_shape("columns of the product", b.cols(), out.cols())?;
    check_shape("rows of the right factor", a.cols(), b.rows())?;
    if beta == T::ZERO {
        if a.cols() == 0 {
            out.fill(T::ZERO);
        }
    } else if beta != T::ONE {
        out.for_each_row(|_, row| row.iter_mut().for_each(|x| *x *= beta));
    }
    if out.rows() == 0 || out.cols() == 0 || a.cols() == 0 {
        return Ok(());
    }
    let accumulate = if beta == T::ZERO { Accum::Replace } else { Accum::Add };
    let (rows, cols, stride) = (out.rows(), out.cols(), out.row_stride());
    let alpha = alpha.to_f64();
    match (T::typed_mut(out.into_span()), T::typed(a.mat.as_span()), T::typed(b.mat.as_span())) {
        (TypedMut::F32(out), Typed::F32(x), Typed::F32(y)) => {
            let out = view_mut(out, rows, cols, stride);
            tiles(out, accumulate, alpha as f32, view(x, &a), view(y, &b), par);
        }
        (TypedMut::F64(out), Typed::F64(x), Typed::F64(y)) => {
            let out = view_mut(out, rows, cols, stride);
            tiles(out, accumulate, alpha, view(x, &a), view(y, &b), par);
        }
        _ => unreachable!("the three views have one element type"),
    }
    Ok(())
}

/// The elements of an operand as faer sees them.
pub(super) fn view<'a, F, T>(span: &'a [F], operand: &Operand<'_, T>) -> faer::MatRef<'a, F> {
    let mat = faer::MatRef::from_row_major_slice_with_stride(
        span,
        operand.mat.rows(),
        operand.mat.cols(),
        operand.mat.row_stride().max(operand.mat.cols()),
    );
    if operand.transposed { mat.transpose() } else { mat }
}

pub(super) fn view_mut<F>(span: &mut [F], rows: usize, cols: usize, stride: usize) -> faer::MatMut<'_, F> {
    faer::MatMut::from_row_major_slice_with_stride_mut(span, rows, cols, stride.max(cols))
}

/// The number of tiles that `edge` rows or columns with `work` multiply-adds in all are cut into.
fn tile_count(edge: usize, work: usize) -> usize {
    (work / TILE_WORK).min(edge / TILE_EDGE).clamp(1, 32)
}

fn tiles<F: ComplexField + Copy + Sync>(
    mut out: faer::MatMut<'_, F>,
    accumulate: Accum,
    alpha: F,
    a: faer::MatRef<'_, F>,
    b: faer::MatRef<'_, F>,
    par: Parallelism,
) {
    let (rows, cols) = (out.nrows(), out.ncols());
    let work = rows.saturating_mul(cols).saturating_mul(a.ncols());
    let by_rows = rows >= cols;
    let edge = rows.max(cols);
    let count = tile_count(edge, work);
    let mut tasks = Vec::with_capacity(count);
    let mut start = 0;
    for tile in 0..count {
        let end = edge * (tile + 1) / count;
        let (head, tail) = if by_rows { out.split_at_row_mut(end - start) } else { out.split_at_col_mut(end - start) };
        out = tail;
        let (x, y) = if by_rows { (a.subrows(start, end - start), b) } else { (a, b.subcols(start, end - start)) };
        tasks.push((head, x, y));
        start = end;
    }
    let _: Result<(), std::convert::Infallible> = for_each(par, tasks, |(out, a, b)| {
        faer::linalg::matmul::matmul(out, accumulate, a, b, alpha, Par::Seq);
        Ok(())
    });
}
