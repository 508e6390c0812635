//! For programs that use wgpu themselves: the only place where its types appear, in the version that this crate was
//! built with.

use std::sync::Arc;

pub use wgpu;

use crate::buffer::Buffer;
use crate::device::{Gpu, GpuOptions};
use crate::error::{Error, check_limit};
use crate::matrix::{Element, Matrix};

impl Gpu {
    /// A device that the program has opened. Kernels use subgroups if it was opened with `Features::SUBGROUP`.
    ///
    /// The callbacks of the device stay the program's: its loss is noticed at the next result. Of the options, those
    /// that say how to open a device do not apply.
    ///
    /// # Examples
    /// ```
    /// use ascribe_gpu::{Gpu, GpuOptions, interop::wgpu};
    /// # async fn example(adapter: wgpu::Adapter) -> Result<(), wgpu::RequestDeviceError> {
    /// let (device, queue) = adapter.request_device(&wgpu::DeviceDescriptor::default()).await?;
    /// let gpu = Gpu::from_parts(device, queue, &GpuOptions::default());
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_parts(device: wgpu::Device, queue: wgpu::Queue, options: &GpuOptions) -> Self {
        Self::from_device(device, queue, options)
    }

    /// The device and the queue that kernels run on.
    pub fn parts(&self) -> (&wgpu::Device, &wgpu::Queue) {
        (&self.shared.device, &self.shared.queue)
    }

    /// A matrix in the program's own memory, row by row without gaps (each row begins at a multiple of four bytes). It
    /// is read, and written by kernels that add to a matrix. The buffer needs the usages `STORAGE`, `COPY_SRC` and
    /// `COPY_DST`.
    ///
    /// # Errors
    /// [`Error::Limit`] when the matrix is larger than the buffer or than a binding of the device, or has more than
    /// `2^32 - 1` rows or columns;
    /// [`Error::MissingFeature`] when the buffer lacks a usage.
    pub fn wrap<T: Element>(&self, buffer: wgpu::Buffer, rows: usize, cols: usize) -> Result<Matrix<T>, Error> {
        use wgpu::BufferUsages as Flags;
        if !buffer.usage().contains(Flags::STORAGE | Flags::COPY_SRC | Flags::COPY_DST) {
            return Err(Error::MissingFeature { feature: "buffer usage STORAGE, COPY_SRC or COPY_DST" });
        }
        check_limit("rows or columns of the matrix", rows.max(cols) as u64, u32::MAX.into())?;
        let bytes = (rows as u64).saturating_mul(cols.div_ceil(T::PER_WORD) as u64).saturating_mul(4);
        check_limit("bytes of the matrix", bytes, buffer.size())?;
        check_limit("bytes of the matrix", bytes, self.capabilities().max_binding_bytes)?;
        Ok(Matrix::within(self, Arc::new(Buffer::foreign(buffer)), rows, cols))
    }
}
