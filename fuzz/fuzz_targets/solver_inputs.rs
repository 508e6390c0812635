//! Matrices and right-hand sides of any floats: a typed error with the output untouched, or a report that is true.
#![no_main]

use arbitrary::Arbitrary;
use ascribe_core::linop::Dense;
use ascribe_core::{MatMut, MatRef};
use ascribe_solvers::curvature::Damping;
use ascribe_solvers::inverse::{
    Astra, Cg, DataInf, Explicit, ExplicitSpectrum, Lanczos, Minres, NegativeRitz, Neumann, Nystrom, Solve, StepSize,
    Stop, Woodbury,
};
use ascribe_solvers::parallel::Parallelism::Serial;
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input {
    dim: u8,
    rows: u8,
    symmetric: bool,
    damping: f64,
    alpha: f64,
    rtol: f64,
    numbers: Vec<f64>,
}

const UNTOUCHED: f64 = 1234.5;

fn check(solver: &dyn Solve<f64>, rhs: MatRef<'_, f64>) {
    let mut data = vec![UNTOUCHED; rhs.rows() * rhs.cols()];
    let Ok(out) = MatMut::new(&mut data, rhs.rows(), rhs.cols()) else { panic!("the shape fits") };
    match solver.solve(out, rhs) {
        Err(_) => assert!(data.iter().all(|x| *x == UNTOUCHED), "an error, and the output was written"),
        Ok(reports) => {
            assert_eq!(reports.len(), rhs.rows());
            for (row, report) in reports.iter().enumerate().filter(|(_, report)| report.stop == Stop::Converged) {
                let x = &data[row * rhs.cols()..][..rhs.cols()];
                assert!(x.iter().all(|x| x.is_finite()), "converged to {x:?}: {report:?}");
            }
        }
    }
}

fuzz_target!(|input: Input| {
    let Input { dim, rows, symmetric, damping, alpha, rtol, numbers } = input;
    let (dim, rows, steps) = (usize::from(dim % 7), usize::from(rows % 4), usize::from(rows / 4));
    let number = |i: usize| numbers.get(i).copied().unwrap_or(0.0);
    let mut matrix: Vec<f64> = (0..dim * dim).map(number).collect();
    if symmetric {
        for i in 0..dim {
            for j in 0..i {
                matrix[j * dim + i] = matrix[i * dim + j];
            }
        }
    }
    let rhs: Vec<f64> = (0..rows * dim).map(|i| number(dim * dim + i)).collect();
    let (Ok(matrix), Ok(rhs)) = (MatRef::new(&matrix, dim, dim), MatRef::new(&rhs, rows, dim)) else {
        panic!("the shapes fit");
    };
    let op = Dense::new(matrix);

    if let Ok(solver) = (Explicit { damping, ..Explicit::default() }).prepare(&op) {
        check(&solver, rhs);
    }
    if let Ok(solver) = (Cg { damping, rtol, max_iterations: 20, ..Cg::default() }).prepare(&op) {
        check(&solver, rhs);
    }
    if let Ok(solver) = (Minres { damping, rtol, max_iterations: 20, ..Minres::default() }).prepare(&op) {
        check(&solver, rhs);
    }
    if let Ok(solver) = (Minres { rtol, max_iterations: 20, ..Minres::default() }).prepare_with(&op, &op) {
        check(&solver, rhs);
    }
    let basis = Lanczos { steps, ..Lanczos::default() }.decompose(&op);
    for spectrum in [
        basis.and_then(|basis| basis.spectrum(NegativeRitz::Keep, None)),
        Nystrom { rank: steps, ..Nystrom::default() }.prepare(&op),
    ] {
        let Ok(spectrum) = spectrum else { continue };
        let inverses =
            [spectrum.inverse(damping), spectrum.projected_inverse(damping), spectrum.preconditioner(damping)];
        inverses.iter().flatten().for_each(|inverse| check(inverse, rhs));
    }
    for damping in [Damping::Absolute(damping), Damping::Relative(damping)] {
        let first = dim / 2;
        if let Ok(inverse) = (DataInf { damping, ..DataInf::default() }).prepare(matrix, &[first, dim - first]) {
            check(&inverse, rhs);
        }
    }
    if let Ok(solver) = (Neumann { alpha, damping, rtol, steps: 20, ..Neumann::default() }).prepare(&op) {
        check(&solver, rhs);
    }
    // The matrix as its own preconditioner; `Astra` estimates its step size from both.
    for step_size in [StepSize::default(), StepSize::Fixed(alpha)] {
        let options = Astra { damping, steps: 20, step_size, momentum: rtol, ..Astra::default() };
        if let Ok(solver) = options.prepare_full(&op, &op) {
            check(&solver, rhs);
        }
    }
    if let Ok(solver) = Woodbury::from_rows(matrix, alpha, damping, Serial) {
        check(&solver, rhs);
    }
    if let Ok(spectrum) = ExplicitSpectrum::new(&op, Serial) {
        assert!(spectrum.eigenvalues().iter().all(|value| value.is_finite()), "{:?}", spectrum.eigenvalues());
        let mut data = vec![UNTOUCHED; rows * dim];
        let Ok(out) = MatMut::new(&mut data, rows, dim) else { panic!("the shape fits") };
        let solved = spectrum.solve(damping, out, rhs);
        assert!(solved.is_ok() || data.iter().all(|x| *x == UNTOUCHED), "an error, and the output was written");
    }
});
