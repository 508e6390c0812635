//! Symmetric rank-k updates, `C += X^T X`.
//!
//! Both factors of the product are the same rows, and a row holds neighbouring columns side by side: that is the
//! layout that a kernel of outer products wants, so nothing is packed unless rows are masked or weighted.

use std::convert::Infallible;
use std::ops::Range;

use ascribe_core::{Error, MatMut, MatRef, Real, reduce};
use pulp::{Arch, Simd, WithSimd};

use crate::error::{check_shape, zeros};
use crate::parallel::{Parallelism, for_each, run};

/// Rows whose products are summed one after the other; the sums of such blocks are added pairwise. A block of a
/// strip's columns fits into a second-level cache.
const BLOCK: usize = 256;
/// Rows of the result that one task takes.
const STRIP: usize = 192;
/// Columns of a strip that are summed at once: bounds the work space.
const SPAN: usize = 960;
/// Vectors in a row of the innermost tile.
const VECTORS: usize = 3;
/// What is added to the length of a copied row, so that the rows do not all compete for the same lines of a cache.
const PAD: usize = 16;
/// A result of fewer strips than this is cut into parts along the rows of `X` too.
const STRIPS: usize = 4;
/// The most such parts, and the multiply-adds that make one worth its sum.
const PARTS: usize = 8;
const PART_WORK: usize = 1 << 22;

/// Adds `X^T X` to the lower triangle of `out`; what is above the diagonal is left alone.
///
/// `x` is `[rows, n]`, `out` is `[n, n]` and may be of the other precision: the sum is taken in that of `x`.
///
/// Cost: `rows n^2` flops, half of those of a product. Work space of each thread: the sums of a strip of 192 rows and
/// at most 960 columns, `2 + log2(rows / 256)` times. The products of 256 rows are summed one after the other, the
/// sums pairwise, so with unit roundoff `u` the error of an element is at most `gamma_d sum_r |x_ri x_rj|` with
/// `d = 258 + ceil(log2(rows / 256))`, besides the rounding of the addition to `out`.
///
/// # Errors
/// [`Error::Shape`] when `out` is not `[n, n]`.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef};
/// use ascribe_solvers::{linalg::gram, parallel::Parallelism};
/// let x = MatRef::new(&[1.0_f32, 2.0, 3.0, 4.0], 2, 2)?;
/// let mut out = [0.0_f64; 4];
/// gram(MatMut::new(&mut out, 2, 2)?, x, Parallelism::Serial)?;
/// assert_eq!(out, [10.0, 0.0, 14.0, 20.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
pub fn gram<S: Real, T: Real>(out: MatMut<'_, S>, x: MatRef<'_, T>, par: Parallelism) -> Result<(), Error> {
    Rows::new(x).add_gram(out, par)
}

/// The rows that a Gram matrix is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a, T> {
    pub(crate) x: MatRef<'a, T>,
    /// The rows of `x` that count, in this order; `None` when all do.
    pub(crate) kept: Option<&'a [usize]>,
    /// The weight that the products of each row of `x` have in the sum.
    pub(crate) weights: Option<&'a [T]>,
    /// Whether each row has a 1 appended.
    pub(crate) ones: bool,
}

impl<'a, T: Real> Rows<'a, T> {
    pub(crate) fn new(x: MatRef<'a, T>) -> Self {
        Self { x, kept: None, weights: None, ones: false }
    }

    pub(crate) fn len(&self) -> usize {
        self.kept.map_or(self.x.rows(), <[usize]>::len)
    }

    /// Columns, the appended one included.
    pub(crate) fn width(&self) -> usize {
        self.x.cols() + usize::from(self.ones)
    }

    /// The index in `x` of row `row` of those that count.
    fn index(&self, row: usize) -> usize {
        self.kept.map_or(row, |kept| kept[row])
    }

    /// The rows that count, without the appended 1, with their indices in `x`.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &'a [T])> {
        // Rows without elements may be as many as there are numbers.
        let len = if self.x.cols() == 0 { 0 } else { self.len() };
        (0..len).map(|row| (self.index(row), self.x.row(self.index(row))))
    }

    /// The trace of the Gram matrix with the absolute values of the weights: no partial sum of an element exceeds it.
    /// Infinite or NaN when an element is, or a row's sum of squares overflows.
    pub(crate) fn trace(&self, par: Parallelism) -> f64 {
        let len = if self.x.cols() == 0 { 0 } else { self.len() };
        let mut parts = vec![0.0; len.div_ceil(BLOCK)];
        let tasks = parts.iter_mut().zip((0..len).step_by(BLOCK)).collect();
        let _: Result<(), Infallible> = for_each(par, tasks, |(part, start): (&mut f64, usize)| {
            for row in (start..len.min(start + BLOCK)).map(|row| self.index(row)) {
                let weight = self.weights.map_or(1.0, |weights| weights[row].to_f64().abs());
                *part += weight * reduce::norm2_squared(self.x.row(row)).to_f64();
            }
            Ok(())
        });
        let ones = if self.ones { self.len() as f64 } else { 0.0 };
        parts.iter().sum::<f64>() + ones
    }

    /// Adds the Gram matrix of the rows to the lower triangle of `out`.
    pub(crate) fn add_gram<S: Real>(self, mut out: MatMut<'_, S>, par: Parallelism) -> Result<(), Error> {
        check_shape("rows of the Gram matrix", self.width(), out.rows())?;
        check_shape("columns of the Gram matrix", self.width(), out.cols())?;
        if self.x.cols() == 0 {
            if self.ones {
                out.row_mut(0)[0] += S::from_f64(self.len() as f64);
            }
            return Ok(());
        }
        match (self.typed::<f32>(), self.typed::<f64>()) {
            (Some(rows), _) => rows.add(out, par),
            (_, Some(rows)) => rows.add(out, par),
            _ => unreachable!("numbers are f32 or f64"),
        }
    }

    fn typed<F: Real>(self) -> Option<Rows<'a, F>> {
        let Self { x, kept, weights, ones } = self;
        // A matrix of one row may have any stride.
        let (span, stride) = (F::from_typed(T::typed(x.as_span()))?, x.row_stride().max(x.cols()));
        let x = MatRef::with_stride(span, x.rows(), x.cols(), stride).ok()?;
        let weights = weights.and_then(|weights| F::from_typed(T::typed(weights)));
        Some(Rows { x, kept, weights, ones })
    }
}

impl<F: Kernel> Rows<'_, F> {
    fn add<S: Real>(self, mut out: MatMut<'_, S>, par: Parallelism) -> Result<(), Error> {
        let (n, len) = (self.width(), self.len());
        let mut spaces = vec![Space::default(); par.workers()];
        let (mut parts, blocks) = (1, len.div_ceil(BLOCK));
        let limit = PARTS.min(blocks).min(n.saturating_mul(n).saturating_mul(len) / PART_WORK);
        while n.div_ceil(STRIP) < STRIPS && 2 * parts <= limit {
            parts *= 2;
        }
        if parts == 1 {
            return self.add_strips(&mut spaces, strips(out, 0..len)?);
        }
        let mut sums: Vec<F> = zeros("parts of a Gram matrix", (n * n).checked_mul(parts))?;
        let row = |part: usize| (blocks * part / parts * BLOCK).min(len);
        let mut tasks = Vec::new();
        for (part, sum) in sums.chunks_exact_mut(n * n).enumerate() {
            tasks.extend(strips(MatMut::new(sum, n, n)?, row(part)..row(part + 1))?);
        }
        self.add_strips(&mut spaces, tasks)?;
        while parts > 1 {
            parts /= 2;
            let (left, right) = sums.split_at_mut(parts * n * n);
            add_assign(left, right);
        }
        out.for_each_row(|i, row| add_assign(&mut row[..=i], &sums[i * n..]));
        Ok(())
    }

    fn add_strips<S: Real>(&self, spaces: &mut [Space<F>], tasks: Vec<Strip<'_, S>>) -> Result<(), Error> {
        run(spaces, tasks, |space, Strip { mut out, first, rows }| {
            let down = first..first + out.rows();
            for left in (0..down.end).step_by(SPAN) {
                let across = left..(left + SPAN).min(down.end);
                let (sum, stride) = space.sum(self, rows.clone(), &down, &across);
                out.for_each_row(|i, row| {
                    let diagonal = (first + i + 1).clamp(left, across.end);
                    add_assign(&mut row[left..diagonal], &sum[i * stride..]);
                });
            }
            Ok(())
        })
    }
}

/// Rows `first..` of a result, to which the products of some of the rows are added.
struct Strip<'o, S> {
    out: MatMut<'o, S>,
    first: usize,
    rows: Range<usize>,
}

/// The strips of a result, the longest first.
fn strips<S: Real>(mut out: MatMut<'_, S>, rows: Range<usize>) -> Result<Vec<Strip<'_, S>>, Error> {
    let (mut strips, mut first) = (Vec::new(), 0);
    while out.rows() > 0 {
        let height = STRIP.min(out.rows());
        let (strip, rest) = out.split_rows(height)?;
        strips.push(Strip { out: strip, first, rows: rows.clone() });
        (out, first) = (rest, first + height);
    }
    strips.reverse();
    Ok(strips)
}

fn add_assign<S: Real, F: Real>(sum: &mut [S], x: &[F]) {
    for (sum, &x) in sum.iter_mut().zip(x) {
        *sum += S::from_f64(x.to_f64());
    }
}

/// The work space of one thread.
#[derive(Debug, Clone, Default)]
struct Space<F> {
    left: Vec<F>,
    right: Vec<F>,
    /// Sums that wait for a partner, the one of the most blocks first. Above the diagonal they hold anything.
    sums: Vec<Vec<F>>,
}

impl<F: Kernel> Space<F> {
    /// The products of columns `down` and `across` summed over some rows, and the distance of the rows of this sum.
    fn sum(
        &mut self,
        rows: &Rows<'_, F>,
        of: Range<usize>,
        down: &Range<usize>,
        across: &Range<usize>,
    ) -> (&[F], usize) {
        let (mut waiting, mut stride) = (0, 0);
        for (count, start) in of.clone().step_by(BLOCK).enumerate() {
            if waiting == self.sums.len() {
                self.sums.push(Vec::new());
            }
            let Self { left, right, sums } = self;
            let (block, out) = (start..(start + BLOCK).min(of.end), &mut sums[waiting]);
            stride = F::product(Product { rows, block, down, across, left, right, out });
            waiting += 1;
            // As many pairs are complete as the number of blocks has factors of 2.
            for _ in 0..(count + 1).trailing_zeros() {
                waiting = self.pair(waiting);
            }
        }
        while waiting > 1 {
            waiting = self.pair(waiting);
        }
        (if waiting == 0 { &[] } else { &self.sums[0] }, stride)
    }

    /// Adds the last of the waiting sums to the one before it.
    fn pair(&mut self, waiting: usize) -> usize {
        let (head, tail) = self.sums.split_at_mut(waiting - 1);
        add_assign(&mut head[waiting - 2], &tail[0]);
        waiting - 1
    }
}

/// The products of columns `down` and `across` of one block of rows, below the diagonal.
pub(crate) struct Product<'s, 'a, F> {
    rows: &'s Rows<'a, F>,
    block: Range<usize>,
    down: &'s Range<usize>,
    across: &'s Range<usize>,
    left: &'s mut Vec<F>,
    right: &'s mut Vec<F>,
    out: &'s mut Vec<F>,
}

/// The precisions that there is a kernel for.
pub(crate) trait Kernel: Real {
    /// Sets `out` to the product, and returns the distance of its rows.
    fn product(product: Product<'_, '_, Self>) -> usize;
}

impl<'a, F: Real> Rows<'a, F> {
    /// Columns of a block of rows as a slice and the distance of its rows: those of `x` where they are as wanted,
    /// else a copy whose rows are `pitch` apart, weighted, without masked rows and filled up with zeros.
    #[inline(always)]
    fn panel<'p>(
        &self,
        copy: &'p mut Vec<F>,
        block: &Range<usize>,
        cols: Range<usize>,
        [width, pitch]: [usize; 2],
        weights: Option<&[F]>,
    ) -> (&'p [F], usize)
    where
        'a: 'p,
    {
        if self.kept.is_none() && weights.is_none() && cols.start + width <= self.x.cols() {
            let stride = self.x.row_stride();
            return (&self.x.as_span()[block.start * stride + cols.start..], stride);
        }
        copy.clear();
        copy.resize(block.len() * pitch, F::ZERO);
        let own = cols.start..cols.end.min(self.x.cols());
        for (target, row) in copy.chunks_exact_mut(pitch).zip(block.clone()) {
            let row = self.index(row);
            target[..own.len()].copy_from_slice(&self.x.row(row)[own.clone()]);
            target[own.len()..cols.len()].fill(F::ONE);
            if let Some(weights) = weights {
                for x in target {
                    *x *= weights[row];
                }
            }
        }
        (copy, pitch)
    }
}

/// The same code for both types: the methods of [`Simd`] carry the type in their names.
macro_rules! kernel {
    ($t:ident, $lanes:ident, $split:ident, $split_mut:ident, $splat:ident, $mul_add:ident) => {
        impl Kernel for $t {
            fn product(product: Product<'_, '_, Self>) -> usize {
                Arch::new().dispatch(product)
            }
        }

        impl WithSimd for Product<'_, '_, $t> {
            type Output = usize;
            #[inline(always)]
            fn with_simd<S: Simd>(self, simd: S) -> usize {
                // Three in four registers hold sums.
                if S::REGISTER_COUNT >= 32 { self.tiles::<S, 8>(simd) } else { self.tiles::<S, 4>(simd) }
            }
        }

        impl Product<'_, '_, $t> {
            /// In tiles of `R` rows and [`VECTORS`] vectors.
            #[inline(always)]
            fn tiles<S: Simd, const R: usize>(self, simd: S) -> usize {
                let Self { rows, block, down, across, left, right, out } = self;
                let width = VECTORS * S::$lanes;
                let height = down.len().next_multiple_of(R);
                let stride = across.len().next_multiple_of(width);
                out.resize(height * stride, 0.0);
                let (left, left_stride) = rows.panel(left, &block, down.clone(), [height, height + PAD], None);
                for j in across.clone().step_by(width) {
                    let cols = j..(j + width).min(across.end);
                    let (right, right_stride) = rows.panel(right, &block, cols, [width; 2], rows.weights);
                    for i in (0..height).step_by(R) {
                        if down.start + i + R <= j {
                            continue; // above the diagonal
                        }
                        let mut sums = [[simd.$splat(0.0); VECTORS]; R];
                        let both = left.chunks(left_stride).zip(right.chunks(right_stride));
                        for (x, y) in both.take(block.len()) {
                            // By value here and below: behind a reference, the sums would live in memory.
                            let y = S::$split(&y[..width]).0.as_chunks::<VECTORS>().0[0];
                            for (sums, &x) in sums.iter_mut().zip(&x[i..i + R]) {
                                let x = simd.$splat(x);
                                for (sum, &y) in sums.iter_mut().zip(&y) {
                                    *sum = simd.$mul_add(x, y, *sum);
                                }
                            }
                        }
                        for (r, sums) in sums.into_iter().enumerate() {
                            let out = &mut out[(i + r) * stride + j - across.start..][..width];
                            S::$split_mut(out).0.copy_from_slice(&sums);
                        }
                    }
                }
                stride
            }
        }
    };
}

kernel!(f32, F32_LANES, as_simd_f32s, as_mut_simd_f32s, splat_f32s, mul_add_f32s);
kernel!(f64, F64_LANES, as_simd_f64s, as_mut_simd_f64s, splat_f64s, mul_add_f64s);
