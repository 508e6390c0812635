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

#[cfg(test)]
mod tests {
    use super::*;

    fn images(labels: &[usize]) -> Dataset {
        let n = labels.len();
        Dataset { features: vec![0.0; n], labels: labels.to_vec(), n, p: 1, classes: 10, side: 1 }
    }

    #[test]
    fn six_labels_first_then_the_first_of_the_rest() {
        assert_eq!(shown(&images(&[3, 3, 1, 3, 0, 1, 5, 6, 7, 8])), [0, 2, 4, 6, 7, 8]);
        assert_eq!(shown(&images(&[3, 3, 1, 1, 1, 3, 1, 1])), [0, 1, 2, 3, 4, 5]);
        assert_eq!(shown(&images(&[1, 1, 1, 1, 1, 1, 1, 2])), [0, 1, 2, 3, 4, 7]);
        assert_eq!(shown(&images(&[2])), [0]);
    }

    #[test]
    fn the_strongest_on_each_side_come_first() {
        // Query 0 likes later examples, query 1 earlier ones.
        let scores: Vec<f64> = (0..7).flat_map(|i| [f64::from(i) - 3.0, 3.0 - f64::from(i)]).collect();
        let figures = figures(&scores, &images(&[0, 1, 2, 3, 4, 5, 6]), &images(&[8, 9])).unwrap();
        let indices = |neighbours: &[Neighbour]| neighbours.iter().map(|n| n.index).collect::<Vec<_>>();
        assert_eq!(indices(&figures[0].proponents), [6, 5, 4, 3, 2]);
        assert_eq!(indices(&figures[0].opponents), [0, 1, 2, 3, 4]);
        assert_eq!(indices(&figures[1].proponents), [0, 1, 2, 3, 4]);
        assert_eq!((figures[1].label, &figures[1].opponents[0]), (9, &Neighbour { index: 6, label: 6, score: -3.0 }));
    }
}
