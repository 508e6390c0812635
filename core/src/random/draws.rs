//! Sequential draws, and what is made of them: orders and samples.

#[cfg(feature = "libm")]
use super::stream::box_muller;
use super::stream::{Stream, purpose, scale_to, unit};
use crate::error::Error;

/// A cursor over a [`Stream`]: each call returns the next number.
///
/// Reads the Philox blocks `(i mod 2^32, i / 2^32, 0, 4)` for `i = 0, 1, ..`, word by word. A clone continues
/// independently from the same place.
///
/// # Examples
/// ```
/// use ascribe_core::random::Stream;
/// let mut draws = Stream::new(0, "batches").draws();
/// let mut batch = [0; 4];
/// draws.sample_without_replacement(&mut batch, 100)?;
/// assert!(batch.is_sorted_by(|a, b| a < b) && batch[3] < 100);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Draws {
    stream: Stream,
    next_block: u64,
    words: [u32; 4],
    /// How many of `words` have been returned.
    used: usize,
    /// The second of the last pair of normal numbers.
    #[cfg(feature = "libm")]
    spare: Option<f64>,
}

impl Draws {
    pub(super) const fn new(stream: Stream) -> Self {
        Self {
            stream,
            next_block: 0,
            words: [0; 4],
            used: 4,
            #[cfg(feature = "libm")]
            spare: None,
        }
    }

    /// The next word.
    #[inline]
    pub fn next_u32(&mut self) -> u32 {
        if self.used == self.words.len() {
            self.words = self.stream.block(self.next_block, 0, purpose::DRAWS);
            self.next_block = self.next_block.wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    /// The next two words, the first of them the lower half.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        let low = self.next_u32();
        u64::from(self.next_u32()) << 32 | u64::from(low)
    }

    /// A uniform number in `[0, 1)`, a multiple of `2^-53`; takes two words.
    #[inline]
    pub fn next_f64(&mut self) -> f64 {
        unit(self.next_u64())
    }

    /// A uniform index in `0..n`; 0 when `n` is 0. Each index has probability `1/n` to within `2^-64`. Takes two
    /// words, whatever `n` is.
    #[inline]
    pub fn next_index(&mut self, n: usize) -> usize {
        scale_to(self.next_u64(), n)
    }

    /// A standard normal number; every second call takes four words.
    #[cfg(feature = "libm")]
    pub fn next_normal(&mut self) -> f64 {
        if let Some(second) = self.spare.take() {
            return second;
        }
        let [first, second] = box_muller(self.next_f64(), self.next_f64());
        self.spare = Some(second);
        first
    }

    /// Puts the items into a random order, each with the same probability to within `n^2 2^-64` in total variation.
    ///
    /// Fisher and Yates' exchange from the last place down. Cost: `n - 1` indices.
    pub fn shuffle<I>(&mut self, items: &mut [I]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.next_index(last + 1));
        }
    }

    /// Fills `sample` with that many different indices of `0..n`, ascending; each set is equally likely.
    ///
    /// More than half of the population is chosen by one pass over it (Knuth's algorithm S); less, by drawing,
    /// sorting and drawing the duplicates again. The second treats all indices alike, so its set is uniform too.
    /// Cost: `O(k log k)` for `k` indices, whatever `n` is. Scratch: none.
    ///
    /// # Errors
    /// [`Error::Length`] when the sample is larger than the population.
    pub fn sample_without_replacement(&mut self, sample: &mut [usize], n: usize) -> Result<(), Error> {
        let size = sample.len();
        if size > n {
            return Err(Error::Length { what: "population", needed: size, got: n });
        }
        let mut chosen = 0;
        if size > n / 2 {
            for candidate in 0..n {
                if self.next_index(n - candidate) < size - chosen {
                    sample[chosen] = candidate;
                    chosen += 1;
                }
            }
            return Ok(());
        }
        while chosen < size {
            sample[chosen..].fill_with(|| self.next_index(n));
            sample.sort_unstable();
            chosen = 1;
            for i in 1..size {
                if sample[i] != sample[chosen - 1] {
                    sample[chosen] = sample[i];
                    chosen += 1;
                }
            }
        }
        Ok(())
    }
}
