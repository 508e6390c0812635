//! The Philox4x32-10 block function and the multiply-high bucket.

/// Philox4x32 with ten rounds: four random words for a counter and a key.
///
/// A bijection of the counter for each key. Cost: 20 widening multiplications; nothing is stored.
///
/// # Examples
/// ```
/// use ascribe_core::random::philox4x32;
/// assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
/// ```
///
/// # References
/// Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#[inline]
#[must_use]
pub const fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    let mut round = 0;
    while round < 10 {
        let p0 = 0xD251_1F53 * c0 as u64;
        let p1 = 0xCD9E_8D57 * c2 as u64;
        (c0, c1, c2, c3) = ((p1 >> 32) as u32 ^ c1 ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c3 ^ k1, p0 as u32);
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
        round += 1;
    }
    [c0, c1, c2, c3]
}

/// The bucket in `0..k` that a random word falls into: `floor(h k / 2^32)`; 0 when `k` is 0.
///
/// For a uniform word each bucket has probability `1/k` to within `2^-32`.
///
/// # Examples
/// ```
/// use ascribe_core::random::bucket;
/// assert_eq!([0, u32::MAX / 2, u32::MAX].map(|h| bucket(h, 10)), [0, 4, 9]);
/// ```
#[inline]
#[must_use]
pub const fn bucket(h: u32, k: u32) -> u32 {
    ((h as u64 * k as u64) >> 32) as u32
}
