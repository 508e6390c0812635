//! Files that appear whole or not at all, and locks that a killed process cannot leave behind.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::Path;

use super::fault::{Fault, io};
use crate::Error;

/// Makes a file of these parts under the name `target`, by way of the name `draft`.
///
/// The bytes are on disk before the name is, so whoever finds the name finds all of them, after a power failure too.
/// After an error there is no `target`. The caller holds the lock that covers both names.
pub(super) fn publish(target: &Path, draft: &Path, parts: &[&[u8]]) -> Result<(), Error> {
    let published = write(draft, parts)
        .and_then(|()| io(fs::rename(draft, target), "give a finished file its name", target))
        .and_then(|()| sync_parent(target).inspect_err(|_| drop(fs::remove_file(target))));
    // What is in the way of a retry, or takes the space that it needs; if it stays, a later writer removes it.
    published.inspect_err(|_| drop(fs::remove_file(draft)))
}

fn write(draft: &Path, parts: &[&[u8]]) -> Result<(), Error> {
    // A killed writer's draft may be read-only already.
    match fs::remove_file(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => io(Err(error), "remove an unfinished file", draft)?,
        _ => (),
    }
    let mut file = io(File::create_new(draft), "create a file", draft)?;
    for part in parts {
        io(file.write_all(part), "write", draft)?;
    }
    // A finished file is never written again: whoever tries by mistake is stopped, for it may be mapped.
    let mut permissions = io(file.metadata(), "read the permissions", draft)?.permissions();
    permissions.set_readonly(true);
    io(file.set_permissions(permissions), "make read-only", draft)?;
    io(file.sync_all(), "bring to disk", draft)
}

/// Brings the names in a file's directory to disk, where the system has a way to do it.
pub(super) fn sync_parent(path: &Path) -> Result<(), Error> {
    #[cfg(unix)]
    if let Some(parent) = path.parent() {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        io(File::open(parent).and_then(|dir| dir.sync_all()), "bring the directory to disk", parent)?;
    }
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

/// A lock that ends with this value, or with the process.
///
/// Closing the file would not be enough: a process that another thread is just starting holds a copy of every open
/// file for a moment, and a lock stays until all of them are closed.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // There is nobody to tell; the file is closed next.
        let _ = self.0.unlock();
    }
}

/// The lock file `path`, opened and made if need be.
fn lock_file(path: &Path) -> Result<File, Error> {
    let file = File::options().create(true).truncate(false).write(true).open(path);
    io(file, "create a lock", path)
}

/// Takes a lock; [`Fault::Busy`] when another has it.
pub(super) fn try_lock(path: &Path) -> Result<Lock, Error> {
    let file = lock_file(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(Fault::Busy.at(path)),
        Err(TryLockError::Error(error)) => io(Err(error), "lock", path),
    }
}

/// The same lock, but waits for whoever has it.
pub(super) fn wait_lock(path: &Path) -> Result<Lock, Error> {
    let file = lock_file(path)?;
    io(file.lock(), "lock", path)?;
    Ok(Lock(file))
}
