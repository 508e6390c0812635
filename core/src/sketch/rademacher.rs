//! Random signs.

use super::projection::{Entries, Projection, sealed};
use crate::random::philox4x32;
use crate::scalar::Real;

/// A matrix of independent random signs; see [`Projection`].
///
/// Column `c` of row `r` is bit `c mod 32`, the least significant first, of word `(c mod 128) / 32` of the Philox block
/// with the counter `(c / 128, r, 0, 0)`: +1 where it is set, -1 where it is clear, times the
/// [`Scale`](super::Scale).
///
/// Over the keys, with `k` rows and the scale `1/sqrt(k)`,
///
/// $$\mathrm{Var}\langle S x, S y \rangle
/// = \frac1k \Big(\|x\|^2 \|y\|^2 + \langle x, y \rangle^2 - 2 \sum_i x_i^2 y_i^2\Big).$$
///
/// A sign costs 1/128 of a Philox block, an addition and no multiplication that could round.
///
/// # Examples
/// ```
/// use ascribe_core::sketch::{Rademacher, Scale};
/// use ascribe_core::{MatMut, MatRef};
/// let sketch = Rademacher::new("model/gradients", 3, 1000, Scale::InvSqrtRows)?;
/// let gradient = [1.0; 1000];
/// let (mut whole, mut pieces) = ([0.0; 3], [0.0; 3]);
/// sketch.apply_columns(MatMut::from_row(&mut whole), MatRef::from_row(&gradient), 0)?;
/// for layer in [0..700, 700..1000] {
///     let offset = layer.start;
///     sketch.apply_columns(MatMut::from_row(&mut pieces), MatRef::from_row(&gradient[layer]), offset)?;
/// }
/// assert!(whole.iter().zip(&pieces).all(|(a, b): (&f64, &f64)| (a - b).abs() < 1e-12));
/// # Ok::<(), ascribe_core::Error>(())
/// ```
///
/// # References
/// Achlioptas, "Database-friendly random projections", J. Comput. Syst. Sci. 66 (2003), theorem 1.1. TRAK
/// (arXiv 2303.14186) projects gradients with such matrices; in its package the signs depend on the number of
/// multiprocessors of the GPU and on the chunks that the parameters are cut into, which a counter avoids.
pub type Rademacher = Projection<Signs>;

/// The law of [`Rademacher`]: 1 or -1, each with probability 1/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Signs;

impl sealed::Sealed for Signs {}

impl Entries for Signs {
    const PER_BLOCK: usize = 128;

    #[inline]
    fn block<T: Real>(out: &mut [T], words: [u32; 4]) {
        let (parts, _) = out.as_chunks_mut::<32>();
        for (part, word) in parts.iter_mut().zip(words) {
            for (bit, sign) in part.iter_mut().enumerate() {
                *sign = if word & 1 << bit == 0 { -T::ONE } else { T::ONE };
            }
        }
    }

    #[inline(always)]
    fn panel<T: Real>(out: &mut [T], width: usize, key: [u32; 2], row: u32, block: u32) {
        const LANES: usize = 64;
        for first in (0..width).step_by(LANES) {
            let lanes = LANES.min(width - first);
            let mut words = [[0; LANES]; 4];
            for j in 0..lanes {
                let row = row.wrapping_add((first + j) as u32);
                for (words, word) in words.iter_mut().zip(philox4x32([block, row, 0, 0], key)) {
                    words[j] = word;
                }
            }
            for (c, out) in out.chunks_exact_mut(width).enumerate() {
                let words = &words[c / 32 % 4][..lanes];
                for (sign, word) in out[first..first + lanes].iter_mut().zip(words) {
                    *sign = if word & 1 << (c % 32) == 0 { -T::ONE } else { T::ONE };
                }
            }
        }
    }
}
