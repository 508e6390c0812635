//! Products with dense random matrices, at the rate of a matrix product.
//!
//! The lanes of the kernel are rows of the sketch, because a Philox block holds the entries of many columns of one
//! row: blocks of neighbouring rows are computed side by side, and an entry is expanded into a packed panel once for
//! all vectors. What a matrix product would read and pack is never in memory.

use std::marker::PhantomData;
use std::ops::Range;

use ascribe_core::scalar::{Typed, TypedMut};
use ascribe_core::sketch::{Entries, Projection};
use ascribe_core::{Error, MatMut, MatRef, Real};
use pulp::{Arch, Simd, WithSimd};

use crate::error::{check_shape, zeros};
use crate::parallel::{Parallelism, run};

/// Columns whose products are summed one after the other, and whose panel of entries stays in the first-level cache.
/// A multiple of what a Philox block holds.
const DEPTH: usize = 128;
/// Rows of the sketch that one task takes: a multiple of every panel's width.
const STRIP: usize = 960;
/// Vectors that one task takes.
const GROUP: usize = 256;
/// Vectors of lanes in a row of the innermost tile.
const VECTORS: usize = 3;
/// A product of fewer tasks than this is cut along the columns too.
const TASKS: usize = 16;
/// Blocks of columns that make such a part worth its sum.
const PART: usize = 16;

/// Sets each row of `out` to the sketch of that row of `x`: [`Projection`]'s `apply`, in parallel.
///
/// Shapes: `x` is `[n, cols]`, `out` is `[n, rows]`. Cost: `2 n rows cols` flops at the rate of a matrix product
/// for signs and many vectors; entries are made once for 256 vectors. Work space: the output at most 16 times, and
/// a few hundred kilobytes a thread.
///
/// The products of 128 columns are summed one after the other and then these sums, in at most 16 parts. With unit
/// roundoff `u` and `d = 150 + cols / 128` the error of an element is at most $\gamma_d \sum_c |A_{rc} x_c|$, besides the
/// error of the entries. The bits depend on the sizes and on the vector instructions, not on the number of threads.
///
/// # Errors
/// [`Error::Shape`] when a dimension does not fit, [`Error::Overflow`] when memory is short; `out` is then untouched.
///
/// # Examples
/// ```
/// use ascribe_core::sketch::{Rademacher, Scale};
/// use ascribe_core::{MatMut, MatRef, linop::apply_alloc};
/// use ascribe_solvers::{parallel::Parallelism, sketch::project};
/// let (sketch, x) = (Rademacher::new("layer.0", 5, 300, Scale::InvSqrtRows)?, [1.0; 600]);
/// let (x, mut out) = (MatRef::new(&x, 2, 300)?, [0.0; 10]);
/// project(MatMut::new(&mut out, 2, 5)?, &sketch, x, Parallelism::threads(2))?;
/// let serial = apply_alloc(&sketch, x)?;
/// assert!(out.iter().zip(&serial).all(|(a, b): (&f64, &f64)| (a - b).abs() < 1e-12));
/// # Ok::<(), ascribe_core::Error>(())
/// ```
pub fn project<T: Real, E: Entries>(
    out: MatMut<'_, T>,
    sketch: &Projection<E>,
    x: MatRef<'_, T>,
    par: Parallelism,
) -> Result<(), Error> {
    check_shape("x columns", sketch.cols(), x.cols())?;
    product(out, T::ZERO, sketch, (x, 0), par)
}

/// Adds the sketch of a piece of each vector, `out += X A[:, col0 .. col0 + x.cols()]^T`: [`Projection::apply_columns`],
/// in parallel. For parameter vectors that arrive layer by layer.
///
/// Cost, error and determinism are those of [`project`].
///
/// # Errors
/// As [`project`]; [`Error::Index`] when the columns are not inside the matrix.
pub fn project_columns<T: Real, E: Entries>(
    out: MatMut<'_, T>,
    sketch: &Projection<E>,
    x: MatRef<'_, T>,
    col0: usize,
    par: Parallelism,
) -> Result<(), Error> {
    product(out, T::ONE, sketch, (x, col0), par)
}

/// `out = beta out + X A[:, col0 ..]^T` for a `beta` of 0 or 1.
fn product<T: Real, E: Entries>(
    out: MatMut<'_, T>,
    beta: T,
    sketch: &Projection<E>,
    (x, col0): (MatRef<'_, T>, usize),
    par: Parallelism,
) -> Result<(), Error> {
    check_shape("out columns", sketch.rows(), out.cols())?;
    check_shape("out rows", x.rows(), out.rows())?;
    if x.cols() > sketch.cols() || col0 > sketch.cols() - x.cols() {
        let index = col0.saturating_add(x.cols());
        return Err(Error::Index { what: "columns of the matrix", index, len: sketch.cols() });
    }
    if out.rows() == 0 || out.cols() == 0 {
        return Ok(());
    }
    // A matrix of one row may have any stride.
    let (rows, cols, stride) = (out.rows(), out.cols(), out.row_stride().max(out.cols()));
    let x_stride = x.row_stride().max(x.cols());
    match (T::typed_mut(out.into_span()), T::typed(x.as_span())) {
        (TypedMut::F32(out), Typed::F32(span)) => {
            let x = MatRef::with_stride(span, rows, x.cols(), x_stride)?;
            multiply(MatMut::with_stride(out, rows, cols, stride)?, beta.to_f64() as f32, sketch, (x, col0), par)
        }
        (TypedMut::F64(out), Typed::F64(span)) => {
            let x = MatRef::with_stride(span, rows, x.cols(), x_stride)?;
            multiply(MatMut::with_stride(out, rows, cols, stride)?, beta.to_f64(), sketch, (x, col0), par)
        }
        _ => unreachable!("both views have one element type"),
    }
}

fn multiply<F: Kernel, E: Entries>(
    mut out: MatMut<'_, F>,
    beta: F,
    sketch: &Projection<E>,
    (x, col0): (MatRef<'_, F>, usize),
    par: Parallelism,
) -> Result<(), Error> {
    let (n, rows) = (out.rows(), out.cols());
    let blocks = col0 / DEPTH..(col0 + x.cols()).div_ceil(DEPTH);
    let strips = rows.div_ceil(STRIP);
    let parts = (TASKS / (n.div_ceil(GROUP) * strips)).min(blocks.len() / PART).max(1);
    let mut sums: Vec<F> = zeros("sums of a sketch", (n * rows).checked_mul(parts))?;
    let mut tasks: Vec<Vec<Task<'_, F>>> = (0..strips).map(|_| Vec::new()).collect();
    for (part, sums) in sums.chunks_exact_mut(n * rows).enumerate() {
        let edge = |part| blocks.start + blocks.len() * part / parts;
        for (first, sums) in (0..n).step_by(GROUP).zip(sums.chunks_mut(GROUP * rows)) {
            for (strip, tasks) in tasks.iter_mut().enumerate() {
                tasks.push(Task { sums: Vec::new(), first, row: strip * STRIP, blocks: edge(part)..edge(part + 1) });
            }
            for row in sums.chunks_exact_mut(rows) {
                for (tasks, row) in tasks.iter_mut().zip(row.chunks_mut(STRIP)) {
                    tasks.last_mut().expect("pushed above").sums.push(row);
                }
            }
        }
    }
    // Strip by strip, for the last one may be narrow.
    let tasks = tasks.into_iter().flatten().collect();
    run(&mut vec![Space::default(); par.workers()], tasks, |space, task| {
        F::run(Product { key: sketch.key(), entries: PhantomData::<E>, x, col0, task, space });
        Ok(())
    })?;

    let factor = F::from_f64(sketch.factor());
    let (total, others) = sums.split_at_mut(n * rows);
    for part in others.chunks_exact(n * rows) {
        total.iter_mut().zip(part).for_each(|(total, &part)| *total += part);
    }
    out.for_each_row(|i, row| {
        for (out, &sum) in row.iter_mut().zip(&total[i * rows..]) {
            *out = if beta == F::ZERO { factor * sum } else { *out + factor * sum };
        }
    });
    Ok(())
}

/// Some rows of the sketch of some vectors, summed over some blocks of columns.
struct Task<'o, F> {
    /// Of each vector, its part of the sketch.
    sums: Vec<&'o mut [F]>,
    /// The first of the vectors.
    first: usize,
    /// The first row of the sketch.
    row: usize,
    blocks: Range<usize>,
}

/// The work space of one thread.
#[derive(Debug, Clone, Default)]
struct Space<F> {
    vectors: Vec<F>,
    panel: Vec<F>,
    tile: Vec<F>,
}

/// A task with what it reads.
struct Product<'s, 'o, F, E> {
    key: [u32; 2],
    entries: PhantomData<E>,
    x: MatRef<'s, F>,
    /// The column of the matrix that the first column of `x` belongs to.
    col0: usize,
    task: Task<'o, F>,
    space: &'s mut Space<F>,
}

/// The precisions that there is a kernel for.
trait Kernel: Real {
    fn run<E: Entries>(product: Product<'_, '_, Self, E>);
}

impl<F: Real, E: Entries> Product<'_, '_, F, E> {
    /// The columns of one block in tiles of `R` vectors, the vectors innermost; zeros outside of the matrix.
    #[inline(always)]
    fn pack<const R: usize>(&mut self, block: usize) {
        let Self { x, col0, task, space, .. } = self;
        let start = (block * DEPTH).max(*col0);
        let end = (block * DEPTH + DEPTH).min(*col0 + x.cols());
        space.vectors.fill(F::ZERO);
        for i in 0..task.sums.len() {
            let tile = &mut space.vectors[i / R * (R * DEPTH)..][..R * DEPTH];
            let row = &x.row(task.first + i)[start - *col0..end - *col0];
            for (packed, &x) in tile.as_chunks_mut::<R>().0[start - block * DEPTH..].iter_mut().zip(row) {
                packed[i % R] = x;
            }
        }
    }
}

/// The same code for both types: the methods of [`Simd`] carry the type in their names.
macro_rules! kernel {
    ($t:ident, $lanes:ident, $split:ident, $split_mut:ident, $splat:ident, $mul_add:ident) => {
        impl Kernel for $t {
            fn run<E: Entries>(product: Product<'_, '_, Self, E>) {
                Arch::new().dispatch(product);
            }
        }

        impl<E: Entries> WithSimd for Product<'_, '_, $t, E> {
            type Output = ();
            #[inline(always)]
            fn with_simd<S: Simd>(self, simd: S) {
                // Three in four registers hold sums.
                if S::REGISTER_COUNT >= 32 { self.tiles::<S, 8>(simd) } else { self.tiles::<S, 4>(simd) }
            }
        }

        impl<E: Entries> Product<'_, '_, $t, E> {
            /// In tiles of `R` vectors of the batch and [`VECTORS`] vectors of lanes.
            #[inline(always)]
            fn tiles<S: Simd, const R: usize>(mut self, simd: S) {
                let width = VECTORS * S::$lanes;
                let height = self.task.sums.len();
                self.space.vectors.resize(height.next_multiple_of(R) * DEPTH, 0.0);
                self.space.panel.resize(DEPTH * width, 0.0);
                self.space.tile.resize(R * width, 0.0);
                for block in self.task.blocks.clone() {
                    self.pack::<R>(block);
                    let Self { key, task, space: Space { vectors, panel, tile }, .. } = &mut self;
                    for j in (0..task.sums[0].len()).step_by(width) {
                        let first = block * (DEPTH / E::PER_BLOCK);
                        for (i, panel) in panel.chunks_exact_mut(E::PER_BLOCK * width).enumerate() {
                            E::panel(panel, width, *key, (task.row + j) as u32, (first + i) as u32);
                        }
                        for (sums, x) in task.sums.chunks_mut(R).zip(vectors.chunks_exact(R * DEPTH)) {
                            let mut products = [[simd.$splat(0.0); VECTORS]; R];
                            for (x, y) in x.as_chunks::<R>().0.iter().zip(panel.chunks_exact(width)) {
                                // By value here and below: behind a reference, the sums would live in memory.
                                let y = S::$split(y).0.as_chunks::<VECTORS>().0[0];
                                for (sums, &x) in products.iter_mut().zip(x) {
                                    let x = simd.$splat(x);
                                    for (sum, &y) in sums.iter_mut().zip(&y) {
                                        *sum = simd.$mul_add(x, y, *sum);
                                    }
                                }
                            }
                            for (tile, products) in tile.chunks_exact_mut(width).zip(products) {
                                S::$split_mut(tile).0.copy_from_slice(&products);
                            }
                            for (sums, tile) in sums.iter_mut().zip(tile.chunks_exact(width)) {
                                for (sum, &product) in sums[j..].iter_mut().zip(tile) {
                                    *sum += product;
                                }
                            }
                        }
                    }
                }
            }
        }
    };
}

kernel!(f32, F32_LANES, as_simd_f32s, as_mut_simd_f32s, splat_f32s, mul_add_f32s);
kernel!(f64, F64_LANES, as_simd_f64s, as_mut_simd_f64s, splat_f64s, mul_add_f64s);
