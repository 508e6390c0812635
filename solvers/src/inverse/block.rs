//! Right-hand sides that stop one by one and share each pass over the data.

use ascribe_core::{LinOp, MatMut, MatRef, Real};

use crate::Error;
use crate::parallel::{Parallelism, for_each};

/// A product with one vector of each right-hand side, in memory that is reused from step to step.
#[derive(Default)]
pub(super) struct SharedProduct<T> {
    input: Vec<T>,
    output: Vec<T>,
    scratch: Vec<T>,
}

impl<T: Real> SharedProduct<T> {
    /// Applies the square operator `op` to `vector` of every column and hands each column its result.
    pub(super) fn apply<C: Send>(
        &mut self,
        op: &dyn LinOp<T>,
        columns: Vec<&mut C>,
        par: Parallelism,
        vector: impl Fn(&C) -> &[T],
        f: impl Fn(&mut C, &mut [T]) -> Result<(), Error> + Sync,
    ) -> Result<(), Error> {
        let (rows, dim) = (columns.len(), op.dim_in());
        if rows == 0 || dim == 0 {
            return Ok(());
        }
        self.input.clear();
        for column in &columns {
            self.input.extend_from_slice(vector(column));
        }
        self.output.resize(self.input.len(), T::ZERO);
        self.scratch.resize(op.scratch_len(rows), T::ZERO);
        let output = MatMut::new(&mut self.output, rows, dim)?;
        op.apply(output, MatRef::new(&self.input, rows, dim)?, &mut self.scratch)?;
        let tasks = columns.into_iter().zip(self.output.chunks_exact_mut(dim)).collect();
        for_each(par, tasks, |(column, result): (&mut C, &mut [T])| f(column, result))
    }
}

/// The largest power of two up to `norm`; 1 for 0, that of the largest number for infinity. Dividing by it rounds
/// nothing, and the squares of what is left neither vanish nor overflow.
pub(super) fn power_of_two<T: Real>(norm: T) -> T {
    let norm = if norm.is_finite() { norm } else { T::MAX };
    if norm == T::ZERO {
        return T::ONE;
    }
    // The bits of the exponent alone; a subnormal f64 has none, and is left to the smallest normal number.
    let exponent = f64::from_bits(norm.to_f64().to_bits() & (0x7ff << 52));
    T::from_f64(exponent.max(f64::MIN_POSITIVE))
}
