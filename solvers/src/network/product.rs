//! Curvature of a network's loss as operators on flat parameter vectors.

use core::fmt::Debug;

use ascribe_core::derivative::Reduction;
use ascribe_core::linop::check_apply;
use ascribe_core::random::Stream;
use ascribe_core::{Error as CoreError, ExampleLinOp, LinOp, MatMut, MatRef, PositiveSemidefinite, Real, SelfAdjoint};

use super::Linearized;
use super::sweep::{Examples, sum_over_examples};
use super::tangent::Chunk;
use crate::Error;
use crate::error::zeros;

/// Which curvature a [`Curvature`] is. Sealed.
pub trait Kind<T: Real>: sealed::Sealed + Debug + Clone + Send + Sync {
    /// Whether the network's own second derivatives enter.
    #[doc(hidden)]
    const SECOND_ORDER: bool;
    /// Replaces the tangent `u` of one example's outputs by the output matrix times it.
    #[doc(hidden)]
    fn output_matrix(&self, lin: &Linearized<'_, T>, place: usize, row: &Row<'_, T>, u: &mut [T]);
}

mod sealed {
    pub trait Sealed {}
}

/// One example, as [`Kind::output_matrix`] sees it.
#[doc(hidden)]
#[derive(Debug)]
pub struct Row<'r, T> {
    state: &'r [T],
    delta: &'r [T],
}

/// A curvature matrix `C` of the loss of a [`Linearized`] network, `[parameters, parameters]`, never formed:
/// $C = r \sum_n J_n^\top M_n J_n$ (plus the network's second derivatives for the Hessian), with `r = 1/N` or 1.
///
/// | type | `M_n` | properties |
/// |---|---|---|
/// | [`Hessian`] | Hessian of the loss in the outputs, plus `sum_c dl/dz_c` times the Hessian of `z_c` | symmetric |
/// | [`GaussNewton`] | Hessian of the loss in the outputs; equals the true Fisher | positive semidefinite |
/// | [`SampledFisher`] | mean of `b b^T`, `b` the output gradient at a target drawn from the model | its mean is the Gauss-Newton matrix |
/// | [`EmpiricalFisher`] | `d d^T`, `d` the output gradient at the observed target | **not** a Fisher; vanishes where the model fits |
///
/// Cost per row and example: 8 flops a weight, 12 for the Hessian; 4 in the first layer, below which nothing has to be
/// passed. Work space of each thread: `8 * 128` times two to four numbers a hidden unit, kept from
/// call to call. Rounding: each entry is a sum of at most `N + width` products in a fixed order.
#[derive(Debug, Clone)]
pub struct Curvature<'l, 'a, T, K> {
    lin: &'l Linearized<'a, T>,
    kind: K,
}

/// The exact Hessian-vector product, by the R-operator (Pearlmutter 1994).
pub type Hessian<'l, 'a, T> = Curvature<'l, 'a, T, HessianKind>;
/// The generalised Gauss-Newton matrix (Schraudolph 2002).
pub type GaussNewton<'l, 'a, T> = Curvature<'l, 'a, T, GaussNewtonKind>;
/// The second moment of the observed gradients.
pub type EmpiricalFisher<'l, 'a, T> = Curvature<'l, 'a, T, EmpiricalKind>;
/// The Fisher information estimated by targets sampled from the model.
pub type SampledFisher<'l, 'a, T> = Curvature<'l, 'a, T, SampledKind<T>>;

/// See [`Hessian`].
#[derive(Debug, Clone, Copy)]
pub struct HessianKind;
/// See [`GaussNewton`].
#[derive(Debug, Clone, Copy)]
pub struct GaussNewtonKind;
/// See [`EmpiricalFisher`].
#[derive(Debug, Clone, Copy)]
pub struct EmpiricalKind;
/// See [`SampledFisher`].
#[derive(Debug, Clone)]
pub struct SampledKind<T> {
    /// `[examples, samples, outputs]`.
    gradients: Vec<T>,
    samples: usize,
}

impl sealed::Sealed for HessianKind {}
impl sealed::Sealed for GaussNewtonKind {}
impl sealed::Sealed for EmpiricalKind {}
impl<T> sealed::Sealed for SampledKind<T> {}

impl<T: Real> Kind<T> for HessianKind {
    const SECOND_ORDER: bool = true;
    fn output_matrix(&self, lin: &Linearized<'_, T>, _: usize, row: &Row<'_, T>, u: &mut [T]) {
        lin.net.loss().hessian_in_place(row.state, u);
    }
}

impl<T: Real> Kind<T> for GaussNewtonKind {
    const SECOND_ORDER: bool = false;
    fn output_matrix(&self, lin: &Linearized<'_, T>, _: usize, row: &Row<'_, T>, u: &mut [T]) {
        lin.net.loss().hessian_in_place(row.state, u);
    }
}

impl<T: Real> Kind<T> for EmpiricalKind {
    const SECOND_ORDER: bool = false;
    fn output_matrix(&self, _: &Linearized<'_, T>, _: usize, row: &Row<'_, T>, u: &mut [T]) {
        let along = dot(row.delta, u);
        u.iter_mut().zip(row.delta).for_each(|(x, &d)| *x = along * d);
    }
}

impl<T: Real> Kind<T> for SampledKind<T> {
    const SECOND_ORDER: bool = false;
    fn output_matrix(&self, lin: &Linearized<'_, T>, place: usize, _: &Row<'_, T>, u: &mut [T]) {
        let outputs = lin.net.outputs();
        let all = &self.gradients[place * self.samples * outputs..(place + 1) * self.samples * outputs];
        let weight = T::ONE / T::from_f64(self.samples as f64);
        let tangent = u.to_vec();
        u.fill(T::ZERO);
        for b in all.chunks_exact(outputs) {
            let along = weight * dot(b, &tangent);
            u.iter_mut().zip(b).for_each(|(x, &b)| *x += along * b);
        }
    }
}

fn dot<T: Real>(x: &[T], y: &[T]) -> T {
    x.iter().zip(y).fold(T::ZERO, |sum, (&x, &y)| sum + x * y)
}

impl<'a, T: Real> Linearized<'a, T> {
    /// The exact Hessian of the loss.
    pub fn hessian(&self) -> Hessian<'_, 'a, T> {
        Curvature { lin: self, kind: HessianKind }
    }

    /// The Gauss-Newton matrix of the loss.
    pub fn gauss_newton(&self) -> GaussNewton<'_, 'a, T> {
        Curvature { lin: self, kind: GaussNewtonKind }
    }

    /// The empirical Fisher matrix: the second moment of the observed per-example gradients.
    pub fn empirical_fisher(&self) -> EmpiricalFisher<'_, 'a, T> {
        Curvature { lin: self, kind: EmpiricalKind }
    }

    /// The Fisher matrix estimated with `samples` targets for each example. Example `n` draws from
    /// `stream.child(n)`, so the estimate does not depend on order, batch or threads.
    ///
    /// # Errors
    /// [`CoreError::Parameter`] when `samples` is 0.
    pub fn sampled_fisher(&self, samples: usize, stream: Stream) -> Result<SampledFisher<'_, 'a, T>, Error> {
        if samples == 0 {
            return Err(CoreError::Parameter { what: "samples", value: 0.0, must_be: "at least 1" }.into());
        }
        let len = samples.checked_mul(self.net.outputs());
        let all = len.and_then(|len| len.checked_mul(self.examples()));
        let mut gradients = zeros("sampled gradients", all)?;
        for (n, slot) in gradients.chunks_exact_mut(samples * self.net.outputs()).enumerate() {
            self.sampled_gradients(n, stream, slot);
        }
        Ok(Curvature { lin: self, kind: SampledKind { gradients, samples } })
    }
}

impl<T: Real, K: Kind<T>> Curvature<'_, '_, T, K> {
    fn product(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, examples: Examples<'_>, scale: T) -> Result<(), CoreError> {
        let lin = self.lin;
        let (net, params) = (lin.net, lin.params);
        check_apply(net.params(), net.params(), &out, &x)?;
        let outputs = net.outputs();
        let state_len = net.loss().state_len(outputs);

        sum_over_examples(lin, out, x, examples, scale, |work, chunk, place, v, sum| {
            work.push_forward(net, params, v, chunk, K::SECOND_ORDER)?;
            for plane in work.outputs.chunks_exact_mut(chunk.cache.rows * outputs) {
                for (i, u) in plane.chunks_exact_mut(outputs).enumerate() {
                    self.kind.output_matrix(lin, place.of(i), &row(&chunk, i, outputs, state_len), u);
                }
            }
            work.pull_back(net, params, chunk, K::SECOND_ORDER.then_some(v), sum)
        })
    }
}

fn row<'c, T>(chunk: &Chunk<'c, T>, i: usize, outputs: usize, state_len: usize) -> Row<'c, T> {
    Row {
        state: &chunk.cache.state[i * state_len..(i + 1) * state_len],
        delta: &chunk.cache.delta[i * outputs..(i + 1) * outputs],
    }
}

impl<T: Real, K: Kind<T>> LinOp<T> for Curvature<'_, '_, T, K> {
    fn dim_in(&self) -> usize {
        self.lin.net.params()
    }
    fn dim_out(&self) -> usize {
        self.lin.net.params()
    }
    fn apply(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, _: &mut [T]) -> Result<(), CoreError> {
        self.product(out, x, Examples::All, self.lin.scale())
    }
}

impl<T: Real, K: Kind<T>> ExampleLinOp<T> for Curvature<'_, '_, T, K> {
    fn examples(&self) -> usize {
        self.lin.examples()
    }
    fn examples_scratch_len(&self, _: usize, _: usize) -> usize {
        0
    }
    fn apply_examples(
        &self,
        out: MatMut<'_, T>,
        x: MatRef<'_, T>,
        indices: &[usize],
        _: &mut [T],
    ) -> Result<(), CoreError> {
        let full = match self.lin.reduction {
            Reduction::Mean => 1.0,
            Reduction::Sum => self.examples() as f64,
        };
        let scale = T::from_f64(full / indices.len().max(1) as f64);
        self.product(out, x, Examples::Some(indices), scale)
    }
}

impl<T: Real, K: Kind<T>> SelfAdjoint<T> for Curvature<'_, '_, T, K> {}
impl<T: Real> PositiveSemidefinite<T> for GaussNewton<'_, '_, T> {}
impl<T: Real> PositiveSemidefinite<T> for EmpiricalFisher<'_, '_, T> {}
impl<T: Real> PositiveSemidefinite<T> for SampledFisher<'_, '_, T> {}
