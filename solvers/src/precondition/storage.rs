//! A basis between two steps: in full, or in 16 bits a number.

use std::borrow::Cow;

use ascribe_core::quantize::half::{bf16_from_f32, bf16_to_f32, f16_from_f32, f16_to_f32};
use ascribe_core::{MatMut, Real};

use super::polish;
use crate::Error;
use crate::parallel::Parallelism;

/// How a preconditioner keeps its bases between steps. Arithmetic is in the type of the preconditioner always.
///
/// Half precision moves each element by a relative `2^-11` (f16) or `2^-8` (bf16) at most, and every use repairs the
/// orthogonality that this costs by one or two [polishing](super::polish()) steps, `3 n^3` flops each. A rotation of
/// less than that is rounded away: step sizes below about `1e-3` need more digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Storage {
    /// As they are.
    #[default]
    Full,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Stored<T> {
    Full(Vec<T>),
    F16(Vec<u16>),
    Bf16(Vec<u16>),
}

impl<T: Real> Stored<T> {
    pub(super) fn new(storage: Storage, basis: Vec<T>) -> Self {
        let encode = |from: fn(f32) -> u16| basis.iter().map(|x| from(x.to_f64() as f32)).collect();
        match storage {
            Storage::Full => Self::Full(basis),
            Storage::F16 => Self::F16(encode(f16_from_f32)),
            Storage::Bf16 => Self::Bf16(encode(bf16_from_f32)),
        }
    }

    /// The columns of the `n x n` basis, orthogonal.
    pub(super) fn load(&self, n: usize, par: Parallelism) -> Result<Cow<'_, [T]>, Error> {
        // A defect of 4e-3 becomes 1e-5 and then 1e-10; one of 5e-4 becomes 2e-7, which is f32's own.
        let (bits, to, steps): (_, fn(u16) -> f32, _) = match self {
            Self::Full(basis) => return Ok(Cow::Borrowed(basis)),
            Self::F16(bits) => (bits, f16_to_f32, if T::EPSILON.to_f64() < 1e-10 { 2 } else { 1 }),
            Self::Bf16(bits) => (bits, bf16_to_f32, 2),
        };
        let mut basis: Vec<T> = bits.iter().map(|&bits| T::from_f64(to(bits).into())).collect();
        for _ in 0..steps {
            polish(MatMut::new(&mut basis, n, n)?, par)?;
        }
        Ok(Cow::Owned(basis))
    }
}
