//! Ghost products, norms, low-rank scores, the diagonal Fisher and the damping rules, of any shapes and any floats: a
//! typed error, or numbers that masked positions cannot change.
#![no_main]

use std::ops::Range;

use arbitrary::Arbitrary;
use ascribe_core::ghost::{Route, pooled};
use ascribe_core::record::LayerRecord;
use ascribe_core::{MatMut, MatRef};
use ascribe_solvers::attribution::{LowRankQuery, ghost_dots, ghost_squared_norms};
use ascribe_solvers::curvature::{DampingIndicator, DampingSelection, DiagonalFisher, Spectrum};
use ascribe_solvers::parallel::Parallelism::Serial;
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input {
    inputs: Vec<f32>,
    grads: Vec<f32>,
    mask: Option<Vec<bool>>,
    examples: [u8; 2],
    rows: u8,
    split: u8,
    bias: [bool; 2],
    beta: f32,
    options: (usize, f64),
    numbers: Vec<f64>,
    damping: f64,
    target: f64,
}

/// The rows of both blocks as a record, when their number fits.
fn record<'a>(
    [inputs, grads]: [MatRef<'a, f32>; 2],
    mask: Option<&'a [bool]>,
    rows: Range<usize>,
    examples: u8,
    bias: bool,
) -> Option<LayerRecord<'a, f32>> {
    let part = |block: MatRef<'a, f32>| block.row_range(rows.start, rows.len()).ok();
    let mask = mask.and_then(|mask| mask.get(rows.clone()));
    LayerRecord::new(usize::from(examples % 13), part(inputs)?, part(grads)?, mask, bias).ok()
}

/// All that is computed from two records, as bits with one NaN.
fn results(input: &Input, train: &LayerRecord<'_, f32>, query: &LayerRecord<'_, f32>) -> Vec<u32> {
    let (n, m) = (train.examples(), query.examples());
    let fits = [train.d_in(), train.d_out(), train.weight_cols()] == [query.d_in(), query.d_out(), query.weight_cols()];
    let mut all = Vec::new();
    for route in [Route::Form, Route::Ghost] {
        let (mut out, mut scratch) = (vec![1.0; n * m], vec![f32::NAN; route.scratch_len(train, query)]);
        let Ok(block) = MatMut::new(&mut out, n, m) else { panic!("the shape fits") };
        assert_eq!(route.dots(block, input.beta, train, query, &mut scratch).is_ok(), fits);
        assert!(fits || out.iter().all(|x| *x == 1.0));
        all.append(&mut out);
        out.resize(n * m, 1.0);
        let Ok(block) = MatMut::new(&mut out, n, m) else { panic!("the shape fits") };
        assert_eq!(ghost_dots(block, input.beta, train, query, Some(route), Serial).is_ok(), fits);
        all.append(&mut out);
        out.resize(n, 1.0);
        assert!(ghost_squared_norms(&mut out, input.beta, train, Some(route), Serial).is_ok());
        all.append(&mut out);
    }
    assert!(pooled(query).is_ok_and(|sum| sum.examples() == 1 && sum.dim() == query.dim()));

    let Ok(mut fisher) = DiagonalFisher::new(train.dim(), Serial) else { panic!("few parameters") };
    if fisher.add_record(train).is_ok() {
        all.extend(fisher.diagonal::<f32>().unwrap_or_default());
    }
    let mut gradients = vec![f32::NAN; m * query.dim()];
    let Ok(block) = MatMut::new(&mut gradients, m, query.dim()) else { panic!("the shape fits") };
    assert!(query.gradients(block).is_ok());
    let Ok(gradients) = MatRef::new(&gradients, m, query.dim()) else { panic!("the shape fits") };
    let options = LowRankQuery { max_rank: input.options.0, energy: input.options.1, parallelism: Serial };
    if let Ok(queries) = options.prepare(gradients, [query.d_out(), query.weight_cols()]) {
        let mut out = vec![1.0; n * m];
        let Ok(block) = MatMut::new(&mut out, n, m) else { panic!("the shape fits") };
        let scored = queries.scores(block, input.beta, train, Serial).is_ok();
        assert_eq!(scored, [train.d_out(), train.weight_cols()] == [query.d_out(), query.weight_cols()]);
        all.append(&mut out);
    }
    all.iter().map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }).collect()
}

fuzz_target!(|input: Input| {
    let rows = usize::from(input.rows % 12);
    let split = usize::from(input.split) % (rows + 1);
    let width = |data: &[f32]| data.len().checked_div(rows).unwrap_or(0).min(6);
    let mask = input.mask.as_deref().filter(|mask| mask.len() >= rows);
    let compute = |rubbish: Option<f32>| {
        let [(inputs, d_in), (grads, d_out)] = [&input.inputs, &input.grads].map(|data| {
            let width = width(data);
            let mut data = data[..rows * width].to_vec();
            if let (Some(rubbish), Some(mask)) = (rubbish, mask) {
                for row in (0..rows).filter(|row| !mask[*row]) {
                    data[row * width..(row + 1) * width].fill(rubbish);
                }
            }
            (data, width)
        });
        let (Ok(x), Ok(delta)) = (MatRef::new(&inputs, rows, d_in), MatRef::new(&grads, rows, d_out)) else {
            panic!("the shapes fit");
        };
        let train = record([x, delta], mask, 0..split, input.examples[0], input.bias[0])?;
        let query = record([x, delta], mask, split..rows, input.examples[1], input.bias[1])?;
        Some(results(&input, &train, &query))
    };
    assert_eq!(compute(None), compute(Some(f32::NAN)));

    let numbers = &input.numbers[..input.numbers.len().min(64)];
    if let Ok(spectrum) = Spectrum::new(numbers) {
        let damping = spectrum.damping_for_effective_dimension(input.target);
        assert!(!matches!(damping, Ok(Some(damping)) if !(damping >= 0.0 && damping.is_finite())));
        assert_eq!(spectrum.report(input.damping).is_ok(), input.damping >= 0.0 && input.damping.is_finite());
    }
    let (values, projections) = numbers.split_at(numbers.len() / 2);
    let Ok(projections) = MatRef::with_stride(projections, 1, values.len(), values.len()) else { return };
    let from_gradients = DampingIndicator::from_gradients(projections, projections, Serial);
    let from_eigenform = DampingIndicator::new(values, projections, Serial);
    for indicator in [from_gradients, from_eigenform].into_iter().flatten() {
        if let Ok(xi) = indicator.xi(input.damping) {
            assert!(xi.iter().all(|xi| (0.0..=1.0).contains(xi)));
        }
        match indicator.select(input.target) {
            Ok(DampingSelection::Reached { damping }) => assert!(damping >= 0.0 && damping.is_finite()),
            Ok(DampingSelection::NotBracketed { lowest_xi, .. }) => assert!(lowest_xi > input.target),
            Err(_) => assert!(!(input.target > 0.0 && input.target < 1.0)),
        }
    }
});
