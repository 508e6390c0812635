use super::sjlt::check_index;
use crate::error::Error;
use crate::random::Stream;

/// A random order of `0..n` of which any place can be read alone: nothing is stored.
///
/// The images of `0..k` are a sample without replacement, for any `n` up to `2^64`.
///
/// # The bijection
/// With `b` the number of bits of `n - 1`, `l = floor(b / 2)` and `h = b - l`, a number of `b` bits is a low part of
/// `l` and a high part of `h` bits. Each round `r = 0, 1, ..` replaces the high part by its exclusive-or with the
/// lowest `h` bits of word 0 of [`stream.words(low, r)`](Stream::words) when `r` is even, and the low part by that
/// with the lowest `l` bits of word 0 of `stream.words(high, r)` when `r` is odd. A result that is not below `n` goes
/// through the rounds again, until one is. Every round undoes itself, so this is a bijection of the numbers of `b`
/// bits, and walking along its cycles makes it one of `0..n`. All of it is 32-bit arithmetic.
///
/// There are `max(8, floor(64 / max(l, 1)))` rounds: two of them fail to mix a pair of numbers with probability about
/// `2^-l`, so that all of them leave a bias of about `2^-32`.
///
/// Cost of an image: one Philox block a round, eight from `n = 2^15` on, for less than two walks in the mean.
///
/// # Examples
/// ```
/// use ascribe_core::{random::Stream, sketch::Permutation};
/// let order = Permutation::new(1 << 40, Stream::new(0, "mask"));
/// assert_ne!(order.image(0)?, order.image(1)?);
/// let mut sample = [0; 3];
/// order.sample(&mut sample)?;
/// assert!(sample[0] < sample[1] && sample[1] < sample[2] && sample[2] < 1 << 40);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
///
/// # References
/// Luby and Rackoff, SIAM J. Comput. 17, 1988; for domains of any size, Black and Rogaway, CT-RSA 2002, section 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Permutation {
    len: usize,
    stream: Stream,
}

impl Permutation {
    /// An order of `0..len`.
    pub fn new(len: usize, stream: Stream) -> Self {
        Self { len, stream }
    }

    /// What is at place `index`.
    ///
    /// # Errors
    /// [`Error::Index`] when `index` is outside `0..len`.
    pub fn image(&self, index: usize) -> Result<usize, Error> {
        check_index("place in a permutation", index, self.len)?;
        let (last, mut image) = (self.len as u64 - 1, index as u64);
        let bits = u64::BITS - last.leading_zeros();
        loop {
            image = self.rounds(image, bits);
            if image <= last {
                return Ok(image as usize);
            }
        }
    }

    /// Fills `sample` with the images of `0..sample.len()`, ascending. Cost: that of the images, and sorting them.
    ///
    /// # Errors
    /// [`Error::Length`] when the sample is larger than the population.
    pub fn sample(&self, sample: &mut [usize]) -> Result<(), Error> {
        if sample.len() > self.len {
            return Err(Error::Length { what: "population", needed: sample.len(), got: self.len });
        }
        for (index, place) in sample.iter_mut().enumerate() {
            *place = self.image(index)?;
        }
        sample.sort_unstable();
        Ok(())
    }

    fn rounds(&self, x: u64, bits: u32) -> u64 {
        let low_bits = bits / 2;
        let low_mask = (1_u64 << low_bits) - 1;
        let high_mask = (1_u64 << (bits - low_bits)) - 1;
        let (mut low, mut high) = (x & low_mask, x >> low_bits);
        for round in 0..(64 / low_bits.max(1)).max(8) {
            let half = if round % 2 == 0 { low } else { high };
            let word = u64::from(self.stream.words(half, round)[0]);
            if round % 2 == 0 { high ^= word & high_mask } else { low ^= word & low_mask }
        }
        high << low_bits | low
    }
}
