//! Inner products of gradients with and without a mask, their correlations, and what these owe to the mask.

use crate::error::Error;
use crate::linop::zeros;
use crate::matmul::matmul;
use crate::metric::spearman;
use crate::record::LayerRecord;
use crate::reduce;
use crate::scalar::{Real, Scalar};
use crate::view::{MatMut, MatRef};
use alloc::vec::Vec;

/// Elements of a gradient that are looked at together: what a pass over the examples stores.
const PANEL: usize = 4096;

/// The gradients of some examples, at hand or as a layer's record.
#[derive(Clone, Copy)]
pub(super) enum Gradients<'a, T> {
    Rows(MatRef<'a, T>),
    Record(LayerRecord<'a, T>),
}

impl<T: Real> Gradients<'_, T> {
    pub(super) fn examples(&self) -> usize {
        match self {
            Self::Rows(x) => x.rows(),
            Self::Record(record) => record.examples(),
        }
    }

    /// A gradient as a matrix: one column, or a layer's.
    pub(super) fn dims(&self) -> [usize; 2] {
        match self {
            Self::Rows(x) => [x.cols(), 1],
            Self::Record(record) => [record.d_out(), record.weight_cols()],
        }
    }

    pub(super) fn block(&self, first: usize, len: usize) -> Result<Self, Error> {
        Ok(match self {
            Self::Rows(x) => Self::Rows(x.row_range(first, len)?),
            Self::Record(record) => Self::Record(record.example_range(first, len)?),
        })
    }

    /// Copies the rows `first..first + len` of every gradient into `out` `[examples, len * columns]`.
    fn panel(&self, mut out: MatMut<'_, T>, first: usize, len: usize) -> Result<(), Error> {
        match self {
            Self::Rows(x) => out.copy_from(x.block(0, x.rows(), first, len)?),
            Self::Record(record) => {
                let (x, delta) = (record.inputs(), record.output_grads());
                let delta = delta.block(0, delta.rows(), first, len)?;
                LayerRecord::new(record.examples(), x, delta, record.mask(), record.has_bias())?.gradients(out)
            }
        }
    }
}

/// Calls `f` with the first row of each panel, and with that panel of the queries' and of the examples' gradients.
fn for_each_panel<T: Real>(
    query: Gradients<'_, T>,
    train: Gradients<'_, T>,
    mut f: impl FnMut(usize, MatRef<'_, T>, MatRef<'_, T>) -> Result<(), Error>,
) -> Result<(), Error> {
    let [rows, cols] = query.dims();
    let step = (PANEL / cols.max(1)).clamp(1, rows.max(1));
    let buffer = |examples: usize| {
        let len = step.checked_mul(cols).and_then(|width| width.checked_mul(examples));
        zeros("panel of gradients", len.ok_or(Error::Overflow { what: "panel of gradients" })?)
    };
    let (q, n) = (query.examples(), train.examples());
    let (mut a, mut b) = (buffer(q)?, buffer(n)?);
    for first in (0..rows).step_by(step) {
        let len = step.min(rows - first);
        let (a, b) = (&mut a[..q * len * cols], &mut b[..n * len * cols]);
        query.panel(MatMut::new(a, q, len * cols)?, first, len)?;
        train.panel(MatMut::new(b, n, len * cols)?, first, len)?;
        f(first, MatRef::new(a, q, len * cols)?, MatRef::new(b, n, len * cols)?)?;
    }
    Ok(())
}

/// The entries of the mask from row `first` on.
fn entries(masks: [&[f64]; 2], first: usize) -> impl Iterator<Item = (usize, usize, f64)> {
    let rows = masks[0].iter().enumerate().skip(first);
    rows.flat_map(move |(o, of_o)| masks[1].iter().enumerate().map(move |(i, of_i)| (o, i, of_o * of_i)))
}

/// `K` and `K^` `[q, n]`, both centred.
pub(super) struct Products<T> {
    full: Vec<T>,
    masked: Vec<T>,
    examples: usize,
    queries: usize,
}

impl<T: Real> Products<T> {
    pub(super) fn new(query: Gradients<'_, T>, train: Gradients<'_, T>, masks: [&[f64]; 2]) -> Result<Self, Error> {
        let (q, n) = (query.examples(), train.examples());
        let len = q.checked_mul(n).ok_or(Error::Overflow { what: "inner products" })?;
        let (mut full, mut masked) = (zeros("inner products", len)?, zeros("inner products", len)?);
        let mut weighted = Vec::new();
        for_each_panel(query, train, |first, a, b| {
            weighted.clear();
            for a in a.row_iter() {
                weighted.extend(a.iter().zip(entries(masks, first)).map(|(&a, (.., m))| a * T::from_f64(m * m)));
            }
            matmul(MatMut::new(&mut full, q, n)?, T::ONE, T::ONE, a, b.t())?;
            let weighted = MatRef::new(&weighted, q, a.cols())?;
            matmul(MatMut::new(&mut masked, q, n)?, T::ONE, T::ONE, weighted, b.t())
        })?;
        if n > 0 {
            for row in full.chunks_exact_mut(n).chain(masked.chunks_exact_mut(n)) {
                let mean = reduce::sum(row) / T::from_f64(n as f64);
                for x in row {
                    *x -= mean;
                }
            }
        }
        Ok(Self { full, masked, examples: n, queries: q })
    }

    /// The rows of both for each query.
    fn rows(&self) -> impl Iterator<Item = (&[T], &[T])> {
        let n = self.examples;
        (0..self.queries).map(move |query| (&self.full[query * n..][..n], &self.masked[query * n..][..n]))
    }

    /// The correlation of each query that has one, and its derivative in each element of `K^`, 0 where there is none.
    pub(super) fn correlations(&self, eps: f64) -> Result<(Vec<Option<f64>>, Vec<T>), Error> {
        let mut derivative = zeros("derivatives of correlations", self.full.len())?;
        let mut correlations = Vec::new();
        for (query, (full, masked)) in self.rows().enumerate() {
            let cross = reduce::dot(full, masked)?.to_f64();
            let [v, w] = [full, masked].map(|row| reduce::norm2_squared(row).to_f64());
            let root = Scalar::sqrt(v * w + eps);
            if !(cross.is_finite() && root.is_finite()) {
                return Err(Error::NonFinite { what: "inner products of a query", index: query });
            }
            let valid = v > eps && w > eps;
            correlations.push(valid.then_some(cross / root));
            if valid {
                let (of_full, of_masked) = (T::from_f64(1.0 / root), T::from_f64(cross / root * (v / root) / root));
                let derivative = &mut derivative[query * self.examples..];
                for ((out, &k), &m) in derivative.iter_mut().zip(full).zip(masked) {
                    // The derivative of centring is another centring, and both rows are centred already.
                    *out = of_full * k - of_masked * m;
                }
            }
        }
        Ok((correlations, derivative))
    }

    /// The mean of Spearman's correlations of the queries that have one; 0 when none has.
    pub(super) fn mean_spearman(&self) -> Result<f64, Error> {
        let (mut sum, mut count) = (0.0, 0);
        for (full, masked) in self.rows() {
            let correlation = spearman(full, masked)?;
            if correlation.valid {
                sum += correlation.value;
                count += 1;
            }
        }
        Ok(sum / f64::from(count.max(1)))
    }
}

/// The derivatives of `sum_ab weights_ab K^_ab` in the masks of rows and columns.
pub(super) fn by_mask<T: Real>(
    query: Gradients<'_, T>,
    train: Gradients<'_, T>,
    masks: [&[f64]; 2],
    weights: &[T],
) -> Result<[Vec<f64>; 2], Error> {
    let (q, n) = (query.examples(), train.examples());
    let mut by_mask = [zeros("derivatives", masks[0].len())?, zeros("derivatives", masks[1].len())?];
    let mut combined = Vec::new();
    for_each_panel(query, train, |first, a, b| {
        combined.resize(q * a.cols(), T::ZERO);
        let combined = &mut combined[..q * a.cols()];
        matmul(MatMut::new(combined, q, a.cols())?, T::ZERO, T::ONE, MatRef::new(weights, q, n)?, b)?;
        let combined = MatRef::new(combined, q, a.cols())?;
        for (column, (o, i, m)) in entries(masks, first).take(a.cols()).enumerate() {
            let sum: f64 =
                (0..q).map(|query| a.row(query)[column].to_f64() * combined.row(query)[column].to_f64()).sum();
            by_mask[0][o] += 2.0 * m * masks[1][i] * sum;
            by_mask[1][i] += 2.0 * m * masks[0][o] * sum;
        }
        Ok(())
    })?;
    Ok(by_mask)
}
