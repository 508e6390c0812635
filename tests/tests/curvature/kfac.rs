//! Laws of K-FAC and EKFAC of networks, embeddings and normalisation layers.

use ascribe_core::derivative::Reduction;
use ascribe_core::linop::{apply_alloc, to_dense};
use ascribe_core::random::Stream;
use ascribe_core::record::LayerRecord;
use ascribe_core::{Error as CoreError, MatMut, MatRef};
use ascribe_solvers::Error;
use ascribe_solvers::curvature::{
    Basis, Blocks, Damping, EigenBlock, Ekfac, EmbeddingCorrection, EmbeddingCovariance, EmbeddingRecord, Empirical,
    Kfac, Sampled, Type2, norm_gradients,
};
use ascribe_solvers::inverse::{Cg, Solve};
use ascribe_solvers::network::{Activation, Linearized, Loss, Mlp, Targets};
use ascribe_solvers::parallel::Parallelism::{self, Serial};
use ascribe_tests::oracle::{self, minus, norm};
use ascribe_tests::tolerance;
use ascribe_tests::with_eight_threads;
use proptest::prelude::*;

#[derive(Debug, Clone)]
struct Problem {
    net: Mlp,
    theta: Vec<f64>,
    x: Vec<f64>,
    y: Vec<f64>,
    labels: Vec<usize>,
}

impl Problem {
    fn new(net: Mlp, examples: usize, seed: u64) -> Self {
        let stream = Stream::new(seed, "kfac");
        let theta = oracle::uniform(stream.child(0), net.params());
        let x = oracle::uniform(stream.child(1), examples * net.inputs());
        let y =
            oracle::uniform::<f64>(stream.child(2), examples * net.outputs()).iter().map(|y| 0.5 + 0.5 * y).collect();
        let mut draws = stream.child(3).draws();
        let labels = (0..examples).map(|_| draws.next_index(net.outputs())).collect();
        Self { net, theta, x, y, labels }
    }

    fn linearized(&self, reduction: Reduction, par: Parallelism) -> Linearized<'_, f64> {
        let n = self.labels.len();
        let targets = match self.net.loss() {
            Loss::CrossEntropy => Targets::Classes(&self.labels),
            _ => Targets::Values(MatRef::new(&self.y, n, self.net.outputs()).unwrap()),
        };
        let x = MatRef::new(&self.x, n, self.net.inputs()).unwrap();
        Linearized::new(&self.net, &self.theta, x, targets, reduction, par).unwrap()
    }
}

fn dense(blocks: &Blocks<f64>) -> Vec<f64> {
    to_dense(&blocks.function(|s| s, Serial).unwrap()).unwrap()
}

/// `matrix` with everything outside the layers' blocks set to zero.
fn block_diagonal(net: &Mlp, matrix: &[f64]) -> Vec<f64> {
    let (dim, mut out) = (net.params(), vec![0.0; matrix.len()]);
    for layer in net.layers() {
        for i in layer.offset..layer.offset + layer.len() {
            let block = i * dim + layer.offset..i * dim + layer.offset + layer.len();
            out[block.clone()].copy_from_slice(&matrix[block]);
        }
    }
    out
}

/// Rounding of the two factors, their eigenbases and the sums over `examples`, relative to the trace of the matrix.
fn bound(net: &Mlp, examples: usize, trace: f64) -> f64 {
    let width = net.layers().iter().map(|layer| layer.cols().max(layer.outputs)).max().unwrap_or(1);
    let basis = tolerance::orthogonal_factor(width, width, f64::EPSILON);
    let sums = tolerance::second_moments::<f64>(width, width, examples * net.outputs());
    (2.0 * basis + sums + tolerance::rotation::<f64>(width, width)) * trace
}

fn trace(matrix: &[f64], dim: usize) -> f64 {
    (0..dim).map(|i| matrix[i * (dim + 1)]).sum()
}

const LOSSES: [Loss; 4] = [Loss::CrossEntropy, Loss::HalfMse, Loss::SumMse, Loss::Bce];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// One example: `G (x) A` is the block of any network and any law.
    #[test]
    fn one_example_is_exact(widths in prop::collection::vec(1_usize..5, 2..4), loss in 0_usize..4, bias: bool, seed: u64) {
        let biases = vec![bias; widths.len() - 1];
        let net = Mlp::with_biases(&widths, &biases, Activation::Tanh, LOSSES[loss]).unwrap();
        let problem = Problem::new(net, 1, seed);
        let lin = problem.linearized(Reduction::Mean, Serial);
        let dim = problem.net.params();
        let exact = block_diagonal(&problem.net, &to_dense(&lin.gauss_newton()).unwrap());
        let limit = bound(&problem.net, 1, trace(&exact, dim));
        let kfac = Kfac::of(&lin, &Type2).unwrap();
        prop_assert!(norm(&minus(&dense(kfac.blocks()), &exact)) <= limit);
        prop_assert!(norm(&minus(&dense(Ekfac::of(&lin, &Type2).unwrap().blocks()), &exact)) <= limit);
        let observed = block_diagonal(&problem.net, &to_dense(&lin.empirical_fisher()).unwrap());
        let limit = bound(&problem.net, 1, trace(&observed, dim));
        prop_assert!(norm(&minus(&dense(Kfac::of(&lin, &Empirical).unwrap().blocks()), &observed)) <= limit);
    }

    /// Squared error of a deep linear network: the output gradients do not depend on the example, so K-FAC is the
    /// block-diagonal Gauss-Newton matrix; for one layer it is the Hessian.
    #[test]
    fn deep_linear_networks_are_exact(widths in prop::collection::vec(1_usize..5, 2..5), n in 1_usize..9, bias: bool, seed: u64) {
        let biases = vec![bias; widths.len() - 1];
        let net = Mlp::with_biases(&widths, &biases, Activation::Identity, Loss::SumMse).unwrap();
        let problem = Problem::new(net, n, seed);
        let lin = problem.linearized(Reduction::Mean, Serial);
        let exact = block_diagonal(&problem.net, &to_dense(&lin.gauss_newton()).unwrap());
        let limit = bound(&problem.net, n, trace(&exact, problem.net.params()));
        let kfac = Kfac::of(&lin, &Type2).unwrap();
        prop_assert!(norm(&minus(&dense(kfac.blocks()), &exact)) <= limit);
        prop_assert!(norm(&minus(&dense(Ekfac::correct(&kfac, &lin, &Type2).unwrap().blocks()), &exact)) <= limit);
        if widths.len() == 2 {
            prop_assert!(norm(&minus(&exact, &to_dense(&lin.hessian()).unwrap())) <= limit);
        }
    }

    /// EKFAC has the trace of the exact blocks, is nearer to them than K-FAC, and none of its eigenvalues is negative.
    #[test]
    fn ekfac_is_nearer_and_keeps_the_trace(widths in prop::collection::vec(1_usize..5, 2..4), loss in 0_usize..4, n in 1_usize..30, seed: u64) {
        let problem = Problem::new(Mlp::new(&widths, Activation::Tanh, LOSSES[loss]).unwrap(), n, seed);
        let lin = problem.linearized(Reduction::Mean, Serial);
        let exact = block_diagonal(&problem.net, &to_dense(&lin.gauss_newton()).unwrap());
        let whole = trace(&exact, problem.net.params());
        let limit = bound(&problem.net, n, whole);
        let kfac = Kfac::of(&lin, &Type2).unwrap();
        let ekfac = Ekfac::correct(&kfac, &lin, &Type2).unwrap();
        let off = |blocks: &Blocks<f64>| norm(&minus(&dense(blocks), &exact));
        prop_assert!((ekfac.blocks().trace() - whole).abs() <= limit);
        prop_assert!(off(ekfac.blocks()) <= off(kfac.blocks()) + limit);
        prop_assert!(ekfac.blocks().layers().iter().all(|block| block.values().iter().all(|s| *s >= 0.0)));
    }

    /// The sum over the examples is `N` times their mean.
    #[test]
    fn a_sum_is_n_means(n in 1_usize..9, seed: u64) {
        let problem = Problem::new(Mlp::new(&[3, 4, 2], Activation::Relu, Loss::CrossEntropy).unwrap(), n, seed);
        let of = |reduction| dense(Ekfac::of(&problem.linearized(reduction, Serial), &Type2).unwrap().blocks());
        let (mean, sum) = (of(Reduction::Mean), of(Reduction::Sum));
        for (x, y) in sum.iter().zip(&mean) {
            prop_assert!((x - n as f64 * y).abs() <= tolerance::gamma::<f64>(4) * sum.iter().fold(0.0_f64, |a, b| a.max(b.abs())));
        }
    }

    #[test]
    fn an_embedding_is_a_linear_layer_with_unit_vectors(n in 1_usize..5, s in 1_usize..5, tokens in 1_usize..5, dim in 1_usize..4, masked: bool, seed: u64) {
        let stream = Stream::new(seed, "embedding");
        let mut draws = stream.child(0).draws();
        let ids: Vec<usize> = (0..n * s).map(|_| draws.next_index(tokens)).collect();
        let mask: Option<Vec<bool>> = masked.then(|| (0..n * s).map(|row| row % s == 0 || draws.next_f64() < 0.5).collect());
        let grads = oracle::uniform::<f64>(stream.child(1), n * s * dim);
        let grads = MatRef::new(&grads, n * s, dim).unwrap();
        let record = EmbeddingRecord::new(n, &ids, grads, mask.as_deref()).unwrap();
        let mut covariance = EmbeddingCovariance::<Empirical>::new(tokens, dim, Serial).unwrap();
        covariance.add(&record, &[]).unwrap();
        let kfac = covariance.finish::<f64>("embedding").unwrap();
        let mut correction = EmbeddingCorrection::<f64, Empirical>::new(&kfac, Serial).unwrap();
        correction.add(&record, &[]).unwrap();
        let ekfac = correction.finish().unwrap();
        // The same as a linear layer `[dim, tokens]`, whose gradients are transposed.
        let mut one_hot = vec![0.0; n * s * tokens];
        ids.iter().enumerate().for_each(|(row, &t)| one_hot[row * tokens + t] = 1.0);
        let one_hot = MatRef::new(&one_hot, n * s, tokens).unwrap();
        let linear = LayerRecord::new(n, one_hot, grads, mask.as_deref(), false).unwrap();
        let len = dim * tokens;
        let mut gradients = vec![0.0; n * len];
        linear.gradients(MatMut::new(&mut gradients, n, len).unwrap()).unwrap();
        // The second moments along `e_t (x) q_j`, in f64.
        let q = kfac.right().vectors().unwrap();
        let limit = tolerance::second_moments::<f64>(tokens, dim, n * s) * (s * s * dim) as f64;
        for (at, value) in ekfac.values().iter().enumerate() {
            let (t, j) = (at / dim, at % dim);
            let along = |g: &[f64]| (0..dim).map(|o| g[o * tokens + t] * q.row(o)[j]).sum::<f64>();
            let expected: f64 = gradients.chunks_exact(len).map(|g| along(g).powi(2) / n as f64).sum();
            prop_assert!((value - expected).abs() <= limit, "{value} against {expected}");
        }
        let counted = ids.iter().enumerate().filter(|(row, _)| mask.as_ref().is_none_or(|mask| mask[*row]));
        let total = counted.clone().count() as f64;
        for (t, frequency) in covariance.frequencies().unwrap().iter().enumerate() {
            let occurrences = counted.clone().filter(|(_, id)| **id == t).count() as f64;
            prop_assert_eq!(*frequency, occurrences / total);
        }
        // Two halves make a whole.
        let mut parts: Vec<_> = (0..n).map(|i| {
            let mask = mask.as_ref().map(|mask| &mask[i * s..(i + 1) * s]);
            let record = EmbeddingRecord::new(1, &ids[i * s..(i + 1) * s], grads.row_range(i * s, s).unwrap(), mask).unwrap();
            let mut part = EmbeddingCovariance::<Empirical>::new(tokens, dim, Serial).unwrap();
            part.add(&record, &[]).unwrap();
            let mut second = EmbeddingCorrection::<f64, Empirical>::new(&kfac, Serial).unwrap();
            second.add(&record, &[]).unwrap();
            (part, second)
        }).collect();
        let (mut first, mut second) = parts.remove(0);
        for (a, b) in &parts {
            first.merge(a).unwrap();
            second.merge(b).unwrap();
        }
        prop_assert_eq!(first.frequencies().unwrap(), covariance.frequencies().unwrap());
        prop_assert!(norm(&minus(&first.factor_g().unwrap(), &covariance.factor_g().unwrap())) <= limit);
        prop_assert!(norm(&minus(second.finish().unwrap().values(), ekfac.values())) <= limit * len as f64);
    }

    /// `y = w o x + b`: against central differences of a loss that is linear in `y`, which are exact but for rounding.
    #[test]
    fn norm_gradients_are_those_of_scale_and_bias(n in 0_usize..4, s in 1_usize..4, d in 0_usize..5, bias: bool, seed: u64) {
        let stream = Stream::new(seed, "norm");
        let (x, c) = (oracle::uniform::<f64>(stream.child(0), n * s * d), oracle::uniform::<f64>(stream.child(1), n * s * d));
        let record = LayerRecord::new(n, MatRef::new(&x, n * s, d).unwrap(), MatRef::new(&c, n * s, d).unwrap(), None, bias).unwrap();
        let width = if bias { 2 * d } else { d };
        let mut out = vec![f64::NAN; n * width];
        norm_gradients(MatMut::new(&mut out, n, width).unwrap(), &record).unwrap();
        for i in 0..n {
            for (p, gradient) in out[i * width..(i + 1) * width].iter().enumerate() {
                let feature = p % d;
                let terms = (i * s..(i + 1) * s).map(|row| c[row * d + feature] * if p < d { x[row * d + feature] } else { 1.0 });
                prop_assert!((gradient - terms.sum::<f64>()).abs() <= tolerance::gamma::<f64>(2 * s) * s as f64);
            }
        }
    }
}

/// The mean of K-FAC's output covariance over samples is that of type 2.
#[test]
fn sampled_factors_have_the_mean_of_type_2() {
    for loss in LOSSES {
        let problem = Problem::new(Mlp::new(&[2, 3], Activation::Identity, loss).unwrap(), 3, 8);
        let lin = problem.linearized(Reduction::Mean, Serial);
        let exact = Kfac::of(&lin, &Type2).unwrap().blocks().trace();
        let samples = 4000;
        let runs: Vec<f64> = (0..samples)
            .map(|seed| {
                let law = Sampled { samples: 1, stream: Stream::new(seed, "law") };
                Kfac::of(&lin, &law).unwrap().blocks().trace()
            })
            .collect();
        let mean = runs.iter().sum::<f64>() / samples as f64;
        let variance = runs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (samples - 1) as f64;
        assert!(
            (mean - exact).abs() <= tolerance::monte_carlo(samples as usize, variance.sqrt()),
            "{loss:?}: {mean} against {exact}"
        );
    }
}

#[test]
fn samples_are_scaled_and_passes_draw_anew() {
    let problem = Problem::new(Mlp::new(&[2, 3], Activation::Identity, Loss::HalfMse).unwrap(), 40, 3);
    let lin = problem.linearized(Reduction::Mean, Serial);
    let law = |samples| Sampled { samples, stream: Stream::new(4, "law") };
    let exact = Kfac::of(&lin, &Type2).unwrap().blocks().trace();
    // With 2000 samples for each of 40 examples the trace of a normal law's estimate is within a few percent; were the
    // samples added up without a scale, it would be 2000 times as large.
    let many = Kfac::of(&lin, &law(2000)).unwrap();
    assert!((many.blocks().trace() / exact - 1.0).abs() <= 0.05);
    let one = Kfac::of(&lin, &law(1)).unwrap();
    let corrected = Ekfac::correct(&one, &lin, &law(1)).unwrap();
    let same_draws = one.blocks().layers()[0].factors().map(|(g, a)| (g.to_vec(), a.to_vec())).unwrap();
    assert!((corrected.blocks().trace() / one.blocks().trace() - 1.0).abs() > 1e-6, "{same_draws:?}");
    assert_eq!(
        Kfac::of(&lin, &law(0)).unwrap_err(),
        Error::Core(CoreError::Parameter { what: "samples", value: 0.0, must_be: "at least 1" })
    );
}

#[test]
fn one_class_has_no_curvature() {
    let problem = Problem::new(Mlp::new(&[2, 1], Activation::Identity, Loss::CrossEntropy).unwrap(), 4, 1);
    let ekfac = Ekfac::of(&problem.linearized(Reduction::Mean, Serial), &Type2).unwrap();
    assert_eq!(ekfac.blocks().trace(), 0.0);
    let inverse = ekfac.blocks().inverse(Damping::Relative(0.1), Serial).unwrap();
    assert_eq!(apply_alloc(&inverse, MatRef::from_row(&[1.0, 2.0, 3.0])).unwrap(), [0.0; 3]);
}

/// On one layer with squared error EKFAC is the matrix itself: as a preconditioner of CG it leaves one step.
#[test]
fn an_exact_preconditioner_leaves_one_step() {
    let problem = Problem::new(Mlp::new(&[4, 3], Activation::Identity, Loss::HalfMse).unwrap(), 20, 6);
    let lin = problem.linearized(Reduction::Mean, Serial);
    let ekfac = Ekfac::of(&lin, &Type2).unwrap();
    let (inverse, curvature) = (ekfac.blocks().inverse(Damping::Absolute(0.01), Serial).unwrap(), lin.gauss_newton());
    let solver = Cg { damping: 0.01, rtol: 1e-10, ..Cg::default() }.prepare_with(&curvature, &inverse).unwrap();
    let v = oracle::uniform::<f64>(Stream::new(1, "v"), 15);
    let report = solver.solve(MatMut::from_row(&mut [0.0; 15]), MatRef::from_row(&v)).unwrap()[0];
    assert!(report.is_converged() && report.iterations == 1, "{report:?}");
}

#[test]
fn threads_change_no_bit() {
    let problem = Problem::new(Mlp::new(&[40, 70, 10], Activation::Relu, Loss::CrossEntropy).unwrap(), 700, 2);
    let run = |par| {
        let lin = problem.linearized(Reduction::Mean, par);
        let ekfac = Ekfac::of(&lin, &Type2).unwrap();
        ekfac.blocks().layers().iter().map(|block| block.values().to_vec()).collect::<Vec<_>>()
    };
    let serial = run(Serial);
    for threads in [2, 3, 8] {
        assert_eq!(serial, with_eight_threads(|| run(Parallelism::threads(threads))));
    }
}

#[test]
fn embeddings_refuse_what_does_not_fit() {
    let grads = [1.0, 2.0];
    let grads = MatRef::new(&grads, 2, 1).unwrap();
    assert!(EmbeddingRecord::new(2, &[0, 1, 2], grads, None).is_err());
    assert!(EmbeddingRecord::new(1, &[0, 1], grads, Some(&[true])).is_err());
    let record = EmbeddingRecord::new(1, &[0, 7], grads, None).unwrap();
    let mut covariance = EmbeddingCovariance::<Empirical>::new(3, 1, Serial).unwrap();
    assert_eq!(covariance.add(&record, &[]), Err(Error::Core(CoreError::Index { what: "token", index: 7, len: 3 })));
    assert_eq!(covariance.frequencies(), Err(Error::Core(CoreError::Empty { what: "positions" })));
    assert!(matches!(covariance.finish::<f64>("table"), Err(Error::Block { .. })));
    // Masked, the token is not looked at.
    let masked = EmbeddingRecord::new(1, &[0, 7], grads, Some(&[true, false])).unwrap();
    covariance.add(&masked, &[]).unwrap();
    assert_eq!(covariance.frequencies().unwrap(), [1.0, 0.0, 0.0]);
    let linear =
        EigenBlock::<f64>::kronecker("fc", grads.row_range(0, 1).unwrap(), grads.row_range(0, 1).unwrap(), Serial);
    assert!(EmbeddingCorrection::<f64, Empirical>::new(&linear.unwrap(), Serial).is_err());
    let other = EmbeddingCovariance::<Empirical>::new(4, 1, Serial).unwrap();
    assert!(covariance.merge(&other).is_err());
    let poisoned = [f64::NAN, 0.0];
    let record = EmbeddingRecord::new(1, &[0, 1], MatRef::new(&poisoned, 2, 1).unwrap(), None).unwrap();
    assert!(matches!(covariance.add(&record, &[]), Err(Error::Core(CoreError::NonFinite { .. }))));
    // Its square is no f32.
    let huge = [1e20_f32, 0.0];
    let record = EmbeddingRecord::new(1, &[0, 1], MatRef::new(&huge, 2, 1).unwrap(), None).unwrap();
    assert!(matches!(covariance.add(&record, &[]), Err(Error::Core(CoreError::Parameter { .. }))));
    assert_eq!(covariance.frequencies().unwrap(), [1.0, 0.0, 0.0]);
}

/// Counts are checked before anything is added.
#[test]
fn counts_that_overflow_are_refused() {
    let overflows = |refused: Result<(), Error>| match refused.unwrap_err() {
        Error::Block { error, .. } => matches!(*error, Error::Core(CoreError::Overflow { .. })),
        error => matches!(error, Error::Core(CoreError::Overflow { .. })),
    };
    let one = MatRef::from_row(&[1.0_f64]);
    let mut covariance = EmbeddingCovariance::<Empirical>::new(1, 1, Serial).unwrap();
    let tokens = EmbeddingRecord::new(1, &[0], one, None).unwrap();
    covariance.add(&tokens, &[]).unwrap();
    let embedding = covariance.finish("e").unwrap();
    let mut of_embedding = EmbeddingCorrection::<f64, Empirical>::new(&embedding, Serial).unwrap();
    of_embedding.add(&tokens, &[]).unwrap();
    let record = LayerRecord::new(1, one, one, None, false).unwrap();
    let block = EigenBlock::<f64>::diagonal("d", &[1.0]).unwrap();
    let mut correction = ascribe_solvers::curvature::EigenvalueCorrection::<f64, Empirical>::new(&block, Serial);
    correction.add(&record, &[]).unwrap();
    for _ in 0..63 {
        covariance.merge(&covariance.clone()).unwrap();
        of_embedding.merge(&of_embedding.clone()).unwrap();
        correction.merge(&correction.clone()).unwrap();
    }
    assert!(overflows(covariance.merge(&covariance.clone())));
    assert!(overflows(of_embedding.merge(&of_embedding.clone())));
    assert!(overflows(correction.merge(&correction.clone())));
    assert_eq!(correction.examples(), 1 << 63);
    assert_eq!(covariance.factor_g().unwrap(), [1.0]);
    assert_eq!(of_embedding.finish().unwrap().values(), [1.0]);
}

/// Products of factors that fit are refused when they do not, and examples without a position are not gone through.
#[test]
fn sizes_that_no_slice_vouches_for() {
    use ascribe_solvers::curvature::{
        EigenvalueCorrection, LayerShape, TiedRecord, denoising_cotangents, norm_gradients,
    };
    const MANY: usize = usize::MAX;
    let none = |rows, cols| MatRef::<f64>::new(&[], rows, cols).unwrap();
    let out = || MatMut::<f64>::new(&mut [], MANY, 0).unwrap();
    let factor = vec![1.0; 1 << 22];
    let refused = ascribe_solvers::precondition::adafactor_block::<f64>("a", &factor, &factor, 1.0).unwrap_err();
    let error = Box::new(Error::Core(CoreError::Overflow { what: "eigenvalues" }));
    assert_eq!(refused, Error::Block { name: "a".to_owned(), error });

    let record = LayerRecord::new(MANY, none(0, 2), none(0, 2), None, false).unwrap();
    assert_eq!(TiedRecord::new(&[record]).unwrap().record().unwrap().examples(), MANY);
    let block = EigenBlock::from_parts("b", Basis::Units(2), Basis::Units(2), vec![1.0_f64; 4]).unwrap();
    let mut correction = EigenvalueCorrection::<f64, Empirical>::new(&block, Serial);
    correction.add(&record, &[]).unwrap();
    assert_eq!(correction.examples(), 0);
    let tokens = EmbeddingRecord::new(MANY, &[], none(0, 2), None).unwrap();
    EmbeddingCovariance::<Empirical>::new(3, 2, Serial).unwrap().add(&tokens, &[]).unwrap();
    let block = EigenBlock::from_parts("b", Basis::Units(3), Basis::Units(2), vec![1.0_f64; 6]).unwrap();
    EmbeddingCorrection::<f64, Empirical>::new(&block, Serial).unwrap().add(&tokens, &[]).unwrap();

    let record = LayerRecord::new(MANY, none(0, 0), none(0, 0), None, false).unwrap();
    norm_gradients(out(), &record).unwrap();
    denoising_cotangents(out(), Stream::new(0, "none"));
    assert_eq!(LayerShape { d_in: MANY, d_out: 1, bias: true }.weight_cols(), MANY);
}
