//! A folder with everything that the page needs: its own files, the texts of all shaders, and the recordings.
//!
//! `bundle.json` says what there is; its lists are documented in `tests/web/replay.js`, which reads them. `data.bin`
//! holds the numbers: words of buffers and of parameters, expected values and bounds as f64; places in it are in bytes.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use ascribe_gpu::kernel::{Access, KERNELS};
use ascribe_gpu::shader::{SUBGROUPS, Target};
use ascribe_gpu::{Gpu, Matrix, Recorder, Step};
use serde_json::{Value, json};

use crate::case::Case;
use ascribe_tests::Failure;
use ascribe_tests::failure::fail;

/// The page.
const FILES: &[(&str, &str)] = &[
    ("index.html", include_str!("../../../web/index.html")),
    ("page.js", include_str!("../../../web/page.js")),
    ("replay.js", include_str!("../../../web/replay.js")),
];

/// A folder in the making.
pub(crate) struct Bundle {
    folder: PathBuf,
    data: BufWriter<File>,
    bytes: usize,
    shaders: Vec<Shader>,
    cases: Vec<Value>,
    benchmarks: Vec<Value>,
}

/// A kernel in a variant that it declares.
struct Shader {
    kernel: &'static str,
    flags: &'static [&'static str],
    constants: &'static [(&'static str, u32)],
}

impl Bundle {
    /// Writes the page and every variant of every kernel.
    pub(crate) fn create(folder: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(folder.join("shaders"))?;
        for (name, text) in FILES {
            fs::write(folder.join(name), text)?;
        }
        let mut shaders = Vec::new();
        for kernel in KERNELS {
            for flags in kernel.variants {
                fs::write(folder.join(file(kernel.name, flags)), kernel.shader(flags, Target::Standard)?)?;
                let constants = kernel.constants.iter();
                shaders.extend(constants.map(|constants| Shader { kernel: kernel.name, flags, constants }));
            }
        }
        let data = BufWriter::new(File::create(folder.join("data.bin"))?);
        let (bytes, cases, benchmarks) = (0, Vec::new(), Vec::new());
        Ok(Self { folder: folder.to_owned(), data, bytes, shaders, cases, benchmarks })
    }

    /// Adds a case, and runs it here: what the page is to expect has to hold on this device too.
    pub(crate) fn add(&mut self, case: Case) -> Result<(), Failure> {
        let mut value = self.record(&case.name, &case.recorder)?;
        let Case { name, recorder, outputs } = case;
        if outputs.is_empty() {
            return fail(format!("{name}: nothing is copied back"));
        }
        recorder.submit()?;
        let mut list = Vec::new();
        for output in outputs {
            let exact = output.bound.iter().all(|bound| *bound == 0.0);
            list.push(json!({
                "name": output.name,
                "element": output.element,
                "shape": output.shape,
                "sets": output.sets,
                "expected": self.floats(&output.expected)?,
                "bound": if exact { None } else { Some(self.floats(&output.bound)?) },
            }));
            output.check().or_else(|failure| fail(format!("{name}: {failure}")))?;
        }
        value["outputs"] = list.into();
        self.cases.push(value);
        Ok(())
    }

    /// Adds a recording that the page only times.
    pub(crate) fn add_benchmark(&mut self, name: &str, recorder: &Recorder) -> Result<(), Failure> {
        let value = self.record(name, recorder)?;
        self.benchmarks.push(value);
        Ok(())
    }

    /// Writes the list of all. The page compiles every variant and wants a case of every kernel if there is to be
    /// `everything`, otherwise what the cases use.
    pub(crate) fn finish(mut self, gpu: &Gpu, everything: bool) -> Result<(), Failure> {
        self.data.flush()?;
        let shader = |Shader { kernel, flags, constants }: &Shader| {
            let kernel = KERNELS.iter().find(|known| known.name == *kernel);
            let binding = |access: &Access| match access {
                Access::Read => "read-only-storage",
                Access::Write => "storage",
            };
            json!({
                "kernel": kernel.map(|kernel| kernel.name),
                "flags": flags,
                "constants": constants.iter().map(|(name, value)| ((*name).to_owned(), (*value).into()))
                    .collect::<serde_json::Map<_, _>>(),
                "file": kernel.map(|kernel| file(kernel.name, flags)),
                "bindings": kernel.map(|kernel| kernel.bindings.iter().map(binding).collect::<Vec<_>>()),
                "features": if flags.contains(&SUBGROUPS) { vec!["subgroups"] } else { vec![] },
            })
        };
        let all = json!({
            "device": gpu.capabilities().name,
            "everything": everything,
            "kernels": KERNELS.iter().map(|kernel| kernel.name).collect::<Vec<_>>(),
            "shaders": self.shaders.iter().map(shader).collect::<Vec<_>>(),
            "cases": self.cases,
            "benchmarks": self.benchmarks,
        });
        Ok(fs::write(self.folder.join("bundle.json"), all.to_string())?)
    }

    /// The steps of a recording, and what its buffers hold before the first one.
    fn record(&mut self, name: &str, recorder: &Recorder) -> Result<Value, Failure> {
        let (plan, cost) = (recorder.plan(), recorder.cost());
        let buffers = plan.buffers.iter().map(|buffer| self.buffer(buffer)).collect::<Result<Vec<_>, _>>()?;
        let (mut params, mut steps) = (Vec::new(), Vec::new());
        for step in plan.steps {
            steps.push(match step {
                Step::Dispatch { kernel, flags, constants, params: words, bindings, groups } => {
                    params.extend(words);
                    let declared = |shader: &Shader| {
                        shader.kernel == kernel.name && shader.flags == flags && shader.constants == constants
                    };
                    let Some(shader) = self.shaders.iter().position(declared) else {
                        return fail(format!("{} does not declare {flags:?} {constants:?}", kernel.name));
                    };
                    json!({ "shader": shader, "bindings": bindings, "groups": groups })
                }
                Step::Clear { buffer, bytes } => json!({ "clear": buffer, "bytes": bytes }),
                Step::Download { buffer, bytes, result } => {
                    json!({ "download": buffer, "bytes": bytes, "output": result })
                }
                _ => return fail(format!("{name}: a step of an unknown kind")),
            });
        }
        let params = json!({ "words": params.len(), "at": self.words(&params)? });
        Ok(json!({
            "name": name, "flops": cost.flops, "bytes": cost.bytes,
            "buffers": buffers, "params": params, "steps": steps,
        }))
    }

    /// A buffer that holds only zeros is not written: a case clears it, a benchmark fills it.
    fn buffer(&mut self, buffer: &Matrix<u32>) -> Result<Value, Failure> {
        let mut recorder = buffer.gpu().record();
        let words = recorder.download(buffer)?;
        recorder.submit()?;
        let words = words.wait()?;
        let at = if words.iter().all(|&word| word == 0) { None } else { Some(self.words(&words)?) };
        Ok(json!({ "words": words.len(), "at": at }))
    }

    fn words(&mut self, words: &[u32]) -> Result<usize, Failure> {
        self.append(words.iter().flat_map(|word| word.to_le_bytes()))
    }

    fn floats(&mut self, floats: &[f64]) -> Result<usize, Failure> {
        self.append(floats.iter().flat_map(|float| float.to_le_bytes()))
    }

    /// Where they begin: at a multiple of eight, as views of JavaScript have to.
    fn append(&mut self, bytes: impl Iterator<Item = u8>) -> Result<usize, Failure> {
        let mut bytes: Vec<u8> = bytes.collect();
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        self.data.write_all(&bytes)?;
        self.bytes += bytes.len();
        Ok(self.bytes - bytes.len())
    }
}

/// Where the text of a variant is.
fn file(kernel: &str, flags: &[&str]) -> String {
    let words: Vec<&str> = std::iter::once(kernel).chain(flags.iter().copied()).collect();
    format!("shaders/{}.wgsl", words.join("-"))
}
