//! Kernels on a GPU: what they cost, how long they should take, and how long they do.

pub mod cases;

use std::time::Instant;

use ascribe_gpu::{Cost, Gpu, Recorder};
use cases::{CASES, Case, On, Operation};
use serde_json::{Map, Value, json};

use crate::Failure;
use crate::failure::fail;

/// The device's figures that times are compared with, where they are known.
#[derive(Debug, Clone, Copy, Default)]
struct Device {
    /// Bytes a second.
    bandwidth: Option<f64>,
    /// Floating-point operations a second.
    flops: Option<f64>,
    runs: Option<usize>,
}

impl Device {
    /// From `--bandwidth B`, `--flops F` and `runs=N`; what is left are the names of kernels.
    fn parse(args: &[String]) -> Result<(Self, Vec<&str>), Failure> {
        let (mut device, mut names, mut args) = (Self::default(), Vec::new(), args.iter());
        while let Some(arg) = args.next() {
            let number = |value: Option<&String>| match value.map(|value| value.parse::<f64>()) {
                Some(Ok(x)) if x > 0.0 && x.is_finite() => Ok(Some(x)),
                _ => fail(format!("{arg} needs a positive number")),
            };
            match arg.as_str() {
                "--bandwidth" => device.bandwidth = number(args.next())?,
                "--flops" => device.flops = number(args.next())?,
                _ => match (arg.strip_prefix("runs="), CASES.iter().find(|case| case.name == arg)) {
                    (Some(runs), _) => match runs.parse() {
                        Ok(runs) if runs > 0 => device.runs = Some(runs),
                        _ => return fail(format!("{arg}: expected an integer of at least 1")),
                    },
                    (None, Some(case)) => names.push(case.name),
                    (None, None) => return fail(format!("no kernel {arg} on the GPU; there are {}", all_names())),
                },
            }
        }
        Ok((device, names))
    }
}

fn all_names() -> String {
    CASES.iter().map(|case| case.name).collect::<Vec<_>>().join(", ")
}

fn selected<'n>(names: &'n [&str]) -> impl Iterator<Item = &'static Case> + 'n {
    CASES.iter().filter(|case| names.is_empty() || names.contains(&case.name))
}

impl Case {
    /// A device that is a program gets sizes that it can finish.
    fn sizes_for(&self, gpu: &Gpu) -> &'static [usize] {
        if gpu.capabilities().software { self.small } else { self.published }
    }
}

/// A line a kernel: what it costs on paper, and how long that takes at least on a device with these figures.
pub(super) fn roofline(args: &[String], line: &mut dyn FnMut(&str)) -> Result<(), Failure> {
    let (device, names) = Device::parse(args)?;
    let (Some(bandwidth), Some(flops)) = (device.bandwidth, device.flops) else {
        return fail("roofline needs --bandwidth BYTES_PER_SECOND and --flops FLOPS_PER_SECOND");
    };
    let gpu = Gpu::new()?;
    line("| kernel | size | flops | bytes | flops/byte | workgroup bytes | bound by | least ms |");
    line("|---|---|---|---|---|---|---|---|");
    for case in selected(&names) {
        let mut recorder = gpu.record();
        (case.prepare)(On { gpu: &gpu, noise: false }, case.published)?(&mut recorder)?;
        let cost = recorder.cost();
        let Cost { flops: f, bytes, workgroup_bytes, .. } = cost;
        let bound = if cost.intensity() < flops / bandwidth { "bandwidth" } else { "arithmetic" };
        let (size, ms) = (case.shown(case.published), cost.seconds(bandwidth, flops) * 1e3);
        let (name, intensity) = (case.name, cost.intensity());
        line(&format!("| {name} | {size} | {f} | {bytes} | {intensity:.2} | {workgroup_bytes} | {bound} | {ms:.4} |"));
    }
    Ok(())
}

/// The seconds of each run, and the recording of one.
///
/// As many operations as take about a tenth of a second are submitted at once, so that submission does not count.
fn time(gpu: &Gpu, operation: &Operation, runs: usize) -> Result<(Vec<f64>, Recorder), Failure> {
    let submit = |count: usize| -> Result<f64, Failure> {
        let mut recorder = gpu.record();
        for _ in 0..count {
            operation(&mut recorder)?;
        }
        let start = Instant::now();
        recorder.submit()?.wait()?;
        Ok(start.elapsed().as_secs_f64() / count as f64)
    };
    // The first one compiles.
    submit(1)?;
    let count = (0.1 / submit(1)?).clamp(1.0, 100.0) as usize;
    let mut seconds = (0..runs).map(|_| submit(count)).collect::<Result<Vec<_>, _>>()?;
    seconds.sort_by(f64::total_cmp);
    let mut recorder = gpu.record();
    operation(&mut recorder)?;
    Ok((seconds, recorder))
}

/// A JSON object a kernel: its cost and the time that this machine's device needs.
pub(super) fn lines(args: &[String], line: &mut dyn FnMut(&str)) -> Result<(), Failure> {
    let (device, names) = Device::parse(args)?;
    let gpu = Gpu::new()?;
    for case in selected(&names) {
        let sizes = case.sizes_for(&gpu);
        let (seconds, recorder) =
            time(&gpu, &(case.prepare)(On { gpu: &gpu, noise: true }, sizes)?, device.runs.unwrap_or(7))?;
        let cost = recorder.cost();
        let mut object = Map::new();
        for (key, value) in [
            ("kernel", json!(case.name)),
            ("device", json!(gpu.capabilities().name)),
            ("runs", json!(seconds.len())),
            ("median_s", json!(seconds[seconds.len() / 2])),
            ("min_s", json!(seconds[0])),
            ("max_s", json!(seconds[seconds.len() - 1])),
            ("flops", json!(cost.flops)),
            ("bytes", json!(cost.bytes)),
            ("intensity", json!(cost.intensity())),
            ("workgroup_bytes", json!(cost.workgroup_bytes)),
            ("dispatches", json!(recorder.counters().dispatches)),
        ] {
            object.insert(key.to_owned(), value);
        }
        object.extend(case.sizes.iter().zip(sizes).map(|(key, value)| ((*key).to_owned(), json!(value))));
        line(&Value::Object(object).to_string());
    }
    Ok(())
}

/// A table to pass on: every kernel on this machine's device, with the share of its figures that it reaches.
pub(super) fn suite(args: &[String], line: &mut dyn FnMut(&str)) -> Result<(), Failure> {
    let (device, names) = Device::parse(args)?;
    let gpu = Gpu::new()?;
    let about = gpu.capabilities();
    line(&format!("{} by {} ({})", about.name, about.backend, about.driver));
    if about.software {
        line("This device is a program on the processor: sizes are small, and its times say nothing about GPUs.");
    }
    line("");
    line("| kernel | size | ms | GB/s | of bandwidth | GFLOP/s | of peak |");
    line("|---|---|---|---|---|---|---|");
    let share = |rate: f64, most: Option<f64>| {
        most.map_or_else(|| "?".to_owned(), |most| format!("{:.0} %", 100.0 * rate / most))
    };
    for case in selected(&names) {
        let sizes = case.sizes_for(&gpu);
        let (seconds, recorder) =
            time(&gpu, &(case.prepare)(On { gpu: &gpu, noise: true }, sizes)?, device.runs.unwrap_or(7))?;
        let (median, cost) = (seconds[seconds.len() / 2], recorder.cost());
        let (bytes, flops) = (cost.bytes as f64 / median, cost.flops as f64 / median);
        let (of_bandwidth, of_peak) = (share(bytes, device.bandwidth), share(flops, device.flops));
        let (name, size) = (case.name, case.shown(sizes));
        let (ms, bytes, flops) = (median * 1e3, bytes / 1e9, flops / 1e9);
        line(&format!("| {name} | {size} | {ms:.3} | {bytes:.1} | {of_bandwidth} | {flops:.1} | {of_peak} |"));
    }
    Ok(())
}
