//! Gradients in an optimizer's units: divided by the root of its second moments, before they are projected.
//!
//! Adam's and Adafactor's scalings are linear, so they are operators or scaled factors of a record; LESS also moves by
//! a momentum.

use crate::error::{Error, check_shape};
use crate::linop::{Adjoint, LinOp, PositiveSemidefinite, SelfAdjoint, check_apply};
use crate::scalar::Real;
use crate::view::{MatMut, MatRef};

/// Second moments of one parameter each, as Adam keeps them: `y = x / (sqrt(v) + eps)`, with `eps` outside of the root.
///
/// Where `v` and `eps` are 0 the result is infinite or NaN, as the formula says. Cost for `n` rows of length `p`:
/// `3 n p` flops; three roundings an element.
///
/// # Errors
/// [`Error::Parameter`] from [`Adam::new`] for a negative or non-finite `eps`.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, linop::apply_alloc, scale::Adam};
/// let adam = Adam::new(&[4.0, 0.25], 0.0)?;
/// assert_eq!(apply_alloc(&adam, MatRef::from_row(&[1.0, 1.0]))?, [0.5, 2.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
///
/// # References
/// Kingma and Ba, arXiv:1412.6980, algorithm 1 (without the bias correction, which the caller divides `v` by).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam<'a, T> {
    second_moments: &'a [T],
    eps: T,
}

impl<'a, T: Real> Adam<'a, T> {
    /// With the second moments `v` and `eps >= 0`; Adam's default is `1e-8`.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a negative or non-finite `eps`.
    pub fn new(second_moments: &'a [T], eps: f64) -> Result<Self, Error> {
        Ok(Self { second_moments, eps: T::from_f64(check_eps(eps)?) })
    }
}

impl<T: Real> LinOp<T> for Adam<'_, T> {
    fn dim_in(&self) -> usize {
        self.second_moments.len()
    }
    fn dim_out(&self) -> usize {
        self.second_moments.len()
    }
    fn apply(&self, mut out: MatMut<'_, T>, x: MatRef<'_, T>, _: &mut [T]) -> Result<(), Error> {
        check_apply(self.dim_in(), self.dim_out(), &out, &x)?;
        out.for_each_row(|i, out| {
            for ((out, &x), v) in out.iter_mut().zip(x.row(i)).zip(self.second_moments) {
                *out = x / (v.sqrt() + self.eps);
            }
        });
        Ok(())
    }
}

impl<T: Real> SelfAdjoint<T> for Adam<'_, T> {}
impl<T: Real> PositiveSemidefinite<T> for Adam<'_, T> {}

impl<T: Real> Adjoint<T> for Adam<'_, T> {
    fn apply_transpose(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        self.apply(out, x, scratch)
    }
}

/// The update that Adam would make for one gradient, as LESS compares them: `eps` inside of the root, no correction of
/// the bias.
///
/// $$y = \frac{\beta_1 m + (1 - \beta_1) x}{\sqrt{\beta_2 v + (1 - \beta_2) x^2 + \epsilon}}.$$
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef, scale::Less};
/// let less = Less { beta1: 0.5, beta2: 0.0, eps: 0.0 };
/// let mut y = [0.0; 2];
/// less.apply(MatMut::from_row(&mut y), MatRef::from_row(&[2.0, -4.0]), &[2.0, 4.0], &[9.0, 9.0])?;
/// assert_eq!(y, [1.0, 0.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
///
/// # References
/// Xia et al., arXiv:2402.04333, equation 2 and its code, which has `eps` inside of the root: its floor is 1e-4, so
/// gradients much below that are scaled alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Less {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// What is added under the root.
    pub eps: f64,
}

impl Default for Less {
    /// 0.9, 0.999 and `1e-8`, as in the paper's code.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8 }
    }
}

impl Less {
    /// Sets each row of `out` to the update for that row of `x`, from the moments `m` and `v`. Cost: nine flops an
    /// element.
    ///
    /// # Errors
    /// [`Error::Shape`] when a length does not fit; [`Error::Parameter`] for a `beta` outside `[0, 1]` or a negative
    /// or non-finite `eps`.
    pub fn apply<T: Real>(&self, mut out: MatMut<'_, T>, x: MatRef<'_, T>, m: &[T], v: &[T]) -> Result<(), Error> {
        check_apply(m.len(), m.len(), &out, &x)?;
        check_shape("second moments", m.len(), v.len())?;
        for (what, value) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::Parameter { what, value, must_be: "in [0, 1]" });
            }
        }
        let eps = T::from_f64(check_eps(self.eps)?);
        let [beta1, beta2, rest1, rest2] =
            [self.beta1, self.beta2, 1.0 - self.beta1, 1.0 - self.beta2].map(T::from_f64);
        out.for_each_row(|i, out| {
            for ((out, &x), (&m, &v)) in out.iter_mut().zip(x.row(i)).zip(m.iter().zip(v)) {
                *out = (beta1 * m + rest1 * x) / (beta2 * v + rest2 * (x * x) + eps).sqrt();
            }
        });
        Ok(())
    }
}

/// Second moments of a weight `[out, in]` as a product of row and column statistics, as Adafactor keeps them.
///
/// $$V_{oi} = \frac{(r_o + \epsilon)(c_i + \epsilon)}{\mathrm{mean}(r + \epsilon)}, \qquad
///   \frac{1}{\sqrt{V}} = a b^T, \quad a_o = \sqrt{\mathrm{mean}(r + \epsilon) / (r_o + \epsilon)}, \quad
///   b_i = \frac{1}{\sqrt{c_i + \epsilon}}.$$
///
/// `G / sqrt(V) = sum_t (a * delta_t)(b * x_t)^T`: scaling the factors of a record scales its gradients, which are not
/// formed. Bias parameters have moments of their own and no column in `V`: [`Adam`] scales their gradients, or
/// [`Adafactor::scale_bias`] with `eps` inside of the root.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef, scale::Adafactor};
/// let moments = Adafactor { row: &[1.0, 4.0], col: &[4.0], eps: 0.0 };
/// let (mut delta, mut x) = ([0.0; 2], [0.0; 1]);
/// moments.scale_outputs(MatMut::from_row(&mut delta), MatRef::from_row(&[1.0, 1.0]))?;
/// moments.scale_inputs(MatMut::from_row(&mut x), MatRef::from_row(&[3.0]))?;
/// assert_eq!((delta, x), ([f64::sqrt(2.5), f64::sqrt(2.5) / 2.0], [1.5]));
/// # Ok::<(), ascribe_core::Error>(())
/// ```
///
/// # References
/// Shazeer and Stern, arXiv:1804.04235, section 3.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adafactor<'a, T> {
    /// `r`, the mean squares of the rows, `[out]`.
    pub row: &'a [T],
    /// `c`, the mean squares of the columns, `[in]`.
    pub col: &'a [T],
    /// What is added to each; Adafactor's is `1e-30`.
    pub eps: f64,
}

impl<T: Real> Adafactor<'_, T> {
    /// Each row of `out` `[n, out]` is that of `delta`, times `a`. Cost: `4 n out` flops.
    ///
    /// # Errors
    /// [`Error::Shape`] when a length does not fit, [`Error::Parameter`] for a negative or non-finite `eps`.
    pub fn scale_outputs(&self, mut out: MatMut<'_, T>, delta: MatRef<'_, T>) -> Result<(), Error> {
        check_apply(self.row.len(), self.row.len(), &out, &delta)?;
        let eps = T::from_f64(check_eps(self.eps)?);
        let mean = mean(self.row.iter().map(|r| (*r + eps).to_f64()));
        let root = T::from_f64(crate::Scalar::sqrt(mean));
        out.for_each_row(|i, out| {
            for ((out, &delta), &r) in out.iter_mut().zip(delta.row(i)).zip(self.row) {
                *out = delta * (root / (r + eps).sqrt());
            }
        });
        Ok(())
    }

    /// Each row of `out` `[n, in]` is that of `x`, times `b`. Cost: `3 n in` flops.
    ///
    /// # Errors
    /// As [`scale_outputs`](Self::scale_outputs).
    pub fn scale_inputs(&self, mut out: MatMut<'_, T>, x: MatRef<'_, T>) -> Result<(), Error> {
        check_apply(self.col.len(), self.col.len(), &out, &x)?;
        let eps = T::from_f64(check_eps(self.eps)?);
        out.for_each_row(|i, out| {
            for ((out, &x), &c) in out.iter_mut().zip(x.row(i)).zip(self.col) {
                *out = x / (c + eps).sqrt();
            }
        });
        Ok(())
    }

    /// Each row of `out` is the gradient `g` of a bias over `sqrt(v + eps)`, from moments `v` of its own.
    ///
    /// # Errors
    /// [`Error::Shape`] when a length does not fit, [`Error::Parameter`] for a negative or non-finite `eps`.
    pub fn scale_bias(mut out: MatMut<'_, T>, g: MatRef<'_, T>, v: &[T], eps: f64) -> Result<(), Error> {
        check_apply(v.len(), v.len(), &out, &g)?;
        let eps = T::from_f64(check_eps(eps)?);
        out.for_each_row(|i, out| {
            for ((out, &g), &v) in out.iter_mut().zip(g.row(i)).zip(v) {
                *out = g / (v + eps).sqrt();
            }
        });
        Ok(())
    }
}

/// Adam's second moments `v` `[out, in]` as Adafactor's: sets `row` `[out]` to the means of its rows and `col` `[in]`
/// to those of its columns.
///
/// `row col^T / mean(row)` has the sums of all rows and columns of `v`, and is `v` where that has rank 1. Summed in
/// f64. Without elements there is nothing to take a mean of: it is 0 then.
///
/// # Errors
/// [`Error::Shape`] when a length does not fit.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, scale::to_adafactor};
/// let (mut row, mut col) = ([0.0; 2], [0.0; 2]);
/// to_adafactor(&mut row, &mut col, MatRef::new(&[1.0, 3.0, 2.0, 6.0], 2, 2)?)?;
/// assert_eq!((row, col), ([2.0, 4.0], [1.5, 4.5]));
/// # Ok::<(), ascribe_core::Error>(())
/// ```
pub fn to_adafactor<T: Real>(row: &mut [T], col: &mut [T], v: MatRef<'_, T>) -> Result<(), Error> {
    check_shape("row statistics", v.rows(), row.len())?;
    check_shape("column statistics", v.cols(), col.len())?;
    for (out, v) in row.iter_mut().zip(v.row_iter()) {
        *out = T::from_f64(mean(v.iter().map(|v| v.to_f64())));
    }
    for (j, out) in col.iter_mut().enumerate() {
        *out = T::from_f64(mean(v.row_iter().map(|v| v[j].to_f64())));
    }
    Ok(())
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len();
    if count == 0 { 0.0 } else { values.sum::<f64>() / count as f64 }
}

fn check_eps(value: f64) -> Result<f64, Error> {
    let must_be = "finite and not negative";
    if value.is_finite() && value >= 0.0 { Ok(value) } else { Err(Error::Parameter { what: "eps", value, must_be }) }
}
