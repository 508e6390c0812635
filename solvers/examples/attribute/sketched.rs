//! The methods that shorten gradients first: influence, TrackStar and TRAK on sketches of about `length` numbers an
//! image.

use std::ops::Range;

use ascribe_core::random::Stream;
use ascribe_core::{Error as CoreError, MatMut, MatRef};
use ascribe_solvers::Error;
use ascribe_solvers::attribution::{ProjectedFisher, TrackStar, Trak};
use ascribe_solvers::curvature::{Damping, Filter, Gram};
use ascribe_solvers::network::Linearized;
use ascribe_solvers::parallel::Parallelism;

use crate::device::{Device, Failure, OfRecords};
use crate::evaluation::Attribution;
use crate::methods::Context;
use crate::model::{margin_cotangents_of, with_linearized};
use crate::shortening::{LayerSketch, Shortening, over_all_layers};

/// Of the mean eigenvalue of a part's curvature, what is added to it.
const DAMPING: f64 = 0.1;

/// Sketches of many gradients, `[images, length]`: of each layer some of the columns, or all of them of the whole.
struct Sketches {
    rows: usize,
    data: Vec<f32>,
    columns: Vec<Range<usize>>,
}

impl Sketches {
    fn all(&self) -> Result<MatRef<'_, f32>, CoreError> {
        matrix(&self.data, self.rows)
    }

    /// Those of each layer.
    fn parts(&self) -> Result<Vec<MatRef<'_, f32>>, CoreError> {
        let all = self.all()?;
        self.columns.iter().map(|columns| all.block(0, self.rows, columns.start, columns.len())).collect()
    }

    fn grams(&self, par: Parallelism) -> Result<Vec<Gram<f64>>, Error> {
        let gram = |part: MatRef<'_, f32>| {
            let mut gram = Gram::new(part.cols(), par)?;
            gram.add(part, None)?;
            Ok(gram)
        };
        self.parts()?.into_iter().map(gram).collect()
    }

    /// The sum over the layers, whose sketches are equally long.
    fn sum(&self) -> Result<Self, CoreError> {
        let width = self.columns.first().map_or(0, ExactSizeIterator::len);
        let mut data = vec![0.0; self.rows * width];
        for part in self.parts()? {
            data.iter_mut().zip(part.row_iter().flatten()).for_each(|(sum, x)| *sum += x);
        }
        // They stand where those of the first layer stood.
        Ok(Self { rows: self.rows, data, columns: self.columns.iter().take(1).cloned().collect() })
    }
}

/// A sketch for each layer of a network, and where its numbers stand.
struct Sketch(Vec<(Range<usize>, OfRecords)>);

impl Sketch {
    fn new(device: &Device, layers: Vec<LayerSketch>) -> Result<Self, Failure> {
        let mut end = 0;
        let layer = |sketch: LayerSketch| {
            let start = end;
            end += sketch.width();
            Ok((start..end, device.prepare(sketch)?))
        };
        Ok(Self(layers.into_iter().map(layer).collect::<Result<_, Failure>>()?))
    }

    /// Of the gradient of each image's output in the direction of its row of `cotangents`, `[images, outputs]`.
    fn of(&self, lin: &Linearized<'_, f32>, cotangents: MatRef<'_, f32>) -> Result<Sketches, Failure> {
        let columns: Vec<_> = self.0.iter().map(|(columns, _)| columns.clone()).collect();
        let (rows, dim) = (lin.examples(), columns.last().map_or(0, |last| last.end));
        let mut data = vec![0.0; rows * dim];
        // Records come block by block of images, and of each block layer by layer.
        let mut starts = vec![0; columns.len()];
        let cotangent = |n: usize, out: &mut [f32]| out.copy_from_slice(cotangents.row(n));
        // A visitor of records can only fail as solvers do; a GPU has reasons of its own.
        let mut outcome = Ok(());
        lin.cotangent_records(1, cotangent, |l, record, _| {
            let (columns, sketch) = &self.0[l];
            let out = MatMut::new(&mut data, rows, dim)?;
            let out = out.block(starts[l], record.examples(), columns.start, columns.len())?;
            if outcome.is_ok() {
                outcome = sketch(out, record);
            }
            starts[l] += record.examples();
            Ok(())
        })?;
        outcome.map(|()| Sketches { rows, data, columns })
    }
}

/// Calls `f` with the passes of the training images and of the queries, and the cotangents of the queries' margins.
fn with_both<R>(
    context: &Context<'_>,
    f: impl FnOnce(&Linearized<'_, f32>, &Linearized<'_, f32>, &[f32]) -> Result<R, Failure>,
) -> Result<R, String> {
    let par = context.parallelism();
    with_linearized::<f32, _>(context.model, context.train, par, |train| {
        Ok(with_linearized::<f32, _>(context.model, context.queries, par, |queries| {
            f(train, queries, &margin_cotangents_of(queries, &context.queries.labels)?)
        })?)
    })
}

fn losses(lin: &Linearized<'_, f32>) -> Vec<f32> {
    lin.output_gradients().flatten().copied().collect()
}

fn matrix(data: &[f32], rows: usize) -> Result<MatRef<'_, f32>, CoreError> {
    MatRef::new(data, rows, data.len() / rows.max(1))
}

/// A step against the gradient of a loss is what training does.
fn against(products: Vec<f32>) -> Attribution {
    Attribution { scores: products.into_iter().map(|x| -f64::from(x)).collect(), ..Attribution::default() }
}

/// Influence with the empirical Fisher of the sketches, each part damped by a tenth of its mean eigenvalue.
pub(crate) fn influence(context: &Context<'_>, shortening: Shortening, length: usize) -> Result<Attribution, String> {
    with_both(context, |train, queries, margins| {
        let (n, q, par) = (train.examples(), queries.examples(), train.parallelism());
        let layers = shortening.layers(train, length, Stream::new(context.options.seed, "attribute.sketch"))?;
        let sketch = Sketch::new(context.device, layers)?;
        let (rows, query_rows) =
            (sketch.of(train, matrix(&losses(train), n)?)?, sketch.of(queries, matrix(margins, q)?)?);
        let filter = Filter { damping: Damping::Relative(DAMPING), ..Filter::default() };
        let fisher = ProjectedFisher::of_rows(&rows.parts()?, &filter, par)?;
        let mut solved = vec![0.0; q * fisher.dim()];
        fisher.precondition(MatMut::new(&mut solved, q, fisher.dim())?, &query_rows.parts()?)?;
        Ok(against(context.device.products(rows.all()?, matrix(&solved, q)?)?))
    })
}

/// TrackStar on random projections of the layers, without an optimiser's second moments.
pub(crate) fn trackstar(context: &Context<'_>, length: usize) -> Result<Attribution, String> {
    with_both(context, |train, queries, margins| {
        let (n, q, par) = (train.examples(), queries.examples(), train.parallelism());
        let stream = Stream::new(context.options.seed, "attribute.sketch");
        let sketch = Sketch::new(context.device, Shortening::LoGra.layers(train, length, stream)?)?;
        let (rows, query_rows) =
            (sketch.of(train, matrix(&losses(train), n)?)?, sketch.of(queries, matrix(margins, q)?)?);
        let filter = Filter { damping: Damping::Relative(DAMPING), ..Filter::default() };
        let trackstar = TrackStar::new(&rows.grams(par)?, None, &filter, par)?;
        let embed = |rows: &Sketches| -> Result<Vec<f32>, Failure> {
            let mut embedded = vec![0.0; rows.rows * trackstar.dim()];
            trackstar.embed(MatMut::new(&mut embedded, rows.rows, trackstar.dim())?, &rows.parts()?)?;
            Ok(embedded)
        };
        let (rows, query_rows) = (embed(&rows)?, embed(&query_rows)?);
        Ok(against(context.device.products(matrix(&rows, n)?, matrix(&query_rows, q)?)?))
    })
}

/// TRAK on random signs, regularised by the mean eigenvalue of the features' Gram matrix.
pub(crate) fn trak(context: &Context<'_>, length: usize) -> Result<Attribution, String> {
    with_both(context, |train, queries, query_margins| {
        let (n, q, par) = (train.examples(), queries.examples(), train.parallelism());
        let stream = Stream::new(context.options.seed, "attribute.sketch");
        let sketch = Sketch::new(context.device, over_all_layers(train.network(), length, stream)?)?;
        let margins = margin_cotangents_of(train, &context.train.labels)?;
        let features = sketch.of(train, matrix(&margins, n)?)?.sum()?;
        let query_features = sketch.of(queries, matrix(query_margins, q)?)?.sum()?;
        let trace: f64 = features.data.iter().map(|x| f64::from(*x).powi(2)).sum();
        let trak = Trak { regularization: trace / length as f64, parallelism: par };
        let trak = trak.prepare(&features.grams(par)?)?;
        let mut solved = vec![0.0; q * trak.dim()];
        trak.precondition(MatMut::new(&mut solved, q, trak.dim())?, &query_features.parts()?)?;
        let scores = context.device.products(features.all()?, matrix(&solved, q)?)?;
        let residuals = train.losses().map(|loss| 1.0 - (-f64::from(loss)).exp()).collect();
        Ok(Attribution { scores: scores.into_iter().map(f64::from).collect(), residuals, ..Attribution::default() })
    })
}
