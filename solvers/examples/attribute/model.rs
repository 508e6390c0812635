//! Placeholder: class means instead of a network.
use crate::data::Dataset;
use crate::options::Options;
use ascribe_core::random::Stream;
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) means: Vec<f64>,
    pub(crate) classes: usize,
}
pub(crate) fn train(_options: &Options, data: &Dataset, rows: &[usize], seed: u64) -> Result<Model, String> {
    let mut means = vec![0.0; data.classes * data.p];
    let mut count = vec![1e-9; data.classes];
    let stream = Stream::new(seed, "fake");
    for &row in rows {
        let w = 0.7 + 0.6 * f64::from(stream.words(row as u64, 0)[0]) / 4_294_967_296.0;
        let c = data.labels[row];
        count[c] += w;
        for (m, &x) in means[c * data.p..].iter_mut().zip(data.image(row)) {
            *m += w * f64::from(x);
        }
    }
    for c in 0..data.classes {
        for m in &mut means[c * data.p..(c + 1) * data.p] {
            *m /= count[c];
        }
    }
    Ok(Model { means, classes: data.classes })
}
impl Model {
    fn logits(&self, x: &[f32]) -> Vec<f64> {
        let d = |m: &[f64]| -m.iter().zip(x).map(|(m, &x)| (m - f64::from(x)).powi(2)).sum::<f64>();
        self.means.chunks(x.len()).map(d).collect()
    }
    fn margin(&self, x: &[f32], label: usize) -> f64 {
        let z = self.logits(x);
        z[label] - (0..self.classes).filter(|&c| c != label).map(|c| z[c]).fold(f64::NEG_INFINITY, f64::max)
    }
    pub(crate) fn margins(&self, data: &Dataset) -> Vec<f64> {
        (0..data.n).map(|i| self.margin(data.image(i), data.labels[i])).collect()
    }
    pub(crate) fn accuracy(&self, data: &Dataset) -> f64 {
        self.margins(data).iter().filter(|&&m| m > 0.0).count() as f64 / data.n as f64
    }
}
