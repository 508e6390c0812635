//! Cross-covariance of two sets of columns, accumulated over rows.

use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};

use crate::Error;
use crate::error::{check_finite, check_shape, zeros};
use crate::linalg::matmul;
use crate::parallel::Parallelism;

/// Rows of a batch that are centred together,
const BLOCK: usize = 64;
/// and the numbers that they may have, unless a single row has more.
const BLOCK_LEN: usize = 1 << 22;

/// Means, variances and the cross-covariance `[n, m]` of `a` `[K, n]` and `b` `[K, m]`, whose rows come in batches: in
/// f64, by updates that stay accurate on a large offset.
///
/// The first row is subtracted from all others, which is exact for numbers that are close to it; each batch is
/// centred by its own mean, and batches are merged with $C \leftarrow C + C' + \frac{K K'}{K + K'} \delta_a
/// \delta_b^\top$, `delta` being the difference of the means. So a column that is constant has a variance of exactly
/// 0, and batches and their order change a result by rounding only. Cost: `2 r n m` flops for `r` rows. Memory:
/// `n m + 3 (n + m)` doubles, and at most 4 million while a batch is added, unless a single row has more.
///
/// # Examples
/// ```
/// use ascribe_core::MatRef;
/// use ascribe_solvers::{attribution::CrossCovariance, parallel::Parallelism::Serial};
/// let mut statistics = CrossCovariance::new(2, 1)?;
/// let (a, b) = ([1e9, 5.0, 1e9 + 2.0, 5.0], [1.0, 4.0]);
/// statistics.add(MatRef::new(&a, 2, 2)?, MatRef::new(&b, 2, 1)?, Serial)?;
/// assert_eq!(statistics.covariance()?, [3.0, 0.0]);
/// assert_eq!(statistics.correlation()?, [1.0, 0.0]);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
#[derive(Debug, Clone, PartialEq)]
pub struct CrossCovariance {
    rows: u64,
    a: Side,
    b: Side,
    /// `sum (a - mean a) (b - mean b)^T`, `[n, m]`.
    products: Vec<f64>,
}

/// The columns of one side.
#[derive(Debug, Clone, PartialEq)]
struct Side {
    /// The first row.
    origin: Vec<f64>,
    /// The mean of what is left after the origin.
    mean: Vec<f64>,
    /// `sum (x - mean x)^2`.
    squares: Vec<f64>,
}

impl CrossCovariance {
    /// Of no rows yet, with `n` columns in `a` and `m` in `b`.
    ///
    /// # Errors
    /// [`CoreError::Overflow`] when `n m` doubles do not fit into memory.
    pub fn new(n: usize, m: usize) -> Result<Self, Error> {
        let products = zeros("cross-covariance", n.checked_mul(m))?;
        Ok(Self { rows: 0, a: Side::new(n)?, b: Side::new(m)?, products })
    }

    /// The number of rows added.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Adds rows of both sides.
    ///
    /// # Errors
    /// A shape error; [`CoreError::NonFinite`] for NaN or infinity, or when a sum of squares overflows. Nothing is
    /// added then.
    pub fn add<T: Real, U: Real>(&mut self, a: MatRef<'_, T>, b: MatRef<'_, U>, par: Parallelism) -> Result<(), Error> {
        check_shape("rows of b", a.rows(), b.rows())?;
        check_shape("columns of a", self.a.width(), a.cols())?;
        check_shape("columns of b", self.b.width(), b.cols())?;
        let total = self.rows.checked_add(a.rows() as u64).ok_or(CoreError::Overflow { what: "rows" })?;
        // There may be any number of rows without elements.
        if a.cols() == 0 && b.cols() == 0 {
            self.rows = total;
            return Ok(());
        }
        // The vectors of a side are few beside the products: tried on a copy, so that an error changes nothing.
        let (mut side_a, mut side_b, mut rows) = (self.a.clone(), self.b.clone(), self.rows);
        let size = (BLOCK_LEN / a.cols().saturating_add(b.cols()).max(1)).clamp(1, BLOCK);
        let blocks = || (0..a.rows()).step_by(size).map(|start| (start, size.min(a.rows() - start)));
        for (start, count) in blocks() {
            let (batch_a, batch_b) = (a.row_range(start, count)?, b.row_range(start, count)?);
            side_a.merge(rows, &side_a.summary(rows, batch_a)?.0, count as u64);
            side_b.merge(rows, &side_b.summary(rows, batch_b)?.0, count as u64);
            rows += count as u64;
        }
        check_finite("sums of squares of a", &side_a.squares)?;
        check_finite("sums of squares of b", &side_b.squares)?;
        for (start, count) in blocks() {
            let (batch_a, batch_b) = (a.row_range(start, count)?, b.row_range(start, count)?);
            let (side_a, centred_a) = self.a.summary(self.rows, batch_a)?;
            let (side_b, centred_b) = self.b.summary(self.rows, batch_b)?;
            let products = MatMut::new(&mut self.products, self.a.width(), self.b.width())?;
            let (centred_a, centred_b) =
                (MatRef::new(&centred_a, count, a.cols())?, MatRef::new(&centred_b, count, b.cols())?);
            matmul(products, 1.0, 1.0, centred_a.t(), centred_b, par)?;
            self.merge_sides(&side_a, &side_b, count as u64);
        }
        Ok(())
    }

    /// Adds what `other` has seen.
    ///
    /// # Errors
    /// A shape error; [`CoreError::NonFinite`] when a sum of squares overflows. Nothing is added then.
    pub fn merge(&mut self, other: &Self) -> Result<(), Error> {
        check_shape("columns of a", self.a.width(), other.a.width())?;
        check_shape("columns of b", self.b.width(), other.b.width())?;
        self.rows.checked_add(other.rows).ok_or(CoreError::Overflow { what: "rows" })?;
        if other.rows == 0 {
            return Ok(());
        }
        let (mut a, mut b) = (self.a.clone(), self.b.clone());
        a.merge(self.rows, &other.a, other.rows);
        b.merge(self.rows, &other.b, other.rows);
        check_finite("sums of squares of a", &a.squares)?;
        check_finite("sums of squares of b", &b.squares)?;
        self.products.iter_mut().zip(&other.products).for_each(|(sum, x)| *sum += x);
        self.merge_sides(&other.a, &other.b, other.rows);
        Ok(())
    }

    /// The means, and what their difference adds to the products; `products` of the batch itself are in already.
    fn merge_sides(&mut self, a: &Side, b: &Side, rows: u64) {
        let weight = self.rows as f64 * (rows as f64 / (self.rows + rows) as f64);
        if self.rows > 0 {
            let delta_b: Vec<f64> = self.b.differences(b).collect();
            for (products, delta) in self.products.chunks_exact_mut(delta_b.len().max(1)).zip(self.a.differences(a)) {
                let factor = weight * delta;
                products.iter_mut().zip(&delta_b).for_each(|(sum, delta)| *sum += factor * delta);
            }
        }
        self.a.merge(self.rows, a, rows);
        self.b.merge(self.rows, b, rows);
        self.rows += rows;
    }

    /// The means of the columns of `a`; zeros before there are rows.
    pub fn mean_a(&self) -> Vec<f64> {
        self.a.means()
    }

    /// The means of the columns of `b`; zeros before there are rows.
    pub fn mean_b(&self) -> Vec<f64> {
        self.b.means()
    }

    /// `sum (a - mean a) (b - mean b)^T`, `[n, m]`: the covariance before the division.
    pub fn products(&self) -> &[f64] {
        &self.products
    }

    /// The sample covariance `[n, m]`, with divisor `K - 1`.
    ///
    /// # Errors
    /// [`CoreError::Length`] for fewer than two rows.
    pub fn covariance(&self) -> Result<Vec<f64>, Error> {
        let divisor = self.degrees_of_freedom()?;
        Ok(self.products.iter().map(|x| x / divisor).collect())
    }

    /// The correlation `[n, m]`, in [-1, 1]; 0 where a column is constant.
    ///
    /// # Errors
    /// [`CoreError::Length`] for fewer than two rows.
    pub fn correlation(&self) -> Result<Vec<f64>, Error> {
        self.degrees_of_freedom()?;
        let b: Vec<f64> = self.b.squares.iter().map(|square| square.sqrt()).collect();
        let mut out = self.products.clone();
        for (row, a) in out.chunks_exact_mut(b.len().max(1)).zip(&self.a.squares) {
            let a = a.sqrt();
            for (x, &b) in row.iter_mut().zip(&b) {
                *x = if a > 0.0 && b > 0.0 { (*x / a / b).clamp(-1.0, 1.0) } else { 0.0 };
            }
        }
        Ok(out)
    }

    fn degrees_of_freedom(&self) -> Result<f64, Error> {
        if self.rows < 2 {
            return Err(CoreError::Length { what: "rows of a covariance", needed: 2, got: self.rows as usize }.into());
        }
        Ok((self.rows - 1) as f64)
    }
}

impl Side {
    fn new(width: usize) -> Result<Self, Error> {
        let zeros = || zeros("statistics of columns", Some(width));
        Ok(Self { origin: zeros()?, mean: zeros()?, squares: zeros()? })
    }

    fn width(&self) -> usize {
        self.mean.len()
    }

    fn means(&self) -> Vec<f64> {
        self.origin.iter().zip(&self.mean).map(|(origin, mean)| origin + mean).collect()
    }

    /// What a batch with at least one row is by itself, and the batch centred; `rows` have been added before.
    fn summary<T: Real>(&self, rows: u64, batch: MatRef<'_, T>) -> Result<(Self, Vec<f64>), CoreError> {
        let (count, width) = (batch.rows(), batch.cols());
        let origin = if rows > 0 { self.origin.clone() } else { batch.row(0).iter().map(|x| x.to_f64()).collect() };
        let mut centred: Vec<f64> = zeros("centred rows", count.checked_mul(width))?;
        for (i, (row, out)) in batch.row_iter().zip(centred.chunks_exact_mut(width.max(1))).enumerate() {
            for (j, (out, (x, origin))) in out.iter_mut().zip(row.iter().zip(&origin)).enumerate() {
                *out = x.to_f64() - origin;
                if !out.is_finite() {
                    return Err(CoreError::NonFinite { what: "rows of a covariance", index: i * width + j });
                }
            }
        }
        // Twice: the second mean is what rounding left out of the first.
        let mut mean = vec![0.0; width];
        for _ in 0..2 {
            let mut left = vec![0.0; width];
            for row in centred.chunks_exact(width.max(1)) {
                left.iter_mut().zip(row).for_each(|(sum, x)| *sum += x / count as f64);
            }
            for row in centred.chunks_exact_mut(width.max(1)) {
                row.iter_mut().zip(&left).for_each(|(x, mean)| *x -= mean);
            }
            mean.iter_mut().zip(&left).for_each(|(mean, left)| *mean += left);
        }
        let mut squares = vec![0.0; width];
        for row in centred.chunks_exact(width.max(1)) {
            squares.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * x);
        }
        Ok((Self { origin, mean, squares }, centred))
    }

    /// The means of `other` minus these.
    fn differences<'s>(&'s self, other: &'s Self) -> impl Iterator<Item = f64> + use<'s> {
        let origins = other.origin.iter().zip(&self.origin).map(|(other, own)| other - own);
        origins.zip(other.mean.iter().zip(&self.mean)).map(|(origin, (other, own))| origin + (other - own))
    }

    /// Takes in the `other_rows` rows of `other`, after `rows` of its own.
    fn merge(&mut self, rows: u64, other: &Self, other_rows: u64) {
        if rows == 0 {
            self.clone_from(other);
            return;
        }
        let share = other_rows as f64 / (rows + other_rows) as f64;
        let differences: Vec<f64> = self.differences(other).collect();
        let sums = self.mean.iter_mut().zip(&mut self.squares);
        for ((mean, square), (delta, other)) in sums.zip(differences.iter().zip(&other.squares)) {
            *mean += share * delta;
            *square += other + rows as f64 * share * delta * delta;
        }
    }
}
