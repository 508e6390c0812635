//! Gradients with a known answer: noise, and for each query a few rows that contain the query.

use ascribe_core::random::Stream;
use ascribe_solvers::Error;
use ascribe_solvers::parallel::{Parallelism, for_each};

use crate::options::Options;

/// Rows that contain a query, for each query, where there are enough rows.
const PLANTED: u64 = 10;

/// A model of what it has no network for: with `D` columns, a planted row scores about `D / 3` for its query, another
/// one about 0 with a spread of `sqrt(D) / 3`.
#[derive(Debug)]
pub(crate) struct Gradients {
    train: Stream,
    query: Stream,
    rows: u64,
    cols: usize,
    queries: usize,
    /// From one planted row to the next.
    spacing: u64,
}

impl Gradients {
    pub(crate) fn new(options: &Options) -> Self {
        let planted = options.queries as u64 * PLANTED;
        Self {
            train: Stream::new(0, "training gradients"),
            query: Stream::new(0, "query gradients"),
            rows: options.rows,
            cols: options.cols,
            queries: options.queries,
            spacing: options.rows.checked_div(planted).unwrap_or(1).max(1),
        }
    }

    /// Sets `rows` to the rows of these training examples.
    pub(crate) fn train(&self, rows: &mut Vec<f32>, ids: &[u64], par: Parallelism) -> Result<(), Error> {
        rows.resize(ids.len() * self.cols, 0.0);
        let tasks = ids.iter().zip(rows.chunks_mut(self.cols.max(1))).collect();
        for_each(par, tasks, |(&id, row): (&u64, &mut [f32])| {
            noise(row, self.train.child(id));
            let place = id / self.spacing;
            if id.is_multiple_of(self.spacing) && place < self.queries as u64 * PLANTED {
                let mut query = vec![0.0; self.cols];
                noise(&mut query, self.query.child(place % self.queries as u64));
                row.iter_mut().zip(&query).for_each(|(x, q)| *x += q);
            }
            Ok(())
        })
    }

    /// The queries, one a row.
    pub(crate) fn queries(&self) -> Vec<f32> {
        let mut rows = vec![0.0; self.queries * self.cols];
        for (query, row) in rows.chunks_mut(self.cols.max(1)).enumerate() {
            noise(row, self.query.child(query as u64));
        }
        rows
    }

    /// The training examples that contain a query.
    pub(crate) fn planted(&self, query: usize) -> Vec<u64> {
        let places = (0..PLANTED).map(|i| i * self.queries as u64 + query as u64);
        places.map(|place| place * self.spacing).filter(|&id| id < self.rows).collect()
    }
}

/// Numbers in `[-1, 1)`, sixteen from a block of the stream.
fn noise(row: &mut [f32], stream: Stream) {
    for (block, numbers) in (0..).zip(row.chunks_mut(16)) {
        let words = stream.words(block, 0);
        let bytes = words.iter().flat_map(|word| word.to_le_bytes());
        for (x, byte) in numbers.iter_mut().zip(bytes) {
            *x = f32::from(byte.cast_signed()) / 128.0;
        }
    }
}
