//! What can be asked for on the command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use ascribe_solvers::store::Format;
use lexopt::prelude::*;

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
        let advice = |why: lexopt::Error| format!("{why}; --help lists the options");
        let mut parser = lexopt::Parser::from_args(args);
        while let Some(arg) = parser.next().map_err(advice)? {
            let Long(name) = arg else { return Err(advice(arg.unexpected())) };
            let name = name.to_owned();
            if name == "help" {
                return Ok(None);
            }
            let value = parser.value().map_err(advice)?;
            match name.as_str() {
                "dir" => options.dir = value.into(),
                "rows" => options.rows = number(&name, &value)?,
                "cols" => options.cols = number(&name, &value)?,
                "format" => options.format = format_named(&value.to_string_lossy())?,
                "queries" => options.queries = number(&name, &value)?,
                "top" => options.top = number(&name, &value)?,
                "kill-at" => options.kill_at = Some(number(&name, &value)?),
                "threads" => options.threads = number(&name, &value)?,
                _ => return Err(format!("there is no option --{name}; --help lists the options")),
            }
        }
        Ok(Some(options))
    }
}

fn number<T: FromStr>(name: &str, value: &OsString) -> Result<T, String> {
    let value = value.to_string_lossy();
    value.parse().map_err(|_| format!("--{name} must be a number, got `{value}`"))
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
