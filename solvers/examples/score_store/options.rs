//! What can be asked for on the command line.

use std::ffi::OsString;
use std::path::PathBuf;

use ascribe_solvers::store::Format;
use lexopt::{Arg, Parser};

use crate::argument::{advice, number, path, text};

pub(crate) const HELP: &str = "\
A store of gradients on disk: built, interrupted, resumed, and asked for the best rows of many queries.

Usage: cargo run --release -p ascribe-solvers --features store --example score_store -- [OPTIONS]

  --dir DIR       where the store is, or will be              [target/score_store]
  --rows N        training examples                           [200000]
  --cols N        numbers of a sketched gradient              [4096]
  --format NAME   f32, f16, bf16, int8 or one-bit             [int8]
  --queries N     examples to explain                         [64]
  --top N         training examples for each of them          [100]
  --kill-at X     die without a word when a part X is written, from 0 to 1
  --threads N     never changes a result                      [all cores]
  --help          this text
";

/// More identifiers than these take more memory than most machines have.
const MAX_ROWS: u64 = 100_000_000;
/// A batch of rows of this length takes 256 MiB.
const MAX_COLS: usize = 65_536;
/// Queries, and rows that are kept for each.
const MAX_ANSWERS: usize = 10_000;

/// What was asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Options {
    pub(crate) dir: PathBuf,
    pub(crate) rows: u64,
    pub(crate) cols: usize,
    pub(crate) format: Format,
    pub(crate) queries: usize,
    pub(crate) top: usize,
    pub(crate) kill_at: Option<f64>,
    pub(crate) threads: usize,
}

impl Options {
    /// The options of a command line; `None` when only help is asked for.
    pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Option<Self>, String> {
        let mut options = Self {
            dir: "target/score_store".into(),
            rows: 200_000,
            cols: 4096,
            format: Format::Int8 { block: 64 },
            queries: 64,
            top: 100,
            kill_at: None,
            threads: 0,
        };
        let mut parser = Parser::from_args(args);
        while let Some(arg) = parser.next().map_err(|why| advice(&why))? {
            let name = match arg {
                Arg::Short('h') => return Ok(None),
                Arg::Long(name) => name.to_owned(),
                other => return Err(advice(&other.unexpected())),
            };
            let value = &mut parser;
            match name.as_str() {
                "help" => return Ok(None),
                "dir" => options.dir = path(value)?,
                "rows" => options.rows = number(value, &name, 1..=MAX_ROWS, whole(MAX_ROWS))?,
                "cols" => options.cols = number(value, &name, 1..=MAX_COLS, whole(MAX_COLS as u64))?,
                "format" => options.format = format_named(&text(value)?)?,
                "queries" => options.queries = number(value, &name, 1..=MAX_ANSWERS, whole(MAX_ANSWERS as u64))?,
                "top" => options.top = number(value, &name, 1..=MAX_ANSWERS, whole(MAX_ANSWERS as u64))?,
                "kill-at" => options.kill_at = Some(number(value, &name, 0.0..=1.0, "a number from 0 to 1")?),
                "threads" => options.threads = number(value, &name, 1..=1024, whole(1024))?,
                _ => return Err(format!("there is no option --{name}; --help lists them all")),
            }
        }
        Ok(Some(options))
    }
}

fn whole(most: u64) -> String {
    format!("a whole number from 1 to {most}")
}

fn format_named(name: &str) -> Result<Format, String> {
    Ok(match name {
        "f32" => Format::F32,
        "f16" => Format::F16,
        "bf16" => Format::Bf16,
        "int8" => Format::Int8 { block: 64 },
        "one-bit" => Format::OneBit,
        _ => return Err(format!("--format must be f32, f16, bf16, int8 or one-bit, got `{name}`")),
    })
}
