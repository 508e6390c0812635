//! Work, recorded and submitted at once.

use std::sync::Arc;

use crate::buffer::{Buffer, Usage};
use crate::capabilities::PARAMS_BYTES;
use crate::counters::Counters;
use crate::device::Gpu;
use crate::error::{Error, check_limit};
use crate::kernel::{Cost, Kernel};
use crate::matrix::{Binding, Element, Matrix};
use crate::pending::{Pending, Slot, check_blocking};
use crate::pipeline::Pipeline;

/// Records kernels, and submits them as one.
///
/// The methods that record are in the files of the kernels. Each returns the matrix that it will fill; a kernel that
/// adds to a matrix takes it first. Nothing runs before [`submit`](Self::submit); what is dropped instead never runs.
/// Memory stays alive until the device is done with it, whatever the program drops.
///
/// Cost: about a microsecond a kernel to record, and what the graphics API takes to encode it at submission. Kernels
/// are compiled when they are first recorded.
///
/// Work that a slow GPU would be busy with for longer than [`GpuOptions::watchdog`](crate::GpuOptions::watchdog) is cut:
/// an operation into more dispatches than its documentation says, and a recording into several submissions.
///
/// # Errors
/// Recording validates shapes first, then compiles and allocates. An operation that fails, at whatever point, leaves the
/// recording and every matrix of the program as they were.
///
/// # Examples
/// ```
/// # use ascribe_gpu::{Error, Gpu};
/// # let gpu = match Gpu::new() { Err(Error::NoAdapter { why }) => return Ok(println!("skipped: {why}")), gpu => gpu? };
/// let mut recorder = gpu.record();
/// let zeros = recorder.zeros::<f32>(2, 3)?;
/// let pending = recorder.download(&zeros)?;
/// let submission = recorder.submit()?;
/// assert_eq!(pending.wait()?, [0.0; 6]);
/// assert_eq!((submission.counters().submissions, submission.counters().bytes_down), (1, 24));
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct Recorder {
    gpu: Gpu,
    pub(crate) commands: Vec<Command>,
    /// Those of all dispatches, as they will lie in the device's memory.
    pub(crate) params: Vec<u32>,
    counters: Counters,
    cost: Cost,
    /// The commands, and the words of their parameters, whose cost is known.
    spent: [usize; 2],
}

/// What a slow GPU achieves: bytes and flops a second.
const SLOW: [f64; 2] = [2e10, 2e11];

#[derive(Debug)]
pub(crate) enum Command {
    Dispatch {
        pipeline: Arc<Pipeline>,
        bindings: Vec<(Arc<Buffer>, u64)>,
        groups: [u32; 3],
        /// How long a slow GPU takes for it.
        seconds: f64,
    },
    Clear {
        buffer: Arc<Buffer>,
        bytes: u64,
    },
    /// To readback memory, for a result.
    Copy {
        from: Arc<Buffer>,
        bytes: u64,
        slot: Arc<Slot>,
        part: usize,
    },
}

/// A kernel to record.
pub(crate) struct Dispatch<'a, const N: usize> {
    pub(crate) kernel: &'static Kernel,
    pub(crate) flags: &'a [&'static str],
    pub(crate) constants: &'a [(&'static str, u32)],
    /// The members of `Params` after `origin`.
    pub(crate) params: &'a [u32],
    pub(crate) bindings: [Binding<'a>; N],
    /// Workgroups along each dimension, however many.
    pub(crate) groups: [u64; 3],
}

impl Recorder {
    pub(crate) fn new(gpu: Gpu) -> Self {
        let (counters, cost) = Default::default();
        Self { gpu, commands: Vec::new(), params: Vec::new(), counters, cost, spent: [0; 2] }
    }

    /// The device that this records for.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// What was recorded so far, and what it will copy.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What the kernels recorded so far cost.
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// A matrix of zeros. Cost: its bytes.
    ///
    /// # Errors
    /// As [`Gpu::upload`].
    pub fn zeros<T: Element>(&mut self, rows: usize, cols: usize) -> Result<Matrix<T>, Error> {
        let out = Matrix::new(&self.gpu, rows, cols)?;
        for i in 0..out.chunks().len() {
            let Binding { buffer, bytes } = out.chunk(i);
            self.commands.push(Command::Clear { buffer: Arc::clone(buffer), bytes });
        }
        Ok(out)
    }

    /// Copies a matrix back as it is at this point of the recording, row by row without gaps.
    ///
    /// # Errors
    /// [`Error::Foreign`] for a matrix of another device, [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub fn download<T: Element>(&mut self, x: &Matrix<T>) -> Result<Pending<T>, Error> {
        x.check("columns", &self.gpu, x.cols())?;
        let parts: Vec<u64> = (0..x.chunks().len()).map(|i| x.chunk(i).bytes).collect();
        let slot = Slot::new(&self.gpu, &parts)?;
        for (part, &bytes) in parts.iter().enumerate() {
            let from = Arc::clone(&x.chunks()[part]);
            self.commands.push(Command::Copy { from, bytes, slot: Arc::clone(&slot), part });
        }
        self.counters.bytes_down += x.bytes();
        Ok(Pending::new(slot, x.rows(), x.cols()))
    }

    /// Records a kernel, cut into dispatches that the device allows.
    pub(crate) fn dispatch<const N: usize>(&mut self, dispatch: &Dispatch<'_, N>) -> Result<(), Error> {
        let &Dispatch { kernel, flags, constants, params, bindings, groups } = dispatch;
        debug_assert!(kernel.bindings.len() == N && params.len() <= PARAMS_BYTES as usize / 4 - 3);
        if groups.contains(&0) {
            return Ok(());
        }
        let pipeline = self.gpu.shared.pipeline(kernel, flags, constants)?;
        let most = u64::from(self.gpu.capabilities().max_workgroups.max(1));
        let stride = self.gpu.capabilities().params_stride;
        for z in (0..groups[2]).step_by(most as usize) {
            for y in (0..groups[1]).step_by(most as usize) {
                for x in (0..groups[0]).step_by(most as usize) {
                    let end = self.params.len() + stride as usize / 4;
                    self.params.extend([x, y, z].map(|origin| origin as u32));
                    self.params.extend_from_slice(params);
                    self.params.resize(end, 0);
                    self.commands.push(Command::Dispatch {
                        pipeline: Arc::clone(&pipeline),
                        bindings: bindings.iter().map(|b| (Arc::clone(b.buffer), b.bytes)).collect(),
                        groups: [(x, 0), (y, 1), (z, 2)].map(|(origin, i)| most.min(groups[i] - origin) as u32),
                        seconds: 0.0,
                    });
                    self.counters.dispatches += 1;
                    self.counters.bytes_up += stride;
                }
            }
        }
        Ok(())
    }

    /// Records an operation of several kernels, whole or not at all.
    pub(crate) fn whole<R>(&mut self, operation: impl FnOnce(&mut Self) -> Result<R, Error>) -> Result<R, Error> {
        let (commands, params) = (self.commands.len(), self.params.len());
        let (counters, cost, spent) = (self.counters, self.cost, self.spent);
        // What was recorded before has a cost already, or none: a failure must find it as it is.
        self.spent = [commands, params];
        let result = operation(self);
        if result.is_err() {
            self.commands.truncate(commands);
            self.params.truncate(params);
            (self.counters, self.cost, self.spent) = (counters, cost, spent);
        }
        result
    }

    /// Adds the cost of an operation, which was just recorded, to that of the recording.
    pub(crate) fn spend(&mut self, cost: Cost) {
        self.cost += cost;
        let [commands, params] = self.spent;
        let dispatches = self.commands[commands..].iter().filter(|c| matches!(c, Command::Dispatch { .. })).count();
        let each = cost.seconds(SLOW[0], SLOW[1]) / dispatches.max(1) as f64;
        let parts = (each / self.gpu.shared.watchdog.as_secs_f64()).ceil().max(1.0) as u32;
        let params = self.params.split_off(params);
        let stride = self.gpu.capabilities().params_stride;
        let mut params = params.chunks_exact(stride as usize / 4);
        for command in self.commands.split_off(commands) {
            let Command::Dispatch { pipeline, bindings, groups, .. } = command else {
                self.commands.push(command);
                continue;
            };
            let Some(words) = params.next() else { continue };
            // Along the axis with the most workgroups; a workgroup alone cannot be cut.
            let (axis, count) =
                (0..3).map(|axis| (axis, groups[axis])).max_by_key(|(_, count)| *count).unwrap_or((0, 1));
            let step = count.div_ceil(parts).max(1);
            for first in (0..count).step_by(step as usize) {
                let start = self.params.len();
                self.params.extend_from_slice(words);
                self.params[start + axis] += first;
                let mut groups = groups;
                groups[axis] = step.min(count - first);
                let seconds = each * f64::from(groups[axis]) / f64::from(count);
                let (pipeline, bindings) = (Arc::clone(&pipeline), bindings.clone());
                self.commands.push(Command::Dispatch { pipeline, bindings, groups, seconds });
            }
            let more = u64::from(count.div_ceil(step)) - 1;
            self.counters.dispatches += more;
            self.counters.bytes_up += more * stride;
        }
        self.spent = [self.commands.len(), self.params.len()];
    }

    /// Hands everything to the device, in order, in one submission, or in several where it would be busy for too long
    /// with one; returns while it is running.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], [`Error::OutOfMemory`]. Results that were recorded then fail with the same error.
    pub fn submit(mut self) -> Result<Submission, Error> {
        let result = self.encode();
        // What failed is told to those who wait; the rest is nobody's business any more.
        let commands = std::mem::take(&mut self.commands);
        if let Err(error) = &result {
            fail(&commands, error);
        }
        result
    }

    fn encode(&mut self) -> Result<Submission, Error> {
        let shared = &self.gpu.shared;
        shared.check_alive()?;
        let stride = shared.capabilities.params_stride;
        let params_bytes = self.params.len() as u64 * 4;
        let most = shared.capabilities.max_buffer_bytes.min(u32::MAX.into());
        check_limit("bytes of parameters of all dispatches", params_bytes, most)?;
        let params = (params_bytes > 0).then(|| Buffer::new(shared, Usage::Params, params_bytes)).transpose()?;
        let (mut passes, mut submissions) = (0, 1);
        let index = shared.scoped(params_bytes, || {
            if let Some(params) = &params {
                shared.queue.write_buffer(params.raw(), 0, bytemuck::cast_slice(&self.params));
            }
            let new =
                || shared.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("ascribe") });
            let (mut encoder, mut busy) = (new(), 0.0);
            let (mut pass, mut offset) = (None, 0);
            for command in &self.commands {
                match command {
                    Command::Dispatch { pipeline, bindings, groups, seconds } => {
                        let Some(params) = &params else { continue };
                        if busy > 0.0 && busy + seconds > shared.watchdog.as_secs_f64() {
                            pass = None;
                            shared.queue.submit([std::mem::replace(&mut encoder, new()).finish()]);
                            (busy, submissions) = (0.0, submissions + 1);
                        }
                        busy += seconds;
                        let group = bind(&shared.device, pipeline, params, bindings);
                        let pass = pass.get_or_insert_with(|| {
                            passes += 1;
                            encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()).forget_lifetime()
                        });
                        pass.set_pipeline(&pipeline.raw);
                        pass.set_bind_group(0, &group, &[offset]);
                        pass.dispatch_workgroups(groups[0], groups[1], groups[2]);
                        offset += stride as u32;
                    }
                    Command::Clear { buffer, bytes } => {
                        pass = None;
                        encoder.clear_buffer(buffer.raw(), 0, Some(*bytes));
                    }
                    Command::Copy { from, bytes, slot, part } => {
                        pass = None;
                        slot.copy(&mut encoder, *part, from.raw(), *bytes);
                    }
                }
            }
            drop(pass);
            shared.queue.submit([encoder.finish()])
        })?;
        self.counters.passes += passes;
        self.counters.submissions += submissions;
        shared.totals.add(self.counters);
        for command in &self.commands {
            if let Command::Copy { slot, .. } = command {
                slot.submitted(index.clone());
            }
        }
        Ok(Submission { gpu: self.gpu.clone(), index, counters: self.counters })
    }
}

fn bind(
    device: &wgpu::Device,
    pipeline: &Pipeline,
    params: &Buffer,
    bindings: &[(Arc<Buffer>, u64)],
) -> wgpu::BindGroup {
    let storage = bindings.iter().zip(1..).map(|((buffer, bytes), binding)| entry(binding, buffer, *bytes));
    let entries: Vec<_> = std::iter::once(entry(0, params, PARAMS_BYTES)).chain(storage).collect();
    device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &pipeline.layout, entries: &entries })
}

fn entry(binding: u32, buffer: &Buffer, bytes: u64) -> wgpu::BindGroupEntry<'_> {
    let size = wgpu::BufferSize::new(bytes);
    let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer: buffer.raw(), offset: 0, size });
    wgpu::BindGroupEntry { binding, resource }
}

fn fail(commands: &[Command], error: &Error) {
    for command in commands {
        if let Command::Copy { slot, .. } = command {
            slot.fail(error);
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        fail(&self.commands, &Error::NotSubmitted);
    }
}

/// Work that the device is doing.
#[derive(Debug)]
pub struct Submission {
    gpu: Gpu,
    index: wgpu::SubmissionIndex,
    counters: Counters,
}

impl Submission {
    /// What was submitted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Waits until the device is done, no longer than [`GpuOptions::timeout`](crate::GpuOptions::timeout).
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::DeviceLost`]; [`Error::MissingFeature`] in a browser.
    pub fn wait(&self) -> Result<(), Error> {
        check_blocking()?;
        let submission_index = Some(self.index.clone());
        self.gpu.shared.poll(&wgpu::PollType::Wait { submission_index, timeout: Some(self.gpu.shared.timeout) })?;
        self.gpu.shared.check_alive()
    }
}
