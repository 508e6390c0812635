//! The operations that have a kernel, on a device.
//!
//! Most are a recording: what comes of it is compared in `compute`, and repeated by the page of `tests/web`.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use ascribe_core::MatRef;
use ascribe_core::scale::{self, Less};
use ascribe_core::sketch::{self, Entries, MaskScale, Normals, Projection, Scale, Signs};
use ascribe_gpu::{
    Adafactor, Error, FactGrass, Gpu, LayerRecord, LoGra, Mask, Matrix, Recorder, Scorer, SjltBuckets, Srht,
};

use super::Handler;
use super::case::{Inputs, Output, Outputs, Tensor};
use super::ghost::Layer;
use super::sketch::table;
use crate::Failure;
use crate::failure::fail;

/// Outputs on the device, by their names in the case.
pub type Recorded = Vec<(&'static str, Matrix<f32>)>;

/// Records an operation.
pub type Record = fn(&mut Recorder, &Inputs<'_>) -> Result<Recorded, Failure>;

/// How an operation is computed on a device.
#[derive(Debug, Clone, Copy)]
pub enum OnGpu {
    /// By a recording, whose outputs are as large as those of the handler for f32, and judged as they are.
    Recorded(Record),
    /// As on the CPU.
    Computed(Handler),
}

/// The device, which every case shares: it compiles a kernel once.
fn gpu() -> Result<&'static Gpu, Failure> {
    static GPU: OnceLock<Result<Gpu, Failure>> = OnceLock::new();
    GPU.get_or_init(|| Ok(Gpu::new()?)).as_ref().map_err(Clone::clone)
}

/// Runs a recording; `twin` is the handler for f32.
pub(super) fn compute(record: Record, twin: Handler, inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let mut recorder = gpu()?.record();
    let mut pending = BTreeMap::new();
    for (name, matrix) in record(&mut recorder, inputs)? {
        pending.insert(name, recorder.download(&matrix)?);
    }
    recorder.submit()?;
    let mut outputs = Outputs::new();
    for Output { name, shape, condition, magnitude, .. } in twin(inputs)?.computed {
        outputs = match pending.remove(name.as_str()) {
            None => outputs.without(&name, "has no kernel"),
            Some(pending) => {
                let data = pending.wait()?;
                if data.len() != shape.iter().product::<usize>() {
                    return fail(format!("{name}: {} elements instead of {shape:?}", data.len()));
                }
                outputs.with_condition(condition).with_magnitude(magnitude).floats(&name, &shape, &data)
            }
        };
    }
    match pending.into_keys().next() {
        None => Ok(outputs),
        Some(name) => fail(format!("{name} is recorded, but no output")),
    }
}

/// An input of at least two axes, of which the first are rows.
fn upload(recorder: &Recorder, inputs: &Inputs<'_>, name: &str) -> Result<Matrix<f32>, Failure> {
    let Tensor { shape, data } = inputs.floats(name)?;
    let cols = shape.last().copied().unwrap_or(0);
    Ok(recorder.gpu().upload(MatRef::new(&data, data.len() / cols.max(1), cols)?)?)
}

/// Gradients, or moments, as rows of a weight's elements.
fn flat(recorder: &Recorder, inputs: &Inputs<'_>, name: &str, rows: usize) -> Result<Matrix<f32>, Failure> {
    let data = inputs.floats::<f32>(name)?.data;
    Ok(recorder.gpu().upload(MatRef::new(&data, rows, data.len() / rows.max(1))?)?)
}

pub(super) fn sjlt(recorder: &mut Recorder, inputs: &Inputs<'_>) -> Result<Recorded, Failure> {
    let table = SjltBuckets::upload(recorder.gpu(), &table(inputs, "idx", "sign")?.by_bucket()?)?;
    let x = upload(recorder, inputs, "x")?;
    Ok(vec![("apply", recorder.sjlt(&table, &x)?)])
}

pub(super) fn mask(recorder: &mut Recorder, inputs: &Inputs<'_>) -> Result<Recorded, Failure> {
    let scale = inputs.choice("scale", &[("none", MaskScale::None), ("unbiased", MaskScale::Unbiased)])?;
    let x = upload(recorder, inputs, "x")?;
    let mask = Mask::upload(recorder.gpu(), &sketch::Mask::new(inputs.indices("idx")?.data, x.cols(), scale)?)?;
    Ok(vec![("y", recorder.mask_gather(&mask, &x)?)])
}

pub(super) fn grass(recorder: &mut Recorder, inputs: &Inputs<'_>) -> Result<Recorded, Failure> {
    let g = upload(recorder, inputs, "g")?;
    let mask = sketch::Mask::new(inputs.indices("idx")?.data, g.cols(), MaskScale::None)?;
    let grass = sketch::Grass::new(mask, table(inputs, "sjlt_idx", "sjlt_sign")?)?;
    let grass = SjltBuckets::grass(recorder.gpu(), &grass)?;
    Ok(vec![("y", recorder.sjlt(&grass, &g)?)])
}

pub(super) fn fact_grass(recorder: &mut Recorder, inputs: &Inputs<'_>) -> Result<Recorded, Failure> {
    let layer = Layer::read(inputs, ["x", "delta", "token_mask"], inputs.switch("bias")?)?;
    let record = layer.record()?;
    let mask = |name, dim| Ok::<_, Failure>(sketch::Mask::new(inputs.indices(name)?.data, dim, MaskScale::None)?);
    let (mask_out, mask_in) = (mask("idx_out", record.d_out())?, mask("idx_in", record.weight_cols())?);
    let sketch = sketch::FactGrass::new(mask_out, mask_in, table(inputs, "sjlt_idx", "sjlt_sign")?)?;
    let (sketch, record) = (FactGrass::upload(recorder.gpu(), &sketch)?, LayerRecord::upload(recorder.gpu(), &record)?);
    let masked = recorder.masked_gradients(&sketch, &record)?;
    Ok(vec![("masked", masked), ("y", recorder.fact_grass(&sketch, &record)?)])
}

pub(super) fn logra(recorder: &mut Recorder, inputs: &Inputs<'_>) -> Result<Recorded, Failure> {
    let layer = Layer::read(inputs, ["x", "delta", "token_mask"], inputs.switch("bias")?)?;
    let (record, p_in, p_out) = (layer.record()?, inputs.floats("p_in")?, inputs.floats("p_out")?);
    let logra = sketch::LoGra::new(p_out.matrix()?, p_in.matrix()?)?;
    let logra = LoGra::upload(recorder.gpu(), &logra, record.has_bias())?;
    let record = LayerRecord::upload(recorder.gpu(), &record)?;
    Ok(vec![("g", recorder.logra(&logra, &record)?)])
}

/// A block of a random matrix.
struct Block<E> {
    sketch: Projection<E>,
    rows: usize,
    at: [usize; 2],
}

impl<E: Entries> Block<E> {
    /// Of a matrix with so many rows, `None` for no more than the block reaches.
    fn read(inputs: &Inputs<'_>, rows: Option<usize>, scale: Scale) -> Result<Self, Failure> {
        let [height, width] = [inputs.count("rows")?, inputs.count("cols")?];
        let at = [inputs.count("row0")?, inputs.count("col0")?];
        let rows = rows.unwrap_or(at[0] + height);
        let sketch = Projection::new(&inputs.text("identifier")?, rows, at[1] + width, scale)?;
        Ok(Self { sketch, rows: height, at })
    }

    /// The products of the block with rows.
    fn apply(&self, recorder: &mut Recorder, x: &Matrix<f32>, onto: Onto<E>) -> Result<Matrix<f32>, Failure> {
        let mut y = recorder.zeros(x.rows(), self.rows)?;
        onto(recorder, &mut y, &self.sketch, x, self.at[0], self.at[1])?;
        Ok(y)
    }

    /// Its entries: what it makes of the unit vectors, transposed by a product with them.
    fn entries(&self, recorder: &mut Recorder, cols: usize, onto: Onto<E>) -> Result<Matrix<f32>, Failure> {
        let units: Vec<f32> = (0..cols * cols).map(|i| f32::from(i % (cols + 1) == 0)).collect();
        let units = recorder.gpu().upload(MatRef::new(&units, cols, cols)?)?;
        let columns = self.apply(recorder, &units, onto)?;
        Ok(recorder.gemm(1.0, columns.t(), &units)?)
    }
}

/// Adds the products of a block of a random matrix.
type Onto<E> = fn(&mut Recorder, &mut Matrix<f32>, &Projection<E>, &Matrix<f32>, usize, usize) -> Result<(), Error>;

fn projection<E: Entries>(recorder: &mut Recorder, inputs: &Inputs<'_>, onto: Onto<E>) -> Result<Recorded, Failure> {
    let scale = inputs.choice("scale", &[("jl", Scale::InvSqrtRows), ("none", Scale::None)])?;
    let block = Block::read(inputs, Some(inputs.count("total_rows")?), scale)?;
    let x = upload(recorder, inputs, "x")?;
    let matrix = block.entries(recorder, x.cols(), onto)?;
    Ok(vec![("matrix", matrix), ("y", block.apply(recorder, &x, onto)?)])
}

pub(super) fn rademacher(recorder: &mut Recorder, inputs: &Inputs<'_>) -> Result<Recorded, Failure> {
    projection::<Signs>(recorder, inputs, Recorder::rademacher_onto)
}

pub(super) fn gaussian(recorder: &mut Recorder, inputs: &Inputs<'_>) -> Result<Recorded, Failure> {
    let mut recorded = projection::<Normals>(recorder, inputs, Recorder::gaussian_onto)?;
    let unscaled = Block::read(inputs, None, Scale::None)?;
    let entries = unscaled.entries(recorder, inputs.count("cols")?, Recorder::gaussian_onto)?;
    recorded.push(("entries_f32", entries));
    Ok(recorded)
}

pub(super) fn srht(recorder: &mut Recorder, inputs: &Inputs<'_>) -> Result<Recorded, Failure> {
    let signs = inputs.integers("sign")?.data.into_iter().map(i8::try_from).collect::<Result<Vec<_>, _>>()?;
    let (x, chosen) = (upload(recorder, inputs, "x")?, sketch::Srht::new(&signs, &inputs.indices("rows")?.data)?);
    let all = sketch::Srht::new(&signs, &(0..chosen.padded()).collect::<Vec<_>>())?;
    let [all, chosen] = [all, chosen].map(|srht| Srht::upload(recorder.gpu(), &srht));
    Ok(vec![("hadamard", recorder.srht(&all?, &x)?), ("y", recorder.srht(&chosen?, &x)?)])
}

pub(super) fn gram(recorder: &mut Recorder, inputs: &Inputs<'_>) -> Result<Recorded, Failure> {
    let (g, chunks) = (inputs.floats::<f32>("g")?, inputs.indices("chunks")?.data);
    let weights = if inputs.has("weight") { Some(inputs.floats::<f32>("weight")?.data) } else { None };
    let [n, dim] = g.dims()?;
    let mean = inputs.choice("normalize", &[("mean", true), ("sum", false)])?;
    let alpha = if mean { 1.0 / n as f32 } else { 1.0 };
    let mut sum = recorder.zeros(dim, dim)?;
    for bounds in chunks.windows(2) {
        let (first, len) = (bounds[0], bounds[1].saturating_sub(bounds[0]));
        let rows = recorder.gpu().upload(g.matrix()?.row_range(first, len)?)?;
        let weights = weights.as_ref().and_then(|weights| weights.get(first..first + len));
        let weights = weights.map(|weights| recorder.gpu().upload(MatRef::new(weights, len, 1)?)).transpose()?;
        recorder.gram_onto(&mut sum, 1.0, alpha, &rows, weights.as_ref())?;
    }
    Ok(vec![("gram", sum)])
}

pub(super) fn adam(recorder: &mut Recorder, inputs: &Inputs<'_>) -> Result<Recorded, Failure> {
    #[derive(Clone, Copy, PartialEq)]
    enum Variant {
        Adam,
        Less,
        ToAdafactor,
    }
    let variants = [("adam", Variant::Adam), ("less", Variant::Less), ("to_adafactor", Variant::ToAdafactor)];
    let (variant, eps) = (inputs.choice("variant", &variants)?, inputs.number("eps")?);
    if variant == Variant::ToAdafactor {
        return Ok(Vec::new());
    }
    let (n, v) = (inputs.floats::<f32>("g")?.shape[0], flat(recorder, inputs, "v", 1)?);
    let g = flat(recorder, inputs, "g", n)?;
    if variant == Variant::Adam {
        return Ok(vec![("g_scaled", recorder.adam(&g, &v, eps)?)]);
    }
    let less = Less { beta1: inputs.number("beta1")?, beta2: inputs.number("beta2")?, eps };
    let m = flat(recorder, inputs, "m", 1)?;
    Ok(vec![("g_scaled", recorder.less(&less, &g, &m, &v)?)])
}

pub(super) fn adafactor(recorder: &mut Recorder, inputs: &Inputs<'_>) -> Result<Recorded, Failure> {
    let (row, col) = (inputs.floats::<f32>("row")?, inputs.floats::<f32>("col")?);
    let moments = scale::Adafactor { row: &row.data[..], col: &col.data[..], eps: inputs.number("eps")? };
    let moments = Adafactor::upload(recorder.gpu(), &moments)?;
    let (x, delta) = (upload(recorder, inputs, "x")?, upload(recorder, inputs, "delta")?);
    let mut recorded = vec![
        ("x_scaled", recorder.adafactor_inputs(&moments, &x)?),
        ("delta_scaled", recorder.adafactor_outputs(&moments, &delta)?),
    ];
    if inputs.has("bias_v") {
        // The gradients of a bias are sums of output gradients over the positions.
        let delta = inputs.floats::<f32>("delta")?;
        let [n, t, d_out] = delta.dims()?;
        let mut bias = vec![0.0_f32; n * d_out];
        for (i, row) in delta.data.chunks_exact(d_out.max(1)).enumerate() {
            bias[i / t * d_out..][..d_out].iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        let bias = recorder.gpu().upload(MatRef::new(&bias, n, d_out)?)?;
        let moments = flat(recorder, inputs, "bias_v", 1)?;
        recorded.push(("bias_scaled", recorder.adafactor_bias(&bias, &moments, inputs.number("bias_eps")?)?));
    }
    Ok(recorded)
}

/// Scores that are there already, as products of rows of one number with the query 1.
pub(super) fn topk(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    // Scores that differ in f64 alone have another order in f32.
    if inputs.choice("dtype", &[("f64", true), ("f32", false)])? {
        let names = ["largest", "smallest", "largest_values", "smallest_values"];
        inputs.count("k")?;
        return Ok(names.iter().fold(Outputs::new(), |out, name| out.without(name, "is of scores in f64")));
    }
    let (scores, k) = (inputs.floats::<f32>("scores")?, inputs.count("k")?);
    let [examples, queries] = scores.dims()?;
    let one = gpu()?.upload(MatRef::from_row(&[1.0_f32]))?;
    let (mut indices, mut values) = ([vec![], vec![]], [vec![], vec![]]);
    for query in 0..queries {
        let column: Vec<f32> = scores.data.iter().skip(query).step_by(queries).copied().collect();
        let column = gpu()?.upload(MatRef::new(&column, examples, 1)?)?;
        let mut recorder = gpu()?.record();
        let mut best = recorder.selection(1, k, k)?;
        recorder.score_top_k(&mut best, 0, &column, &one, &Scorer::default())?;
        let best = recorder.download_best(&best)?;
        recorder.submit()?;
        let best = best.wait()?;
        for (side, ranked) in [best.proponents, best.opponents].into_iter().enumerate() {
            for ranked in ranked.into_iter().flatten() {
                indices[side].push(ranked.index as i64);
                values[side].push(ranked.score);
            }
        }
    }
    let [largest, smallest] = indices;
    let outputs =
        Outputs::new().integers("largest", &[queries, k], largest).integers("smallest", &[queries, k], smallest);
    // As on the CPU: the format has no NaN or infinity among expected values.
    if values.iter().flatten().any(|score: &f32| !score.is_finite()) {
        return Ok(outputs);
    }
    let [largest, smallest] = values;
    Ok(outputs.floats("largest_values", &[queries, k], &largest).floats("smallest_values", &[queries, k], &smallest))
}

pub(super) fn int8_block(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (x, block) = (inputs.floats::<f32>("x")?, inputs.count("block")?);
    let [n, d] = x.dims()?;
    let mut recorder = gpu()?.record();
    let rows = recorder.quantize_int8(&gpu()?.upload(x.matrix()?)?, block)?;
    let (codes, scales) = (recorder.download(rows.codes())?, recorder.download(rows.scales())?);
    recorder.submit()?;
    let scales = scales.wait()?;
    Ok(Outputs::new()
        .integers("codes", &[n, d], codes.wait()?.into_iter().map(i64::from))
        .floats("scales", &[n, scales.len().checked_div(n).unwrap_or(0)], &scales)
        .without("dequant", "has no kernel: rows are scored as codes"))
}
