//! Layers cut into the blocks that Shampoo preconditions.

use std::ops::Range;

use ascribe_core::Error as CoreError;

use super::{Layout, Parameter};
use crate::Error;

/// How layers are cut into blocks with short edges, each of which has its own preconditioner.
///
/// Neighbouring axes are first merged while their product is at most `max_dim` (axes of length 1 always), so that a
/// small layer becomes one vector; then every axis is cut into pieces of `max_dim`, the last one being shorter.
///
/// # Examples
/// ```
/// use ascribe_solvers::precondition::{Blocking, Layout};
/// let layout = Layout::new(&[("conv", &[20, 3, 5]), ("bias", &[20])])?;
/// let blocks = Blocking { max_dim: 16, merge: true }.blocks(&layout)?;
/// let shapes: Vec<_> = blocks.iter().map(|block| block.shape()).collect();
/// assert_eq!(shapes, [&[16, 15][..], &[4, 15], &[16], &[4]]); // 3 x 5 is one axis
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Shi et al., arXiv:2309.06497, section 3.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocking {
    /// The longest edge of a block; default 1024.
    pub max_dim: usize,
    /// Whether short axes are merged; default true.
    pub merge: bool,
}

impl Default for Blocking {
    fn default() -> Self {
        Self { max_dim: 1024, merge: true }
    }
}

/// A block of a layer: a tensor inside the layer's tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    layer: usize,
    /// Of its first element in the flat vector.
    offset: usize,
    shape: Vec<usize>,
    /// Of the layer, axis by axis.
    strides: Vec<usize>,
}

impl Blocking {
    /// The blocks of all layers, in order; layers without elements have none.
    ///
    /// # Errors
    /// [`CoreError::Parameter`] for `max_dim = 0`, [`CoreError::Overflow`] when there are more blocks than memory holds.
    pub fn blocks(&self, layout: &Layout) -> Result<Vec<Block>, Error> {
        if self.max_dim == 0 {
            return Err(CoreError::Parameter { what: "max_dim", value: 0.0, must_be: "at least 1" }.into());
        }
        let mut blocks = Vec::new();
        // The other axes of a layer without elements may have any product.
        for (l, layer) in layout.layers().iter().enumerate().filter(|(_, layer)| !layer.range().is_empty()) {
            self.cut(l, layer, &mut blocks)?;
        }
        Ok(blocks)
    }

    fn cut(&self, index: usize, layer: &Parameter, blocks: &mut Vec<Block>) -> Result<(), Error> {
        let axes = self.axes(layer.shape());
        let pieces: Vec<usize> = axes.iter().map(|axis| axis.div_ceil(self.max_dim)).collect();
        // Not more than the layer's elements, whose number does not overflow.
        let count: usize = pieces.iter().product();
        blocks.try_reserve(count).map_err(|_| CoreError::Overflow { what: "blocks" })?;
        let mut strides = vec![1; axes.len()];
        for axis in (1..axes.len()).rev() {
            strides[axis - 1] = strides[axis] * axes[axis];
        }
        for number in 0..count {
            let (mut rest, mut offset, mut shape) = (number, layer.range().start, vec![0; axes.len()]);
            for axis in (0..axes.len()).rev() {
                let start = rest % pieces[axis] * self.max_dim;
                rest /= pieces[axis];
                offset += start * strides[axis];
                shape[axis] = self.max_dim.min(axes[axis] - start);
            }
            blocks.push(Block { layer: index, offset, shape, strides: strides.clone() });
        }
        Ok(())
    }

    /// The axes after merging; a single number has one of length 1.
    fn axes(&self, shape: &[usize]) -> Vec<usize> {
        let mut axes: Vec<usize> = Vec::with_capacity(shape.len());
        for &dim in shape {
            match axes.last_mut() {
                Some(last) if self.merge && (*last == 1 || dim == 1 || fits(*last, dim, self.max_dim)) => *last *= dim,
                _ => axes.push(dim),
            }
        }
        if axes.is_empty() { vec![1] } else { axes }
    }
}

fn fits(a: usize, b: usize, limit: usize) -> bool {
    a.checked_mul(b).is_some_and(|product| product <= limit)
}

impl Block {
    /// The number of its layer.
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// The lengths of its edges: one for a vector, two for a matrix, ..
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of its elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements; no block of [`Blocking::blocks`] is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its elements in the flat vector: one range for each run along the last axis, in row-major order.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let (&run, leading) = self.shape.split_last().unwrap_or((&0, &[]));
        (0..leading.iter().product()).map(move |number| {
            let (mut rest, mut start) = (number, self.offset);
            for (axis, &dim) in leading.iter().enumerate().rev() {
                start += rest % dim * self.strides[axis];
                rest /= dim;
            }
            start..start + run
        })
    }

    /// The flops of preconditioning it once: roots of its factors every `frequency` steps (of an eigendecomposition,
    /// about `10 d^3` for an edge `d`), and two products of its elements with each factor, one of them symmetric.
    pub fn cost(&self, frequency: u64) -> f64 {
        let roots = |d: f64| 10.0 * d * d * d / frequency.max(1) as f64;
        let len = self.len() as f64;
        self.shape.iter().map(|&d| roots(d as f64) + 3.0 * len * d as f64).sum()
    }

    /// Its elements, side by side.
    pub(super) fn gather<T: Copy>(&self, flat: &[T]) -> Vec<T> {
        let mut out = Vec::with_capacity(self.len());
        self.ranges().for_each(|range| out.extend_from_slice(&flat[range]));
        out
    }

    /// Puts its elements back.
    pub(super) fn scatter<T: Copy>(&self, flat: &mut [T], own: &[T]) {
        let mut rest = own;
        for range in self.ranges() {
            let (run, others) = rest.split_at(range.len());
            flat[range].copy_from_slice(run);
            rest = others;
        }
    }
}
