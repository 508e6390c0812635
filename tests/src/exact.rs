//! Sums and products as exact as the laws need them: an oracle in twice the working precision, and integers.

/// `sum_i x_i y_i` as if computed with twice the precision of `f64` and then rounded: its error is at most
/// `u |s| + gamma_n^2 sum_i |x_i y_i|` (Ogita, Rump and Oishi, SIAM J. Sci. Comput. 26, 2005, proposition 5.5),
/// as long as nothing overflows or underflows.
pub fn dot(x: &[f64], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len());
    let (mut sum, mut correction) = (0.0, 0.0);
    for (&x, &y) in x.iter().zip(y) {
        let product = x * y;
        let product_error = x.mul_add(y, -product);
        let next: f64 = sum + product;
        let other = next - sum;
        let sum_error = (sum - (next - other)) + (product - other);
        sum = next;
        correction += product_error + sum_error;
    }
    sum + correction
}

/// A source of small integers: sums and products of them are exact in `f32` and `f64`, so a law over them needs no
/// tolerance at all.
#[derive(Debug)]
pub struct Integers(u64);

impl Integers {
    /// The source of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number in `0..n`, from the high bits of a linear congruence.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n as u64) as usize
    }

    /// An integer in `-2..=2`.
    pub fn small<T: ascribe_core::Scalar>(&mut self) -> T {
        T::from_f64(self.below(5) as f64 - 2.0)
    }

    /// `len` integers in `-2..=2`.
    pub fn vector<T: ascribe_core::Scalar>(&mut self, len: usize) -> Vec<T> {
        (0..len).map(|_| self.small()).collect()
    }
}
