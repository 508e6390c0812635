//! Laws of the solvers: all agree, each reports what is true, and none breaks on a hard system.

use ascribe_core::linop::{Dense, Diagonal, Identity};
use ascribe_core::random::Stream;
use ascribe_core::{Error as CoreError, ExampleLinOp, LinOp, MatMut, MatRef};
use ascribe_solvers::Error;
use ascribe_solvers::inverse::{
    AsOperator, Batch, Cg, Explicit, ExplicitSpectrum, Lissa, Neumann, Solve, SolveReport, Start, Stop, Woodbury,
};
use ascribe_solvers::parallel::Parallelism;
use ascribe_tests::solving::{ByRow, Elementwise, assert_rows_near, refusal, solve, truths};
use ascribe_tests::with_eight_threads;
use ascribe_tests::{oracle, tolerance};
use proptest::prelude::*;

/// `(1/N) sum_n g_n g_n^T` over the rows `g_n`.
struct Outer {
    rows: Vec<f64>,
    dim: usize,
}

impl Outer {
    fn new(examples: usize, dim: usize, seed: u64) -> Self {
        Self { rows: oracle::uniform(Stream::new(seed, "outer"), examples * dim), dim }
    }
    fn matrix(&self) -> Vec<f64> {
        let (n, count) = (self.dim, self.examples() as f64);
        let entry = |e: usize| self.rows.chunks_exact(n).map(|g| g[e / n] * g[e % n]).sum::<f64>() / count;
        (0..n * n).map(entry).collect()
    }
}

impl LinOp<f64> for Outer {
    fn dim_in(&self) -> usize {
        self.dim
    }
    fn dim_out(&self) -> usize {
        self.dim
    }
    fn apply(&self, out: MatMut<'_, f64>, x: MatRef<'_, f64>, scratch: &mut [f64]) -> Result<(), CoreError> {
        self.apply_examples(out, x, &(0..self.examples()).collect::<Vec<_>>(), scratch)
    }
}

impl ExampleLinOp<f64> for Outer {
    fn examples(&self) -> usize {
        self.rows.len() / self.dim
    }
    fn examples_scratch_len(&self, _: usize, _: usize) -> usize {
        0
    }
    fn apply_examples(
        &self,
        mut out: MatMut<'_, f64>,
        x: MatRef<'_, f64>,
        indices: &[usize],
        _: &mut [f64],
    ) -> Result<(), CoreError> {
        out.for_each_row(|i, out| {
            out.fill(0.0);
            for &index in indices {
                let g = &self.rows[index * self.dim..(index + 1) * self.dim];
                let along = oracle::dot(g, x.row(i)) / indices.len() as f64;
                out.iter_mut().zip(g).for_each(|(y, g)| *y += along * g);
            }
        });
        Ok(())
    }
}

/// A system that every solver can solve: `A = (1/N) sum g g^T` and a damping of at most a tenth of its trace.
#[derive(Debug, Clone, Copy)]
struct System {
    dim: usize,
    examples: usize,
    rows: usize,
    /// Trace over damping.
    ratio: f64,
    seed: u64,
}

impl System {
    fn op(&self) -> Outer {
        Outer::new(self.examples, self.dim, self.seed)
    }
    fn rhs(&self) -> Vec<f64> {
        oracle::uniform(Stream::new(self.seed, "rhs"), self.rows * self.dim)
    }
    fn trace(&self) -> f64 {
        self.op().matrix().iter().step_by(self.dim + 1).sum()
    }
    fn damping(&self) -> f64 {
        self.trace() / self.ratio
    }
    /// Bound of the condition number.
    fn condition(&self) -> f64 {
        1.0 + self.ratio
    }
}

fn system() -> impl Strategy<Value = System> {
    let sizes = (prop::sample::select(vec![1, 2, 3, 7, 17]), prop::sample::select(vec![1, 2, 5, 23]), 0..4_usize);
    (sizes, 10.0..300.0_f64, any::<u64>()).prop_map(|((dim, examples, rows), ratio, seed)| System {
        dim,
        examples,
        rows,
        ratio,
        seed,
    })
}

/// The steps after which the slowest direction has shrunk to `rtol`.
fn steps(condition: f64, rtol: f64) -> usize {
    (condition * -rtol.ln()).ceil() as usize
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn all_solvers_agree(system in system()) {
        let (op, rhs, damping, n) = (system.op(), system.rhs(), system.damping(), system.dim);
        let a = op.matrix();
        let truth = truths(&a, damping, &rhs, n);
        let dense = Dense::new(MatRef::new(&a, n, n).unwrap());
        let condition = system.condition();
        let direct = tolerance::solutions(condition, tolerance::direct_residual::<f64>(n + system.examples));

        let explicit = Explicit { damping, ..Explicit::default() }.prepare(&op).unwrap();
        prop_assert!(explicit.is_positive_definite());
        assert_rows_near("explicit", n, &solve(&explicit, &rhs).0, &truth, direct);

        let spectrum = ExplicitSpectrum::new(&dense, Parallelism::Serial).unwrap();
        let mut x = vec![f64::NAN; rhs.len()];
        spectrum.solve(damping, MatMut::new(&mut x, system.rows, n).unwrap(), MatRef::new(&rhs, system.rows, n).unwrap()).unwrap();
        assert_rows_near("spectrum", n, &x, &truth, direct);

        let psi = MatRef::new(&op.rows, system.examples, n).unwrap();
        let scale = 1.0 / system.examples as f64;
        let woodbury = Woodbury::from_rows(psi, scale, damping, Parallelism::Serial).unwrap();
        assert_rows_near("Woodbury", n, &solve(&woodbury, &rhs).0, &truth, direct);

        let rtol = 1e-11;
        let iterative = direct + tolerance::solutions(condition, rtol + tolerance::residual_drift::<f64>(n, 50));
        for (start_at_rhs, refresh_every) in [(false, 0), (true, 3)] {
            let cg = Cg { damping, rtol, start_at_rhs, refresh_every, ..Cg::default() };
            let (x, reports) = solve(&cg.prepare(&op).unwrap(), &rhs);
            prop_assert!(reports.iter().all(|r| r.stop == Stop::Converged), "{:?}", reports);
            assert_rows_near("CG", n, &x, &truth, iterative);
        }

        let alpha = 1.0 / (system.trace() + damping);
        let count = steps(condition, rtol);
        let truncated = direct + tolerance::solutions(condition, rtol + tolerance::residual_drift::<f64>(n, 50));
        for start in [Start::Zero, Start::Rhs, Start::AlphaRhs, Start::PreconditionedRhs] {
            // From x = v the first residual is larger than v by at most trace + damping.
            let steps = count + steps(condition, 1.0 / (2.0 + system.trace() + damping));
            let neumann = Neumann { alpha, damping, steps, start, ..Neumann::default() };
            let (x, _) = solve(&neumann.prepare(&op).unwrap(), &rhs);
            assert_rows_near("Neumann", n, &x, &truth, truncated);
        }
        let lissa = Lissa { alpha, damping, steps: count, batch: Batch::Full, ..Lissa::default() };
        assert_rows_near("LiSSA", n, &solve(&lissa.prepare(&op).unwrap(), &rhs).0, &truth, truncated);
    }

    #[test]
    fn single_precision_solves_to_its_own_precision(system in system()) {
        let (rhs, n) = (system.rhs(), system.dim);
        let a: Vec<f32> = oracle::narrow(&system.op().matrix());
        let rhs: Vec<f32> = oracle::narrow(&rhs);
        let damping = f64::from(system.damping() as f32);
        let truth = truths(&oracle::wide(&a), damping, &oracle::wide(&rhs), n);
        let dense = Dense::new(MatRef::new(&a, n, n).unwrap());
        let direct = tolerance::solutions(system.condition(), tolerance::direct_residual::<f32>(n));
        let explicit = Explicit { damping, ..Explicit::default() }.prepare(&dense).unwrap();
        assert_rows_near("explicit", n, &solve(&explicit, &rhs).0, &truth, direct);
        let rtol = 1e-4;
        let (x, reports) = solve(&Cg { damping, rtol, ..Cg::default() }.prepare(&dense).unwrap(), &rhs);
        prop_assert!(reports.iter().all(|r| r.stop == Stop::Converged), "{:?}", reports);
        let bound = direct + tolerance::solutions(system.condition(), rtol + tolerance::residual_drift::<f32>(n, 50));
        assert_rows_near("CG", n, &x, &truth, bound);
    }

    #[test]
    fn inverses_obey_their_laws(system in system(), other in 0.1..10.0_f64) {
        let system = System { rows: 2, ..system };
        let (op, rhs, damping, n) = (system.op(), system.rhs(), system.damping(), system.dim);
        let (a, condition) = (op.matrix(), system.condition() * 10.0);
        let bound = tolerance::solutions(condition, tolerance::direct_residual::<f64>(n));
        let explicit = |a: &[f64], damping: f64, v: &[f64]| {
            let dense = Dense::new(MatRef::new(a, n, n).unwrap());
            solve(&Explicit { damping, ..Explicit::default() }.prepare(&dense).unwrap(), v).0
        };
        let x = explicit(&a, damping, &rhs);
        let (u, v) = rhs.split_at(n);
        let norms = oracle::norm(u) * oracle::norm(v) / damping;

        // <u, A^-1 v> = <v, A^-1 u>, for a truncated series too.
        let neumann = Neumann { alpha: 1.0 / (system.trace() + damping), damping, steps: 7, ..Neumann::default() };
        for x in [x.clone(), solve(&neumann.prepare(&op).unwrap(), &rhs).0] {
            let (xu, xv) = x.split_at(n);
            prop_assert!((oracle::dot(u, xv) - oracle::dot(v, xu)).abs() <= 2.0 * bound * norms);
        }
        // x(l) - x(m) = (m - l) A_l^-1 x(m), and the norm falls as the damping grows.
        let more = other * damping + damping;
        let y = explicit(&a, more, &rhs);
        let difference: Vec<f64> = explicit(&a, damping, &y).iter().map(|x| (more - damping) * x).collect();
        let found = oracle::minus(&x, &y);
        for i in 0..2 {
            let row = i * n..(i + 1) * n;
            let error = oracle::norm(&oracle::minus(&found[row.clone()], &difference[row.clone()]));
            let size = oracle::norm(&x[row.clone()]);
            prop_assert!(error <= 4.0 * (1.0 + other) * bound * size, "{error}");
            prop_assert!(oracle::norm(&y[row]) <= size * (1.0 + 2.0 * bound));
        }
        // c A x = v has the solution x / c.
        let scaled: Vec<f64> = a.iter().map(|a| other * a).collect();
        let expected: Vec<f64> = x.iter().map(|x| x / other).collect();
        assert_rows_near("scaled", n, &explicit(&scaled, other * damping, &rhs), &expected, 2.0 * bound);
        // (A + l) w and back.
        let image: Vec<f64> = rhs.chunks_exact(n).flat_map(|w| {
            let aw = oracle::mat_vec(&a, n, w);
            aw.iter().zip(w).map(|(a, w)| a + damping * w).collect::<Vec<_>>()
        }).collect();
        assert_rows_near("round trip", n, &explicit(&a, damping, &image), &rhs, bound);
    }

    /// The report of CG is the true residual up to the rounding of the recursion.
    #[test]
    fn cg_reports_the_residual_it_has(system in system(), limit in 0..8_usize) {
        let (op, rhs, damping, n) = (system.op(), system.rhs(), system.damping(), system.dim);
        let cg = Cg { damping, rtol: 1e-9, max_iterations: limit, ..Cg::default() };
        let (x, reports) = solve(&cg.prepare(&op).unwrap(), &rhs);
        for ((x, v), report) in x.chunks_exact(n).zip(rhs.chunks_exact(n)).zip(&reports) {
            let ax = oracle::mat_vec(&op.matrix(), n, x);
            let residual: Vec<f64> = v.iter().zip(&ax).zip(x).map(|((v, ax), x)| v - ax - damping * x).collect();
            let stated = report.relative_residual * oracle::norm(v);
            // The error falls in the norm of A, so no iterate is larger than sqrt(condition) times twice the solution.
            let size = (system.trace() + damping) * 2.0 * system.condition().sqrt() * oracle::norm(v) / damping;
            let drift = tolerance::residual_drift::<f64>(n, report.iterations) * (size + oracle::norm(v));
            prop_assert!((oracle::norm(&residual) - stated).abs() <= drift, "{report:?}");
            prop_assert_eq!(report.stop == Stop::Converged, report.relative_residual <= 1e-9);
            prop_assert!(report.iterations <= limit);
        }
    }

    #[test]
    fn rows_of_a_block_are_solved_by_themselves(system in system(), threads in 2..5_usize) {
        let (rhs, damping, n) = (system.rhs(), system.damping(), system.dim);
        let a = system.op().matrix();
        let op = ByRow::<f64>::new(&a, n);
        let alpha = 1.0 / (system.trace() + damping);
        let with = |parallelism: Parallelism, rhs: &[f64]| {
            let cg = Cg { damping, rtol: 1e-8, parallelism, refresh_every: 4, ..Cg::default() };
            let neumann = Neumann { alpha, damping, rtol: 1e-3, steps: 40, parallelism, ..Neumann::default() };
            let (x, reports) = solve(&cg.prepare(&op).unwrap(), rhs);
            let (y, more) = solve(&neumann.prepare(&op).unwrap(), rhs);
            ((x, y), (reports, more))
        };
        let ((x, y), (reports, more)) = with(Parallelism::Serial, &rhs);
        let parallel = with(Parallelism::threads(threads), &rhs);
        prop_assert_eq!(&parallel, &((x.clone(), y.clone()), (reports.clone(), more.clone())));
        for (i, v) in rhs.chunks_exact(n).enumerate() {
            op.applied.set(0);
            let ((own_x, own_y), (own, own_more)) = with(Parallelism::Serial, v);
            prop_assert_eq!((&own_x[..], &own_y[..]), (&x[i * n..(i + 1) * n], &y[i * n..(i + 1) * n]));
            prop_assert_eq!((own[0], own_more[0]), (reports[i], more[i]));
            prop_assert_eq!(op.applied.get(), own[0].operator_applications + own_more[0].operator_applications);
        }
    }

    /// At most one step for every distinct eigenvalue; one step when the preconditioner is the inverse.
    #[test]
    fn cg_needs_a_step_for_each_distinct_eigenvalue(distinct in 1..5_usize, n in 5..30_usize, seed in any::<u64>()) {
        let values: Vec<f64> = (0..n).map(|i| f64::from(1 << (i % distinct))).collect();
        let a = oracle::with_spectrum(&values, Stream::new(seed, "spectrum"));
        let op = ByRow::<f64>::new(&a, n);
        let v: Vec<f64> = oracle::uniform(Stream::new(seed, "rhs"), n);
        let cg = Cg { rtol: 1e-10, ..Cg::default() };
        let (_, reports) = solve(&cg.prepare(&op).unwrap(), &v);
        prop_assert!(reports[0].is_converged() && reports[0].iterations <= distinct, "{:?}", reports);
        let inverse = AsOperator(Explicit::default().prepare(&op).unwrap());
        let (x, reports) = solve(&cg.prepare_with(&op, &inverse).unwrap(), &v);
        prop_assert!(reports[0].is_converged() && reports[0].iterations == 1, "{:?}", reports);
        let condition = f64::from(1 << (distinct - 1));
        let bound = tolerance::solutions(condition, 1e-10 + tolerance::direct_residual::<f64>(n));
        assert_rows_near("preconditioned", n, &x, &oracle::solve(&a, 0.0, &v), bound);
    }

    #[test]
    fn cg_finds_negative_curvature(n in 2..20_usize, seed in any::<u64>()) {
        let mut values = oracle::spectrum(n, 2.0, 10.0);
        values[n / 2] = -1.0;
        let a = oracle::with_spectrum(&values, Stream::new(seed, "indefinite"));
        let op = ByRow::<f64>::new(&a, n);
        let v: Vec<f64> = oracle::uniform(Stream::new(seed, "rhs"), n);
        let cg = Cg { rtol: 0.0, max_iterations: 10 * n, refresh_every: 0, ..Cg::default() };
        let (x, reports) = solve(&cg.prepare(&op).unwrap(), &v);
        let Stop::NegativeCurvature { curvature } = reports[0].stop else { panic!("{reports:?}") };
        // Rayleigh: no direction has less curvature than the smallest eigenvalue.
        let slack = tolerance::direct_residual::<f64>(n) * oracle::norm(&a);
        prop_assert!((-1.0 - slack..=slack).contains(&curvature), "{}", curvature);
        // The solution is the iterate before it: what as many steps give.
        let stopped = Cg { max_iterations: reports[0].iterations, ..cg };
        prop_assert_eq!(solve(&stopped.prepare(&op).unwrap(), &v).0, x);
        // A damping above the most negative curvature helps.
        let (_, reports) = solve(&Cg { damping: 1.5, rtol: 1e-8, ..cg }.prepare(&op).unwrap(), &v);
        prop_assert!(reports[0].is_converged());
    }

    /// Powers of two are exact: the solution for `2^k v` is `2^k` times that for `v`, to the bit.
    #[test]
    fn cg_does_not_mind_the_size_of_the_right_hand_side(system in system(), exponent in -110..110_i32) {
        let (n, damping) = (system.dim, system.damping());
        let op = ByRow::<f32>::new(&system.op().matrix(), n);
        let v: Vec<f32> = oracle::narrow(&system.rhs());
        // Entries of a moderate ratio, so that none of them becomes subnormal.
        let v: Vec<f32> = v.iter().map(|x| x + x.signum()).collect();
        let by = 2.0_f32.powi(exponent);
        let scaled: Vec<f32> = v.iter().map(|x| by * x).collect();
        let cg = Cg { damping, rtol: 1e-4, ..Cg::default() };
        let ((x, reports), (y, more)) = (solve(&cg.prepare(&op).unwrap(), &v), solve(&cg.prepare(&op).unwrap(), &scaled));
        prop_assert_eq!(reports, more);
        let expected: Vec<f32> = x.iter().map(|x| by * x).collect();
        let normal = expected.iter().all(|x| x.is_normal() || *x == 0.0);
        prop_assert!(!normal || expected == y, "{:?} {:?}", expected, y);
    }
}

#[test]
fn exact_convergence_is_no_breakdown() {
    // A tolerance of zero, and many more steps than there is anything left to do.
    for n in [1, 2, 7] {
        for values in [vec![1.0; n], vec![4.0; n], oracle::spectrum(n, 3.0, 50.0)] {
            for refresh_every in [0, 7, 50] {
                let a = oracle::with_spectrum(&values, Stream::new(1, "exact"));
                let v: Vec<f64> = oracle::uniform(Stream::new(2, "exact"), n);
                let cg = Cg { rtol: 0.0, refresh_every, max_iterations: 500, ..Cg::default() };
                for op in [&ByRow::new(&a, n) as &dyn LinOp<f64>, &Diagonal::new(&values)] {
                    let (x, reports) = solve(&cg.prepare(op).unwrap(), &v);
                    assert!(x.iter().all(|x| x.is_finite()), "{x:?}");
                    assert!(matches!(reports[0].stop, Stop::Converged | Stop::IterationLimit), "{reports:?}");
                    assert!(reports[0].relative_residual <= tolerance::residual_drift::<f64>(n, 500) * 50.0);
                }
                let (single, reports) =
                    solve(&cg.prepare(&ByRow::<f32>::new(&a, n)).unwrap(), &oracle::narrow::<f32>(&v));
                assert!(single.iter().all(|x| x.is_finite()));
                assert!(matches!(reports[0].stop, Stop::Converged | Stop::IterationLimit), "{reports:?}");
            }
        }
    }
}

/// Every solver of one operator, for the inputs that all must take.
fn each_solver(op: &Outer, damping: f64, check: impl Fn(&str, &dyn Solve<f64>)) {
    let psi = MatRef::new(&op.rows, op.examples(), op.dim).unwrap();
    let scale = 1.0 / op.examples() as f64;
    let lissa = Lissa { damping, steps: 20, ..Lissa::default() };
    let preconditioned = Identity::new(op.dim);
    check("explicit", &Explicit { damping, ..Explicit::default() }.prepare(op).unwrap());
    check("CG", &Cg { damping, ..Cg::default() }.prepare(op).unwrap());
    check("CG from v", &Cg { damping, start_at_rhs: true, ..Cg::default() }.prepare(op).unwrap());
    check("PCG", &Cg { damping, ..Cg::default() }.prepare_with(op, &preconditioned).unwrap());
    check("Neumann", &Neumann { damping, alpha: 0.1, start: Start::Rhs, ..Neumann::default() }.prepare(op).unwrap());
    check("LiSSA", &lissa.prepare(op).unwrap());
    check("LiSSA, twice", &Lissa { repeats: 2, ..lissa }.prepare(op).unwrap());
    check("Woodbury", &Woodbury::from_rows(psi, scale, damping, Parallelism::Serial).unwrap());
}

#[test]
fn every_solver_takes_zero_and_refuses_nan() {
    let op = Outer::new(5, 3, 1);
    each_solver(&op, 0.5, |name, solver| {
        let rhs = [0.0, 0.0, 0.0, 1.0, -2.0, 0.5, 0.0, 0.0, 0.0];
        let (x, reports) = solve(solver, &rhs);
        assert_eq!((&x[..3], &x[6..]), (&[0.0; 3][..], &[0.0; 3][..]), "{name}");
        assert!(x.iter().all(|x| x.is_finite()) && x[3] != 0.0, "{name}");
        assert!(reports[0].is_converged() && reports[0].relative_residual == 0.0, "{name}: {reports:?}");
        assert_eq!(reports[0].iterations, 0, "{name}");
        assert!(solve(solver, &[]).1.is_empty(), "{name}");
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let error = refusal(solver, &[1.0, bad, 0.0]);
            assert!(matches!(error, Error::Core(CoreError::NonFinite { index: 1, .. })), "{name}: {error}");
        }
        for wrong in [&[1.0; 2][..], &[1.0; 4], &[]] {
            assert!(matches!(refusal(solver, wrong), Error::Core(CoreError::Shape { .. })), "{name}");
        }
        let mut out = [7.0; 3];
        let rows = solver.solve(MatMut::from_row(&mut out), MatRef::new(&[1.0; 6], 2, 3).unwrap());
        assert!(matches!(rows, Err(Error::Core(CoreError::Shape { .. }))) && out == [7.0; 3], "{name}");
        // As an operator too.
        let inverse = AsOperator(solver);
        let mut out = [0.0; 3];
        inverse.apply(MatMut::from_row(&mut out), MatRef::from_row(&rhs[3..6]), &mut []).unwrap();
        let (single, _) = solve(solver, &rhs[3..6]);
        assert_eq!(out[..], single[..], "{name}");
    });
}

#[test]
fn wrong_options_are_named() {
    let op = Outer::new(5, 3, 1);
    let flat = [1.0; 6];
    let flat = Dense::new(MatRef::new(&flat, 2, 3).unwrap());
    let is_damping = |error: Option<Error>| matches!(error, Some(Error::Core(CoreError::Damping { .. })));
    let is_parameter = |error: Option<Error>| matches!(error, Some(Error::Core(CoreError::Parameter { .. })));
    let is_shape = |error: Option<Error>| matches!(error, Some(Error::Core(CoreError::Shape { .. })));
    let psi = MatRef::new(&op.rows, 5, 3).unwrap();
    for damping in [-1e-300, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert!(is_damping(Explicit { damping, ..Explicit::default() }.prepare(&op).err()));
        assert!(is_damping(Cg { damping, ..Cg::default() }.prepare(&op).err()));
        assert!(is_damping(Neumann { damping, ..Neumann::default() }.prepare(&op).err()));
        assert!(is_damping(Lissa { damping, ..Lissa::default() }.prepare(&op).err()));
        assert!(is_damping(Woodbury::from_rows(psi, 1.0, damping, Parallelism::Serial).err()));
    }
    assert!(is_damping(Woodbury::from_rows(psi, 1.0, 0.0, Parallelism::Serial).err()));
    // A damping that f32 cannot hold would be divided by.
    let single = [1.0_f32; 3];
    assert!(is_damping(Woodbury::from_rows(MatRef::from_row(&single), 1.0, 1e-60, Parallelism::Serial).err()));
    for value in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(is_parameter(Neumann { alpha: value, ..Neumann::default() }.prepare(&op).err()));
        assert!(is_parameter(Lissa { alpha: value, ..Lissa::default() }.prepare(&op).err()));
        assert!(is_parameter(Woodbury::from_rows(psi, value, 1.0, Parallelism::Serial).err()));
    }
    for value in [-1.0, f64::NAN] {
        assert!(is_parameter(Cg { rtol: value, ..Cg::default() }.prepare(&op).err()));
        assert!(is_parameter(Cg { atol: value, ..Cg::default() }.prepare(&op).err()));
        assert!(is_parameter(Neumann { rtol: value, ..Neumann::default() }.prepare(&op).err()));
        assert!(is_parameter(Neumann { divergence: value, ..Neumann::default() }.prepare(&op).err()));
        assert!(is_parameter(Lissa { divergence: value, ..Lissa::default() }.prepare(&op).err()));
    }
    // Never to stop is a choice.
    assert!(Neumann { divergence: f64::INFINITY, ..Neumann::default() }.prepare(&op).is_ok());
    assert!(Lissa { divergence: f64::INFINITY, ..Lissa::default() }.prepare(&op).is_ok());
    assert!(is_parameter(Lissa { repeats: 0, ..Lissa::default() }.prepare(&op).err()));
    assert!(is_parameter(Lissa { batch: Batch::Sampled(0), ..Lissa::default() }.prepare(&op).err()));
    let none = Outer { rows: Vec::new(), dim: 3 };
    assert!(matches!(Lissa::default().prepare(&none).err(), Some(Error::Core(CoreError::Empty { .. }))));
    assert!(is_shape(Explicit::default().prepare(&flat).err()));
    assert!(is_shape(ExplicitSpectrum::new(&flat, Parallelism::Serial).err()));
    assert!(is_shape(Cg::default().prepare(&flat).err()));
    assert!(is_shape(Neumann::default().prepare(&flat).err()));
    assert!(is_shape(Cg::default().prepare_with(&op, &Identity::new(4)).err()));
    assert!(is_shape(Neumann::default().prepare_with(&op, &Identity::new(4)).err()));
    assert!(is_shape(Woodbury::new(Dense::new(psi), vec![1.0; 24], 1.0, 1.0, Parallelism::Serial).err()));
}

#[test]
fn hard_matrices_have_defined_answers() {
    for n in [1, 2, 5] {
        let v: Vec<f64> = oracle::uniform(Stream::new(3, "hard"), n);
        let zero = ByRow::<f64>::new(&vec![0.0; n * n], n);
        // No damping: nothing to solve, and each says so in its own way.
        let error = refusal(&Explicit::default().prepare(&zero).unwrap(), &v);
        assert!(matches!(error, Error::NoConvergence { .. }), "{error}");
        let mut out = vec![7.0; n];
        let spectrum = ExplicitSpectrum::new(&zero, Parallelism::Serial).unwrap();
        let error = spectrum.solve(0.0, MatMut::from_row(&mut out), MatRef::from_row(&v)).unwrap_err();
        assert!(matches!(error, Error::Core(CoreError::Singular { index: 0, .. })) && out == vec![7.0; n], "{error}");
        let (x, reports) = solve(&Cg::default().prepare(&zero).unwrap(), &v);
        assert_eq!((x, reports[0].stop), (vec![0.0; n], Stop::NegativeCurvature { curvature: 0.0 }));
        let (x, _) = solve(&Neumann { steps: 4, ..Neumann::default() }.prepare(&zero).unwrap(), &v);
        assert_eq!(x, v.iter().map(|v| 4.0 * v).collect::<Vec<_>>());
        // With a damping of 1/2 the answer is twice the right-hand side, exactly.
        let twice: Vec<f64> = v.iter().map(|v| 2.0 * v).collect();
        assert_eq!(solve(&Cg { damping: 0.5, ..Cg::default() }.prepare(&zero).unwrap(), &v).0, twice);
        spectrum.solve(0.5, MatMut::from_row(&mut out), MatRef::from_row(&v)).unwrap();
        assert_eq!(out, twice);
        spectrum.solve(-0.5, MatMut::from_row(&mut out), MatRef::from_row(&v)).unwrap();
        assert_eq!(out, twice.iter().map(|x| -x).collect::<Vec<_>>());
        assert!(spectrum.solve(f64::NAN, MatMut::from_row(&mut out), MatRef::from_row(&v)).is_err());

        // Rank one, with and without damping; a condition of 1e17.
        let g: Vec<f64> = oracle::uniform(Stream::new(4, "rank one"), n);
        let rank_one: Vec<f64> = (0..n * n).map(|e| g[e / n] * g[e % n]).collect();
        let steep = oracle::with_spectrum(&oracle::spectrum(n, 1.0, 1e17), Stream::new(5, "steep"));
        for a in [rank_one, steep] {
            let op = ByRow::<f64>::new(&a, n);
            let condition = 1.0 + oracle::norm(&a) / 0.1;
            let bound = tolerance::solutions(condition, 1e-10 + tolerance::direct_residual::<f64>(n));
            let truth = oracle::solve(&a, 0.1, &v);
            let explicit = Explicit { damping: 0.1, ..Explicit::default() }.prepare(&op).unwrap();
            assert_rows_near("explicit", n, &solve(&explicit, &v).0, &truth, bound);
            let cg = Cg { damping: 0.1, rtol: 1e-10, ..Cg::default() };
            assert_rows_near("CG", n, &solve(&cg.prepare(&op).unwrap(), &v).0, &truth, bound);
            let (x, reports) = solve(&Cg { rtol: 0.0, ..Cg::default() }.prepare(&op).unwrap(), &v);
            assert!(x.iter().all(|x| x.is_finite()), "{reports:?}");
            if let Ok(explicit) = Explicit::default().prepare(&op) {
                let mut out = vec![7.0; n];
                match explicit.solve(MatMut::from_row(&mut out), MatRef::from_row(&v)) {
                    Ok(_) => assert!(out.iter().all(|x| x.is_finite())),
                    Err(error) => assert!(matches!(error, Error::NoConvergence { .. }) && out == vec![7.0; n]),
                }
            }
        }
        // An indefinite matrix has an explicit inverse all the same.
        let mut values = oracle::spectrum(n, 2.0, 4.0);
        values[0] = -2.0;
        let a = oracle::with_spectrum(&values, Stream::new(6, "indefinite"));
        let explicit = Explicit::default().prepare(&ByRow::new(&a, n)).unwrap();
        assert!(!explicit.is_positive_definite());
        let bound = tolerance::solutions(4.0, tolerance::direct_residual::<f64>(n));
        assert_rows_near("indefinite", n, &solve(&explicit, &v).0, &oracle::solve(&a, 0.0, &v), bound);
    }
    // Nothing to solve for at all.
    let none = Identity::new(0);
    assert!(solve::<f64>(&Explicit::default().prepare(&none).unwrap(), &[]).1.is_empty());
    let mut nothing: [f64; 0] = [];
    let empty = MatRef::new(&[], 2, 0).unwrap();
    let reports = Cg::default().prepare(&none).unwrap().solve(MatMut::new(&mut nothing, 2, 0).unwrap(), empty).unwrap();
    assert!(reports.len() == 2 && reports.iter().all(SolveReport::is_converged));
}

#[test]
fn broken_operators_are_reported_with_a_finite_solution() {
    let v = [1.0, -3.0, 0.5];
    let nan = Elementwise(3, |_| Ok(f64::NAN));
    let failing = Elementwise(3, |_| Err(CoreError::Model { code: 9 }));
    let fine = Elementwise(3, Ok);
    let diverged = |report: &SolveReport| matches!(report.stop, Stop::Diverged { .. });

    let error = Explicit::default().prepare(&nan).unwrap_err();
    assert!(matches!(error, Error::Core(CoreError::NonFinite { .. })), "{error}");
    let model = Error::Core(CoreError::Model { code: 9 });
    assert_eq!(Explicit::default().prepare(&failing).err(), Some(model.clone()));
    assert_eq!(refusal(&Cg::default().prepare(&failing).unwrap(), &v), model);
    assert_eq!(refusal(&Neumann::default().prepare(&failing).unwrap(), &v), model);
    assert_eq!(refusal(&Cg::default().prepare_with(&fine, &failing).unwrap(), &v), model);

    let (x, reports) = solve(&Cg::default().prepare(&nan).unwrap(), &v);
    assert!(x == [0.0; 3] && diverged(&reports[0]), "{x:?} {reports:?}");
    let (x, reports) = solve(&Cg::default().prepare_with(&fine, &nan).unwrap(), &v);
    assert!(x == [0.0; 3] && diverged(&reports[0]), "{x:?} {reports:?}");
    for steps in [1, 2, 9] {
        let neumann = Neumann { steps, ..Neumann::default() };
        let (x, reports) = solve(&neumann.prepare(&nan).unwrap(), &v);
        assert!(x == [0.0; 3] && diverged(&reports[0]), "{x:?} {reports:?}");
        // The correction of the last step is judged too.
        let (x, reports) = solve(&neumann.prepare_with(&fine, &nan).unwrap(), &v);
        assert!(x == [0.0; 3] && diverged(&reports[0]), "{x:?} {reports:?}");
        let huge = Neumann { alpha: 1e300, steps, ..Neumann::default() };
        let (x, reports) = solve(&huge.prepare(&fine).unwrap(), &[1e300; 3]);
        assert!(x == [0.0; 3] && diverged(&reports[0]), "{x:?} {reports:?}");
    }
    // One row that diverges leaves the others alone, and fails the operator.
    let mixed = Elementwise(1, |x: f64| Ok(if x < 0.0 { f64::NAN } else { x }));
    let cg = Cg::default().prepare(&mixed).unwrap();
    let (x, reports) = solve(&cg, &[0.75, -0.5]);
    assert!(x == [0.75, 0.0] && reports[0].is_converged() && diverged(&reports[1]), "{x:?} {reports:?}");
    let neumann = Neumann::default();
    let inverse = AsOperator(neumann.prepare(&mixed).unwrap());
    let mut out = [0.0; 2];
    let failed = inverse.apply(MatMut::new(&mut out, 2, 1).unwrap(), MatRef::new(&[0.0, -0.5], 2, 1).unwrap(), &mut []);
    assert_eq!(failed, Err(CoreError::Unsolved { row: 1 }));
}

#[test]
fn overflow_is_not_convergence() {
    // x = 1e310 would be the solution of the first; the others are the ends of the range.
    for (a, v) in [(1e-300, 1e10), (1e-10, f64::MAX), (f64::MIN_POSITIVE, 1e5), (1e300, 1e-300)] {
        let op = Diagonal::new(std::slice::from_ref(&a));
        let (x, reports) = solve(&Cg::default().prepare(&op).unwrap(), &[v]);
        assert!(x[0].is_finite(), "{a:e} {v:e}: {x:?}");
        let fits = (v / a).is_finite();
        assert!(fits || !reports[0].is_converged(), "{a:e} {v:e}: {reports:?}");
    }
    // The norm of the right-hand side overflows, the solution does not.
    let v = [f64::MAX, -f64::MAX, f64::MAX];
    let (x, reports) = solve(&Cg::default().prepare(&Diagonal::new(&[2.0; 3])).unwrap(), &v);
    assert!(reports[0].is_converged());
    assert_eq!(x, v.map(|v| v / 2.0));
}

#[test]
fn divergence_is_noticed_and_the_best_iterate_is_kept() {
    let a = Diagonal::new(&[1.0_f64, 0.25]);
    let v = [1.0, 1.0];
    // Twice the largest step size: the first direction grows by 3 a step.
    let neumann = Neumann { alpha: 4.0, steps: 10_000, ..Neumann::default() };
    let (x, reports) = solve(&neumann.prepare(&a).unwrap(), &v);
    let Stop::Diverged { step } = reports[0].stop else { panic!("{reports:?}") };
    // 3^k > 1e6 sqrt(2), and one step that notices.
    assert!((13..=16).contains(&step), "{step}");
    assert!(x.iter().all(|x| x.is_finite()));
    let residual = [1.0 - x[0], 1.0 - 0.25 * x[1]];
    assert_eq!(reports[0].relative_residual, oracle::norm(&residual) / oracle::norm(&v));
    assert!(reports[0].relative_residual <= 1.0);
    let lissa = Lissa { alpha: 40.0, steps: 10_000, ..Lissa::default() };
    let op = Outer { rows: vec![1.0, 0.0, 0.0, 1.0], dim: 2 };
    let (x, reports) = solve(&lissa.prepare(&op).unwrap(), &v);
    assert!(x.iter().all(|x| x.is_finite()) && matches!(reports[0].stop, Stop::Diverged { .. }), "{reports:?}");
    // Below the bound nothing diverges, and an early stop is counted right.
    let early = Neumann { alpha: 1.0, rtol: 0.5, ..Neumann::default() };
    let (_, reports) = solve(&early.prepare(&a).unwrap(), &[0.0, 1.0]);
    // The residual is (3/4)^k: at most 1/2 after three steps, seen by the fourth product.
    assert_eq!((reports[0].stop, reports[0].iterations, reports[0].operator_applications), (Stop::Converged, 3, 4));
}

/// Powers of two: the series term by term without rounding.
#[test]
fn starts_say_how_many_terms_are_summed() {
    let entries = [1.0, 0.5, 2.0, 0.0];
    let (a, alpha) = (Diagonal::new(&entries), 0.25);
    let v = [1.0, -1.0, 4.0, 0.5];
    let terms = |count: i32| -> Vec<f64> {
        let term = |a: f64, v: f64| (0..count).map(|j| alpha * (1.0 - alpha * a).powi(j) * v).sum();
        entries.iter().zip(v).map(|(&a, v)| term(a, v)).collect()
    };
    for steps in 0..6 {
        let run = |start| solve(&Neumann { alpha, steps, start, ..Neumann::default() }.prepare(&a).unwrap(), &v);
        let (x, reports) = run(Start::Zero);
        assert_eq!(x, terms(steps as i32));
        assert_eq!((reports[0].iterations, reports[0].operator_applications), (steps, steps));
        assert_eq!(reports[0].stop, Stop::IterationLimit);
        assert_eq!(run(Start::AlphaRhs).0, terms(steps as i32 + 1));
        let rhs: Vec<f64> = terms(steps as i32)
            .iter()
            .zip(entries.iter().zip(v))
            .map(|(x, (&a, v))| x + (1.0 - alpha * a).powi(steps as i32) * v)
            .collect();
        assert_eq!(run(Start::Rhs).0, rhs);
        assert_eq!(run(Start::PreconditionedRhs).0, rhs);
    }
    // With the inverse as preconditioner the start is the solution.
    let (inverse, positive) = (Diagonal::new(&[1.0, 2.0, 0.5, 4.0]), Diagonal::new(&[1.0, 0.5, 2.0, 0.25]));
    for steps in [0, 3] {
        let neumann = Neumann { alpha, steps, start: Start::PreconditionedRhs, ..Neumann::default() };
        assert_eq!(solve(&neumann.prepare_with(&positive, &inverse).unwrap(), &v).0, [1.0, -2.0, 2.0, 2.0]);
    }
}

/// Truncation is damping: between 1 and 1.2984 times the inverse with `1 / (alpha J)` more on the diagonal.
#[test]
fn truncation_acts_as_damping() {
    let alpha = 0.01;
    for steps in [50, 200, 1000] {
        for i in 0..60 {
            let eigenvalue = 10.0_f64.powf(f64::from(i) * 0.08 - 4.0);
            let op = Diagonal::new(std::slice::from_ref(&eigenvalue));
            let (x, _) = solve(&Neumann { alpha, steps, ..Neumann::default() }.prepare(&op).unwrap(), &[1.0]);
            let ratio = x[0] * (eigenvalue + 1.0 / (alpha * steps as f64));
            // (1 - alpha a)^J lies below e^(-alpha a J) by a relative alpha^2 a^2 J at most.
            let slack = tolerance::residual_drift::<f64>(1, steps) + (alpha * eigenvalue).powi(2) * steps as f64;
            assert!((1.0 - 1e-12..=1.2985 + slack.min(0.1)).contains(&ratio), "{eigenvalue}, {steps}: {ratio}");
        }
    }
}

/// The recursions as the field's codes write them, with the system that each solves.
#[test]
fn lissa_follows_the_four_conventions() {
    let op = Outer::new(7, 4, 3);
    let (a, v) = (op.matrix(), [1.0, -0.5, 0.25, 2.0]);
    let (s, d, lambda, alpha) = (5.0, 0.03, 0.2, 0.15);
    // x <- keep x - rate (C x + ridge x) + gain v
    let recursion = |[keep, rate, ridge, gain]: [f64; 4], divide: f64, steps: usize| {
        let mut x = v.to_vec();
        for _ in 0..steps {
            let cx = oracle::mat_vec(&a, 4, &x);
            x = (0..4).map(|i| keep * x[i] - rate * (cx[i] + ridge * x[i]) + gain * v[i]).collect();
        }
        x.iter().map(|x| x / divide).collect::<Vec<f64>>()
    };
    for steps in [0, 1, 2, 50, 2000] {
        let cases = [
            (Lissa::koh_liang(s, d, steps), recursion([1.0 - d, 1.0 / s, 0.0, 1.0], s, steps), s * d),
            (Lissa::torch_influence(s, lambda, steps), recursion([1.0, 1.0 / s, lambda, 1.0], s, steps), lambda),
            (Lissa::pydvl(s, d, lambda, steps), recursion([1.0 - d, 1.0 / s, lambda, 1.0], s, steps), lambda + s * d),
            (
                Lissa::stochastic_neumann(alpha, lambda, steps),
                recursion([1.0, alpha, lambda, alpha], 1.0, steps),
                lambda,
            ),
        ];
        for (lissa, expected, damping) in cases {
            let (x, _) = solve(&Lissa { batch: Batch::Full, ..lissa }.prepare(&op).unwrap(), &v);
            // Both contract, so the roundings of the last 1 / (alpha damping) steps remain; v and x are at most |v| / damping.
            let kept = (1.0 / (lissa.alpha * damping)).ceil() as usize;
            let rounding = 2.0 * tolerance::residual_drift::<f64>(4, kept) * oracle::norm(&v) / damping;
            let error = oracle::norm(&oracle::minus(&x, &expected));
            assert!(error <= rounding, "{lissa:?}: {error:e} > {rounding:e}");
            if steps == 2000 {
                let truth = oracle::solve(&a, damping, &v);
                let rest = (1.0 - lissa.alpha * damping).powi(2000) * 2.0 * oracle::norm(&v) / damping;
                assert!(oracle::norm(&oracle::minus(&x, &truth)) <= rounding + rest, "{lissa:?}");
            }
        }
    }
}

#[test]
fn lissa_is_unbiased() {
    let (op, v) = (Outer::new(5, 3, 8), [1.0, -1.0, 0.5]);
    let lissa = Lissa { alpha: 0.3, damping: 0.1, steps: 20, batch: Batch::Sampled(2), ..Lissa::default() };
    let (truth, _) = solve(&Lissa { batch: Batch::Full, ..lissa }.prepare(&op).unwrap(), &v);
    let runs = 4000;
    let (mut sum, mut squares) = ([0.0; 3], [0.0; 3]);
    for seed in 0..runs {
        let (x, reports) = solve(&Lissa { seed: seed as u64, ..lissa }.prepare(&op).unwrap(), &v);
        assert!(reports[0].relative_residual.is_nan() && reports[0].stop == Stop::IterationLimit);
        for i in 0..3 {
            sum[i] += x[i];
            squares[i] += x[i] * x[i];
        }
    }
    for i in 0..3 {
        let mean = sum[i] / runs as f64;
        let deviation = (squares[i] / runs as f64 - mean * mean).sqrt();
        let bound = tolerance::monte_carlo(runs, deviation);
        assert!((mean - truth[i]).abs() <= bound, "{mean} instead of {} +- {bound}", truth[i]);
        assert!(deviation > 0.01, "the batches differ from seed to seed");
    }
    // Repeats are the mean of runs, the first of which is the run without repeats; a seed is a result.
    let once = solve(&lissa.prepare(&op).unwrap(), &v);
    let again = solve(&lissa.prepare(&op).unwrap(), &v);
    assert_eq!(once.0, again.0);
    let (many, reports) = solve(&Lissa { repeats: 4, ..lissa }.prepare(&op).unwrap(), &v);
    assert!(many != once.0 && reports[0].iterations == 80 && reports[0].operator_applications == 80);
}

#[test]
fn direct_solvers_have_the_same_bits_for_any_number_of_threads() {
    let (n, rows) = (300, 140);
    let op = Outer::new(40, n, 9);
    let a = op.matrix();
    let dense = Dense::new(MatRef::new(&a, n, n).unwrap());
    let v: Vec<f64> = oracle::uniform(Stream::new(10, "v"), rows * n);
    let results = |threads: usize| {
        let par = Parallelism::threads(threads);
        let explicit = Explicit { damping: 0.1, parallelism: par }.prepare(&dense).unwrap();
        let psi = MatRef::new(&op.rows, 40, n).unwrap();
        let woodbury = Woodbury::from_rows(psi, 0.025, 0.1, par).unwrap();
        let mut x = vec![0.0; v.len()];
        let out = MatMut::new(&mut x, rows, n).unwrap();
        ExplicitSpectrum::new(&dense, par).unwrap().solve(0.1, out, MatRef::new(&v, rows, n).unwrap()).unwrap();
        [solve(&explicit, &v).0, solve(&woodbury, &v).0, x]
    };
    let serial = results(1);
    for threads in [2, 3, 8] {
        assert!(with_eight_threads(|| results(threads)) == serial, "{threads} threads");
    }
}

/// An operator that asks for scratch that no memory holds.
struct Greedy;

impl LinOp<f64> for Greedy {
    fn dim_in(&self) -> usize {
        2
    }
    fn dim_out(&self) -> usize {
        2
    }
    fn scratch_len(&self, _: usize) -> usize {
        usize::MAX
    }
    fn apply(&self, _: MatMut<'_, f64>, _: MatRef<'_, f64>, _: &mut [f64]) -> Result<(), CoreError> {
        panic!("there is no such scratch")
    }
}

impl ascribe_core::linop::Adjoint<f64> for Greedy {
    fn apply_transpose(&self, _: MatMut<'_, f64>, _: MatRef<'_, f64>, _: &mut [f64]) -> Result<(), CoreError> {
        panic!("there is no such scratch")
    }
}

impl ExampleLinOp<f64> for Greedy {
    fn examples(&self) -> usize {
        1
    }
    fn examples_scratch_len(&self, _: usize, _: usize) -> usize {
        usize::MAX
    }
    fn apply_examples(
        &self,
        _: MatMut<'_, f64>,
        _: MatRef<'_, f64>,
        _: &[usize],
        _: &mut [f64],
    ) -> Result<(), CoreError> {
        panic!("there is no such scratch")
    }
}

#[test]
fn scratch_that_no_memory_holds_is_refused() {
    use ascribe_solvers::inverse::{AsSolver, Astra, Lanczos, Minres, Nystrom, SpectralRadius, StepSize};
    let overflows = |error: Error| matches!(error, Error::Core(CoreError::Overflow { .. }));
    let modest = Diagonal::new(&[1.0, 2.0]);
    let start = Start::PreconditionedRhs;
    let solvers: [&dyn Solve<f64>; 9] = [
        &Cg::default().prepare(&Greedy).unwrap(),
        &Cg::default().prepare_with(&modest, &Greedy).unwrap(),
        &Minres::default().prepare(&Greedy).unwrap(),
        &Neumann::default().prepare(&Greedy).unwrap(),
        &Neumann::default().prepare_with(&modest, &Greedy).unwrap(),
        &Neumann { start, ..Neumann::default() }.prepare_with(&modest, &Greedy).unwrap(),
        &Lissa::default().prepare(&Greedy).unwrap(),
        &Woodbury::new(Greedy, vec![1.0, 0.0, 0.0, 1.0], 1.0, 1.0, Parallelism::Serial).unwrap(),
        &AsSolver(Greedy),
    ];
    for (i, solver) in solvers.into_iter().enumerate() {
        assert!(overflows(refusal(solver, &[1.0, 2.0])), "{i}");
    }
    let astra = Astra { step_size: StepSize::Fixed(0.1), batch: 1, ..Astra::default() };
    assert!(overflows(refusal(&astra.prepare(&Greedy, &Identity::new(2)).unwrap(), &[1.0, 2.0])));
    assert!(overflows(Explicit::default().prepare(&Greedy).unwrap_err()));
    assert!(overflows(Lanczos::default().decompose(&Greedy).unwrap_err()));
    assert!(overflows(Nystrom::default().prepare(&Greedy).unwrap_err()));
    assert!(overflows(SpectralRadius::default().estimate(&Greedy).unwrap_err()));
    // Vectors of the operator's own length.
    let wide: &dyn LinOp<f64> = &Identity::new(usize::MAX);
    assert!(overflows(SpectralRadius::default().estimate(wide).unwrap_err()));
    assert!(overflows(Nystrom::default().prepare_landmarks(wide, &[]).unwrap_err()));
    assert!(Nystrom { rank: 0, ..Nystrom::default() }.prepare(wide).is_ok());
}

/// Some right-hand sides of length 0 are solved, as many as there are numbers are refused.
#[test]
fn right_hand_sides_without_elements() {
    use ascribe_core::derivative::{EmpiricalFisher, Reduction};
    use ascribe_solvers::curvature::Damping;
    use ascribe_solvers::inverse::{AsSolver, Astra, DataInf, LowRankSpectrum, Minres, StepSize};
    let none = MatRef::<f64>::new(&[], 3, 0).unwrap();
    let fisher = EmpiricalFisher::new(none, Reduction::Mean).unwrap();
    let identity: &dyn LinOp<f64> = &Identity::new(0);
    let astra = Astra { step_size: StepSize::Fixed(0.1), batch: 1, damping: 1.0, ..Astra::default() };
    let data_inf = DataInf { damping: Damping::Absolute(1.0), parallelism: Parallelism::Serial };
    let spectrum = LowRankSpectrum::<f64>::new(vec![], vec![], 0, Parallelism::Serial).unwrap();
    let solvers: [(&str, &dyn Solve<f64>); 9] = [
        ("explicit", &Explicit::default().prepare(identity).unwrap()),
        ("CG", &Cg::default().prepare(identity).unwrap()),
        ("MINRES", &Minres::default().prepare(identity).unwrap()),
        ("Neumann", &Neumann::default().prepare(identity).unwrap()),
        ("LiSSA", &Lissa::default().prepare(&fisher).unwrap()),
        ("ASTRA", &astra.prepare(&fisher, identity).unwrap()),
        ("DataInf", &data_inf.prepare(none, &[0]).unwrap()),
        ("low rank", &spectrum.inverse(1.0).unwrap()),
        ("an inverse", &AsSolver(identity)),
    ];
    for (name, solver) in solvers {
        let out = MatMut::new(&mut [], 3, 0).unwrap();
        let reports = solver.solve(out, none).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(reports.len() == 3, "{name}");
        let (many, out) = (MatRef::new(&[], usize::MAX, 0).unwrap(), MatMut::new(&mut [], usize::MAX, 0).unwrap());
        assert!(matches!(solver.solve(out, many), Err(Error::Core(CoreError::Overflow { .. }))), "{name}");
    }
    let many = MatRef::<f64>::new(&[], usize::MAX, 0).unwrap();
    assert!(data_inf.prepare(many, &[0]).is_ok());
}

/// An infinity in the solution, or a zero because an inner product overflowed, is no answer.
#[test]
fn woodbury_refuses_a_solution_that_overflows() {
    let system = |psi: &'static [f32], cols, damping| {
        Woodbury::from_rows(MatRef::new(psi, psi.len() / cols, cols).unwrap(), 1.0, damping, Parallelism::Serial)
    };
    for (psi, rhs) in [(&[1.0_f32, 0.0][..], [1.0, 1e35]), (&[1.0, 0.0, 0.0, 1e-20, 0.0, 0.0], [1.0, 1e35])] {
        let mut out = [7.0; 2];
        let inverse = system(psi, 2, 1e-10).unwrap();
        let refused = inverse.solve(MatMut::from_row(&mut out), MatRef::from_row(&rhs));
        assert!(matches!(refused, Err(Error::NoConvergence { .. })), "{refused:?}");
        assert_eq!(out, [7.0; 2]);
    }
    for psi in [&[1e30_f32][..], &[1e30, 1e30]] {
        let refused = system(psi, 1, 1.0).err();
        assert!(matches!(refused, Some(Error::Core(CoreError::NonFinite { .. }))), "{refused:?}");
    }
}

/// With many more rows than columns nothing cancels: in f32 the error is a rounding times the condition number.
#[test]
fn woodbury_factorises_the_smaller_matrix() {
    let (m, n, damping) = (40, 3, 1e-3);
    for seed in 0..10 {
        let rows: Vec<f64> = oracle::uniform(Stream::new(seed, "tall"), m * n);
        let single: Vec<f32> = rows.iter().map(|&x| x as f32).collect();
        let exact: Vec<f64> = single.iter().map(|&x| f64::from(x)).collect();
        let psi = MatRef::new(&single, m, n).unwrap();
        let inverse = Woodbury::from_rows(psi, 1.0 / m as f64, damping, Parallelism::Serial).unwrap();
        let (rhs, mut x) = ([1.0_f32, -0.5, 0.25], [0.0_f32; 3]);
        inverse.solve(MatMut::from_row(&mut x), MatRef::from_row(&rhs)).unwrap();
        let mut residual: Vec<f64> = rhs.iter().map(|&v| -f64::from(v)).collect();
        for (r, &x) in residual.iter_mut().zip(&x) {
            *r += damping * f64::from(x);
        }
        for g in exact.chunks_exact(n) {
            let along = g.iter().zip(&x).map(|(g, &x)| g * f64::from(x)).sum::<f64>() / m as f64;
            residual.iter_mut().zip(g).for_each(|(r, g)| *r += along * g);
        }
        let size = oracle::norm(&residual) / rhs.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        assert!(size <= 20.0 * f64::from(f32::EPSILON), "seed {seed}: {size:e}");
    }
}
