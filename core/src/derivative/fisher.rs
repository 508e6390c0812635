use super::Reduction;
use super::gauss_newton::{through_outputs, through_outputs_scratch_len};
use crate::error::{Error, check_shape};
use crate::linop::{Adjoint, ExampleLinOp, LinOp, PositiveSemidefinite, SelfAdjoint, apply_two, check_apply};
use crate::matmul::matmul;
use crate::reduce;
use crate::scalar::Real;
use crate::view::{MatMut, MatRef};

/// The empirical Fisher matrix $E = r \sum_n g_n g_n^T$ of per-example gradients `[N, D]` with the *training* labels.
///
/// `r` is `1/N` or 1, by [`Reduction`]. It is neither the Fisher matrix nor the Gauss-Newton matrix unless the labels
/// follow the model's own distribution; it vanishes where the model interpolates. For the Fisher matrix, sample the
/// labels: [`SampledFisher`]. For a sequence, `g_n` is the sum over its positions.
///
/// Cost: `4 k N D` flops for `k` rows. Scratch: `k N` elements; for a batch of examples `4 k b D` flops and none.
/// Rank at most `N`. Error of each of the two products: that of [`matmul`].
///
/// # Errors
/// [`Error::Empty`] from [`EmpiricalFisher::new`] for no gradient at all.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, linop::apply_alloc, derivative::{EmpiricalFisher, Reduction}};
/// let gradients = MatRef::new(&[1.0, 0.0, 1.0, 2.0], 2, 2)?;
/// let fisher = EmpiricalFisher::new(gradients, Reduction::Mean)?;
/// assert_eq!(apply_alloc(&fisher, MatRef::from_row(&[1.0, 1.0]))?, [2.0, 3.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
///
/// # References
/// Kunstner, Balles and Hennig 2019, arXiv:1905.12558, on what it is not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EmpiricalFisher<'a, T> {
    gradients: MatRef<'a, T>,
    reduction: Reduction,
}

impl<'a, T: Real> EmpiricalFisher<'a, T> {
    /// From per-example gradients `[N, D]`.
    ///
    /// # Errors
    /// [`Error::Empty`] for no gradient at all.
    pub fn new(gradients: MatRef<'a, T>, reduction: Reduction) -> Result<Self, Error> {
        if gradients.rows() == 0 {
            return Err(Error::Empty { what: "gradients" });
        }
        Ok(Self { gradients, reduction })
    }
}

impl<T: Real> LinOp<T> for EmpiricalFisher<'_, T> {
    fn dim_in(&self) -> usize {
        self.gradients.cols()
    }
    fn dim_out(&self) -> usize {
        self.gradients.cols()
    }
    fn scratch_len(&self, rows: usize) -> usize {
        rows.saturating_mul(self.gradients.rows())
    }
    fn apply(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        check_apply(self.dim_in(), self.dim_out(), &out, &x)?;
        let (examples, scratch) = (self.examples(), (scratch, self.scratch_len(x.rows())));
        apply_two(
            out,
            x,
            examples,
            scratch,
            |products, x, _| matmul(products, T::ZERO, T::ONE, x, self.gradients.t()),
            |out, products, _| matmul(out, T::ZERO, self.reduction.factor(examples), products, self.gradients),
        )
    }
}

impl<T: Real> SelfAdjoint<T> for EmpiricalFisher<'_, T> {}
impl<T: Real> PositiveSemidefinite<T> for EmpiricalFisher<'_, T> {}

impl<T: Real> ExampleLinOp<T> for EmpiricalFisher<'_, T> {
    fn examples(&self) -> usize {
        self.gradients.rows()
    }
    fn examples_scratch_len(&self, _: usize, _: usize) -> usize {
        0
    }
    fn apply_examples(
        &self,
        mut out: MatMut<'_, T>,
        x: MatRef<'_, T>,
        indices: &[usize],
        _: &mut [T],
    ) -> Result<(), Error> {
        check_apply(self.dim_in(), self.dim_out(), &out, &x)?;
        let len = self.examples();
        if indices.is_empty() {
            return Err(Error::Empty { what: "indices" });
        }
        if let Some(&index) = indices.iter().find(|&&index| index >= len) {
            return Err(Error::Index { what: "indices", index, len });
        }
        // N r / b: the mean over the batch on the scale of the full operator.
        let factor = T::from_f64(len as f64) * self.reduction.factor(len) / T::from_f64(indices.len() as f64);
        out.fill(T::ZERO);
        // There may be any number of rows without elements.
        if out.cols() == 0 {
            return Ok(());
        }
        for &index in indices {
            let gradient = self.gradients.row(index);
            for i in 0..x.rows() {
                let product = reduce::dot(x.row(i), gradient)?;
                reduce::axpy(out.row_mut(i), factor * product, gradient)?;
            }
        }
        Ok(())
    }
}

/// The Fisher matrix estimated from sampled labels,
/// $F = \frac{r}{M} \sum_{m,n} (J_n^T b_{mn})(J_n^T b_{mn})^T$.
///
/// `J` is the Jacobian of the `N C` outputs of `N` examples; row `m` of `samples [M, N C]` holds the gradients
/// `b_mn` of the loss with respect to the `C` outputs of each example, for labels drawn from the *model's*
/// distribution: $p - e_{\hat y}$ with $\hat y \sim p$ for cross-entropy; $N(0, I)$ for half the squared error,
/// $N(0, 2I)$ for the squared error. Its expectation is then [`GaussNewton`](super::GaussNewton), with a standard
/// deviation that falls as $M^{-1/2}$. With the training labels it is [`EmpiricalFisher`] instead. For a sequence,
/// `C` counts the outputs of all its positions.
///
/// Cost: one application of `J` and of `J^T`, and `4 k M N C` flops for `k` rows. Scratch: `2 k N C` elements and
/// the larger scratch of `J` and `J^T`.
///
/// # Errors
/// From [`SampledFisher::new`]: [`Error::Empty`] for no sample or no example, [`Error::Shape`] when `samples` does
/// not fit the outputs of `J`, or these do not split evenly into examples.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, linop::{Identity, apply_alloc}, derivative::{Reduction, SampledFisher}};
/// let samples = MatRef::new(&[1.0, -1.0, 1.0, 1.0], 2, 2)?; // two samples of one example's two outputs
/// let fisher = SampledFisher::new(Identity::new(2), samples, 1, Reduction::Mean)?;
/// assert_eq!(apply_alloc(&fisher, MatRef::from_row(&[1.0, 0.0]))?, [1.0, 0.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
///
/// # References
/// Martens 2020, arXiv:1412.1193.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampledFisher<'a, J, T> {
    jacobian: J,
    samples: MatRef<'a, T>,
    examples: usize,
    reduction: Reduction,
}

impl<'a, J: Adjoint<T>, T: Real> SampledFisher<'a, J, T> {
    /// From the Jacobian of the outputs of `examples` examples and gradients `[M, N C]` for sampled labels.
    ///
    /// # Errors
    /// [`Error::Empty`] for no sample or no example, [`Error::Shape`] when `samples` does not fit the outputs of
    /// `jacobian`, or these do not split evenly into examples.
    pub fn new(jacobian: J, samples: MatRef<'a, T>, examples: usize, reduction: Reduction) -> Result<Self, Error> {
        if samples.rows() == 0 {
            return Err(Error::Empty { what: "samples" });
        }
        if examples == 0 {
            return Err(Error::Empty { what: "examples" });
        }
        let outputs = jacobian.dim_out();
        check_shape("samples columns", outputs, samples.cols())?;
        check_shape("outputs left over by an equal number for each example", 0, outputs % examples)?;
        Ok(Self { jacobian, samples, examples, reduction })
    }

    /// `out = sum_m b_mn <b_mn, x_n>` for the outputs of each example `n`.
    fn outer_products(&self, mut out: MatMut<'_, T>, x: MatRef<'_, T>) -> Result<(), Error> {
        let classes = self.samples.cols() / self.examples;
        out.fill(T::ZERO);
        for start in (0..self.samples.cols()).step_by(classes.max(1)) {
            let range = start..start + classes;
            for sample in self.samples.row_iter() {
                let sample = &sample[range.clone()];
                for i in 0..x.rows() {
                    let product = reduce::dot(sample, &x.row(i)[range.clone()])?;
                    reduce::axpy(&mut out.row_mut(i)[range.clone()], product, sample)?;
                }
            }
        }
        Ok(())
    }
}

impl<J: Adjoint<T>, T: Real> LinOp<T> for SampledFisher<'_, J, T> {
    fn dim_in(&self) -> usize {
        self.jacobian.dim_in()
    }
    fn dim_out(&self) -> usize {
        self.jacobian.dim_in()
    }
    fn scratch_len(&self, rows: usize) -> usize {
        through_outputs_scratch_len(&self.jacobian, rows, 0)
    }
    fn apply(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        let scale = self.reduction.factor::<T>(self.examples) / T::from_f64(self.samples.rows() as f64);
        let scratch = (scratch, self.scratch_len(x.rows()));
        through_outputs(out, x, &self.jacobian, scale, scratch, |out, x, _| self.outer_products(out, x))
    }
}

impl<J: Adjoint<T>, T: Real> SelfAdjoint<T> for SampledFisher<'_, J, T> {}
impl<J: Adjoint<T>, T: Real> PositiveSemidefinite<T> for SampledFisher<'_, J, T> {}
