//! Sketches of rows, and of layers' records. Masks, tables and transforms come from core's constructors.

use ascribe_core::linop::apply_alloc;
use ascribe_core::random::Stream;
use ascribe_core::sketch::{
    self, Entries, Grass, LayerSketch, Mask, MaskScale, Projection, Scale, Sjlt, SjltTable, Sketch,
};
use ascribe_core::{Error as CoreError, LinOp, MatMut, MatRef, record};
use ascribe_gpu::{Error, FactGrass, LayerRecord, LoGra, Matrix, Recorder, SjltBuckets, Srht};

use super::{Case, Operation, Stop, judge, zeros};

pub(super) const OPERATIONS: &[(&str, Operation)] = &[
    ("sjlt", sjlt),
    ("draw_sjlt", draw_sjlt),
    ("mask_gather", mask_gather),
    ("grass", grass),
    ("fact_grass", fact_grass),
    ("logra", logra),
    ("rademacher", rademacher),
    ("gaussian", gaussian),
    ("srht", srht),
];

/// Whether core applies `op` to rows of that shape.
fn applies(op: &impl LinOp<f32>, [rows, cols]: [usize; 2]) -> Result<(), CoreError> {
    apply_alloc(op, MatRef::new(&zeros(rows * cols), rows, cols)?).map(drop)
}

/// A sketch of rows of length `p`, or of another.
fn sketch_rows(
    case: &mut Case<'_>,
    twin: &impl LinOp<f32>,
    record: impl FnOnce(&mut Recorder, &Matrix<f32>) -> Result<Matrix<f32>, Error>,
) -> Result<(), Stop> {
    let (n, cols) = (case.size(), case.fit(twin.dim_in()));
    let x = case.matrix(n, cols)?;
    let core = case.core(|| applies(twin, [n, cols]));
    case.made([n, twin.dim_out()], core, |recorder| record(recorder, &x))
}

/// A table for `p` coordinates, of which some buckets and signs may not exist.
fn table(case: &mut Case<'_>, p: usize) -> Result<SjltTable, Stop> {
    let (k, slots) = (case.size(), case.fit(1 + case.bytes.len() % 3) % 9);
    let len = case.fit(p * slots) % 10_000;
    let out_of_range = usize::from(case.mismatched && case.byte() == 255);
    let buckets: Vec<usize> = (0..len).map(|i| (i * 7 + i / 5) % (k + out_of_range).max(1)).collect();
    let signs: Vec<i8> = (0..len).map(|i| if i % 3 == 0 { -1 } else { 1 - out_of_range as i8 }).collect();
    Ok(SjltTable::new(k, slots, &buckets, &signs)?)
}

fn sjlt(case: &mut Case<'_>) -> Result<(), Stop> {
    let p = case.size() % 3000;
    let table = table(case, p)?;
    let buckets = table.by_bucket()?;
    let on_device = SjltBuckets::upload(case.place(), &buckets);
    judge(&on_device, None)?;
    let on_device = on_device?;
    sketch_rows(case, &buckets, |recorder, x| recorder.sjlt(&on_device, x))
}

fn draw_sjlt(case: &mut Case<'_>) -> Result<(), Stop> {
    let (p, k, slots) = (case.size(), case.size(), case.size() % 40);
    let sjlt = Sjlt::new(p, k, slots, Stream::new(p as u64, "arguments"))?;
    let table = case.attempt(case.core(|| Ok(())), |recorder| recorder.draw_sjlt(&sjlt))?;
    sketch_rows(case, &sjlt, |recorder, x| recorder.sjlt(&table, x))
}

/// Some of `p` coordinates; now and then one twice, or one too many.
fn mask(case: &mut Case<'_>, p: usize) -> Result<Mask<Vec<usize>>, Stop> {
    let least = usize::from(!(case.mismatched && case.byte() == 255));
    let (step, mut next) = (least + case.byte() % 8, case.byte() % 4);
    let end = if case.mismatched && case.byte() == 255 { p.saturating_add(9) } else { p };
    // The last ones of very many.
    next = next.max(end.saturating_sub(5000));
    let most = case.size() % 300;
    let indices = std::iter::successors((next < end).then_some(next), |i| i.checked_add(step).filter(|i| *i < end));
    let scale = case.one_of(&[MaskScale::None, MaskScale::Unbiased]);
    Ok(Mask::new(indices.take(most).collect(), p, scale)?)
}

fn mask_gather(case: &mut Case<'_>) -> Result<(), Stop> {
    let p = case.size();
    let mask = mask(case, p)?;
    let on_device = ascribe_gpu::Mask::upload(case.place(), &mask);
    judge(&on_device, None)?;
    let on_device = on_device?;
    sketch_rows(case, &mask, |recorder, x| recorder.mask_gather(&on_device, x))
}

fn grass(case: &mut Case<'_>) -> Result<(), Stop> {
    let p = case.size();
    let mask = mask(case, p)?;
    let kept = case.fit(mask.indices().len()) % 3000;
    let grass = Grass::new(mask, table(case, kept)?)?;
    let on_device = SjltBuckets::grass(case.place(), &grass);
    judge(&on_device, None)?;
    let on_device = on_device?;
    sketch_rows(case, &grass, |recorder, x| recorder.sjlt(&on_device, x))
}

/// A record of a layer with so many inputs, with the bias, and outputs; on the device, and zeros for the twin.
struct Layer {
    record: LayerRecord,
    examples: usize,
    rows: usize,
    dims: [usize; 2],
    bias: bool,
    masked: bool,
}

impl Layer {
    fn draw(case: &mut Case<'_>, d_in: usize, d_out: usize, bias: bool) -> Result<Self, Stop> {
        let (examples, positions) = (case.short(), case.byte() % 20);
        let positions = if case.drawn.absurd { 0 } else { positions };
        let rows = case.fit(examples.saturating_mul(positions));
        let [of_grads, of_mask, width] = [rows, rows, 1].map(|size| case.fit(size));
        let dims = [case.fit(d_in), case.fit(d_out)];
        let (inputs, grads) = (case.matrix(rows, dims[0])?, case.matrix(of_grads, dims[1])?);
        let mask = case.flag().then(|| case.matrix_of(of_mask, width, f32::to_bits)).transpose()?;
        let masked = mask.is_some();
        let core = case.core(|| {
            let [x, delta] = [(rows, dims[0]), (of_grads, dims[1])].map(|(rows, cols)| zeros(rows * cols));
            let (x, delta) = (MatRef::new(&x, rows, dims[0])?, MatRef::new(&delta, of_grads, dims[1])?);
            let mask = masked.then(|| vec![true; of_mask]);
            record::LayerRecord::new(examples, x, delta, mask.as_deref(), bias).map(drop)
        });
        let record = LayerRecord::new(examples, inputs, grads, mask, bias);
        // All of it may live elsewhere.
        let core = core.filter(|_| !case.drawn.foreign).map(|core| core && (!masked || width == 1));
        judge(&record, core)?;
        Ok(Self { record: record?, examples, rows, dims, bias, masked })
    }

    /// Whether core sketches it.
    fn sketched(&self, sketch: &impl LayerSketch<f32>) -> Result<(), CoreError> {
        let [x, delta] = self.dims.map(|cols| zeros(self.rows * cols));
        let (x, delta) = (MatRef::new(&x, self.rows, self.dims[0])?, MatRef::new(&delta, self.rows, self.dims[1])?);
        let mask = self.masked.then(|| vec![true; self.rows]);
        let record = record::LayerRecord::new(self.examples, x, delta, mask.as_deref(), self.bias)?;
        let mut out = zeros(self.examples * sketch.dim_out());
        let out = MatMut::new(&mut out, self.examples, sketch.dim_out())?;
        sketch.sketch(out, &record, &mut zeros(sketch.scratch_len(&record)))
    }
}

fn fact_grass(case: &mut Case<'_>) -> Result<(), Stop> {
    let (d_in, d_out, bias) = (case.short(), case.short(), case.flag());
    let (mask_out, mask_in) = (mask(case, d_out)?, mask(case, d_in.saturating_add(usize::from(bias)))?);
    let kept = [mask_out.indices().len(), mask_in.indices().len()];
    let entries = case.fit(kept[0] * kept[1]) % 10_000;
    let sketch = sketch::FactGrass::new(mask_out, mask_in, table(case, entries)?)?;
    let on_device = FactGrass::upload(case.place(), &sketch);
    judge(&on_device, None)?;
    let (on_device, layer) = (on_device?, Layer::draw(case, d_in, d_out, bias)?);
    let core = case.core(|| layer.sketched(&sketch));
    case.made([layer.examples, kept[0] * kept[1]], core, |recorder| {
        recorder.masked_gradients(&on_device, &layer.record)
    })?;
    case.made([layer.examples, LayerSketch::<f32>::dim_out(&sketch)], core, |recorder| {
        recorder.fact_grass(&on_device, &layer.record)
    })
}

fn logra(case: &mut Case<'_>) -> Result<(), Stop> {
    let (d_in, d_out, bias) = (case.short() % 3000, case.short() % 3000, case.flag());
    let [k_in, k_out] = [case.size() % 70, case.size() % 70];
    let weight_cols = d_in + usize::from(bias);
    let (p_in, p_out) = (case.values(k_in * weight_cols), case.values(k_out * d_out));
    let sketch = sketch::LoGra::new(MatRef::new(&p_out, k_out, d_out)?, MatRef::new(&p_in, k_in, weight_cols)?)?;
    let with_bias = bias ^ (case.mismatched && case.byte() > 200);
    let on_device = LoGra::upload(case.place(), &sketch, with_bias);
    // Without inputs there is no column for a bias.
    judge(&on_device, (with_bias && weight_cols == 0).then_some(false))?;
    let (on_device, layer) = (on_device?, Layer::draw(case, d_in, d_out, bias)?);
    let core = case.core(|| layer.sketched(&sketch)).map(|core| core && with_bias == bias);
    case.made([layer.examples, k_out * k_in], core, |recorder| recorder.logra(&on_device, &layer.record))
}

type Whole<E> = fn(&mut Recorder, &Projection<E>, &Matrix<f32>) -> Result<Matrix<f32>, Error>;
type Onto<E> = fn(&mut Recorder, &mut Matrix<f32>, &Projection<E>, &Matrix<f32>, usize, usize) -> Result<(), Error>;

/// The sketch of whole rows, and the block of a matrix as large as its counters reach.
fn projection<E: Entries>(case: &mut Case<'_>, whole: Whole<E>, onto: Onto<E>) -> Result<(), Stop>
where
    Projection<E>: Sketch<f32>,
{
    let scale = case.one_of(&[Scale::InvSqrtRows, Scale::None]);
    if case.flag() {
        let sketch = Projection::<E>::new("arguments", case.size(), case.size(), scale)?;
        return sketch_rows(case, &sketch, |recorder, x| whole(recorder, &sketch, x));
    }
    let [n, width, cols, row0, col0] = [0; 5].map(|_: u8| case.size());
    let rows = case.fit(row0.saturating_add(width));
    let of = case.fit(col0.saturating_add(cols));
    let sketch = Projection::<E>::new("arguments", rows, of, scale)?;
    let of_y = case.fit(n);
    let (y, x) = (case.matrix(of_y, width)?, case.matrix(n, cols)?);
    let inside = |start: usize, len: usize, of: usize| start.checked_add(len).is_some_and(|end| end <= of);
    let fits = of_y == n && inside(row0, width, rows) && inside(col0, cols, of);
    let core = if case.drawn.foreign { Some(false) } else { Some(fits) };
    case.onto(y, core, |recorder, y| onto(recorder, y, &sketch, &x, row0, col0))
}

fn rademacher(case: &mut Case<'_>) -> Result<(), Stop> {
    projection(case, Recorder::rademacher, Recorder::rademacher_onto)
}

fn gaussian(case: &mut Case<'_>) -> Result<(), Stop> {
    projection(case, Recorder::gaussian, Recorder::gaussian_onto)
}

fn srht(case: &mut Case<'_>) -> Result<(), Stop> {
    let (cols, kept, first) = (case.size() % 5000, case.size() % 5000, case.byte());
    let wrong = case.mismatched && case.byte() == 255;
    let signs: Vec<i8> = (0..cols).map(|i| if (i * i) % 3 == 0 { -1 } else { 1 - i8::from(wrong) }).collect();
    let rows: Vec<usize> = (0..kept).map(|i| (i + first) % cols.next_power_of_two().max(1)).collect();
    let srht = sketch::Srht::new(&signs, &rows)?;
    let on_device = Srht::upload(case.place(), &srht);
    judge(&on_device, None)?;
    let on_device = on_device?;
    sketch_rows(case, &srht, |recorder, x| recorder.srht(&on_device, x))
}
