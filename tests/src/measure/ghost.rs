//! Inner products of layer gradients, by both routes.

use std::hint::black_box;

use ascribe_core::ghost::Route;
use ascribe_core::record::LayerRecord;
use ascribe_core::{MatMut, MatRef, Real};
use ascribe_solvers::attribution::ghost_dots;
use ascribe_solvers::parallel::Parallelism;

use super::{Kernel, Measured, Settings, uniform};
use crate::Failure;
use crate::failure::fail;

const SIZES: &[&str] = &["examples", "queries", "positions", "inputs", "outputs"];
/// One position; sixteen, where forming takes half as many multiplications again; 64, where it takes a quarter.
const DEFAULTS: &[&[usize]] = &[&[2048, 64, 1, 512, 512], &[256, 32, 16, 512, 512], &[64, 32, 64, 512, 512]];

pub(super) const GHOST: Kernel = Kernel {
    name: "ghost",
    about: "inner products of layer gradients from Gram matrices",
    sizes: SIZES,
    defaults: DEFAULTS,
    f32: |settings, sizes| run::<f32>(settings, sizes, Route::Ghost),
    f64: |settings, sizes| run::<f64>(settings, sizes, Route::Ghost),
};

pub(super) const FORMED: Kernel = Kernel {
    name: "ghost_formed",
    about: "the same from gradients that are formed",
    sizes: SIZES,
    defaults: DEFAULTS,
    f32: |settings, sizes| run::<f32>(settings, sizes, Route::Form),
    f64: |settings, sizes| run::<f64>(settings, sizes, Route::Form),
};

fn run<T: Real>(settings: &Settings, sizes: &[usize], route: Route) -> Result<Measured, Failure> {
    let &[n, m, s, d, k] = sizes else { return fail("the table names five sizes") };
    let stored = |stream, rows, cols| uniform::<T>(settings.seed, stream, &[rows, s, cols]);
    let (x, delta, xq, deltaq) = (stored(0, n, d)?, stored(1, n, k)?, stored(2, m, d)?, stored(3, m, k)?);
    let train = LayerRecord::new(n, MatRef::new(&x, n * s, d)?, MatRef::new(&delta, n * s, k)?, None, false)?;
    let query = LayerRecord::new(m, MatRef::new(&xq, m * s, d)?, MatRef::new(&deltaq, m * s, k)?, None, false)?;
    let mut out = vec![T::ZERO; n * m];
    let parallelism = Parallelism::threads(settings.threads);
    let mut result = Ok(());
    let seconds = settings.time(|| {
        result = MatMut::new(black_box(&mut out), n, m)
            .map_err(Failure::from)
            .and_then(|out| Ok(ghost_dots(out, T::ZERO, &train, &query, Some(route), parallelism)?));
    });
    result?;
    let products = match route {
        Route::Ghost => n * m * s * s * (d + k),
        Route::Form => (n + m) * s * d * k + n * m * d * k,
    };
    let bytes = ((n + m) * s * (d + k) + n * m) * size_of::<T>();
    Ok(Measured { seconds, flops: 2 * products as u64, bytes: bytes as u64 })
}
