//! The curvature of one layer in the eigenbasis of its Kronecker factors.

use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};

use super::damping::{Eigenvalues, Filter, mean};
use super::{EigenFunction, Spectrum};
use crate::Error;
use crate::error::{check_finite, check_rows_finite, check_shape, zeros};
use crate::linalg::{Clamped, Eigen, matmul, symmetric_eigen};
use crate::parallel::Parallelism;

/// An orthonormal basis of the rows or of the columns of a layer's gradient.
#[derive(Debug, Clone, PartialEq)]
pub enum Basis<T> {
    /// The unit vectors: a diagonal factor, such as the tokens of an embedding.
    Units(usize),
    /// The **columns** of a row-major square matrix.
    Columns {
        /// The number of vectors, and their length.
        dim: usize,
        /// The matrix, `dim * dim` numbers.
        vectors: Vec<T>,
    },
}

impl<T: Real> Basis<T> {
    /// The number of vectors.
    pub fn dim(&self) -> usize {
        match self {
            Self::Units(dim) | Self::Columns { dim, .. } => *dim,
        }
    }

    /// The matrix of the vectors; `None` for the unit vectors.
    pub fn vectors(&self) -> Option<MatRef<'_, T>> {
        match self {
            Self::Units(_) => None,
            Self::Columns { dim, vectors } => MatRef::new(vectors, *dim, *dim).ok(),
        }
    }
}

/// A symmetric positive semidefinite matrix on gradients `V` `[rows, cols]`, in an eigenbasis that is a product:
/// $F\,\mathrm{vec}(V) = \mathrm{vec}\big(Q_l (\Lambda \circ (Q_l^\top V Q_r)) Q_r^\top\big)$ with `Q_l` over the rows,
/// `Q_r` over the columns, and `Lambda` `[rows, cols]` the eigenvalues.
///
/// `rows` are the outputs of a layer and `cols` its inputs, bias last, so that a flat gradient is `vec` of `V`
/// row-major. It is all that K-FAC, EKFAC, a diagonal Fisher and a small dense one have to be:
///
/// | block | `Q_l`, `Q_r` | `Lambda` |
/// |---|---|---|
/// | [`EigenBlock::kronecker`], K-FAC | eigenvectors of the factors | products of their eigenvalues |
/// | EKFAC, by [`EigenvalueCorrection`](super::EigenvalueCorrection) | the same | second moments of the gradients along them |
/// | [`EigenBlock::dense`] | one row; eigenvectors of the matrix | its eigenvalues |
/// | [`EigenBlock::diagonal`] | unit vectors | the diagonal |
///
/// Memory: `rows^2 + cols^2` numbers of type `T`, less for unit vectors, and `rows * cols` doubles.
///
/// # References
/// Martens and Grosse, arXiv:1503.05671; George et al., arXiv:1806.03884; Grosse et al., arXiv:2308.03296, section 2.2.
#[derive(Debug, Clone, PartialEq)]
pub struct EigenBlock<T> {
    name: String,
    left: Basis<T>,
    right: Basis<T>,
    /// `[rows, cols]`, none negative.
    values: Vec<f64>,
    /// The eigenvalues of the two factors, while `values` are their products.
    factors: Option<[Vec<f64>; 2]>,
    clamped: NegativeEigenvalues,
}

/// Negative eigenvalues that were set to zero.
///
/// A matrix of lower rank than its size has some, of the size of the rounding of its largest; larger ones say that
/// it was no covariance.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct NegativeEigenvalues {
    /// How many.
    pub count: usize,
    /// The most negative one, divided by the largest eigenvalue of its matrix in absolute value.
    pub worst: f64,
}

impl<T: Real> EigenBlock<T> {
    /// `G (x) A`: K-FAC's block of a layer with input covariance `a` `[cols, cols]` and output gradient covariance
    /// `g` `[rows, rows]`. The eigendecompositions are in f64, of the symmetrised matrices.
    ///
    /// Cost: `9 (rows^3 + cols^3)` flops.
    ///
    /// # Errors
    /// [`Error::Block`] with `name` around a shape error, [`CoreError::NonFinite`] for NaN or infinity in a factor,
    /// [`CoreError::Overflow`] when the eigenvalues do not fit into memory, or [`Error::NoConvergence`].
    pub fn kronecker<S: Real>(name: &str, a: MatRef<'_, S>, g: MatRef<'_, S>, par: Parallelism) -> Result<Self, Error> {
        let build = || {
            let (right, mut clamped, a_values) = eigenbasis("input covariance", a, par)?;
            let (left, also, g_values) = eigenbasis("output gradient covariance", g, par)?;
            clamped = clamped.and(also);
            Self::product(name, left, right, g_values, a_values, clamped)
        };
        build().map_err(|error| error.in_block(name))
    }

    /// As [`EigenBlock::kronecker`] with a diagonal left factor: an embedding's table `[tokens, dim]` with the
    /// frequencies of the tokens and the covariance of the gradients. Nothing of size `tokens^2` is formed.
    ///
    /// # Errors
    /// As [`EigenBlock::kronecker`]; [`CoreError::Parameter`] for a negative frequency.
    pub fn diagonal_kronecker<S: Real>(
        name: &str,
        left: &[f64],
        right: MatRef<'_, S>,
        par: Parallelism,
    ) -> Result<Self, Error> {
        let build = || {
            check_not_negative("diagonal factor", left)?;
            let (basis, clamped, values) = eigenbasis("gradient covariance", right, par)?;
            Self::product(name, Basis::Units(left.len()), basis, left.to_vec(), values, clamped)
        };
        build().map_err(|error| error.in_block(name))
    }

    fn product(
        name: &str,
        left: Basis<T>,
        right: Basis<T>,
        left_values: Vec<f64>,
        right_values: Vec<f64>,
        clamped: NegativeEigenvalues,
    ) -> Result<Self, Error> {
        let values = products(&left_values, &right_values)?;
        check_finite("eigenvalues of a layer", &values)?;
        let factors = Some([left_values, right_values]);
        Ok(Self { name: name.to_owned(), left, right, values, factors, clamped })
    }

    /// A dense matrix over a flat gradient, as one row: for normalisation layers and other small blocks.
    ///
    /// # Errors
    /// As [`EigenBlock::kronecker`].
    pub fn dense<S: Real>(name: &str, matrix: MatRef<'_, S>, par: Parallelism) -> Result<Self, Error> {
        let (right, clamped, values) = eigenbasis("curvature", matrix, par).map_err(|error| error.in_block(name))?;
        Ok(Self { name: name.to_owned(), left: Basis::Units(1), right, values, factors: None, clamped })
    }

    /// A diagonal matrix over a flat gradient; of ones, the identity.
    ///
    /// # Errors
    /// [`Error::Block`] with `name` when an element is negative, NaN or infinite.
    pub fn diagonal(name: &str, values: &[f64]) -> Result<Self, Error> {
        let (left, right) = (Basis::Units(1), Basis::Units(values.len()));
        check_not_negative("diagonal", values).map_err(|error| error.in_block(name))?;
        let (values, clamped) = (values.to_vec(), NegativeEigenvalues::default());
        Ok(Self { name: name.to_owned(), left, right, values, factors: None, clamped })
    }

    /// A block from its parts: `values` `[rows, cols]` in the basis `left (x) right`, whose columns are taken to be
    /// orthonormal.
    ///
    /// # Errors
    /// [`Error::Block`] with `name` around a shape error, [`CoreError::NonFinite`], or [`CoreError::Parameter`] for
    /// a negative eigenvalue.
    pub fn from_parts(name: &str, left: Basis<T>, right: Basis<T>, values: Vec<f64>) -> Result<Self, Error> {
        let check = || {
            for basis in [&left, &right] {
                if let Basis::Columns { dim, vectors } = basis {
                    let len = dim.checked_mul(*dim).ok_or(CoreError::Overflow { what: "basis" })?;
                    check_shape("elements of a basis", len, vectors.len())?;
                    check_finite("basis", vectors)?;
                }
            }
            let len = left.dim().checked_mul(right.dim()).ok_or(CoreError::Overflow { what: "eigenvalues" })?;
            check_shape("eigenvalues", len, values.len())?;
            check_not_negative("eigenvalues", &values)
        };
        check().map_err(|error| error.in_block(name))?;
        Ok(Self { name: name.to_owned(), left, right, values, factors: None, clamped: NegativeEigenvalues::default() })
    }

    /// The block with the eigenvalues of its two factors, of which its own have to be the products.
    #[cfg(feature = "safetensors")]
    pub(super) fn with_factors(self, left: Vec<f64>, right: Vec<f64>) -> Result<Self, Error> {
        let check = || {
            check_not_negative("factor", &left)?;
            check_not_negative("factor", &right)?;
            if self.values == products(&left, &right)? {
                Ok(())
            } else {
                Err(Error::Mismatch { what: "eigenvalues and the products of the factors'" })
            }
        };
        check().map_err(|error: Error| error.in_block(&self.name))?;
        Ok(Self { factors: Some([left, right]), ..self })
    }

    /// The same basis with other eigenvalues, which are products no more.
    pub(super) fn with_values(&self, values: Vec<f64>) -> Self {
        let (left, right) = (self.left.clone(), self.right.clone());
        Self { name: self.name.clone(), left, right, values, factors: None, clamped: self.clamped }
    }

    /// The layer's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The basis over the rows of a gradient.
    pub fn left(&self) -> &Basis<T> {
        &self.left
    }

    /// The basis over the columns of a gradient.
    pub fn right(&self) -> &Basis<T> {
        &self.right
    }

    /// The rows of a gradient: outputs.
    pub fn rows(&self) -> usize {
        self.left.dim()
    }

    /// The columns of a gradient: inputs, and the bias.
    pub fn cols(&self) -> usize {
        self.right.dim()
    }

    /// The length of a flat gradient.
    pub fn dim(&self) -> usize {
        self.values.len()
    }

    /// The eigenvalues, `[rows, cols]`; none is negative.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// The eigenvalues of the left and of the right factor, for a block whose eigenvalues are their products.
    pub fn factors(&self) -> Option<(&[f64], &[f64])> {
        self.factors.as_ref().map(|[left, right]| (left.as_slice(), right.as_slice()))
    }

    /// The negative eigenvalues of its factors that were set to zero.
    pub fn clamped(&self) -> NegativeEigenvalues {
        self.clamped
    }

    /// The largest element of `Q^T Q - I` over both bases: rounding in `T`, for bases that are orthonormal. Cost:
    /// `2 (rows^3 + cols^3)` flops.
    ///
    /// # Errors
    /// None that a block can cause; the signature is that of [`Eigen::orthogonality`].
    pub fn orthogonality(&self, par: Parallelism) -> Result<f64, Error> {
        let mut worst = 0.0_f64;
        for basis in [&self.left, &self.right] {
            if let Basis::Columns { dim, vectors } = basis {
                let vectors = vectors.iter().map(|x| x.to_f64()).collect();
                worst = worst.max(Eigen { values: vec![0.0; *dim], vectors }.orthogonality(par)?);
            }
        }
        Ok(worst)
    }

    /// The trace; of EKFAC's block that of the matrix it approximates, to rounding.
    pub fn trace(&self) -> f64 {
        self.values.iter().sum()
    }

    /// The mean eigenvalue, what a relative [`Damping`](super::Damping) is relative to.
    pub fn mean(&self) -> f64 {
        mean(&self.values)
    }

    /// The norm of Frobenius.
    pub fn frobenius(&self) -> f64 {
        ascribe_core::reduce::norm2(&self.values)
    }

    /// The eigenvalues as a [`Spectrum`]: quantiles, effective dimension, stable rank, condition after damping, and
    /// dampings to choose.
    ///
    /// # Errors
    /// None that a block can cause; the signature is that of [`Spectrum::new`].
    pub fn spectrum(&self) -> Result<Spectrum, Error> {
        Spectrum::new(&self.values)
    }

    /// The diagonal of the matrix, `[rows, cols]`: $(Q_l \circ Q_l) \Lambda (Q_r \circ Q_r)^\top$. Cost:
    /// `2 rows cols (rows + cols)` flops.
    ///
    /// # Errors
    /// [`CoreError::Overflow`] when the diagonal or the square of a basis does not fit into memory.
    pub fn matrix_diagonal(&self) -> Result<Vec<f64>, Error> {
        let square = |basis: &Basis<T>| {
            let Basis::Columns { vectors, .. } = basis else { return Ok(None) };
            let mut squares = zeros("square of a basis", Some(vectors.len()))?;
            squares.iter_mut().zip(vectors).for_each(|(square, x)| *square = x.to_f64().powi(2));
            Ok::<_, CoreError>(Some(squares))
        };
        let (rows, cols) = (self.rows(), self.cols());
        let mut diagonal: Vec<f64> = zeros("diagonal of a block", Some(self.values.len()))?;
        diagonal.copy_from_slice(&self.values);
        if let Some(right) = square(&self.right)? {
            let mut out = zeros("diagonal of a block", Some(diagonal.len()))?;
            let (values, right) = (MatRef::new(&diagonal, rows, cols)?, MatRef::new(&right, cols, cols)?);
            matmul(MatMut::new(&mut out, rows, cols)?, 0.0, 1.0, values, right.t(), Parallelism::Serial)?;
            diagonal = out;
        }
        if let Some(left) = square(&self.left)? {
            let mut out = zeros("diagonal of a block", Some(diagonal.len()))?;
            let (values, left) = (MatRef::new(&diagonal, rows, cols)?, MatRef::new(&left, rows, rows)?);
            matmul(MatMut::new(&mut out, rows, cols)?, 0.0, 1.0, left, values, Parallelism::Serial)?;
            diagonal = out;
        }
        Ok(diagonal)
    }

    /// The block times `factor`, which has to be at least 0: a sum instead of a mean over examples, or a loss in other
    /// units.
    ///
    /// # Errors
    /// [`Error::Block`] with the block's name around [`CoreError::Parameter`] for a factor that is negative or not
    /// finite, or [`CoreError::NonFinite`] when an eigenvalue overflows; the block is untouched.
    pub fn scale(&mut self, factor: f64) -> Result<(), Error> {
        self.check_scale(factor)?;
        let scale = |values: &mut [f64]| values.iter_mut().for_each(|value| *value *= factor);
        match &mut self.factors {
            None => scale(&mut self.values),
            Some([left, right]) => {
                scale(left);
                fill_products(&mut self.values, left, right);
            }
        }
        Ok(())
    }

    pub(super) fn check_scale(&self, factor: f64) -> Result<(), Error> {
        let named = |error: CoreError| Error::from(error).in_block(&self.name);
        if !factor.is_finite() || factor < 0.0 {
            return Err(named(CoreError::Parameter { what: "factor", value: factor, must_be: "at least 0" }));
        }
        // A product of factors may overflow before it is scaled down, and a factor although its products do not.
        let left = self.factors.as_ref().map_or(&self.values, |[left, _]| left);
        let overflows = |values: &[f64]| values.iter().position(|value| !(value * factor).is_finite());
        match overflows(left).or_else(|| overflows(&self.values)) {
            None => Ok(()),
            Some(index) => Err(named(CoreError::NonFinite { what: "scaled eigenvalues", index })),
        }
    }

    pub(super) fn eigenvalues(&self) -> Eigenvalues<'_> {
        Eigenvalues { values: &self.values, factors: self.factors() }
    }

    /// What `filter` makes of the curvature, as an operator on flat gradients. The block itself is not changed.
    ///
    /// # Errors
    /// [`Error::Block`] with the block's name around a damping error, [`CoreError::Singular`] when an eigenvalue has
    /// no inverse, or [`Error::NotKronecker`] for [`Inversion::Factored`](super::Inversion::Factored) of a block
    /// that is no Kronecker product.
    pub fn filtered(&self, filter: &Filter, par: Parallelism) -> Result<EigenFunction<'_, T>, Error> {
        let named = |error: Error| error.in_block(&self.name);
        let multipliers = filter.apply(self.eigenvalues()).map_err(named)?;
        EigenFunction::new(self, &multipliers, par).map_err(named)
    }

    /// `f` of the curvature: each eigenvalue `s` becomes `f(s)`; the identity gives the curvature itself.
    ///
    /// # Errors
    /// [`Error::Block`] with the block's name around [`CoreError::Parameter`] when `f` gives a negative number, or
    /// [`CoreError::Singular`] when it gives one that `T` has no finite value for.
    pub fn function(&self, f: impl FnMut(f64) -> f64, par: Parallelism) -> Result<EigenFunction<'_, T>, Error> {
        let multipliers: Vec<f64> = self.values.iter().copied().map(f).collect();
        let build = || {
            if let Some(&value) = multipliers.iter().find(|&&m| m < 0.0) {
                let must_be = "at least 0 for every eigenvalue";
                return Err(CoreError::Parameter { what: "function", value, must_be }.into());
            }
            EigenFunction::new(self, &multipliers, par)
        };
        build().map_err(|error: Error| error.in_block(&self.name))
    }
}

impl Filter {
    /// What the filter makes of each eigenvalue of a block.
    ///
    /// # Errors
    /// As [`EigenBlock::filtered`].
    pub fn multipliers<T: Real>(&self, block: &EigenBlock<T>) -> Result<Vec<f64>, Error> {
        self.apply(block.eigenvalues()).map_err(|error| error.in_block(block.name()))
    }
}

impl NegativeEigenvalues {
    fn and(self, other: Self) -> Self {
        Self { count: self.count + other.count, worst: self.worst.min(other.worst) }
    }
}

/// Eigenvectors in `T`, what was clamped, and the eigenvalues.
fn eigenbasis<T: Real, S: Real>(
    what: &'static str,
    matrix: MatRef<'_, S>,
    par: Parallelism,
) -> Result<(Basis<T>, NegativeEigenvalues, Vec<f64>), Error> {
    check_shape("columns of a covariance", matrix.rows(), matrix.cols())?;
    check_rows_finite(what, matrix)?;
    let mut eigen = symmetric_eigen(matrix, par)?;
    let largest = eigen.values.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
    let Clamped { count, most_negative } = eigen.clamp_negative();
    let worst = if count > 0 { most_negative / largest } else { 0.0 };
    let clamped = NegativeEigenvalues { count, worst };
    let vectors = eigen.vectors.iter().map(|&x| T::from_f64(x)).collect();
    Ok((Basis::Columns { dim: matrix.rows(), vectors }, clamped, eigen.values))
}

/// The eigenvalues `[left, right]` of a Kronecker product.
pub(crate) fn products(left: &[f64], right: &[f64]) -> Result<Vec<f64>, CoreError> {
    let mut out = zeros("eigenvalues", left.len().checked_mul(right.len()))?;
    fill_products(&mut out, left, right);
    Ok(out)
}

fn fill_products(out: &mut [f64], left: &[f64], right: &[f64]) {
    for (out, g) in out.chunks_exact_mut(right.len().max(1)).zip(left) {
        out.iter_mut().zip(right).for_each(|(x, a)| *x = g * a);
    }
}

fn check_not_negative(what: &'static str, values: &[f64]) -> Result<(), Error> {
    check_finite(what, values)?;
    match values.iter().find(|&&value| value < 0.0) {
        Some(&value) => Err(CoreError::Parameter { what, value, must_be: "at least 0" }.into()),
        None => Ok(()),
    }
}
