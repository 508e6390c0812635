//! A curvature on a batch that stays the same.

use ascribe_core::linop::check_apply;
use ascribe_core::random::Stream;
use ascribe_core::{Error as CoreError, ExampleLinOp, LinOp, MatMut, MatRef, PositiveSemidefinite, Real, SelfAdjoint};

use crate::Error;
use crate::error::zeros;

/// A curvature restricted to given examples: the mean over them, each counted as often as it is named.
///
/// The batch is the same at every application, so any deterministic solver runs on it: with
/// [`Cg::prepare_with`](super::Cg::prepare_with) and an EKFAC inverse this is preconditioned CG on a batch, the
/// deterministic sibling of [`Astra`](super::Astra).
///
/// Cost and scratch: those of [`ExampleLinOp::apply_examples`] on the batch.
///
/// # Examples
/// ```
/// use ascribe_core::{LinOp, MatMut, MatRef, derivative::Reduction, random::Stream};
/// use ascribe_solvers::{inverse::{Cg, FixedBatch, Solve}, network::*, parallel::Parallelism};
/// let net = Mlp::new(&[1, 2], Activation::Identity, Loss::CrossEntropy)?;
/// let x = MatRef::new(&[0.5, -1.0, 2.0, 0.1], 4, 1)?;
/// let labels = Targets::Classes(&[0, 1, 1, 0]);
/// let data = Linearized::new(&net, &[0.1_f64; 4], x, labels, Reduction::Mean, Parallelism::Serial)?;
/// let batch = FixedBatch::sampled(data.gauss_newton(), 3, Stream::new(0, "batch"))?;
/// let mut solution = [0.0; 4];
/// let cg = Cg { damping: 0.1, ..Cg::default() };
/// let reports = cg.prepare(&batch)?.solve(MatMut::from_row(&mut solution), MatRef::from_row(&[1.0; 4]))?;
/// assert!(reports[0].is_converged());
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct FixedBatch<A> {
    op: A,
    indices: Vec<usize>,
}

impl<A> FixedBatch<A> {
    /// The mean over the examples `indices` of `op`.
    ///
    /// # Errors
    /// [`CoreError::Empty`] for no index at all, [`CoreError::Index`] for one that is no example's.
    pub fn new<T: Real>(op: A, indices: Vec<usize>) -> Result<Self, Error>
    where
        A: ExampleLinOp<T>,
    {
        check_batch(&indices, op.examples())?;
        Ok(Self { op, indices })
    }

    /// The mean over `size` examples drawn uniformly with replacement.
    ///
    /// # Errors
    /// [`CoreError::Empty`] when `size` is 0 or there are no examples, [`CoreError::Overflow`] when the indices
    /// cannot be allocated.
    pub fn sampled<T: Real>(op: A, size: usize, stream: Stream) -> Result<Self, Error>
    where
        A: ExampleLinOp<T>,
    {
        if op.examples() == 0 {
            return Err(CoreError::Empty { what: "examples" }.into());
        }
        let mut indices = zeros("batch", Some(size))?;
        draw_batch(&mut indices, op.examples(), stream);
        Self::new(op, indices)
    }

    /// The examples, in the order in which they were given or drawn.
    pub fn indices(&self) -> &[usize] {
        &self.indices
    }
}

/// Fills `batch` with examples drawn uniformly with replacement.
pub(super) fn draw_batch(batch: &mut [usize], examples: usize, stream: Stream) {
    let mut draws = stream.draws();
    batch.fill_with(|| draws.next_index(examples));
}

/// At least one index, each of them that of an example.
pub(super) fn check_batch(indices: &[usize], examples: usize) -> Result<(), CoreError> {
    let what = "batch";
    match indices.iter().find(|&&index| index >= examples) {
        Some(&index) => Err(CoreError::Index { what, index, len: examples }),
        None if indices.is_empty() => Err(CoreError::Empty { what }),
        None => Ok(()),
    }
}

impl<T: Real, A: ExampleLinOp<T>> LinOp<T> for FixedBatch<A> {
    fn dim_in(&self) -> usize {
        self.op.dim_in()
    }
    fn dim_out(&self) -> usize {
        self.op.dim_out()
    }
    fn scratch_len(&self, rows: usize) -> usize {
        self.op.examples_scratch_len(rows, self.indices.len())
    }
    fn apply(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), CoreError> {
        check_apply(self.dim_in(), self.dim_out(), &out, &x)?;
        self.op.apply_examples(out, x, &self.indices, scratch)
    }
}

// A mean over some examples is what the mean over all of them is, example by example.
impl<T: Real, A: ExampleLinOp<T> + SelfAdjoint<T>> SelfAdjoint<T> for FixedBatch<A> {}
impl<T: Real, A: ExampleLinOp<T> + PositiveSemidefinite<T>> PositiveSemidefinite<T> for FixedBatch<A> {}
