//! Runs cases and compares: one line an output, and a verdict.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use safetensors::SafeTensors;
use serde_json::{Map, Value};

use super::case::{Inputs, Outputs, Values, read};
use super::{Handler, find};
use crate::failure::fail;
use crate::{Failure, tolerance};

/// Which of an operation's handlers to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Double precision on the CPU.
    F64,
    /// Single precision on the CPU.
    F32,
    /// Single precision on the GPU.
    Gpu,
}

/// What to run, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Files, and folders that are searched for `*.safetensors`.
    pub paths: Vec<PathBuf>,
    /// The one operation to run, if not all.
    pub only: Option<String>,
    /// The precision and device.
    pub mode: Mode,
    /// Operations still to come: their cases are skipped, and none of them may have a handler.
    pub allow_missing: BTreeSet<String>,
}

/// The counts of the closing line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Outputs that agree.
    pub passed: usize,
    /// Outputs that do not, and cases that could not be computed.
    pub failed: usize,
    /// Cases that this mode or the list of operations to come leaves out.
    pub skipped: usize,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 { write!(f, ", {} skipped", self.skipped) } else { Ok(()) }
    }
}

/// Runs every case under the paths and passes each line of the report to `line`.
///
/// A path or an `--only` that selects no case is a failure: it would prove nothing and look like success.
pub fn run(options: &Options, mut line: impl FnMut(&str)) -> Tally {
    let mut tally = Tally::default();
    let mut report = |verdict: &str, rest: &str| {
        match verdict {
            "PASS" => tally.passed += 1,
            "SKIP" => tally.skipped += 1,
            _ => tally.failed += 1,
        }
        line(&format!("{verdict} {rest}"));
    };
    for op in options.allow_missing.iter().filter(|op| find(op).is_some()) {
        report("FAIL", &format!("{op} * * is listed as missing, but has a handler: take it off the list"));
    }
    let mut selected = 0_usize;
    for path in &options.paths {
        let mut files = Vec::new();
        match collect(path, &mut files) {
            Err(error) => report("FAIL", &format!("? {} * {error}", path.display())),
            Ok(()) if files.is_empty() => report("FAIL", &format!("? {} * holds no case", path.display())),
            Ok(()) => {}
        }
        files.sort();
        for file in files {
            selected += usize::from(run_file(&file, options, &mut report));
        }
    }
    if let (Some(op), 0) = (&options.only, selected) {
        report("FAIL", &format!("{op} * * no case has this operation"));
    }
    tally
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    if !path.is_dir() {
        std::fs::metadata(path)?;
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "safetensors") {
            files.push(path);
        }
    }
    Ok(())
}

/// Runs one file; whether it was a case of the selected operation.
fn run_file(file: &Path, options: &Options, report: &mut impl FnMut(&str, &str)) -> bool {
    let shown = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
    let opened = std::fs::read(file).map_err(Failure::from).and_then(|bytes| Ok((metadata(&bytes)?, bytes)));
    let (metadata, bytes) = match opened {
        Ok(opened) => opened,
        Err(failure) => {
            report("FAIL", &format!("? {shown} * {failure}"));
            return true;
        }
    };
    let op = &metadata.op;
    if options.only.as_ref().is_some_and(|only| only != op) {
        return false;
    }
    if options.allow_missing.contains(op) && find(op).is_none() {
        report("SKIP", &format!("{op} {shown} * not implemented yet"));
        return true;
    }
    let handler = match (find(op), options.mode) {
        (None, _) => {
            report("FAIL", &format!("{op} {shown} * unknown operation"));
            return true;
        }
        (Some(op), Mode::F64) => op.f64,
        (Some(op), Mode::F32) => op.f32,
        (Some(entry), Mode::Gpu) => match entry.gpu {
            Some(handler) => handler,
            None => {
                report("SKIP", &format!("{op} {shown} * has no GPU kernel"));
                return true;
            }
        },
    };
    match evaluate(&metadata, &bytes, handler, options.mode) {
        Ok(outputs) => {
            for (verdict, output) in outputs {
                report(verdict, &format!("{op} {shown} {output}"));
            }
        }
        Err(failure) => report("FAIL", &format!("{op} {shown} * {failure}")),
    }
    true
}

struct Metadata {
    op: String,
    params: Map<String, Value>,
    tol: Map<String, Value>,
}

fn metadata(bytes: &[u8]) -> Result<Metadata, Failure> {
    let (_, header) = SafeTensors::read_metadata(bytes)?;
    let text = |key: &str| match header.metadata().as_ref().and_then(|m| m.get(key)) {
        Some(text) => Ok(text.clone()),
        None => fail(format!("the metadata have no {key}")),
    };
    Ok(Metadata {
        op: text("op")?,
        params: serde_json::from_str(&text("params")?)?,
        tol: serde_json::from_str(&text("tol")?)?,
    })
}

/// Computes, and only then looks at what was expected. Verdict and rest of the line for each output.
fn evaluate(
    metadata: &Metadata,
    bytes: &[u8],
    handler: Handler,
    mode: Mode,
) -> Result<Vec<(&'static str, String)>, Failure> {
    let tensors = SafeTensors::deserialize(bytes)?;
    let inputs = Inputs::new(&tensors, metadata.params.clone());
    let start = Instant::now();
    let computed = catch_unwind(AssertUnwindSafe(|| handler(&inputs)));
    let ms = start.elapsed().as_secs_f64() * 1e3;
    let Outputs { tensors: computed, condition } = match computed {
        Ok(result) => result?,
        Err(panic) => return fail(format!("panicked: {}", panic_message(&*panic))),
    };
    let unknown = inputs.unknown_params();
    if !unknown.is_empty() {
        return fail(format!("unknown parameters {unknown:?}"));
    }
    let extra = if mode == Mode::F64 { 0.0 } else { tolerance::conformance_f32(inputs.longest_sum(), condition) };

    let mut expected: BTreeMap<String, (Vec<usize>, Values)> = BTreeMap::new();
    for name in tensors.names() {
        if let Some(output) = name.strip_prefix("out.") {
            expected.insert(output.to_owned(), read(&tensors, name)?);
        }
    }
    let mut lines = Vec::new();
    for (name, shape, got) in computed {
        let verdict = match expected.remove(&name) {
            None => Err(Failure("is computed, but the case expects no such output".into())),
            Some(_) if !metadata.tol.contains_key(&name) => Err(Failure("has no tolerance in the case".into())),
            Some((want_shape, want)) => {
                let tol = |key: &str| metadata.tol[&name].get(key).and_then(Value::as_f64);
                let (rtol, atol) = (tol("rtol").unwrap_or(0.0).max(extra), tol("atol").unwrap_or(0.0));
                compare((&shape, &got), (&want_shape, &want), rtol, atol)
            }
        };
        lines.push(match verdict {
            Ok((true, figures)) => ("PASS", format!("{name} {figures} ms={ms:.3}")),
            Ok((false, figures)) => ("FAIL", format!("{name} {figures} ms={ms:.3}")),
            Err(failure) => ("FAIL", format!("{name} {failure}")),
        });
    }
    lines.extend(expected.into_keys().map(|name| ("FAIL", format!("{name} is missing"))));
    if lines.is_empty() {
        return fail("the case has no output to compare");
    }
    Ok(lines)
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}

/// `max|got - want| <= atol + rtol max|want|` over the whole tensor; integers exactly.
fn compare(
    got: (&[usize], &Values),
    want: (&[usize], &Values),
    rtol: f64,
    atol: f64,
) -> Result<(bool, String), Failure> {
    if got.0 != want.0 {
        return fail(format!("has shape {:?}, expected {:?}", got.0, want.0));
    }
    let (error, largest, rtol, atol) = match (got.1, want.1) {
        (Values::Float(got), Values::Float(want)) => {
            let error = greatest(got.iter().zip(want).map(|(g, w)| (g - w).abs()));
            (error, greatest(want.iter().map(|w| w.abs())), rtol, atol)
        }
        (Values::Integer(got), Values::Integer(want)) => {
            let error = greatest(got.iter().zip(want).map(|(g, w)| g.abs_diff(*w) as f64));
            (error, greatest(want.iter().map(|w| w.unsigned_abs() as f64)), 0.0, 0.0)
        }
        (Values::Float(_), _) => return fail("is a tensor of floats, expected integers"),
        (Values::Integer(_), _) => return fail("is a tensor of integers, expected floats"),
    };
    // With nothing but zeros expected there is no scale: both figures are absolute then.
    let scale = if largest == 0.0 { 1.0 } else { largest };
    let mut figures = String::new();
    let _ = write!(figures, "rel_err={:.3e} tol={:.3e}", error / scale, rtol + atol / scale);
    Ok((error <= atol + rtol * largest, figures))
}

/// The maximum, which is NaN as soon as one element is: `f64::max` would drop it, and with it a failure.
fn greatest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |max, x| if x > max || x.is_nan() { x } else { max })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(got: &[f64], want: &[f64], rtol: f64, atol: f64) -> bool {
        let values = |x: &[f64]| Values::Float(x.to_vec());
        compare((&[got.len()], &values(got)), (&[want.len()], &values(want)), rtol, atol).is_ok_and(|(pass, _)| pass)
    }

    #[test]
    fn the_rule_of_comparison() {
        assert!(verdict(&[1.0, 100.1], &[1.0, 100.0], 1.1e-3, 0.0), "one maximum over the whole tensor");
        assert!(!verdict(&[1.0, 100.2], &[1.0, 100.0], 1.1e-3, 0.0));
        assert!(verdict(&[0.0, 1e-13], &[0.0, 0.0], 1e-9, 1e-12), "atol carries a tensor of zeros");
        assert!(!verdict(&[0.0, 1e-11], &[0.0, 0.0], 1e-9, 1e-12));
        assert!(verdict(&[], &[], 0.0, 0.0));
        assert!(!verdict(&[1.0], &[1.0, 1.0], 1.0, 1.0), "shapes");
    }

    #[test]
    fn a_nan_never_passes() {
        for got in [[f64::NAN, 1.0], [1.0, f64::NAN], [f64::INFINITY, 1.0]] {
            assert!(!verdict(&got, &[1.0, 1.0], 1.0, 1.0), "{got:?}");
        }
        assert!(!verdict(&[1.0], &[f64::NAN], 1.0, 1.0));
        assert!(!verdict(&[f64::INFINITY], &[f64::INFINITY], 1.0, 1.0));
    }

    #[test]
    fn integers_are_exact_and_never_compared_with_floats() {
        let (one, two) = (Values::Integer(vec![1 << 60]), Values::Integer(vec![(1 << 60) + 1]));
        assert!(compare((&[1], &one), (&[1], &one), 0.0, 0.0).unwrap().0);
        assert!(!compare((&[1], &two), (&[1], &one), 1.0, 1.0).unwrap().0);
        assert!(compare((&[1], &one), (&[1], &Values::Float(vec![1.0])), 1.0, 1.0).is_err());
    }
}
