//! Matrix products.

use ascribe_core::scalar::{Typed, TypedMut};
use ascribe_core::view::Operand;
use ascribe_core::{Error, MatMut, Real};
use faer::traits::ComplexField;
use faer::{Accum, Par};

use super::skinny::{COLUMNS, DEPTH, Skinny};
use crate::error::check_shape;
use crate::parallel::{Parallelism, for_each};

/// A tile has at least this many multiply-adds: below that, waking a thread costs more than it saves.
const TILE_WORK: usize = 1 << 22;
/// An edge is not cut into pieces shorter than this: every tile packs its factors again, and a short edge cannot
/// make up for that.
const TILE_EDGE: usize = 96;
/// Longer edges are cut however many tiles there are; up to [`TILES`], shorter ones are too.
const LONG_EDGE: usize = 1024;
/// Tiles that a product gets if it has the work for them.
const TILES: usize = 4;

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
    let [m, n, k] = [rows, cols, a.cols()];
    let skinny = n <= COLUMNS && k >= DEPTH && !a.transposed && b.transposed;
    // A matrix of one row may have any stride.
    let strides = [stride.max(n), a.mat.row_stride().max(k), b.mat.row_stride().max(k)];
    let shape = [m, n, k];
    match (T::typed_mut(out.into_span()), T::typed(a.mat.as_span()), T::typed(b.mat.as_span())) {
        (TypedMut::F32(out), Typed::F32(a), Typed::F32(b)) if skinny => {
            let accumulate = beta != T::ZERO;
            Skinny { out, a, b, shape, strides, accumulate, alpha: alpha as f32 }.run(par);
        }
        (TypedMut::F64(out), Typed::F64(a), Typed::F64(b)) if skinny => {
            let accumulate = beta != T::ZERO;
            Skinny { out, a, b, shape, strides, accumulate, alpha }.run(par);
        }
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
    // By way of the transpose: faer 0.24's `from_row_major_slice_with_stride_mut` swaps the two strides.
    faer::MatMut::from_column_major_slice_with_stride_mut(span, cols, rows, stride.max(cols)).transpose_mut()
}

/// How many pieces the rows and the columns of a product are cut into: the longer edge is halved first.
fn grid(rows: usize, cols: usize, depth: usize) -> (usize, usize) {
    let (mut down, mut across) = (1, 1);
    loop {
        let (height, width) = (rows / down, cols / across);
        let (longer, work) = (height.max(width), height.saturating_mul(width).saturating_mul(depth));
        let wanted = longer > LONG_EDGE || down * across < TILES;
        if !wanted || longer < 2 * TILE_EDGE || work < 2 * TILE_WORK {
            return (down, across);
        }
        if height >= width { down *= 2 } else { across *= 2 }
    }
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
    let (down, across) = grid(rows, cols, a.ncols());
    let mut tasks = Vec::with_capacity(down * across);
    for i in 0..down {
        let (top, height) = (rows * i / down, rows * (i + 1) / down - rows * i / down);
        let (mut strip, rest) = out.split_at_row_mut(height);
        out = rest;
        for j in 0..across {
            let (left, width) = (cols * j / across, cols * (j + 1) / across - cols * j / across);
            let (tile, rest) = strip.split_at_col_mut(width);
            strip = rest;
            tasks.push((tile, a.subrows(top, height), b.subcols(left, width)));
        }
    }
    let _: Result<(), std::convert::Infallible> = for_each(par, tasks, |(out, a, b)| {
        faer::linalg::matmul::matmul(out, accumulate, a, b, alpha, Par::Seq);
        Ok(())
    });
}
