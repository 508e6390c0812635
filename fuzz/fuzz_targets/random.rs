//! Draws from any weights and sizes.
#![no_main]

use arbitrary::Arbitrary;
use ascribe_core::random::{Stream, categorical};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input {
    seed: u64,
    name: String,
    weights: Vec<f64>,
    uniform: f64,
    sample: u16,
    population: usize,
}

fuzz_target!(|input: Input| {
    let Input { seed, name, weights, uniform, sample, population } = input;
    let stream = Stream::new(seed, &name);
    for uniform in [uniform, stream.uniform(0, 0)] {
        if let Ok(class) = categorical(&weights, uniform) {
            assert!(weights[class] > 0.0, "a category of weight {} was drawn", weights[class]);
        }
    }
    for population in [population, population % 1000] {
        let mut indices = vec![usize::MAX; usize::from(sample % 1000)];
        let drawn = stream.draws().sample_without_replacement(&mut indices, population);
        assert_eq!(drawn.is_ok(), indices.len() <= population);
        if drawn.is_ok() {
            indices.sort_unstable();
            indices.dedup();
            assert_eq!(indices.len(), usize::from(sample % 1000), "an index was drawn twice");
            assert!(indices.last().is_none_or(|last| *last < population));
        }
    }
});
