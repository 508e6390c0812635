//! Results that are on their way.

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::buffer::{Buffer, Usage};
use crate::device::Gpu;
use crate::error::Error;
use crate::matrix::Element;

/// A matrix that is being copied back. Wait for it, or await it.
///
/// # Examples
/// ```
/// # use ascribe_gpu::{Error, Gpu};
/// # let gpu = match Gpu::new() { Err(Error::NoAdapter { why }) => return Ok(println!("skipped: {why}")), gpu => gpu? };
/// let x = gpu.upload(ascribe_core::MatRef::from_row(&[1_u32, 2, 3]))?;
/// let mut recorder = gpu.record();
/// let pending = recorder.download(&x)?;
/// recorder.submit()?;
/// assert_eq!(pollster::block_on(pending)?, [1, 2, 3]); // or `pending.wait()?`
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct Pending<T> {
    slot: Arc<Slot>,
    rows: usize,
    cols: usize,
    /// Whether a thread waits for the device on behalf of the future.
    watched: bool,
    element: PhantomData<fn() -> T>,
}

/// Where a result arrives.
#[derive(Debug)]
pub(crate) struct Slot {
    gpu: Gpu,
    parts: Vec<Part>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct Part {
    buffer: Mutex<Buffer>,
    bytes: u64,
}

#[derive(Debug)]
struct State {
    /// Known from submission on.
    index: Option<wgpu::SubmissionIndex>,
    /// Parts that have not arrived.
    missing: usize,
    failed: Option<Error>,
    waker: Option<Waker>,
}

impl Slot {
    /// For parts of that many bytes.
    pub(crate) fn new(gpu: &Gpu, parts: &[u64]) -> Result<Arc<Self>, Error> {
        let part = |&bytes| -> Result<_, Error> {
            Ok(Part { buffer: Mutex::new(Buffer::new(&gpu.shared, Usage::Readback, bytes)?), bytes })
        };
        let state = State { index: None, missing: parts.len(), failed: None, waker: None };
        let parts = parts.iter().map(part).collect::<Result<_, _>>()?;
        Ok(Arc::new(Self { gpu: gpu.clone(), parts, state: Mutex::new(state), changed: Condvar::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the copy of a part, and that it is mapped when it has been made.
    pub(crate) fn copy(
        self: &Arc<Self>,
        encoder: &mut wgpu::CommandEncoder,
        part: usize,
        from: &wgpu::Buffer,
        bytes: u64,
    ) {
        let mut to = self.buffer(part);
        // Until it is unmapped, nobody else may have it.
        to.retire(true);
        encoder.copy_buffer_to_buffer(from, 0, to.raw(), 0, bytes);
        // The device keeps the callback: were it to keep the slot alive, and that the device, neither would ever go.
        let slot = Arc::downgrade(self);
        encoder.map_buffer_on_submit(to.raw(), wgpu::MapMode::Read, 0..bytes, move |mapped| {
            if let Some(slot) = slot.upgrade() {
                slot.arrived(mapped.is_ok());
            }
        });
    }

    fn buffer(&self, part: usize) -> MutexGuard<'_, Buffer> {
        self.parts[part].buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrived(&self, mapped: bool) {
        let failed = (!mapped).then(|| self.gpu.shared.loss());
        self.change(|state| {
            state.missing -= 1;
            state.failed = state.failed.take().or(failed);
        });
    }

    pub(crate) fn submitted(&self, index: wgpu::SubmissionIndex) {
        self.change(|state| state.index = Some(index));
    }

    pub(crate) fn fail(&self, error: &Error) {
        self.change(|state| state.failed = state.failed.take().or(Some(error.clone())));
    }

    fn change(&self, f: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        f(&mut state);
        let waker = state.waker.take();
        drop(state);
        self.changed.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether everything is there.
    fn done(state: &State) -> Result<bool, Error> {
        match &state.failed {
            Some(error) => Err(error.clone()),
            None => Ok(state.missing == 0),
        }
    }

    fn wait(&self, timeout: Duration) -> Result<(), Error> {
        let state = self.lock();
        if Self::done(&state)? {
            return Ok(());
        }
        let Some(index) = state.index.clone() else { return Err(Error::NotSubmitted) };
        drop(state);
        check_blocking()?;
        let start = Instant::now();
        let polled =
            self.gpu.shared.poll(&wgpu::PollType::Wait { submission_index: Some(index), timeout: Some(timeout) });
        // Another thread that polls may be about to run the callbacks of this result.
        let mut state = self.lock();
        loop {
            if Self::done(&state)? {
                return Ok(());
            }
            polled.clone()?;
            let left = timeout.checked_sub(start.elapsed()).ok_or(Error::Timeout { waited: timeout })?;
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes the elements out of the mapped memory.
    fn read<T: Element>(&self, rows: usize, cols: usize) -> Result<Vec<T>, Error> {
        self.gpu.shared.check_alive()?;
        let mut out = Vec::with_capacity(rows * cols);
        let row_bytes = cols.div_ceil(T::PER_WORD) * 4;
        for (i, part) in self.parts.iter().enumerate() {
            let mut buffer = self.buffer(i);
            let view = buffer.raw().get_mapped_range(0..part.bytes);
            let view = view.map_err(|error| Error::Rejected { why: error.to_string() })?;
            for row in view.chunks_exact(row_bytes) {
                out.extend_from_slice(bytemuck::cast_slice(&row[..cols * size_of::<T>()]));
            }
            drop(view);
            self.gpu.shared.scoped(0, || buffer.raw().unmap())?;
            buffer.retire(false);
        }
        Ok(out)
    }
}

impl<T: Element> Pending<T> {
    pub(crate) fn new(slot: Arc<Slot>, rows: usize, cols: usize) -> Self {
        Self { slot, rows, cols, watched: false, element: PhantomData }
    }

    /// Waits for the elements, row by row, no longer than [`GpuOptions::timeout`](crate::GpuOptions::timeout).
    ///
    /// # Errors
    /// [`Error::NotSubmitted`] at once when the recorder was not submitted; [`Error::Timeout`];
    /// [`Error::DeviceLost`]; [`Error::MissingFeature`] in a browser, which has to be awaited; and what made the
    /// submission fail.
    pub fn wait(self) -> Result<Vec<T>, Error> {
        let timeout = self.slot.gpu.shared.timeout;
        self.wait_for(timeout)
    }

    /// As [`wait`](Self::wait), but no longer than `timeout`.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_for(self, timeout: Duration) -> Result<Vec<T>, Error> {
        self.slot.wait(timeout)?;
        self.slot.read(self.rows, self.cols)
    }
}

impl<T: Element> Future for Pending<T> {
    type Output = Result<Vec<T>, Error>;

    /// Awaiting starts a thread that waits for the device, unless the result is there; in a browser, the browser waits.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.slot.lock();
        match Slot::done(&state) {
            Err(error) => return Poll::Ready(Err(error)),
            Ok(true) => {
                drop(state);
                return Poll::Ready(self.slot.read(self.rows, self.cols));
            }
            Ok(false) => state.waker = Some(context.waker().clone()),
        }
        let submitted = state.index.is_some();
        drop(state);
        if submitted && !self.watched {
            self.watched = true;
            watch(Arc::clone(&self.slot));
        }
        Poll::Pending
    }
}

/// A browser has to be given back control before it does anything.
pub(crate) fn check_blocking() -> Result<(), Error> {
    let browser = cfg!(target_family = "wasm");
    if browser { Err(Error::MissingFeature { feature: "waiting in a browser: await the result" }) } else { Ok(()) }
}

#[cfg(not(target_family = "wasm"))]
fn watch(slot: Arc<Slot>) {
    let timeout = slot.gpu.shared.timeout;
    let wait = move || {
        if let Err(error) = slot.wait(timeout) {
            slot.fail(&error);
        }
    };
    // A system that has no thread to spare waits here.
    if std::thread::Builder::new().name("ascribe-gpu".to_owned()).spawn(wait.clone()).is_err() {
        wait();
    }
}

#[cfg(target_family = "wasm")]
fn watch(_: Arc<Slot>) {}
