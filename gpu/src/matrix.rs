//! Matrices in the memory of the device.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use ascribe_core::MatRef;

use crate::buffer::{Buffer, Usage};
use crate::counters::Counters;
use crate::device::Gpu;
use crate::error::{Error, check_limit, check_shape};

/// What a device matrix can hold. Shaders see words of 32 bits; smaller elements are packed, the first one lowest, and
/// unpacked by functions that every device has: `u16` are the bits of f16 or bf16, which need no feature for 16-bit
/// arithmetic, since they are only stored.
pub trait Element: sealed::Sealed {
    /// The number of elements in a word.
    const PER_WORD: usize;
}

mod sealed {
    pub trait Sealed: bytemuck::Pod + Send + Sync + std::fmt::Debug {}
}

macro_rules! element {
    ($($element:ty),*) => { $(
        impl sealed::Sealed for $element {}
        impl Element for $element {
            const PER_WORD: usize = 4 / size_of::<$element>();
        }
    )* };
}

element!(f32, u32, i8, u16);

/// A row-major matrix on the device. Rows begin at whole words and follow each other without gaps.
///
/// What does not fit into one binding of the device ([`max_binding_bytes`](crate::Capabilities::max_binding_bytes)) is
/// cut between rows into pieces of equally many; kernels see to it. Without elements it takes no memory.
pub struct Matrix<T> {
    gpu: Gpu,
    rows: usize,
    cols: usize,
    chunk_rows: usize,
    chunks: Vec<Arc<Buffer>>,
    element: PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for Matrix<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, cols, chunk_rows, .. } = self;
        f.debug_struct("Matrix").field("rows", rows).field("cols", cols).field("chunk_rows", chunk_rows).finish()
    }
}

impl Gpu {
    /// Copies a matrix to the device. Cost: its bytes, once through a staging buffer; the copy is under way when this
    /// returns, beside what the device is computing.
    ///
    /// # Errors
    /// [`Error::Limit`] when a row is larger than a binding of the device, [`Error::OutOfMemory`],
    /// [`Error::DeviceLost`].
    ///
    /// # Examples
    /// ```
    /// # use ascribe_gpu::{Error, Gpu};
    /// # let gpu = match Gpu::new() { Err(Error::NoAdapter { why }) => return Ok(println!("skipped: {why}")), gpu => gpu? };
    /// let x = gpu.upload(ascribe_core::MatRef::new(&[1_i8, 2, 3, 4, 5, 6], 2, 3)?)?;
    /// assert_eq!((x.rows(), x.cols()), (2, 3));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn upload<T: Element>(&self, x: MatRef<'_, T>) -> Result<Matrix<T>, Error> {
        let out = Matrix::new(self, x.rows(), x.cols())?;
        let mut pieces = out.chunks.iter().enumerate();
        pieces.try_for_each(|(i, chunk)| {
            let rows = x.row_range(i * out.chunk_rows, out.rows_of(i))?;
            write(self, chunk, rows, out.row_words() * 4)
        })?;
        self.shared.totals.add(Counters { bytes_up: out.bytes(), ..Counters::default() });
        Ok(out)
    }
}

/// Bytes that are sent at once. The host holds a copy of what was uploaded since the last submission, and room for a
/// copy that the system does not have costs the whole device.
const SEND: usize = 32 << 20;

fn write<T: Element>(gpu: &Gpu, to: &Buffer, rows: MatRef<'_, T>, row_bytes: usize) -> Result<(), Error> {
    let (shared, raw) = (&gpu.shared, to.raw());
    if let Some(all) = rows.as_slice().filter(|_| rows.cols().is_multiple_of(T::PER_WORD)) {
        let mut parts = bytemuck::cast_slice::<T, u8>(all).chunks(SEND).enumerate();
        return parts.try_for_each(|(i, part)| {
            shared.scoped(part.len() as u64, || shared.queue.write_buffer(raw, (i * SEND) as u64, part))?;
            sent(gpu, part.len())
        });
    }
    let at_once = (SEND / row_bytes).max(1);
    (0..rows.rows()).step_by(at_once).try_for_each(|first| {
        let part = rows.row_range(first, at_once.min(rows.rows() - first))?;
        let (start, bytes) = ((first * row_bytes) as u64, part.rows() * row_bytes);
        shared.scoped(bytes as u64, || {
            let size = wgpu::BufferSize::new(bytes as u64);
            let view = size.and_then(|size| shared.queue.write_buffer_with(raw, start, size));
            let Some(mut view) = view else { return };
            let mut line = vec![0; row_bytes];
            for (row, start) in part.row_iter().zip((0..).step_by(row_bytes)) {
                line[..size_of_val(row)].copy_from_slice(bytemuck::cast_slice(row));
                view.slice(start..start + row_bytes).copy_from_slice(&line);
            }
        })?;
        sent(gpu, bytes)
    })
}

/// Sends what was written, when it is much.
fn sent(gpu: &Gpu, bytes: usize) -> Result<(), Error> {
    if bytes < SEND / 2 {
        return Ok(());
    }
    gpu.shared.scoped(0, || gpu.shared.queue.submit([])).map(drop)
}

impl Matrix<f32> {
    /// The same numbers as rows of `cols`, which divide those of this matrix; nothing is moved.
    pub(crate) fn split_rows(&self, cols: usize) -> Result<Self, Error> {
        let parts = self.cols / cols;
        let rows = self.rows.checked_mul(parts).filter(|&rows| u32::try_from(rows).is_ok());
        let rows = rows.ok_or(ascribe_core::Error::Overflow { what: "matrix on the device" })?;
        let (gpu, chunks) = (self.gpu.clone(), self.chunks.clone());
        Ok(Self { gpu, rows, cols, chunk_rows: self.chunk_rows * parts, chunks, element: PhantomData })
    }
}

impl<T: Element> Matrix<T> {
    /// Room for a matrix, with whatever was there before.
    pub(crate) fn new(gpu: &Gpu, rows: usize, cols: usize) -> Result<Self, Error> {
        let overflow = Error::Core(ascribe_core::Error::Overflow { what: "matrix on the device" });
        // Numbers of rows that no shader can express, and sizes that no byte count can.
        let numbered = [rows, cols].iter().all(|&size| u32::try_from(size).is_ok());
        let row_bytes = (cols as u64).div_ceil(T::PER_WORD as u64).saturating_mul(4);
        let Some(bytes) = (rows as u64).checked_mul(row_bytes).filter(|_| numbered) else { return Err(overflow) };
        let limit = gpu.capabilities().max_binding_bytes;
        let mut out = Self { gpu: gpu.clone(), rows, cols, chunk_rows: 0, chunks: Vec::new(), element: PhantomData };
        if rows == 0 || cols == 0 {
            return Ok(out);
        }
        check_limit("bytes of a row", row_bytes, limit)?;
        // Before any of many pieces is allocated.
        gpu.shared.pool.check(bytes)?;
        out.chunk_rows = rows.min((limit / row_bytes) as usize);
        for i in 0..rows.div_ceil(out.chunk_rows) {
            let bytes = out.rows_of(i) as u64 * row_bytes;
            out.chunks.push(Arc::new(Buffer::new(&gpu.shared, Usage::Storage, bytes)?));
        }
        Ok(out)
    }

    /// A matrix in memory that is there already; the caller has checked its size.
    pub(crate) fn within(gpu: &Gpu, buffer: Arc<Buffer>, rows: usize, cols: usize) -> Self {
        let (chunk_rows, chunks) = if rows == 0 || cols == 0 { (0, Vec::new()) } else { (rows, vec![buffer]) };
        Self { gpu: gpu.clone(), rows, cols, chunk_rows, chunks, element: PhantomData }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The device that it lives on.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Bytes of device memory that its elements take.
    pub fn bytes(&self) -> u64 {
        self.rows as u64 * self.row_words() as u64 * 4
    }

    /// The words of a row.
    pub(crate) fn row_words(&self) -> usize {
        self.cols.div_ceil(T::PER_WORD)
    }

    /// The rows of each piece but the last.
    pub(crate) fn chunk_rows(&self) -> usize {
        self.chunk_rows
    }

    /// The rows of a piece.
    pub(crate) fn rows_of(&self, chunk: usize) -> usize {
        self.chunk_rows.min(self.rows - chunk * self.chunk_rows)
    }

    pub(crate) fn chunks(&self) -> &[Arc<Buffer>] {
        &self.chunks
    }

    /// A piece as a kernel binds it.
    pub(crate) fn chunk(&self, chunk: usize) -> Binding<'_> {
        Binding { buffer: &self.chunks[chunk], bytes: (self.rows_of(chunk) * self.row_words()) as u64 * 4 }
    }

    pub(crate) fn check(&self, what: &'static str, gpu: &Gpu, cols: usize) -> Result<(), Error> {
        if !self.gpu.is_same(gpu) {
            return Err(Error::Foreign);
        }
        Ok(check_shape(what, cols, self.cols)?)
    }
}

/// A buffer as far as it holds elements.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Binding<'a> {
    pub(crate) buffer: &'a Arc<Buffer>,
    pub(crate) bytes: u64,
}

/// The rows of a piece, where there is only one.
pub(crate) const WHOLE: usize = usize::MAX;

/// Rows that lie in one piece of each of several matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run<const N: usize> {
    /// The first row.
    pub(crate) start: usize,
    /// The number of rows.
    pub(crate) rows: usize,
    /// For each matrix, the piece, and the first row in it.
    pub(crate) at: [(usize, usize); N],
}

/// The rows `0..rows` of matrices with pieces of `chunk_rows` each, in runs as long as possible. [`WHOLE`] for what is
/// not cut.
pub(crate) fn runs<const N: usize>(rows: usize, chunk_rows: [usize; N]) -> impl Iterator<Item = Run<N>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        if start >= rows || chunk_rows.contains(&0) {
            return None;
        }
        let at = chunk_rows.map(|chunk| (start / chunk, start % chunk));
        let len = chunk_rows.iter().zip(&at).fold(rows - start, |len, (chunk, (_, row))| len.min(chunk - row));
        start += len;
        Some(Run { start: start - len, rows: len, at })
    })
}
