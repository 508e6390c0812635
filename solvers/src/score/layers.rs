//! What each layer contributes to the scores of chosen rows.

use std::ops::Range;

use ascribe_core::score::Similarity;
use ascribe_core::{Error as CoreError, MatMut, MatRef};

use super::dense::Dense;
use super::panel::Aligned;
use super::row_dots::number_row;
use super::rows::RowSource;
use super::scorer::{Scorer, for_blocks};
use super::tile::{Queries, chunks, divide_by_norms, floored_norm};
use crate::Error;
use crate::error::check_shape;
use crate::parallel::run;

impl Scorer<'_> {
    /// The terms of the scores of `chosen` rows that come from each layer's columns.
    ///
    /// `out` is `[chosen * layers, n_query]`, the layers of one row below one another. The terms of layers that cut
    /// all columns into pieces add up to the score, less the offset: within the bounds of [`Scorer`], since here the
    /// rows of every format are decoded and multiplied as numbers. Norms, of the cosine, are those of whole rows.
    ///
    /// Cost: `2 Q` flops for each chosen row and column of a layer. Meant for the few rows of a [`Selection`](super::Selection).
    ///
    /// # Errors
    /// [`Shape`](CoreError::Shape) when a dimension does not fit, [`Index`](CoreError::Index) when a chosen row or a
    /// layer is outside of the source, and as [`Scorer::scores`]; `out` is then untouched. The errors of the source;
    /// `out` then holds some of the terms.
    ///
    /// # Examples
    /// ```
    /// use ascribe_core::{MatMut, MatRef};
    /// use ascribe_solvers::score::Scorer;
    /// let train = MatRef::new(&[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3)?;
    /// let query = MatRef::new(&[1.0, 1.0, -1.0], 1, 3)?;
    /// let mut terms = [0.0; 2];
    /// let out = MatMut::new(&mut terms, 2, 1)?;
    /// Scorer::default().layer_scores(out, &train, &[1], query, &[0..1, 1..3])?;
    /// assert_eq!(terms, [4.0, -1.0]);
    /// # Ok::<(), ascribe_solvers::Error>(())
    /// ```
    pub fn layer_scores(
        &self,
        out: MatMut<'_, f32>,
        rows: &dyn RowSource,
        chosen: &[usize],
        queries: MatRef<'_, f32>,
        layers: &[Range<usize>],
    ) -> Result<(), Error> {
        self.check(rows, queries)?;
        let terms = chosen.len().checked_mul(layers.len()).ok_or(CoreError::Overflow { what: "layer scores" })?;
        check_shape("rows of the layer scores", terms, out.rows())?;
        check_shape("columns of the layer scores", queries.rows(), out.cols())?;
        if let Some(&index) = chosen.iter().find(|row| **row >= rows.rows()) {
            return Err(CoreError::Index { what: "chosen row", index, len: rows.rows() }.into());
        }
        for layer in layers {
            if layer.end > rows.cols() {
                return Err(CoreError::Index { what: "end of a layer", index: layer.end, len: rows.cols() }.into());
            }
            if layer.start > layer.end {
                return Err(CoreError::Index { what: "start of a layer", index: layer.start, len: layer.end }.into());
            }
        }
        if terms == 0 || queries.rows() == 0 {
            return Ok(());
        }
        let packed = Queries::new(queries)?;
        let width = packed.panels.width();
        let spaces = (0..self.par.workers()).map(|_| Ok((Aligned::zeros("sums of a layer", Some(width))?, Vec::new())));
        let mut spaces = spaces.collect::<Result<Vec<_>, CoreError>>()?;
        let (mut tasks, mut rest) = (Vec::new(), out);
        for &row in chosen {
            let (own, others) = rest.split_rows(layers.len())?;
            tasks.push((row, own));
            rest = others;
        }
        run(&mut spaces, tasks, |(sums, decoded), (row, mut out)| {
            for_blocks(rows, row, 1, self.par, |_, block| {
                let x = number_row(decoded, block, 0)?;
                let norm = if self.similarity == Similarity::Cosine { floored_norm(x) } else { 1.0 };
                for (l, layer) in layers.iter().enumerate() {
                    sums.fill(0.0);
                    for (first, cols) in chunks(layer.len()) {
                        let first = layer.start + first;
                        let x = MatRef::from_row(&x[first..first + cols]);
                        Dense { sums, x, panels: &packed.panels, first }.run();
                    }
                    let terms = out.row_mut(l);
                    terms.copy_from_slice(&sums[..queries.rows()]);
                    if self.similarity == Similarity::Cosine {
                        divide_by_norms(terms, norm, &packed.norms);
                    }
                    self.scale(row, terms);
                }
                Ok(())
            })
        })
    }
}
