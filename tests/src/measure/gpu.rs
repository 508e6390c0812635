//! Kernels on a GPU: what they cost, how long they should take, and how long they do.

use std::time::Instant;

use ascribe_core::sketch::{self, LoGra, Mask, MaskScale, Normals, Scale, Signs, Sjlt, SjltTable};
use ascribe_core::{MatRef, random::Stream, record};
use ascribe_gpu::{Cost, EigenFunction, Error, FactGrass, Gpu, LayerRecord, Recorder, Scorer, SjltBuckets, Srht};
use serde_json::{Map, Value, json};

use super::uniform;
use crate::Failure;
use crate::failure::fail;

/// Records one operation on matrices that are on the device already.
type Operation = Box<dyn Fn(&mut Recorder) -> Result<(), Error>>;

/// A kernel at a size.
struct Case {
    name: &'static str,
    sizes: &'static [&'static str],
    /// The sizes of the published comparisons.
    published: &'static [usize],
    /// Sizes for a device that is played by the processor.
    small: &'static [usize],
    prepare: fn(&Gpu, &[usize]) -> Result<Operation, Failure>,
}

/// Every kernel, in the order of the table.
const CASES: &[Case] = &[
    Case {
        name: "gemm",
        sizes: &["m", "n", "k"],
        published: &[4096, 4096, 4096],
        small: &[128, 128, 128],
        prepare: |gpu, sizes| {
            let &[m, n, k] = sizes else { return fail("three sizes") };
            let (a, b) = (matrix(gpu, 0, m, k)?, matrix(gpu, 1, k, n)?);
            Ok(Box::new(move |recorder| recorder.gemm(1.0, &a, &b).map(drop)))
        },
    },
    Case {
        name: "rademacher",
        sizes: &["rows", "p", "k"],
        published: &[64, 1_000_000, 4096],
        small: &[16, 4096, 64],
        prepare: |gpu, sizes| {
            let &[n, p, k] = sizes else { return fail("three sizes") };
            let (x, sketch) =
                (matrix(gpu, 0, n, p)?, sketch::Projection::<Signs>::new("measure", k, p, Scale::InvSqrtRows)?);
            Ok(Box::new(move |recorder| recorder.rademacher(&sketch, &x).map(drop)))
        },
    },
    Case {
        name: "sjlt",
        sizes: &["rows", "p", "k"],
        published: &[64, 1_000_000, 4096],
        small: &[16, 10_000, 256],
        prepare: |gpu, sizes| {
            let &[n, p, k] = sizes else { return fail("three sizes") };
            let table = SjltTable::draw(&Sjlt::new(p, k, 1, Stream::new(0, "sjlt"))?)?;
            let (x, sjlt) = (matrix(gpu, 0, n, p)?, SjltBuckets::upload(gpu, &table.by_bucket()?)?);
            Ok(Box::new(move |recorder| recorder.sjlt(&sjlt, &x).map(drop)))
        },
    },
    Case {
        name: "grass",
        sizes: &["rows", "p", "kept", "k"],
        published: &[64, 1_000_000, 16384, 4096],
        small: &[16, 10_000, 1024, 256],
        prepare: |gpu, sizes| {
            let &[n, p, kept, k] = sizes else { return fail("four sizes") };
            let table = SjltTable::draw(&Sjlt::new(kept, k, 1, Stream::new(0, "sjlt"))?)?;
            let mask = Mask::random(p, kept, MaskScale::None, Stream::new(0, "mask"))?;
            let (x, grass) = (matrix(gpu, 0, n, p)?, SjltBuckets::grass(gpu, &sketch::Grass::new(mask, table)?)?);
            Ok(Box::new(move |recorder| recorder.sjlt(&grass, &x).map(drop)))
        },
    },
    Case {
        name: "fact_grass",
        sizes: &["examples", "positions", "width", "kept", "k"],
        published: &[32, 128, 768, 128, 4096],
        small: &[4, 16, 64, 16, 64],
        prepare: |gpu, sizes| {
            let &[n, t, d, kept, k] = sizes else { return fail("five sizes") };
            let mask = |name| Mask::random(d, kept, MaskScale::None, Stream::new(0, name));
            let table = SjltTable::draw(&Sjlt::new(kept * kept, k, 1, Stream::new(0, "sjlt"))?)?;
            let sketch = FactGrass::upload(gpu, &sketch::FactGrass::new(mask("out")?, mask("in")?, table)?)?;
            let record = layer(gpu, n, t, d)?;
            Ok(Box::new(move |recorder| recorder.fact_grass(&sketch, &record).map(drop)))
        },
    },
    Case {
        name: "logra",
        sizes: &["examples", "positions", "width", "rank"],
        published: &[32, 128, 768, 64],
        small: &[4, 16, 64, 8],
        prepare: |gpu, sizes| {
            let &[n, t, d, rank] = sizes else { return fail("four sizes") };
            let (p_in, p_out): (Vec<f32>, Vec<f32>) = (uniform(0, 2, &[rank, d])?, uniform(0, 3, &[rank, d])?);
            let logra = LoGra::new(MatRef::new(&p_out, rank, d)?, MatRef::new(&p_in, rank, d)?)?;
            let (logra, record) = (ascribe_gpu::LoGra::upload(gpu, &logra, false)?, layer(gpu, n, t, d)?);
            Ok(Box::new(move |recorder| recorder.logra(&logra, &record).map(drop)))
        },
    },
    Case {
        name: "gaussian",
        sizes: &["rows", "p", "k"],
        published: &[64, 100_000, 512],
        small: &[16, 2048, 64],
        prepare: |gpu, sizes| {
            let &[n, p, k] = sizes else { return fail("three sizes") };
            let x = matrix(gpu, 0, n, p)?;
            let sketch = sketch::Projection::<Normals>::new("measure", k, p, Scale::InvSqrtRows)?;
            Ok(Box::new(move |recorder| recorder.gaussian(&sketch, &x).map(drop)))
        },
    },
    Case {
        name: "srht",
        sizes: &["rows", "p", "k"],
        published: &[64, 1_000_000, 4096],
        small: &[16, 10_000, 256],
        prepare: |gpu, sizes| {
            let &[n, p, k] = sizes else { return fail("three sizes") };
            let srht = sketch::Srht::draw(Stream::new(0, "srht"), p, k)?;
            let (x, srht) = (matrix(gpu, 0, n, p)?, Srht::upload(gpu, &srht)?);
            Ok(Box::new(move |recorder| recorder.srht(&srht, &x).map(drop)))
        },
    },
    Case {
        name: "mask_gather",
        sizes: &["rows", "p", "kept"],
        published: &[64, 1_000_000, 16384],
        small: &[16, 10_000, 1024],
        prepare: |gpu, sizes| {
            let &[n, p, kept] = sizes else { return fail("three sizes") };
            let mask = Mask::random(p, kept, MaskScale::None, Stream::new(0, "mask"))?;
            let (x, mask) = (matrix(gpu, 0, n, p)?, ascribe_gpu::Mask::upload(gpu, &mask)?);
            Ok(Box::new(move |recorder| recorder.mask_gather(&mask, &x).map(drop)))
        },
    },
    Case {
        name: "scale",
        sizes: &["rows", "p"],
        published: &[64, 1_000_000],
        small: &[16, 10_000],
        prepare: |gpu, sizes| {
            let &[n, p] = sizes else { return fail("two sizes") };
            let moments: Vec<f32> = uniform::<f32>(0, 1, &[p])?.into_iter().map(f32::abs).collect();
            let (x, moments) = (matrix(gpu, 0, n, p)?, gpu.upload(MatRef::from_row(&moments))?);
            Ok(Box::new(move |recorder| recorder.adam(&x, &moments, 1e-8).map(drop)))
        },
    },
    Case {
        name: "gram",
        sizes: &["rows", "dim"],
        published: &[4096, 1024],
        small: &[128, 128],
        prepare: |gpu, sizes| {
            let &[n, d] = sizes else { return fail("two sizes") };
            let x = matrix(gpu, 0, n, d)?;
            Ok(Box::new(move |recorder| recorder.gram(&x).map(drop)))
        },
    },
    Case {
        name: "normalize",
        sizes: &["rows", "cols"],
        published: &[100_000, 4096],
        small: &[1000, 256],
        prepare: |gpu, sizes| {
            let &[n, d] = sizes else { return fail("two sizes") };
            let x = matrix(gpu, 0, n, d)?;
            Ok(Box::new(move |recorder| recorder.normalize(&x).map(drop)))
        },
    },
    Case {
        name: "quantize_int8",
        sizes: &["rows", "cols"],
        published: &[100_000, 4096],
        small: &[1000, 256],
        prepare: |gpu, sizes| {
            let &[n, d] = sizes else { return fail("two sizes") };
            let x = matrix(gpu, 0, n, d)?;
            Ok(Box::new(move |recorder| recorder.quantize_int8(&x, BLOCK).map(drop)))
        },
    },
    Case {
        name: "score_top_k",
        sizes: &["n", "d", "queries", "k"],
        published: &[100_000, 4096, 64, 100],
        small: &[5000, 64, 16, 10],
        prepare: |gpu, sizes| {
            let &[n, d, queries, k] = sizes else { return fail("four sizes") };
            let (x, y) = (matrix(gpu, 0, n, d)?, matrix(gpu, 1, queries, d)?);
            Ok(Box::new(move |recorder| {
                let mut best = recorder.selection(queries, k, 0)?;
                recorder.score_top_k(&mut best, 0, &x, &y, &Scorer::default())
            }))
        },
    },
    Case {
        name: "score_top_k_int8",
        sizes: &["n", "d", "queries", "k"],
        published: &[100_000, 4096, 64, 100],
        small: &[5000, 64, 16, 10],
        prepare: |gpu, sizes| {
            let &[n, d, queries, k] = sizes else { return fail("four sizes") };
            let (x, y) = (matrix(gpu, 0, n, d)?, matrix(gpu, 1, queries, d)?);
            let mut recorder = gpu.record();
            let rows = recorder.quantize_int8(&x, BLOCK)?;
            recorder.submit()?.wait()?;
            Ok(Box::new(move |recorder| {
                let mut best = recorder.selection(queries, k, 0)?;
                recorder.score_top_k(&mut best, 0, &rows, &y, &Scorer::default())
            }))
        },
    },
    Case {
        name: "kronecker_apply",
        sizes: &["gradients", "rows", "cols"],
        published: &[64, 768, 768],
        small: &[4, 64, 64],
        prepare: |gpu, sizes| {
            let &[n, rows, cols] = sizes else { return fail("three sizes") };
            let (left, right) = (matrix(gpu, 0, rows, rows)?, matrix(gpu, 1, cols, cols)?);
            let function = EigenFunction::new(Some(left), Some(right), matrix(gpu, 2, rows, cols)?)?;
            let v = matrix(gpu, 3, n, rows * cols)?;
            Ok(Box::new(move |recorder| recorder.kronecker_apply(&function, &v).map(drop)))
        },
    },
    Case {
        name: "newton_schulz",
        sizes: &["rows", "cols"],
        published: &[1024, 1024],
        small: &[64, 64],
        prepare: |gpu, sizes| {
            let &[m, n] = sizes else { return fail("two sizes") };
            let g = matrix(gpu, 0, m, n)?;
            Ok(Box::new(move |recorder| recorder.newton_schulz(&g, &[[1.5, -0.5, 0.0]; 5], 1e-7).map(drop)))
        },
    },
    Case {
        name: "cayley_truncated",
        sizes: &["n"],
        published: &[1024],
        small: &[64],
        prepare: |gpu, sizes| {
            let &[n] = sizes else { return fail("one size") };
            let (b, skew) = (matrix(gpu, 0, n, n)?, gpu.upload(MatRef::new(&vec![0.0_f32; n * n], n, n)?)?);
            Ok(Box::new(move |recorder| recorder.cayley_truncated(&b, &skew, 2).map(drop)))
        },
    },
];

/// Columns that share a scale.
const BLOCK: usize = 64;

fn matrix(gpu: &Gpu, stream: u64, rows: usize, cols: usize) -> Result<ascribe_gpu::Matrix<f32>, Failure> {
    let data: Vec<f32> = uniform(0, stream, &[rows, cols])?;
    Ok(gpu.upload(MatRef::new(&data, rows, cols)?)?)
}

/// A record of layers `width x width`.
fn layer(gpu: &Gpu, examples: usize, positions: usize, width: usize) -> Result<LayerRecord, Failure> {
    let [x, delta] = [0, 1].map(|stream| uniform::<f32>(0, stream, &[examples, positions, width]));
    let (x, delta, rows) = (x?, delta?, examples * positions);
    let (x, delta) = (MatRef::new(&x, rows, width)?, MatRef::new(&delta, rows, width)?);
    Ok(LayerRecord::upload(gpu, &record::LayerRecord::new(examples, x, delta, None, false)?)?)
}

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

    fn shown(&self, sizes: &[usize]) -> String {
        self.sizes.iter().zip(sizes).map(|(name, size)| format!("{name}={size}")).collect::<Vec<_>>().join(" ")
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
        (case.prepare)(&gpu, case.published)?(&mut recorder)?;
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
        let (seconds, recorder) = time(&gpu, &(case.prepare)(&gpu, sizes)?, device.runs.unwrap_or(7))?;
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
        let (seconds, recorder) = time(&gpu, &(case.prepare)(&gpu, sizes)?, device.runs.unwrap_or(7))?;
        let (median, cost) = (seconds[seconds.len() / 2], recorder.cost());
        let (bytes, flops) = (cost.bytes as f64 / median, cost.flops as f64 / median);
        let (of_bandwidth, of_peak) = (share(bytes, device.bandwidth), share(flops, device.flops));
        let (name, size) = (case.name, case.shown(sizes));
        let (ms, bytes, flops) = (median * 1e3, bytes / 1e9, flops / 1e9);
        line(&format!("| {name} | {size} | {ms:.3} | {bytes:.1} | {of_bandwidth} | {flops:.1} | {of_peak} |"));
    }
    Ok(())
}
