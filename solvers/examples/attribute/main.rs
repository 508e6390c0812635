//! Which training examples made a model decide as it did, and how far each attribution method is to be trusted.
//!
//! `cargo run --release --example attribute` trains a small network on handwritten digits, scores every training
//! image for every query by each method, retrains on random halves of the data to see which method was right, and
//! writes `attribution.svg` and `attribution.json`. `-- --help` lists what can be changed.

mod archive;
mod argument;
mod chart;
mod curves;
mod data;
mod device;
mod evaluation;
mod figure;
mod file;
mod gallery;
mod gpu;
mod ground_truth;
mod learned;
mod methods;
mod model;
mod options;
mod page;
mod picture;
mod progress;
mod report;
mod shortening;
mod sketched;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;
use std::{env, fs};

use curves::Curve;
use data::Dataset;
use device::Device;
use evaluation::{Tally, Truth};
use ground_truth::{GroundTruth, Settings, run_seed};
use methods::{Context, METHODS};
use options::{ModelKind, Options, Parsed};
use progress::Stage;
use report::Report;

fn main() -> ExitCode {
    let names: Vec<_> = METHODS.iter().map(|method| method.name).collect();
    let result = match Options::parse(env::args_os().skip(1), &names) {
        Ok(Parsed::Run(options)) => run(&options),
        Ok(Parsed::Help) => Ok(options::help(METHODS.iter().map(|method| (method.name, method.about)))),
        Err(why) => Err(why),
    };
    match result {
        Ok(text) => {
            // A reader that has seen enough and left is no failure.
            let _ = writeln!(io::stdout(), "{text}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("attribute: {why}");
            ExitCode::from(2)
        }
    }
}

/// The whole of it; the result is what the terminal shows.
fn run(options: &Options) -> Result<String, String> {
    let start = Instant::now();
    let (svg, json) = (options.out.join("attribution.svg"), options.out.join("attribution.json"));
    fs::create_dir_all(&options.out)
        .map_err(|why| format!("cannot make --out {}: {why}; choose another folder", options.out.display()))?;
    file::check_writable(&svg)?;

    let device = Device::open(options)?;
    let data = Dataset::load(options.data.as_deref())?;
    let (train, queries) = data.split(options.train, options.queries)?;
    let everything: Vec<usize> = (0..train.n).collect();

    let stage = Stage::new("training", options.models);
    let mut models = Vec::new();
    for run in 0..options.models {
        models.push(model::train(options, &train, &everything, run_seed(options.seed, "attribute.model", run))?);
        stage.tick();
    }
    let mean_accuracy = |data| {
        let accuracies = models.iter().map(|model| model.accuracy(data));
        Ok::<_, String>(accuracies.sum::<Result<f64, _>>()? / models.len() as f64)
    };
    let (train_accuracy, query_accuracy) = (mean_accuracy(&train)?, mean_accuracy(&queries)?);
    stage.finish(&format!("{:.1} % of the queries right", 100.0 * query_accuracy));

    let retrain = |rows: &[usize], seed| model::train(options, &train, rows, seed)?.margins(&queries);
    let settings = Settings::new(options, &data);
    let ground_truth = GroundTruth::obtain(&settings, &retrain, options.threads, options.ground_truth.as_deref())?;
    let truth = Truth::new(&ground_truth, train.n);

    let methods: Vec<_> = METHODS.iter().filter(|method| options.methods.contains(&method.name)).collect();
    let mut tallies: Vec<_> = methods.iter().map(|method| Tally::new(method.name, &truth)).collect();
    // The same once more for each length of a sketch, method by method.
    let sketching = methods.iter().filter_map(|method| Some((method.name, method.kind.sketched()?)));
    let sketches = || sketching.clone().flat_map(|sketch| options.lengths.iter().map(move |&length| (sketch, length)));
    let mut lengths: Vec<_> = sketches().map(|((name, _), _)| Tally::new(name, &truth)).collect();
    let stage = Stage::new("attribution", models.len() * (methods.len() + lengths.len()));
    for model in &models {
        let context = Context { options, device: &device, model, train: &train, queries: &queries };
        // The explicit method is the first that solves anything; the others are compared with it.
        let mut reference = None;
        for (method, tally) in methods.iter().zip(&mut tallies) {
            stage.show(method.name);
            let clock = Instant::now();
            let result = method.attribute(&context);
            let seconds = clock.elapsed().as_secs_f64();
            tally.add(&result, seconds, &truth, reference.as_ref());
            if method.name == methods::REFERENCE {
                reference = result.ok();
            }
            stage.tick();
        }
        for (((name, attribute), length), tally) in sketches().zip(&mut lengths) {
            stage.show(&format!("{name} {length}"));
            let clock = Instant::now();
            let result = attribute(&context, length);
            tally.add(&result, clock.elapsed().as_secs_f64(), &truth, None);
            stage.tick();
        }
    }
    let (count, device) = (methods.len(), device.name());
    stage.finish(&format!("{count} methods, {} x {} scores each, on {device}", train.n, queries.n));

    let rows: Vec<_> = tallies.iter().map(|tally| tally.row(&truth, options.seed)).collect();
    let rows_of = lengths.iter().map(|tally| tally.row(&truth, options.seed));
    let points: Vec<_> = sketches().map(|(_, length)| length).zip(rows_of).collect();
    let curves = sketching.clone().zip(points.chunks(options.lengths.len().max(1)));
    let curves = curves.map(|((name, _), points)| Curve { name, points: points.to_vec() }).collect();
    let best = report::best(&rows).and_then(|best| Some((methods[best].name, tallies[best].mean_scores()?)));
    let figures = best.map(|(name, scores)| Ok::<_, String>((name, figure::figures(&scores, &train, &queries)?)));
    let report = Report {
        options,
        train: &train,
        queries: &queries,
        train_accuracy,
        query_accuracy,
        noise_ceiling: evaluation::noise_ceiling(&ground_truth, options.model == ModelKind::Logistic),
        rows,
        curves,
        figures: figures.transpose()?,
        seconds: start.elapsed().as_secs_f64(),
    };
    file::write(&svg, chart::draw(&report).as_bytes())?;
    file::write(&json, format!("{:#}\n", report.json()).as_bytes())?;
    let (table, seconds) = (report.table(), report.seconds);
    Ok(format!("{table}\n\n{} and {}, {seconds:.1} s in all", svg.display(), json.display()))
}
