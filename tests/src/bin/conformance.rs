//! `conformance [--only OP] [--dtype f64|f32] [--device cpu|gpu] [--allow-missing FILE] PATH...`

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use ascribe_tests::Failure;
use ascribe_tests::conformance::runner::{Mode, Options, run};
use ascribe_tests::failure::fail;

const USAGE: &str = "\
usage: conformance [--only OP] [--dtype f64|f32] [--device cpu|gpu] [--allow-missing FILE] PATH...
  PATH                  a case, or a folder searched recursively for *.safetensors
  --only OP             the cases of one operation
  --dtype f64|f32       the type that the library computes in (default f64)
  --device cpu|gpu      gpu: f32 kernels; operations without one are skipped
  --allow-missing FILE  operations still to come, one a line: skipped, and an error once they exist";

fn main() -> ExitCode {
    match options(std::env::args().skip(1)) {
        Ok(options) => {
            let tally = run(&options, |line| println!("{line}"));
            println!("{tally}");
            if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(failure) => {
            eprintln!("{failure}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn options(mut args: impl Iterator<Item = String>) -> Result<Options, Failure> {
    let mut options = Options { paths: Vec::new(), only: None, mode: Mode::F64, allow_missing: BTreeSet::new() };
    let (mut dtype, mut gpu) = (None, false);
    while let Some(arg) = args.next() {
        let mut value = || args.next().map_or_else(|| fail(format!("{arg} needs a value")), Ok);
        match arg.as_str() {
            "--only" => options.only = Some(value()?),
            "--dtype" => {
                dtype = Some(match value()?.as_str() {
                    "f64" => Mode::F64,
                    "f32" => Mode::F32,
                    other => return fail(format!("--dtype {other}: f64 or f32")),
                });
            }
            "--device" => {
                gpu = match value()?.as_str() {
                    "cpu" => false,
                    "gpu" => true,
                    other => return fail(format!("--device {other}: cpu or gpu")),
                }
            }
            "--allow-missing" => options.allow_missing = missing(&value()?)?,
            flag if flag.starts_with("--") => return fail(format!("unknown option {flag}")),
            path => options.paths.push(PathBuf::from(path)),
        }
    }
    if options.paths.is_empty() {
        return fail("no PATH given");
    }
    options.mode = match (gpu, dtype) {
        (false, dtype) => dtype.unwrap_or(Mode::F64),
        (true, None | Some(Mode::F32)) => Mode::Gpu,
        (true, _) => return fail("GPU kernels compute in f32: --device gpu takes --dtype f32 or none"),
    };
    Ok(options)
}

/// One operation a line; `#` starts a comment.
fn missing(file: &str) -> Result<BTreeSet<String>, Failure> {
    let text = std::fs::read_to_string(file).or_else(|error| fail(format!("{file}: {error}")))?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or("").trim());
    Ok(lines.filter(|line| !line.is_empty()).map(str::to_owned).collect())
}
