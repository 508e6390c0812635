//! What the twins of sketches share.

use ascribe_core::MatRef;
use ascribe_core::random::Stream;
use ascribe_core::record::LayerRecord;
use ascribe_gpu::{Counters, Error, Gpu, Matrix, Recorder, Step};

/// Standard normal numbers.
pub(crate) fn normals(stream: Stream, len: usize) -> Vec<f32> {
    (0..len).map(|i| stream.normals(i as u64, 0)[0] as f32).collect()
}

/// Integers so small that sums of thousands of them are exact.
pub(crate) fn integers(stream: Stream, len: usize) -> Vec<f32> {
    (0..len).map(|i| stream.uniform_index(i as u64, 0, 33) as f32 - 16.0).collect()
}

pub(crate) fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Whether nothing has to be cut on a device.
pub(crate) fn is_large(gpu: &Gpu) -> bool {
    gpu.capabilities().max_binding_bytes >= 1 << 24 && gpu.capabilities().max_workgroups >= 1 << 10
}

/// What kernels compute, and what was counted.
pub(crate) fn compute(
    gpu: &Gpu,
    kernels: impl FnOnce(&mut Recorder) -> Result<Matrix<f32>, Error>,
) -> (Vec<f32>, Counters) {
    let mut recorder = gpu.record();
    let result = kernels(&mut recorder).unwrap();
    let result = recorder.download(&result).unwrap();
    let counters = recorder.submit().unwrap().counters();
    (result.wait().unwrap(), counters)
}

/// The tile of each dispatch of a kernel: invocations along its columns and rows, and the depth of a panel.
pub(crate) fn tiles(recorder: &Recorder, name: &str) -> Vec<[u32; 3]> {
    let tile = |step| match step {
        Step::Dispatch { kernel, constants, .. } if kernel.name == name => {
            Some([0, 1, 2].map(|i: usize| constants[i].1))
        }
        _ => None,
    };
    recorder.plan().steps.into_iter().filter_map(tile).collect()
}

/// A layer's record, with NaN wherever the mask leaves a position out.
pub(crate) struct Layer {
    pub(crate) stream: Stream,
    examples: usize,
    positions: usize,
    dims: [usize; 2],
    x: Vec<f32>,
    delta: Vec<f32>,
    mask: Option<Vec<bool>>,
    bias: bool,
}

impl Layer {
    /// `dims` are those of the inputs and the outputs.
    pub(crate) fn draw(
        stream: Stream,
        examples: usize,
        positions: usize,
        dims: [usize; 2],
        masked: bool,
        bias: bool,
    ) -> Self {
        let rows = examples * positions;
        let [mut x, mut delta] = [0, 1].map(|i| normals(stream.child(i as u64), rows * dims[i]));
        let mask = masked.then(|| (0..rows).map(|row| stream.uniform(row as u64, 9) > 0.3).collect::<Vec<_>>());
        for row in (0..rows).filter(|row| mask.as_ref().is_some_and(|mask| !mask[*row])) {
            x[row * dims[0]..][..dims[0]].fill(f32::NAN);
            delta[row * dims[1]..][..dims[1]].fill(f32::NAN);
        }
        Self { stream, examples, positions, dims, x, delta, mask, bias }
    }

    pub(crate) fn record(&self) -> LayerRecord<'_, f32> {
        let rows = self.examples * self.positions;
        let (x, delta) = (MatRef::new(&self.x, rows, self.dims[0]), MatRef::new(&self.delta, rows, self.dims[1]));
        LayerRecord::new(self.examples, x.unwrap(), delta.unwrap(), self.mask.as_deref(), self.bias).unwrap()
    }

    /// Calls `f` with every example, output, input and product whose sums over positions are the gradients.
    pub(crate) fn for_each_product(&self, mut f: impl FnMut(usize, usize, usize, f64)) {
        let ([d_in, d_out], appended) = (self.dims, self.bias.then_some(1.0));
        for row in 0..self.examples * self.positions {
            if self.mask.as_ref().is_some_and(|mask| !mask[row]) {
                continue;
            }
            for (o, &delta) in self.delta[row * d_out..][..d_out].iter().enumerate() {
                for (i, &x) in self.x[row * d_in..][..d_in].iter().chain(&appended).enumerate() {
                    f(row / self.positions, o, i, f64::from(delta) * f64::from(x));
                }
            }
        }
    }
}
