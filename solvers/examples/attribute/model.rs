//! The model that is explained, and how it is trained.

use ascribe_core::derivative::Reduction;
use ascribe_core::random::Stream;
use ascribe_core::{MatMut, MatRef, Real};
use ascribe_solvers::Error;
use ascribe_solvers::attribution::{margin, margin_cotangents};
use ascribe_solvers::network::{Activation, Linearized, Loss, Mlp, Targets};
use ascribe_solvers::parallel::Parallelism;
use ascribe_solvers::train::{Length, Newton, Sgd};

use crate::data::Dataset;
use crate::device::Failure;
use crate::options::{self, ModelKind, Options};

/// A trained network. Parameters are kept in f64, which holds those trained in f32 exactly.
#[derive(Debug)]
pub(crate) struct Model {
    net: Mlp,
    params: Vec<f64>,
}

/// Trains on the images `rows` of `data`; the seed decides the initial weights and the order of the batches.
pub(crate) fn train(options: &Options, data: &Dataset, rows: &[usize], seed: u64) -> Result<Model, String> {
    let run = || match options.model {
        ModelKind::Mlp => by_sgd(options, data, rows, seed),
        ModelKind::Logistic => by_newton(options, data, rows),
    };
    run().map_err(|why| format!("training failed: {why}"))
}

fn by_sgd(options: &Options, data: &Dataset, rows: &[usize], seed: u64) -> Result<Model, Error> {
    let widths: Vec<usize> = [data.p].into_iter().chain(options.hidden.iter().copied()).chain([data.classes]).collect();
    let net = Mlp::new(&widths, options.activation, Loss::CrossEntropy)?;
    let mut params = vec![0.0_f32; net.params()];
    net.initialize(&mut params, Stream::new(seed, "attribute.init"))?;
    let (images, labels) = select::<f32>(data, rows);
    let sgd = Sgd {
        learning_rate: options.lr,
        momentum: options.momentum,
        weight_decay: options.weight_decay,
        batch: options.batch,
        length: match options.length {
            options::Length::Epochs(epochs) => Length::Epochs(epochs),
            options::Length::Steps(steps) => Length::Steps(steps),
        },
        seed,
        ..Sgd::default()
    };
    let images = MatRef::new(&images, rows.len(), data.p)?;
    sgd.train(&net, &mut params, images, Targets::Classes(&labels), |_, _| ())?;
    Ok(Model { net, params: params.into_iter().map(f64::from).collect() })
}

fn by_newton(options: &Options, data: &Dataset, rows: &[usize]) -> Result<Model, Error> {
    let net = Mlp::new(&[data.p, data.classes], Activation::Identity, Loss::CrossEntropy)?;
    let mut params = vec![0.0; net.params()];
    let (images, labels) = select::<f64>(data, rows);
    let newton = Newton { weight_decay: options.weight_decay, ..Newton::default() };
    let images = MatRef::new(&images, rows.len(), data.p)?;
    newton.train(&net, &mut params, images, Targets::Classes(&labels), Reduction::Mean)?;
    Ok(Model { net, params })
}

fn select<T: Real>(data: &Dataset, rows: &[usize]) -> (Vec<T>, Vec<usize>) {
    let images = rows.iter().flat_map(|&row| data.image(row)).map(|&x| T::from_f64(f64::from(x))).collect();
    (images, rows.iter().map(|&row| data.labels[row]).collect())
}

impl Model {
    /// The number of parameters.
    pub(crate) fn dim(&self) -> usize {
        self.params.len()
    }

    /// The parameters in the precision that a method works in.
    pub(crate) fn params<T: Real>(&self) -> Vec<T> {
        self.params.iter().map(|&x| T::from_f64(x)).collect()
    }

    /// The correct-class margin `ln p/(1-p)` of every image.
    pub(crate) fn margins(&self, data: &Dataset) -> Result<Vec<f64>, String> {
        with_linearized::<f64, _>(self, data, Parallelism::Serial, |lin| {
            Ok(lin.outputs().zip(&data.labels).map(|(z, &label)| margin(z, label)).collect::<Result<_, _>>()?)
        })
    }

    /// The gradients of the margins in the parameters, `[images, parameters]`.
    pub(crate) fn margin_gradients<T: Real>(&self, data: &Dataset, par: Parallelism) -> Result<Vec<T>, String> {
        with_linearized::<T, _>(self, data, par, |lin| {
            let mut out = vec![T::ZERO; data.n * self.net.params()];
            let cotangents = margin_cotangents_of(lin, &data.labels)?;
            let cotangents = MatRef::new(&cotangents, data.n, self.net.outputs())?;
            lin.per_example_pullback(MatMut::new(&mut out, data.n, self.net.params())?, cotangents)?;
            Ok(out)
        })
    }

    /// The share of images whose correct class has the largest output.
    pub(crate) fn accuracy(&self, data: &Dataset) -> Result<f64, String> {
        with_linearized::<f64, _>(self, data, Parallelism::Serial, |lin| {
            let right = lin
                .outputs()
                .zip(&data.labels)
                .filter(|(z, label)| z.iter().enumerate().all(|(j, &other)| j == **label || other < z[**label]));
            Ok(right.count() as f64 / data.n as f64)
        })
    }
}

/// The gradients of the margins in the outputs, `[images, outputs]`.
pub(crate) fn margin_cotangents_of<T: Real>(lin: &Linearized<'_, T>, labels: &[usize]) -> Result<Vec<T>, Error> {
    let (n, outputs) = (lin.examples(), lin.network().outputs());
    let z: Vec<T> = lin.outputs().flatten().copied().collect();
    let mut cotangents = vec![T::ZERO; n * outputs];
    margin_cotangents(MatMut::new(&mut cotangents, n, outputs)?, MatRef::new(&z, n, outputs)?, labels)?;
    Ok(cotangents)
}

/// Passes `data` through the model, in the precision `T`, and hands the result to `f`.
pub(crate) fn with_linearized<T: Real, R>(
    model: &Model,
    data: &Dataset,
    par: Parallelism,
    f: impl FnOnce(&Linearized<'_, T>) -> Result<R, Failure>,
) -> Result<R, String> {
    let images: Vec<T> = data.features.iter().map(|&x| T::from_f64(f64::from(x))).collect();
    let params = model.params::<T>();
    let run = || -> Result<R, Failure> {
        let images = MatRef::new(&images, data.n, data.p)?;
        let targets = Targets::Classes(&data.labels);
        f(&Linearized::new(&model.net, &params, images, targets, Reduction::Mean, par)?)
    };
    run().map_err(|why| why.to_string())
}
