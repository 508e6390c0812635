//! Scores of training examples for queries: inner products of gradients, of sketches, or of preconditioned ones.
//!
//! A block of scores is `[n_train, n_query]`. A score is positive when the plain inner product is: no sign is
//! flipped and nothing is divided by a count. When the whole matrix does not fit, make it in blocks of training rows
//! and feed them to a selection of [`rank`](crate::rank).

use crate::error::{Error, check_shape, take_scratch};
use crate::matmul::matmul;
use crate::reduce;
use crate::scalar::Real;
use crate::view::{MatMut, MatRef};

/// The least norm that a unit row is divided by.
pub const NORM_FLOOR: f64 = 1e-12;

/// Which product of a training row `t` and a query row `q` a score is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Similarity {
    /// `<t, q>`.
    Dot,
    /// `<unit t, unit q>` with `unit v = v / max(|v|, 1e-12)`: a zero row scores 0.
    Cosine,
}

impl Similarity {
    /// The scratch that [`Similarity::scores`] needs.
    pub fn scratch_len(self, n_query: usize) -> usize {
        match self {
            Self::Dot => 0,
            Self::Cosine => n_query,
        }
    }

    /// Sets `out` `[n_train, n_query]` to the similarity of each row of `train` `[n_train, d]` with each row of
    /// `query` `[n_query, d]`.
    ///
    /// The cosine is the inner product divided by both norms, so rows whose products overflow `T` should be scaled
    /// first, by [`unit_rows`] for instance. Cost: `2 n_train n_query d` flops; for the cosine also
    /// `2 (n_train + n_query) d` and two divisions for each score. Error of a cosine: at most
    /// `(d + depth(d) + 9) u` with [`depth`](reduce::depth) and the unit roundoff `u` of `T`, to first order; of an
    /// inner product as in [`scores`].
    ///
    /// # Errors
    /// [`Error::Shape`] when a dimension does not fit, [`Error::Length`] when `scratch` is too short.
    ///
    /// # Examples
    /// ```
    /// use ascribe_core::score::Similarity;
    /// use ascribe_core::{MatMut, MatRef};
    /// let train = MatRef::new(&[3.0, 4.0, 0.0, 0.0], 2, 2)?;
    /// let query = MatRef::new(&[2.0, 0.0], 1, 2)?;
    /// let mut scores = [0.0; 2];
    /// Similarity::Cosine.scores(MatMut::new(&mut scores, 2, 1)?, train, query, &mut [0.0])?;
    /// assert_eq!(scores, [0.6, 0.0]);
    /// # Ok::<(), ascribe_core::Error>(())
    /// ```
    pub fn scores<T: Real>(
        self,
        mut out: MatMut<'_, T>,
        train: MatRef<'_, T>,
        query: MatRef<'_, T>,
        scratch: &mut [T],
    ) -> Result<(), Error> {
        let (query_norms, _) = take_scratch(scratch, self.scratch_len(query.rows()))?;
        scores(out.rb_mut(), train, query)?;
        if self == Self::Cosine && query.rows() > 0 {
            for (norm, row) in query_norms.iter_mut().zip(query.row_iter()) {
                *norm = floored_norm(row);
            }
            out.for_each_row(|i, scores| {
                let train_norm = floored_norm(train.row(i));
                for (score, &query_norm) in scores.iter_mut().zip(&*query_norms) {
                    *score = *score / train_norm / query_norm;
                }
            });
        }
        Ok(())
    }
}

/// Inner products: `out = train query^T`, `[n_train, n_query]`, from `train` `[n_train, d]` and `query`
/// `[n_query, d]`.
///
/// Cost: `2 n_train n_query d` flops. Error of each score: at most `(d + 3) u sum |t_c q_c|` with the unit
/// roundoff `u` of `T`, to first order.
///
/// # Errors
/// [`Error::Shape`] when a dimension does not fit.
///
/// # Examples
/// ```
/// use ascribe_core::score::scores;
/// use ascribe_core::{MatMut, MatRef};
/// let train = MatRef::new(&[1.0_f32, 2.0, -3.0, 0.0], 2, 2)?;
/// let query = MatRef::new(&[1.0, 1.0], 1, 2)?;
/// let mut out = [0.0; 2];
/// scores(MatMut::new(&mut out, 2, 1)?, train, query)?;
/// assert_eq!(out, [3.0, -3.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
pub fn scores<T: Real>(out: MatMut<'_, T>, train: MatRef<'_, T>, query: MatRef<'_, T>) -> Result<(), Error> {
    check_shape("query columns", train.cols(), query.cols())?;
    check_shape("score rows", train.rows(), out.rows())?;
    check_shape("score columns", query.rows(), out.cols())?;
    matmul(out, T::ZERO, T::ONE, train, query.t())
}

/// Inner products of rows with rows of the same number: `out[i] = <a_i, b_i>`.
///
/// With `b = H^-1 a` this is the self-influence. Cost: `2 rows d` flops. Error: that of [`reduce::dot`].
///
/// # Errors
/// [`Error::Shape`] when a dimension does not fit.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, score::row_dots};
/// let gradients = MatRef::new(&[1.0, 2.0, 3.0, 4.0], 2, 2)?;
/// let solved = MatRef::new(&[0.5, 1.0, 1.5, 2.0], 2, 2)?;
/// let mut self_influence = [0.0; 2];
/// row_dots(&mut self_influence, gradients, solved)?;
/// assert_eq!(self_influence, [2.5, 12.5]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
pub fn row_dots<T: Real>(out: &mut [T], a: MatRef<'_, T>, b: MatRef<'_, T>) -> Result<(), Error> {
    check_shape("b rows", a.rows(), b.rows())?;
    check_shape("b columns", a.cols(), b.cols())?;
    check_shape("out elements", a.rows(), out.len())?;
    for (out, (a, b)) in out.iter_mut().zip(a.row_iter().zip(b.row_iter())) {
        *out = reduce::dot(a, b)?;
    }
    Ok(())
}

/// The Euclidean norm of each row; its square is the self-influence under the identity.
///
/// Cost: `2 rows d` flops. Error: that of [`reduce::norm2`], which neither overflows nor underflows on the way.
///
/// # Errors
/// [`Error::Shape`] when `out` does not have one element a row.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, score::row_norms};
/// let mut norms = [0.0; 2];
/// row_norms(&mut norms, MatRef::new(&[3.0, 4.0, 0.0, 0.0], 2, 2)?)?;
/// assert_eq!(norms, [5.0, 0.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
pub fn row_norms<T: Real>(out: &mut [T], x: MatRef<'_, T>) -> Result<(), Error> {
    check_shape("out elements", x.rows(), out.len())?;
    for (norm, row) in out.iter_mut().zip(x.row_iter()) {
        *norm = reduce::norm2(row);
    }
    Ok(())
}

/// Divides each row by `max(|row|, 1e-12)`, the norm as in [`row_norms`].
///
/// A zero row stays zero. A row with a NaN becomes NaN throughout; one with an infinity becomes NaN there and zero
/// elsewhere.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, score::unit_rows};
/// let mut rows = [3.0, 4.0, 0.0, 0.0];
/// unit_rows(MatMut::new(&mut rows, 2, 2)?);
/// assert_eq!(rows, [0.6, 0.8, 0.0, 0.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
pub fn unit_rows<T: Real>(mut x: MatMut<'_, T>) {
    if x.cols() == 0 {
        return;
    }
    x.for_each_row(|_, row| {
        let norm = floored_norm(row);
        for x in row {
            *x /= norm;
        }
    });
}

/// `max(|row|, NORM_FLOOR)`; NaN stays NaN.
fn floored_norm<T: Real>(row: &[T]) -> T {
    let (norm, floor) = (reduce::norm2(row), T::from_f64(NORM_FLOOR));
    if norm < floor { floor } else { norm }
}
