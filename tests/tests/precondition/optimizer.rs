//! Laws that all optimizers share: errors change nothing, files resume bit for bit, threads change no bit.

use ascribe_core::Error as CoreError;
use ascribe_core::random::Stream;
use ascribe_solvers::Error;
use ascribe_solvers::parallel::Parallelism::{self, Serial};
use ascribe_solvers::precondition::{
    AdamW, BasisUpdate, Blocking, CoupledNewton, Decay, Grafting, KroneckerDescent, KroneckerSpectral, Layout,
    Optimizer, RefinedEigenbasis, RootEngine, ScheduleFreeAdamW, Shampoo, Soap, Storage,
};
use ascribe_tests::oracle;
use proptest::prelude::*;

/// Matrices, rows and columns of one, a vector, a number, a tensor, and layers without elements.
const LAYERS: &[(&str, &[usize])] = &[
    ("matrix", &[5, 3]),
    ("row", &[1, 4]),
    ("none", &[0, 3]),
    ("column", &[3, 1]),
    ("vector", &[7]),
    ("naïve \"number\"", &[]),
    ("tensor", &[2, 3, 2]),
];

fn layout() -> Layout {
    Layout::new(LAYERS).unwrap()
}

/// Every optimizer, Shampoo with each kind of root, grafting and decay, Kronecker products with each kind of basis.
fn optimizers(par: Parallelism) -> Vec<Box<dyn Optimizer<f64>>> {
    let layout = layout();
    let shampoo = Shampoo { beta2: 0.9, epsilon: 1e-6, frequency: 2, ..Shampoo::default() };
    let blocks = Blocking { max_dim: 4, merge: false };
    let variants = [
        Shampoo { start_step: Some(1), ..shampoo.clone() },
        Shampoo {
            grafting: Grafting::Adam { beta2: 0.9, epsilon: 1e-8 },
            momentum: 0.5,
            nesterov: true,
            weight_decay: 0.1,
            blocking: blocks,
            ..shampoo.clone()
        },
        Shampoo { grafting: Grafting::Sgd, engine: RootEngine::PseudoInverse { rtol: 1e-9 }, ..shampoo.clone() },
        Shampoo {
            beta2: 1.0,
            grafting: Grafting::AdaGrad { epsilon: 1e-8 },
            engine: RootEngine::Refined(RefinedEigenbasis::default()),
            weight_decay: 0.1,
            decay: Decay::L2,
            ..shampoo.clone()
        },
        Shampoo {
            grafting: Grafting::RmsProp { beta2: 0.9, epsilon: 1e-8 },
            epsilon: 1e-2,
            engine: RootEngine::Coupled { newton: CoupledNewton::default(), relative_epsilon: 1e-6 },
            blocking: blocks,
            beta1: 0.0,
            ..shampoo
        },
    ];
    let mut all: Vec<Box<dyn Optimizer<f64>>> = vec![
        Box::new(AdamW::default().start(&layout, par).unwrap()),
        Box::new(ScheduleFreeAdamW::default().start(&layout, par).unwrap()),
        Box::new(ScheduleFreeAdamW { beta1: 0.0, ..ScheduleFreeAdamW::default() }.start(&layout, par).unwrap()),
        Box::new(Soap { frequency: 2, ..Soap::default() }.start(&layout, par).unwrap()),
        Box::new(
            Soap { frequency: 1, max_dim: 3, rotate_vectors: true, ..Soap::default() }.start(&layout, par).unwrap(),
        ),
    ];
    for options in variants {
        all.push(Box::new(options.start(&layout, par).unwrap()));
    }
    let product = KroneckerSpectral { beta2: 0.1, basis_every: 2, ..KroneckerSpectral::default() };
    for preconditioner in [
        product,
        KroneckerSpectral { storage: Storage::Bf16, polish_every: 1, ..product },
        KroneckerSpectral { basis: BasisUpdate::Eigen, ..product },
        KroneckerSpectral::kl_shampoo(),
    ] {
        let options = KroneckerDescent { preconditioner, weight_decay: 0.1, ..KroneckerDescent::default() };
        all.push(Box::new(options.start(&layout, par).unwrap()));
    }
    all
}

fn numbers(seed: u64, name: &str) -> Vec<f64> {
    oracle::uniform(Stream::new(seed, name), layout().len())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn a_resumed_run_goes_on_bit_for_bit(seed in any::<u64>(), before in 0..5_u64) {
        let pairs = optimizers(Serial).into_iter().zip(optimizers(Parallelism::threads(2)));
        for (index, (mut whole, mut resumed)) in pairs.enumerate() {
            let mut w = numbers(seed, "w");
            for step in 0..before {
                whole.step(&mut w, &numbers(seed ^ step, "g")).unwrap();
            }
            let bytes = whole.to_bytes().unwrap();
            resumed.load(&bytes).unwrap();
            prop_assert_eq!(resumed.to_bytes().unwrap(), bytes, "optimizer {}", index);
            prop_assert_eq!(resumed.steps(), before);
            let mut again = w.clone();
            for step in before..before + 5 {
                let g = numbers(seed ^ step, "g");
                whole.step(&mut w, &g).unwrap();
                resumed.step(&mut again, &g).unwrap();
                prop_assert_eq!(&w, &again, "optimizer {}", index);
            }
            prop_assert_eq!(whole.to_bytes().unwrap(), resumed.to_bytes().unwrap());
        }
    }
}

#[test]
fn an_error_changes_neither_parameters_nor_state() {
    let mut diverged = 0;
    for (index, mut optimizer) in optimizers(Serial).into_iter().enumerate() {
        let mut w = numbers(1, "w");
        for step in 0..3 {
            optimizer.step(&mut w, &numbers(step, "g")).unwrap();
        }
        let (before, bytes) = (w.clone(), optimizer.to_bytes().unwrap());
        let n = w.len();
        let mut refused = |w: &mut [f64], g: &[f64]| {
            let start = w.to_vec();
            let error = optimizer.step(w, g).unwrap_err();
            assert!(w.iter().zip(&start).all(|(a, b)| a.to_bits() == b.to_bits()));
            assert_eq!(optimizer.to_bytes().unwrap(), bytes, "optimizer {index}");
            error
        };
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut g = numbers(9, "g");
            g[n - 1] = bad;
            let error = refused(&mut w, &g);
            assert_eq!(error, Error::Core(CoreError::NonFinite { what: "gradients", index: n - 1 }));
            let mut poisoned = before.clone();
            poisoned[0] = bad;
            let error = refused(&mut poisoned, &numbers(9, "g"));
            assert_eq!(error, Error::Core(CoreError::NonFinite { what: "parameters", index: 0 }));
        }
        assert!(matches!(refused(&mut w, &numbers(9, "g")[1..]), Error::Core(CoreError::Shape { .. })));
        assert!(matches!(refused(&mut w[1..], &numbers(9, "g")), Error::Core(CoreError::Shape { .. })));
        // Squares that no number holds.
        assert_eq!(refused(&mut w, &vec![1e200; n]), Error::Diverged { step: 4 }, "optimizer {index}");
        // A step that is nearly too large, or is: Adam's are as long as the learning rate, others longer.
        let rate = optimizer.learning_rate();
        optimizer.set_learning_rate(1e308).unwrap();
        match optimizer.step(&mut w, &vec![1e10; n]) {
            Ok(()) => assert!(w.iter().all(|w| w.is_finite()), "optimizer {index}"),
            Err(error) => {
                diverged += 1;
                assert_eq!(error, Error::Diverged { step: 4 });
                assert_eq!((&w, optimizer.to_bytes().unwrap()), (&before, bytes.clone()));
            }
        }
        w.copy_from_slice(&before);
        optimizer.load(&bytes).unwrap();
        for bad in [-1.0, f64::NAN] {
            let error = optimizer.set_learning_rate(bad).unwrap_err();
            assert!(matches!(error, Error::Core(CoreError::Parameter { .. })));
        }
        optimizer.set_learning_rate(rate).unwrap();
        optimizer.step(&mut w, &numbers(9, "g")).unwrap();
        assert!(w.iter().all(|w| w.is_finite()) && w != before);
    }
    assert!(diverged > 0);
}

#[test]
fn zero_gradients_leave_finite_numbers() {
    for (index, mut optimizer) in optimizers(Serial).into_iter().enumerate() {
        let mut w = numbers(1, "w");
        for step in 0..6 {
            let g = if step == 3 { numbers(step, "g") } else { vec![0.0; w.len()] };
            optimizer.step(&mut w, &g).unwrap();
            assert!(w.iter().all(|w| w.is_finite()), "optimizer {index}");
        }
    }
}

#[test]
fn a_learning_rate_of_zero_moves_nothing() {
    for (index, mut optimizer) in optimizers(Serial).into_iter().enumerate() {
        let (mut w, start) = (numbers(1, "w"), numbers(1, "w"));
        optimizer.set_learning_rate(0.0).unwrap();
        for step in 0..4 {
            optimizer.step(&mut w, &numbers(step, "g")).unwrap();
        }
        assert_eq!(w, start, "optimizer {index}");
    }
}

#[test]
fn what_is_no_state_is_refused_with_the_reason() {
    let reason = |error: Error| match error {
        Error::Archive { why } => why,
        other => panic!("another error: {other}"),
    };
    let mut files = Vec::new();
    for mut optimizer in optimizers(Serial) {
        let mut w = numbers(1, "w");
        (0..2).for_each(|step| optimizer.step(&mut w, &numbers(step, "g")).unwrap());
        files.push(optimizer.to_bytes().unwrap());
    }
    let mut optimizer = AdamW::default().start::<f64>(&layout(), Serial).unwrap();
    let untouched = optimizer.to_bytes().unwrap();
    for len in (0..files[0].len()).step_by(7) {
        assert!(optimizer.load(&files[0][..len]).is_err(), "cut off at {len}");
    }
    assert_eq!(reason(optimizer.load(&files[1]).unwrap_err()), "a state of another kind");
    let mut single = AdamW::default().start::<f32>(&layout(), Serial).unwrap();
    assert_eq!(reason(single.load(&files[0]).unwrap_err()), "another precision");
    let other = Layout::new(&LAYERS[..6]).unwrap();
    let mut other = AdamW::default().start::<f64>(&other, Serial).unwrap();
    assert_eq!(reason(other.load(&files[0]).unwrap_err()), "the layers are others");
    let mut blocks = Shampoo { blocking: Blocking { max_dim: 2, merge: false }, ..Shampoo::default() }
        .start::<f64>(&layout(), Serial)
        .unwrap();
    let why = reason(blocks.load(&files[5]).unwrap_err());
    assert_eq!(why, "a tensor has another shape or precision than its field");
    // The last tensor of the file is that of the second moments: `v` comes last by name among equal types.
    let mut negative = files[0].clone();
    let last = negative.len() - 8;
    negative[last..].copy_from_slice(&(-1.0_f64).to_le_bytes());
    assert_eq!(reason(optimizer.load(&negative).unwrap_err()), "a mean of squares is negative");
    negative[last..].copy_from_slice(&f64::NAN.to_le_bytes());
    assert!(matches!(optimizer.load(&negative).unwrap_err(), Error::Core(CoreError::NonFinite { .. })));
    // A state that is all but too large is taken, and the step from it refused.
    negative[last..].copy_from_slice(&f64::MAX.to_le_bytes());
    assert_eq!(optimizer.to_bytes().unwrap(), untouched);
    optimizer.load(&negative).unwrap();
    let mut w = numbers(1, "w");
    match optimizer.step(&mut w, &numbers(2, "g")) {
        Ok(()) => assert!(w.iter().all(|w| w.is_finite())),
        Err(error) => assert!(matches!(error, Error::Diverged { .. }) && w == numbers(1, "w")),
    }
}

#[test]
fn layers_have_names_of_their_own_and_sizes_that_fit() {
    let twice = Layout::new(&[("a", &[1]), ("b", &[1]), ("a", &[2])]).unwrap_err();
    assert_eq!(twice, Error::Core(CoreError::Duplicate { what: "layer names", index: 2 }));
    for shapes in [&[("a", &[usize::MAX, 2][..])][..], &[("a", &[usize::MAX]), ("b", &[1])]] {
        assert!(matches!(Layout::new(shapes).unwrap_err(), Error::Core(CoreError::Overflow { .. })));
    }
    let empty = Layout::new(&[]).unwrap();
    assert!(empty.is_empty());
    for mut optimizer in [
        Box::new(AdamW::default().start::<f32>(&empty, Serial).unwrap()) as Box<dyn Optimizer<f32>>,
        Box::new(ScheduleFreeAdamW::default().start(&empty, Serial).unwrap()),
        Box::new(Shampoo::default().start(&empty, Serial).unwrap()),
        Box::new(Soap::default().start(&empty, Serial).unwrap()),
        Box::new(KroneckerDescent::default().start(&empty, Serial).unwrap()),
    ] {
        optimizer.step(&mut [], &[]).unwrap();
        assert_eq!(optimizer.steps(), 1);
    }
    // More than any memory: an error, no abort.
    let huge = Layout::new(&[("huge", &[usize::MAX / 16, 2])]).unwrap();
    assert!(matches!(
        AdamW::default().start::<f64>(&huge, Serial).unwrap_err(),
        Error::Core(CoreError::Overflow { .. })
    ));
    assert!(matches!(
        Soap::default().start::<f64>(&huge, Serial).unwrap_err(),
        Error::Core(CoreError::Overflow { .. })
    ));
    assert!(matches!(
        Shampoo::default().start::<f64>(&huge, Serial).unwrap_err(),
        Error::Core(CoreError::Overflow { .. })
    ));
    assert!(matches!(
        KroneckerDescent::default().start::<f64>(&huge, Serial).unwrap_err(),
        Error::Core(CoreError::Overflow { .. })
    ));
}

/// The axes of a layer without elements have any product.
#[test]
fn layers_without_elements_have_no_state() {
    let layout = Layout::new(&[("none", &[0, usize::MAX, usize::MAX]), ("some", &[2])]).unwrap();
    assert_eq!(Blocking { max_dim: 4, merge: false }.blocks(&layout).unwrap().len(), 1);
    let (mut params, gradients) = ([1.0, 2.0], [0.5, -0.5]);
    Soap::default().start::<f64>(&layout, Serial).unwrap().step(&mut params, &gradients).unwrap();
    Shampoo::default().start::<f64>(&layout, Serial).unwrap().step(&mut params, &gradients).unwrap();
    KroneckerDescent::default().start::<f64>(&layout, Serial).unwrap().step(&mut params, &gradients).unwrap();
}
