//! Dense truths in f64, written for clarity: matrices of a known spectrum, elimination, and a network over any
//! [`Scalar`], one example at a time, whose derivatives are those of dual numbers.

use ascribe_core::derivative::Dual;
use ascribe_core::random::Stream;
use ascribe_core::{Real, Scalar};
use ascribe_solvers::network::{Activation, Loss, Mlp};

/// `len` numbers uniform in `[-1, 1)`.
pub fn uniform<T: Real>(stream: Stream, len: usize) -> Vec<T> {
    let mut draws = stream.draws();
    (0..len).map(|_| T::from_f64(2.0 * draws.next_f64() - 1.0)).collect()
}

/// The matrix `[rows, cols]` times a vector.
pub fn mat_vec(a: &[f64], cols: usize, x: &[f64]) -> Vec<f64> {
    a.chunks_exact(cols.max(1)).map(|row| dot(row, x)).collect()
}

/// `sum_i x_i y_i`, left to right.
pub fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// The Euclidean norm; of a matrix, Frobenius' norm.
pub fn norm(x: &[f64]) -> f64 {
    dot(x, x).sqrt()
}

/// `x - y`.
pub fn minus(x: &[f64], y: &[f64]) -> Vec<f64> {
    x.iter().zip(y).map(|(x, y)| x - y).collect()
}

/// The numbers in f64.
pub fn wide<T: Real>(x: &[T]) -> Vec<f64> {
    x.iter().map(|x| x.to_f64()).collect()
}

/// The numbers in the precision of `T`.
pub fn narrow<T: Real>(x: &[f64]) -> Vec<T> {
    x.iter().map(|&x| T::from_f64(x)).collect()
}

/// The product of `n` reflections in random planes: orthogonal, row-major.
pub fn orthogonal(n: usize, stream: Stream) -> Vec<f64> {
    let mut q: Vec<f64> = (0..n * n).map(|i| if i % (n + 1) == 0 { 1.0 } else { 0.0 }).collect();
    for reflection in 0..n {
        let v: Vec<f64> = uniform(stream.child(reflection as u64), n);
        let length = dot(&v, &v);
        for row in q.chunks_exact_mut(n) {
            let along = 2.0 * dot(row, &v) / length;
            row.iter_mut().zip(&v).for_each(|(x, v)| *x -= along * v);
        }
    }
    q
}

/// A symmetric matrix with these eigenvalues and random eigenvectors.
pub fn with_spectrum(values: &[f64], stream: Stream) -> Vec<f64> {
    let n = values.len();
    let q = orthogonal(n, stream);
    let mut a = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let sum = (0..n).map(|k| q[i * n + k] * values[k] * q[j * n + k]).sum();
            a[i * n + j] = sum;
            a[j * n + i] = sum;
        }
    }
    a
}

/// `n` eigenvalues from `largest` down to `largest / condition`, in equal ratios.
pub fn spectrum(n: usize, largest: f64, condition: f64) -> Vec<f64> {
    (0..n).map(|i| largest * condition.powf(-(i as f64) / (n.max(2) - 1) as f64)).collect()
}

/// Sweeps of [`jacobi`]: convergence is quadratic, and ten are more than any matrix of the tests needs.
pub const JACOBI_SWEEPS: usize = 20;

/// The eigenvalues of a symmetric matrix, ascending, by Jacobi's rotations: each makes one element beside the diagonal
/// zero.
///
/// # Panics
/// When more than `eps |A|` is left beside the diagonal after all sweeps.
pub fn jacobi(a: &[f64], n: usize) -> Vec<f64> {
    let mut a = a.to_vec();
    for _ in 0..JACOBI_SWEEPS {
        for p in 0..n {
            for q in p + 1..n {
                let angle = 0.5 * (2.0 * a[p * n + q]).atan2(a[q * n + q] - a[p * n + p]);
                let (s, c) = angle.sin_cos();
                for i in 0..n {
                    let (x, y) = (a[i * n + p], a[i * n + q]);
                    (a[i * n + p], a[i * n + q]) = (c * x - s * y, s * x + c * y);
                }
                for i in 0..n {
                    let (x, y) = (a[p * n + i], a[q * n + i]);
                    (a[p * n + i], a[q * n + i]) = (c * x - s * y, s * x + c * y);
                }
            }
        }
    }
    let beside = (0..n * n).filter(|i| i % (n + 1) != 0).map(|i| a[i].abs()).fold(0.0, f64::max);
    assert!(beside <= f64::EPSILON * norm(&a), "{beside} is left beside the diagonal");
    let mut values: Vec<f64> = (0..n).map(|i| a[i * n + i]).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// `(A + damping I)^-1 v` by elimination with partial pivoting.
pub fn solve(a: &[f64], damping: f64, v: &[f64]) -> Vec<f64> {
    let n = v.len();
    let mut rows: Vec<Vec<f64>> = (0..n).map(|i| [&a[i * n..(i + 1) * n], &[v[i]]].concat()).collect();
    for (i, row) in rows.iter_mut().enumerate() {
        row[i] += damping;
    }
    for pivot in 0..n {
        let best = (pivot..n).max_by(|&i, &j| rows[i][pivot].abs().total_cmp(&rows[j][pivot].abs())).unwrap_or(pivot);
        rows.swap(pivot, best);
        let (head, tail) = rows.split_at_mut(pivot + 1);
        let above = &head[pivot];
        for row in tail {
            let factor = row[pivot] / above[pivot];
            row.iter_mut().zip(above).skip(pivot).for_each(|(x, y)| *x -= factor * y);
        }
    }
    let mut x = vec![0.0; n];
    for i in (0..n).rev() {
        x[i] = (rows[i][n] - dot(&rows[i][i + 1..n], &x[i + 1..])) / rows[i][i];
    }
    x
}

/// What an example's outputs are compared with.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// A class.
    Class(usize),
    /// A number for each output.
    Values(Vec<f64>),
}

fn activate<S: Scalar>(activation: Activation, x: S) -> S {
    let c = S::from_f64;
    let half = c(0.5);
    let logistic = S::ONE / (S::ONE + (-x).exp());
    match activation {
        Activation::Identity => x,
        Activation::Relu => half * (x + x.abs()),
        Activation::Tanh => x.tanh(),
        Activation::Sigmoid => logistic,
        Activation::Gelu => half * x * (S::ONE + (x / c(2.0).sqrt()).erf()),
        Activation::GeluTanh => {
            let cubic = x + c(0.044_715) * x * x * x;
            half * x * (S::ONE + (c(2.0 / core::f64::consts::PI).sqrt() * cubic).tanh())
        }
        Activation::Silu => x * logistic,
        Activation::Softplus => (S::ONE + x.exp()).ln(),
    }
}

/// The outputs of one example, from sums written out.
pub fn outputs<S: Scalar>(net: &Mlp, params: &[S], input: &[f64]) -> Vec<S> {
    let mut a: Vec<S> = input.iter().map(|&x| S::from_f64(x)).collect();
    let mut rest = params;
    for (l, layer) in net.layers().iter().enumerate() {
        let (own, tail) = rest.split_at(layer.len());
        rest = tail;
        if l > 0 {
            for x in &mut a {
                *x = activate(net.activation(), *x);
            }
        }
        if layer.bias {
            a.push(S::ONE);
        }
        a = own.chunks_exact(a.len()).map(|w| w.iter().zip(&a).fold(S::ZERO, |sum, (&w, &a)| sum + w * a)).collect();
    }
    a
}

/// The loss of one example's outputs, by its definition; overflows where the outputs are large.
pub fn output_loss<S: Scalar>(loss: Loss, z: &[S], target: &Target) -> S {
    match target {
        Target::Class(label) => z.iter().fold(S::ZERO, |sum, &z| sum + z.exp()).ln() - z[*label],
        Target::Values(y) => z.iter().zip(y).fold(S::ZERO, |sum, (&z, &y)| {
            let y = S::from_f64(y);
            let square = (z - y) * (z - y);
            sum + match loss {
                Loss::HalfMse => S::from_f64(0.5) * square,
                Loss::SumMse => square,
                _ => (S::ONE + z.exp()).ln() - y * z,
            }
        }),
    }
}

/// The loss of one example.
pub fn loss<S: Scalar>(net: &Mlp, params: &[S], input: &[f64], target: &Target) -> S {
    output_loss(net.loss(), &outputs(net, params, input), target)
}

/// The gradient of one example's loss in the parameters.
pub fn gradient(net: &Mlp, params: &[f64], input: &[f64], target: &Target) -> Vec<f64> {
    partials(params, |params| vec![loss(net, params, input, target)])
}

/// The Jacobian `[outputs, parameters]` of one example's outputs.
pub fn jacobian(net: &Mlp, params: &[f64], input: &[f64]) -> Vec<f64> {
    let by_parameter = partials(params, |params| outputs(net, params, input));
    let count = net.outputs();
    (0..count).flat_map(|c| by_parameter.iter().skip(c).step_by(count).copied().collect::<Vec<_>>()).collect()
}

/// The Hessian of `f` at `x`, row-major.
pub fn hessian(x: &[f64], f: impl Fn(&[Dual<Dual<f64>>]) -> Dual<Dual<f64>>) -> Vec<f64> {
    let n = x.len();
    let mut point: Vec<Dual<Dual<f64>>> = x.iter().map(|&x| Dual::constant(Dual::constant(x))).collect();
    let mut out = vec![0.0; n * n];
    for i in 0..n {
        point[i].tangents[0].value = 1.0;
        for j in 0..=i {
            point[j].value.tangents[0] = 1.0;
            let second = f(&point).tangents[0].tangents[0];
            out[i * n + j] = second;
            out[j * n + i] = second;
            point[j].value.tangents[0] = 0.0;
        }
        point[i].tangents[0].value = 0.0;
    }
    out
}

/// The derivatives of all that `f` gives in each parameter: `[parameters, results]`.
fn partials(params: &[f64], f: impl Fn(&[Dual<f64>]) -> Vec<Dual<f64>>) -> Vec<f64> {
    let mut point: Vec<Dual<f64>> = params.iter().map(|&x| Dual::constant(x)).collect();
    let mut out = Vec::new();
    for i in 0..params.len() {
        point[i].tangents[0] = 1.0;
        out.extend(f(&point).iter().map(|y| y.tangents[0]));
        point[i].tangents[0] = 0.0;
    }
    out
}
