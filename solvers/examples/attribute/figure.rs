//! Which queries are shown, and the training examples that speak for and against each.

use ascribe_core::MatRef;
use ascribe_core::rank::{Direction, Ranked, top_k};

use crate::data::Dataset;

const SHOWN: usize = 6;
const NEIGHBOURS: usize = 5;

/// A training example with its score for the query.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Neighbour {
    /// Its row in the training set.
    pub(crate) index: usize,
    pub(crate) label: usize,
    pub(crate) score: f64,
}

/// A query with the examples that influence it most.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Figure {
    /// The row in the query set.
    pub(crate) query: usize,
    pub(crate) label: usize,
    /// Those that raise the margin of the query's class most, strongest first.
    pub(crate) proponents: Vec<Neighbour>,
    /// Those that lower it most, strongest first.
    pub(crate) opponents: Vec<Neighbour>,
}

/// The figures of six queries, from scores `[train, queries]`.
pub(crate) fn figures(scores: &[f64], train: &Dataset, queries: &Dataset) -> Result<Vec<Figure>, String> {
    let strongest = |direction| {
        let scores = MatRef::new(scores, train.n, queries.n)?;
        top_k(scores, NEIGHBOURS, direction)
    };
    let proponents = strongest(Direction::Largest).map_err(|why| why.to_string())?;
    let opponents = strongest(Direction::Smallest).map_err(|why| why.to_string())?;
    let neighbours = |ranked: &[Ranked<f64>]| {
        ranked.iter().map(|&Ranked { score, index }| Neighbour { index, label: train.labels[index], score }).collect()
    };
    let figure = |query: usize| Figure {
        query,
        label: queries.labels[query],
        proponents: neighbours(&proponents[query]),
        opponents: neighbours(&opponents[query]),
    };
    Ok(shown(queries).into_iter().map(figure).collect())
}

/// The first query of each label, as long as there are new ones; then the first of the others.
fn shown(queries: &Dataset) -> Vec<usize> {
    let mut seen = vec![false; queries.classes];
    let (mut chosen, rest): (Vec<_>, Vec<_>) =
        (0..queries.n).partition(|&query| !std::mem::replace(&mut seen[queries.labels[query]], true));
    chosen.extend(rest);
    chosen.truncate(SHOWN);
    chosen.sort_unstable();
    chosen
}
