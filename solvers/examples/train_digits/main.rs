//! Trains a network on the digits with every optimizer of the library, until it gets 97 % of unseen digits right:
//!
//! ```text
//! cargo run --release -p ascribe-solvers --example train_digits -- [--steps N] [--seed N] [--out FILE.svg]
//! ```
//!
//! It prints one table, steps and seconds for each optimizer, and draws the loss on the unseen digits per step and per
//! second.

mod chart;
#[path = "../attribute/data.rs"]
#[expect(dead_code, reason = "the other example needs more of it")]
mod data;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use ascribe_core::MatRef;
use ascribe_core::derivative::Reduction;
use ascribe_core::random::Stream;
use ascribe_solvers::Error;
use ascribe_solvers::network::{Activation, Linearized, Loss, Mlp, Targets};
use ascribe_solvers::parallel::Parallelism::{self, Serial};
use ascribe_solvers::precondition::{
    AdamW, Blocking, Grafting, KroneckerDescent, KroneckerSpectral, Layout, Optimizer, ScheduleFreeAdamW, Shampoo, Soap,
};

use data::Dataset;

/// The share of unseen digits to get right.
const GOAL: f64 = 0.97;
const TRAIN: usize = 1437;
const HIDDEN: [usize; 2] = [128, 64];
const BATCH: usize = 128;
/// Steps from one evaluation to the next.
const EVERY: usize = 5;

type Start = fn(&Layout) -> Result<Box<dyn Optimizer<f32>>, Error>;

/// An optimizer, one line.
const OPTIMIZERS: &[(&str, Start)] = &[
    ("AdamW", |layout| Ok(Box::new(AdamW { learning_rate: 3e-3, ..AdamW::default() }.start(layout, Serial)?))),
    ("Schedule-Free AdamW", |layout| Ok(Box::new(schedule_free().start(layout, Serial)?))),
    ("Shampoo", |layout| Ok(Box::new(shampoo().start(layout, Parallelism::threads(0))?))),
    ("SOAP", |layout| Ok(Box::new(soap().start(layout, Parallelism::threads(0))?))),
    ("KroneckerSpectral", |layout| Ok(Box::new(kronecker().start(layout, Parallelism::threads(0))?))),
    ("KL-Shampoo", |layout| Ok(Box::new(kl_shampoo().start(layout, Parallelism::threads(0))?))),
];

fn schedule_free() -> ScheduleFreeAdamW {
    ScheduleFreeAdamW { learning_rate: 1e-2, warmup_steps: 10, ..ScheduleFreeAdamW::default() }
}

fn shampoo() -> Shampoo {
    Shampoo {
        learning_rate: 3e-3,
        beta2: 0.99,
        epsilon: 1e-8,
        grafting: Grafting::Adam { beta2: 0.99, epsilon: 1e-8 },
        frequency: 10,
        // The largest of the layers in one block; merged axes would make a vector of the last layer, with a large factor.
        blocking: Blocking { max_dim: 1024, merge: false },
        ..Shampoo::default()
    }
}

fn soap() -> Soap {
    Soap { learning_rate: 3e-3, ..Soap::default() }
}

fn kronecker() -> KroneckerDescent {
    let preconditioner = KroneckerSpectral { beta2: 0.05, ..KroneckerSpectral::default() };
    KroneckerDescent { learning_rate: 3e-3, preconditioner, ..KroneckerDescent::default() }
}

fn kl_shampoo() -> KroneckerDescent {
    let preconditioner = KroneckerSpectral::kl_shampoo();
    KroneckerDescent { learning_rate: 1e-2, preconditioner, ..KroneckerDescent::default() }
}

/// What became of one optimizer.
struct Run {
    name: &'static str,
    /// Steps, seconds and loss at each evaluation.
    path: Vec<(f64, f64, f64)>,
    /// Steps and seconds until the goal.
    reached: Option<(usize, f64)>,
    best: f64,
}

const HELP: &str = "\
Trains a network on the digits with every optimizer of the library.

Usage: cargo run --release -p ascribe-solvers --example train_digits -- [OPTIONS]

  --steps N      steps of each optimizer                  [200]
  --seed N       where every random number comes from     [0]
  --out FILE     where the picture is written             [train_digits.svg]
  --help         this text
";

fn main() -> ExitCode {
    let result = match Options::parse() {
        Ok(Some(options)) => compare(&options),
        Ok(None) => {
            print!("{HELP}");
            Ok(())
        }
        Err(why) => Err(why),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("train_digits: {why}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    steps: usize,
    seed: u64,
    out: PathBuf,
}

impl Options {
    /// The options of the command line; `None` when only help is asked for.
    fn parse() -> Result<Option<Self>, String> {
        let mut options = Self { steps: 200, seed: 0, out: "train_digits.svg".into() };
        let mut args = lexopt::Parser::from_env();
        while let Some(arg) = args.next().map_err(|why| why.to_string())? {
            let option = match arg {
                lexopt::Arg::Short('h') | lexopt::Arg::Long("help") => return Ok(None),
                lexopt::Arg::Long(name @ ("steps" | "seed" | "out")) => name.to_owned(),
                _ => return Err(format!("{}; --help lists the options", arg.unexpected())),
            };
            let value = args.value().map_err(|why| why.to_string())?;
            let number =
                || value.to_str().and_then(|text| text.parse().ok()).ok_or(format!("--{option}: a number is needed"));
            match option.as_str() {
                "steps" => options.steps = number()? as usize,
                "seed" => options.seed = number()?,
                _ => options.out = value.into(),
            }
        }
        Ok(Some(options))
    }
}

fn compare(options: &Options) -> Result<(), String> {
    let (train, test) = shuffled(&Dataset::load(None)?, options.seed);
    println!("optimizer                steps to {:.0} %   seconds   ms a step   best", 100.0 * GOAL);
    let mut runs = Vec::new();
    for &(name, start) in OPTIMIZERS {
        let run = run(name, start, &train, &test, options).map_err(|why| format!("{name}: {why}"))?;
        let reached = run
            .reached
            .map_or(["-".to_owned(), "-".to_owned()], |(steps, seconds)| [steps.to_string(), format!("{seconds:.3}")]);
        let pace = run.path.last().map_or(0.0, |(steps, seconds, _)| 1e3 * seconds / steps.max(1.0));
        println!("{name:<24} {:>13} {:>9} {pace:>11.3} {:>5.1} %", reached[0], reached[1], 100.0 * run.best);
        runs.push(run);
    }
    std::fs::write(&options.out, chart::draw(&runs)).map_err(|why| format!("{}: {why}", options.out.display()))?;
    println!("loss per step and per second: {}", options.out.display());
    Ok(())
}

/// Pixels and labels, in the order of the batches' cutting.
struct Split {
    pixels: Vec<f32>,
    labels: Vec<usize>,
    p: usize,
}

/// The digits come by writer: a split in their order would test on other hands than it trained on.
fn shuffled(digits: &Dataset, seed: u64) -> (Split, Split) {
    let mut order: Vec<usize> = (0..digits.n).collect();
    Stream::new(seed, "train_digits.split").draws().shuffle(&mut order);
    let select = |rows: &[usize]| Split {
        pixels: rows.iter().flat_map(|&row| digits.image(row)).copied().collect(),
        labels: rows.iter().map(|&row| digits.labels[row]).collect(),
        p: digits.p,
    };
    (select(&order[..TRAIN]), select(&order[TRAIN..]))
}

fn run(name: &'static str, start: Start, train: &Split, test: &Split, options: &Options) -> Result<Run, Error> {
    let net = Mlp::new(&[train.p, HIDDEN[0], HIDDEN[1], 10], Activation::Relu, Loss::CrossEntropy)?;
    let mut params = vec![0.0_f32; net.params()];
    net.initialize(&mut params, Stream::new(options.seed, "train_digits.init"))?;
    let mut optimizer = start(&Layout::of(&net)?)?;
    let mut model = params.clone();
    let (mut seconds, mut path, mut reached, mut best) = (0.0, Vec::new(), None, 0.0_f64);
    let mut order: Vec<usize> = (0..train.labels.len()).collect();
    let stream = Stream::new(options.seed, "train_digits.order");
    let (mut step, mut epoch) = (0, 0);
    while step < options.steps {
        stream.child(epoch).draws().shuffle(&mut order);
        epoch += 1;
        for batch in order.chunks_exact(BATCH).take(options.steps - step) {
            let rows: Vec<f32> =
                batch.iter().flat_map(|&row| &train.pixels[row * train.p..][..train.p]).copied().collect();
            let labels: Vec<usize> = batch.iter().map(|&row| train.labels[row]).collect();
            let clock = Instant::now();
            let (images, targets) = (MatRef::new(&rows, BATCH, train.p)?, Targets::Classes(&labels));
            let gradient = Linearized::new(&net, &params, images, targets, Reduction::Mean, Serial)?.gradient()?;
            optimizer.step(&mut params, &gradient)?;
            seconds += clock.elapsed().as_secs_f64();
            step += 1;
            if step % EVERY == 0 {
                optimizer.model(&mut model, &params)?;
                let (loss, accuracy) = evaluate(&net, &model, test)?;
                path.push((step as f64, seconds, loss));
                best = best.max(accuracy);
                if accuracy >= GOAL && reached.is_none() {
                    reached = Some((step, seconds));
                }
            }
        }
    }
    Ok(Run { name, path, reached, best })
}

/// Loss and share of digits whose own output is the largest.
fn evaluate(net: &Mlp, params: &[f32], test: &Split) -> Result<(f64, f64), Error> {
    let images = MatRef::new(&test.pixels, test.labels.len(), test.p)?;
    let targets = Targets::Classes(&test.labels);
    let lin = Linearized::new(net, params, images, targets, Reduction::Mean, Parallelism::threads(0))?;
    let right = |z: &[f32], label: usize| z.iter().enumerate().all(|(j, other)| j == label || *other < z[label]);
    let count = lin.outputs().zip(&test.labels).filter(|(z, label)| right(z, **label)).count();
    Ok((f64::from(lin.loss()), count as f64 / test.labels.len() as f64))
}
