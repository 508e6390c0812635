//! A store of gradients on disk: built, interrupted, resumed, and asked for the best rows of many queries.
//!
//! `cargo run --release -p ascribe-solvers --features store --example score_store` writes 200,000 rows of 4096 numbers
//! as int8; with `--kill-at 0.5` it dies half-way, and the same command without it goes on where it stopped. `-- --help`
//! lists what can be changed.

mod answer;
#[path = "../attribute/argument.rs"]
#[expect(dead_code, reason = "the other example has more kinds of options")]
mod argument;
mod gradients;
mod options;

use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, process};

use ascribe_core::MatRef;
use ascribe_solvers::parallel::Parallelism;
use ascribe_solvers::store::{Header, Store, Writer, WriterOptions};
use indicatif::{ProgressBar, ProgressStyle};

use answer::best_rows;
use gradients::Gradients;
use options::{HELP, Options};

type Failure = Box<dyn std::error::Error>;

/// Rows that are made and appended at a time.
const BATCH: u64 = 1024;
/// The one writer's name: whoever resumes takes it over.
const WRITER: &str = "w0";

fn main() -> ExitCode {
    let result = match Options::parse(env::args_os().skip(1)) {
        Ok(Some(options)) => build(&options).and_then(|()| ask(&options)),
        Ok(None) => {
            print!("{HELP}");
            Ok(())
        }
        Err(why) => Err(why.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Appends the rows that the store does not have yet.
fn build(options: &Options) -> Result<(), Failure> {
    let gradients = Gradients::new(options);
    let mut header = Header::new(options.cols, options.format);
    header.sketch.insert("kind".to_owned(), "synthetic".to_owned());
    header.sketch.insert("queries".to_owned(), options.queries.to_string());
    header.sketch.insert("rows".to_owned(), options.rows.to_string());
    "no model: noise with planted rows".clone_into(&mut header.fingerprint);
    Store::create(&options.dir, &header)?;

    let parallelism = Parallelism::threads(options.threads);
    let mut writer = Writer::open(&options.dir, WRITER, WriterOptions { parallelism, ..WriterOptions::default() })?;
    let missing: Vec<u64> = writer.missing(0..options.rows).collect();
    let there = options.rows - missing.len() as u64;
    println!("{}: {there} of {} rows are there", options.dir.display(), options.rows);
    let (bar, start) = (bar("writing", options.rows), Instant::now());
    bar.set_position(there);
    let mut rows = Vec::new();
    for ids in missing.chunks(BATCH as usize) {
        let done = bar.position();
        if options.kill_at.is_some_and(|fraction| done as f64 >= fraction * options.rows as f64) {
            bar.abandon();
            eprintln!("killed after {done} rows; the same command without --kill-at goes on");
            // No destructor runs and nothing is flushed, as in a crash.
            process::abort();
        }
        gradients.train(&mut rows, ids, parallelism)?;
        writer.append(ids, MatRef::new(&rows, ids.len(), options.cols)?)?;
        bar.inc(ids.len() as u64);
    }
    writer.finish()?;
    bar.finish_and_clear();
    println!("{} rows made and written in {}", missing.len(), seconds(start.elapsed()));
    Ok(())
}

/// Asks for the best rows of every query and compares them with those that were planted.
fn ask(options: &Options) -> Result<(), Failure> {
    let gradients = Gradients::new(options);
    let start = Instant::now();
    let store = Store::open(&options.dir)?;
    println!("{} rows opened in {}", store.len(), seconds(start.elapsed()));

    let queries = gradients.queries();
    let queries = MatRef::new(&queries, options.queries, options.cols)?;
    let (bar, start) = (bar("scoring", store.len() as u64), Instant::now());
    let best = best_rows(&store, queries, options.top, Parallelism::threads(options.threads), &bar)?;
    bar.finish_and_clear();
    println!("{} queries answered in {}", options.queries, seconds(start.elapsed()));

    let (mut found, mut planted) = (0, 0);
    for (query, best) in best.iter().enumerate() {
        let ids: Vec<u64> = best.iter().filter_map(|ranked| store.id(ranked.index)).collect();
        let expected = gradients.planted(query);
        planted += expected.len();
        found += expected.iter().filter(|id| ids.contains(id)).count();
        if let (0, Some(first)) = (query, best.first()) {
            println!("query 0: example {} leads with a score of {:.1}", ids[0], first.score);
        }
    }
    println!("{found} of {planted} planted rows are among the first {} of their queries", options.top);
    Ok(())
}

fn bar(name: &'static str, rows: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:>8} [{bar:32}] {pos}/{len} rows, {per_sec}, {eta} left");
    let style = style.expect("the template is well formed").progress_chars("=> ");
    ProgressBar::new(rows).with_style(style).with_prefix(name)
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
