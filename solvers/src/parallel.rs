//! Explicit parallelism that never changes a bit of a result.
//!
//! Work is cut into tasks by the size of the problem, never by the number of threads; each task writes to a
//! place of its own, and what several tasks add to is summed in a fixed order afterwards. Threads only decide who
//! runs a task.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

/// How many threads may work at once.
///
/// The threads are those of rayon's current pool, so that a program has one pool whatever it embeds; more threads
/// than that pool has are not started. The calling thread waits meanwhile, unless it belongs to the pool.
///
/// ```
/// use ascribe_solvers::parallel::Parallelism;
/// assert_eq!(Parallelism::threads(1), Parallelism::Serial);
/// assert!(Parallelism::threads(2).workers() <= 2); // a pool may have fewer threads
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Parallelism {
    /// The calling thread alone.
    #[default]
    Serial,
    /// At most this many threads.
    Threads(NonZeroUsize),
}

impl Parallelism {
    /// `n` threads; 0 stands for every processor that the system reports.
    pub fn threads(n: usize) -> Self {
        let n = if n == 0 { std::thread::available_parallelism().map_or(1, NonZeroUsize::get) } else { n };
        match NonZeroUsize::new(n) {
            Some(n) if n.get() > 1 => Self::Threads(n),
            _ => Self::Serial,
        }
    }

    /// The number of threads that will work: at least 1, at most those there are.
    pub fn workers(self) -> usize {
        match self {
            Self::Serial => 1,
            Self::Threads(n) => n.get().min(rayon::current_num_threads()),
        }
    }
}

/// Runs `f` once on each task. As many threads work as there are `states`; each keeps its own.
///
/// Tasks are taken in order, so put the longest first when they differ. Without any state nobody works, and no task
/// is run.
///
/// # Errors
/// The error of the earliest task that failed. Every task is run all the same, so that what was written does
/// not depend on timing.
pub fn run<K: Send, S: Send, E: Send>(
    states: &mut [S],
    tasks: Vec<K>,
    f: impl Fn(&mut S, K) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let workers = states.len().min(tasks.len());
    let queue = Mutex::new(tasks.into_iter().enumerate());
    let failure: Mutex<Option<(usize, E)>> = Mutex::new(None);
    let work = |state: &mut S| {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((index, task)) = next else { break };
            if let Err(error) = f(state, task) {
                let mut first = failure.lock().unwrap_or_else(PoisonError::into_inner);
                if first.as_ref().is_none_or(|(earlier, _)| index < *earlier) {
                    *first = Some((index, error));
                }
            }
        }
    };
    if let Some((own, others)) = states[..workers].split_first_mut() {
        if others.is_empty() {
            work(own);
        } else {
            // Inside the pool: a thread of the pool and a foreign one would often be put on the same processor.
            rayon::scope(|scope| {
                for state in others {
                    scope.spawn(|_| work(state));
                }
                work(own);
            });
        }
    }
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

/// [`run`] for tasks that need no state.
///
/// # Errors
/// As [`run`].
pub fn for_each<K: Send, E: Send>(
    par: Parallelism,
    tasks: Vec<K>,
    f: impl Fn(K) -> Result<(), E> + Sync,
) -> Result<(), E> {
    // A state of no size: the vector allocates nothing.
    run(&mut vec![(); par.workers()], tasks, |(), task| f(task))
}

/// Calls `f` on a thread of the pool when several are to work: entering the pool, which a foreign thread does in each
/// [`run`], takes longer than a short task, and this does it once for all runs inside of `f`.
pub(crate) fn inside<R: Send>(par: Parallelism, f: impl FnOnce() -> R + Send) -> R {
    if par.workers() > 1 { rayon::scope(|_| f()) } else { f() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_and_the_earliest_error_is_reported() {
        for threads in [1, 2, 3, 8] {
            let mut seen = vec![0_usize; 100];
            let tasks: Vec<_> = seen.iter_mut().enumerate().collect();
            let result = for_each(Parallelism::threads(threads), tasks, |(i, slot)| {
                *slot += 1;
                if i % 30 == 29 { Err(i) } else { Ok(()) }
            });
            assert_eq!(result, Err(29));
            assert_eq!(seen, vec![1; 100]);
        }
    }

    #[test]
    fn no_tasks_and_no_states_are_fine() {
        assert_eq!(run(&mut [(); 0], Vec::<()>::new(), |(), ()| Err(())), Ok(()));
        assert_eq!(for_each(Parallelism::threads(4), Vec::<()>::new(), |()| Err(())), Ok(()));
    }
}
