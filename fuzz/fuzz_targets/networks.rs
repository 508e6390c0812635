//! Networks of any widths, labels and floats: a typed error, or products of the right shape that no thread changes.
#![no_main]

use arbitrary::Arbitrary;
use ascribe_core::derivative::Reduction;
use ascribe_core::linop::{Adjoint, check_apply};
use ascribe_core::random::Stream;
use ascribe_core::{ExampleLinOp, LinOp, MatMut, MatRef};
use ascribe_solvers::network::{Activation, Linearized, Loss, Mlp, Targets};
use ascribe_solvers::parallel::Parallelism;
use ascribe_solvers::train::{Length, Newton, Sgd};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input {
    widths: Vec<usize>,
    small: bool,
    biases: Vec<bool>,
    activation: u8,
    loss: u8,
    classes: bool,
    labels: Vec<usize>,
    numbers: Vec<f32>,
    indices: Vec<usize>,
    samples: u8,
    rate: f64,
}

const LOSSES: [Loss; 4] = [Loss::CrossEntropy, Loss::HalfMse, Loss::SumMse, Loss::Bce];

/// One product on all examples and one on some, the second untouched when it is refused.
fn products<A: ExampleLinOp<f32>>(op: &A, v: MatRef<'_, f32>, indices: &[usize]) -> Vec<f32> {
    let mut all = vec![0.0; v.rows() * op.dim_out()];
    let Ok(out) = MatMut::new(&mut all, v.rows(), op.dim_out()) else { panic!("the shape fits") };
    assert!(check_apply(op.dim_in(), op.dim_out(), &out, &v).is_ok());
    assert!(op.apply(out, v, &mut []).is_ok());
    let mut some = vec![1234.5; all.len()];
    let Ok(out) = MatMut::new(&mut some, v.rows(), op.dim_out()) else { panic!("the shape fits") };
    let right = !indices.is_empty() && indices.iter().all(|&index| index < op.examples());
    assert_eq!(op.apply_examples(out, v, indices, &mut []).is_ok(), right);
    assert!(right || some.iter().all(|x| *x == 1234.5), "an error, and the output was written");
    all
}

fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()))
}

fuzz_target!(|input: Input| {
    let Input { mut widths, small, biases, activation, loss, classes, mut labels, numbers, mut indices, samples, rate } =
        input;
    widths.truncate(4);
    let (_, activation) = Activation::NAMES[usize::from(activation) % Activation::NAMES.len()];
    let loss = LOSSES[usize::from(loss) % LOSSES.len()];
    // Widths as they come only make a network; its parameters would not fit into memory.
    let _ = Mlp::with_biases(&widths, &biases, activation, loss);
    widths.iter_mut().for_each(|width| *width %= 5);
    let Ok(net) = Mlp::with_biases(&widths, &biases, activation, loss) else { return };
    labels.truncate(140);
    if small {
        labels.iter_mut().for_each(|label| *label %= net.outputs());
        indices.iter_mut().for_each(|index| *index %= labels.len().max(1));
    }
    let examples = labels.len();
    let mut number = numbers.iter().copied().cycle();
    let mut take = |len: usize| -> Vec<f32> { (0..len).map(|_| number.next().unwrap_or(0.5)).collect() };
    let (mut params, inputs) = (take(net.params()), take(examples * net.inputs()));
    let (values, v) = (take(examples * net.outputs()), take(3 * net.params()));
    let Ok(inputs) = MatRef::new(&inputs, examples, net.inputs()) else { panic!("the shape fits") };
    let Ok(values) = MatRef::new(&values, examples, net.outputs()) else { panic!("the shape fits") };
    let Ok(v) = MatRef::new(&v, 3, net.params()) else { panic!("the shape fits") };
    let targets = if classes { Targets::Classes(&labels) } else { Targets::Values(values) };

    let results = |threads: usize| -> Option<Vec<Vec<f32>>> {
        let par = Parallelism::threads(threads);
        let lin = Linearized::new(&net, &params, inputs, targets, Reduction::Mean, par).ok()?;
        let mut gradients = vec![0.0; examples * net.params()];
        let Ok(out) = MatMut::new(&mut gradients, examples, net.params()) else { panic!("the shape fits") };
        assert!(lin.per_example_gradients(out).is_ok());
        let mut dots = vec![0.0; examples * 3];
        let Ok(out) = MatMut::new(&mut dots, examples, 3) else { panic!("the shape fits") };
        assert!(lin.gradient_dots(out, v).is_ok());
        let mut found = vec![gradients, dots, vec![lin.loss()], lin.gradient().ok()?];
        found.push(products(&lin.hessian(), v, &indices));
        found.push(products(&lin.gauss_newton(), v, &indices));
        found.push(products(&lin.empirical_fisher(), v, &indices));
        let sampled = lin.sampled_fisher(usize::from(samples % 4), Stream::new(0, "fuzz"));
        assert_eq!(sampled.is_ok(), samples % 4 > 0);
        found.extend(sampled.map(|op| products(&op, v, &indices)));
        let factor = lin.gauss_newton_factor().ok()?;
        found.push(factor.gram().ok()?);
        let mut back = vec![0.0; net.params()];
        let ones = vec![1.0; factor.dim_out()];
        let mut scratch = vec![0.0; factor.transpose_scratch_len(1)];
        let out = MatMut::from_row(&mut back);
        assert!(factor.apply_transpose(out, MatRef::from_row(&ones), &mut scratch).is_ok());
        found.push(back);
        Some(found)
    };
    let serial = results(1);
    let parallel = results(3);
    assert_eq!(serial.is_some(), parallel.is_some());
    for (a, b) in serial.iter().flatten().zip(parallel.iter().flatten()) {
        assert!(same(a, b), "threads changed a result");
    }

    let sgd = Sgd { learning_rate: rate, batch: usize::from(samples), length: Length::Steps(3), ..Sgd::default() };
    let _ = sgd.train(&net, &mut params.clone(), inputs, targets, |_, _| ());
    let newton = Newton { weight_decay: rate, max_iterations: 2, ..Newton::default() };
    if let Ok(report) = newton.train(&net, &mut params, inputs, targets, Reduction::Sum) {
        assert!(params.iter().all(|x| x.is_finite()), "{report:?}");
    }
});
