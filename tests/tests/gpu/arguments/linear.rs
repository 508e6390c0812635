//! Products, and what is made of them.

use ascribe_core::sketch::{Rademacher, Scale};
use ascribe_gpu::interop::wgpu;
use ascribe_gpu::{EigenFunction, Matrix, Operand};

use super::{Case, Operation, Stop, judge, product};

pub(super) const OPERATIONS: &[(&str, Operation)] = &[
    ("matrices", matrices),
    ("wrap", wrap),
    ("gemm", gemm),
    ("gemm_onto", gemm_onto),
    ("gram", gram),
    ("gram_onto", gram_onto),
    ("scaled", scaled),
    ("kronecker_apply", kronecker_apply),
    ("cayley_truncated", cayley_truncated),
    ("newton_schulz", newton_schulz),
];

fn matrices(case: &mut Case<'_>) -> Result<(), Stop> {
    let [rows, cols] = [case.size(), case.size()];
    let uploaded = case.matrix(rows, cols)?;
    case.attempt(case.core(|| Ok(())), |recorder| recorder.download(&uploaded).map(drop))?;
    let [rows, cols] = [case.size(), case.size()];
    case.made([rows, cols], None, |recorder| recorder.zeros::<i8>(rows, cols))
}

/// Memory of the program, in any shape that it has or has not room for.
fn wrap(case: &mut Case<'_>) -> Result<(), Stop> {
    let [rows, cols, n] = [case.size(), case.size(), case.size()];
    let words = 1 + case.size() % 5000;
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let size = 4 * words as u64;
    let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
    let buffer = case.gpu.parts().0.create_buffer(&descriptor);
    let numbered = [rows, cols].iter().all(|&size| u32::try_from(size).is_ok());
    let fits = numbered && rows.checked_mul(cols).is_some_and(|len| len <= words);
    let wrapped = case.gpu.wrap::<f32>(buffer, rows, cols);
    judge(&wrapped, (!fits).then_some(false))?;
    let wrapped = wrapped?;
    let b = case.matrix(cols, n)?;
    let out = case.matrix(rows, n)?;
    case.onto(out, None, |recorder, out| recorder.gemm_onto(out, 1.0, 1.0, &wrapped, &b))?;
    let out = case.matrix(rows, n)?;
    let sketch = Rademacher::new("wrapped", n, cols, Scale::default())?;
    case.onto(out, None, |recorder, out| recorder.rademacher_onto(out, &sketch, &wrapped, 0, 0))?;
    case.made([rows, cols], None, |recorder| recorder.normalize(&wrapped))?;
    case.onto(wrapped, None, |recorder, out| recorder.gemm_onto(out, 0.5, 1.0, &b, b.t()))
}

/// An operand of that shape, stored transposed or not.
fn stored(case: &mut Case<'_>, rows: usize, cols: usize) -> Result<(Matrix<f32>, bool), Stop> {
    let transposed = case.flag();
    let matrix = if transposed { case.matrix(cols, rows) } else { case.matrix(rows, cols) };
    Ok((matrix?, transposed))
}

fn operand((matrix, transposed): &(Matrix<f32>, bool)) -> Operand<'_> {
    Operand { matrix, transposed: *transposed }
}

fn gemm(case: &mut Case<'_>) -> Result<(), Stop> {
    let [m, k, n] = [case.size(), case.size(), case.size()];
    let of_b = case.fit(k);
    let (a, b, alpha) = (stored(case, m, k)?, stored(case, of_b, n)?, case.value());
    let core = case.core(|| product([m, k], [of_b, n], [m, n]));
    case.made([m, n], core, |recorder| recorder.gemm(alpha, operand(&a), operand(&b)))
}

fn gemm_onto(case: &mut Case<'_>) -> Result<(), Stop> {
    let [m, k, n] = [case.size(), case.size(), case.size()];
    let (of_b, rows, cols) = (case.fit(k), case.fit(m), case.fit(n));
    let (a, b, c) = (stored(case, m, k)?, stored(case, of_b, n)?, case.matrix(rows, cols)?);
    let (beta, alpha) = (case.value(), case.value());
    let core = case.core(|| product([m, k], [of_b, n], [rows, cols]));
    case.onto(c, core, |recorder, c| recorder.gemm_onto(c, beta, alpha, operand(&a), operand(&b)))
}

fn gram(case: &mut Case<'_>) -> Result<(), Stop> {
    let [n, d] = [case.size(), case.short()];
    let x = case.matrix(n, d)?;
    let core = case.core(|| product([d, n], [n, d], [d, d]));
    case.made([d, d], core, |recorder| recorder.gram(&x))
}

fn gram_onto(case: &mut Case<'_>) -> Result<(), Stop> {
    let [n, d] = [case.size(), case.short()];
    let [rows, cols, weights, width] = [d, d, n, 1].map(|size| case.fit(size));
    let (c, x) = (case.matrix(rows, cols)?, case.matrix(n, d)?);
    let weighted = case.flag().then(|| case.matrix(weights, width)).transpose()?;
    let fits = weighted.is_none() || (weights, width) == (n, 1);
    let core = case.core(|| product([d, n], [n, d], [rows, cols])).map(|core| core && fits);
    let (beta, alpha) = (case.value(), case.value());
    case.onto(c, core, |recorder, c| recorder.gram_onto(c, beta, alpha, &x, weighted.as_ref()))
}

fn scaled(case: &mut Case<'_>) -> Result<(), Stop> {
    let [n, d] = [case.size(), case.size()];
    let (x, factor) = (case.matrix(n, d)?, case.value());
    case.made([n, d], case.core(|| Ok(())), |recorder| recorder.scaled(factor, &x))
}

fn kronecker_apply(case: &mut Case<'_>) -> Result<(), Stop> {
    let [n, rows, cols] = [case.size(), case.size() % 40, case.size() % 40];
    let multipliers = case.matrix(rows, cols)?;
    let mut fits = true;
    let [left, right] = [rows, cols].map(|dim| {
        let [height, width] = [case.fit(dim), case.fit(dim)];
        let basis = case.flag().then(|| case.matrix(height, width)).transpose();
        fits &= !matches!(basis, Ok(Some(_))) || (height, width) == (dim, dim);
        basis
    });
    let function = EigenFunction::new(left?, right?, multipliers);
    // All of it may live elsewhere.
    judge(&function, (!case.drawn.absurd && !case.drawn.foreign).then_some(fits))?;
    let (function, dim) = (function?, case.fit(rows * cols));
    let v = case.matrix(n, dim)?;
    let core = case.core(|| product([n, dim], [rows * cols, 1], [n, 1]));
    case.made([n, dim], core, |recorder| recorder.kronecker_apply(&function, &v))
}

fn cayley_truncated(case: &mut Case<'_>) -> Result<(), Stop> {
    let [k, n] = [case.short(), case.short()];
    let [width, rows, cols] = [n, n, n].map(|size| case.fit(size));
    let (b, skew, order) = (case.matrix(k, width)?, case.matrix(rows, cols)?, case.byte() as u32 % 18);
    let fits = rows == cols && width == rows && (1..=16).contains(&order);
    let core = case.core(|| Ok(())).map(|core| core && fits);
    case.made([k, width], core, |recorder| recorder.cayley_truncated(&b, &skew, order))
}

fn newton_schulz(case: &mut Case<'_>) -> Result<(), Stop> {
    let [m, n] = [case.size(), case.short()];
    let (g, epsilon) = (case.matrix(m, n)?, case.value());
    let polynomials: Vec<[f32; 3]> = (0..case.byte() % 4).map(|_| [0; 3].map(|_: u8| case.value())).collect();
    case.made([m, n], case.core(|| Ok(())), |recorder| recorder.newton_schulz(&g, &polynomials, epsilon))
}
