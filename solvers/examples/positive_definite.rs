//! Optimisation over positive definite matrices: `min tr(S Q) - ln det S`, whose solution is the inverse of `Q`.
//!
//! `cargo run --release -p ascribe-solvers --example positive_definite [picture.svg]` prints the relative error of `S`
//! after some steps and draws it. A little regularisation of the gaps speeds the first steps up, much of it slows the
//! last ones down.

use ascribe_core::random::Stream;
use ascribe_core::{MatMut, MatRef};
use ascribe_solvers::linalg::{matmul, qr};
use ascribe_solvers::parallel::Parallelism::Serial;
use ascribe_solvers::precondition::{Gaps, Spectral, minimize_log_det};

#[path = "plot/file.rs"]
mod file;
#[path = "plot/lines.rs"]
mod lines;

const N: usize = 20;
const CONDITION: f64 = 100.0;
const STEPS: usize = 120;
const RATE: f64 = 0.3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let what = "Optimisation over positive definite matrices, for several regularisations of the gaps.";
    let Some(path) = file::asked_for(what, "positive_definite.svg")? else { return Ok(()) };
    let (q, inverse) = problem()?;
    let variants = [
        ("strict gaps", Gaps::Strict),
        ("epsilon 0.01", Gaps::Regularised(0.01)),
        ("epsilon 0.1", Gaps::Regularised(0.1)),
        ("epsilon 0.3", Gaps::Regularised(0.3)),
    ];
    println!("relative error of S, {N} x {N}, condition {CONDITION}, rate {RATE}\n");
    println!("{:<14}{:>12}{:>12}{:>12}{:>10}", "", "25 steps", "50 steps", "120 steps", "clipped");
    let mut curves = Vec::new();
    for (name, gaps) in variants {
        let mut state = Spectral { gaps, clip: 1.0, ..Spectral::default() }.start::<f64>(N, 1.0)?;
        let (mut errors, mut clipped) = (vec![distance(&state.matrix()?, &inverse)], 0);
        for _ in 0..STEPS {
            clipped += minimize_log_det(&mut state, MatRef::new(&q, N, N)?, RATE, 1)?.clipped;
            errors.push(distance(&state.matrix()?, &inverse));
        }
        println!("{name:<14}{:>12.1e}{:>12.1e}{:>12.1e}{clipped:>10}", errors[25], errors[50], errors[STEPS]);
        curves.push(lines::Line { name: name.to_owned(), values: errors, dashed: gaps != Gaps::Strict });
    }
    std::fs::write(&path, lines::draw("Relative error of the inverse by Riemannian descent", "steps", 1e-16, &curves))?;
    println!("\nwrote {}", path.display());
    Ok(())
}

/// A matrix with eigenvalues from 1 to `CONDITION` in a random basis, and its inverse.
fn problem() -> Result<(Vec<f64>, Vec<f64>), Box<dyn std::error::Error>> {
    let mut draws = Stream::new(0, "positive_definite").draws();
    let basis: Vec<f64> = (0..N * N).map(|_| draws.next_normal()).collect();
    let basis = qr(MatRef::new(&basis, N, N)?)?.q;
    let basis = MatRef::new(&basis, N, N)?;
    let with = |power: f64| -> Result<Vec<f64>, Box<dyn std::error::Error>> {
        let value = |j: usize| CONDITION.powf(power * j as f64 / (N - 1) as f64);
        let scaled: Vec<f64> =
            basis.row_iter().flat_map(|row| row.iter().enumerate().map(|(j, b)| b * value(j))).collect();
        let mut out = vec![0.0; N * N];
        matmul(MatMut::new(&mut out, N, N)?, 0.0, 1.0, MatRef::new(&scaled, N, N)?, basis.t(), Serial)?;
        Ok(out)
    };
    Ok((with(1.0)?, with(-1.0)?))
}

/// `|x - y| / |y|`.
fn distance(x: &[f64], y: &[f64]) -> f64 {
    let square = |x: f64| x * x;
    let difference: f64 = x.iter().zip(y).map(|(x, y)| square(x - y)).sum();
    (difference / y.iter().copied().map(square).sum::<f64>()).sqrt()
}
