//! Right-hand sides that stop one by one and share each pass over the data.

use ascribe_core::{LinOp, MatMut, MatRef, Real};

use crate::Error;
use crate::error::zeros;
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
    pub(super) fn apply<C: Send, E: Send>(
        &mut self,
        op: &dyn LinOp<T>,
        columns: Vec<&mut C>,
        par: Parallelism,
        vector: impl Fn(&C) -> &[T],
        f: impl Fn(&mut C, &mut [T]) -> Result<(), E> + Sync,
    ) -> Result<(), Error>
    where
        Error: From<E>,
    {
        let (rows, dim) = (columns.len(), op.dim_in());
        if rows == 0 || dim == 0 {
            return Ok(());
        }
        self.input.clear();
        for column in &columns {
            self.input.extend_from_slice(vector(column));
        }
        self.output.resize(self.input.len(), T::ZERO);
        let needed = op.scratch_len(rows);
        if self.scratch.len() < needed {
            self.scratch = zeros("operator scratch", Some(needed))?;
        }
        let output = MatMut::new(&mut self.output, rows, dim)?;
        op.apply(output, MatRef::new(&self.input, rows, dim)?, &mut self.scratch)?;
        let tasks = columns.into_iter().zip(self.output.chunks_exact_mut(dim)).collect();
        Ok(for_each(par, tasks, |(column, result): (&mut C, &mut [T])| f(column, result))?)
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

/// Bounds the elements of an iterate: those of the first one and of all steps.
pub(super) struct Reach(pub f64);

impl Reach {
    /// Whether the step `x + length w`, in units of `unit`, leaves the finite numbers; `size` bounds the elements of `w`.
    /// Almost always the steps so far say no.
    pub(super) fn overflows<T: Real>(&mut self, x: &[T], length: f64, w: &[T], size: f64, unit: T) -> bool {
        self.0 += length.abs() * size;
        let bounded = self.0 * unit.to_f64() < 0.5 * T::MAX.to_f64();
        let length = T::from_f64(length);
        let element = |(&x, &w): (&T, &T)| !((x + length * w) * unit).is_finite();
        // A bound that is NaN is no bound: then, too, each element is looked at.
        !bounded && x.iter().zip(w).any(element)
    }
}
