//! The operations that have a kernel, on a device: what comes of a recording is compared in `compute`, and repeated
//! by the page of `tests/web`.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use ascribe_core::MatRef;
use ascribe_core::scale::{self, Less};
use ascribe_core::sketch::{self, Entries, MaskScale, Normals, Projection, Scale, Signs};
use ascribe_gpu::{
    Adafactor, Error, FactGrass, Gpu, Int8Rows, LayerRecord, LoGra, Mask, Matrix, Pending, PendingBest, Recorder,
    Scorer, Selection, SjltBuckets, Srht,
};

use super::Handler;
use super::case::{Inputs, Output, Outputs, Tensor, Values};
use super::ghost::Layer;
use super::sketch::table;
use crate::Failure;
use crate::failure::fail;

/// Outputs on the device, by their names in the case.
#[derive(Debug)]
pub enum Recorded {
    /// Floats, and their name.
    Floats(&'static str, Matrix<f32>),
    /// `codes` and `scales`.
    Int8(Int8Rows),
    /// A selection a query: `largest`, `smallest`, and their values.
    Best(Vec<Selection>),
}

/// Records an operation; its outputs are as large as those of the handler for f32, and judged as they are.
pub type Record = fn(&mut Recorder, &Inputs<'_>) -> Result<Vec<Recorded>, Failure>;

/// The device, which every case shares: it compiles a kernel once.
fn gpu() -> Result<&'static Gpu, Failure> {
    static GPU: OnceLock<Result<Gpu, Failure>> = OnceLock::new();
    GPU.get_or_init(|| Ok(Gpu::new()?)).as_ref().map_err(Clone::clone)
}

/// Runs a recording; `twin` is the handler for f32.
pub(super) fn compute(record: Record, twin: Handler, inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let mut recorder = gpu()?.record();
    let recorded = record(&mut recorder, inputs)?;
    let downloads = recorded.iter().map(|output| Download::of(output, &mut recorder)).collect::<Result<Vec<_>, _>>()?;
    recorder.submit()?;
    let mut values = BTreeMap::new();
    for download in downloads {
        values.extend(download.wait()?);
    }
    let mut outputs = Outputs::new();
    for Output { name, shape, condition, magnitude, optional, .. } in twin(inputs)?.computed {
        outputs = match values.remove(name.as_str()) {
            None => outputs.without(&name, "has no kernel"),
            Some(values) => {
                let len = match &values {
                    Values::Float(floats) => floats.len(),
                    Values::Integer(integers) => integers.len(),
                };
                if len != shape.iter().product::<usize>() {
                    return fail(format!("{name}: {len} elements instead of {shape:?}"));
                }
                let outputs = outputs.with_condition(condition).with_magnitude(magnitude).with(&name, &shape, values);
                if optional { outputs.optional() } else { outputs }
            }
        };
    }
    match values.into_keys().next() {
        None => Ok(outputs),
        Some(name) => fail(format!("{name} is recorded, but no output")),
    }
}

/// What was recorded, on its way back.
enum Download {
    Floats(&'static str, Pending<f32>),
    Int8(Pending<i8>, Pending<f32>),
    Best(Vec<PendingBest>),
}

impl Download {
    fn of(output: &Recorded, recorder: &mut Recorder) -> Result<Self, Error> {
        Ok(match output {
            Recorded::Floats(name, matrix) => Self::Floats(name, recorder.download(matrix)?),
            Recorded::Int8(rows) => Self::Int8(recorder.download(rows.codes())?, recorder.download(rows.scales())?),
            Recorded::Best(queries) => {
                Self::Best(queries.iter().map(|best| recorder.download_best(best)).collect::<Result<_, _>>()?)
            }
        })
    }

    fn wait(self) -> Result<Vec<(&'static str, Values)>, Error> {
        let floats = |x: Vec<f32>| Values::Float(x.into_iter().map(f64::from).collect());
        Ok(match self {
            Self::Floats(name, pending) => vec![(name, floats(pending.wait()?))],
            Self::Int8(codes, scales) => {
                let codes = codes.wait()?.into_iter().map(i64::from).collect();
                vec![("codes", Values::Integer(codes)), ("scales", floats(scales.wait()?))]
            }
            Self::Best(queries) => {
                let (mut indices, mut values) = ([vec![], vec![]], [vec![], vec![]]);
                for query in queries {
                    let best = query.wait()?;
                    for (side, ranked) in [best.proponents, best.opponents].into_iter().enumerate() {
                        indices[side].extend(ranked.iter().flatten().map(|ranked| ranked.index as i64));
                        values[side].extend(ranked.iter().flatten().map(|ranked| ranked.score));
                    }
                }
                let indices = ["largest", "smallest"].into_iter().zip(indices.map(Values::Integer));
                // As on the CPU: the format has no NaN or infinity among expected values.
                let values = ["largest_values", "smallest_values"].into_iter().zip(values);
                let values = values.filter(|(_, scores)| scores.iter().all(|score| score.is_finite()));
                indices.chain(values.map(|(name, scores)| (name, floats(scores)))).collect()
            }
        })
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

pub(super) fn sjlt(recorder: &mut Recorder, inputs: &Inputs<'_>) -> Result<Vec<Recorded>, Failure> {
    let table = SjltBuckets::upload(recorder.gpu(), &table(inputs, "idx", "sign")?.by_bucket()?)?;
    let x = upload(recorder, inputs, "x")?;
    Ok(vec![Recorded::Floats("apply", recorder.sjlt(&table, &x)?)])
}

pub(super) fn mask(recorder: &mut Recorder, inputs: &Inputs<'_>) -> Result<Vec<Recorded>, Failure> {
    let scale = inputs.choice("scale", &[("none", MaskScale::None), ("unbiased", MaskScale::Unbiased)])?;
    let x = upload(recorder, inputs, "x")?;
    let mask = Mask::upload(recorder.gpu(), &sketch::Mask::new(inputs.indices("idx")?.data, x.cols(), scale)?)?;
    Ok(vec![Recorded::Floats("y", recorder.mask_gather(&mask, &x)?)])
}

pub(super) fn grass(recorder: &mut Recorder, inputs: &Inputs<'_>) -> Result<Vec<Recorded>, Failure> {
    let g = upload(recorder, inputs, "g")?;
    let mask = sketch::Mask::new(inputs.indices("idx")?.data, g.cols(), MaskScale::None)?;
    let grass = sketch::Grass::new(mask, table(inputs, "sjlt_idx", "sjlt_sign")?)?;
    let grass = SjltBuckets::grass(recorder.gpu(), &grass)?;
    Ok(vec![Recorded::Floats("y", recorder.sjlt(&grass, &g)?)])
}

pub(super) fn fact_grass(recorder: &mut Recorder, inputs: &Inputs<'_>) -> Result<Vec<Recorded>, Failure> {
    let layer = Layer::read(inputs, ["x", "delta", "token_mask"], inputs.switch("bias")?)?;
    let record = layer.record()?;
    let mask = |name, dim| Ok::<_, Failure>(sketch::Mask::new(inputs.indices(name)?.data, dim, MaskScale::None)?);
    let (mask_out, mask_in) = (mask("idx_out", record.d_out())?, mask("idx_in", record.weight_cols())?);
    let sketch = sketch::FactGrass::new(mask_out, mask_in, table(inputs, "sjlt_idx", "sjlt_sign")?)?;
    let (sketch, record) = (FactGrass::upload(recorder.gpu(), &sketch)?, LayerRecord::upload(recorder.gpu(), &record)?);
    let masked = recorder.masked_gradients(&sketch, &record)?;
    Ok(vec![Recorded::Floats("masked", masked), Recorded::Floats("y", recorder.fact_grass(&sketch, &record)?)])
}

pub(super) fn logra(recorder: &mut Recorder, inputs: &Inputs<'_>) -> Result<Vec<Recorded>, Failure> {
    let layer = Layer::read(inputs, ["x", "delta", "token_mask"], inputs.switch("bias")?)?;
    let (record, p_in, p_out) = (layer.record()?, inputs.floats("p_in")?, inputs.floats("p_out")?);
    let logra = sketch::LoGra::new(p_out.matrix()?, p_in.matrix()?)?;
    let logra = LoGra::upload(recorder.gpu(), &logra, record.has_bias())?;
    let record = LayerRecord::upload(recorder.gpu(), &record)?;
    Ok(vec![Recorded::Floats("g", recorder.logra(&logra, &record)?)])
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

fn projection<E: Entries>(
    recorder: &mut Recorder,
    inputs: &Inputs<'_>,
    onto: Onto<E>,
) -> Result<Vec<Recorded>, Failure> {
    let scale = inputs.choice("scale", &[("jl", Scale::InvSqrtRows), ("none", Scale::None)])?;
    let block = Block::read(inputs, Some(inputs.count("total_rows")?), scale)?;
    let x = upload(recorder, inputs, "x")?;
    let matrix = block.entries(recorder, x.cols(), onto)?;
    Ok(vec![Recorded::Floats("matrix", matrix), Recorded::Floats("y", block.apply(recorder, &x, onto)?)])
}

pub(super) fn rademacher(recorder: &mut Recorder, inputs: &Inputs<'_>) -> Result<Vec<Recorded>, Failure> {
    projection::<Signs>(recorder, inputs, Recorder::rademacher_onto)
}

pub(super) fn gaussian(recorder: &mut Recorder, inputs: &Inputs<'_>) -> Result<Vec<Recorded>, Failure> {
    let mut recorded = projection::<Normals>(recorder, inputs, Recorder::gaussian_onto)?;
    let unscaled = Block::read(inputs, None, Scale::None)?;
    let entries = unscaled.entries(recorder, inputs.count("cols")?, Recorder::gaussian_onto)?;
    recorded.push(Recorded::Floats("entries_f32", entries));
    Ok(recorded)
}

pub(super) fn srht(recorder: &mut Recorder, inputs: &Inputs<'_>) -> Result<Vec<Recorded>, Failure> {
    let signs = inputs.integers("sign")?.data.into_iter().map(i8::try_from).collect::<Result<Vec<_>, _>>()?;
    let (x, chosen) = (upload(recorder, inputs, "x")?, sketch::Srht::new(&signs, &inputs.indices("rows")?.data)?);
    let all = sketch::Srht::new(&signs, &(0..chosen.padded()).collect::<Vec<_>>())?;
    let [all, chosen] = [all, chosen].map(|srht| Srht::upload(recorder.gpu(), &srht));
    Ok(vec![
        Recorded::Floats("hadamard", recorder.srht(&all?, &x)?),
        Recorded::Floats("y", recorder.srht(&chosen?, &x)?),
    ])
}

pub(super) fn gram(recorder: &mut Recorder, inputs: &Inputs<'_>) -> Result<Vec<Recorded>, Failure> {
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
    Ok(vec![Recorded::Floats("gram", sum)])
}

pub(super) fn adam(recorder: &mut Recorder, inputs: &Inputs<'_>) -> Result<Vec<Recorded>, Failure> {
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
        return Ok(vec![Recorded::Floats("g_scaled", recorder.adam(&g, &v, eps)?)]);
    }
    let less = Less { beta1: inputs.number("beta1")?, beta2: inputs.number("beta2")?, eps };
    let m = flat(recorder, inputs, "m", 1)?;
    Ok(vec![Recorded::Floats("g_scaled", recorder.less(&less, &g, &m, &v)?)])
}

pub(super) fn adafactor(recorder: &mut Recorder, inputs: &Inputs<'_>) -> Result<Vec<Recorded>, Failure> {
    let (row, col) = (inputs.floats::<f32>("row")?, inputs.floats::<f32>("col")?);
    let moments = scale::Adafactor { row: &row.data[..], col: &col.data[..], eps: inputs.number("eps")? };
    let moments = Adafactor::upload(recorder.gpu(), &moments)?;
    let (x, delta) = (upload(recorder, inputs, "x")?, upload(recorder, inputs, "delta")?);
    let mut recorded = vec![
        Recorded::Floats("x_scaled", recorder.adafactor_inputs(&moments, &x)?),
        Recorded::Floats("delta_scaled", recorder.adafactor_outputs(&moments, &delta)?),
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
        recorded.push(Recorded::Floats(
            "bias_scaled",
            recorder.adafactor_bias(&bias, &moments, inputs.number("bias_eps")?)?,
        ));
    }
    Ok(recorded)
}

/// Scores that are there already, as products of rows of one number with the query 1.
pub(super) fn topk(recorder: &mut Recorder, inputs: &Inputs<'_>) -> Result<Vec<Recorded>, Failure> {
    // Scores that differ in f64 alone have another order in f32.
    if inputs.choice("dtype", &[("f64", true), ("f32", false)])? {
        return Ok(Vec::new());
    }
    let (scores, k) = (inputs.floats::<f32>("scores")?, inputs.count("k")?);
    let [examples, queries] = scores.dims()?;
    let one = recorder.gpu().upload(MatRef::from_row(&[1.0_f32]))?;
    let mut selections = Vec::new();
    for query in 0..queries {
        let column: Vec<f32> = scores.data.iter().skip(query).step_by(queries).copied().collect();
        let column = recorder.gpu().upload(MatRef::new(&column, examples, 1)?)?;
        let mut best = recorder.selection(1, k, k)?;
        recorder.score_top_k(&mut best, 0, &column, &one, &Scorer::default())?;
        selections.push(best);
    }
    Ok(vec![Recorded::Best(selections)])
}

/// Without `dequant`, which has no kernel: rows are scored as codes.
pub(super) fn int8_block(recorder: &mut Recorder, inputs: &Inputs<'_>) -> Result<Vec<Recorded>, Failure> {
    let (x, block) = (inputs.floats::<f32>("x")?, inputs.count("block")?);
    let x = recorder.gpu().upload(x.matrix()?)?;
    Ok(vec![Recorded::Int8(recorder.quantize_int8(&x, block)?)])
}
