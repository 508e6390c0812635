//! The nearest matrix with orthonormal rows or columns, by Newton-Schulz iterations.

use ascribe_core::{Error as CoreError, MatMut, MatRef, Real, reduce};

use super::check::check_rate;
use super::transpose::transpose;
use crate::Error;
use crate::error::{check_finite, check_rows_finite, check_shape, filled_rows};
use crate::linalg::matmul;
use crate::parallel::Parallelism;

/// The polynomial of each step: `X <- a X + (b A + c A^2) X` with `A = X X^T`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Polynomials<'a> {
    /// Muon's `(3.4445, -4.7750, 2.0315)`: five steps bring singular values to about `[0.7, 1.3]`; it does **not**
    /// converge.
    Muon,
    /// `(1.5, -0.5, 0)`: converges quadratically, slowly from small singular values.
    Cubic,
    /// `(15, -10, 3) / 8`: converges cubically, and faster from small singular values.
    Quintic,
    /// `(3, -3.2, 1.2)`: the fastest of these from small singular values; converges linearly at the end, where its slope
    /// is -0.6.
    QuinticFast,
    /// Eight polynomials, each best for the singular values that those before it leave, and then the last again: the
    /// fastest that converges.
    PolarExpress,
    /// `(a, b, c)` step by step, the last one repeating.
    Custom(&'a [[f64; 3]]),
}

/// Amsel et al., arXiv:2505.16932, for singular values from 1e-3 on, each with the authors' safety factor of 1.01.
const POLAR_EXPRESS: [[f64; 3]; 8] = [
    [8.2051, -22.9019, 16.4607],
    [4.0664, -2.8612, 0.5184],
    [3.9096, -2.8234, 0.5250],
    [3.2856, -2.4153, 0.4853],
    [2.2779, -1.6198, 0.3985],
    [1.8726, -1.2307, 0.3585],
    [1.8564, -1.2132, 0.3568],
    [1.8750, -1.2500, 0.3750],
];

impl Polynomials<'_> {
    /// `(a, b, c)` of `a x + b x^3 + c x^5`, which is what a singular value becomes, step by step; the last one repeats.
    pub fn coefficients(&self) -> &[[f64; 3]] {
        match self {
            Self::Muon => &[[3.4445, -4.7750, 2.0315]],
            Self::Cubic => &[[1.5, -0.5, 0.0]],
            Self::Quintic => &[[1.875, -1.25, 0.375]],
            Self::QuinticFast => &[[3.0, -3.2, 1.2]],
            Self::PolarExpress => &POLAR_EXPRESS,
            Self::Custom(rows) => rows,
        }
    }
}

/// Approximates the orthogonal polar factor `U V^T` of `G = U S V^T` by polynomials in `G`: what Muon makes of a
/// momentum matrix. Zero singular values stay zero up to
/// rounding, which grows by the `a` of each step.
///
/// `X = G / (|G|_F + norm_epsilon)`, then `steps` polynomials. Cost of a step on `m x n` with `m <= n` (the transpose is
/// taken otherwise): `4 m^2 n + 2 m^3` flops. Memory: `m n + 2 m^2` numbers.
///
/// # References
/// Jordan et al., *Muon* (2024), for the five-step polynomial; Amsel et al., arXiv:2505.16932, algorithm 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Orthogonalize<'a> {
    /// Default [`Polynomials::PolarExpress`].
    pub polynomials: Polynomials<'a>,
    /// Default 8.
    pub steps: usize,
    /// Multiplies the result by `sqrt(max(1, rows / cols))`, as Muon does; default false.
    pub scale: bool,
    /// Default 1e-7.
    pub norm_epsilon: f64,
}

impl Default for Orthogonalize<'_> {
    fn default() -> Self {
        Self { polynomials: Polynomials::PolarExpress, steps: 8, scale: false, norm_epsilon: 1e-7 }
    }
}

impl Orthogonalize<'_> {
    /// Muon's own setting.
    pub fn muon() -> Self {
        Self { polynomials: Polynomials::Muon, steps: 5, scale: true, ..Self::default() }
    }

    /// Writes the polar factor of `g` to `out`, which has its shape.
    ///
    /// # Errors
    /// A shape error; [`CoreError::NonFinite`]; [`CoreError::Parameter`] for a `norm_epsilon` that is negative or not
    /// finite; [`CoreError::Empty`] for a custom schedule without rows; [`Error::Diverged`] with the step at which custom
    /// polynomials leave the finite numbers. `out` is untouched then.
    ///
    /// # Examples
    /// ```
    /// use ascribe_core::{MatMut, MatRef};
    /// use ascribe_solvers::{parallel::Parallelism, precondition::Orthogonalize};
    /// let (g, mut q) = ([3.0, 0.0, 0.0, 0.0, -0.1, 0.0], [0.0_f64; 6]);
    /// let out = MatMut::new(&mut q, 2, 3)?;
    /// Orthogonalize::default().apply(out, MatRef::new(&g, 2, 3)?, Parallelism::Serial)?;
    /// assert!((q[0] - 1.0).abs() < 1e-6 && (q[4] + 1.0).abs() < 1e-6);
    /// # Ok::<(), ascribe_solvers::Error>(())
    /// ```
    pub fn apply<T: Real>(&self, mut out: MatMut<'_, T>, g: MatRef<'_, T>, par: Parallelism) -> Result<(), Error> {
        check_shape("rows", g.rows(), out.rows())?;
        check_shape("columns", g.cols(), out.cols())?;
        check_rate("norm_epsilon", self.norm_epsilon)?;
        check_rows_finite("matrix", g)?;
        let Some(last) = self.polynomials.coefficients().last() else {
            return Err(CoreError::Empty { what: "polynomials" }.into());
        };
        let (m, n) = (g.rows(), g.cols());
        if m == 0 || n == 0 {
            return Ok(());
        }
        let tall = m > n;
        let (rows, cols) = if tall { (n, m) } else { (m, n) };
        let mut x = self.normalised(g);
        if tall {
            let mut wide = vec![T::ZERO; m * n];
            transpose(&mut wide, &x, m, n, par, |_, x| x);
            x = wide;
        }
        let (mut gram, mut mixed, mut next) =
            (vec![T::ZERO; rows * rows], vec![T::ZERO; rows * rows], vec![T::ZERO; rows * cols]);
        for step in 0..self.steps {
            let [a, b, c] = self.polynomials.coefficients().get(step).unwrap_or(last).map(T::from_f64);
            let view = MatRef::new(&x, rows, cols)?;
            matmul(MatMut::new(&mut gram, rows, rows)?, T::ZERO, T::ONE, view, view.t(), par)?;
            mixed.iter_mut().zip(&gram).for_each(|(mixed, &x)| *mixed = b * x);
            let square = MatRef::new(&gram, rows, rows)?;
            matmul(MatMut::new(&mut mixed, rows, rows)?, T::ONE, c, square, square, par)?;
            next.iter_mut().zip(&x).for_each(|(next, &x)| *next = a * x);
            matmul(MatMut::new(&mut next, rows, cols)?, T::ONE, T::ONE, MatRef::new(&mixed, rows, rows)?, view, par)?;
            std::mem::swap(&mut x, &mut next);
            check_finite("polynomial", &x).map_err(|_| Error::Diverged { step })?;
        }
        let scale = if self.scale { T::from_f64((m as f64 / n as f64).max(1.0).sqrt()) } else { T::ONE };
        out.for_each_row(|i, row| {
            for (j, out) in row.iter_mut().enumerate() {
                *out = scale * if tall { x[j * m + i] } else { x[i * n + j] };
            }
        });
        Ok(())
    }

    /// `g / (|g|_F + norm_epsilon)`; zero for zero.
    fn normalised<T: Real>(&self, g: MatRef<'_, T>) -> Vec<T> {
        let mut x: Vec<T> = filled_rows(g).flatten().copied().collect();
        // By the largest element first: the norm of finite numbers may not be finite.
        let largest = reduce::max_abs(&x);
        if largest == T::ZERO {
            return x;
        }
        for x in &mut x {
            *x /= largest;
        }
        let norm = reduce::norm2(&x) + T::from_f64(self.norm_epsilon / largest.to_f64());
        for x in &mut x {
            *x /= norm;
        }
        x
    }
}
