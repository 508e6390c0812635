//! The table of a drawn sparse transform, made on the device: `shaders/sjlt_sort.wgsl`, `prefix_sum.wgsl` and
//! `sjlt_table.wgsl`.

use ascribe_core::sketch::{Sjlt, SjltEntries};
use ascribe_core::{Error as CoreError, MatRef};

use super::sjlt::norm;
use super::{Access, Kernel, SjltBuckets};
use crate::error::{Error, check_limit};
use crate::matrix::Matrix;
use crate::recorder::{Dispatch, Recorder};

const FIRST: &str = "FIRST";
const SCATTER: &str = "SCATTER";

pub(super) static SORT: Kernel = Kernel {
    name: "sjlt_sort",
    source: include_str!("../../shaders/sjlt_sort.wgsl"),
    bindings: &[Access::Read, Access::Read, Access::Write, Access::Write],
    variants: &[&[FIRST], &[FIRST, SCATTER], &[], &[SCATTER]],
    constants: &[&[]],
};

pub(super) static PREFIX_SUM: Kernel = Kernel {
    name: "prefix_sum",
    source: include_str!("../../shaders/prefix_sum.wgsl"),
    bindings: &[Access::Write],
    variants: &[&[]],
    constants: &[&[]],
};

pub(super) static TABLE: Kernel = Kernel {
    name: "sjlt_table",
    source: include_str!("../../shaders/sjlt_table.wgsl"),
    bindings: &[Access::Read, Access::Read, Access::Write, Access::Write],
    variants: &[&[]],
    constants: &[&[]],
};

/// Items of a workgroup that sorts, values of a digit and its bits, and items of a workgroup that makes the table.
const ITEMS: usize = 1024;
const DIGITS: usize = 16;
const DIGIT_BITS: u32 = 4;
const LANES: usize = 64;

impl Recorder {
    /// The table of a transform that is only a key, [`Sjlt`], for [`sjlt`](Self::sjlt): buckets and signs are drawn on the
    /// device, and nothing is uploaded but the bounds of the slots and zeros for the buckets. It is the table of
    /// [`ascribe_core::sketch::SjltTable`], entry for entry, so a sketch has the bits of core's. Later kernels of this
    /// recorder may use it, and others after it was submitted; for those before, the buckets are empty.
    ///
    /// A stable sort of the `p s` items by bucket, four bits at a time: `3 ceil(log2(k) / 4) + 1` dispatches, each of which
    /// draws every item once or twice, where nothing has to be cut. Device memory meanwhile: twice that of the table.
    /// Workgroup memory: 4 KiB.
    ///
    /// # Errors
    /// [`Error::Core`] for `2^31` coordinates, or `2^32` entries; [`Error::Limit`] when the table is larger than a binding
    /// of the device; otherwise as [`Gpu::upload`](crate::Gpu::upload).
    ///
    /// # Examples
    /// ```
    /// # use ascribe_core::{MatRef, linop::apply_alloc, random::Stream, sketch::Sjlt};
    /// # use ascribe_gpu::{Error, Gpu};
    /// # let gpu = match Gpu::new() { Err(Error::NoAdapter { why }) => return Ok(println!("skipped: {why}")), gpu => gpu? };
    /// let sjlt = Sjlt::new(5, 3, 1, Stream::new(0, "layer 3"))?;
    /// let row = [1.0_f32, 2.0, 3.0, 4.0, 5.0];
    /// let x = gpu.upload(MatRef::from_row(&row))?;
    /// let mut recorder = gpu.record();
    /// let table = recorder.draw_sjlt(&sjlt)?;
    /// let y = recorder.sjlt(&table, &x)?;
    /// let y = recorder.download(&y)?;
    /// recorder.submit()?;
    /// assert_eq!(y.wait()?, apply_alloc(&sjlt, MatRef::from_row(&row))?);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn draw_sjlt(&mut self, sjlt: &Sjlt) -> Result<SjltBuckets, Error> {
        let (dim_in, dim_out, slots) = (sjlt.coordinates(), sjlt.buckets(), sjlt.slots());
        let overflow = Error::Core(CoreError::Overflow { what: "entries by bucket" });
        let len = dim_in.checked_mul(slots).filter(|len| u32::try_from(*len).is_ok() && dim_in <= 1 << 31);
        let len = len.ok_or(overflow)?;
        let table_bytes = 4 * len.max(dim_out + 1) as u64;
        check_limit("bytes of the table", table_bytes, self.gpu().capabilities().max_binding_bytes)?;
        if len == 0 {
            return Ok(SjltBuckets::from_device(self.zeros(1, dim_out + 1)?, self.zeros(1, 1)?, dim_in, norm(slots)));
        }
        // Both factors are below 2^31.
        let bounds: Vec<u32> = (0..=slots as u64).map(|r| (r * dim_out as u64 / slots as u64) as u32).collect();
        let bounds = self.gpu().upload(MatRef::from_row(&bounds))?;
        self.whole(|recorder| {
            let items = recorder.sort_items(sjlt, &bounds, len)?;
            // Whoever reads the table of a recorder that was dropped finds ends of buckets, not whatever was there before.
            let starts = recorder.gpu().upload(MatRef::from_row(&vec![0; dim_out + 1]))?;
            let entries = Matrix::new(recorder.gpu(), 1, len)?;
            let [key0, key1] = sjlt.stream().key();
            recorder.dispatch(&Dispatch {
                kernel: &TABLE,
                flags: &[],
                constants: &[],
                params: &[len as u32, slots as u32, key0, key1, dim_out as u32],
                bindings: [bounds.chunk(0), items.chunk(0), starts.chunk(0), entries.chunk(0)],
                groups: [len.max(dim_out + 1).div_ceil(LANES) as u64, 1, 1],
            })?;
            Ok(SjltBuckets::from_device(starts, entries, dim_in, norm(slots)))
        })
    }

    /// The numbers `0..len` of the items of a transform in the order of their buckets, those of one bucket ascending.
    fn sort_items(&mut self, sjlt: &Sjlt, bounds: &Matrix<u32>, len: usize) -> Result<Matrix<u32>, Error> {
        let workgroups = len.div_ceil(ITEMS);
        let [mut from, mut to] = [Matrix::new(self.gpu(), 1, len)?, Matrix::new(self.gpu(), 1, len)?];
        let offsets = Matrix::<u32>::new(self.gpu(), 1, DIGITS * workgroups)?;
        let [key0, key1] = sjlt.stream().key();
        // One bucket has no bits, but the items have to be written somewhere.
        let bits = (sjlt.buckets() - 1).checked_ilog2().map_or(1, |bit| bit + 1);
        for shift in (0..bits).step_by(DIGIT_BITS as usize) {
            let first = (shift == 0).then_some(FIRST);
            for scatter in [None, Some(SCATTER)] {
                if scatter.is_some() {
                    self.dispatch(&Dispatch {
                        kernel: &PREFIX_SUM,
                        flags: &[],
                        constants: &[],
                        params: &[offsets.cols() as u32],
                        bindings: [offsets.chunk(0)],
                        groups: [1, 1, 1],
                    })?;
                }
                self.dispatch(&Dispatch {
                    kernel: &SORT,
                    flags: &first.into_iter().chain(scatter).collect::<Vec<_>>(),
                    constants: &[],
                    params: &[len as u32, sjlt.slots() as u32, key0, key1, shift, workgroups as u32],
                    bindings: [bounds.chunk(0), from.chunk(0), offsets.chunk(0), to.chunk(0)],
                    groups: [workgroups as u64, 1, 1],
                })?;
            }
            std::mem::swap(&mut from, &mut to);
        }
        Ok(from)
    }
}
