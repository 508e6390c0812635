//! Standard normal entries.

use super::projection::{Entries, Projection, sealed};
use crate::scalar::Real;

/// A matrix of independent standard normal numbers; see [`Projection`].
///
/// Columns `4 w .. 4 w + 4` of row `r` come from the Philox block `x` with the counter `(w, r, 0, 0)`, by Box and Muller:
/// each of the pairs `(a, b)` = `(x0, x1)` and `(x2, x3)` makes
///
/// $$u = (a + \tfrac12) 2^{-32},\quad v = b\,2^{-32},\qquad
/// \sqrt{-2 \ln u}\,\cos 2 \pi v,\quad \sqrt{-2 \ln u}\,\sin 2 \pi v.$$
///
/// The formula is evaluated in the type of the data, so the matrix in f32 is the same on every platform too, but is
/// not the rounded one of f64: entries differ by at most 4e-4, and by more than 1e-5 only where the radius is near 0 (one
/// in many thousands). An absolute value is at most 6.8.
///
/// Over the keys, with `k` rows and the scale `1/sqrt(k)`,
/// $\mathrm{Var}\langle S x, S y \rangle = (\|x\|^2 \|y\|^2 + \langle x, y \rangle^2) / k$.
///
/// An entry costs a quarter of a Philox block, half a logarithm and root, and a sine or cosine. These are not
/// vectorised: for 64 vectors a product takes about ten times as long as with signs, which serve as well unless the
/// law of the sketch must be normal.
///
/// # Examples
/// ```
/// use ascribe_core::sketch::{Gaussian, Scale};
/// use ascribe_core::{MatRef, linop::apply_alloc};
/// let sketch = Gaussian::new("model/gradients", 256, 1000, Scale::InvSqrtRows)?;
/// let short = apply_alloc(&sketch, MatRef::from_row(&[0.1_f32; 1000]))?;
/// let squared_norm: f32 = short.iter().map(|y| y * y).sum();
/// assert!((squared_norm - 10.0).abs() < 5.0);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
///
/// # References
/// Box, Muller, "A note on the generation of random normal deviates", Ann. Math. Stat. 29 (1958).
pub type Gaussian = Projection<Normals>;

/// The law of [`Gaussian`]: mean 0, variance 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Normals;

impl sealed::Sealed for Normals {}

impl Entries for Normals {
    const PER_BLOCK: usize = 4;

    #[inline]
    fn block<T: Real>(out: &mut [T], [x0, x1, x2, x3]: [u32; 4]) {
        [out[0], out[1]] = pair(x0, x1);
        [out[2], out[3]] = pair(x2, x3);
    }
}

fn pair<T: Real>(a: u32, b: u32) -> [T; 2] {
    let number = |word: u32| T::from_f64(f64::from(word));
    let unit = T::from_f64(1.0 / (1_u64 << 32) as f64);
    let radius = (T::from_f64(-2.0) * ((number(a) + T::from_f64(0.5)) * unit).ln()).sqrt();
    let angle = T::from_f64(core::f64::consts::TAU) * (number(b) * unit);
    [radius * angle.cos(), radius * angle.sin()]
}
