//! `score.*`: what is selected from score matrices.

use ascribe_core::Real;
use ascribe_core::rank::{Direction, top_k};

use super::case::{Inputs, Outputs};
use super::{Op, gpu};
use crate::Failure;
use crate::failure::fail;

/// The operations of this folder.
pub const OPS: &[Op] = &[Op::new("score.topk", topk::<f64>, topk::<f32>).recorded(gpu::topk)];

fn topk<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    // The stored type; converting it to a wider one keeps the order.
    inputs.choice("dtype", &[("f64", ()), ("f32", ())])?;
    let (scores, k) = (inputs.floats::<T>("scores")?, inputs.count("k")?);
    let [examples, queries] = scores.dims()?;
    if k > examples {
        return fail(format!("k = {k} of {examples} examples"));
    }
    let mut outputs = Outputs::new();
    let mut values = Vec::new();
    for (name, direction) in [("largest", Direction::Largest), ("smallest", Direction::Smallest)] {
        let best = top_k(scores.matrix()?, k, direction)?.concat();
        outputs = outputs.integers(name, &[queries, k], best.iter().map(|ranked| ranked.index as i64));
        values.push((format!("{name}_values"), best.iter().map(|ranked| ranked.score).collect::<Vec<_>>()));
    }
    // The format has no NaN or infinity among expected values. "Present when all of them are finite" leaves open of how
    // many a list is left out by: its own, those of both lists, or all scores.
    let plain = scores.data.iter().all(|score| score.is_finite());
    for (name, scores) in values.into_iter().filter(|(_, scores)| scores.iter().all(|score| score.is_finite())) {
        outputs = outputs.floats(&name, &[queries, k], &scores);
        outputs = if plain { outputs } else { outputs.optional() };
    }
    Ok(outputs)
}
