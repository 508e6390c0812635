//! Gram matrices of gradients, accumulated batch by batch.

use ascribe_core::derivative::Reduction;
use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};

use crate::Error;
use crate::error::{check_shape, zeros};
use crate::linalg::Rows;
use crate::parallel::Parallelism;

/// `sum_n w_n g_n g_n^T` over gradient rows that come in batches, in the precision `S`.
///
/// A batch of `r` rows costs `r dim^2` flops; memory is `dim^2 * size_of::<S>()` and the work space of
/// [`linalg::gram`](crate::linalg::gram()), whose error bound holds for each batch; each batch adds one rounding in
/// `S`, so use f64 for very many small ones.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, derivative::Reduction};
/// use ascribe_solvers::{curvature::Gram, parallel::Parallelism::Serial};
/// let mut gram = Gram::<f64>::new(2, Serial)?;
/// gram.add(MatRef::from_row(&[1.0_f32, 2.0]), None)?;
/// gram.add(MatRef::from_row(&[3.0_f32, 0.0]), Some(&[2.0]))?;
/// assert_eq!(gram.matrix(Reduction::Sum)?, [19.0, 2.0, 2.0, 4.0]);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Gram<S> {
    sum: Sum<S>,
    rows: u64,
    par: Parallelism,
}

impl<S: Real> Gram<S> {
    /// Of no rows yet, of length `dim`.
    ///
    /// # Errors
    /// [`CoreError::Overflow`] when `dim^2` numbers do not fit into memory.
    pub fn new(dim: usize, par: Parallelism) -> Result<Self, Error> {
        Ok(Self { sum: Sum::new(dim)?, rows: 0, par })
    }

    /// The length of the rows.
    pub fn dim(&self) -> usize {
        self.sum.dim
    }

    /// The number of rows added.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Adds the rows of `g`, each with its weight if there are any; a weight may be negative.
    ///
    /// # Errors
    /// A shape error; [`CoreError::NonFinite`] when an element or a weight is; [`CoreError::Parameter`] when the sum
    /// would overflow; [`CoreError::Overflow`] of the count. Nothing is added then.
    pub fn add<T: Real>(&mut self, g: MatRef<'_, T>, weights: Option<&[T]>) -> Result<(), Error> {
        check_shape("gradient columns", self.dim(), g.cols())?;
        if let Some(weights) = weights {
            check_shape("weights", g.rows(), weights.len())?;
            crate::error::check_finite("weights", weights)?;
        }
        let rows = Rows { weights, ..Rows::new(g) };
        let total = checked_sum("rows", self.rows, g.rows() as u64)?;
        self.sum.check_room::<T>("gradients", checked_trace("gradients", &rows, &rows, self.par)?)?;
        self.sum.add(rows, self.par)?;
        self.rows = total;
        Ok(())
    }

    /// Adds what `other` has seen.
    ///
    /// # Errors
    /// A shape error, [`CoreError::Parameter`] or [`CoreError::Overflow`] as in [`Gram::add`].
    pub fn merge(&mut self, other: &Self) -> Result<(), Error> {
        let total = checked_sum("rows", self.rows, other.rows)?;
        self.sum.check_merge("gradients", &other.sum)?;
        self.sum.merge(&other.sum);
        self.rows = total;
        Ok(())
    }

    /// The symmetric matrix `[dim, dim]`, row-major: the sum, or the mean over rows, whatever their weights.
    ///
    /// # Errors
    /// [`CoreError::Empty`] for the mean of no rows.
    pub fn matrix(&self, reduction: Reduction) -> Result<Vec<S>, Error> {
        match reduction {
            Reduction::Sum => Ok(self.sum.symmetric(1)),
            Reduction::Mean if self.rows == 0 => Err(CoreError::Empty { what: "rows of a Gram matrix" }.into()),
            Reduction::Mean => Ok(self.sum.symmetric(self.rows)),
        }
    }
}

/// A symmetric sum `[dim, dim]` of which the lower triangle is kept up.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sum<S> {
    pub(super) dim: usize,
    /// Row-major, zero above the diagonal.
    pub(super) lower: Vec<S>,
}

impl<S: Real> Sum<S> {
    pub(super) fn new(dim: usize) -> Result<Self, Error> {
        Ok(Self { dim, lower: zeros("Gram matrix", dim.checked_mul(dim))? })
    }

    fn trace(&self) -> f64 {
        self.lower.iter().step_by(self.dim + 1).map(|x| x.to_f64()).sum()
    }

    /// That sums with this trace in `T` can be added, and that no element overflows: each is at most the trace, and
    /// a factor of 2 covers the rounding of both.
    pub(super) fn check_room<T: Real>(&self, what: &'static str, trace: f64) -> Result<(), Error> {
        let total = trace + self.trace();
        if trace <= 0.5 * T::MAX.to_f64() && total <= 0.5 * S::MAX.to_f64() {
            return Ok(());
        }
        Err(overflow(what, total))
    }

    pub(super) fn check_merge(&self, what: &'static str, other: &Self) -> Result<(), Error> {
        check_shape(what, self.dim, other.dim)?;
        self.check_room::<S>(what, other.trace())
    }

    pub(super) fn add<T: Real>(&mut self, rows: Rows<'_, T>, par: Parallelism) -> Result<(), Error> {
        Ok(rows.add_gram(MatMut::new(&mut self.lower, self.dim, self.dim)?, par)?)
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (sum, &x) in self.lower.iter_mut().zip(&other.lower) {
            *sum += x;
        }
    }

    /// Both triangles, divided by a count.
    pub(super) fn symmetric(&self, count: u64) -> Vec<S> {
        let n = self.dim;
        let mut out = self.lower.clone();
        for i in 0..n {
            for j in 0..=i {
                let x = S::from_f64(self.lower[i * n + j].to_f64() / count as f64);
                out[i * n + j] = x;
                out[j * n + i] = x;
            }
        }
        out
    }
}

/// The trace that `rows` add, or the error that says where `source`, which they were made of, is not finite.
pub(super) fn checked_trace<T: Real>(
    what: &'static str,
    rows: &Rows<'_, T>,
    source: &Rows<'_, T>,
    par: Parallelism,
) -> Result<f64, Error> {
    let trace = rows.trace(par);
    if trace.is_finite() {
        return Ok(trace);
    }
    let bad = source.iter().find_map(|(index, row)| Some((index, row.iter().position(|x| !x.is_finite())?)));
    match bad {
        Some((row, col)) => Err(CoreError::NonFinite { what, index: row * source.x.cols() + col }.into()),
        None => Err(overflow(what, trace)),
    }
}

/// The sum of two counts.
pub(super) fn checked_sum(what: &'static str, a: u64, b: u64) -> Result<u64, Error> {
    a.checked_add(b).ok_or(CoreError::Overflow { what }.into())
}

fn overflow(what: &'static str, value: f64) -> Error {
    let must_be = "of a sum of squares below half of the largest number; scale them down or use f64";
    CoreError::Parameter { what, value, must_be }.into()
}
