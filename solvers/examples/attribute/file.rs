//! Files that are whole or not there.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// Whether `path` could be written, found out before the work whose result goes there.
pub(crate) fn check_writable(path: &Path) -> Result<(), String> {
    let partial = partial(path);
    fs::write(&partial, b"").and_then(|()| fs::remove_file(&partial)).map_err(|why| cannot_write(path, &why))
}

/// Writes beside `path` and renames, so that a run cut short leaves no half file under that name.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let partial = partial(path);
    fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, path)).map_err(|why| cannot_write(path, &why))
}

fn partial(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".partial");
    name.into()
}

fn cannot_write(path: &Path, why: &std::io::Error) -> String {
    format!("cannot write {}: {why}; choose a folder that exists and may be written to", path.display())
}
