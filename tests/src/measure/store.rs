//! Rows into a store on disk.

use std::hint::black_box;

use ascribe_core::MatRef;
use ascribe_solvers::parallel::Parallelism;
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

/// Rows that are appended at a time.
const BATCH: usize = 1024;

fn write(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let &[rows, cols, bits] = sizes else { return fail("the table names three sizes") };
    let format = match bits {
        32 => Format::F32,
        16 => Format::F16,
        8 => Format::Int8 { block: 64 },
        1 => Format::OneBit,
        _ => return fail(format!("bits={bits}: expected 32, 16, 8 or 1")),
    };
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
