//! Spectral-factorized preconditioners: a step of the state, and the rotation in it.

use std::hint::black_box;

use ascribe_core::{MatMut, MatRef, Real};
use ascribe_solvers::parallel::Parallelism;
use ascribe_solvers::precondition::Cayley;

use super::{Kernel, Measured, Settings, uniform};
use crate::Failure;
use crate::failure::fail;

pub(super) const CAYLEY: Kernel = Kernel {
    name: "cayley",
    about: "a basis times the Cayley map of a skew matrix; order 0 is the exact one",
    sizes: &["n", "order"],
    defaults: &[&[1024, 0]],
    f32: cayley::<f32>,
    f64: cayley::<f64>,
};

fn cayley<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let &[n, order] = sizes else { return fail("the table names two sizes") };
    let (mut skew, b): (Vec<T>, Vec<T>) = (uniform(settings.seed, 0, &[n, n])?, uniform(settings.seed, 1, &[n, n])?);
    // Frobenius' norm is one half.
    let scale = T::from_f64(0.5 * 3.0_f64.sqrt() / n.max(1) as f64);
    for i in 0..n {
        skew[i * n + i] = T::ZERO;
        for j in 0..i {
            skew[i * n + j] *= scale;
            skew[j * n + i] = -skew[i * n + j];
        }
    }
    let (skew, b) = (MatRef::new(&skew, n, n)?, MatRef::new(&b, n, n)?);
    let map = if order == 0 { Cayley::Exact } else { Cayley::Truncated(u32::try_from(order)?) };
    let parallelism = Parallelism::threads(settings.threads);
    let mut out = vec![T::ZERO; n * n];
    let mut result = Ok(());
    let seconds = settings.time(|| {
        result = MatMut::new(black_box(&mut out), n, n)
            .map_err(Into::into)
            .and_then(|out| map.rotate(out, b, skew, parallelism));
    });
    result?;
    let cube = (n * n * n) as u64;
    let flops = if order == 0 { 8 * cube / 3 } else { (4 * order as u64 - 2) * cube + 2 * cube };
    Ok(Measured { seconds, flops, bytes: (3 * n * n * size_of::<T>()) as u64 })
}
