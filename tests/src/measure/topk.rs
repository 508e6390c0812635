//! Selection of the best training examples of each query, from a finished score matrix.

use std::hint::black_box;
use std::thread;

use ascribe_core::rank::{Direction, TopKPerQuery};
use ascribe_core::{Error, MatRef, Real};

use super::{Kernel, Measured, Settings, uniform};
use crate::Failure;
use crate::failure::fail;

pub(super) const KERNEL: Kernel = Kernel {
    name: "topk",
    about: "the k largest of n scores for each query, from a matrix [n, queries]",
    sizes: &["n", "queries", "k"],
    defaults: &[&[100_000, 64, 100]],
    f32: run::<f32>,
    f64: run::<f64>,
};

fn run<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let &[n, queries, k] = sizes else { return fail("the table names three sizes") };
    let data: Vec<T> = uniform(settings.seed, 0, &[n, queries])?;
    let scores = MatRef::new(&data, n, queries)?;
    let mut selected = Ok(());
    let seconds =
        settings.time(|| selected = select(black_box(scores), k, settings.threads).map(|best| drop(black_box(best))));
    selected?;
    Ok(Measured { seconds, flops: 0, bytes: (n * queries * size_of::<T>()) as u64 })
}

/// A block of rows a thread, and the selections merged.
fn select<T: Real>(scores: MatRef<'_, T>, k: usize, threads: usize) -> Result<TopKPerQuery<T>, Error> {
    let part = scores.rows().div_ceil(threads).max(1);
    let block = |start: usize| {
        let mut best = TopKPerQuery::new(scores.cols(), k, Direction::Largest)?;
        best.push_block(start, scores.row_range(start, part.min(scores.rows() - start))?)?;
        Ok(best)
    };
    thread::scope(|scope| {
        let others: Vec<_> =
            (part..scores.rows()).step_by(part).map(|start| scope.spawn(move || block(start))).collect();
        let mut best = block(0)?;
        for other in others {
            best.merge(&other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?)?;
        }
        Ok(best)
    })
}
