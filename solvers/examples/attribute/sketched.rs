//! The methods that shorten gradients first: influence, TrackStar and TRAK on sketches of about `length` numbers an
//! image.

use ascribe_core::random::Stream;
use ascribe_core::record::LayerRecord;
use ascribe_core::sketch::{
    FactGrass, Grass, LoGra, Mask, MaskScale, Rademacher, Scale, Sjlt, SjltTable, random_projection,
};
use ascribe_core::{Error as CoreError, MatMut, MatRef};
use ascribe_solvers::Error;
use ascribe_solvers::attribution::{ProjectedFisher, TrackStar, Trak};
use ascribe_solvers::curvature::{Covariances, Damping, Empirical, Filter, Gram};
use ascribe_solvers::network::{Layer, Linearized, Mlp};
use ascribe_solvers::parallel::Parallelism;
use ascribe_solvers::sketch::{Pca, apply_rows, project, project_columns, sketch_records};

use crate::evaluation::Attribution;
use crate::methods::Context;
use crate::model::{margin_cotangents_of, with_linearized};

/// How gradients are shortened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shortening {
    Sjlt,
    Rademacher,
    /// SJLT of a mask four times as long.
    Grass,
    /// SJLT of the masked gradients of layers.
    FactGrass,
    /// Random projections of both sides of the layers' gradients.
    LoGra,
    /// Projections onto the leading eigenvectors of the layers' covariances.
    LoGraPca,
}

/// Of the mean eigenvalue of a part's curvature, what is added to it.
const DAMPING: f64 = 0.1;

/// Coordinates that a mask keeps for each number of the sketch.
const KEPT: usize = 4;

/// Sketches of many gradients, one matrix `[images, width]` a part: a layer, or the whole.
struct Sketches {
    rows: usize,
    parts: Vec<(Vec<f32>, usize)>,
}

impl Sketches {
    fn parts(&self) -> Result<Vec<MatRef<'_, f32>>, CoreError> {
        self.parts.iter().map(|(data, width)| MatRef::new(data, self.rows, *width)).collect()
    }

    fn grams(&self, par: Parallelism) -> Result<Vec<Gram<f64>>, Error> {
        let gram = |part: MatRef<'_, f32>| {
            let mut gram = Gram::new(part.cols(), par)?;
            gram.add(part, None)?;
            Ok(gram)
        };
        self.parts()?.into_iter().map(gram).collect()
    }
}

type Outcome = Result<(), CoreError>;
/// What takes the records of a layer to sketches of its gradients.
type OfRecords = Box<dyn Fn(MatMut<'_, f32>, &LayerRecord<'_, f32>) -> Outcome>;

/// A [`Shortening`] for each layer of a network, with the length of its sketches.
struct Sketch(Vec<(usize, OfRecords)>);

impl Shortening {
    /// Sketches of about `length` numbers in all, an equal part of them for each layer.
    fn sketch(self, lin: &Linearized<'_, f32>, length: usize, stream: Stream) -> Result<Sketch, Error> {
        let (layers, par) = (lin.network().layers(), lin.parallelism());
        let each = (length / layers.len()).max(1);
        // Only one way looks at the data.
        let covariances = match self {
            Self::LoGraPca => Some(Covariances::<f64, _>::of(lin, &Empirical)?),
            _ => None,
        };
        let covariance = |l: usize| covariances.as_ref().and_then(|all| all.iter().nth(l)).map(|(_, layer)| layer);
        let sketch = |(l, layer): (usize, &Layer)| -> Result<(usize, OfRecords), Error> {
            let stream = stream.child(l as u64);
            match (self, covariance(l)) {
                (Self::Sjlt, None) => {
                    let table = sjlt(layer.len(), each, stream)?;
                    Ok((each, formed(move |out, x| apply_rows(out, &table, x, par))))
                }
                (Self::Rademacher, None) => {
                    let signs = Rademacher::from_key(stream.key(), each, layer.len(), Scale::InvSqrtRows)?;
                    Ok((each, formed(move |out, x| project(out, &signs, x, par))))
                }
                (Self::Grass, None) => {
                    let mask = mask(layer.len(), KEPT * each, stream.child(0))?;
                    let table = sjlt(mask.indices().len(), each, stream.child(1))?;
                    let grass = Grass::new(mask, table)?;
                    Ok((each, formed(move |out, x| apply_rows(out, &grass, x, par))))
                }
                (Self::FactGrass, None) => fact_grass(layer, each, stream, par),
                (Self::LoGra | Self::LoGraPca, None) => logra(layer, each, stream, par),
                (_, Some(covariance)) => {
                    let [out, inputs] = sides(layer, each);
                    let pca = Pca::<f32>::new(covariance, out, inputs, par)?;
                    Ok((out * inputs, Box::new(move |out, record| sketch_records(out, &pca.logra()?, record, par))))
                }
            }
        };
        Ok(Sketch(layers.iter().enumerate().map(sketch).collect::<Result<_, _>>()?))
    }
}

/// A sketch of flat gradients, which are formed for it.
fn formed(sketch: impl Fn(MatMut<'_, f32>, MatRef<'_, f32>) -> Outcome + 'static) -> OfRecords {
    Box::new(move |out, record| {
        let (rows, dim) = (record.examples(), record.dim());
        let mut gradients = vec![0.0; rows * dim];
        record.gradients(MatMut::new(&mut gradients, rows, dim)?)?;
        sketch(out, MatRef::new(&gradients, rows, dim)?)
    })
}

fn sjlt(from: usize, to: usize, stream: Stream) -> Result<SjltTable, Error> {
    Ok(SjltTable::draw(&Sjlt::new(from, to, 1, stream)?)?)
}

/// `kept` of `from` coordinates, or all.
fn mask(from: usize, kept: usize, stream: Stream) -> Result<Mask<Vec<usize>>, Error> {
    Ok(Mask::random(from, kept.min(from), MaskScale::Unbiased, stream)?)
}

/// Outputs and inputs that make `count` entries of a layer's gradient, as nearly square as the layer lets them be.
fn sides(layer: &Layer, count: usize) -> [usize; 2] {
    let (outputs, inputs) = (layer.outputs, layer.inputs + usize::from(layer.bias));
    let side = count.isqrt().max(1);
    let out = side.min(outputs);
    [out, (count / out).clamp(1, inputs).min(if out < side { inputs } else { side })]
}

fn fact_grass(layer: &Layer, length: usize, stream: Stream, par: Parallelism) -> Result<(usize, OfRecords), Error> {
    let [out, inputs] = sides(layer, KEPT * length);
    let mask_out = mask(layer.outputs, out, stream.child(0))?;
    let mask_in = mask(layer.inputs + usize::from(layer.bias), inputs, stream.child(1))?;
    let length = length.min(out * inputs);
    let sketch = FactGrass::new(mask_out, mask_in, sjlt(out * inputs, length, stream.child(2))?)?;
    Ok((length, Box::new(move |out, record| sketch_records(out, &sketch, record, par))))
}

fn logra(layer: &Layer, length: usize, stream: Stream, par: Parallelism) -> Result<(usize, OfRecords), Error> {
    let ([out, inputs], weight_cols) = (sides(layer, length), layer.inputs + usize::from(layer.bias));
    let (mut p_out, mut p_in) = (vec![0.0; out * layer.outputs], vec![0.0; inputs * weight_cols]);
    random_projection(MatMut::new(&mut p_out, out, layer.outputs)?, stream.child(0));
    random_projection(MatMut::new(&mut p_in, inputs, weight_cols)?, stream.child(1));
    let sketch = move |to: MatMut<'_, f32>, record: &LayerRecord<'_, f32>| {
        let p_out = MatRef::new(&p_out, out, record.d_out())?;
        let p_in = MatRef::new(&p_in, inputs, record.weight_cols())?;
        sketch_records(to, &LoGra::new(p_out, p_in)?, record, par)
    };
    Ok((out * inputs, Box::new(sketch)))
}

impl Sketch {
    /// Of the gradient of each image's output in the direction of its row of `cotangents`, `[images, outputs]`.
    fn of(&self, lin: &Linearized<'_, f32>, cotangents: MatRef<'_, f32>) -> Result<Sketches, Error> {
        let rows = lin.examples();
        let mut parts: Vec<_> = self.0.iter().map(|(width, _)| (vec![0.0; rows * width], *width)).collect();
        // Records come block by block of images, and of each block layer by layer.
        let mut starts = vec![0; parts.len()];
        let cotangent = |n: usize, out: &mut [f32]| out.copy_from_slice(cotangents.row(n));
        lin.cotangent_records(1, cotangent, |l, record, _| {
            let (data, width) = &mut parts[l];
            let out = &mut data[starts[l] * *width..][..record.examples() * *width];
            self.0[l].1(MatMut::new(out, record.examples(), *width)?, record)?;
            starts[l] += record.examples();
            Ok(())
        })?;
        Ok(Sketches { rows, parts })
    }
}

/// Calls `f` with the passes of the training images and of the queries, and the cotangents of the queries' margins.
fn with_both<R>(
    context: &Context<'_>,
    f: impl FnOnce(&Linearized<'_, f32>, &Linearized<'_, f32>, &[f32]) -> Result<R, Error>,
) -> Result<R, String> {
    let par = context.parallelism();
    let (mut result, f) = (Err("nothing was run".to_owned()), f);
    with_linearized::<f32, _>(context.model, context.train, par, |train| {
        result = with_linearized::<f32, _>(context.model, context.queries, par, |queries| {
            f(train, queries, &margin_cotangents_of(queries, &context.queries.labels)?)
        });
        Ok(())
    })?;
    result
}

fn losses(lin: &Linearized<'_, f32>) -> Vec<f32> {
    lin.output_gradients().flatten().copied().collect()
}

fn matrix(data: &[f32], rows: usize) -> Result<MatRef<'_, f32>, CoreError> {
    MatRef::new(data, rows, data.len() / rows.max(1))
}

/// Influence with the empirical Fisher of the sketches, each part damped by a tenth of its mean eigenvalue.
pub(crate) fn influence(context: &Context<'_>, shortening: Shortening, length: usize) -> Result<Attribution, String> {
    with_both(context, |train, queries, margins| {
        let (n, q, par) = (train.examples(), queries.examples(), train.parallelism());
        let sketch = shortening.sketch(train, length, Stream::new(context.options.seed, "attribute.sketch"))?;
        let (rows, query_rows) =
            (sketch.of(train, matrix(&losses(train), n)?)?, sketch.of(queries, matrix(margins, q)?)?);
        let filter = Filter { damping: Damping::Relative(DAMPING), ..Filter::default() };
        let fisher = ProjectedFisher::of_rows(&rows.parts()?, &filter, par)?;
        let mut solved = vec![0.0; q * fisher.dim()];
        fisher.precondition(MatMut::new(&mut solved, q, fisher.dim())?, &query_rows.parts()?)?;
        let mut scores = vec![0.0; n * q];
        fisher.scores(MatMut::new(&mut scores, n, q)?, &rows.parts()?, matrix(&solved, q)?)?;
        // A step against the gradient of a loss is what training does.
        Ok(Attribution { scores: scores.into_iter().map(|x| -f64::from(x)).collect(), ..Attribution::default() })
    })
}

/// TrackStar on random projections of the layers, without an optimiser's second moments.
pub(crate) fn trackstar(context: &Context<'_>, length: usize) -> Result<Attribution, String> {
    with_both(context, |train, queries, margins| {
        let (n, q, par) = (train.examples(), queries.examples(), train.parallelism());
        let sketch = Shortening::LoGra.sketch(train, length, Stream::new(context.options.seed, "attribute.sketch"))?;
        let (rows, query_rows) =
            (sketch.of(train, matrix(&losses(train), n)?)?, sketch.of(queries, matrix(margins, q)?)?);
        let grams = rows.grams(par)?;
        let filter = Filter { damping: Damping::Relative(DAMPING), ..Filter::default() };
        let trackstar = TrackStar::new(&grams, None, &filter, par)?;
        let mut embedded = vec![0.0; q * trackstar.dim()];
        trackstar.embed(MatMut::new(&mut embedded, q, trackstar.dim())?, &query_rows.parts()?)?;
        let mut scores = vec![0.0; n * q];
        trackstar.scores(MatMut::new(&mut scores, n, q)?, &rows.parts()?, matrix(&embedded, q)?)?;
        Ok(Attribution { scores: scores.into_iter().map(|x| -f64::from(x)).collect(), ..Attribution::default() })
    })
}

/// TRAK on random signs, regularised by the mean eigenvalue of the features' Gram matrix.
pub(crate) fn trak(context: &Context<'_>, length: usize) -> Result<Attribution, String> {
    with_both(context, |train, queries, query_margins| {
        let (n, q, par) = (train.examples(), queries.examples(), train.parallelism());
        let sketch = whole(train.network(), length, Stream::new(context.options.seed, "attribute.sketch"), par)?;
        let margins = margin_cotangents_of(train, &context.train.labels)?;
        let features = sum(sketch.of(train, matrix(&margins, n)?)?);
        let query_features = sum(sketch.of(queries, matrix(query_margins, q)?)?);
        let trace: f64 = features.parts[0].0.iter().map(|x| f64::from(*x).powi(2)).sum();
        let trak = Trak { regularization: trace / length as f64, parallelism: par };
        let trak = trak.prepare(&features.grams(par)?)?;
        let mut solved = vec![0.0; q * trak.dim()];
        trak.precondition(MatMut::new(&mut solved, q, trak.dim())?, &query_features.parts()?)?;
        let mut scores = vec![0.0; n * q];
        trak.scores(MatMut::new(&mut scores, n, q)?, &features.parts()?, matrix(&solved, q)?)?;
        let residuals = train.losses().map(|loss| 1.0 - (-f64::from(loss)).exp()).collect();
        Ok(Attribution { scores: scores.into_iter().map(f64::from).collect(), residuals, ..Attribution::default() })
    })
}

/// Random signs over all parameters: each layer has its columns of one matrix, and the sketches add up.
fn whole(net: &Mlp, length: usize, stream: Stream, par: Parallelism) -> Result<Sketch, Error> {
    let signs = Rademacher::from_key(stream.key(), length, net.params(), Scale::InvSqrtRows)?;
    let layer = |layer: &Layer| {
        let offset = layer.offset;
        (length, formed(move |out, x| project_columns(out, &signs, x, offset, par)))
    };
    Ok(Sketch(net.layers().iter().map(layer).collect()))
}

/// The sum of the layers' sketches.
fn sum(mut sketches: Sketches) -> Sketches {
    let first = sketches.parts.pop();
    let sum = first.map(|(mut sum, width)| {
        for (part, _) in &sketches.parts {
            sum.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
        }
        (sum, width)
    });
    Sketches { parts: sum.into_iter().collect(), ..sketches }
}
