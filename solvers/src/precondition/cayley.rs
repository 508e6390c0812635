//! Cayley's map from skew matrices to rotations, exact or as a product of powers.

use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};

use crate::Error;
use crate::error::{check_finite, check_rows_finite, check_shape, zeros};
use crate::linalg::{Lu, matmul};
use crate::parallel::Parallelism;

/// How a basis is rotated by $\mathrm{Cay}(N) = (I + N)(I - N)^{-1}$, orthogonal for a skew `N`.
///
/// | | flops for `B` `[k, n]` | distance from the map | from orthogonal |
/// |---|---|---|---|
/// | `Exact` | `2 n^3 / 3 + 2 k n^2` | rounding | rounding |
/// | `Truncated(order)` | `2 (order + 1) k n^2 + 2 (order - 1) n^3` | `s^(2^order)` | `2 s^(2^order) + s^(2 2^order)` |
///
/// The distances are bounds of the spectral norm, `s` being that of `N`; beyond `s = 1` the series is of no use. Exact is
/// the cheaper one on a processor; truncated is products alone and needs no factorisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cayley {
    /// By `Cay(N) = 2 (I - N)^-1 - I`: one LU factorisation, no product.
    #[default]
    Exact,
    /// `(I + N)^2 (I + N^2) (I + N^4) ..` with this many factors: the series `(I + N) sum_j N^j` up to
    /// `j < 2^order`, which is good below a norm of 1. At least 1.
    Truncated(u32),
}

impl Cayley {
    /// The largest order: `N^(2^order)` is zero or infinite long before.
    const MAX_ORDER: u32 = 16;

    /// Writes `B Cay(N)`, the rotated rows of `b` `[k, n]`.
    ///
    /// `N` is taken as it is: that it is skew is what makes the result a rotation, not a condition.
    ///
    /// Cost: see the table; memory for `n^2 + k n` numbers, truncated twice that.
    ///
    /// # Errors
    /// A shape error; [`CoreError::NonFinite`] for NaN or infinity in `n`; [`CoreError::Parameter`] for an order
    /// outside 1 to 16; [`Error::NoConvergence`] when the result is not finite (`I - N` is singular, which it never is
    /// for a skew `N`, or numbers overflow). `out` is then untouched.
    ///
    /// # Examples
    /// ```
    /// use ascribe_core::{MatMut, MatRef};
    /// use ascribe_solvers::{parallel::Parallelism::Serial, precondition::Cayley};
    /// let n = MatRef::new(&[0.0, -1.0, 1.0, 0.0], 2, 2)?; // tan(90°/2)
    /// let b = MatRef::new(&[1.0, 0.0, 0.0, 1.0], 2, 2)?;
    /// let mut turned = [0.0; 4];
    /// Cayley::Exact.rotate(MatMut::new(&mut turned, 2, 2)?, b, n, Serial)?;
    /// assert_eq!(turned, [0.0, -1.0, 1.0, 0.0]);
    /// # Ok::<(), ascribe_solvers::Error>(())
    /// ```
    pub fn rotate<T: Real>(
        self,
        mut out: MatMut<'_, T>,
        b: MatRef<'_, T>,
        n: MatRef<'_, T>,
        par: Parallelism,
    ) -> Result<(), Error> {
        let dim = n.rows();
        check_shape("columns of a skew matrix", dim, n.cols())?;
        check_shape("columns of the basis", dim, b.cols())?;
        check_shape("rows of the output", b.rows(), out.rows())?;
        check_shape("columns of the output", dim, out.cols())?;
        check_rows_finite("skew matrix", n)?;
        self.check()?;
        let rotated = self.rotated(b, n.row_iter().flatten().copied().collect(), par)?;
        Ok(out.copy_from(MatRef::new(&rotated, b.rows(), dim)?)?)
    }

    pub(super) fn check(self) -> Result<(), CoreError> {
        match self {
            Self::Truncated(order) if !(1..=Self::MAX_ORDER).contains(&order) => {
                Err(CoreError::Parameter { what: "order of the series", value: order.into(), must_be: "1 to 16" })
            }
            _ => Ok(()),
        }
    }

    /// [`rotate`](Self::rotate) into memory of its own, for arguments that fit; that of `n` is the work space.
    pub(super) fn rotated<T: Real>(self, b: MatRef<'_, T>, n: Vec<T>, par: Parallelism) -> Result<Vec<T>, Error> {
        let rotated = match self {
            Self::Exact => exact(b, n, par),
            Self::Truncated(order) => truncated(order, b, MatRef::new(&n, b.cols(), b.cols())?, par),
        }?;
        check_finite("rotated basis", &rotated)
            .map_err(|_| Error::NoConvergence { what: "Cayley's map (its result is not finite)" })?;
        Ok(rotated)
    }
}

fn exact<T: Real>(b: MatRef<'_, T>, mut n: Vec<T>, par: Parallelism) -> Result<Vec<T>, Error> {
    let dim = b.cols();
    for x in &mut n {
        *x = -*x;
    }
    n.iter_mut().step_by(dim + 1).for_each(|x| *x += T::ONE);
    let lu = Lu::new(n, dim, par)?;
    let two = T::ONE + T::ONE;
    let mut out: Vec<T> = Vec::with_capacity(b.rows() * dim);
    b.row_iter().for_each(|row| out.extend(row.iter().map(|&x| two * x)));
    lu.solve_in_place(MatMut::new(&mut out, b.rows(), dim)?, par)?;
    for (out, b) in out.chunks_exact_mut(dim.max(1)).zip(b.row_iter()) {
        out.iter_mut().zip(b).for_each(|(x, &b)| *x -= b);
    }
    Ok(out)
}

fn truncated<T: Real>(order: u32, b: MatRef<'_, T>, n: MatRef<'_, T>, par: Parallelism) -> Result<Vec<T>, Error> {
    let (rows, dim) = (b.rows(), n.rows());
    let mut out: Vec<T> = Vec::with_capacity(rows * dim);
    b.row_iter().for_each(|row| out.extend_from_slice(row));
    let mut before: Vec<T> = zeros("rotated basis", rows.checked_mul(dim))?;
    let mut multiply = |power: MatRef<'_, T>| {
        before.copy_from_slice(&out);
        matmul(MatMut::new(&mut out, rows, dim)?, T::ONE, T::ONE, MatRef::new(&before, rows, dim)?, power, par)
    };
    multiply(n)?;
    multiply(n)?;
    if order > 1 {
        let (mut power, mut square) = (zeros("power", Some(dim * dim))?, zeros("power", Some(dim * dim))?);
        matmul(MatMut::new(&mut power, dim, dim)?, T::ZERO, T::ONE, n, n, par)?;
        multiply(MatRef::new(&power, dim, dim)?)?;
        for _ in 2..order {
            let old = MatRef::new(&power, dim, dim)?;
            matmul(MatMut::new(&mut square, dim, dim)?, T::ZERO, T::ONE, old, old, par)?;
            std::mem::swap(&mut power, &mut square);
            multiply(MatRef::new(&power, dim, dim)?)?;
        }
    }
    Ok(out)
}
