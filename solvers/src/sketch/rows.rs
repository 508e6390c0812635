use ascribe_core::linop::check_apply;
use ascribe_core::{Error, LinOp, MatMut, MatRef, Real};
use pulp::{Arch, Simd, WithSimd};

use super::Workspaces;
use crate::error::check_shape;
use crate::parallel::{Parallelism, run};
use crate::score::StoredRows;

/// Rows of a task: what the sparse transforms sum side by side.
const ROWS: usize = 8;

/// Sets each row of `out` to `op` applied to that row of `x`, eight rows a task: a sketch, or any other operator.
///
/// The kernels of core that this compiles in, those of the sparse transforms above all, use the vectors that the
/// processor has; their bits are those of [`LinOp::apply`] on each block alone, for any number of threads. Those of
/// the sparse transforms and masks do not depend on the blocks either.
///
/// Scratch, which is allocated: that of `op` for eight rows, for each thread.
///
/// # Errors
/// [`Error::Shape`] when a dimension does not fit, [`Error::Overflow`] when the scratch cannot be allocated; `out` is
/// then untouched. Otherwise as `op`, other rows having been written.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef, random::Stream, sketch::{Sjlt, SjltTable}};
/// use ascribe_solvers::{parallel::Parallelism, sketch::apply_rows};
/// let sjlt = SjltTable::draw(&Sjlt::new(1000, 16, 1, Stream::new(0, "gradients"))?)?;
/// let (x, mut y) = (vec![1.0_f32; 40 * 1000], vec![0.0; 40 * 16]);
/// apply_rows(MatMut::new(&mut y, 40, 16)?, &sjlt, MatRef::new(&x, 40, 1000)?, Parallelism::threads(2))?;
/// assert_eq!(y[..16], y[39 * 16..]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
pub fn apply_rows<T: Real, A: LinOp<T> + Sync>(
    out: MatMut<'_, T>,
    op: &A,
    x: MatRef<'_, T>,
    par: Parallelism,
) -> Result<(), Error> {
    check_apply(op.dim_in(), op.dim_out(), &out, &x)?;
    let scratch = Some(op.scratch_len(x.rows().min(ROWS)));
    blocks(out, scratch, par, |out, first, scratch| {
        let x = x.row_range(first, out.rows())?;
        Arch::new().dispatch(Apply { op, out, x, scratch })
    })
}

/// [`apply_rows`] for rows in a storage format: f16 and bf16 gradients, or what a store holds. They are decoded eight at a
/// time and computed with in `f32`, so the result is that of [`StoredRows::decode`] and [`apply_rows`], bit by bit.
///
/// Scratch, which is allocated: that of `op` for eight rows and eight decoded ones, for each thread.
///
/// # Errors
/// As [`apply_rows`].
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef, quantize::half::encode_bf16, random::Stream, sketch::Sjlt};
/// use ascribe_solvers::{parallel::Parallelism::Serial, score::StoredRows, sketch::apply_stored_rows};
/// let sjlt = Sjlt::new(100, 8, 1, Stream::new(0, "gradients"))?;
/// let (gradients, mut bits, mut y) = ([0.5_f32; 200], [0; 200], [0.0; 16]);
/// encode_bf16(&mut bits, &gradients, true)?;
/// apply_stored_rows(MatMut::new(&mut y, 2, 8)?, &sjlt, StoredRows::Bf16(MatRef::new(&bits, 2, 100)?), Serial)?;
/// assert_eq!(y[..8], y[8..]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
pub fn apply_stored_rows<A: LinOp<f32> + Sync>(
    out: MatMut<'_, f32>,
    op: &A,
    x: StoredRows<'_>,
    par: Parallelism,
) -> Result<(), Error> {
    if let StoredRows::F32(x) = x {
        return apply_rows(out, op, x, par);
    }
    check_shape("x columns", op.dim_in(), x.cols())?;
    check_shape("out columns", op.dim_out(), out.cols())?;
    check_shape("out rows", x.rows(), out.rows())?;
    let height = x.rows().min(ROWS);
    let scratch = height.checked_mul(x.cols()).and_then(|len| len.checked_add(op.scratch_len(height)));
    blocks(out, scratch, par, |out, first, scratch| {
        let x = x.row_range(first, out.rows())?;
        let (decoded, scratch) = scratch.split_at_mut(x.rows() * x.cols());
        x.decode(MatMut::new(decoded, x.rows(), x.cols())?)?;
        let x = MatRef::new(decoded, x.rows(), x.cols())?;
        Arch::new().dispatch(Apply { op, out, x, scratch })
    })
}

/// Calls `f` with eight rows of `out` at a time, the number of the first of them, and scratch of the length given.
fn blocks<T: Real>(
    out: MatMut<'_, T>,
    scratch: Option<usize>,
    par: Parallelism,
    f: impl Fn(MatMut<'_, T>, usize, &mut [T]) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    // There may be any number of rows without elements.
    if out.cols() == 0 {
        return Ok(());
    }
    let rows = out.rows();
    let workers = par.workers().min(rows.div_ceil(ROWS));
    let mut scratch = Workspaces::new("scratch of an operator", workers, scratch)?;
    let (mut tasks, mut rest) = (Vec::with_capacity(rows.div_ceil(ROWS)), out);
    for first in (0..rows).step_by(ROWS) {
        let (block, after) = rest.split_rows(ROWS.min(rows - first))?;
        rest = after;
        tasks.push((block, first));
    }
    run(&mut scratch.split(), tasks, |scratch, (out, first)| f(out, first, scratch))
}

/// An application that is compiled for each kind of vectors; a closure would not be inlined into the right one.
struct Apply<'s, A, T> {
    op: &'s A,
    out: MatMut<'s, T>,
    x: MatRef<'s, T>,
    scratch: &'s mut [T],
}

impl<A: LinOp<T>, T: Real> WithSimd for Apply<'_, A, T> {
    type Output = Result<(), Error>;
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Self::Output {
        self.op.apply(self.out, self.x, self.scratch)
    }
}
