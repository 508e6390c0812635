//! The curvature of a network, one block a layer.

use ascribe_core::linop::BlockDiagonal;
use ascribe_core::{Error as CoreError, LinOp, MatMut, MatRef, PositiveSemidefinite, Real, SelfAdjoint};

use super::{EigenBlock, EigenFunction, Filter};
use crate::Error;
use crate::error::check_shape;
use crate::parallel::Parallelism;

/// The layers' blocks in the order of a flat parameter vector: a block-diagonal curvature, and all that can be made
/// of it without another pass over the data.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, linop::apply_alloc};
/// use ascribe_solvers::{curvature::*, parallel::Parallelism};
/// let (a, g) = ([2.0, 1.0, 1.0, 2.0], [4.0]);
/// let layer = EigenBlock::<f64>::kronecker("fc", MatRef::new(&a, 2, 2)?, MatRef::new(&g, 1, 1)?, Parallelism::Serial)?;
/// let curvature = Blocks::new(vec![layer]);
/// let inverse = curvature.inverse(Damping::Absolute(0.0), Parallelism::Serial)?;
/// let x = apply_alloc(&inverse, MatRef::from_row(&[12.0, 12.0]))?;
/// assert!((x[0] - 1.0).abs() < 1e-12 && (x[1] - 1.0).abs() < 1e-12);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Blocks<T> {
    blocks: Vec<EigenBlock<T>>,
}

impl<T: Real> Blocks<T> {
    /// The network of these layers.
    pub fn new(blocks: Vec<EigenBlock<T>>) -> Self {
        Self { blocks }
    }

    /// The layers.
    pub fn layers(&self) -> &[EigenBlock<T>] {
        &self.blocks
    }

    /// The length of a parameter vector.
    pub fn dim(&self) -> usize {
        self.blocks.iter().map(EigenBlock::dim).sum()
    }

    /// The sum of the layers' traces.
    pub fn trace(&self) -> f64 {
        self.blocks.iter().map(EigenBlock::trace).sum()
    }

    /// Every block times `factor`: see [`EigenBlock::scale`].
    ///
    /// # Errors
    /// As [`EigenBlock::scale`]; no block is scaled then.
    pub fn scale(&mut self, factor: f64) -> Result<(), Error> {
        self.blocks.iter().try_for_each(|block| block.check_scale(factor))?;
        self.blocks.iter_mut().try_for_each(|block| block.scale(factor))
    }

    /// `(F + damping I)^-1`, a relative damping being that of each layer by itself.
    ///
    /// # Errors
    /// As [`EigenBlock::filtered`].
    pub fn inverse(&self, damping: super::Damping, par: Parallelism) -> Result<BlockFunction<'_, T>, Error> {
        self.filtered(&[Filter { damping, ..Filter::default() }], par)
    }

    /// What `filters` make of the curvature: one for all layers, or one for each.
    ///
    /// # Errors
    /// As [`EigenBlock::filtered`]; a shape error for another number of filters.
    pub fn filtered(&self, filters: &[Filter], par: Parallelism) -> Result<BlockFunction<'_, T>, Error> {
        if filters.len() != 1 {
            check_shape("filters (one, or one a layer)", self.blocks.len(), filters.len())?;
        }
        let filters = filters.iter().cycle();
        let blocks = self.blocks.iter().zip(filters).map(|(block, filter)| block.filtered(filter, par));
        Ok(BlockFunction { blocks: blocks.collect::<Result<_, _>>()? })
    }

    /// `f` of the curvature: each eigenvalue `s` becomes `f(s)`; the identity gives the curvature itself.
    ///
    /// # Errors
    /// As [`EigenBlock::function`].
    pub fn function(&self, f: impl Fn(f64) -> f64, par: Parallelism) -> Result<BlockFunction<'_, T>, Error> {
        let blocks = self.blocks.iter().map(|block| block.function(&f, par));
        Ok(BlockFunction { blocks: blocks.collect::<Result<_, _>>()? })
    }
}

/// A function of each block of a [`Blocks`], as an operator on flat parameter vectors.
///
/// Cost and scratch: those of the layers' [`EigenFunction`]s, one after the other.
#[derive(Debug, Clone)]
pub struct BlockFunction<'b, T> {
    blocks: Vec<EigenFunction<'b, T>>,
}

impl<'b, T: Real> BlockFunction<'b, T> {
    /// The layers' operators.
    pub fn layers(&self) -> &[EigenFunction<'b, T>] {
        &self.blocks
    }

    fn diagonal(&self) -> Result<BlockDiagonal<'_, EigenFunction<'b, T>>, CoreError> {
        BlockDiagonal::new(&self.blocks)
    }

    fn dim(&self) -> usize {
        self.blocks.iter().map(LinOp::dim_in).sum()
    }
}

impl<T: Real> LinOp<T> for BlockFunction<'_, T> {
    fn dim_in(&self) -> usize {
        self.dim()
    }
    fn dim_out(&self) -> usize {
        self.dim()
    }
    fn scratch_len(&self, rows: usize) -> usize {
        self.blocks.iter().map(|block| block.scratch_len(rows)).max().unwrap_or(0)
    }
    fn apply(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), CoreError> {
        self.diagonal()?.apply(out, x, scratch)
    }
}

impl<T: Real> SelfAdjoint<T> for BlockFunction<'_, T> {}
impl<T: Real> PositiveSemidefinite<T> for BlockFunction<'_, T> {}
