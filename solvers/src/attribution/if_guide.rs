//! IF-Guide: which tokens of the training set make a model say what it should not.

use ascribe_core::record::LayerRecord;
use ascribe_core::{Error as CoreError, MatMut, MatRef, Real, reduce};

use super::ghost::tasks;
use super::parts::BLOCK;
use crate::Error;
use crate::error::{check_finite, check_shape, filled_rows, zeros};
use crate::linalg::matmul;
use crate::parallel::{Parallelism, run};

/// What keeps the normalisations of the ranking finite where all documents are alike.
const EPSILON: f64 = 1e-6;

/// The direction of IF-Guide in one layer, `mean(toxic) - mean(safe)`: `out` `[dim]` from preconditioned query
/// gradients `[_, dim]` of a cross-entropy loss.
///
/// # Errors
/// A shape error, [`CoreError::Empty`] when a side has no queries.
pub fn query_contrast<T: Real>(out: &mut [T], toxic: MatRef<'_, T>, safe: MatRef<'_, T>) -> Result<(), Error> {
    let mut sum: Vec<f64> = zeros("mean gradient", Some(out.len()))?;
    for (side, sign) in [(toxic, 1.0), (safe, -1.0)] {
        check_shape("query gradient columns", out.len(), side.cols())?;
        if side.rows() == 0 {
            return Err(CoreError::Empty { what: "queries" }.into());
        }
        let weight = sign / side.rows() as f64;
        for row in filled_rows(side) {
            sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += weight * x.to_f64());
        }
    }
    out.iter_mut().zip(sum).for_each(|(out, x)| *out = T::from_f64(x));
    Ok(())
}

/// `out[n, t] = beta out[n, t] + delta_t^T V x_t`: what each position of a layer contributes to the inner product
/// with the direction `V` `[d_out, weight_cols]`, flattened. `out` is `[examples, positions]`; `beta = 1` adds up
/// layers, and a row then sums to the score of its example.
///
/// This is the part of the gradient that passes through position `t`, whose `delta_t` holds the loss of all later
/// tokens too: it is not the gradient of the token's own loss, and only the sums over positions agree. A masked
/// position adds 0 and may hold anything. Cost: `2 d_out (d_in + 1)` flops a position. Work space: `256 d_out`
/// numbers a thread. Error: `(d_in + d_out + 6) u |delta|^T |V| |x|` to first order.
///
/// # Errors
/// A shape error.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef, record::LayerRecord};
/// use ascribe_solvers::{attribution::{query_contrast, token_scores}, parallel::Parallelism::Serial};
/// let mut direction = [0.0; 2]; // a layer with one input, one output and a bias
/// query_contrast(&mut direction, MatRef::new(&[3.0, 1.0], 1, 2)?, MatRef::new(&[1.0, 0.0], 1, 2)?)?;
/// assert_eq!(direction, [2.0, 1.0]);
/// let (x, delta) = ([5.0, 7.0], [1.0, 10.0]); // one example of two positions
/// let record = LayerRecord::new(1, MatRef::new(&x, 2, 1)?, MatRef::new(&delta, 2, 1)?, None, true)?;
/// let mut scores = [0.0; 2];
/// token_scores(MatMut::new(&mut scores, 1, 2)?, 0.0, &record, &direction, Serial)?;
/// assert_eq!(scores, [11.0, 150.0]);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// IF-Guide, arXiv:2506.01790, section 3.
pub fn token_scores<T: Real>(
    mut out: MatMut<'_, T>,
    beta: T,
    record: &LayerRecord<'_, T>,
    direction: &[T],
    par: Parallelism,
) -> Result<(), Error> {
    let (positions, d_in, d_out) = (record.positions(), record.d_in(), record.d_out());
    check_shape("score rows", record.examples(), out.rows())?;
    check_shape("score columns", positions, out.cols())?;
    let v = MatRef::new(direction, d_out, record.weight_cols())?;
    out.for_each_row(|_, row| if beta == T::ZERO { row.fill(T::ZERO) } else { reduce::scale(row, beta) });
    let bias: Option<Vec<T>> = record.has_bias().then(|| v.row_iter().map(|row| row[d_in]).collect());
    let weight = v.block(0, d_out, 0, d_in)?;
    let tasks = tasks(out, (BLOCK / positions.max(1)).max(1))?;
    let scratch: Vec<T> = zeros("products with the direction", BLOCK.checked_mul(d_out))?;
    run(&mut vec![scratch; par.workers().min(tasks.len())], tasks, |scratch, (first, mut out)| {
        let rows = first * positions..(first + out.rows()) * positions;
        for start in rows.clone().step_by(BLOCK) {
            let count = BLOCK.min(rows.end - start);
            let mut products = MatMut::new(&mut scratch[..count * d_out], count, d_out)?;
            match &bias {
                Some(bias) => products.for_each_row(|_, row| row.copy_from_slice(bias)),
                None => products.fill(T::ZERO),
            }
            let x = record.inputs().row_range(start, count)?;
            matmul(products.rb_mut(), T::ONE, T::ONE, x, weight.t(), Parallelism::Serial)?;
            for row in (start..start + count).filter(|&row| record.mask().is_none_or(|mask| mask[row])) {
                let at = row - rows.start;
                let product = products.as_ref().row(row - start);
                out.row_mut(at / positions)[at % positions] += reduce::dot(record.output_grads().row(row), product)?;
            }
        }
        Ok::<_, Error>(())
    })
}

/// The tokens that a model is trained to avoid: those with the largest scores in the documents that matter most, with
/// their neighbours, up to a budget.
///
/// 1. The threshold is a quantile of all scores, between two of them by linear interpolation.
/// 2. Each document has the number `c` and the sum `s` of its scores *above* the threshold, both normalised to [0, 1] over
///    the documents; its importance is their harmonic mean `2 c s / (c + s)`. Documents go by importance, and at equal
///    importance by index.
/// 3. Along that order, each token above the threshold marks itself and `window` neighbours on both sides, from left to
///    right, until a span would exceed `max_tokens`: there everything stops.
///
/// A larger budget, or a larger window without a budget, never marks fewer tokens. Arithmetic is in f64. Cost: `O(N)`
/// for `N` scores.
///
/// # Examples
/// ```
/// use ascribe_core::MatRef;
/// use ascribe_solvers::attribution::IfGuide;
/// let options = IfGuide { quantile: 0.5, window: 1, max_tokens: 4 };
/// let selection = options.select(MatRef::new(&[0.0, 8.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0], 2, 4)?)?;
/// assert_eq!(selection.order, [1, 0]);
/// assert_eq!(selection.mask, [false, false, false, false, true, true, true, true]); // no room for a span in document 0
/// assert_eq!(selection.used, 4);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// IF-Guide, arXiv:2506.01790, algorithm 1. Their code gives back the first documents of its order as many as the
/// *number* of the last document, not as its rank; here [`TokenSelection::documents`] are those that were walked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IfGuide {
    /// Which quantile of the scores a token has to exceed, in [0, 1]; default 0.99.
    pub quantile: f64,
    /// Neighbours on each side; default 1.
    pub window: usize,
    /// The budget; default none. Theirs is 2 % of the training tokens.
    pub max_tokens: usize,
}

impl Default for IfGuide {
    fn default() -> Self {
        Self { quantile: 0.99, window: 1, max_tokens: usize::MAX }
    }
}

/// What [`IfGuide`] selects.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TokenSelection {
    /// What a score has to exceed.
    pub threshold: f64,
    /// The importance of each document.
    pub importance: Vec<f64>,
    /// All documents, the most important first.
    pub order: Vec<usize>,
    /// `[documents, tokens]`: the tokens that are marked.
    pub mask: Vec<bool>,
    /// How many are.
    pub used: usize,
    /// The documents that were walked, the one in which the budget ran out included: how many of `order`.
    pub walked: usize,
}

impl TokenSelection {
    /// The documents that were walked, the most important first.
    pub fn documents(&self) -> &[usize] {
        &self.order[..self.walked]
    }
}

impl IfGuide {
    /// Selects tokens by their scores `[documents, tokens]`.
    ///
    /// # Errors
    /// [`CoreError::Parameter`] for a quantile outside [0, 1]; [`CoreError::Empty`] without scores;
    /// [`CoreError::NonFinite`] for NaN or infinity in the scores, or when their quantile or the sum of a document's
    /// overflows.
    pub fn select<T: Real>(&self, scores: MatRef<'_, T>) -> Result<TokenSelection, Error> {
        let threshold = quantile(scores, self.quantile)?;
        let above = |row: &[T]| row.iter().map(|x| x.to_f64()).filter(|x| *x > threshold).collect::<Vec<f64>>();
        let found: Vec<(f64, f64)> =
            scores.row_iter().map(above).map(|above| (above.len() as f64, above.iter().sum())).collect();
        let (mut counts, mut sums): (Vec<f64>, Vec<f64>) = found.into_iter().unzip();
        check_finite("sums of the documents' scores", &sums)?;
        normalize(&mut counts);
        normalize(&mut sums);
        let importance: Vec<f64> = counts.iter().zip(&sums).map(|(c, s)| 2.0 * c * s / (c + s + EPSILON)).collect();
        check_finite("importance of the documents", &importance)?;
        let mut order: Vec<usize> = (0..importance.len()).collect();
        // Stable: at equal importance the order of the indices stays. No importance is NaN.
        order.sort_by(|&i, &j| importance[j].partial_cmp(&importance[i]).unwrap_or(std::cmp::Ordering::Equal));

        let mut mask: Vec<bool> = zeros("marked tokens", scores.rows().checked_mul(scores.cols()))?;
        let (mut used, mut walked) = (0, 0);
        'documents: for &document in &order {
            walked += 1;
            let marked = &mut mask[document * scores.cols()..(document + 1) * scores.cols()];
            let row = scores.row(document);
            for token in (0..row.len()).filter(|&token| row[token].to_f64() > threshold) {
                let end = token.saturating_add(self.window).saturating_add(1).min(row.len());
                let span = &mut marked[token.saturating_sub(self.window)..end];
                let new = span.iter().filter(|marked| !**marked).count();
                if new > self.max_tokens - used {
                    break 'documents;
                }
                span.fill(true);
                used += new;
            }
        }
        Ok(TokenSelection { threshold, importance, order, mask, used, walked })
    }
}

/// The quantile `q` of all scores, `v[l] + (v[l + 1] - v[l]) (p - l)` with `p = q (N - 1)` and `l` its floor.
fn quantile<T: Real>(scores: MatRef<'_, T>, q: f64) -> Result<f64, Error> {
    if !(0.0..=1.0).contains(&q) {
        let must_be = "at least 0 and at most 1";
        return Err(CoreError::Parameter { what: "quantile", value: q, must_be }.into());
    }
    let mut values: Vec<f64> = filled_rows(scores).flatten().map(|x| x.to_f64()).collect();
    check_finite("scores", &values)?;
    let Some(last) = values.len().checked_sub(1) else {
        return Err(CoreError::Empty { what: "scores" }.into());
    };
    let position = q * last as f64;
    let low = (position as usize).min(last);
    let (_, &mut at, above) = values.select_nth_unstable_by(low, f64::total_cmp);
    let next = above.iter().copied().fold(None, |least: Option<f64>, x| Some(least.map_or(x, |least| least.min(x))));
    let threshold = next.map_or(at, |next| at + (next - at) * (position - low as f64));
    check_finite("quantile of the scores", &[threshold])?;
    Ok(threshold)
}

/// To [0, 1], up to the epsilon.
fn normalize(x: &mut [f64]) {
    let (least, largest) =
        x.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(least, largest), &x| (least.min(x), largest.max(x)));
    for x in x {
        *x = (*x - least) / (largest - least + EPSILON);
    }
}
