//! Ghost products: inner products of layer gradients, without the gradients.
//!
//! The gradients of two examples are sums of outer products, so their inner product needs only the Gram matrices of
//! inputs and of output gradients, position against position:
//! $\langle G_n, G_q \rangle = \sum_{t,s} (x_t^\top x_s) (\delta_t^\top \delta_s)$. For short examples that is far
//! less work and memory than the `d_out x d_in` gradients; for long ones it is more. [`Route`] counts.
//!
//! # References
//! Goodfellow, arXiv:1510.01799, for norms; Li et al., arXiv:2110.05679, section 4, for positions.

use core::ops::Range;

use crate::error::{Error, check_shape, take_scratch};
use crate::matmul::matmul;
use crate::record::LayerRecord;
use crate::reduce;
use crate::scalar::Real;
use crate::view::{MatMut, MatRef};

/// Rows of either record in a tile of the two Gram matrices: both tiles of `f64` fit in the second-level cache.
const TILE: usize = 128;
/// Training gradients that are formed at a time: enough to make their product with the queries a blocked one.
const FORMED: usize = 16;

/// How inner products of gradients are computed. Both routes give the same numbers up to rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Route {
    /// Form the gradients, then multiply them.
    Form,
    /// Multiply the Gram matrices of inputs and output gradients.
    Ghost,
}

impl Route {
    /// The route with fewer multiplications for `B1` examples of `S1` positions against `B2` of `S2`, with a gradient
    /// `[K, D]` (`D` counts the appended 1): to form when
    ///
    /// $$B_1 B_2 S_1 S_2 (D + K) \ge (B_1 S_1 + B_2 S_2) D K + B_1 B_2 D K.$$
    ///
    /// Arguments: `[B1, B2]`, `[S1, S2]`, `[K, D]`. Sizes enter as `f64`, so none overflows.
    ///
    /// ```
    /// use ascribe_core::ghost::Route;
    /// assert_eq!(Route::for_sizes([1000, 10], [1, 1], [64, 64]), Route::Ghost);
    /// assert_eq!(Route::for_sizes([1000, 10], [512, 512], [64, 64]), Route::Form);
    /// ```
    pub fn for_sizes(examples: [usize; 2], positions: [usize; 2], gradient: [usize; 2]) -> Self {
        let [[b1, b2], [s1, s2], [k, d]] = [examples, positions, gradient].map(|pair| pair.map(|size| size as f64));
        let ghost = b1 * b2 * s1 * s2 * (d + k);
        let form = (b1 * s1 + b2 * s2) * d * k + b1 * b2 * d * k;
        if ghost >= form { Self::Form } else { Self::Ghost }
    }

    /// The cheaper route for [`Route::dots`]: [`Route::for_sizes`] of the two records.
    pub fn cheaper<T: Real>(train: &LayerRecord<'_, T>, query: &LayerRecord<'_, T>) -> Self {
        let gradient = [train.d_out(), train.weight_cols()];
        Self::for_sizes([train.examples(), query.examples()], [train.positions(), query.positions()], gradient)
    }

    /// The cheaper route for [`Route::squared_norms`]: to form when `S (D + K) >= D K`, for any number of examples.
    pub fn cheaper_for_norms<T: Real>(record: &LayerRecord<'_, T>) -> Self {
        let [s, k, d] = [record.positions(), record.d_out(), record.weight_cols()].map(|size| size as f64);
        if s * (d + k) >= d * k { Self::Form } else { Self::Ghost }
    }

    /// The scratch that [`Route::dots`] needs: two tiles of at most 128 x 128 for [`Route::Ghost`], the gradients of
    /// the queries and of 16 training examples for [`Route::Form`].
    pub fn scratch_len<T: Real>(self, train: &LayerRecord<'_, T>, query: &LayerRecord<'_, T>) -> usize {
        match self {
            Self::Form => query.examples().saturating_add(FORMED.min(train.examples())).saturating_mul(train.dim()),
            Self::Ghost => 2 * TILE.min(train.inputs().rows()) * TILE.min(query.inputs().rows()),
        }
    }

    /// `out[n, q] = beta out[n, q] + <G_n, G_q>` for all examples of `train` and `query`, `[n_train, n_query]`.
    ///
    /// With `beta = 0`, `out` is overwritten whatever it held; `beta = 1` adds up layers. The product with the *sum*
    /// of the queries' gradients is that with [`pooled`] queries. A masked position contributes nothing and may hold
    /// anything; a NaN elsewhere shows in the products of its example.
    ///
    /// Cost in flops: twice the sides of the inequality of [`Route::for_sizes`]. Error, with the unit roundoff `u` of
    /// `T` and to first order, relative to `sum_ts (|x_t|.|x_s| + bias) (|delta_t|.|delta_s|)`, the product of the
    /// absolute values: at most `(d_in + d_out + 2 S1 S2 + 50) u` for [`Route::Ghost`], and
    /// `(dim + 4 (S1 + S2) + 4) u` for [`Route::Form`].
    ///
    /// # Errors
    /// [`Error::Shape`] when the layers or `out` do not fit, [`Error::Length`] when `scratch` is too short.
    ///
    /// # Examples
    /// ```
    /// use ascribe_core::{MatMut, MatRef, ghost::Route, record::LayerRecord};
    /// let x = MatRef::new(&[1.0, 2.0, 3.0, 4.0], 2, 2)?; // two examples of one position
    /// let delta = MatRef::new(&[1.0, 10.0], 2, 1)?;
    /// let record = LayerRecord::new(2, x, delta, None, true)?; // gradients (1, 2, 1) and (30, 40, 10)
    /// let (mut dots, mut scratch) = ([0.0; 4], [0.0; 8]);
    /// Route::Ghost.dots(MatMut::new(&mut dots, 2, 2)?, 0.0, &record, &record, &mut scratch)?;
    /// assert_eq!(dots, [6.0, 120.0, 120.0, 2600.0]);
    /// # Ok::<(), ascribe_core::Error>(())
    /// ```
    pub fn dots<T: Real>(
        self,
        mut out: MatMut<'_, T>,
        beta: T,
        train: &LayerRecord<'_, T>,
        query: &LayerRecord<'_, T>,
        scratch: &mut [T],
    ) -> Result<(), Error> {
        check_shape("query inputs", train.d_in(), query.d_in())?;
        check_shape("query outputs", train.d_out(), query.d_out())?;
        check_shape("query weight columns (bias)", train.weight_cols(), query.weight_cols())?;
        check_shape("score rows", train.examples(), out.rows())?;
        check_shape("score columns", query.examples(), out.cols())?;
        let (scratch, _) = take_scratch(scratch, self.scratch_len(train, query))?;
        if out.cols() == 0 {
            return Ok(());
        }
        match self {
            Self::Form => formed_dots(out, beta, train, query, scratch),
            Self::Ghost => {
                out.for_each_row(|_, row| rescale(row, beta));
                ghost_dots(out, train, query, scratch)
            }
        }
    }

    /// The scratch that [`Route::squared_norms`] needs: two tiles, or one gradient.
    pub fn norms_scratch_len<T: Real>(self, record: &LayerRecord<'_, T>) -> usize {
        match self {
            Self::Form => record.dim(),
            Self::Ghost => 2 * TILE.min(record.positions()).pow(2),
        }
    }

    /// `out[n] = beta out[n] + |G_n|^2` for all examples: the squared norms of the gradients, over the layers with
    /// `beta = 1`.
    ///
    /// Cost: `2 S^2 (D + K)` flops an example for [`Route::Ghost`], `2 S D K` for [`Route::Form`]. Error: that of
    /// [`Route::dots`] with itself.
    ///
    /// # Errors
    /// [`Error::Shape`] when `out` does not have one element an example, [`Error::Length`] when `scratch` is too short.
    pub fn squared_norms<T: Real>(
        self,
        out: &mut [T],
        beta: T,
        record: &LayerRecord<'_, T>,
        scratch: &mut [T],
    ) -> Result<(), Error> {
        check_shape("out elements", record.examples(), out.len())?;
        let (scratch, _) = take_scratch(scratch, self.norms_scratch_len(record))?;
        rescale(out, beta);
        for (n, out) in out.iter_mut().enumerate() {
            match self {
                Self::Form => {
                    record.gradient(scratch, n)?;
                    *out += reduce::norm2_squared(scratch);
                }
                Self::Ghost => {
                    let one = record.example_range(n, 1)?;
                    ghost_dots(MatMut::new(core::slice::from_mut(out), 1, 1)?, &one, &one, scratch)?;
                }
            }
        }
        Ok(())
    }
}

/// [`Route::dots`] by the cheaper route, with scratch of its own.
///
/// # Errors
/// As [`Route::dots`]; [`Error::Overflow`] when the scratch cannot be allocated.
#[cfg(feature = "alloc")]
pub fn dots<T: Real>(
    out: MatMut<'_, T>,
    beta: T,
    train: &LayerRecord<'_, T>,
    query: &LayerRecord<'_, T>,
) -> Result<(), Error> {
    let route = Route::cheaper(train, query);
    let mut scratch = crate::linop::zeros("scratch of ghost products", route.scratch_len(train, query))?;
    route.dots(out, beta, train, query, &mut scratch)
}

/// [`Route::squared_norms`] by the cheaper route, with scratch of its own.
///
/// # Errors
/// As [`Route::squared_norms`]; [`Error::Overflow`] when the scratch cannot be allocated.
#[cfg(feature = "alloc")]
pub fn squared_norms<T: Real>(out: &mut [T], beta: T, record: &LayerRecord<'_, T>) -> Result<(), Error> {
    let route = Route::cheaper_for_norms(record);
    let mut scratch = crate::linop::zeros("scratch of ghost norms", route.norms_scratch_len(record))?;
    route.squared_norms(out, beta, record, &mut scratch)
}

/// The record as one example of all its positions, whose gradient is the sum of the examples' gradients.
///
/// # Errors
/// Those of [`LayerRecord::new`], which a record that exists does not meet.
pub fn pooled<'a, T: Real>(record: &LayerRecord<'a, T>) -> Result<LayerRecord<'a, T>, Error> {
    LayerRecord::new(1, record.inputs(), record.output_grads(), record.mask(), record.has_bias())
}

/// `x = beta x`, where zero overwrites.
fn rescale<T: Real>(x: &mut [T], beta: T) {
    if beta == T::ZERO { x.fill(T::ZERO) } else { reduce::scale(x, beta) }
}

fn formed_dots<T: Real>(
    mut out: MatMut<'_, T>,
    beta: T,
    train: &LayerRecord<'_, T>,
    query: &LayerRecord<'_, T>,
    scratch: &mut [T],
) -> Result<(), Error> {
    let (dim, queries) = (train.dim(), query.examples());
    let (query_gradients, train_gradients) = take_scratch(scratch, queries * dim)?;
    query.gradients(MatMut::new(query_gradients, queries, dim)?)?;
    let query_gradients = MatRef::new(query_gradients, queries, dim)?;
    for start in (0..train.examples()).step_by(FORMED) {
        let count = FORMED.min(train.examples() - start);
        let (gradients, _) = take_scratch(train_gradients, count * dim)?;
        train.example_range(start, count)?.gradients(MatMut::new(gradients, count, dim)?)?;
        let out = out.rb_mut().block(start, count, 0, queries)?;
        matmul(out, beta, T::ONE, MatRef::new(gradients, count, dim)?, query_gradients.t())?;
    }
    Ok(())
}

/// Adds the products to `out`, tile by tile of the Gram matrices over all positions of all examples: examples of few
/// positions share a tile, long ones are cut.
fn ghost_dots<T: Real>(
    mut out: MatMut<'_, T>,
    train: &LayerRecord<'_, T>,
    query: &LayerRecord<'_, T>,
    scratch: &mut [T],
) -> Result<(), Error> {
    let one = if train.has_bias() { T::ONE } else { T::ZERO };
    for rows in tiles(train) {
        for cols in tiles(query) {
            let (x_gram, rest) = take_scratch(scratch, rows.len() * cols.len())?;
            let (delta_gram, _) = take_scratch(rest, rows.len() * cols.len())?;
            // The appended 1 adds a 1 to every product of inputs.
            x_gram.fill(one);
            gram(x_gram, T::ONE, (train.inputs(), &rows), (query.inputs(), &cols))?;
            gram(delta_gram, T::ZERO, (train.output_grads(), &rows), (query.output_grads(), &cols))?;
            for n in examples(train, &rows) {
                for q in examples(query, &cols) {
                    let mut sum = 0.0;
                    for s in clipped(query, q, &cols) {
                        for t in clipped(train, n, &rows).flatten() {
                            let (first, last) = (t * cols.len() + s.start, t * cols.len() + s.end);
                            sum += match (&x_gram[first..last], &delta_gram[first..last]) {
                                (&[x], &[delta]) => (x * delta).to_f64(),
                                (x, delta) => reduce::dot(x, delta)?.to_f64(),
                            };
                        }
                    }
                    out.row_mut(n)[q] += T::from_f64(sum);
                }
            }
        }
    }
    Ok(())
}

/// The rows of a record in pieces of at most [`TILE`].
fn tiles<T: Real>(record: &LayerRecord<'_, T>) -> impl Iterator<Item = Range<usize>> + use<T> {
    let rows = record.inputs().rows();
    (0..rows).step_by(TILE).map(move |start| start..rows.min(start + TILE))
}

/// The examples that have a position among `rows`.
fn examples<T: Real>(record: &LayerRecord<'_, T>, rows: &Range<usize>) -> Range<usize> {
    rows.start / record.positions()..rows.end.div_ceil(record.positions())
}

/// The runs of an example inside of `rows`, counted from its start.
fn clipped<'a, T: Real>(
    record: &LayerRecord<'a, T>,
    example: usize,
    rows: &Range<usize>,
) -> impl Iterator<Item = Range<usize>> + use<'a, T> {
    let rows = rows.clone();
    let clip = move |run: Range<usize>| {
        run.start.max(rows.start) - rows.start..run.end.min(rows.end).max(rows.start) - rows.start
    };
    record.runs(example).map(clip).filter(|run| run.start < run.end)
}

/// `out = beta out + a b^T` of the given rows.
fn gram<T: Real>(
    out: &mut [T],
    beta: T,
    (a, a_rows): (MatRef<'_, T>, &Range<usize>),
    (b, b_rows): (MatRef<'_, T>, &Range<usize>),
) -> Result<(), Error> {
    let out = MatMut::new(out, a_rows.len(), b_rows.len())?;
    let (a, b) = (a.row_range(a_rows.start, a_rows.len())?, b.row_range(b_rows.start, b_rows.len())?);
    matmul(out, beta, T::ONE, a, b.t())
}
