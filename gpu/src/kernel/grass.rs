use ascribe_core::{LinOp, sketch};

use super::SjltBuckets;
use super::mask_gather::{fetched, words};
use super::sjlt::norm;
use crate::device::Gpu;
use crate::error::Error;

/// The sign of an entry; what is below is its coordinate.
const SIGN: u32 = 1 << 31;

impl SjltBuckets {
    /// GraSS, [`sketch::Grass`], as a table whose entries are the coordinates that the mask keeps, in their places in
    /// the whole row: [`Recorder::sjlt`](crate::Recorder::sjlt) then reads each of them once, the masked row is stored
    /// nowhere, and the result has the bits of core's.
    ///
    /// The entries of a drawn transform come from [`sketch::SjltTable::draw`].
    ///
    /// # Errors
    /// [`Error::Core`] for `2^31` coordinates or more; otherwise as [`SjltBuckets::upload`].
    ///
    /// # Examples
    /// ```
    /// # use ascribe_core::{MatRef, sketch::{Grass, Mask, MaskScale, SjltTable}};
    /// # use ascribe_gpu::{Error, Gpu, SjltBuckets};
    /// # let gpu = match Gpu::new() { Err(Error::NoAdapter { why }) => return Ok(println!("skipped: {why}")), gpu => gpu? };
    /// let mask = Mask::new([1, 3, 4], 5, MaskScale::None)?;
    /// let grass = Grass::new(mask, SjltTable::new(2, 1, &[0, 1, 0], &[1, -1, 1])?)?;
    /// let grass = SjltBuckets::grass(&gpu, &grass)?;
    /// let x = gpu.upload(MatRef::from_row(&[9.0_f32, 1.0, 9.0, 2.0, 4.0]))?;
    /// let mut recorder = gpu.record();
    /// let y = recorder.sjlt(&grass, &x)?;
    /// let y = recorder.download(&y)?;
    /// recorder.submit()?;
    /// assert_eq!(y.wait()?, [5.0, -2.0]);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn grass<I: AsRef<[usize]>>(gpu: &Gpu, grass: &sketch::Grass<I, sketch::SjltTable>) -> Result<Self, Error> {
        const WHAT: &str = "masked coordinates on the device";
        let kept = words(WHAT, grass.mask().indices())?;
        // Ascending, so that the last one is the largest.
        if kept.last().is_some_and(|&last| last >= SIGN) {
            return Err(Error::Core(ascribe_core::Error::Overflow { what: WHAT }));
        }
        let table = grass.sjlt().by_bucket()?;
        let place = |&entry: &u32| kept[(entry & !SIGN) as usize] | entry & SIGN;
        let entries: Vec<u32> = table.entries().iter().map(place).collect();
        let norm = grass.mask().factor() as f32 * norm(grass.sjlt().slots());
        let dim_in = LinOp::<f32>::dim_in(grass);
        let mut buckets = Self::new(gpu, table.starts(), &entries, dim_in, norm)?;
        buckets.fetched = fetched(&kept, dim_in);
        Ok(buckets)
    }
}
