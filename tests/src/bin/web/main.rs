//! `web write FOLDER [CASES...]` and `web serve FOLDER [SECONDS]`: the kernels in a browser.
//!
//! What they do here is written down, so that another implementation of WebGPU can repeat it: a [`case::Case`] is a
//! recording with what has to come of it. [`twin`] makes them from core's functions, [`golden`] from the conformance
//! cases; recordings that are only timed are those of the measurements. [`bundle`] writes them into a folder together with the page of
//! `tests/web`, and [`server`] serves it. The page knows no kernel: it repeats steps and compares numbers.

mod bundle;
mod case;
mod golden;
mod server;
mod twin;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use ascribe_gpu::{Gpu, GpuOptions};
use ascribe_tests::Failure;
use ascribe_tests::failure::fail;
use ascribe_tests::measure::gpu::cases;
use bundle::Bundle;
use serde_json::Value;

const USAGE: &str = "\
usage: web write FOLDER [CASES...]    writes the page with recordings of every kernel in every variant, and of the
                                      conformance cases in the folders CASES
       web write --conformance FOLDER CASES...    with these cases alone
       web serve FOLDER [SECONDS]     serves it on the loopback interface; with SECONDS, until the page has reported,
                                      or fails after that time";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match &args[..] {
        ["write", "--conformance", folder, cases @ ..] => write(Path::new(folder), cases, false),
        ["write", folder, cases @ ..] => write(Path::new(folder), cases, true),
        ["serve", folder] => serve(Path::new(folder), None),
        ["serve", folder, seconds] => match seconds.parse() {
            Ok(seconds) => serve(Path::new(folder), Some(Duration::from_secs(seconds))),
            Err(_) => fail(USAGE),
        },
        _ => fail(USAGE),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// What every browser allows: kernels choose their tiles, and cut their work, by it.
fn browser() -> GpuOptions {
    GpuOptions {
        max_binding_bytes: Some(128 << 20),
        max_workgroups: Some(65_535),
        max_workgroup_bytes: Some(16 << 10),
        // New memory is zero, and zeros are not written down.
        pool_bytes: 0,
        ..GpuOptions::default()
    }
}

/// So little that every kernel has to cut its work, and without subgroups.
fn small() -> GpuOptions {
    GpuOptions { max_binding_bytes: Some(4096), max_workgroups: Some(3), plain: true, ..browser() }
}

fn write(folder: &Path, folders: &[&str], everything: bool) -> Result<(), Failure> {
    let gpu = Gpu::with(&browser())?;
    let mut bundle = Bundle::create(folder)?;
    if everything {
        twins(&mut bundle, &gpu, "")?;
        twins(&mut bundle, &Gpu::with(&small())?, ", small device")?;
        for recording in cases::recordings(&gpu) {
            let (name, recorder) = recording?;
            bundle.add_benchmark(&name, &recorder)?;
        }
    }
    let folders: Vec<PathBuf> = folders.iter().map(PathBuf::from).collect();
    golden::cases(&gpu, &folders, |case| bundle.add(case))?;
    bundle.finish(&gpu, everything)
}

fn twins(bundle: &mut Bundle, gpu: &Gpu, device: &str) -> Result<(), Failure> {
    for make in twin::ALL {
        for mut case in make(gpu)? {
            case.name += device;
            bundle.add(case)?;
        }
    }
    Ok(())
}

fn serve(folder: &Path, wait: Option<Duration>) -> Result<(), Failure> {
    let (address, reports) = server::start(folder)?;
    println!("{address}");
    let Some(wait) = wait else { return reports.iter().try_for_each(|report| print(&report)) };
    let Ok(report) = reports.recv_timeout(wait) else {
        return fail(format!("the page has not reported within {} seconds", wait.as_secs()));
    };
    print(&report)
}

/// The lines of a report, and its verdict.
fn print(report: &str) -> Result<(), Failure> {
    let report: Value = serde_json::from_str(report)?;
    for line in report["lines"].as_array().into_iter().flatten() {
        println!("{}", line.as_str().unwrap_or_default());
    }
    match (report["passed"].as_u64(), report["failed"].as_u64()) {
        (Some(passed), Some(0)) if passed > 0 => Ok(()),
        (Some(0), Some(0)) => fail("nothing was run"),
        (Some(_), Some(failed)) => fail(format!("{failed} failed")),
        _ => fail("the page reported no numbers"),
    }
}
