//! Products, and what is made of them.

use ascribe_core::sketch::{Rademacher, Scale};
use ascribe_gpu::interop::wgpu;
use ascribe_gpu::{EigenFunction, Matrix, Operand};

use super::{Case, Operation, Stop, product};

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
    let downloaded = case.recorder.download(&uploaded).map(drop);
    Case::judge(&downloaded, case.core(|| Ok(())))?;
    let [rows, cols] = [case.size(), case.size()];
    let zeros = case.recorder.zeros::<i8>(rows, cols);
    case.made(zeros, [rows, cols], None)?;
    Ok(())
}

/// Memory of the program, in any shape that it has or has not room for.
fn wrap(case: &mut Case<'_>) -> Result<(), Stop> {
    let [rows, cols, n] = [case.size(), case.size(), case.size()];
    let words = 1 + case.size() % 5000;
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let size = 4 * words as u64;
    let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
    let buffer = case.gpu.parts().0.create_buffer(&descriptor);
    let fits = rows.checked_mul(cols).is_some_and(|len| len <= words);
    let wrapped = case.gpu.wrap::<f32>(buffer, rows, cols);
    Case::judge(&wrapped, (!fits).then_some(false))?;
    let wrapped = wrapped?;
    let b = case.matrix(cols, n)?;
    let out = case.matrix(rows, n)?;
    case.onto(out, None, |recorder, out| recorder.gemm_onto(out, 1.0, 1.0, &wrapped, &b))?;
    let out = case.matrix(rows, n)?;
    let sketch = Rademacher::new("wrapped", n, cols, Scale::None)?;
    case.onto(out, None, |recorder, out| recorder.rademacher_onto(out, &sketch, &wrapped, 0, 0))?;
    let unit = case.recorder.normalize(&wrapped);
    case.made(unit, [rows, cols], None)?;
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
    let made = case.recorder.gemm(alpha, operand(&a), operand(&b));
    case.made(made, [m, n], core)?;
    Ok(())
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
    let made = case.recorder.gram(&x);
    case.made(made, [d, d], core)?;
    Ok(())
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
    let made = case.recorder.scaled(factor, &x);
    case.made(made, [n, d], case.core(|| Ok(())))?;
    Ok(())
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
    Case::judge(&function, (!case.absurd && !case.foreign).then_some(fits))?;
    let (function, dim) = (function?, case.fit(rows * cols));
    let v = case.matrix(n, dim)?;
    let core = case.core(|| product([n, dim], [rows * cols, 1], [n, 1]));
    let made = case.recorder.kronecker_apply(&function, &v);
    case.made(made, [n, dim], core)?;
    Ok(())
}

fn cayley_truncated(case: &mut Case<'_>) -> Result<(), Stop> {
    let [k, n] = [case.short(), case.short()];
    let [width, rows, cols] = [n, n, n].map(|size| case.fit(size));
    let (b, skew, order) = (case.matrix(k, width)?, case.matrix(rows, cols)?, case.byte() as u32 % 18);
    let fits = rows == cols && width == rows && (1..=16).contains(&order);
    let core = case.core(|| Ok(())).map(|core| core && fits);
    let made = case.recorder.cayley_truncated(&b, &skew, order);
    case.made(made, [k, width], core)?;
    Ok(())
}

fn newton_schulz(case: &mut Case<'_>) -> Result<(), Stop> {
    let [m, n] = [case.size(), case.short()];
    let (g, epsilon) = (case.matrix(m, n)?, case.value());
    let polynomials: Vec<[f32; 3]> = (0..case.byte() % 4).map(|_| [0; 3].map(|_: u8| case.value())).collect();
    let made = case.recorder.newton_schulz(&g, &polynomials, epsilon);
    case.made(made, [m, n], case.core(|| Ok(())))?;
    Ok(())
}
