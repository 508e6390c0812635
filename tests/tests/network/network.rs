//! Laws of the network's derivatives: each against dual numbers through a network written out, and against the
//! others.

use ascribe_core::derivative::{Dual, Reduction};
use ascribe_core::linop::{Adjoint, apply_alloc, to_dense};
use ascribe_core::random::Stream;
use ascribe_core::{Error as CoreError, ExampleLinOp, LinOp, MatMut, MatRef, Real};
use ascribe_solvers::Error;
use ascribe_solvers::linalg::symmetric_eigen;
use ascribe_solvers::network::{Activation, Linearized, Loss, Mlp, Targets};
use ascribe_solvers::parallel::Parallelism;
use ascribe_tests::oracle::{self, Target};
use ascribe_tests::tolerance::{self, NetworkSize};
use ascribe_tests::with_eight_threads;
use proptest::prelude::*;

const LOSSES: [Loss; 4] = [Loss::CrossEntropy, Loss::HalfMse, Loss::SumMse, Loss::Bce];

/// A network with parameters and data, all numbers of `T`.
#[derive(Debug, Clone)]
struct Problem<T> {
    net: Mlp,
    params: Vec<T>,
    inputs: Vec<T>,
    labels: Vec<usize>,
    values: Vec<T>,
}

impl<T: Real> Problem<T> {
    /// Parameters in `[-1/2, 1/2)`, inputs in `[-1, 1)`, values in `[0, 1)`.
    fn new(net: Mlp, examples: usize, seed: u64) -> Self {
        let stream = Stream::new(seed, "problem");
        let scaled = |lane, len, scale: f64, shift: f64| {
            let numbers = oracle::uniform::<f64>(stream.child(lane), len);
            numbers.iter().map(|x| T::from_f64(scale * x + shift)).collect::<Vec<T>>()
        };
        let mut draws = stream.child(3).draws();
        Self {
            params: scaled(0, net.params(), 0.5, 0.0),
            inputs: scaled(1, examples * net.inputs(), 1.0, 0.0),
            values: scaled(2, examples * net.outputs(), 0.5, 0.5),
            labels: (0..examples).map(|_| draws.next_index(net.outputs())).collect(),
            net,
        }
    }
    fn examples(&self) -> usize {
        self.labels.len()
    }
    fn input(&self) -> MatRef<'_, T> {
        MatRef::new(&self.inputs, self.examples(), self.net.inputs()).unwrap()
    }
    fn targets(&self) -> Targets<'_, T> {
        match self.net.loss() {
            Loss::CrossEntropy => Targets::Classes(&self.labels),
            _ => Targets::Values(MatRef::new(&self.values, self.examples(), self.net.outputs()).unwrap()),
        }
    }
    fn linearized(&self, reduction: Reduction) -> Linearized<'_, T> {
        self.with_threads(reduction, Parallelism::Serial)
    }
    fn with_threads(&self, reduction: Reduction, par: Parallelism) -> Linearized<'_, T> {
        Linearized::new(&self.net, &self.params, self.input(), self.targets(), reduction, par).unwrap()
    }
    /// Example `n` for the oracle.
    fn example(&self, n: usize) -> (Vec<f64>, Target) {
        let outputs = self.net.outputs();
        let target = match self.net.loss() {
            Loss::CrossEntropy => Target::Class(self.labels[n]),
            _ => Target::Values(oracle::wide(&self.values[n * outputs..(n + 1) * outputs])),
        };
        (oracle::wide(self.input().row(n)), target)
    }
    /// A bound of what an entry of a derivative of this order may be off by, in f64.
    fn bound(&self, order: i32, direction: f64) -> f64 {
        let widths = self.net.layers().iter().flat_map(|layer| [layer.cols(), layer.outputs]);
        let width = widths.max().unwrap_or(1);
        let size = NetworkSize { layers: self.net.layers().len(), width, examples: self.examples(), largest: 1.0 };
        // The parameters are at most 1/2.
        let halves = NetworkSize { largest: 0.5, ..size };
        tolerance::network::<f64>(size, halves.absolute(order, direction) * self.examples() as f64)
    }
}

fn assert_near<T: Real>(what: &str, got: &[T], expected: &[f64], bound: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (got.to_f64() - expected).abs();
        assert!(error <= bound, "{what}[{i}]: {got} instead of {expected}, off by {error:e} > {bound:e}");
    }
}

/// `J^T M J` for `J` `[c, p]` and `M` `[c, c]`.
fn sandwich(j: &[f64], m: &[f64], c: usize) -> Vec<f64> {
    let p = j.len() / c;
    let mj: Vec<f64> = (0..c * p).map(|e| (0..c).map(|l| m[e / p * c + l] * j[l * p + e % p]).sum()).collect();
    (0..p * p).map(|e| (0..c).map(|l| j[l * p + e / p] * mj[l * p + e % p]).sum()).collect()
}

fn add(sum: &mut Vec<f64>, x: &[f64]) {
    sum.resize(x.len(), 0.0);
    sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
}

/// Sums over the examples, by the oracle.
#[derive(Debug, Default)]
struct Truth {
    losses: Vec<f64>,
    outputs: Vec<f64>,
    jacobian: Vec<f64>,
    gradients: Vec<f64>,
    gradient: Vec<f64>,
    hessian: Vec<f64>,
    gauss_newton: Vec<f64>,
    empirical: Vec<f64>,
}

fn truth<T: Real>(problem: &Problem<T>) -> Truth {
    let (net, params) = (&problem.net, oracle::wide(&problem.params));
    let mut all = Truth::default();
    for n in 0..problem.examples() {
        let (x, target) = problem.example(n);
        let z = oracle::outputs(net, &params, &x);
        let j = oracle::jacobian(net, &params, &x);
        let g = oracle::gradient(net, &params, &x, &target);
        let curvature = oracle::hessian(&z, |z| oracle::output_loss(net.loss(), z, &target));
        all.losses.push(oracle::loss(net, &params, &x, &target));
        add(&mut all.gradient, &g);
        add(&mut all.hessian, &oracle::hessian(&params, |params| oracle::loss(net, params, &x, &target)));
        add(&mut all.gauss_newton, &sandwich(&j, &curvature, net.outputs()));
        add(&mut all.empirical, &sandwich(&g, &[1.0], 1));
        all.outputs.extend(z);
        all.jacobian.extend(j);
        all.gradients.extend(g);
    }
    all
}

fn largest(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |a, x| x.abs().max(a))
}

/// Every derivative of a problem against the oracle.
fn check_derivatives<T: Real>(problem: &Problem<T>) {
    let truth = truth(problem);
    let lin = problem.linearized(Reduction::Sum);
    let double = T::EPSILON.to_f64() == f64::EPSILON;
    let terms = problem.examples() + 4 * problem.net.params();
    let near = |what: &str, got: &[T], expected: &[f64], order: i32| {
        let single = tolerance::conformance_f32(terms, largest(expected).max(1.0));
        assert_near(what, got, expected, if double { problem.bound(order, 1.0) } else { single });
    };
    near("losses", &lin.losses().collect::<Vec<_>>(), &truth.losses, 0);
    near("outputs", &lin.outputs().flatten().copied().collect::<Vec<_>>(), &truth.outputs, 0);
    near("loss", &[lin.loss()], &[truth.losses.iter().sum()], 0);
    near("gradient", &lin.gradient().unwrap(), &truth.gradient, 1);
    let p = problem.net.params();
    let mut gradients = vec![T::ZERO; problem.examples() * p];
    lin.per_example_gradients(MatMut::new(&mut gradients, problem.examples(), p).unwrap()).unwrap();
    near("per-example gradients", &gradients, &truth.gradients, 1);
    near("Jacobian", &to_dense(&lin.jacobian()).unwrap(), &truth.jacobian, 1);
    near("Hessian", &to_dense(&lin.hessian()).unwrap(), &truth.hessian, 2);
    near("Gauss-Newton", &to_dense(&lin.gauss_newton()).unwrap(), &truth.gauss_newton, 2);
    near("empirical Fisher", &to_dense(&lin.empirical_fisher()).unwrap(), &truth.empirical, 2);
    let factor = lin.gauss_newton_factor().unwrap();
    let psi = oracle::wide(&to_dense(&factor).unwrap());
    let rows = psi.len() / p;
    let square =
        (0..p * p).map(|e| (0..rows).map(|r| psi[r * p + e / p] * psi[r * p + e % p]).sum()).collect::<Vec<f64>>();
    near("factor", &oracle::narrow::<T>(&square), &truth.gauss_newton, 2);
    let gram = factor.gram().unwrap();
    assert_eq!(gram.len(), rows * rows);
    for i in 0..rows {
        let expected: Vec<f64> =
            (0..=i).map(|j| oracle::dot(&psi[i * p..(i + 1) * p], &psi[j * p..(j + 1) * p])).collect();
        near("Gram matrix", &gram[i * rows..=i * rows + i], &expected, 2);
    }
}

#[test]
fn every_derivative_is_that_of_dual_numbers() {
    let mut seed = 0;
    for (_, activation) in Activation::NAMES {
        for loss in LOSSES {
            for (widths, biases) in [
                (&[2, 3][..], &[true][..]),
                (&[3, 1], &[false]),
                (&[2, 3, 2], &[true, true]),
                (&[1, 2, 3], &[false, true]),
                (&[2, 2, 2, 2], &[true, false, true]),
            ] {
                seed += 1;
                let net = Mlp::with_biases(widths, biases, activation, loss).unwrap();
                check_derivatives(&Problem::<f64>::new(net.clone(), 3, seed));
                check_derivatives(&Problem::<f32>::new(net, 1, seed));
            }
        }
    }
}

#[test]
fn every_derivative_survives_the_cut_into_blocks() {
    for (loss, examples) in
        [(Loss::CrossEntropy, 127), (Loss::Bce, 128), (Loss::CrossEntropy, 129), (Loss::HalfMse, 257)]
    {
        let net = Mlp::new(&[1, 2, 2], Activation::Tanh, loss).unwrap();
        check_derivatives(&Problem::<f64>::new(net, examples, 7));
    }
}

fn network() -> impl Strategy<Value = Mlp> {
    let widths = prop::collection::vec(1..4_usize, 2..5);
    let choice = (prop::sample::select(&Activation::NAMES[..]), prop::sample::select(&LOSSES[..]), any::<[bool; 3]>());
    (widths, choice).prop_map(|(widths, ((_, activation), loss, biases))| {
        Mlp::with_biases(&widths, &biases[..widths.len() - 1], activation, loss).unwrap()
    })
}

fn problem() -> impl Strategy<Value = Problem<f64>> {
    let examples = prop::sample::select(vec![1, 2, 7, 127, 131]);
    (network(), examples, any::<u64>()).prop_map(|(net, examples, seed)| Problem::new(net, examples, seed))
}

fn vectors(seed: u64, k: usize, p: usize) -> Vec<f64> {
    oracle::uniform(Stream::new(seed, "vectors"), k * p)
}

fn product<A: LinOp<f64>>(op: &A, x: &[f64]) -> Vec<f64> {
    let rows = x.len() / op.dim_in();
    apply_alloc(op, MatRef::new(x, rows, op.dim_in()).unwrap()).unwrap()
}

fn on_examples<A: ExampleLinOp<f64>>(op: &A, x: &[f64], indices: &[usize]) -> Vec<f64> {
    let mut out = vec![f64::NAN; x.len()];
    let rows = x.len() / op.dim_in();
    let mut scratch = vec![f64::NAN; op.examples_scratch_len(rows, indices.len())];
    let (y, x) = (MatMut::new(&mut out, rows, op.dim_out()).unwrap(), MatRef::new(x, rows, op.dim_in()).unwrap());
    op.apply_examples(y, x, indices, &mut scratch).unwrap();
    out
}

/// The laws that every curvature obeys.
fn check_curvature<A: ExampleLinOp<f64>>(op: &A, problem: &Problem<f64>, semidefinite: bool, bound: f64) {
    let (p, examples) = (problem.net.params(), problem.examples());
    let x = vectors(1, 10, p);
    let y = product(op, &x);
    let near = |what: &str, got: &[f64], expected: &[f64]| assert_near(what, got, expected, bound);
    // Symmetric and semidefinite; |v| <= sqrt(p).
    let dense = to_dense(op).unwrap();
    for i in 0..p {
        for j in 0..i {
            near("transpose", &[dense[i * p + j]], &[dense[j * p + i]]);
        }
    }
    if semidefinite {
        for (x, y) in x.chunks_exact(p).zip(y.chunks_exact(p)) {
            assert!(oracle::dot(x, y) >= -bound * p as f64, "v^T A v = {}", oracle::dot(x, y));
        }
    }
    // A block of vectors is every vector by itself, and linear.
    let combined: Vec<f64> = x[..p].iter().zip(&x[p..]).map(|(a, b)| 0.5 * a - 2.0 * b).collect();
    let expected: Vec<f64> = y[..p].iter().zip(&y[p..]).map(|(a, b)| 0.5 * a - 2.0 * b).collect();
    near("combination", &product(op, &combined), &expected);
    for (x, y) in x.chunks_exact(p).zip(y.chunks_exact(p)) {
        near("row by itself", &product(op, x), y);
    }
    assert!(product(op, &[]).is_empty());
    assert_eq!(product(op, &vec![0.0; p]), vec![0.0; p]);
    // Batches: all examples, in any order and twice; a split, weighted by its sizes.
    let x = &x[..2 * p];
    let y = &y[..2 * p];
    let all: Vec<usize> = (0..examples).rev().collect();
    near("all examples", &on_examples(op, x, &all), y);
    near("each twice", &on_examples(op, x, &[all.clone(), all.clone()].concat()), y);
    let (head, tail) = all.split_at(examples / 3);
    let mut sum = vec![0.0; 2 * p];
    for part in [head, tail].into_iter().filter(|part| !part.is_empty()) {
        let weight = part.len() as f64 / examples as f64;
        sum.iter_mut().zip(on_examples(op, x, part)).for_each(|(sum, y)| *sum += weight * y);
    }
    near("split", &sum, y);
    let last = examples - 1;
    near("repeated", &on_examples(op, x, &[last, last, last]), &on_examples(op, x, &[last]));
    // What is refused is refused before anything is written.
    let mut out = vec![7.0; p];
    let mut refused = |x: &[f64], indices: &[usize]| {
        let result = op.apply_examples(MatMut::from_row(&mut out), MatRef::from_row(x), indices, &mut []);
        assert_eq!(out, vec![7.0; p]);
        result
    };
    let x = &x[..p];
    assert!(
        matches!(refused(x, &[0, examples]), Err(CoreError::Index { index, len, .. }) if (index, len) == (examples, examples))
    );
    assert!(matches!(refused(x, &[usize::MAX]), Err(CoreError::Index { .. })));
    assert!(matches!(refused(x, &[]), Err(CoreError::Empty { .. })));
    assert!(matches!(refused(&x[1..], &[0]), Err(CoreError::Shape { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn curvatures_obey_their_laws(problem in problem(), sum in any::<bool>(), samples in 1..4_usize) {
        let reduction = if sum { Reduction::Sum } else { Reduction::Mean };
        let lin = problem.linearized(reduction);
        // Directions are at most 1, combinations of them 2.5.
        let bound = problem.bound(2, 2.5 * problem.net.params() as f64);
        check_curvature(&lin.hessian(), &problem, false, bound);
        check_curvature(&lin.gauss_newton(), &problem, true, bound);
        check_curvature(&lin.empirical_fisher(), &problem, true, bound);
        // A sampled output gradient may be as large as normal numbers are: below 9 in any run of this size.
        let sampled = lin.sampled_fisher(samples, Stream::new(5, "targets")).unwrap();
        check_curvature(&sampled, &problem, true, 162.0 * bound);
    }

    #[test]
    fn the_sum_is_n_times_the_mean(problem in problem()) {
        let (sum, mean) = (problem.linearized(Reduction::Sum), problem.linearized(Reduction::Mean));
        let n = problem.examples() as f64;
        let times = |x: Vec<f64>| x.into_iter().map(|x| n * x).collect::<Vec<_>>();
        let x = vectors(2, 1, problem.net.params());
        let bound = problem.bound(2, problem.net.params() as f64);
        assert_near("loss", &[sum.loss()], &[n * mean.loss()], bound);
        assert_near("gradient", &sum.gradient().unwrap(), &times(mean.gradient().unwrap()), bound);
        assert_near("Hessian", &product(&sum.hessian(), &x), &times(product(&mean.hessian(), &x)), bound);
        assert_near("GGN", &product(&sum.gauss_newton(), &x), &times(product(&mean.gauss_newton(), &x)), bound);
        prop_assert_eq!((sum.scale(), mean.scale()), (1.0, 1.0 / n));
    }

    #[test]
    fn one_layer_has_the_hessian_of_gauss_and_newton(
        problem in (1..4_usize, 1..4_usize, prop::sample::select(&LOSSES[..]), any::<bool>(), any::<u64>())
    ) {
        let (inputs, outputs, loss, bias, seed) = problem;
        let net = Mlp::with_biases(&[inputs, outputs], &[bias], Activation::Relu, loss).unwrap();
        let problem = Problem::<f64>::new(net, 5, seed);
        let lin = problem.linearized(Reduction::Mean);
        let hessian = to_dense(&lin.hessian()).unwrap();
        assert_near("Hessian", &hessian, &to_dense(&lin.gauss_newton()).unwrap(), problem.bound(2, 1.0));
    }

    #[test]
    fn without_residuals_the_hessian_is_that_of_gauss_and_newton(net in network(), seed in any::<u64>()) {
        prop_assume!(matches!(net.loss(), Loss::HalfMse | Loss::SumMse));
        let mut problem = Problem::<f64>::new(net, 5, seed);
        problem.values = problem.linearized(Reduction::Mean).outputs().flatten().copied().collect();
        let lin = problem.linearized(Reduction::Mean);
        prop_assert_eq!(lin.loss(), 0.0);
        let hessian = to_dense(&lin.hessian()).unwrap();
        assert_near("Hessian", &hessian, &to_dense(&lin.gauss_newton()).unwrap(), problem.bound(2, 1.0));
    }

    #[test]
    fn the_rank_of_gauss_and_newton_is_bounded(net in network(), examples in 1..4_usize, seed in any::<u64>()) {
        let problem = Problem::<f64>::new(net, examples, seed);
        let lin = problem.linearized(Reduction::Sum);
        let p = problem.net.params();
        let dense = to_dense(&lin.gauss_newton()).unwrap();
        let outputs = problem.net.outputs();
        let limit = examples * if problem.net.loss() == Loss::CrossEntropy { outputs - 1 } else { outputs };
        prop_assert_eq!(lin.gauss_newton_factor().unwrap().rank() * examples, limit);
        let eigen = symmetric_eigen(MatRef::new(&dense, p, p).unwrap(), Parallelism::Serial).unwrap();
        // Weyl: what the entries are off by moves an eigenvalue by at most p times as much.
        let noise = p as f64 * problem.bound(2, 1.0);
        prop_assert!(eigen.values.iter().filter(|x| x.abs() > noise).count() <= limit, "{:?}", eigen.values);
    }

    #[test]
    fn shifting_all_logits_is_a_null_direction(widths in prop::collection::vec(1..4_usize, 2..4), seed in any::<u64>()) {
        let net = Mlp::new(&widths, Activation::Tanh, Loss::CrossEntropy).unwrap();
        let problem = Problem::<f64>::new(net, 7, seed);
        let layer = *problem.net.layers().last().unwrap();
        let mut shift = vec![0.0; problem.net.params()];
        shift[layer.offset..].iter_mut().skip(layer.inputs).step_by(layer.cols()).for_each(|x| *x = 1.0);
        let lin = problem.linearized(Reduction::Sum);
        let zero = vec![0.0; shift.len()];
        assert_near("GGN", &product(&lin.gauss_newton(), &shift), &zero, problem.bound(2, 1.0));
        assert_near("Hessian", &product(&lin.hessian(), &shift), &zero, problem.bound(2, 1.0));
    }

    #[test]
    fn gradients_agree_however_they_are_asked_for(problem in problem(), k in 0..10_usize) {
        let lin = problem.linearized(Reduction::Mean);
        let (p, examples, outputs) = (problem.net.params(), problem.examples(), problem.net.outputs());
        let bound = problem.bound(1, p as f64);
        let mut gradients = vec![f64::NAN; examples * p];
        lin.per_example_gradients(MatMut::new(&mut gradients, examples, p).unwrap()).unwrap();

        let mut mean = vec![0.0; p];
        for g in gradients.chunks_exact(p) {
            mean.iter_mut().zip(g).for_each(|(mean, g)| *mean += g / examples as f64);
        }
        assert_near("mean", &lin.gradient().unwrap(), &mean, bound);

        let v = vectors(3, k, p);
        let mut dots = vec![f64::NAN; examples * k];
        lin.gradient_dots(MatMut::new(&mut dots, examples, k).unwrap(), MatRef::new(&v, k, p).unwrap()).unwrap();
        let expected: Vec<f64> =
            gradients.chunks_exact(p).flat_map(|g| v.chunks_exact(p).map(|v| oracle::dot(g, v)).collect::<Vec<_>>()).collect();
        assert_near("dots", &dots, &expected, bound);

        for l in 0..problem.net.layers().len() {
            let layer = problem.net.layers()[l];
            let mut first = 0;
            for record in lin.records(l).unwrap() {
                let record = record.unwrap();
                let mut out = vec![f64::NAN; record.examples() * layer.len()];
                record.gradients(MatMut::new(&mut out, record.examples(), layer.len()).unwrap()).unwrap();
                for (i, got) in out.chunks_exact(layer.len()).enumerate() {
                    let own = &gradients[(first + i) * p + layer.offset..][..layer.len()];
                    assert_near("record", got, own, bound);
                }
                first += record.examples();
            }
            prop_assert_eq!(first, examples);
        }
        let missing = lin.records(problem.net.layers().len()).err();
        let named = matches!(missing, Some(Error::Core(CoreError::Index { .. })));
        prop_assert!(named, "{:?}", missing);

        // The pullback of the output gradients is the gradient; of others, the transposed Jacobian of each example.
        let deltas: Vec<f64> = lin.output_gradients().flatten().copied().collect();
        let mut pulled = vec![f64::NAN; examples * p];
        let mut pull = |u: &[f64]| {
            let out = MatMut::new(&mut pulled, examples, p).unwrap();
            lin.per_example_pullback(out, MatRef::new(u, examples, outputs).unwrap()).unwrap();
            pulled.clone()
        };
        assert_near("pulled gradients", &pull(&deltas), &gradients, bound);
        let u = vectors(4, examples, outputs);
        let rows = pull(&u);
        let mut sum = vec![0.0; p];
        rows.chunks_exact(p).for_each(|row| sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x));
        let mut transposed = vec![f64::NAN; p];
        let jacobian = lin.jacobian();
        jacobian.apply_transpose(MatMut::from_row(&mut transposed), MatRef::from_row(&u), &mut []).unwrap();
        assert_near("transposed Jacobian", &transposed, &sum, bound);
        let mut tangents = vec![f64::NAN; k * examples * outputs];
        let out = MatMut::new(&mut tangents, k, examples * outputs).unwrap();
        jacobian.apply(out, MatRef::new(&v, k, p).unwrap(), &mut []).unwrap();
        for (v, tangent) in v.chunks_exact(p).zip(tangents.chunks_exact(examples * outputs)) {
            assert_near("adjoint", &[oracle::dot(tangent, &u)], &[oracle::dot(v, &transposed)], p as f64 * bound);
        }
        // The factor's transpose is its transpose.
        let factor = lin.gauss_newton_factor().unwrap();
        let w = vectors(5, 1, factor.dim_out());
        let mut image = vec![f64::NAN; p];
        let mut scratch = vec![f64::NAN; factor.transpose_scratch_len(1)];
        factor.apply_transpose(MatMut::from_row(&mut image), MatRef::from_row(&w), &mut scratch).unwrap();
        for v in v.chunks_exact(p) {
            let along = oracle::dot(&product(&factor, v), &w);
            assert_near("factor", &[along], &[oracle::dot(v, &image)], p as f64 * bound);
        }
    }
}

#[test]
fn sampled_fishers_have_the_mean_of_gauss_and_newton() {
    for loss in LOSSES {
        let net = Mlp::new(&[1, 2, 2], Activation::Tanh, loss).unwrap();
        let problem = Problem::<f64>::new(net, 3, 11);
        let lin = problem.linearized(Reduction::Mean);
        let truth = to_dense(&lin.gauss_newton()).unwrap();
        let runs = 2000;
        let (mut sum, mut squares) = (vec![0.0; truth.len()], vec![0.0; truth.len()]);
        for run in 0..runs {
            let op = lin.sampled_fisher(1, Stream::new(run as u64, "runs")).unwrap();
            for ((sum, square), x) in sum.iter_mut().zip(&mut squares).zip(to_dense(&op).unwrap()) {
                *sum += x;
                *square += x * x;
            }
        }
        let rounding = problem.bound(2, 81.0);
        for ((sum, square), expected) in sum.iter().zip(&squares).zip(&truth) {
            let mean = sum / runs as f64;
            let deviation = (square / runs as f64 - mean * mean).max(0.0).sqrt();
            let bound = tolerance::monte_carlo(runs, deviation) + rounding;
            assert!((mean - expected).abs() <= bound, "{loss}: {mean} instead of {expected} +- {bound}");
        }
        // More samples in one operator are the mean of operators with one each, in law: here the variance shrinks.
        let many = to_dense(&lin.sampled_fisher(runs, Stream::new(1, "many")).unwrap()).unwrap();
        for (((got, expected), sum), square) in many.iter().zip(&truth).zip(&sum).zip(&squares) {
            let mean = sum / runs as f64;
            let deviation = (square / runs as f64 - mean * mean).max(0.0).sqrt();
            assert!((got - expected).abs() <= tolerance::monte_carlo(runs, deviation) + rounding, "{loss}");
        }
        let zero = lin.sampled_fisher(0, Stream::new(0, "none"));
        assert!(matches!(zero, Err(Error::Core(CoreError::Parameter { .. }))));
    }
}

/// The expectation over labels, written out: `sum_c p_c (p - e_c)(p - e_c)^T = diag p - p p^T`.
#[test]
fn the_categorical_fisher_is_a_weighted_sum_of_empirical_ones() {
    let net = Mlp::new(&[2, 3, 4], Activation::Gelu, Loss::CrossEntropy).unwrap();
    let mut problem = Problem::<f64>::new(net, 1, 3);
    let truth = to_dense(&problem.linearized(Reduction::Mean).gauss_newton()).unwrap();
    let mut sum = Vec::new();
    for label in 0..4 {
        problem.labels = vec![label];
        let lin = problem.linearized(Reduction::Mean);
        let probability = (-lin.loss()).exp();
        let fisher = to_dense(&lin.empirical_fisher()).unwrap();
        add(&mut sum, &fisher.iter().map(|x| probability * x).collect::<Vec<_>>());
    }
    assert_near("Fisher", &sum, &truth, problem.bound(2, 1.0));
}

#[test]
fn threads_do_not_change_a_bit() {
    // Enough work to be cut into parts, for one vector and for several.
    let net = Mlp::new(&[61, 67, 10], Activation::Silu, Loss::CrossEntropy).unwrap();
    let problem = Problem::<f32>::new(net, 1031, 5);
    let p = problem.net.params();
    let v: Vec<f32> = oracle::uniform(Stream::new(6, "v"), 9 * p);
    let indices: Vec<usize> = (0..700).map(|i| i * 7 % 1031).collect();
    let results = |threads: usize| {
        let lin = problem.with_threads(Reduction::Mean, Parallelism::threads(threads));
        let mut out = vec![lin.gradient().unwrap()];
        for rows in [1, 9] {
            let v = MatRef::new(&v[..rows * p], rows, p).unwrap();
            out.push(apply_alloc(&lin.hessian(), v).unwrap());
            out.push(apply_alloc(&lin.gauss_newton(), v).unwrap());
            let mut dots = vec![0.0; 1031 * rows];
            lin.gradient_dots(MatMut::new(&mut dots, 1031, rows).unwrap(), v).unwrap();
            out.push(dots);
            let mut batch = vec![0.0; rows * p];
            lin.hessian().apply_examples(MatMut::new(&mut batch, rows, p).unwrap(), v, &indices, &mut []).unwrap();
            out.push(batch);
        }
        let few = Problem {
            inputs: problem.inputs[..61 * 70].to_vec(),
            labels: problem.labels[..70].to_vec(),
            ..problem.clone()
        };
        let lin = few.with_threads(Reduction::Mean, Parallelism::threads(threads));
        out.push(lin.gauss_newton_factor().unwrap().gram().unwrap());
        let mut gradients = vec![0.0; 70 * p];
        lin.per_example_gradients(MatMut::new(&mut gradients, 70, p).unwrap()).unwrap();
        out.push(gradients);
        out
    };
    let serial = results(1);
    for threads in [2, 3, 8] {
        assert!(with_eight_threads(|| results(threads)) == serial, "{threads} threads");
    }
}

/// One linear layer of one example with input 1 and no bias: the parameters are the logits.
fn at_logits<T: Real>(loss: Loss, z: &[f64], label: usize, check: impl Fn(&Linearized<'_, T>)) {
    let net = Mlp::with_biases(&[1, z.len()], &[false], Activation::Identity, loss).unwrap();
    let mut values = vec![T::ZERO; z.len()];
    values[label] = T::ONE;
    let problem = Problem::<T> { params: oracle::narrow(z), inputs: vec![T::ONE], labels: vec![label], values, net };
    check(&problem.linearized(Reduction::Sum));
}

/// `e^x` for the closed forms below, where a small relative error is asked for.
fn relative<T: Real>(what: &str, got: T, expected: f64, roundings: usize) {
    let bound = tolerance::gamma::<T>(roundings) * expected.abs() + T::MIN_POSITIVE.to_f64();
    assert!((got.to_f64() - expected).abs() <= bound, "{what}: {got} instead of {expected}");
}

fn check_saturated<T: Real>(largest: f64) {
    // Each logarithm, exponential and logistic function is within an ulp or two; an exponent of up to `gap` magnifies
    // the rounding of nothing, since differences of these logits are exact.
    for gap in [1.0, 8.0, 32.0, largest] {
        // Two classes at distance `gap`: p_1 = e^-gap / (1 + e^-gap), exactly known.
        let small = (-gap).exp() / (1.0 + (-gap).exp());
        let variance = small / (1.0 + (-gap).exp());
        let losses = [(-gap).exp().ln_1p(), gap + (-gap).exp().ln_1p()];
        for (label, loss) in losses.into_iter().enumerate() {
            let sign = if label == 0 { 1.0 } else { -1.0 };
            at_logits::<T>(Loss::CrossEntropy, &[gap / 2.0, -gap / 2.0], label, |lin| {
                relative("cross entropy", lin.loss(), loss, 16);
                let p = if label == 0 { small } else { 1.0 / (1.0 + (-gap).exp()) };
                let gradient = lin.gradient().unwrap();
                relative("gradient", gradient[0], -sign * p, 16);
                relative("gradient", gradient[1], sign * p, 16);
                for curvature in [to_dense(&lin.gauss_newton()).unwrap(), to_dense(&lin.hessian()).unwrap()] {
                    for (x, sign) in curvature.iter().zip([1.0, -1.0, -1.0, 1.0]) {
                        relative("curvature", *x, sign * variance, 24);
                    }
                }
            });
            at_logits::<T>(Loss::Bce, &[gap, -gap], label, |lin| {
                // Output `label` has target 1: the loss of gap against 1 is small, of -gap against 0 too.
                relative("binary", lin.loss(), 2.0 * loss, 24);
                let hessian = to_dense(&lin.hessian()).unwrap();
                relative("variance", hessian[0], variance, 16);
                relative("variance", hessian[3], variance, 16);
                assert_eq!((hessian[1], hessian[2]), (T::ZERO, T::ZERO));
            });
        }
    }
    // Many classes, all but one hopeless: everything is finite.
    let z: Vec<f64> = (0..10).map(|i| if i == 3 { largest } else { -largest + f64::from(i) }).collect();
    for label in [0, 3] {
        at_logits::<T>(Loss::CrossEntropy, &z, label, |lin| {
            let all = [
                vec![lin.loss()],
                lin.gradient().unwrap(),
                to_dense(&lin.hessian()).unwrap(),
                to_dense(&lin.gauss_newton_factor().unwrap()).unwrap(),
                to_dense(&lin.sampled_fisher(3, Stream::new(0, "saturated")).unwrap()).unwrap(),
            ];
            assert!(all.iter().flatten().all(|x| x.is_finite()), "{all:?}");
        });
    }
}

#[test]
fn saturated_losses_are_accurate() {
    check_saturated::<f64>(500.0);
    check_saturated::<f32>(80.0);
    check_saturated::<f32>(500.0);
}

#[test]
fn activations_are_finite_wherever_their_values_are() {
    fn check<T: Real>(activation: Activation) {
        let magnitudes = [0.0, T::MIN_POSITIVE.to_f64(), 1e-8, 1.0, 20.0, 500.0, 1e5, 1e9, 1e15, 1e20, 1e30, 1e38];
        for x in magnitudes.into_iter().chain([1e80, 1e160, 1e300]).filter(|&x| x < T::MAX.to_f64()) {
            for x in [T::from_f64(x), T::from_f64(-x)] {
                let (value, slope, bend) = activation.derivatives(x);
                assert!(
                    value.is_finite() && slope.is_finite() && bend.is_finite(),
                    "{activation} at {x}: {value} {slope} {bend}"
                );
                // The same value as the function alone, up to the last roundings.
                let alone = activation.value(x).to_f64();
                let bound = tolerance::gamma::<T>(8) * alone.abs().max(x.to_f64().abs().min(1.0));
                assert!((value.to_f64() - alone).abs() <= bound, "{activation} at {x}");
            }
        }
    }
    for (_, activation) in Activation::NAMES {
        check::<f32>(activation);
        check::<f64>(activation);
        // The derivatives are those of the value, by dual numbers; sizes near 1, where each is at most 2.
        for i in -40..=40 {
            let x = f64::from(i) * 0.17 + 0.01;
            let twice = activation.value(Dual::<Dual<f64>>::variable(Dual::variable(x, 0), 0));
            let (value, slope, bend) = activation.derivatives(x);
            let expected = [twice.value.value, twice.value.tangents[0], twice.tangents[0].tangents[0]];
            // Up to 32 roundings of terms of at most x^2 times as much.
            assert_near(
                "derivatives",
                &[value, slope, bend],
                &expected,
                tolerance::gamma::<f64>(32) * (2.0 + x.abs().powi(5)),
            );
        }
        assert_eq!(activation.to_string().parse::<Activation>(), Ok(activation));
    }
    for loss in LOSSES {
        assert_eq!(loss.to_string().parse::<Loss>(), Ok(loss));
    }
    assert!(matches!("swish".parse::<Activation>(), Err(Error::Name { .. })));
    assert!(matches!("mae".parse::<Loss>(), Err(Error::Name { .. })));
}

#[test]
fn wrong_inputs_are_named() {
    let net = Mlp::new(&[2, 3], Activation::Relu, Loss::CrossEntropy).unwrap();
    let good = Problem::<f64>::new(net.clone(), 4, 1);
    let refused = |problem: &Problem<f64>, targets: Targets<'_, f64>| {
        let (params, par) = (&problem.params, Parallelism::Serial);
        Linearized::new(&problem.net, params, problem.input(), targets, Reduction::Mean, par).err()
    };
    let label = refused(&good, Targets::Classes(&[0, 1, 3, 2]));
    assert_eq!(label, Some(Error::Label { example: 2, label: 3, classes: 3 }));
    let short = refused(&good, Targets::Classes(&[0, 1]));
    assert!(matches!(short, Some(Error::Core(CoreError::Shape { expected: 4, got: 2, .. }))));
    let values = refused(&good, Targets::Values(MatRef::new(&good.values, 4, 3).unwrap()));
    assert!(matches!(values, Some(Error::Targets { .. })));
    for bad in [f64::NAN, f64::INFINITY] {
        let mut problem = good.clone();
        problem.params[5] = bad;
        let found = refused(&problem, problem.targets());
        assert!(matches!(found, Some(Error::Core(CoreError::NonFinite { index: 5, .. }))));
        let mut problem = good.clone();
        problem.inputs[3] = bad;
        assert!(matches!(refused(&problem, problem.targets()), Some(Error::Core(CoreError::NonFinite { .. }))));
        let mse = Mlp::new(&[2, 3], Activation::Relu, Loss::HalfMse).unwrap();
        let mut problem = Problem { net: mse, ..good.clone() };
        assert!(matches!(refused(&problem, Targets::Classes(&[0; 4])), Some(Error::Targets { .. })));
        problem.values[7] = bad;
        assert!(matches!(refused(&problem, problem.targets()), Some(Error::Core(CoreError::NonFinite { .. }))));
    }
    let none = Problem::<f64>::new(net, 0, 1);
    assert!(matches!(refused(&none, none.targets()), Some(Error::Core(CoreError::Empty { .. }))));
    let fewer = Problem { params: good.params[1..].to_vec(), ..good.clone() };
    assert!(matches!(
        refused(&fewer, fewer.targets()),
        Some(Error::Core(CoreError::Shape { expected: 9, got: 8, .. }))
    ));

    let lin = good.linearized(Reduction::Mean);
    let mut out = [7.0; 36];
    let shapes = [
        lin.per_example_gradients(MatMut::new(&mut out[..27], 3, 9).unwrap()).err(),
        lin.gradient_dots(MatMut::new(&mut out[..8], 4, 2).unwrap(), MatRef::new(&[1.0; 9], 1, 9).unwrap()).err(),
        lin.gradient_dots(MatMut::new(&mut out[..4], 4, 1).unwrap(), MatRef::new(&[1.0; 8], 1, 8).unwrap()).err(),
        lin.per_example_pullback(MatMut::new(&mut out, 4, 9).unwrap(), MatRef::new(&[1.0; 9], 3, 3).unwrap()).err(),
    ];
    for found in shapes {
        assert!(matches!(found, Some(Error::Core(CoreError::Shape { .. }))), "{found:?}");
    }
    assert_eq!(out, [7.0; 36]);

    let made = |widths: &[usize]| Mlp::new(widths, Activation::Relu, Loss::Bce);
    for widths in [&[][..], &[3], &[2, 0], &[0, 2]] {
        assert!(matches!(made(widths), Err(Error::Core(CoreError::Empty { .. }))), "{widths:?}");
    }
    for widths in [&[usize::MAX, 1][..], &[usize::MAX / 2, 3], &[1 << 40, 1 << 40, 1 << 40]] {
        assert!(matches!(made(widths), Err(Error::Core(CoreError::Overflow { .. }))), "{widths:?}");
    }
    assert!(Mlp::with_biases(&[1, 2], &[true, false], Activation::Relu, Loss::Bce).is_err());
}

#[test]
fn initial_values_follow_their_law() {
    let net = Mlp::new(&[4, 500, 3], Activation::Relu, Loss::Bce).unwrap();
    let mut params = vec![0.0_f64; net.params()];
    net.initialize(&mut params, Stream::new(1, "init")).unwrap();
    for layer in net.layers() {
        let own = &params[layer.offset..layer.offset + layer.len()];
        let bound = 1.0 / (layer.inputs as f64).sqrt();
        assert!(own.iter().all(|x| (-bound..bound).contains(x)));
        // Uniform numbers have variance bound^2 / 3.
        let mean = own.iter().sum::<f64>() / own.len() as f64;
        assert!(mean.abs() <= tolerance::monte_carlo(own.len(), bound / 3.0_f64.sqrt()));
        assert!(largest(own) > 0.98 * bound);
    }
    let again: Vec<f64> = {
        let mut params = vec![0.0; net.params()];
        net.initialize(&mut params, Stream::new(1, "init")).unwrap();
        params
    };
    assert_eq!(params, again);
    assert!(net.initialize(&mut params[1..], Stream::new(1, "init")).is_err());
}

/// 160 GB for one example, of a network that fits into a few megabytes.
#[test]
fn a_factor_that_does_not_fit_is_refused() {
    let net = Mlp::new(&[1, 200_000], Activation::Identity, Loss::CrossEntropy).unwrap();
    let (params, x) = (vec![0.0; net.params()], [1.0; 4]);
    let x = MatRef::new(&x, 4, 1).unwrap();
    let targets = Targets::Classes(&[0, 1, 2, 3]);
    let lin = Linearized::new(&net, &params, x, targets, Reduction::Mean, Parallelism::Serial).unwrap();
    let what = "Gauss-Newton factor";
    assert_eq!(lin.gauss_newton_factor().err(), Some(Error::Core(CoreError::Overflow { what })));
}
