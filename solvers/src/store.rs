//! Rows of gradients on disk: larger than memory, written by many, read by memory map.
//!
//! A store is a directory. [`Writer`]s append rows, sketched gradients mostly, each the row of an example with an id of
//! 64 bits; a [`Store`] is what was there when it was opened, and gives its rows to a scorer as a
//! [`RowSource`] without copying them.
//!
//! ```text
//! gradients/
//!     store.safetensors                  the header, a segment without rows
//!     worker-0.000000.safetensors        the first segment of the writer "worker-0"
//!     worker-0.000001.safetensors
//!     worker-1.000000.safetensors
//!     worker-1.tmp                       a segment that is being written, or whose writer was killed
//!     store.lock worker-0.lock ..        of no size; the system frees a killed writer's lock
//! ```
//!
//! A segment is written and brought to disk as a draft and gets its name when it is whole, so whoever sees it sees all
//! of it: a killed process or a failing disk costs the rows that were not yet in a segment, and never half a row.
//! Segments are never changed. The rows of a store come in the order of the writers' names, then of their numbers: the
//! same for everyone who sees the same segments. To repair a damaged store, delete the damaged segment and append its
//! examples again. Drafts and locks of writers that are gone may be deleted.
//!
//! # Layout
//! A segment is a [safetensors](https://huggingface.co/docs/safetensors) file, little-endian, with `n` rows of `d`
//! numbers:
//!
//! | tensor | type and shape | |
//! |---|---|---|
//! | `checksums` | u32 `[4]` | CRC-32 (that of zlib) of `ids`, `scales` and `rows`; then of all bytes of the file before itself |
//! | `ids` | u64 `[n]` | the examples |
//! | `scales` | f32 `[n, ceil(d / block)]` for `int8_block`, `[n, 1]` for `one_bit` | absent for the others |
//! | `rows` | `[n, d]` of f32, f16, bf16, i8; u8 `[n, ceil(d / 8)]` for `one_bit` | starts at a multiple of 64 bytes if `scales` has an even number of elements |
//!
//! Its metadata are the strings `format` = `ascribe`, `kind` = `rows`, `version` = `1`, `dim` = `d`, `encoding` (`f32`,
//! `f16`, `bf16`, `int8_block`, `one_bit`), `block` (0 but for `int8_block`), `layers` (JSON, pairs of a name and a number of
//! columns), `sketch` (a JSON object of strings) and `fingerprint`. All segments of a store have those of
//! `store.safetensors`. The codes are those of [`ascribe_core::quantize`].
//!
//! Python reads a segment by
//!
//! ```python
//! import json, numpy as np
//! def tensor(path, name):  # bfloat16 as its bits
//!     header = json.loads((raw := np.memmap(path, mode="r"))[8:(end := 8 + int(raw[:8].view("<u8")[0]))].tobytes())
//!     (first, last), shape = header[name]["data_offsets"], header[name]["shape"]
//!     types = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1", "U8": "u1", "U64": "<u8", "U32": "<u4"}
//!     return raw[end + first:end + last].view(types[header[name]["dtype"]]).reshape(shape)
//! ```
//!
//! and `zlib.crc32(tensor(path, "rows"))` is the third of its `checksums`.
//!
//! # Errors
//! All of this module are [`Error::Store`] with the path and a [`Fault`] that says what is wrong, but for shapes and
//! memory, which are those of [`ascribe_core`].

mod disk;
mod fault;
mod header;
mod index;
mod map;
mod segment;
mod writer;

use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::parallel::{Parallelism, for_each};
use crate::score::{RowSource, StoredRows};
use disk::{publish, sync_parent, wait_lock};
pub use fault::Fault;
use fault::io;
pub use header::{Format, Header};
use index::{Index, Run};
use map::Map;
pub use segment::Block;
use segment::Layout;
pub use writer::{Writer, WriterOptions};

#[cfg(target_endian = "big")]
compile_error!("the files of a store are little-endian and read as they are");

/// The rows of a store directory, as they were when it was opened.
///
/// A row is known by its position `0..len` and by the id of its example. An id that several segments have, because two
/// writers did the same examples, counts once: the row that comes first is the example's, and the others are
/// [hidden](Store::hidden).
///
/// Memory: 16 bytes a row; the rows themselves are mapped, so the system reads what is used and drops what it needs the
/// memory for. Opening checks the header and the ids of every segment and the sizes of all else, so it reads 8 bytes
/// a row; [`Store::verify`] reads everything.
///
/// While a store is open its segments must be neither shortened nor written to, as nothing in this module does: what is
/// mapped changes with the file, and the system ends a process that reads behind its end. Deleting a segment is safe.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef};
/// use ascribe_solvers::store::{Format, Header, Store, Writer, WriterOptions};
/// # let dir = std::env::temp_dir().join(format!("ascribe-store-{}", std::process::id()));
/// Store::create(&dir, &Header::new(3, Format::Int8 { block: 64 }))?;
/// let mut writer = Writer::open(&dir, "worker-0", WriterOptions::default())?;
/// writer.append(&[17, 4], MatRef::new(&[1.27, 0.0, -0.5, 0.0, 2.54, 0.0], 2, 3)?)?;
/// writer.finish()?;
///
/// let store = Store::open(&dir)?;
/// assert_eq!((store.len(), store.position(4), store.contains(5)), (2, Some(1), false));
/// let mut rows = [0.0; 6];
/// store.blocks().next().unwrap()?.rows.decode(MatMut::new(&mut rows, 2, 3)?)?;
/// assert_eq!(rows, [1.27, 0.0, -0.5, 0.0, 2.54, 0.0]);
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    header: Header,
    segments: Vec<Segment>,
    index: Index,
}

/// A mapped file.
#[derive(Debug)]
struct Segment {
    path: PathBuf,
    map: Map,
    layout: Layout,
}

impl Store {
    /// Makes the directory and the header of a store, or opens the store of the same header that is there.
    ///
    /// # Errors
    /// [`Fault::Header`] for a header that contradicts itself, [`Fault::Differs`] when the store that is there has another
    /// one, [`Fault::Io`], or as [`Store::open`].
    pub fn create(dir: impl AsRef<Path>, header: &Header) -> Result<Self, Error> {
        let dir = dir.as_ref();
        header.check().map_err(|fault| fault.at(dir))?;
        if !dir.is_dir() {
            io(fs::create_dir_all(dir), "create the directory", dir)?;
            sync_parent(dir)?;
        }
        let path = header_path(dir);
        let _lock = wait_lock(&dir.join("store.lock"))?;
        if !io(path.try_exists(), "look for the header", &path)? {
            publish(&path, &dir.join("store.tmp"), &[&segment::front(header, &[], &[], &[])])?;
        }
        let store = Self::open(dir)?;
        store.header.check_same(header).map_err(|fault| fault.at(&path))?;
        Ok(store)
    }

    /// Opens a store and maps its segments.
    ///
    /// # Errors
    /// [`Fault::Io`] without a store there or for a file that cannot be read; [`Fault::Format`], [`Fault::Damaged`] or
    /// [`Fault::Differs`] for the first segment that is cut off, of another kind, damaged in what is read here,
    /// or of another header than the store, and for a `.safetensors` file whose name is not that of a segment.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, Error> {
        let dir = dir.as_ref().to_owned();
        let Segment { path, layout: Layout { header, len, .. }, .. } = Segment::open(header_path(&dir))?;
        if len != 0 {
            return Err(Fault::format("the header of a store has no rows").at(&path));
        }
        let segments = names(&dir)?.into_iter().map(|(writer, number)| {
            let segment = Segment::open(dir.join(segment_name(&writer, number)))?;
            header.check_same(&segment.layout.header).map_err(|fault| fault.at(&segment.path))?;
            Ok(segment)
        });
        let segments = segments.collect::<Result<Vec<_>, Error>>()?;
        let ids = segments.iter().map(Segment::ids).collect::<Result<Vec<_>, Error>>()?;
        let index = Index::new(&ids);
        Ok(Self { dir, header, segments, index })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the rows have in common.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The number of rows, hidden ones not counted.
    pub fn len(&self) -> usize {
        self.index.by_id.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of rows that do not count because an earlier one has the same id.
    pub fn hidden(&self) -> usize {
        self.index.hidden
    }

    /// The position of an example's row.
    pub fn position(&self, id: u64) -> Option<usize> {
        let at = self.index.by_id.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(self.index.by_id[at].1)
    }

    /// Whether the store has a row of this example.
    pub fn contains(&self, id: u64) -> bool {
        self.position(id).is_some()
    }

    /// The example of the row at `position`, if there is one.
    pub fn id(&self, position: usize) -> Option<u64> {
        let run = self.run(position)?;
        let ids = self.segments[run.segment].ids().ok()?;
        ids.get(run.start + position - run.first).copied()
    }

    /// All rows in order, in blocks as large as the files allow.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = Result<Block<'_>, Error>> {
        self.index.runs.iter().map(|run| self.segments[run.segment].block(run.start, run.rows))
    }

    /// Reads all bytes and compares them with their checksums.
    ///
    /// # Errors
    /// [`Fault::Damaged`] with the first segment whose ids, scales or rows are not those that were written.
    pub fn verify(&self, par: Parallelism) -> Result<(), Error> {
        for_each(par, self.segments.iter().collect(), |segment| {
            segment.layout.verify(&segment.map).map_err(|fault| fault.at(&segment.path))
        })
    }

    /// The run with this position.
    fn run(&self, position: usize) -> Option<&Run> {
        if position >= self.len() {
            return None;
        }
        let after = self.index.runs.partition_point(|run| run.first <= position);
        self.index.runs[..after].last()
    }
}

impl RowSource for Store {
    fn rows(&self) -> usize {
        self.len()
    }

    fn cols(&self) -> usize {
        self.header.dim
    }

    fn block(&self, first: usize, rows: usize) -> Result<StoredRows<'_>, Error> {
        let outside = ascribe_core::Error::Index { what: "row of the store", index: first, len: self.len() };
        let run = self.run(first).ok_or(outside)?;
        let skipped = first - run.first;
        Ok(self.segments[run.segment].block(run.start + skipped, rows.min(run.rows - skipped))?.rows)
    }

    fn prefetch(&self, first: usize, rows: usize) {
        let end = first.saturating_add(rows);
        let from = self.index.runs.partition_point(|run| run.first + run.rows <= first);
        for run in self.index.runs[from..].iter().take_while(|run| run.first < end) {
            let (skipped, stop) = (first.saturating_sub(run.first), run.rows.min(end - run.first));
            let Segment { layout, map, .. } = &self.segments[run.segment];
            map.prefetch(layout.row_bytes(run.start + skipped, stop - skipped));
            map.prefetch(layout.scale_bytes(run.start + skipped, stop - skipped));
        }
    }
}

impl Segment {
    fn open(path: PathBuf) -> Result<Self, Error> {
        let map = io(Map::open(&path), "open and map", &path)?;
        let layout = Layout::parse(&map).map_err(|fault| fault.at(&path))?;
        Ok(Self { path, map, layout })
    }

    fn ids(&self) -> Result<&[u64], Error> {
        self.layout.ids(&self.map).map_err(|fault| fault.at(&self.path))
    }

    fn block(&self, first: usize, rows: usize) -> Result<Block<'_>, Error> {
        self.layout.block(&self.map, first, rows).map_err(|fault| fault.at(&self.path))
    }
}

/// A segment that lies in memory, an object from a bucket for instance: its header and its rows, with all checksums
/// compared. A file of a [`Store`] needs no copy in memory; this is for everything else.
///
/// # Errors
/// [`Fault::Format`] for anything but a whole segment, or for bytes that do not start at a multiple of 8;
/// [`Fault::Damaged`] for one with other bytes than those that were written. The path of the error is empty.
pub fn from_bytes(bytes: &[u8]) -> Result<(Header, Block<'_>), Error> {
    let read = || {
        let layout = Layout::parse(bytes)?;
        layout.verify(bytes)?;
        let block = layout.block(bytes, 0, layout.len)?;
        Ok((layout.header, block))
    };
    read().map_err(|fault: Fault| fault.at(Path::new("")))
}

const SUFFIX: &str = ".safetensors";
/// The stem of the header's file, which no writer may have as its name.
const HEADER: &str = "store";

fn header_path(dir: &Path) -> PathBuf {
    dir.join(format!("{HEADER}{SUFFIX}"))
}

/// The file of a writer's segment.
fn segment_name(writer: &str, number: u32) -> String {
    format!("{writer}.{number:06}{SUFFIX}")
}

fn is_writer_name(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (1..=64).contains(&name.len()) && name.bytes().all(known) && name != HEADER
}

/// The writers and numbers of a directory's segments, in order.
fn names(dir: &Path) -> Result<Vec<(String, u32)>, Error> {
    let mut names = Vec::new();
    for entry in io(fs::read_dir(dir), "list", dir)? {
        let file = io(entry, "list", dir)?.file_name();
        let Some(stem) = file.to_str().and_then(|name| name.strip_suffix(SUFFIX)) else { continue };
        if stem == HEADER {
            continue;
        }
        let name = stem.split_once('.').and_then(|(writer, number)| Some((writer, number.parse().ok()?)));
        match name {
            // Only the one spelling of a number, so that no two files are the same segment.
            Some((writer, number)) if is_writer_name(writer) && *segment_name(writer, number) == file => {
                names.push((writer.to_owned(), number));
            }
            _ => return Err(Fault::format("its name is not that of a segment").at(&dir.join(&file))),
        }
    }
    names.sort_unstable();
    Ok(names)
}
