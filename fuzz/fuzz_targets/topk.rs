//! The k best of any floats, in any blocks, against a full sort by the ranking rule.
#![no_main]

use arbitrary::Arbitrary;
use ascribe_core::MatRef;
use ascribe_core::rank::{Direction, Ranked, TopK, TopKPerQuery, top_k};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input {
    scores: Vec<f32>,
    queries: u8,
    k: u16,
    largest: bool,
    cut: u16,
    first: usize,
}

fuzz_target!(|input: Input| {
    let Input { mut scores, queries, k, largest, cut, first } = input;
    let (queries, k) = (usize::from(queries % 20), usize::from(k));
    let direction = if largest { Direction::Largest } else { Direction::Smallest };
    let examples = scores.len().checked_div(queries).unwrap_or(0);
    scores.truncate(examples * queries);
    let Ok(matrix) = MatRef::new(&scores, examples, queries) else { panic!("the shape fits") };

    let selection = || TopKPerQuery::new(queries, k, direction);
    let (Ok(best), Ok(mut blocks), Ok(mut other)) = (top_k(matrix, k, direction), selection(), selection()) else {
        panic!("a small selection needs no memory to speak of");
    };
    let cut = usize::from(cut).min(examples);
    let [Ok(top), Ok(bottom)] = [(0, cut), (cut, examples - cut)].map(|(at, rows)| matrix.row_range(at, rows)) else {
        panic!("the ranges are inside");
    };
    assert!(other.push_block(cut, bottom).is_ok() && blocks.push_block(0, top).is_ok() && blocks.merge(&other).is_ok());
    let blocks = blocks.finish();

    assert_eq!((best.len(), blocks.len()), (queries, queries));
    let mut buffer = vec![Ranked::default(); k];
    for query in 0..queries {
        let column = || (0..examples).map(|index| Ranked { score: scores[index * queries + query], index });
        let mut sorted: Vec<_> = column().collect();
        sorted.sort_by(|a, b| direction.compare(a, b));
        sorted.truncate(k);
        let mut stream = TopK::new(&mut buffer, direction);
        column().for_each(|entry| stream.push(entry.index, entry.score));
        for found in [best[query].as_slice(), &blocks[query], stream.finish()] {
            // Bits, because a NaN does not equal itself.
            let key = |entry: &Ranked<f32>| (entry.index, entry.score.to_bits());
            assert!(found.iter().map(key).eq(sorted.iter().map(key)));
        }
    }

    // Any first index, the largest possible ones in particular: an error or a selection, never an overflow.
    for first in [first, usize::MAX - examples, usize::MAX - scores.len()] {
        let Ok(mut selection) = selection() else { continue };
        assert_eq!(selection.push_block(first, matrix).is_ok(), first.checked_add(examples).is_some());
        let mut stream = TopK::new(&mut buffer, direction);
        assert_eq!(stream.push_slice(first, &scores).is_ok(), first.checked_add(scores.len()).is_some());
    }
});
