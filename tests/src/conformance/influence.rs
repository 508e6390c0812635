//! `influence.*`: whole attributions, against retraining.

use ascribe_core::derivative::Reduction;
use ascribe_core::metric::pearson;
use ascribe_core::{MatMut, MatRef, Real};
use ascribe_solvers::inverse::{Explicit, ExplicitSpectrum, Solve};
use ascribe_solvers::network::{Activation, Linearized, Loss, Mlp, Targets};
use ascribe_solvers::parallel::Parallelism::Serial;
use ascribe_solvers::train::Newton;

use super::Op;
use super::case::{Inputs, Outputs};
use crate::Failure;

/// The operations of this folder.
pub const OPS: &[Op] =
    &[Op::new("influence.logistic_regression_loo", logistic_regression_loo::<f64>, logistic_regression_loo::<f32>)];

fn logistic_regression_loo<T: Real>(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (x, x_test) = (inputs.floats::<T>("x")?, inputs.floats::<T>("x_test")?);
    let (y, y_test) = (inputs.indices("y")?.data, inputs.indices("y_test")?.data);
    let (lambda, classes) = (inputs.number("lambda")?, inputs.count("classes")?);
    let [n, d] = x.dims()?;
    let [tests, _] = x_test.dims()?;
    let net = Mlp::with_biases(&[d, classes], &[inputs.switch("bias")?], Activation::Identity, Loss::CrossEntropy)?;
    let params = net.params();
    let newton = Newton { weight_decay: lambda, gradient_tolerance: 0.0, ..Newton::default() };

    let mut theta = vec![T::ZERO; params];
    newton.train(&net, &mut theta, x.matrix()?, Targets::Classes(&y), Reduction::Mean)?;
    let train = Linearized::new(&net, &theta, x.matrix()?, Targets::Classes(&y), Reduction::Mean, Serial)?;
    let test = Linearized::new(&net, &theta, x_test.matrix()?, Targets::Classes(&y_test), Reduction::Mean, Serial)?;
    let mut gradients = vec![T::ZERO; n * params];
    train.per_example_gradients(MatMut::new(&mut gradients, n, params)?)?;
    let spectrum = ExplicitSpectrum::new(&train.hessian(), Serial)?;
    let [least, most] = [0, spectrum.eigenvalues().len() - 1].map(|i| spectrum.eigenvalues()[i] + lambda);
    let hessian = Explicit { damping: lambda, ..Explicit::default() }.prepare(&train.hessian())?;
    let mut change = vec![T::ZERO; n * params];
    hessian.solve(MatMut::new(&mut change, n, params)?, MatRef::new(&gradients, n, params)?)?;
    ascribe_core::reduce::scale(&mut change, train.scale());
    let mut influence = vec![T::ZERO; tests * n];
    test.gradient_dots(MatMut::new(&mut influence, tests, n)?, MatRef::new(&change, n, params)?)?;

    let before: Vec<T> = test.losses().collect();
    let mut theta_loo = Vec::with_capacity(n * params);
    let mut loo = vec![T::ZERO; tests * n];
    for left_out in 0..n {
        let keep = (0..n).filter(|&i| i != left_out);
        let labels: Vec<usize> = keep.clone().map(|i| y[i]).collect();
        let rows: Vec<T> = keep.flat_map(|i| x.data[i * d..(i + 1) * d].to_vec()).collect();
        // The objective keeps the factor 1/N: its optimum is that of the mean over N-1 with more decay.
        let decay = lambda * n as f64 / (n - 1) as f64;
        let mut without = theta.clone();
        let rows = MatRef::new(&rows, n - 1, d)?;
        let newton = Newton { weight_decay: decay, ..newton };
        newton.train(&net, &mut without, rows, Targets::Classes(&labels), Reduction::Mean)?;
        let targets = Targets::Classes(&y_test);
        let after = Linearized::new(&net, &without, x_test.matrix()?, targets, Reduction::Mean, Serial)?;
        for (q, (after, &before)) in after.losses().zip(&before).enumerate() {
            loo[q * n + left_out] = after - before;
        }
        theta_loo.extend_from_slice(&without);
    }
    let correlations: Vec<f64> = (0..tests)
        .map(|q| Ok(pearson(&influence[q * n..(q + 1) * n], &loo[q * n..(q + 1) * n])?.value))
        .collect::<Result<_, Failure>>()?;
    // An optimum moves by its gradient's error over the curvature, and so does a solution; losses are differences.
    let size = before.iter().fold(0.0_f64, |most, loss| most.max(loss.to_f64()));
    Ok(Outputs::new()
        .with_condition(most / least)
        .floats("theta", &[params], &theta)
        .floats("influence_theta", &[n, params], &change)
        .floats("influence", &[tests, n], &influence)
        .floats("theta_loo", &[n, params], &theta_loo)
        .with_magnitude(size)
        .floats("loo", &[tests, n], &loo)
        .with_magnitude(0.0)
        .floats("pearson", &[tests], &correlations))
}
