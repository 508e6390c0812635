//! Search without gradients: a rotated ellipsoid and Rosenbrock's valley, against xNES, which takes an eigendecomposition
//! in every generation.
//!
//! `cargo run --release -p ascribe-solvers --example gradient_free [picture.svg]` prints the generations and seconds that
//! each needs and draws the smallest loss so far, the median of five seeds.

use std::time::Instant;

use ascribe_core::MatRef;
use ascribe_core::random::{Draws, Stream};
use ascribe_solvers::linalg::qr;
use ascribe_solvers::precondition::Evolution;

#[path = "../plot/file.rs"]
mod file;
#[path = "../plot/lines.rs"]
mod lines;
mod xnes;

const N: usize = 10;
const SEEDS: u64 = 5;
const GOAL: f64 = 1e-10;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let what = "Search without gradients: an ellipsoid and Rosenbrock's valley, against xNES.";
    let Some(path) = file::asked_for(what, "gradient_free.svg")? else { return Ok(()) };
    let mut draws = Stream::new(0, "rotation").draws();
    let normal: Vec<f64> = (0..N * N).map(|_| draws.next_normal()).collect();
    let rotation = qr(MatRef::new(&normal, N, N)?)?.q;
    let ellipsoid = |x: &[f64]| -> f64 {
        let along = |row: &[f64]| row.iter().zip(x).map(|(r, x)| r * x).sum::<f64>();
        rotation.chunks_exact(N).enumerate().map(|(i, row)| 1e6_f64.powf(i as f64 / 9.0) * along(row).powi(2)).sum()
    };
    println!("{N} dimensions, median of {SEEDS} seeds\n");
    println!("{:<14}{:<12}{:>16}{:>14}{:>12}", "", "", "generations", "loss at end", "seconds");
    let mut curves = Vec::new();
    compare("ellipsoid", 2500, &ellipsoid, &mut curves)?;
    compare("Rosenbrock", 5000, &rosenbrock, &mut curves)?;
    std::fs::write(
        &path,
        lines::draw("Smallest loss so far, searched without gradients", "generations", 1e-20, &curves),
    )?;
    println!("\ngenerations: until the loss is below {GOAL:e}\nwrote {}", path.display());
    Ok(())
}

fn rosenbrock(x: &[f64]) -> f64 {
    x.windows(2).map(|x| 100.0 * (x[1] - x[0] * x[0]).powi(2) + (1.0 - x[0]).powi(2)).sum()
}

/// Both searches on one loss: a row of the table and a line of the picture each.
fn compare(
    name: &str,
    generations: usize,
    loss: &dyn Fn(&[f64]) -> f64,
    curves: &mut Vec<lines::Line>,
) -> Result<(), Failure> {
    // Away from the symmetric start, where Rosenbrock's second minimum draws searches in.
    let start = [0.5; N];
    for dashed in [false, true] {
        let method = if dashed { "xNES" } else { "spectral" };
        let clock = Instant::now();
        let mut runs = Vec::new();
        for seed in 0..SEEDS {
            let mut draws = Stream::new(seed, name).draws();
            let mut spectral = Evolution::new(N).start(&start, 0.3)?;
            let mut xnes = xnes::Xnes::new(&start, 0.3);
            let mut generation = |draws: &mut Draws| {
                if dashed { xnes.generation(draws, loss) } else { spectral.generation(draws, loss) }
            };
            let mut best = loss(&start);
            let mut run = vec![best];
            for _ in 0..generations {
                best = best.min(generation(&mut draws)?);
                run.push(best);
            }
            runs.push(run);
        }
        let seconds = clock.elapsed().as_secs_f64() / SEEDS as f64;
        let values: Vec<f64> = (0..=generations).map(|t| median(runs.iter().map(|run| run[t]).collect())).collect();
        let reached = values.iter().position(|v| *v < GOAL).map_or("-".to_owned(), |t| t.to_string());
        println!("{name:<14}{method:<12}{reached:>16}{:>14.1e}{seconds:>12.3}", values[generations]);
        curves.push(lines::Line { name: format!("{name}, {method}"), values, dashed });
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
