//! Ghost products over several threads.

use ascribe_core::ghost::Route;
use ascribe_core::record::LayerRecord;
use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};

use crate::Error;
use crate::error::{check_shape, zeros};
use crate::linalg::matmul;
use crate::parallel::{Parallelism, for_each, run};

/// Positions of the training examples of one task: two tiles of a ghost product.
const TASK_POSITIONS: usize = 256;
/// Gradients that one task forms at a time.
const TASK_GRADIENTS: usize = 16;

/// `out[n, q] = beta out[n, q] + <G_n, G_q>` from the records of one layer, by the given route or the cheaper one.
///
/// [`Route::dots`] with the training examples shared out among threads: see there for cost and error, and
/// [`Route::for_sizes`] for the choice. Memory: 32,768 numbers a thread for [`Route::Ghost`]; for [`Route::Form`]
/// the gradients of all queries, and of 16 training examples a thread.
///
/// # Errors
/// A shape error, [`CoreError::Overflow`] when the gradients do not fit into memory.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef, record::LayerRecord};
/// use ascribe_solvers::{attribution::ghost_dots, parallel::Parallelism};
/// let x = MatRef::new(&[1.0, 2.0, 3.0, 4.0], 2, 2)?; // two examples of one position
/// let delta = MatRef::new(&[1.0, 10.0], 2, 1)?;
/// let record = LayerRecord::new(2, x, delta, None, true)?;
/// let mut dots = [0.0; 4];
/// ghost_dots(MatMut::new(&mut dots, 2, 2)?, 0.0, &record, &record, None, Parallelism::threads(2))?;
/// assert_eq!(dots, [6.0, 120.0, 120.0, 2600.0]);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
pub fn ghost_dots<T: Real>(
    out: MatMut<'_, T>,
    beta: T,
    train: &LayerRecord<'_, T>,
    query: &LayerRecord<'_, T>,
    route: Option<Route>,
    par: Parallelism,
) -> Result<(), Error> {
    // Nothing of nothing: the checks, and no work.
    Route::Ghost.dots(MatMut::new(&mut [], 0, out.cols())?, beta, &train.example_range(0, 0)?, query, &mut [])?;
    check_shape("score rows", train.examples(), out.rows())?;
    if out.cols() == 0 {
        return Ok(());
    }
    match route.unwrap_or_else(|| Route::cheaper(train, query)) {
        Route::Form => formed(out, beta, train, query, par),
        Route::Ghost => {
            let tasks = tasks(out, (TASK_POSITIONS / train.positions().max(1)).max(1))?;
            let largest = train.example_range(0, tasks.first().map_or(0, |(_, out)| out.rows()))?;
            let scratch = vec![T::ZERO; Route::Ghost.scratch_len(&largest, query)];
            run(&mut vec![scratch; par.workers().min(tasks.len())], tasks, |scratch, (start, out)| {
                let train = train.example_range(start, out.rows())?;
                Ok(Route::Ghost.dots(out, beta, &train, query, scratch)?)
            })
        }
    }
}

/// `out[n] = beta out[n] + |G_n|^2` for every example of one layer, by the given route or the cheaper one.
///
/// [`Route::squared_norms`] with the examples shared out among threads: see there for cost and error. Memory: 32,768
/// numbers a thread, or one gradient.
///
/// # Errors
/// A shape error, [`CoreError::Overflow`] when a gradient does not fit into memory.
pub fn ghost_squared_norms<T: Real>(
    out: &mut [T],
    beta: T,
    record: &LayerRecord<'_, T>,
    route: Option<Route>,
    par: Parallelism,
) -> Result<(), Error> {
    check_shape("out elements", record.examples(), out.len())?;
    let route = route.unwrap_or_else(|| Route::cheaper_for_norms(record));
    let scratch: Vec<T> = zeros("scratch of ghost norms", Some(route.norms_scratch_len(record)))?;
    let size = (TASK_POSITIONS / record.positions().max(1)).max(1);
    let tasks: Vec<_> = out.chunks_mut(size).enumerate().collect();
    run(&mut vec![scratch; par.workers().min(tasks.len())], tasks, |scratch, (chunk, out)| {
        let part = record.example_range(chunk * size, out.len())?;
        Ok(route.squared_norms(out, beta, &part, scratch)?)
    })
}

fn formed<T: Real>(
    out: MatMut<'_, T>,
    beta: T,
    train: &LayerRecord<'_, T>,
    query: &LayerRecord<'_, T>,
    par: Parallelism,
) -> Result<(), Error> {
    let (dim, queries) = (train.dim(), query.examples());
    let mut gradients: Vec<T> = zeros("gradients of the queries", queries.checked_mul(dim))?;
    let scratch: Vec<T> = zeros("gradients of a block", TASK_GRADIENTS.min(train.examples()).checked_mul(dim))?;
    let blocks = tasks(MatMut::new(&mut gradients, queries, dim)?, TASK_GRADIENTS)?;
    for_each(par, blocks, |(start, out)| query.example_range(start, out.rows())?.gradients(out))?;
    let gradients = MatRef::new(&gradients, queries, dim)?;
    let blocks = tasks(out, TASK_GRADIENTS)?;
    run(&mut vec![scratch; par.workers().min(blocks.len())], blocks, |scratch, (start, out)| {
        let train = train.example_range(start, out.rows())?;
        let block = &mut scratch[..out.rows() * dim];
        train.gradients(MatMut::new(block, out.rows(), dim)?)?;
        let block = MatRef::new(block, out.rows(), dim)?;
        Ok(matmul(out, beta, T::ONE, block, gradients.t(), Parallelism::Serial)?)
    })
}

/// The rows of `out` in blocks of `size`, each with its first row.
pub(super) fn tasks<T>(mut out: MatMut<'_, T>, size: usize) -> Result<Vec<(usize, MatMut<'_, T>)>, CoreError> {
    let mut tasks = Vec::new();
    if out.cols() == 0 {
        return Ok(tasks);
    }
    let mut start = 0;
    while out.rows() > 0 {
        let count = size.min(out.rows());
        let (block, rest) = out.split_rows(count)?;
        tasks.push((start, block));
        (out, start) = (rest, start + count);
    }
    Ok(tasks)
}
