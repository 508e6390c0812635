//! Sketches and scores by a GPU: what a batch needs is uploaded, recorded, submitted at once and waited for.

use ascribe_core::score::Similarity;
use ascribe_core::{MatMut, MatRef};
use ascribe_gpu::{Error, FactGrass, Gpu, LayerRecord, LoGra, Matrix, Recorder, SjltBuckets};

use crate::device::{Failure, OfRecords, Visitor, formed};
use crate::shortening::LayerSketch;

/// What a recording of a batch gives.
type Recorded = Result<Matrix<f32>, Error>;

/// A sketch whose tables and projections are on the device.
pub(crate) fn prepare(gpu: &Gpu, sketch: LayerSketch) -> Result<OfRecords, Failure> {
    Ok(match sketch {
        LayerSketch::Sjlt(table) => {
            let table = SjltBuckets::upload(gpu, &table.by_bucket()?)?;
            of_gradients(gpu, move |recorder, x| recorder.sjlt(&table, x))
        }
        LayerSketch::Grass(grass) => {
            let grass = SjltBuckets::grass(gpu, &grass)?;
            of_gradients(gpu, move |recorder, x| recorder.sjlt(&grass, x))
        }
        LayerSketch::Signs(signs, column) => of_gradients(gpu, move |recorder, x| {
            let mut y = recorder.zeros(x.rows(), signs.rows())?;
            recorder.rademacher_onto(&mut y, &signs, x, 0, column)?;
            Ok(y)
        }),
        LayerSketch::FactGrass(sketch) => {
            let sketch = FactGrass::upload(gpu, &sketch)?;
            of_records(gpu, move |recorder, record| recorder.fact_grass(&sketch, record))
        }
        LayerSketch::LoGra(projections) => {
            let logra = LoGra::upload(gpu, &projections.logra()?, projections.bias)?;
            of_records(gpu, move |recorder, record| recorder.logra(&logra, record))
        }
    })
}

/// Scores of the rows that `blocks` shows, for queries that are uploaded once. While a block is multiplied, the next is
/// made.
pub(crate) fn scores(
    gpu: &Gpu,
    similarity: Similarity,
    queries: MatRef<'_, f32>,
    blocks: impl FnOnce(&mut Visitor<'_>) -> Result<(), Failure>,
) -> Result<Vec<f32>, Failure> {
    let mut scores = Vec::new();
    let mut queries = gpu.upload(queries)?;
    if similarity == Similarity::Cosine {
        let mut recorder = gpu.record();
        queries = recorder.normalize(&queries)?;
        recorder.submit()?;
    }
    let mut batches = gpu.batches(1, |recorder, rows: &Matrix<f32>| match similarity {
        Similarity::Dot => recorder.gemm(1.0, rows, queries.t()),
        Similarity::Cosine => {
            let unit = recorder.normalize(rows)?;
            recorder.gemm(1.0, &unit, queries.t())
        }
    });
    blocks(&mut |block| {
        scores.extend(batches.push(block)?.into_iter().flatten());
        Ok(())
    })?;
    while let Some(last) = batches.pop()? {
        scores.extend(last);
    }
    Ok(scores)
}

fn of_gradients(gpu: &Gpu, record: impl Fn(&mut Recorder, &Matrix<f32>) -> Recorded + 'static) -> OfRecords {
    let gpu = gpu.clone();
    formed(move |out, x| {
        let x = gpu.upload(x)?;
        run(&gpu, out, |recorder| record(recorder, &x))
    })
}

fn of_records(gpu: &Gpu, record: impl Fn(&mut Recorder, &LayerRecord) -> Recorded + 'static) -> OfRecords {
    let gpu = gpu.clone();
    Box::new(move |out, layer| {
        let layer = LayerRecord::upload(&gpu, layer)?;
        run(&gpu, out, |recorder| record(recorder, &layer))
    })
}

/// One submission, whose result goes to `out`.
fn run(gpu: &Gpu, mut out: MatMut<'_, f32>, record: impl FnOnce(&mut Recorder) -> Recorded) -> Result<(), Failure> {
    let mut recorder = gpu.record();
    let y = record(&mut recorder)?;
    let y = recorder.download(&y)?;
    recorder.submit()?;
    Ok(out.copy_from(MatRef::new(&y.wait()?, out.rows(), out.cols())?)?)
}
