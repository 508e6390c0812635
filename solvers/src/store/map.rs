//! Files mapped for reading: the one place of this crate that needs `unsafe`.
//!
//! A slice of a map is what the file holds *now*. Another process that writes into the file changes numbers under a
//! shared reference, and one that shortens it makes the system end this process (SIGBUS) where a read would be an
//! error. No interface can rule that out, so the store does what it can. It never opens a finished file for writing,
//! marks it read-only before it gets its name, and never renames another onto it; [`super::Store`] documents the rest
//! as the contract of its caller. Positioned reads would need no contract, but a copy of every byte, and each reader
//! a buffer of its own where maps of one file share the system's cache.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::Mmap;

/// The bytes of a file.
#[derive(Debug)]
pub(super) struct Map(Mmap);

impl Map {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: nobody writes to, or shortens, a file of a store while it is mapped: the contract above. The bytes
        // are only ever seen as integers and floats, for which every pattern of bits is a value.
        Ok(Self(unsafe { Mmap::map(&file) }?))
    }

    /// Asks the system to read these bytes ahead; one that cannot leaves them to be read when they are used.
    pub(super) fn prefetch(&self, bytes: Range<usize>) {
        #[cfg(unix)]
        let _ = self.0.advise_range(memmap2::Advice::WillNeed, bytes.start, bytes.len());
        #[cfg(not(unix))]
        let _ = bytes;
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
