use super::{Adjoint, Invertible, LinOp, PositiveSemidefinite, SelfAdjoint, check_apply};
use crate::error::{Error, take_scratch};
use crate::scalar::Real;
use crate::view::{MatMut, MatRef};

/// `diag(A_0, A_1, ..)`: each block acts on its own range of columns, as curvature that ignores the interaction
/// between layers does.
///
/// The blocks say how long the ranges are, so they may be rectangular, and of different types behind
/// `&dyn LinOp<T>`. Cost: the sum of the blocks'. Scratch: the largest block's.
///
/// # Errors
/// [`Error::Overflow`] from [`BlockDiagonal::new`] when the sum of the dimensions does not fit into `usize`.
///
/// # Examples
/// ```
/// use ascribe_core::{LinOp, MatRef, linop::{BlockDiagonal, Dense, Identity, apply_alloc}};
/// let row = Dense::new(MatRef::new(&[2.0, 3.0], 1, 2)?);
/// let blocks: [&dyn LinOp<f64>; 2] = [&Identity::new(1), &row];
/// let op = BlockDiagonal::new(&blocks)?;
/// assert_eq!(apply_alloc(&op, MatRef::from_row(&[7.0, 1.0, 10.0]))?, [7.0, 32.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockDiagonal<'a, B> {
    blocks: &'a [B],
    dim_in: usize,
    dim_out: usize,
}

impl<'a, B> BlockDiagonal<'a, B> {
    /// The operator with these blocks; with none, the operator on rows of no elements.
    ///
    /// # Errors
    /// [`Error::Overflow`] when the sum of the dimensions does not fit into `usize`.
    pub fn new<T: Real>(blocks: &'a [B]) -> Result<Self, Error>
    where
        B: LinOp<T>,
    {
        let overflow = Error::Overflow { what: "block diagonal" };
        let (mut dim_in, mut dim_out) = (0_usize, 0_usize);
        for block in blocks {
            dim_in = dim_in.checked_add(block.dim_in()).ok_or(overflow)?;
            dim_out = dim_out.checked_add(block.dim_out()).ok_or(overflow)?;
        }
        Ok(Self { blocks, dim_in, dim_out })
    }

    /// Calls `f` with each block and its columns of `out` and `x`, whose widths `dims` gives as (output, input).
    fn for_each_block<T: Real>(
        &self,
        mut out: MatMut<'_, T>,
        x: MatRef<'_, T>,
        dims: impl Fn(&B) -> (usize, usize),
        mut f: impl FnMut(&B, MatMut<'_, T>, MatRef<'_, T>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (mut to, mut from) = (0, 0);
        for block in self.blocks {
            let (width_out, width_in) = dims(block);
            let out = out.rb_mut();
            let rows = x.rows();
            f(block, out.block(0, rows, to, width_out)?, x.block(0, rows, from, width_in)?)?;
            to += width_out;
            from += width_in;
        }
        Ok(())
    }

    fn largest(&self, scratch_len: impl Fn(&B) -> usize) -> usize {
        self.blocks.iter().map(scratch_len).max().unwrap_or(0)
    }
}

impl<T: Real, B: LinOp<T>> LinOp<T> for BlockDiagonal<'_, B> {
    fn dim_in(&self) -> usize {
        self.dim_in
    }
    fn dim_out(&self) -> usize {
        self.dim_out
    }
    fn scratch_len(&self, rows: usize) -> usize {
        self.largest(|b| b.scratch_len(rows))
    }
    fn apply(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        check_apply(self.dim_in, self.dim_out, &out, &x)?;
        let (scratch, _) = take_scratch(scratch, self.scratch_len(x.rows()))?;
        self.for_each_block(out, x, |b| (b.dim_out(), b.dim_in()), |b, out, x| b.apply(out, x, scratch))
    }
}

impl<T: Real, B: SelfAdjoint<T>> SelfAdjoint<T> for BlockDiagonal<'_, B> {}
impl<T: Real, B: PositiveSemidefinite<T>> PositiveSemidefinite<T> for BlockDiagonal<'_, B> {}

impl<T: Real, B: Adjoint<T>> Adjoint<T> for BlockDiagonal<'_, B> {
    fn transpose_scratch_len(&self, rows: usize) -> usize {
        self.largest(|b| b.transpose_scratch_len(rows))
    }
    fn apply_transpose(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        check_apply(self.dim_out, self.dim_in, &out, &x)?;
        let (scratch, _) = take_scratch(scratch, self.transpose_scratch_len(x.rows()))?;
        self.for_each_block(out, x, |b| (b.dim_in(), b.dim_out()), |b, out, x| b.apply_transpose(out, x, scratch))
    }
}

impl<T: Real, B: Invertible<T>> Invertible<T> for BlockDiagonal<'_, B> {
    fn inverse_scratch_len(&self, rows: usize) -> usize {
        self.largest(|b| b.inverse_scratch_len(rows))
    }
    fn check_invertible(&self) -> Result<(), Error> {
        self.blocks.iter().try_for_each(Invertible::check_invertible)
    }
    fn apply_inverse(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        check_apply(self.dim_out, self.dim_in, &out, &x)?;
        self.check_invertible()?;
        let (scratch, _) = take_scratch(scratch, self.inverse_scratch_len(x.rows()))?;
        self.for_each_block(out, x, |b| (b.dim_in(), b.dim_out()), |b, out, x| b.apply_inverse(out, x, scratch))
    }
}
