use ascribe_core::record::LayerRecord;
use ascribe_core::sketch::LayerSketch;
use ascribe_core::{Error, MatMut, Real};
use pulp::{Arch, Simd, WithSimd};

use super::Workspaces;
use crate::error::check_shape;
use crate::parallel::{Parallelism, run};

/// Examples of a task.
const EXAMPLES: usize = 8;

/// Sets each row of `out` to the sketch of that example's gradient, eight examples a task.
///
/// Loops of core run in the vectors that the processor has, as in [`apply_rows`](super::apply_rows()). The bits are
/// those of [`LayerSketch::sketch`] on each block of eight alone, for any number of threads.
///
/// Scratch, which is allocated: that of `sketch` for eight examples, for each thread.
///
/// # Errors
/// [`Error::Shape`] when `out` does not fit, [`Error::Overflow`] when the scratch cannot be allocated; otherwise as
/// `sketch`. Where it is the layer that does not fit, `out` is untouched.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef, random::Stream, record::LayerRecord, sketch::{Formed, Sjlt}};
/// use ascribe_solvers::{parallel::Parallelism, sketch::sketch_records};
/// let sketch = Formed::new(Sjlt::new(3 * 2, 4, 1, Stream::new(0, "layer 3"))?);
/// let (x, delta, mut y) = ([1.0; 50 * 2], [1.0; 50 * 3], [0.0; 10 * 4]);
/// let (x, delta) = (MatRef::new(&x, 50, 2)?, MatRef::new(&delta, 50, 3)?);
/// let record = LayerRecord::new(10, x, delta, None, false)?;
/// sketch_records(MatMut::new(&mut y, 10, 4)?, &sketch, &record, Parallelism::threads(2))?;
/// assert_eq!(y[..4], y[36..]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
pub fn sketch_records<T: Real, S: LayerSketch<T> + Sync>(
    out: MatMut<'_, T>,
    sketch: &S,
    record: &LayerRecord<'_, T>,
    par: Parallelism,
) -> Result<(), Error> {
    let examples = record.examples();
    check_shape("out rows", examples, out.rows())?;
    check_shape("out columns", sketch.dim_out(), out.cols())?;
    // There may be any number of rows without elements.
    if out.cols() == 0 {
        return Ok(());
    }
    let first = record.example_range(0, examples.min(EXAMPLES))?;
    let workers = par.workers().min(examples.div_ceil(EXAMPLES));
    let mut scratch = Workspaces::new("scratch of a sketch", workers, Some(sketch.scratch_len(&first)))?;
    let (mut tasks, mut rest) = (Vec::with_capacity(examples.div_ceil(EXAMPLES)), out);
    for first in (0..examples).step_by(EXAMPLES) {
        let len = EXAMPLES.min(examples - first);
        let (block, after) = rest.split_rows(len)?;
        rest = after;
        tasks.push((block, record.example_range(first, len)?));
    }
    let arch = Arch::new();
    run(&mut scratch.split(), tasks, |scratch, (out, record)| arch.dispatch(Apply { sketch, out, record, scratch }))
}

/// A sketch that is compiled for each kind of vectors.
struct Apply<'s, S, T> {
    sketch: &'s S,
    out: MatMut<'s, T>,
    record: LayerRecord<'s, T>,
    scratch: &'s mut [T],
}

impl<S: LayerSketch<T>, T: Real> WithSimd for Apply<'_, S, T> {
    type Output = Result<(), Error>;
    #[inline(always)]
    fn with_simd<V: Simd>(self, _: V) -> Self::Output {
        self.sketch.sketch(self.out, &self.record, self.scratch)
    }
}
