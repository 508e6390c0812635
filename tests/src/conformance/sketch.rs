//! `sketch.*` and `selective_mask.*`: sparse and factorised sketches of gradients and of records.

use ascribe_core::linop::{Adjoint, apply_alloc};
use ascribe_core::sketch::{FactGrass, Grass, LoGra, Mask, MaskScale, SelectiveMask, SjltTable};
use ascribe_core::{MatMut, MatRef, Real};
use ascribe_solvers::parallel::Parallelism::Serial;
use ascribe_solvers::sketch::{apply_rows, logra_records, sketch_records};

use super::case::{Inputs, Outputs};
use super::ghost::Layer;
use super::{Op, gpu};
use crate::Failure;
use crate::failure::fail;

/// The operations of this folder.
pub const OPS: &[Op] = &[
    Op::new("sketch.sjlt", sjlt::<f64>, sjlt::<f32>).recorded(gpu::sjlt),
    Op::new("sketch.mask", mask::<f64>, mask::<f32>).recorded(gpu::mask),
    Op::new("sketch.grass", grass::<f64>, grass::<f32>).recorded(gpu::grass),
    Op::new("sketch.factgrass", fact_grass::<f64>, fact_grass::<f32>).recorded(gpu::fact_grass),
    Op::new("sketch.logra", logra::<f64>, logra::<f32>).recorded(gpu::logra),
    Op::new("selective_mask.loss_and_grad", selective_mask::<f64>, selective_mask::<f32>),
];

/// The table with these names; `k` and `s` are parameters.
pub(super) fn table(inputs: &Inputs<'_>, buckets: &str, signs: &str) -> Result<SjltTable, Failure> {
    let (buckets, signs, slots) = (inputs.indices(buckets)?, inputs.integers(signs)?, inputs.count("s")?);
    if buckets.shape != signs.shape || buckets.dims::<2>()?[1] != slots {
        return fail(format!("buckets {:?} and signs {:?} of {slots} slots", buckets.shape, signs.shape));
    }
    let signs = signs.data.into_iter().map(i8::try_from).collect::<Result<Vec<_>, _>>()?;
    Ok(SjltTable::new(inputs.count("k")?, slots, &buckets.data, &signs)?)
}

/// The largest sum of absolute values of a row.
fn absolute<T: Real>(x: MatRef<'_, T>) -> f64 {
    x.row_iter().map(|row| row.iter().map(|x| x.to_f64().abs()).sum()).fold(0.0, f64::max)
}

fn sjlt<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let double = inputs.choice("dtype", &[("f64", true), ("f32", false)])?;
    // A case in f32 gives references of f64 arithmetic on its inputs; its tolerance is for either type.
    if double { sjlt_in::<T>(inputs) } else { sjlt_in::<f32>(inputs) }
}

fn sjlt_in<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (sjlt, x, y) = (table(inputs, "idx", "sign")?, inputs.floats::<T>("x")?, inputs.floats::<T>("y")?);
    let ([n, p], [_, k]) = (x.dims()?, y.dims()?);
    let (mut apply, mut transpose) = (vec![T::ZERO; n * k], vec![T::ZERO; n * p]);
    apply_rows(MatMut::new(&mut apply, n, k)?, &sjlt, x.matrix()?, Serial)?;
    let gathered = apply_alloc(&sjlt.by_bucket()?, x.matrix()?)?;
    if apply != gathered {
        return fail("scattered and gathered sums differ");
    }
    sjlt.apply_transpose(MatMut::new(&mut transpose, n, p)?, y.matrix()?, &mut [])?;
    Ok(Outputs::new()
        .with_magnitude(absolute(x.matrix()?))
        .floats("apply", &[n, k], &apply)
        .with_magnitude(absolute(y.matrix()?))
        .floats("transpose", &[n, p], &transpose))
}

fn mask<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let scale = inputs.choice("scale", &[("none", MaskScale::None), ("unbiased", MaskScale::Unbiased)])?;
    let (x, indices) = (inputs.floats::<T>("x")?, inputs.indices("idx")?);
    let [n, p] = x.dims()?;
    let mask = Mask::new(&indices.data, p, scale)?;
    Ok(Outputs::new().floats("y", &[n, indices.data.len()], &apply_alloc(&mask, x.matrix()?)?))
}

fn grass<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (g, indices) = (inputs.floats::<T>("g")?, inputs.indices("idx")?);
    let ([n, p], sjlt) = (g.dims()?, table(inputs, "sjlt_idx", "sjlt_sign")?);
    let k = inputs.count("k")?;
    let grass = Grass::new(Mask::new(&indices.data, p, MaskScale::None)?, sjlt)?;
    let mut y = vec![T::ZERO; n * k];
    apply_rows(MatMut::new(&mut y, n, k)?, &grass, g.matrix()?, Serial)?;
    Ok(Outputs::new().with_magnitude(absolute(g.matrix()?)).floats("y", &[n, k], &y))
}

/// The largest sum over positions of products of the absolute sums of both factors.
fn layer_magnitude<T: Real>(layer: &Layer<T>, per_x: f64, per_delta: f64) -> Result<f64, Failure> {
    let record = layer.record()?;
    let bias = f64::from(u8::from(record.has_bias()));
    let row = |x: MatRef<'_, T>, row: usize| x.row(row).iter().map(|x| x.to_f64().abs()).sum::<f64>();
    let mut largest = 0.0_f64;
    for example in 0..record.examples() {
        let positions = record.runs(example).flatten();
        let terms = positions.map(|t| (row(record.inputs(), t) + bias) * row(record.output_grads(), t));
        largest = largest.max(terms.sum());
    }
    Ok(largest * per_x * per_delta)
}

fn fact_grass<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let layer = Layer::<T>::read(inputs, ["x", "delta", "token_mask"], inputs.switch("bias")?)?;
    let (record, k) = (layer.record()?, inputs.count("k")?);
    let (idx_in, idx_out) = (inputs.indices("idx_in")?.data, inputs.indices("idx_out")?.data);
    let mask_in = Mask::new(&idx_in, record.weight_cols(), MaskScale::None)?;
    let mask_out = Mask::new(&idx_out, record.d_out(), MaskScale::None)?;
    let sketch = FactGrass::new(mask_out, mask_in, table(inputs, "sjlt_idx", "sjlt_sign")?)?;
    let (n, kept) = (record.examples(), idx_in.len() * idx_out.len());
    let (mut masked, mut y) = (vec![T::ZERO; n * kept], vec![T::ZERO; n * k]);
    let mut scratch = vec![T::ZERO; sketch.masked_scratch_len(&record)];
    for example in 0..n {
        sketch.masked_gradient(&mut masked[example * kept..][..kept], &record, example, &mut scratch)?;
    }
    sketch_records(MatMut::new(&mut y, n, k)?, &sketch, &record, Serial)?;
    Ok(Outputs::new()
        .with_magnitude(layer_magnitude(&layer, 1.0, 1.0)?)
        .floats("masked", &[n, idx_out.len(), idx_in.len()], &masked)
        .floats("y", &[n, k], &y))
}

fn logra<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let layer = Layer::<T>::read(inputs, ["x", "delta", "token_mask"], inputs.switch("bias")?)?;
    let (record, p_in, p_out) = (layer.record()?, inputs.floats::<T>("p_in")?, inputs.floats::<T>("p_out")?);
    let ([k_in, _], [k_out, _], n) = (p_in.dims()?, p_out.dims()?, record.examples());
    let sketch = LoGra::new(p_out.matrix()?, p_in.matrix()?)?;
    let mut g = vec![T::ZERO; n * k_out * k_in];
    logra_records(MatMut::new(&mut g, n, k_out * k_in)?, &sketch, &record, Serial)?;
    let largest = |p: &[T]| p.iter().fold(0.0, |largest: f64, p| largest.max(p.to_f64().abs()));
    let magnitude = layer_magnitude(&layer, largest(&p_in.data), largest(&p_out.data))?;
    Ok(Outputs::new().with_magnitude(magnitude).floats("g", &[n, k_out, k_in], &g))
}

fn selective_mask<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (a, b, logits) = (inputs.floats::<T>("a")?, inputs.floats::<T>("b")?, inputs.floats::<f64>("logits")?);
    let (lambda, eps, min_active) = (inputs.number("lambda")?, inputs.number("eps")?, inputs.count("min_active")?);
    let options = SelectiveMask { lambda, eps, min_active, ..SelectiveMask::default() };
    let loss = options.loss(a.matrix()?, b.matrix()?, &logits.data, inputs.number("tau")?)?;
    let rho: Vec<f64> = loss.correlations.iter().map(|rho| rho.unwrap_or(0.0)).collect();
    let (tau, p) = (inputs.number("tau")?, logits.data.len());
    let size = MaskSize::of(&a.data, &b.data, &logits.data, tau);
    Ok(Outputs::new()
        .with_condition(size.condition)
        .with_magnitude(1.0 + lambda * p as f64)
        .float("loss", loss.loss)
        .with_magnitude((lambda + size.derivative) / tau)
        .floats("grad", &[p], &loss.gradient)
        .with_magnitude(1.0)
        .floats("rho", &[rho.len()], &rho)
        .integers("valid", &[rho.len()], loss.correlations.iter().map(|rho| i64::from(rho.is_some())))
        .integers("active", &[1], loss.active.iter().map(|count| *count as i64)))
}

/// How much rounding the correlations of a learned mask magnify.
struct MaskSize {
    /// The largest sum of absolute products that an inner product is made of, over the root mean square of the centred
    /// ones of its query, with and without the mask.
    condition: f64,
    /// Bound of the derivative of the mean correlation in a mask: that in an inner product is at most `2 / sqrt(v^)`.
    derivative: f64,
}

impl MaskSize {
    fn of<T: Real>(a: &[T], b: &[T], logits: &[f64], tau: f64) -> Self {
        let masks: Vec<f64> = logits.iter().map(|logit| 1.0 / (1.0 + (-logit / tau).exp())).collect();
        let (p, n) = (logits.len().max(1), (b.len() / logits.len().max(1)) as f64);
        let mut size = Self { condition: 1.0, derivative: 0.0 };
        for a in a.chunks(p) {
            for masked in [false, true] {
                let (mut products, mut absolute, mut entries) = (Vec::new(), 0.0_f64, vec![0.0; p]);
                for b in b.chunks(p) {
                    let weight = |i: usize| if masked { masks[i] * masks[i] } else { 1.0 };
                    let terms: Vec<f64> = (0..p).map(|i| a[i].to_f64() * b[i].to_f64() * weight(i)).collect();
                    products.push(terms.iter().sum::<f64>());
                    absolute = absolute.max(terms.iter().map(|x| x.abs()).sum());
                    entries.iter_mut().zip(&terms).for_each(|(sum, x)| *sum += x.abs());
                }
                let mean = products.iter().sum::<f64>() / n;
                let root = products.iter().map(|x| (x - mean).powi(2)).sum::<f64>().sqrt();
                // A query without variance has no correlation.
                if root > 1e-3 {
                    size.condition = size.condition.max(absolute * n.sqrt() / root);
                    if masked {
                        let largest = entries.into_iter().fold(0.0, f64::max);
                        size.derivative = size.derivative.max(2.0 * 2.0 * largest / root);
                    }
                }
            }
        }
        size
    }
}
