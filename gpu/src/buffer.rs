//! Memory of the device, reused.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::device::Shared;
use crate::error::Error;

/// What a buffer is for; buffers of different uses are not exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Usage {
    /// Read and written by kernels, copied from and to.
    Storage,
    /// The parameters of dispatches.
    Params,
    /// Where results are copied to for the host to read.
    Readback,
}

impl Usage {
    fn flags(self) -> wgpu::BufferUsages {
        use wgpu::BufferUsages as Flags;
        match self {
            Self::Storage => Flags::STORAGE | Flags::COPY_SRC | Flags::COPY_DST,
            Self::Params => Flags::UNIFORM | Flags::COPY_DST,
            Self::Readback => Flags::MAP_READ | Flags::COPY_DST,
        }
    }
}

/// A buffer that goes back to the pool when the last owner lets go. Kernels that were submitted run in order, so its
/// next user cannot disturb them; those that are only recorded own it too.
#[derive(Debug)]
pub(crate) struct Buffer {
    raw: wgpu::Buffer,
    usage: Usage,
    /// None for the memory of somebody else.
    owner: Option<Arc<Shared>>,
    /// Not to be reused: it is mapped.
    retired: bool,
}

impl Buffer {
    /// At least `bytes` (a multiple of four), with whatever its last user left in it.
    pub(crate) fn new(shared: &Arc<Shared>, usage: Usage, bytes: u64) -> Result<Self, Error> {
        shared.check_alive()?;
        let size = size_class(bytes).min(shared.capabilities.max_buffer_bytes).max(bytes);
        let raw = match shared.pool.take(usage, size) {
            Some(raw) => raw,
            None => allocate(shared, usage, size).or_else(|_| {
                // What is kept for reuse may be what is missing.
                shared.pool.trim();
                allocate(shared, usage, size)
            })?,
        };
        Ok(Self { raw, usage, owner: Some(Arc::clone(shared)), retired: false })
    }

    /// Memory that somebody else allocated.
    pub(crate) fn foreign(raw: wgpu::Buffer) -> Self {
        Self { raw, usage: Usage::Storage, owner: None, retired: false }
    }

    pub(crate) fn raw(&self) -> &wgpu::Buffer {
        &self.raw
    }

    /// Keeps it out of the pool while it is mapped.
    pub(crate) fn retire(&mut self, retired: bool) {
        self.retired = retired;
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(shared) = &self.owner {
            shared.pool.give(self.usage, (!self.retired).then(|| self.raw.clone()), self.raw.size());
        }
    }
}

fn allocate(shared: &Shared, usage: Usage, size: u64) -> Result<wgpu::Buffer, Error> {
    shared.pool.reserve(size)?;
    let descriptor = wgpu::BufferDescriptor { label: None, size, usage: usage.flags(), mapped_at_creation: false };
    shared.scoped(size, || shared.device.create_buffer(&descriptor)).inspect_err(|_| shared.pool.release(size))
}

/// Sizes are rounded up to four in each doubling: at most a quarter is wasted, and buffers of similar size are
/// exchanged.
fn size_class(bytes: u64) -> u64 {
    let step = (bytes.max(256).ilog2() - 2).min(62);
    bytes.max(256).checked_next_multiple_of(1 << step).unwrap_or(bytes)
}

/// Buffers that nobody uses, by use and size.
#[derive(Debug)]
pub(crate) struct Pool {
    state: Mutex<State>,
    max_bytes: u64,
    max_free: u64,
}

#[derive(Debug, Default)]
struct State {
    free: BTreeMap<(Usage, u64), Vec<Free>>,
    free_bytes: u64,
    used_bytes: u64,
    /// How many buffers have come back.
    given: u64,
}

#[derive(Debug)]
struct Free {
    raw: wgpu::Buffer,
    since: u64,
}

impl State {
    /// What nobody has asked for longest makes room: a program that has come to other sizes reuses these too.
    fn forget_oldest(&mut self) {
        let kept = self.free.iter_mut().filter(|(_, free)| !free.is_empty());
        if let Some((&(_, size), free)) = kept.min_by_key(|(_, free)| free[0].since) {
            free.remove(0);
            self.free_bytes -= size;
        }
    }
}

impl Pool {
    pub(crate) fn new(max_bytes: Option<u64>, max_free: u64) -> Self {
        Self { state: Mutex::default(), max_bytes: max_bytes.unwrap_or(u64::MAX), max_free }
    }

    /// Bytes in use, and bytes kept.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let state = self.lock();
        (state.used_bytes, state.free_bytes)
    }

    /// That so many more bytes are allowed.
    pub(crate) fn check(&self, bytes: u64) -> Result<(), Error> {
        let all = self.lock().used_bytes.saturating_add(bytes);
        if all > self.max_bytes { Err(Error::OutOfMemory { bytes }) } else { Ok(()) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is complete when the lock is let go, even by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, usage: Usage, size: u64) -> Option<wgpu::Buffer> {
        let mut state = self.lock();
        let Free { raw, .. } = state.free.get_mut(&(usage, size))?.pop()?;
        state.free_bytes -= size;
        state.used_bytes += size;
        Some(raw)
    }

    fn give(&self, usage: Usage, raw: Option<wgpu::Buffer>, size: u64) {
        let mut state = self.lock();
        state.used_bytes -= size;
        if let Some(raw) = raw.filter(|_| size <= self.max_free) {
            while state.free_bytes + size > self.max_free {
                state.forget_oldest();
            }
            state.free_bytes += size;
            state.given += 1;
            let free = Free { raw, since: state.given };
            state.free.entry((usage, size)).or_default().push(free);
        }
    }

    fn reserve(&self, size: u64) -> Result<(), Error> {
        let mut state = self.lock();
        let used = state.used_bytes.checked_add(size);
        if used.and_then(|used| used.checked_add(state.free_bytes)).is_none_or(|all| all > self.max_bytes) {
            return Err(Error::OutOfMemory { bytes: size });
        }
        state.used_bytes += size;
        Ok(())
    }

    fn release(&self, size: u64) {
        self.lock().used_bytes -= size;
    }

    pub(crate) fn trim(&self) {
        let mut state = self.lock();
        state.free.clear();
        state.free_bytes = 0;
    }
}
