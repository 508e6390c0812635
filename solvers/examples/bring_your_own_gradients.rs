//! Attribution for a foreign training stack: plain slices in, scores and the strongest examples out.
//!
//! Any stack can hand over, layer by layer, the inputs and the gradients at the outputs of every example; here they
//! are four examples of two positions (tokens), made up by hand. Whole per-example gradients work as well: they are
//! the `train` and `query` matrices below.

use ascribe_core::rank::{Direction, top_k};
use ascribe_core::{MatMut, MatRef, record::LayerRecord, score::scores};
use ascribe_solvers::inverse::{Solve, Woodbury};
use ascribe_solvers::parallel::Parallelism;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // [examples, positions, 3] inputs and [examples, positions, 2] output gradients of one linear layer with bias.
    let inputs: Vec<f32> = (0..4 * 2 * 3).map(|i| (i as f32 * 0.7).sin()).collect();
    let output_grads: Vec<f32> = (0..4 * 2 * 2).map(|i| (i as f32 * 1.3).cos()).collect();
    let mask = [true, true, true, false, true, true, true, false]; // padding counts for nothing, whatever it holds

    let (inputs, output_grads) = (MatRef::new(&inputs, 4 * 2, 3)?, MatRef::new(&output_grads, 4 * 2, 2)?);
    let record = LayerRecord::new(4, inputs, output_grads, Some(&mask), true)?;
    let mut gradients = vec![0.0; 4 * record.dim()];
    record.gradients(MatMut::new(&mut gradients, 4, record.dim())?)?;
    let all = MatRef::new(&gradients, 4, record.dim())?;
    let (train, query) = (all.row_range(0, 3)?, all.row_range(3, 1)?); // the last example is the query

    // Influence: the query against the inverse of the damped empirical Fisher of the training gradients.
    let inverse = Woodbury::from_rows(train, 1.0 / 3.0, 0.1, Parallelism::Serial)?;
    let mut solved = vec![0.0; record.dim()];
    inverse.solve(MatMut::from_row(&mut solved), query)?;
    let mut influence = vec![0.0; 3];
    scores(MatMut::new(&mut influence, 3, 1)?, train, MatRef::from_row(&solved))?;

    for best in &top_k(MatRef::new(&influence, 3, 1)?, 2, Direction::Largest)?[0] {
        println!("training example {} has influence {:+.4}", best.index, best.score);
    }
    Ok(())
}
