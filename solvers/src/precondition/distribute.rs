//! Blocks given to workers.

use ascribe_core::Error as CoreError;

use super::Block;
use crate::Error;

/// Which worker preconditions which block: the most expensive first, each to the worker that has the least to do, so
/// that no worker has more than 4/3 of what the best assignment would give it.
///
/// # Examples
/// ```
/// use ascribe_solvers::{parallel::Parallelism, precondition::{Assignment, Layout, Optimizer, Shampoo}};
/// let (layout, shampoo) = (Layout::new(&[("a", &[4, 3]), ("b", &[5])])?, Shampoo::default());
/// let assignment = Assignment::balanced(&shampoo.blocking.blocks(&layout)?, shampoo.frequency, 2)?;
/// let (gradient, mut w, start) = ([1.0; 17], [0.0; 17], [0.0; 17]);
/// for worker in 0..2 { // each on its own machine
///     let mut state = shampoo.start_on(&layout, assignment.blocks(worker), Parallelism::Serial)?;
///     let mut own = start;
///     state.step(&mut own, &gradient)?;
///     state.moved().for_each(|range| w[range.clone()].copy_from_slice(&own[range]));
/// }
/// assert!(w.iter().all(|w| *w < 0.0));
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Graham, SIAM J. Appl. Math. 17 (1969), 416-429, for the bound; Shi et al., arXiv:2309.06497, section 4.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    workers: Vec<(Vec<usize>, f64)>,
}

impl Assignment {
    /// Balances the costs ([`Block::cost`]) over `workers` workers.
    ///
    /// # Errors
    /// [`CoreError::Empty`] without workers, [`CoreError::Overflow`] when there are more than memory holds.
    pub fn balanced(blocks: &[Block], frequency: u64, workers: usize) -> Result<Self, Error> {
        if workers == 0 {
            return Err(CoreError::Empty { what: "workers" }.into());
        }
        let mut all: Vec<(Vec<usize>, f64)> = Vec::new();
        all.try_reserve_exact(workers).map_err(|_| CoreError::Overflow { what: "workers" })?;
        all.resize(workers, (Vec::new(), 0.0));
        let mut order: Vec<(usize, f64)> = blocks.iter().map(|block| block.cost(frequency)).enumerate().collect();
        // Stable: equal costs stay in order, so that every machine finds the same assignment.
        order.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        for (number, cost) in order {
            if let Some((own, load)) = all.iter_mut().min_by(|(_, a), (_, b)| a.total_cmp(b)) {
                own.push(number);
                *load += cost;
            }
        }
        for (own, _) in &mut all {
            own.sort_unstable();
        }
        Ok(Self { workers: all })
    }

    /// The number of workers.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// The blocks of a worker, ascending; none for a worker that there is not.
    pub fn blocks(&self, worker: usize) -> &[usize] {
        self.workers.get(worker).map_or(&[], |(blocks, _)| blocks)
    }

    /// The cost of a worker's blocks, in flops a step; 0 for a worker that there is not.
    pub fn load(&self, worker: usize) -> f64 {
        self.workers.get(worker).map_or(0.0, |(_, load)| *load)
    }
}
