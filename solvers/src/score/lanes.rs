//! Products of 16-bit integers in the vectors of each processor.

#[cfg(target_arch = "x86_64")]
use pulp::{
    cast, f32x8, f32x16,
    x86::{V3, V4},
};

use super::panel::GROUP;

/// Sixteen queries side by side: sums of products of 16-bit integers, with the same bits on every processor.
pub(super) trait Lanes: Copy {
    /// Whether registers hold the sums of a tile and four groups.
    const WIDE: bool;
    /// Pairs of 16-bit integers, or 32-bit sums.
    type Integers: Copy;
    fn widen(self, codes: [i8; 2 * GROUP]) -> [i16; 2 * GROUP];
    fn zero(self) -> Self::Integers;
    fn load(self, codes: [i16; 2 * GROUP]) -> Self::Integers;
    fn splat(self, pair: [i16; 2]) -> Self::Integers;
    /// `sum + a_0 b_0 + a_1 b_1` in each lane.
    fn multiply_add(self, a: Self::Integers, b: Self::Integers, sum: Self::Integers) -> Self::Integers;
    /// `out + f32(sum) * (scale * scales)`, the last product and the addition rounded once.
    fn scale_add(self, sum: Self::Integers, scale: f32, scales: [f32; GROUP], out: [f32; GROUP]) -> [f32; GROUP];
}

#[derive(Clone, Copy)]
pub(super) struct Portable;

impl Lanes for Portable {
    const WIDE: bool = false;
    type Integers = [i32; GROUP];

    #[inline(always)]
    fn widen(self, codes: [i8; 2 * GROUP]) -> [i16; 2 * GROUP] {
        codes.map(i16::from)
    }

    #[inline(always)]
    fn zero(self) -> [i32; GROUP] {
        [0; GROUP]
    }

    #[inline(always)]
    fn load(self, codes: [i16; 2 * GROUP]) -> [i32; GROUP] {
        core::array::from_fn(|q| join([codes[2 * q], codes[2 * q + 1]]))
    }

    #[inline(always)]
    fn splat(self, pair: [i16; 2]) -> [i32; GROUP] {
        [join(pair); GROUP]
    }

    #[inline(always)]
    fn multiply_add(self, a: [i32; GROUP], b: [i32; GROUP], sum: [i32; GROUP]) -> [i32; GROUP] {
        let product = |a: i32, b: i32| i32::from(a as i16) * i32::from(b as i16) + (a >> 16) * (b >> 16);
        core::array::from_fn(|q| sum[q] + product(a[q], b[q]))
    }

    #[inline(always)]
    fn scale_add(self, sum: [i32; GROUP], scale: f32, scales: [f32; GROUP], out: [f32; GROUP]) -> [f32; GROUP] {
        core::array::from_fn(|q| (sum[q] as f32).mul_add(scale * scales[q], out[q]))
    }
}

/// A pair in the bits of one integer.
#[inline(always)]
fn join([low, high]: [i16; 2]) -> i32 {
    i32::from(high) << 16 | i32::from(low as u16)
}

#[cfg(target_arch = "x86_64")]
impl Lanes for V4 {
    const WIDE: bool = true;
    type Integers = core::arch::x86_64::__m512i;

    #[inline(always)]
    fn widen(self, codes: [i8; 2 * GROUP]) -> [i16; 2 * GROUP] {
        cast(self.avx512bw._mm512_cvtepi8_epi16(cast(codes)))
    }

    #[inline(always)]
    fn zero(self) -> Self::Integers {
        self.avx512f._mm512_setzero_si512()
    }

    #[inline(always)]
    fn load(self, codes: [i16; 2 * GROUP]) -> Self::Integers {
        cast(codes)
    }

    #[inline(always)]
    fn splat(self, pair: [i16; 2]) -> Self::Integers {
        self.avx512f._mm512_set1_epi32(join(pair))
    }

    #[inline(always)]
    fn multiply_add(self, a: Self::Integers, b: Self::Integers, sum: Self::Integers) -> Self::Integers {
        self.avx512f._mm512_add_epi32(sum, self.avx512bw._mm512_madd_epi16(a, b))
    }

    #[inline(always)]
    fn scale_add(self, sum: Self::Integers, scale: f32, scales: [f32; GROUP], out: [f32; GROUP]) -> [f32; GROUP] {
        let sum = cast(self.avx512f._mm512_cvtepi32_ps(sum));
        let scale = self.mul_f32x16(self.splat_f32x16(scale), cast(scales));
        cast::<f32x16, _>(self.mul_add_f32x16(sum, scale, cast(out)))
    }
}

#[cfg(target_arch = "x86_64")]
impl Lanes for V3 {
    const WIDE: bool = false;
    type Integers = [core::arch::x86_64::__m256i; 2];

    #[inline(always)]
    fn widen(self, codes: [i8; 2 * GROUP]) -> [i16; 2 * GROUP] {
        cast(cast::<_, [core::arch::x86_64::__m128i; 2]>(codes).map(|codes| self.avx2._mm256_cvtepi8_epi16(codes)))
    }

    #[inline(always)]
    fn zero(self) -> Self::Integers {
        [self.avx._mm256_setzero_si256(); 2]
    }

    #[inline(always)]
    fn load(self, codes: [i16; 2 * GROUP]) -> Self::Integers {
        let [low, high]: [[i16; GROUP]; 2] = cast(codes);
        [cast(low), cast(high)]
    }

    #[inline(always)]
    fn splat(self, pair: [i16; 2]) -> Self::Integers {
        [self.avx._mm256_set1_epi32(join(pair)); 2]
    }

    #[inline(always)]
    fn multiply_add(self, a: Self::Integers, b: Self::Integers, sum: Self::Integers) -> Self::Integers {
        core::array::from_fn(|h| self.avx2._mm256_add_epi32(sum[h], self.avx2._mm256_madd_epi16(a[h], b[h])))
    }

    #[inline(always)]
    fn scale_add(self, sum: Self::Integers, scale: f32, scales: [f32; GROUP], out: [f32; GROUP]) -> [f32; GROUP] {
        let [scales, out]: [[[f32; 8]; 2]; 2] = [cast(scales), cast(out)];
        let halves: [[f32; 8]; 2] = core::array::from_fn(|h| {
            let sum = cast(self.avx._mm256_cvtepi32_ps(sum[h]));
            let scale = self.mul_f32x8(self.splat_f32x8(scale), cast(scales[h]));
            cast::<f32x8, _>(self.mul_add_f32x8(sum, scale, cast(out[h])))
        });
        cast(halves)
    }
}
