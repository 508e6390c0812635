//! Rows into a store on disk, and their scores out of it.

use std::hint::black_box;

use ascribe_core::MatRef;
use ascribe_solvers::parallel::Parallelism;
use ascribe_solvers::score::{Scorer, Selection};
use ascribe_solvers::store::{Format, Header, Store, Writer, WriterOptions};

use super::{Kernel, Measured, Settings, uniform};
use crate::Failure;
use crate::failure::fail;
use crate::stored::ScratchDir;

pub(super) const WRITE: Kernel = Kernel {
    name: "store_write",
    about: "f32 rows encoded with 32, 16, 8 or 1 bits and brought to disk, where TMPDIR is",
    sizes: &["rows", "cols", "bits"],
    defaults: &[&[20_000, 4096, 8], &[20_000, 4096, 16]],
    f32: write,
    f64: |_, _| fail("a store takes rows of f32"),
};

pub(super) const SCORE: Kernel = Kernel {
    name: "store_score",
    about: "the k best rows of such a store for each query, read through its memory map",
    sizes: &["rows", "cols", "bits", "queries", "k"],
    defaults: &[&[100_000, 4096, 8, 64, 100], &[100_000, 4096, 16, 64, 100]],
    f32: score,
    f64: |_, _| fail("a store gives scores of f32"),
};

fn format_of(bits: usize) -> Result<Format, Failure> {
    match bits {
        32 => Ok(Format::F32),
        16 => Ok(Format::F16),
        8 => Ok(Format::Int8 { block: 64 }),
        1 => Ok(Format::OneBit),
        _ => fail(format!("bits={bits}: expected 32, 16, 8 or 1")),
    }
}

fn score(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let &[rows, cols, bits, n_query, k] = sizes else { return fail("the table names five sizes") };
    let dir = ScratchDir::new();
    Store::create(&dir, &Header::new(cols, format_of(bits)?))?;
    let par = Parallelism::threads(settings.threads);
    let mut writer = Writer::open(&dir, "w", WriterOptions { parallelism: par, ..WriterOptions::default() })?;
    // The same rows again and again: what they hold does not matter here.
    let batch: Vec<f32> = uniform(settings.seed, 0, &[BATCH.min(rows), cols])?;
    for first in (0..rows).step_by(BATCH) {
        let ids: Vec<u64> = (first as u64..rows.min(first + BATCH) as u64).collect();
        writer.append(&ids, MatRef::new(&batch[..ids.len() * cols], ids.len(), cols)?)?;
    }
    writer.finish()?;
    let queries: Vec<f32> = uniform(settings.seed, 1, &[n_query, cols])?;
    let queries = MatRef::new(&queries, n_query, cols)?;
    let store = Store::open(&dir)?;
    let mut selected = Ok(());
    let seconds = settings.time(|| {
        let select = || -> Result<(), Failure> {
            let mut best = Selection::new(n_query, k, 0)?;
            Scorer { par, ..Scorer::default() }.select(&mut best, 0, black_box(&store), queries)?;
            drop(black_box(best.proponents.finish()));
            Ok(())
        };
        if let Err(error) = select() {
            selected = Err(error);
        }
    });
    selected?;
    let bytes = (rows * cols * bits).div_ceil(8) + size_of_val(queries.as_span());
    Ok(Measured { seconds, flops: 2 * (rows * cols * n_query) as u64, bytes: bytes as u64 })
}

/// Rows that are appended at a time.
const BATCH: usize = 1024;

fn write(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let &[rows, cols, bits] = sizes else { return fail("the table names three sizes") };
    let format = format_of(bits)?;
    let data: Vec<f32> = uniform(settings.seed, 0, &[rows, cols])?;
    let all = MatRef::new(&data, rows, cols)?;
    let ids: Vec<u64> = (0..rows as u64).collect();
    let parallelism = Parallelism::threads(settings.threads);
    let append = || -> Result<(), Failure> {
        let dir = ScratchDir::new();
        Store::create(&dir, &Header::new(cols, format))?;
        let mut writer = Writer::open(&dir, "w", WriterOptions { parallelism, ..WriterOptions::default() })?;
        for (ids, first) in ids.chunks(BATCH).zip((0..).step_by(BATCH)) {
            writer.append(ids, black_box(all.row_range(first, ids.len())?))?;
        }
        Ok(writer.finish()?)
    };
    let mut appended = Ok(());
    let seconds = settings.time(|| {
        if let Err(error) = append() {
            appended = Err(error);
        }
    });
    appended?;
    let written = (rows * cols * bits).div_ceil(8);
    Ok(Measured { seconds, flops: 0, bytes: (size_of_val(&*data) + written) as u64 })
}
