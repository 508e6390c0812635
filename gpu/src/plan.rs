//! A recording as data: to look at it, or to run it where this crate does not reach.

use std::collections::HashMap;
use std::sync::Arc;

use crate::buffer::Buffer;
use crate::capabilities::PARAMS_BYTES;
use crate::kernel::Kernel;
use crate::matrix::Matrix;
use crate::recorder::{Command, Recorder};

/// What a [`Recorder`] has recorded so far, in the order in which it will run. Made by [`Recorder::plan`].
///
/// With the texts of [`Kernel::shader`] and what the buffers hold before the first step, any implementation of WebGPU can
/// repeat it.
#[derive(Debug)]
pub struct Plan {
    /// The buffers of the steps, by number; of each, the words that the steps see. They are the memory of the matrices, so
    /// [`Recorder::download`] tells what they hold.
    pub buffers: Vec<Matrix<u32>>,
    /// One after the other: each sees what those before it have written.
    pub steps: Vec<Step>,
}

/// A step of a [`Plan`]. Buffers are numbers of [`Plan::buffers`], of whose first `bytes` it makes use.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Step {
    /// Workgroups of a kernel.
    Dispatch {
        /// The kernel.
        kernel: &'static Kernel,
        /// The flags of its variant.
        flags: Vec<&'static str>,
        /// Its override constants.
        constants: Vec<(&'static str, u32)>,
        /// The words of binding 0.
        params: Vec<u32>,
        /// Buffer and bytes of each binding from 1 on.
        bindings: Vec<(usize, u64)>,
        /// Workgroups along each dimension.
        groups: [u32; 3],
    },
    /// Zeros.
    Clear {
        /// The buffer.
        buffer: usize,
        /// How much of it.
        bytes: u64,
    },
    /// A copy for the host.
    Download {
        /// The buffer.
        buffer: usize,
        /// How much of it.
        bytes: u64,
        /// Which call of [`Recorder::download`] it is for; those of a matrix in pieces follow each other.
        result: usize,
    },
}

impl Recorder {
    /// What was recorded so far, as data.
    ///
    /// # Examples
    /// ```
    /// # use ascribe_gpu::{Error, Gpu, Step};
    /// # let gpu = match Gpu::new() { Err(Error::NoAdapter { why }) => return Ok(println!("skipped: {why}")), gpu => gpu? };
    /// let x = gpu.upload(ascribe_core::MatRef::from_row(&[1.0_f32, 2.0]))?;
    /// let mut recorder = gpu.record();
    /// let gram = recorder.gemm(1.0, x.t(), &x)?;
    /// let plan = recorder.plan();
    /// let [Step::Dispatch { kernel, bindings, .. }] = &plan.steps[..] else { unreachable!() };
    /// assert_eq!((kernel.name, &bindings[..]), ("gemm", &[(0, 8), (0, 8), (1, 16)][..]));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn plan(&self) -> Plan {
        let (mut buffers, mut results) = (Numbers::default(), Numbers::default());
        let mut words = Vec::new();
        let mut number = |buffer: &Arc<Buffer>, bytes: u64| {
            let number = buffers.of(buffer);
            if number == words.len() {
                words.push((Arc::clone(buffer), 0));
            }
            words[number].1 = words[number].1.max(bytes as usize / 4);
            number
        };
        let stride = self.gpu().capabilities().params_stride as usize / 4;
        let mut params = self.params.chunks_exact(stride).map(|words| &words[..PARAMS_BYTES as usize / 4]);
        let step = |command: &Command| match command {
            Command::Dispatch { pipeline, bindings, groups, .. } => Step::Dispatch {
                kernel: pipeline.kernel,
                flags: pipeline.flags.clone(),
                constants: pipeline.constants.clone(),
                params: params.next().unwrap_or_default().to_vec(),
                bindings: bindings.iter().map(|(buffer, bytes)| (number(buffer, *bytes), *bytes)).collect(),
                groups: *groups,
            },
            Command::Clear { buffer, bytes } => Step::Clear { buffer: number(buffer, *bytes), bytes: *bytes },
            Command::Copy { from, bytes, slot, .. } => {
                Step::Download { buffer: number(from, *bytes), bytes: *bytes, result: results.of(slot) }
            }
        };
        let steps = self.commands.iter().map(step).collect();
        let matrix = |(buffer, words)| Matrix::within(self.gpu(), buffer, 1, words);
        Plan { buffers: words.into_iter().map(matrix).collect(), steps }
    }
}

/// Numbers what is shared, in the order of its first appearance.
struct Numbers<T>(HashMap<*const T, usize>);

impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> Numbers<T> {
    fn of(&mut self, shared: &Arc<T>) -> usize {
        let next = self.0.len();
        *self.0.entry(Arc::as_ptr(shared)).or_insert(next)
    }
}
