//! Measurements: a kernel at given sizes, timed in one process, one JSON object a line.
//!
//! A [`Kernel`] builds its inputs from a seed, hands the timed part to [`Settings::time`] and says how many
//! operations and bytes the algorithm needs; everything else is common.

mod astra;
mod copy;
mod covariance;
mod dense;
mod eigh;
mod ekfac;
mod gemm;
mod ghost;
pub mod gpu;
mod inverse;
mod krylov;
mod mlp;
mod optimizer;
mod score;
mod sketch;
mod spectral;
mod store;
mod topk;

use std::time::Instant;

use ascribe_core::Real;
use ascribe_core::random::Stream;
use serde_json::{Map, Value, json};

use crate::Failure;
use crate::failure::fail;

/// What every kernel is measured with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Whether to compute in double precision.
    pub double: bool,
    /// The number of threads, for kernels that use them.
    pub threads: usize,
    /// The number of timed runs, after one that is not.
    pub runs: usize,
    /// The seed of the inputs.
    pub seed: u32,
}

/// What a kernel needed.
#[derive(Debug, Clone)]
pub struct Measured {
    /// The seconds of each run.
    pub seconds: Vec<f64>,
    /// Floating-point operations, counted from the algorithm.
    pub flops: u64,
    /// Bytes that the algorithm has to move, each input read and each output written once.
    pub bytes: u64,
}

/// A kernel in one precision; the sizes come in the order of [`Kernel::sizes`].
pub type Run = fn(&Settings, &[usize]) -> Result<Measured, Failure>;

/// A kernel that can be measured.
#[derive(Debug, Clone, Copy)]
pub struct Kernel {
    /// Its name on the command line; `name:dtype` when it is the kernel of one storage format.
    pub name: &'static str,
    /// What is timed.
    pub about: &'static str,
    /// The names of its sizes.
    pub sizes: &'static [&'static str],
    /// The sizes that are measured when none is given; a size that is not given comes from the first.
    pub defaults: &'static [&'static [usize]],
    /// In single precision.
    pub f32: Run,
    /// In double precision.
    pub f64: Run,
}

/// Every kernel.
pub const KERNELS: &[Kernel] = &[
    copy::KERNEL,
    gemm::KERNEL,
    eigh::KERNEL,
    topk::KERNEL,
    mlp::GRADIENT,
    mlp::HVP,
    mlp::GGNVP,
    inverse::CG,
    inverse::LISSA,
    covariance::KERNEL,
    covariance::GRAM,
    ekfac::EIGENVALUES,
    ekfac::APPLY,
    krylov::MINRES,
    krylov::LANCZOS,
    astra::ASTRA,
    astra::ASTRA_FLOOR,
    astra::PCG,
    ghost::GHOST,
    ghost::FORMED,
    dense::RADEMACHER,
    dense::GAUSSIAN,
    dense::SRHT,
    sketch::SJLT,
    sketch::GRASS,
    sketch::FACTGRASS,
    sketch::LOGRA,
    score::F32,
    score::F16,
    score::BF16,
    score::INT8,
    score::ONE_BIT,
    store::WRITE,
    store::SCORE,
    spectral::CAYLEY,
    spectral::STEP,
    spectral::KRONECKER_STEP,
    spectral::KRONECKER_PARTS,
    spectral::DESCENT,
    optimizer::SHAMPOO,
    optimizer::SOAP,
    optimizer::ROOT,
];

/// The kernels that bound what hardware can do, each in the precisions that differ.
pub const FLOORS: &[(&str, &[bool])] = &[("gemm", &[false, true]), ("copy", &[false])];

impl Settings {
    /// One run to warm up, then [`Settings::runs`] that count.
    pub fn time(&self, mut run: impl FnMut()) -> Vec<f64> {
        run();
        let timed = |_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        };
        (0..self.runs).map(timed).collect()
    }
}

/// Numbers in [-1, 1), the same for the same seed: input `stream` of a kernel, with the product of `shape` elements.
///
/// # Errors
/// When the shape has more elements than memory could hold.
pub fn uniform<T: Real>(seed: u32, stream: u64, shape: &[usize]) -> Result<Vec<T>, Failure> {
    let len = shape.iter().try_fold(1_usize, |len, axis| len.checked_mul(*axis));
    let Some(len) = len else { return fail(format!("{shape:?}: too many elements")) };
    let mut data = Vec::new();
    data.try_reserve_exact(len)?;
    let stream = Stream::new(seed.into(), "measure").child(stream);
    data.extend((0..len).map(|i| T::from_f64(2.0 * stream.uniform(i as u64, 0) - 1.0)));
    Ok(data)
}

/// Reads a command line: `KERNEL key=value...`, `list`, `floors`, `--device gpu`, `roofline` or `gpu-suite`. The lines to print, as they are measured.
///
/// # Errors
/// A message for the caller: an unknown kernel or key, a value out of range, a kernel that failed.
pub fn run(args: &[String], mut line: impl FnMut(&str)) -> Result<(), Failure> {
    let Some((name, keys)) = args.split_first() else { return fail("no kernel given") };
    match name.as_str() {
        "list" => {
            for kernel in KERNELS {
                line(&describe(kernel));
            }
            Ok(())
        }
        "floors" => {
            for (name, precisions) in FLOORS {
                for &double in *precisions {
                    let kernel = find(name, keys)?;
                    let (settings, sizes) = parse(kernel, keys)?;
                    measure(kernel, &Settings { double, ..settings }, &sizes, &mut line)?;
                }
            }
            Ok(())
        }
        "--device" => match keys.split_first() {
            Some((device, names)) if device == "gpu" => gpu::lines(names, &mut line),
            _ => fail("--device: gpu is the only one to name"),
        },
        "roofline" => gpu::roofline(keys, &mut line),
        "gpu-suite" => gpu::suite(keys, &mut line),
        name => {
            let kernel = find(name, keys)?;
            let (settings, sizes) = parse(kernel, keys)?;
            measure(kernel, &settings, &sizes, &mut line)
        }
    }
}

/// The kernel of that name, and of that storage format where it is measured in some.
fn find(name: &str, keys: &[String]) -> Result<&'static Kernel, Failure> {
    let known = || KERNELS.iter().map(|k| k.name).collect::<Vec<_>>().join(", ");
    let stored = keys.iter().find_map(|key| key.strip_prefix("dtype=")).map(|dtype| format!("{name}:{dtype}"));
    let named = |name: &str| KERNELS.iter().find(|k| k.name == name);
    let kernel = stored.and_then(|stored| named(&stored)).or_else(|| named(name));
    kernel.map_or_else(|| fail(format!("no kernel {name}; there are {}", known())), Ok)
}

fn describe(kernel: &Kernel) -> String {
    let sizes = |values: &&[usize]| {
        kernel.sizes.iter().zip(*values).map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
    };
    let defaults: Vec<_> = kernel.defaults.iter().map(sizes).collect();
    format!("{:<10} {:<58} {}", kernel.name, defaults.join(" | "), kernel.about)
}

/// The settings and the sets of sizes that `key=value` arguments ask for.
fn parse(kernel: &Kernel, args: &[String]) -> Result<(Settings, Vec<Vec<usize>>), Failure> {
    let mut settings = Settings { double: false, threads: 2, runs: 7, seed: 0 };
    let mut sizes: Vec<Option<usize>> = vec![None; kernel.sizes.len()];
    for arg in args {
        let Some((key, value)) = arg.split_once('=') else { return fail(format!("{arg}: expected key=value")) };
        let count = |least: usize| match value.parse::<usize>() {
            Ok(n) if n >= least => Ok(n),
            _ => fail(format!("{key}={value}: expected an integer of at least {least}")),
        };
        match key {
            "dtype" => {
                settings.double = match value {
                    "f32" => false,
                    "f64" => true,
                    _ if kernel.name.split_once(':').is_some_and(|(_, format)| format == value) => false,
                    _ => return fail(format!("dtype={value}: expected f32 or f64")),
                }
            }
            "threads" => settings.threads = count(1)?,
            "runs" => settings.runs = count(1)?,
            "seed" => {
                settings.seed =
                    u32::try_from(count(0)?).or_else(|_| fail(format!("seed={value}: expected 32 bits")))?;
            }
            _ => {
                let Some(at) = kernel.sizes.iter().position(|size| *size == key) else {
                    let own = kernel.sizes.join(", ");
                    return fail(format!("{} has no key {key}; dtype, threads, runs, seed, {own}", kernel.name));
                };
                sizes[at] = Some(count(1)?);
            }
        }
    }
    if sizes.iter().all(Option::is_none) {
        return Ok((settings, kernel.defaults.iter().map(|d| d.to_vec()).collect()));
    }
    let chosen = sizes.iter().zip(kernel.defaults[0]).map(|(given, default)| given.unwrap_or(*default));
    Ok((settings, vec![chosen.collect()]))
}

fn measure(
    kernel: &Kernel,
    settings: &Settings,
    sizes: &[Vec<usize>],
    line: &mut impl FnMut(&str),
) -> Result<(), Failure> {
    for sizes in sizes {
        let run = if settings.double { kernel.f64 } else { kernel.f32 };
        let Measured { mut seconds, flops, bytes } = run(settings, sizes)?;
        seconds.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (seconds.first(), seconds.last()) else { return fail("nothing was timed") };
        let median = f64::midpoint(seconds[(seconds.len() - 1) / 2], seconds[seconds.len() / 2]);
        let precision = if settings.double { "f64" } else { "f32" };
        let (name, dtype) = kernel.name.split_once(':').unwrap_or((kernel.name, precision));
        let mut object = Map::new();
        for (key, value) in [
            ("kernel", json!(name)),
            ("dtype", json!(dtype)),
            ("threads", json!(settings.threads)),
            ("runs", json!(seconds.len())),
            ("median_s", json!(median)),
            ("min_s", json!(min)),
            ("max_s", json!(max)),
            ("flops", json!(flops)),
            ("bytes", json!(bytes)),
        ] {
            object.insert(key.to_owned(), value);
        }
        object.extend(kernel.sizes.iter().zip(sizes).map(|(key, value)| ((*key).to_owned(), json!(value))));
        line(&Value::Object(object).to_string());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRODUCT: Kernel = Kernel {
        name: "product",
        about: "",
        sizes: &["m", "n"],
        defaults: &[&[2, 3], &[5, 7]],
        f32: |settings, _| Ok(Measured { seconds: settings.time(|| ()), flops: 1, bytes: 2 }),
        f64: |_, _| Ok(Measured { seconds: vec![4.0, 1.0, 2.0, 3.0], flops: 1, bytes: 2 }),
    };

    fn parsed(args: &[&str]) -> Result<(Settings, Vec<Vec<usize>>), Failure> {
        parse(&PRODUCT, &args.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn no_size_measures_every_default_and_one_size_completes_the_first() {
        assert_eq!(parsed(&[]).unwrap().1, [[2, 3], [5, 7]]);
        assert_eq!(parsed(&["n=11", "runs=1"]).unwrap().1, [[2, 11]]);
    }

    #[test]
    fn a_storage_format_names_a_kernel_of_its_own() {
        let keys = ["n=6".to_owned(), "d=5".to_owned(), "dtype=int8".to_owned(), "runs=1".to_owned()];
        let mut lines = Vec::new();
        run(&[&["score".to_owned()], keys.as_slice()].concat(), |line| lines.push(line.to_owned())).unwrap();
        assert!(lines[0].starts_with(r#"{"kernel":"score","dtype":"int8","#), "{}", lines[0]);
        assert!(run(&["gemm".to_owned(), "dtype=int8".to_owned()], |_| ()).is_err());
    }

    #[test]
    fn wrong_keys_and_values_are_errors() {
        for wrong in ["m", "k=1", "m=0", "m=-1", "m=x", "dtype=f16", "runs=0", "threads=0", "seed=4294967296"] {
            assert!(parsed(&[wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_line_has_the_promised_keys_and_the_median() {
        let mut lines = Vec::new();
        let settings = Settings { double: true, threads: 2, runs: 4, seed: 0 };
        measure(&PRODUCT, &settings, &[vec![2, 3]], &mut |l| lines.push(l.to_owned())).unwrap();
        let expected = r#"{"kernel":"product","dtype":"f64","threads":2,"runs":4,"median_s":2.5,"min_s":1.0,"max_s":4.0,"flops":1,"bytes":2,"m":2,"n":3}"#;
        assert_eq!(lines, [expected]);
    }

    #[test]
    fn one_run_warms_up() {
        let mut calls = 0;
        let settings = Settings { double: false, threads: 1, runs: 3, seed: 0 };
        assert_eq!((settings.time(|| calls += 1).len(), calls), (3, 4));
    }
}
