//! Appending rows: encoded, buffered, and put on disk a segment at a time.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ascribe_core::quantize::{half, int8_block, one_bit};
use ascribe_core::{Error as CoreError, MatRef};

use super::disk::{Lock, publish, try_lock};
use super::index::Run;
use super::segment::{cast, front};
use super::{Fault, Format, Header, Segment, Store, is_writer_name, names, segment_name};
use crate::Error;
use crate::error::{check_finite, check_shape};
use crate::parallel::{Parallelism, for_each};

/// Rows that one task encodes.
const TASK_ROWS: usize = 64;

/// How a [`Writer`] works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriterOptions {
    /// A segment is written as soon as the buffered rows have this many bytes; 0 writes one for each batch. What is
    /// buffered is lost when the process is killed. Each segment costs a file and a wait for the disk, and each open
    /// store a map of it: 64 MiB by default.
    pub segment_bytes: usize,
    /// Who encodes the rows.
    pub parallelism: Parallelism,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, parallelism: Parallelism::Serial }
    }
}

/// Appends rows to a store.
///
/// Several writers may work on a store at once, in threads, processes or on machines that share its disk, each under a
/// name of its own; the rows come in the order of the names, and of each in the order of its batches. A writer that is
/// killed, or dropped without [`Writer::finish`], loses what it had buffered and nothing else. To resume, open it
/// under the same name and append what it does not [contain](Writer::contains).
///
/// Memory: the encoded rows of a segment, ids of 8 bytes each for what the store had, about 16 for what is appended.
///
/// # Examples
/// ```
/// use ascribe_core::MatRef;
/// use ascribe_solvers::store::{Format, Header, Store, Writer, WriterOptions};
/// # let dir = std::env::temp_dir().join(format!("ascribe-writer-{}", std::process::id()));
/// Store::create(&dir, &Header::new(2, Format::F16))?; // what is there already stays
/// let mut writer = Writer::open(&dir, "worker-0", WriterOptions::default())?;
/// for id in writer.missing(0..3).collect::<Vec<_>>() {
///     let sketch = [id as f32, -1.0];
///     writer.append(&[id], MatRef::from_row(&sketch))?;
/// }
/// writer.finish()?;
/// assert_eq!(Store::open(&dir)?.len(), 3);
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "what is buffered is lost without `finish`"]
pub struct Writer {
    dir: PathBuf,
    name: String,
    header: Header,
    options: WriterOptions,
    /// The number of the next segment.
    next: u64,
    /// What the store had at the start, ascending.
    stored: Vec<u64>,
    appended: HashSet<u64>,
    // The rows that are not on disk yet.
    ids: Vec<u64>,
    codes: Vec<u8>,
    scales: Vec<f32>,
    /// Held for as long as the writer is there; the system takes it back from a killed process.
    _lock: Lock,
}

impl Writer {
    /// A writer of this name to the store `dir`; it continues after the segments that the name has already.
    ///
    /// # Errors
    /// [`Error::Store`] with [`Fault::Name`], with [`Fault::Busy`] while another writer has the name, or as
    /// [`Store::open`].
    pub fn open(dir: impl AsRef<Path>, name: &str, options: WriterOptions) -> Result<Self, Error> {
        let dir = dir.as_ref().to_owned();
        if !is_writer_name(name) {
            return Err(Fault::Name.at(&dir.join(name)));
        }
        // First, so that a wrong directory is not left with a lock in it.
        Store::open(&dir)?;
        let lock = try_lock(&dir.join(format!("{name}.lock")))?;
        // Again, for what another writer of this name wrote before it gave up the lock.
        let store = Store::open(&dir)?;
        let next = names(&dir)?
            .into_iter()
            .filter(|(writer, _)| writer == name)
            .map(|(_, number)| u64::from(number) + 1)
            .max();
        Ok(Self {
            name: name.to_owned(),
            header: store.header().clone(),
            options,
            next: next.unwrap_or(0),
            stored: store.index.by_id.iter().map(|(id, _)| *id).collect(),
            appended: HashSet::new(),
            ids: Vec::new(),
            codes: Vec::new(),
            scales: Vec::new(),
            _lock: lock,
            dir,
        })
    }

    /// The header of the store.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Whether the store had this example when the writer was opened, or it was appended since.
    pub fn contains(&self, id: u64) -> bool {
        self.stored.binary_search(&id).is_ok() || self.appended.contains(&id)
    }

    /// The examples of a range that are still to be done.
    pub fn missing(&self, ids: Range<u64>) -> impl Iterator<Item = u64> {
        ids.filter(|id| !self.contains(*id))
    }

    /// Encodes a batch of rows `[ids.len(), dim]` and takes it up; it goes to disk with its segment.
    ///
    /// A batch is never cut in two. The codes are those of [`ascribe_core::quantize`], f16 and bf16 without
    /// saturation. Cost: that of the encoding and one write of the bytes.
    ///
    /// # Errors
    /// [`CoreError::Shape`] for rows of another length or number; [`Error::Store`] with [`Fault::Duplicate`] for an
    /// example that is [there](Self::contains) or twice in the batch, with [`Fault::NonFinite`] for a number that is
    /// not finite, or not in the format, and with [`Fault::Io`] when the segment cannot be written. Nothing of the batch
    /// is taken up then; what was buffered before still is, and the batch may be tried again.
    pub fn append(&mut self, ids: &[u64], rows: MatRef<'_, f32>) -> Result<(), Error> {
        check_shape("ids", rows.rows(), ids.len())?;
        check_shape("row elements", self.header.dim, rows.cols())?;
        let before = self.ids.len();
        let taken = self.take_ids(ids).and_then(|()| self.encode(before, rows)).and_then(|()| self.flush_full());
        taken.inspect_err(|_| self.forget(before))
    }

    /// Takes up the rows of another store with the same header, in its order and without encoding them anew; examples
    /// that are there already are left out. Returns how many were taken.
    ///
    /// This is how the stores of several machines become one. The other store is [verified](Store::verify) first.
    ///
    /// # Errors
    /// [`Error::Store`] with [`Fault::Differs`] for another header, or as [`Store::verify`] and [`Writer::flush`]; rows
    /// that were taken before a write failed stay taken, so that the call may be repeated.
    pub fn absorb(&mut self, other: &Store) -> Result<usize, Error> {
        self.header.check_same(other.header()).map_err(|fault| fault.at(other.dir()))?;
        other.verify(self.options.parallelism)?;
        let mut taken = 0;
        for Run { segment, start, rows, .. } in &other.index.runs {
            let Segment { layout, map, path } = &other.segments[*segment];
            let ids = layout.ids(map).map_err(|fault| fault.at(path))?;
            for row in *start..start + rows {
                if self.contains(ids[row]) {
                    continue;
                }
                self.take_ids(&ids[row..=row])?;
                self.codes.extend_from_slice(&map[layout.row_bytes(row, 1)]);
                let scales = cast(&map[layout.scale_bytes(row, 1)]).map_err(|fault| fault.at(path))?;
                self.scales.extend_from_slice(scales);
                taken += 1;
                self.flush_full()?;
            }
        }
        Ok(taken)
    }

    /// Writes what is buffered as a segment and waits until it is on disk; does nothing when nothing is.
    ///
    /// # Errors
    /// [`Error::Store`] with [`Fault::Io`], on a full disk for instance; the rows then stay buffered, the store is as it
    /// was, and the call may be repeated.
    pub fn flush(&mut self) -> Result<(), Error> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let front = front(&self.header, &self.ids, &self.scales, &self.codes);
        let used_up = |_| Fault::format("all numbers of segments are used up; take another name").at(&self.dir);
        let number = u32::try_from(self.next).map_err(used_up)?;
        let target = self.dir.join(segment_name(&self.name, number));
        let draft = self.dir.join(format!("{}.tmp", self.name));
        publish(&target, &draft, &[&front, bytemuck::cast_slice(&self.scales), &self.codes])?;
        self.next += 1;
        self.ids.clear();
        self.codes.clear();
        self.scales.clear();
        Ok(())
    }

    /// Writes what is buffered and ends the writer.
    ///
    /// # Errors
    /// As [`Writer::flush`]; the buffered rows are lost then, so a caller who wants to try again flushes first.
    pub fn finish(mut self) -> Result<(), Error> {
        self.flush()
    }

    fn flush_full(&mut self) -> Result<(), Error> {
        let bytes = size_of_val(&*self.ids) + self.codes.len() + size_of_val(&*self.scales);
        if bytes >= self.options.segment_bytes { self.flush() } else { Ok(()) }
    }

    /// Notes the ids of a batch. Those before a duplicate are noted all the same: `forget` takes them back.
    fn take_ids(&mut self, ids: &[u64]) -> Result<(), Error> {
        for &id in ids {
            if self.stored.binary_search(&id).is_ok() || !self.appended.insert(id) {
                return Err(Fault::Duplicate { id }.at(&self.dir));
            }
            self.ids.push(id);
        }
        Ok(())
    }

    /// Back to the state with `before` buffered rows.
    fn forget(&mut self, before: usize) {
        for id in self.ids.drain(before..) {
            self.appended.remove(&id);
        }
        self.codes.truncate(before * self.header.row_bytes());
        self.scales.truncate(before * self.header.row_scales());
    }

    /// Encodes the rows whose ids are `self.ids[before..]` behind the `before` buffered ones.
    fn encode(&mut self, before: usize, rows: MatRef<'_, f32>) -> Result<(), Error> {
        let (format, row_bytes, row_scales) = (self.header.format, self.header.row_bytes(), self.header.row_scales());
        // No overflow: a row takes no more bytes than the caller's, apart from a few for scales.
        grow(&mut self.codes, rows.rows() * row_bytes)?;
        grow(&mut self.scales, rows.rows() * row_scales)?;
        let mut codes = &mut self.codes[before * row_bytes..];
        let mut scales = &mut self.scales[before * row_scales..];
        let mut tasks = Vec::with_capacity(rows.rows().div_ceil(TASK_ROWS));
        for first in (0..rows.rows()).step_by(TASK_ROWS) {
            let len = TASK_ROWS.min(rows.rows() - first);
            let (own_codes, other_codes) = codes.split_at_mut(len * row_bytes);
            let (own_scales, other_scales) = scales.split_at_mut(len * row_scales);
            (codes, scales) = (other_codes, other_scales);
            tasks.push((first..first + len, own_codes, own_scales));
        }
        let (ids, dir) = (&self.ids[before..], &self.dir);
        for_each(self.options.parallelism, tasks, |(range, codes, scales)| {
            let mut halves = vec![0; if matches!(format, Format::F16 | Format::Bf16) { rows.cols() } else { 0 }];
            for (i, row) in range.enumerate() {
                let codes = &mut codes[i * row_bytes..(i + 1) * row_bytes];
                let scales = &mut scales[i * row_scales..(i + 1) * row_scales];
                encode_row(format, codes, scales, &mut halves, rows.row(row)).map_err(|error| match error {
                    CoreError::NonFinite { index, .. } => Fault::NonFinite { id: ids[row], column: index }.at(dir),
                    other => Error::Core(other),
                })?;
            }
            Ok(())
        })
    }
}

fn encode_row(
    format: Format,
    codes: &mut [u8],
    scales: &mut [f32],
    halves: &mut [u16],
    row: &[f32],
) -> Result<(), CoreError> {
    match format {
        Format::F32 => {
            check_finite("row", row)?;
            codes.copy_from_slice(bytemuck::cast_slice(row));
        }
        Format::F16 | Format::Bf16 => {
            let exponent = if format == Format::F16 {
                half::encode_f16(halves, row, false)?;
                0x7C00
            } else {
                half::encode_bf16(halves, row, false)?;
                0x7F80
            };
            // What was not finite, or is not in the format, has all bits of the exponent.
            if halves.iter().fold(0, |largest, half| largest.max(half & 0x7FFF)) >= exponent {
                let index = halves.iter().take_while(|half| *half & exponent != exponent).count();
                return Err(CoreError::NonFinite { what: "row", index });
            }
            codes.copy_from_slice(bytemuck::cast_slice(halves));
        }
        Format::Int8 { block } => int8_block::quantize(bytemuck::cast_slice_mut(codes), scales, row, block)?,
        Format::OneBit => scales[0] = one_bit::quantize(codes, row)?,
    }
    Ok(())
}

/// `more` zeros at the end, or an error where there is no memory for them.
fn grow<T: Copy + Default>(data: &mut Vec<T>, more: usize) -> Result<(), CoreError> {
    data.try_reserve(more).map_err(|_| CoreError::Overflow { what: "buffer of rows" })?;
    data.resize(data.len() + more, T::default());
    Ok(())
}
