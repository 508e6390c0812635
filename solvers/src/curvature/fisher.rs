//! Which law the output gradients come from.

use core::fmt::Debug;

use ascribe_core::random::Stream;
use ascribe_core::{Error as CoreError, Real};

use crate::Error;
use crate::network::Linearized;

/// The law of the output gradients that a curvature is made of. It is part of the type of everything built
/// from them, so that one is never taken for another. Sealed.
///
/// | type | output gradients `b` of an example | second moment in the outputs |
/// |---|---|---|
/// | [`Type2`] | every column of a root `S` of the loss Hessian, `S S^T = H` | `H` exactly: the Gauss-Newton matrix, and the Fisher |
/// | [`Sampled`] | gradients at targets drawn from the model, over the root of their number | `H` in the mean |
/// | [`Empirical`] | the gradient at the observed target | **not** a Fisher; vanishes where the model fits |
///
/// For records of another training stack the type is the caller's word for where they come from.
pub trait Fisher: sealed::Sealed + Debug + Clone + Send + Sync {
    /// The name that files remember.
    const NAME: &'static str;
    /// How many output gradients an example has.
    #[doc(hidden)]
    fn draws<T: Real>(&self, lin: &Linearized<'_, T>) -> Result<usize, Error>;
    /// Fills `out` `[draws, outputs]` for one example. Passes over the same data draw independently.
    #[doc(hidden)]
    fn output_gradients<T: Real>(&self, lin: &Linearized<'_, T>, pass: u64, example: usize, out: &mut [T]);
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Type2 {}
    impl Sealed for super::Sampled {}
    impl Sealed for super::Empirical {}
}

/// The exact Fisher of the model's own law, which is the Gauss-Newton matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Type2;

/// The Fisher by targets sampled from the model. Example `n` draws from a child of `stream` of its own, so the result
/// does not depend on order, batches or threads.
#[derive(Debug, Clone, Copy)]
pub struct Sampled {
    /// Targets for each example; 1 is usual.
    pub samples: usize,
    /// Where they come from.
    pub stream: Stream,
}

/// The second moment of the observed gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Empirical;

impl Fisher for Type2 {
    const NAME: &'static str = "type2";
    fn draws<T: Real>(&self, lin: &Linearized<'_, T>) -> Result<usize, Error> {
        // A cross entropy of one class has no columns, and no curvature: its one column is zero.
        Ok(lin.root_rank().max(1))
    }
    fn output_gradients<T: Real>(&self, lin: &Linearized<'_, T>, _: u64, example: usize, out: &mut [T]) {
        lin.root_columns(example, out);
    }
}

impl Fisher for Sampled {
    const NAME: &'static str = "sampled";
    fn draws<T: Real>(&self, _: &Linearized<'_, T>) -> Result<usize, Error> {
        if self.samples == 0 {
            return Err(CoreError::Parameter { what: "samples", value: 0.0, must_be: "at least 1" }.into());
        }
        Ok(self.samples)
    }
    fn output_gradients<T: Real>(&self, lin: &Linearized<'_, T>, pass: u64, example: usize, out: &mut [T]) {
        lin.sampled_gradients(example, self.stream.child(pass), out);
        let weight = T::ONE / T::from_f64(self.samples as f64).sqrt();
        for x in out {
            *x *= weight;
        }
    }
}

impl Fisher for Empirical {
    const NAME: &'static str = "empirical";
    fn draws<T: Real>(&self, _: &Linearized<'_, T>) -> Result<usize, Error> {
        Ok(1)
    }
    fn output_gradients<T: Real>(&self, lin: &Linearized<'_, T>, _: u64, example: usize, out: &mut [T]) {
        lin.observed_gradient(example, out);
    }
}
