//! A named stream of random numbers, read at coordinates.

use super::{Draws, philox4x32};
#[cfg(feature = "libm")]
use crate::scalar::Scalar;

/// What the last counter word says a Philox block is for, so that no two uses of one key share a block.
pub(super) mod purpose {
    pub(in super::super) const COORDINATES: u32 = 0;
    pub(in super::super) const CHILD: u32 = 1;
    pub(in super::super) const NAME: u32 = 2;
    pub(in super::super) const NAME_LENGTH: u32 = 3;
    pub(in super::super) const DRAWS: u32 = 4;
}

/// The low and the high word.
pub(super) const fn halves(x: u64) -> [u32; 2] {
    [x as u32, (x >> 32) as u32]
}

/// The number in `[0, 1)` made of the upper 53 bits.
pub(super) const fn unit(word: u64) -> f64 {
    (word >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
}

/// The index in `0..n` at `word / 2^64`; 0 when `n` is 0.
pub(super) const fn scale_to(word: u64, n: usize) -> usize {
    ((word as u128 * n as u128) >> 64) as usize
}

/// Two standard normal numbers from two uniform ones in `[0, 1)` (Box and Muller, 1958).
#[cfg(feature = "libm")]
pub(super) fn box_muller(u: f64, v: f64) -> [f64; 2] {
    // 1 - u lies in (0, 1], where the logarithm is finite, and the subtraction is exact.
    let radius = (-2.0 * Scalar::ln(1.0 - u)).sqrt();
    let angle = core::f64::consts::TAU * v;
    [radius * Scalar::cos(angle), radius * Scalar::sin(angle)]
}

/// An unbounded table of random words, keyed by a seed and a name.
///
/// Reading does not change it: the number at a coordinate is always the same. Names keep the parts of a program
/// apart: `"sgd.shuffle"` and `"sketch.sign"` are unrelated even under one seed.
///
/// # The key
/// With `philox` = [`philox4x32`] and `head` its first two words, `key = (seed mod 2^32, seed / 2^32)` at first.
/// Each eight bytes of the name (UTF-8, the last padded with zeros), read as two little-endian words `a, b`, set
/// `key = head(philox((a, b, 0, 2), key))`; then the length of the name in bytes sets
/// `key = head(philox((length mod 2^32, length / 2^32, 0, 3), key))`. Two (seed, name) pairs collide with
/// probability about `2^-64`.
///
/// # Examples
/// ```
/// use ascribe_core::random::Stream;
/// let stream = Stream::new(7, "mask");
/// assert!(stream.uniform(3, 0) < 1.0);
/// assert!(stream.uniform_index(3, 0, 10) < 10);
/// assert_ne!(stream.child(0).words(3, 0), stream.child(1).words(3, 0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stream {
    key: [u32; 2],
}

impl Stream {
    /// The stream of that name under that seed.
    pub fn new(seed: u64, name: &str) -> Self {
        let mut stream = Self { key: halves(seed) };
        for chunk in name.as_bytes().chunks(8) {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            stream = stream.derive(u64::from_le_bytes(bytes), purpose::NAME);
        }
        stream.derive(name.len() as u64, purpose::NAME_LENGTH)
    }

    /// The stream of a key made elsewhere.
    pub const fn from_key(key: [u32; 2]) -> Self {
        Self { key }
    }

    /// The Philox key.
    pub const fn key(self) -> [u32; 2] {
        self.key
    }

    /// A stream of its own for each index (an epoch, a layer, a resample): `key = head(philox((i mod 2^32,
    /// i / 2^32, 0, 1), key))`. Cost: one Philox block.
    pub fn child(self, index: u64) -> Self {
        self.derive(index, purpose::CHILD)
    }

    /// Four words: Philox of the counter `(index mod 2^32, index / 2^32, lane, 0)`.
    #[inline]
    pub fn words(self, index: u64, lane: u32) -> [u32; 4] {
        self.block(index, lane, purpose::COORDINATES)
    }

    /// A uniform number in `[0, 1)`, a multiple of `2^-53`.
    #[inline]
    pub fn uniform(self, index: u64, lane: u32) -> f64 {
        unit(self.word_pair(index, lane)[0])
    }

    /// A uniform index in `0..n`; 0 when `n` is 0. Each index has probability `1/n` to within `2^-64`.
    #[inline]
    pub fn uniform_index(self, index: u64, lane: u32, n: usize) -> usize {
        scale_to(self.word_pair(index, lane)[0], n)
    }

    /// Two independent standard normal numbers, by Box and Muller in f64; their absolute value is below 8.6.
    #[cfg(feature = "libm")]
    pub fn normals(self, index: u64, lane: u32) -> [f64; 2] {
        let [u, v] = self.word_pair(index, lane).map(unit);
        box_muller(u, v)
    }

    /// A cursor at the start of the stream. What it reads is independent of what the coordinates hold.
    pub const fn draws(self) -> Draws {
        Draws::new(self)
    }

    #[inline]
    pub(super) fn block(self, index: u64, lane: u32, purpose: u32) -> [u32; 4] {
        let [low, high] = halves(index);
        philox4x32([low, high, lane, purpose], self.key)
    }

    #[inline]
    fn word_pair(self, index: u64, lane: u32) -> [u64; 2] {
        let [a, b, c, d] = self.words(index, lane);
        [u64::from(b) << 32 | u64::from(a), u64::from(d) << 32 | u64::from(c)]
    }

    fn derive(self, index: u64, purpose: u32) -> Self {
        let [k0, k1, ..] = self.block(index, 0, purpose);
        Self { key: [k0, k1] }
    }
}
