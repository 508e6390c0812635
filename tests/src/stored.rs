//! Stores for tests and measurements: directories that vanish, and rows that their ids tell.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, process};

use ascribe_core::quantize::{half, int8_block, one_bit};
use ascribe_core::random::Stream;
use ascribe_core::{MatMut, MatRef};
use ascribe_solvers::Error;
use ascribe_solvers::store::{Format, Header, Store, Writer, WriterOptions};

use crate::oracle::uniform;

/// Every storage format.
pub const FORMATS: [Format; 6] =
    [Format::F32, Format::F16, Format::Bf16, Format::Int8 { block: 64 }, Format::Int8 { block: 5 }, Format::OneBit];

/// A directory that is not there yet, and is removed in the end.
#[derive(Debug)]
pub struct ScratchDir(PathBuf);

impl ScratchDir {
    /// A name that nobody else has.
    pub fn new() -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        Self(env::temp_dir().join(format!("ascribe-tests-{}-{number}", process::id())))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Default for ScratchDir {
    fn default() -> Self {
        Self::new()
    }
}

impl AsRef<Path> for ScratchDir {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        // It may never have been made.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The rows `[ids.len(), dim]` of these examples.
pub fn rows_of(ids: &[u64], dim: usize) -> Vec<f32> {
    let stream = Stream::new(0, "rows of a store");
    ids.iter().flat_map(|&id| uniform::<f32>(stream.child(id), dim)).collect()
}

/// What a row reads as once it was stored: encoded and decoded by the core's functions, a row at a time.
///
/// # Panics
/// When the row cannot be stored.
pub fn through(format: Format, row: &[f32]) -> Vec<f32> {
    let mut back = vec![0.0; row.len()];
    match format {
        Format::F32 => back.copy_from_slice(row),
        Format::F16 => row.iter().zip(&mut back).for_each(|(&x, y)| *y = half::f16_to_f32(half::f16_from_f32(x))),
        Format::Bf16 => row.iter().zip(&mut back).for_each(|(&x, y)| *y = half::bf16_to_f32(half::bf16_from_f32(x))),
        Format::Int8 { block } => {
            let (mut codes, mut scales) = (vec![0; row.len()], vec![0.0; int8_block::scales_len(row.len(), block)]);
            int8_block::quantize(&mut codes, &mut scales, row, block).expect("a finite row");
            int8_block::dequantize(&mut back, &codes, &scales, block).expect("codes of the row");
        }
        Format::OneBit => {
            let mut bits = vec![0; one_bit::packed_len(row.len())];
            let scale = one_bit::quantize(&mut bits, row).expect("a finite row");
            one_bit::dequantize(&mut back, &bits, scale).expect("bits of the row");
        }
    }
    back
}

/// The batches that [`write_batches`] writes.
pub const BATCHES: [&[u64]; 3] = [&[0, 1, 2, 3, 4, 5], &[6], &[7, 8, 9, 10]];

/// The rows of [`write_batches`].
pub const FAULT_FORMAT: Format = Format::Int8 { block: 16 };

/// Their length.
pub const FAULT_DIM: usize = 300;

/// A run that the tests of faults interrupt: makes the store or goes on with it, and appends what is missing of each
/// batch as a segment.
///
/// # Errors
/// Those of the store.
pub fn write_batches(dir: &Path, name: &str) -> Result<(), Error> {
    Store::create(dir, &Header::new(FAULT_DIM, FAULT_FORMAT))?;
    let mut writer = Writer::open(dir, name, WriterOptions { segment_bytes: 0, ..WriterOptions::default() })?;
    for batch in BATCHES {
        let ids: Vec<u64> = batch.iter().copied().filter(|&id| !writer.contains(id)).collect();
        writer.append(&ids, MatRef::new(&rows_of(&ids, FAULT_DIM), ids.len(), FAULT_DIM)?)?;
    }
    writer.finish()
}

/// The rows of a store with their ids, in order, as bits: equality of all there is.
///
/// # Panics
/// When a block cannot be read.
pub fn contents(store: &Store) -> Vec<(u64, Vec<u32>)> {
    let dim = store.header().dim;
    let mut all = Vec::new();
    for block in store.blocks() {
        let block = block.expect("a block of an open store");
        let mut rows = vec![0.0; block.ids.len() * dim];
        block.rows.decode(MatMut::new(&mut rows, block.ids.len(), dim).expect("its shape")).expect("its shape");
        let rows = MatRef::new(&rows, block.ids.len(), dim).expect("its shape");
        all.extend(block.ids.iter().copied().zip(rows.row_iter().map(bits)));
    }
    all
}

/// What [`contents`] gives for a store of these examples.
pub fn expected(ids: &[u64], format: Format, dim: usize) -> Vec<(u64, Vec<u32>)> {
    ids.iter().map(|&id| (id, bits(&through(format, &rows_of(&[id], dim))))).collect()
}

fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|x| x.to_bits()).collect()
}
