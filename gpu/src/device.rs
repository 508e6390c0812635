//! A device, opened once and shared by everything that runs on it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::buffer::Pool;
use crate::capabilities::{Capabilities, features};
use crate::counters::{Counters, Totals};
use crate::error::Error;
use crate::pipeline::Pipelines;
use crate::recorder::Recorder;

/// Which device to open, and how much of it to use. The defaults are right for a program that has a GPU to itself.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuOptions {
    /// Prefer the integrated GPU where there are two; off by default.
    pub low_power: bool,
    /// How long a result is waited for by [`Pending::wait`](crate::Pending::wait); 60 seconds by default.
    pub timeout: Duration,
    /// How long a slow GPU may be busy with what it is handed at once; 1 second by default. Systems reset a GPU that does
    /// not answer for a few seconds, and everything on it is lost. What would take longer at 2 10^11 flops and 2 10^10
    /// bytes a second is therefore cut, into several dispatches and submissions.
    pub watchdog: Duration,
    /// Bytes of device memory that matrices may take in all; beyond, [`Error::OutOfMemory`]. No limit by default.
    pub max_memory: Option<u64>,
    /// Bytes of freed memory that are kept for reuse, those freed last; 1 GiB by default.
    pub pool_bytes: u64,
    /// Take the variants of kernels that every device can run, even where this one has more; off by default.
    pub plain: bool,
    /// Lower the largest binding, in bytes: matrices beyond are cut. For tests, as are the next two.
    pub max_binding_bytes: Option<u64>,
    /// Lower the number of workgroups along a dimension: larger dispatches are cut.
    pub max_workgroups: Option<u32>,
    /// Lower the memory of a workgroup, in bytes: kernels choose smaller tiles, or say that they cannot.
    pub max_workgroup_bytes: Option<u32>,
}

impl Default for GpuOptions {
    fn default() -> Self {
        Self {
            low_power: false,
            timeout: Duration::from_mins(1),
            watchdog: Duration::from_secs(1),
            max_memory: None,
            pool_bytes: 1 << 30,
            plain: false,
            max_binding_bytes: None,
            max_workgroups: None,
            max_workgroup_bytes: None,
        }
    }
}

/// A GPU. Cheap to clone, and may be used from several threads; clones share one device, its compiled kernels and its
/// memory.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, sketch::SjltTable};
/// use ascribe_gpu::{Error, Gpu, SjltBuckets};
/// let gpu = match Gpu::new() {
///     Ok(gpu) => gpu,
///     Err(Error::NoAdapter { why }) => return Ok(println!("skipped: {why}")),
///     Err(error) => return Err(error),
/// };
/// let sjlt = SjltTable::new(2, 1, &[0, 1, 0], &[1, -1, 1])?;
/// let sjlt = SjltBuckets::upload(&gpu, &sjlt.by_bucket()?)?;
/// let x = gpu.upload(MatRef::from_row(&[1.0_f32, 2.0, 4.0]))?;
/// let mut recorder = gpu.record();
/// let y = recorder.sjlt(&sjlt, &x)?;
/// let y = recorder.download(&y)?;
/// recorder.submit()?;
/// assert_eq!(y.wait()?, [5.0, -2.0]);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Gpu {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) capabilities: Capabilities,
    pub(crate) timeout: Duration,
    pub(crate) watchdog: Duration,
    pub(crate) pipelines: Pipelines,
    pub(crate) pool: Pool,
    pub(crate) totals: Totals,
    lost: Arc<OnceLock<String>>,
}

impl Gpu {
    /// The fastest GPU of this machine.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] when there is none, or it refuses.
    pub fn new() -> Result<Self, Error> {
        Self::with(&GpuOptions::default())
    }

    /// A GPU of one's choice.
    ///
    /// # Errors
    /// As [`Gpu::new`].
    pub fn with(options: &GpuOptions) -> Result<Self, Error> {
        pollster::block_on(Self::request(options))
    }

    /// As [`Gpu::with`], where blocking is not possible.
    ///
    /// # Errors
    /// As [`Gpu::new`].
    pub async fn request(options: &GpuOptions) -> Result<Self, Error> {
        let no_adapter = |why: String| Error::NoAdapter { why };
        if wgpu::Instance::enabled_backend_features().is_empty() {
            return Err(no_adapter("none of the graphics APIs exists on this platform".to_owned()));
        }
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let power_preference =
            if options.low_power { wgpu::PowerPreference::LowPower } else { wgpu::PowerPreference::HighPerformance };
        let wanted = wgpu::RequestAdapterOptions { power_preference, ..Default::default() };
        let adapter = instance.request_adapter(&wanted).await.map_err(|error| no_adapter(error.to_string()))?;
        let mut limits = adapter.limits();
        lower(&mut limits.max_storage_buffer_binding_size, options.max_binding_bytes);
        lower(&mut limits.max_compute_workgroups_per_dimension, options.max_workgroups);
        lower(&mut limits.max_compute_workgroup_storage_size, options.max_workgroup_bytes);
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("ascribe"),
            required_features: adapter.features() & features(),
            required_limits: limits,
            ..Default::default()
        };
        let (device, queue) =
            adapter.request_device(&descriptor).await.map_err(|error| no_adapter(error.to_string()))?;
        let gpu = Self::from_device(device, queue, options);
        let lost = Arc::clone(&gpu.shared.lost);
        gpu.shared.device.set_device_lost_callback(move |reason, why| {
            // Only the first loss is told.
            let _ = lost.set(if why.is_empty() { format!("{reason:?}").to_lowercase() } else { why });
        });
        Ok(gpu)
    }

    pub(crate) fn from_device(device: wgpu::Device, queue: wgpu::Queue, options: &GpuOptions) -> Self {
        let capabilities = Capabilities::probe(&device, options.plain);
        let pool = Pool::new(options.max_memory, options.pool_bytes);
        let GpuOptions { timeout, watchdog, .. } = *options;
        let (pipelines, totals, lost) = Default::default();
        let shared = Shared { device, queue, capabilities, timeout, watchdog, pipelines, pool, totals, lost };
        Self { shared: Arc::new(shared) }
    }

    /// What the device can do.
    pub fn capabilities(&self) -> &Capabilities {
        &self.shared.capabilities
    }

    /// Everything that was handed to the device so far.
    pub fn counters(&self) -> Counters {
        self.shared.totals.get()
    }

    /// Bytes of device memory that matrices hold, and that are kept for reuse.
    pub fn memory(&self) -> (u64, u64) {
        self.shared.pool.bytes()
    }

    /// Starts to record work; nothing runs before [`Recorder::submit`].
    pub fn record(&self) -> Recorder {
        Recorder::new(self.clone())
    }

    /// Gives the device up, whatever is still running; its memory is free as soon as it is idle. Everything after fails
    /// with [`Error::DeviceLost`].
    pub fn destroy(&self) {
        let _ = self.shared.lost.set("destroyed by the program".to_owned());
        self.shared.device.destroy();
        self.shared.pool.trim();
        // Frees what can be freed; that the device is gone is no news.
        let _ = self.shared.poll(&wgpu::PollType::Poll);
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl Shared {
    /// Runs commands of the graphics API and returns its complaints as an error. `bytes` is what they allocate.
    pub(crate) fn scoped<R>(&self, bytes: u64, commands: impl FnOnce() -> R) -> Result<R, Error> {
        self.check_alive()?;
        let scopes = [wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::OutOfMemory]
            .map(|filter| self.device.push_error_scope(filter));
        let result = commands();
        let [validation, internal, memory] = scopes;
        let out_of_memory = immediate(memory.pop()).is_some();
        let internal = immediate(internal.pop());
        let rejected = immediate(validation.pop()).or(internal);
        self.check_alive()?;
        match rejected {
            _ if out_of_memory => Err(Error::OutOfMemory { bytes }),
            Some(error) => Err(Error::Rejected { why: error.to_string() }),
            None => Ok(result),
        }
    }

    /// The loss of the device, when it is known.
    pub(crate) fn check_alive(&self) -> Result<(), Error> {
        self.lost.get().map_or(Ok(()), |why| Err(Error::DeviceLost { why: why.clone() }))
    }

    /// The loss of the device, which a command has just betrayed.
    pub(crate) fn loss(&self) -> Error {
        let why = self.lost.get().map_or("it does not answer", String::as_str);
        Error::DeviceLost { why: why.to_owned() }
    }

    /// Lets the device report what it has finished, and waits for it when asked to.
    pub(crate) fn poll(&self, how: &wgpu::PollType) -> Result<(), Error> {
        let waited = match how {
            wgpu::PollType::Wait { timeout, .. } => timeout.unwrap_or(Duration::MAX),
            wgpu::PollType::Poll => Duration::ZERO,
        };
        let poll = || catch_unwind(AssertUnwindSafe(|| self.device.poll(how.clone())));
        // wgpu 30 panics here when the driver reports the device as lost; and when another thread's poll comes between two
        // steps of this one (gfx-rs/wgpu#9958), after which nothing is wrong.
        let polled = match poll() {
            Err(_) if self.lost.get().is_none() => poll(),
            polled => polled,
        };
        match polled {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(wgpu::PollError::Timeout)) => Err(Error::Timeout { waited }),
            Ok(Err(wgpu::PollError::WrongSubmissionIndex(..))) | Err(_) => Err(self.loss()),
        }
    }
}

fn lower<T: Ord>(limit: &mut T, to: Option<T>) {
    if let Some(to) = to.filter(|to| to < limit) {
        *limit = to;
    }
}

/// What a future holds that is ready. Those of error scopes are, except in a browser, which reports to its console.
fn immediate<T>(future: impl Future<Output = Option<T>>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => None,
    }
}
