//! Runs cases and compares: one line an output, and a verdict.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use safetensors::SafeTensors;
use serde_json::{Map, Value};

use super::case::{DISTURBANCE, Inputs, Output, Outputs, Values, read};
use super::compare::{Tolerance, compare};
use super::gpu::compute;
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

/// The cases in a folder and in those below it, or the one file.
///
/// # Errors
/// When the path cannot be read.
pub fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
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
    let outputs = match handler(op, options) {
        Ok((tested, f64)) => evaluate(&metadata, &bytes, &*tested, f64, options.mode),
        Err((verdict, reason)) => Ok(vec![(verdict, format!("* {reason}"))]),
    };
    match outputs {
        Ok(outputs) => {
            for (verdict, output) in outputs {
                report(verdict, &format!("{op} {shown} {output}"));
            }
        }
        Err(failure) => report("FAIL", &format!("{op} {shown} * {failure}")),
    }
    true
}

/// What is tested.
type Tested = Box<dyn Fn(&Inputs<'_>) -> Result<Outputs, Failure>>;

/// What computes the operation, and that in f64; or the verdict and the reason where nothing does.
fn handler(op: &str, options: &Options) -> Result<(Tested, Handler), (&'static str, &'static str)> {
    let Some(found) = find(op) else {
        let to_come = options.allow_missing.contains(op);
        return Err(if to_come { ("SKIP", "is still to come") } else { ("FAIL", "unknown operation") });
    };
    let tested: Tested = match (options.mode, found.gpu) {
        (Mode::F64, _) => Box::new(found.f64),
        (Mode::F32, _) => Box::new(found.f32),
        (Mode::Gpu, Some(record)) => Box::new(move |inputs| compute(record, found.f32, inputs)),
        (Mode::Gpu, None) => return Err(("SKIP", "has no GPU kernel")),
    };
    Ok((tested, found.f64))
}

/// How much the computation in f64 magnifies a disturbance of its inputs, at most over all outputs and a few random
/// disturbances; relative to the outputs' largest element or magnitude. Infinite where a disturbed case is refused.
///
/// What handlers claim multiplies the worst of every step. This is what such a step does to an error of no particular
/// direction, which is what rounding makes (Kenney and Laub, SIAM J. Sci. Comput. 15, 1994).
fn sensitivity(inputs: &Inputs<'_>, handler: Handler) -> f64 {
    let compute = |inputs: Inputs<'_>| {
        let outputs = catch_unwind(AssertUnwindSafe(|| handler(&inputs))).ok()?.ok()?;
        Some(outputs.computed)
    };
    let Some(plain) = compute(inputs.afresh()) else { return f64::INFINITY };
    let mut largest = 0.0_f64;
    for seed in 0..DISTURBANCES {
        let Some(disturbed) = compute(inputs.disturbed(seed)) else { return f64::INFINITY };
        for (plain, disturbed) in plain.iter().zip(&disturbed) {
            if let (Values::Float(x), Values::Float(y)) = (&plain.values, &disturbed.values) {
                let size = x.iter().fold(plain.magnitude, |size, x| size.max(x.abs()));
                let change = x.iter().zip(y).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
                if size > 0.0 {
                    largest = largest.max(change / size / DISTURBANCE);
                }
            }
        }
    }
    largest
}

const DISTURBANCES: u32 = 4;

/// What a case says about itself.
#[derive(Debug)]
pub struct Metadata {
    /// Its operation.
    pub op: String,
    /// The parameters of that.
    pub params: Map<String, Value>,
    tol: Map<String, Value>,
}

impl Metadata {
    /// The tolerance of an output; computation in f32 may add `rounding`, as [`Tolerance`] says.
    ///
    /// # Errors
    /// When the case has none for it.
    pub fn tolerance(&self, output: &str, rounding: f64, magnitude: f64) -> Result<Tolerance, Failure> {
        let Some(tol) = self.tol.get(output) else { return fail("has no tolerance in the case") };
        let part = |key: &str| tol.get(key).and_then(Value::as_f64).unwrap_or(0.0);
        Ok(Tolerance { rtol: part("rtol"), atol: part("atol"), rounding, magnitude })
    }
}

/// The metadata of a case.
///
/// # Errors
/// When the file is none, or lacks an entry.
pub fn metadata(bytes: &[u8]) -> Result<Metadata, Failure> {
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
    tested: &dyn Fn(&Inputs<'_>) -> Result<Outputs, Failure>,
    f64: Handler,
    mode: Mode,
) -> Result<Vec<(&'static str, String)>, Failure> {
    let tensors = SafeTensors::deserialize(bytes)?;
    let inputs = Inputs::new(&tensors, metadata.params.clone());
    let start = Instant::now();
    let computed = catch_unwind(AssertUnwindSafe(|| tested(&inputs)));
    let ms = start.elapsed().as_secs_f64() * 1e3;
    let computed = match computed {
        Ok(result) => result?,
        Err(panic) => return fail(format!("panicked: {}", panic_message(&*panic))),
    };
    let unknown = inputs.unknown_params();
    if !unknown.is_empty() {
        return fail(format!("unknown parameters {unknown:?}"));
    }

    let mut expected: BTreeMap<String, (Vec<usize>, Values)> = BTreeMap::new();
    for name in tensors.names() {
        if let Some(output) = name.strip_prefix("out.") {
            expected.insert(output.to_owned(), read(&tensors, name)?);
        }
    }
    let claims_much = mode != Mode::F64 && computed.computed.iter().any(|output| output.condition > 1.0);
    let measured = if claims_much { sensitivity(&inputs, f64).max(1.0) } else { f64::INFINITY };
    let mut lines = Vec::new();
    for Output { name, shape, values: got, condition, magnitude, optional } in computed.computed {
        let longest = inputs.longest_sum();
        let condition = condition.min(measured);
        let rounding = if mode == Mode::F64 { 0.0 } else { tolerance::conformance_f32(longest, condition) };
        let verdict = match expected.remove(&name) {
            None if optional => continue,
            None => Err(Failure("is computed, but the case expects no such output".into())),
            Some((want_shape, want)) => metadata
                .tolerance(&name, rounding, magnitude)
                .and_then(|tolerance| compare((&shape, &got), (&want_shape, &want), tolerance)),
        };
        lines.push(match verdict {
            Ok((true, figures)) => ("PASS", format!("{name} {figures} ms={ms:.3}")),
            Ok((false, figures)) => ("FAIL", format!("{name} {figures} ms={ms:.3}")),
            Err(failure) => ("FAIL", format!("{name} {failure}")),
        });
    }
    for (name, why) in computed.left_out {
        if expected.remove(&name).is_some() {
            lines.push(("SKIP", format!("{name} {why}")));
        }
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use safetensors::Dtype;
    use safetensors::tensor::{TensorView, serialize};

    use super::*;

    /// A case with `in.x`, the expected outputs given, and the parameter `scale`.
    fn case(op: &str, expected: &[(&str, [f64; 2])]) -> Vec<u8> {
        let bytes = |x: [f64; 2]| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let mut tensors = vec![("in.x".to_owned(), bytes([1.0, 2.0]))];
        tensors.extend(expected.iter().map(|(name, x)| (format!("out.{name}"), bytes(*x))));
        let views = tensors.iter().map(|(name, x)| (name, TensorView::new(Dtype::F64, vec![2], x).unwrap()));
        let tol: Map<_, _> =
            expected.iter().map(|(name, _)| ((*name).to_owned(), serde_json::json!({"rtol": 0.0}))).collect();
        let metadata =
            [("op", op.to_owned()), ("params", r#"{"scale": 3}"#.to_owned()), ("tol", Value::Object(tol).to_string())];
        let metadata: HashMap<_, _> = metadata.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        serialize(views, Some(metadata)).unwrap()
    }

    fn verdicts(handler: Handler, expected: &[(&str, [f64; 2])]) -> Result<Vec<(&'static str, String)>, Failure> {
        let bytes = case("test", expected);
        evaluate(&metadata(&bytes)?, &bytes, &handler, handler, Mode::F64)
    }

    fn scaled(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
        let (x, scale) = (inputs.floats::<f64>("x")?, inputs.number("scale")?);
        Ok(Outputs::new().floats("y", &x.shape, &x.data.iter().map(|x| scale * x).collect::<Vec<_>>()))
    }

    fn kinds(verdicts: &[(&'static str, String)]) -> Vec<&'static str> {
        verdicts.iter().map(|(kind, _)| *kind).collect()
    }

    #[test]
    fn an_output_passes_or_fails_by_its_numbers() {
        assert_eq!(kinds(&verdicts(scaled, &[("y", [3.0, 6.0])]).unwrap()), ["PASS"]);
        assert_eq!(kinds(&verdicts(scaled, &[("y", [3.0, 6.1])]).unwrap()), ["FAIL"]);
    }

    #[test]
    fn missing_and_extra_outputs_fail() {
        let missing = verdicts(scaled, &[("y", [3.0, 6.0]), ("z", [0.0, 0.0])]).unwrap();
        assert_eq!(kinds(&missing), ["PASS", "FAIL"]);
        assert!(missing[1].1.contains("z is missing"), "{}", missing[1].1);
        let extra = verdicts(scaled, &[("z", [0.0, 0.0])]).unwrap();
        assert_eq!(kinds(&extra), ["FAIL", "FAIL"]);
    }

    #[test]
    fn an_optional_output_may_be_left_out_and_is_compared_where_it_is_not() {
        let handler: Handler = |inputs| {
            let x = inputs.floats::<f64>("x")?;
            Ok(scaled(inputs)?.floats("x", &x.shape, &x.data).optional())
        };
        assert_eq!(kinds(&verdicts(handler, &[("y", [3.0, 6.0])]).unwrap()), ["PASS"]);
        assert_eq!(kinds(&verdicts(handler, &[("x", [1.0, 2.0]), ("y", [3.0, 6.0])]).unwrap()), ["PASS", "PASS"]);
        assert_eq!(kinds(&verdicts(handler, &[("x", [1.0, 3.0]), ("y", [3.0, 6.0])]).unwrap()), ["PASS", "FAIL"]);
        assert_eq!(kinds(&verdicts(handler, &[("x", [1.0, 2.0])]).unwrap()), ["FAIL", "PASS"]);
    }

    #[test]
    fn a_case_that_cannot_be_computed_fails_and_says_why() {
        let expected = [("y", [3.0, 6.0])];
        let why = |handler: Handler| verdicts(handler, &expected).unwrap_err().0;
        assert!(why(|_| panic!("at step {}", 7)).contains("panicked: at step 7"));
        assert!(why(|_| Err(ascribe_core::Error::Empty { what: "x" }.into())).contains("x: needs at least one"));
        assert!(why(|inputs| inputs.count("steps").map(|_| Outputs::new())).contains("no parameter steps"));
        assert!(why(|inputs| inputs.floats::<f64>("v").map(|_| Outputs::new())).contains("no tensor in.v"));
        let ignores_scale: Handler =
            |inputs| inputs.floats("x").map(|x| Outputs::new().floats::<f64>("y", &[2], &x.data));
        assert!(why(ignores_scale).contains(r#"unknown parameters ["scale"]"#));
        assert!(verdicts(|i| i.number("scale").map(|_| Outputs::new()), &[]).unwrap_err().0.contains("no output"));
    }

    /// The tally of a run over `files`, written into a folder of their own.
    fn tally(folder: &str, files: &[(&str, Vec<u8>)], change: impl FnOnce(&mut Options)) -> (Tally, Vec<String>) {
        let root = std::env::temp_dir().join(format!("ascribe-{}-{folder}", std::process::id()));
        std::fs::create_dir_all(root.join("inner")).unwrap();
        for (name, bytes) in files {
            std::fs::write(root.join("inner").join(name), bytes).unwrap();
        }
        let mut options =
            Options { paths: vec![root.clone()], only: None, mode: Mode::F64, allow_missing: BTreeSet::new() };
        change(&mut options);
        let mut lines = Vec::new();
        let tally = run(&options, |line| lines.push(line.to_owned()));
        std::fs::remove_dir_all(root).unwrap();
        (tally, lines)
    }

    #[test]
    fn unknown_operations_and_files_that_are_no_case_fail() {
        let files = [("a.safetensors", case("no.such", &[("y", [0.0; 2])])), ("b.safetensors", b"nonsense".to_vec())];
        let (counts, lines) = tally("unknown", &files, |_| ());
        assert_eq!(counts, Tally { passed: 0, failed: 2, skipped: 0 });
        assert!(lines[0].starts_with("FAIL no.such a.safetensors * unknown operation"), "{}", lines[0]);
    }

    #[test]
    fn a_run_that_selects_nothing_fails() {
        assert_eq!(tally("empty", &[], |_| ()).0.failed, 1);
        let files = [("a.safetensors", case("no.such", &[]))];
        assert_eq!(tally("only", &files, |o| o.only = Some("rng.bucket".into())).0.failed, 1);
        assert_eq!(tally("path", &files, |o| o.paths = vec!["no such path".into()]).0.failed, 1);
    }

    #[test]
    fn operations_to_come_are_skipped_until_they_exist() {
        let files = [("a.safetensors", case("no.such", &[]))];
        let listed = |op: &str| {
            let allow_missing = BTreeSet::from([op.to_owned()]);
            tally(op, &files, |o| o.allow_missing = allow_missing).0
        };
        assert_eq!(listed("no.such"), Tally { passed: 0, failed: 0, skipped: 1 });
        assert_eq!(listed("no.such").to_string(), "0 passed, 0 failed, 1 skipped");
        assert_eq!(listed("rng.bucket").failed, 2, "the stale entry and the unknown operation");
    }

    #[test]
    fn the_sensitivity_is_that_of_what_was_rounded() {
        let x: Vec<u8> = [1.5_f64, 1.25, 3.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let views = [("in.x", TensorView::new(Dtype::F64, vec![3], &x).unwrap())];
        let bytes = serialize(views, None).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let inputs = Inputs::new(&tensors, Map::new());
        let of = |handler: Handler| sensitivity(&inputs, handler);
        let eighth: Handler = |inputs| {
            let x = inputs.floats::<f64>("x")?.data;
            Ok(Outputs::new().float("y", x[0].powi(8)).float("whole", x[2] * 1e9))
        };
        // Nobody has rounded x yet.
        assert_eq!(of(eighth), 0.0);
        inputs.floats::<f32>("x").unwrap();
        // The eighth power of 1 + DISTURBANCE; whole numbers are never disturbed.
        assert!((of(eighth) - 8.0).abs() < 1e-3);
        // Relative to the magnitude where terms cancel.
        let difference: Handler = |inputs| {
            let x = inputs.floats::<f64>("x")?.data;
            Ok(Outputs::new().with_magnitude(1.5).float("y", x[0] - 1.5))
        };
        assert!((of(difference) - 1.0).abs() < 1e-3);
        assert_eq!(of(|_| fail("is refused")), f64::INFINITY);
    }

    #[test]
    fn an_operation_has_one_entry() {
        let names: Vec<_> = crate::conformance::OPS.iter().copied().flatten().map(|op| op.name).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
    }
}
