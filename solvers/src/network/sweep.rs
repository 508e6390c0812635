//! How passes over vectors and examples are cut into tasks, and summed in a fixed order.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ascribe_core::{Error, MatMut, MatRef, Real};

use super::Linearized;
use super::cache::{CHUNK, Cache};
use super::tangent::{Chunk, Sum, Work};
use crate::error::check_shape;
use crate::parallel::run;

/// Vectors that one task takes at once: their tangents share each product with the weights.
const VECTORS: usize = 8;
/// Tasks that a product is cut into when it has that much work.
const TASKS: usize = 16;
/// Multiply-adds that make a task worth a thread.
const TASK_WORK: usize = 1 << 22;

/// Which examples a product sums over.
#[derive(Debug, Clone, Copy)]
pub(super) enum Examples<'s> {
    All,
    /// These, an index that repeats counting each time.
    Some(&'s [usize]),
}

impl Examples<'_> {
    pub(super) fn len(&self, all: usize) -> usize {
        match self {
            Self::All => all,
            Self::Some(indices) => indices.len(),
        }
    }
}

/// The parts that the examples are cut into: a power of two, more when there are few vectors to share out.
fn parts(vectors: usize, examples: usize, params: usize) -> usize {
    let groups = vectors.div_ceil(VECTORS).max(1);
    let work = vectors.saturating_mul(examples).saturating_mul(params).saturating_mul(2);
    let wanted = (TASKS / groups).min(work / TASK_WORK).max(1);
    wanted.next_power_of_two().min(examples.div_ceil(CHUNK)).max(1)
}

/// The work space of one thread.
#[derive(Debug, Default)]
pub(super) struct Space<T> {
    pub work: Work<T>,
    batch: Cache<T>,
    input: Vec<T>,
}

/// Work spaces kept from one product for the next: fresh memory would cost a solver with many small steps more than
/// its arithmetic.
#[derive(Debug, Default)]
pub(super) struct Pool<T> {
    spaces: Mutex<Vec<Space<T>>>,
    sums: Mutex<Vec<Vec<T>>>,
}

impl<T> Clone for Pool<T> {
    /// A copy of the data needs no copy of the work space.
    fn clone(&self) -> Self {
        Self { spaces: Mutex::default(), sums: Mutex::default() }
    }
}

fn lock<X>(mutex: &Mutex<X>) -> MutexGuard<'_, X> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Real> Pool<T> {
    /// As many spaces as there are workers; give them back with [`Pool::keep`].
    fn take(&self, workers: usize) -> Vec<Space<T>> {
        let mut kept = lock(&self.spaces);
        let mut spaces: Vec<Space<T>> = (0..workers).filter_map(|_| kept.pop()).collect();
        spaces.resize_with(workers, || Space { work: Work::default(), batch: Cache::default(), input: Vec::new() });
        spaces
    }

    fn keep(&self, spaces: Vec<Space<T>>) {
        lock(&self.spaces).extend(spaces);
    }
}

impl<T: Real> Linearized<'_, T> {
    /// Calls `f` on each block of examples of part `part` of `parts`, with the places of its first example.
    fn each_chunk(
        &self,
        examples: Examples<'_>,
        part: usize,
        parts: usize,
        space: &mut Space<T>,
        mut f: impl FnMut(&mut Work<T>, Chunk<'_, T>, Place<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let chunks = examples.len(self.examples()).div_ceil(CHUNK);
        for c in part * chunks / parts..(part + 1) * chunks / parts {
            match examples {
                Examples::All => f(&mut space.work, self.chunk(c)?, Place::From(c * CHUNK))?,
                Examples::Some(indices) => {
                    let indices = &indices[c * CHUNK..indices.len().min((c + 1) * CHUNK)];
                    self.gather(indices, &mut space.batch, &mut space.input);
                    let input = MatRef::new(&space.input, indices.len(), self.net.inputs())?;
                    f(&mut space.work, Chunk { input, cache: &space.batch }, Place::At(indices))?;
                }
            }
        }
        Ok(())
    }

    fn gather(&self, indices: &[usize], batch: &mut Cache<T>, input: &mut Vec<T>) {
        batch.reserve(self.net, indices.len());
        input.clear();
        for (to, &n) in indices.iter().enumerate() {
            batch.copy_row(to, &self.chunks[n / CHUNK], n % CHUNK);
            input.extend_from_slice(self.input.row(n));
        }
    }
}

/// Where the examples of a block stand in the data set.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'p> {
    From(usize),
    At(&'p [usize]),
}

impl Place<'_> {
    pub(super) fn of(&self, row: usize) -> usize {
        match self {
            Self::From(start) => start + row,
            Self::At(indices) => indices[row],
        }
    }
}

/// Sets `out` (`[k, parameters]`) to `scale` times the sum over the examples of what `f` adds to its rows.
///
/// `f` gets the rows of `x` (`[k, anything]`) that belong to the rows of its output.
pub(super) fn sum_over_examples<T: Real>(
    lin: &Linearized<'_, T>,
    mut out: MatMut<'_, T>,
    x: MatRef<'_, T>,
    examples: Examples<'_>,
    scale: T,
    f: impl Fn(&mut Work<T>, Chunk<'_, T>, Place<'_>, MatRef<'_, T>, Sum<'_, T>) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let (k, params) = (out.rows(), out.cols());
    if let Examples::Some(indices) = examples {
        check_indices(indices, lin.examples())?;
    }
    let parts = parts(k, examples.len(lin.examples()), params);
    // The first part adds to `out` itself, the others each to a block of their own.
    let mut others = lock(&lin.pool.sums).pop().unwrap_or_default();
    others.resize((parts - 1) * k * params, T::ZERO);
    let result = share_out(lin, out.rb_mut(), &mut others, x, examples, &f);
    let blocks: Vec<&[T]> = others.chunks_exact((k * params).max(1)).collect();
    out.for_each_row(|j, row| add_and_scale(row, &blocks, j * params, scale));
    lock(&lin.pool.sums).push(others);
    result
}

/// Runs `f` on every group of vectors and part of the examples; `others` has a block `[k, parameters]` for each part
/// but the first.
fn share_out<T: Real, F>(
    lin: &Linearized<'_, T>,
    out: MatMut<'_, T>,
    others: &mut [T],
    x: MatRef<'_, T>,
    examples: Examples<'_>,
    f: &F,
) -> Result<(), Error>
where
    F: Fn(&mut Work<T>, Chunk<'_, T>, Place<'_>, MatRef<'_, T>, Sum<'_, T>) -> Result<(), Error> + Sync,
{
    let (k, params) = (out.rows(), out.cols());
    let block = (k * params).max(1);
    let parts = others.len() / block + 1;
    let mut blocks = vec![out];
    for block in others.chunks_exact_mut(block) {
        blocks.push(MatMut::new(block, k, params)?);
    }
    let mut tasks = Vec::new();
    for start in (0..k).step_by(VECTORS) {
        let rows = VECTORS.min(k - start);
        let x = x.row_range(start, rows)?;
        let mut tails = Vec::with_capacity(blocks.len());
        for (part, block) in blocks.into_iter().enumerate() {
            let (head, tail) = block.split_rows(rows)?;
            tasks.push((part, x, head));
            tails.push(tail);
        }
        blocks = tails;
    }
    let mut spaces = lin.pool.take(lin.par.workers());
    let result = run(&mut spaces, tasks, |space, (part, x, mut out)| {
        let mut accumulate = false;
        lin.each_chunk(examples, part, parts, space, |work, chunk, place| {
            f(work, chunk, place, x, Sum { out: out.rb_mut(), accumulate })?;
            accumulate = true;
            Ok(())
        })
    });
    lin.pool.keep(spaces);
    result
}

/// `row = scale * (row + sum of the blocks)`, block after block, in one pass.
fn add_and_scale<T: Real>(row: &mut [T], blocks: &[&[T]], start: usize, scale: T) {
    // Short pieces, so that each stays in the cache while the blocks are added to it.
    for (piece, values) in row.chunks_mut(2048).enumerate() {
        for block in blocks {
            let from = &block[start + piece * 2048..][..values.len()];
            for (x, &y) in values.iter_mut().zip(from) {
                *x += y;
            }
        }
        for x in values {
            *x *= scale;
        }
    }
}

/// Sets row `j` of `out` (`[k, examples * outputs]`) to `J v_j`: the derivative of all outputs along row `j` of
/// `v`.
pub(super) fn push_forward<T: Real>(
    lin: &Linearized<'_, T>,
    out: MatMut<'_, T>,
    v: MatRef<'_, T>,
) -> Result<(), Error> {
    check_shape("x columns", lin.net.params(), v.cols())?;
    let width = lin.net.outputs();
    let mut tasks = Vec::new();
    let mut rest = out;
    for start in (0..v.rows()).step_by(VECTORS) {
        let rows = VECTORS.min(v.rows() - start);
        let (head, tail) = rest.split_rows(rows)?;
        rest = tail;
        tasks.push((v.row_range(start, rows)?, head));
    }
    let mut spaces = lin.pool.take(lin.par.workers());
    let result = run(&mut spaces, tasks, |space, (v, mut out)| {
        lin.each_chunk(Examples::All, 0, 1, space, |work, chunk, place| {
            work.push_forward(lin.net, lin.params, v, chunk, false)?;
            let (start, len) = (place.of(0) * width, chunk.cache.rows * width);
            for (j, plane) in work.outputs.chunks_exact(len).enumerate() {
                out.row_mut(j)[start..start + len].copy_from_slice(plane);
            }
            Ok(())
        })
    });
    lin.pool.keep(spaces);
    result
}

fn check_indices(indices: &[usize], examples: usize) -> Result<(), Error> {
    if indices.is_empty() {
        return Err(Error::Empty { what: "example indices" });
    }
    match indices.iter().find(|&&index| index >= examples) {
        Some(&index) => Err(Error::Index { what: "example indices", index, len: examples }),
        None => Ok(()),
    }
}
