//! Scores of stored rows for a block of queries, with the best of them kept.

use std::hint::black_box;

use ascribe_core::MatRef;
use ascribe_solvers::parallel::Parallelism;
use ascribe_solvers::score::{Int8Rows, OneBitRows, Scorer, Selection, StoredRows};

use super::{Kernel, Measured, Run, Settings, uniform};
use crate::Failure;
use crate::failure::fail;

/// Columns that share a scale.
const BLOCK: usize = 64;

const fn kernel(name: &'static str, about: &'static str, run: Run) -> Kernel {
    let defaults: &[&[usize]] = &[&[100_000, 4096, 64, 100]];
    let f64: Run = |_, _| fail("scores of stored rows are f32");
    Kernel { name, about, sizes: &["n", "d", "queries", "k"], defaults, f32: run, f64 }
}

pub(super) const F32: Kernel = kernel("score", "n stored rows times queries, the k largest of each kept", f32_rows);
pub(super) const F16: Kernel = kernel("score:f16", "score with dtype=f16", |s, n| half_rows(s, n, false));
pub(super) const BF16: Kernel = kernel("score:bf16", "score with dtype=bf16", |s, n| half_rows(s, n, true));
pub(super) const INT8: Kernel = kernel("score:int8", "score with dtype=int8, blocks of 64", int8_rows);
pub(super) const ONE_BIT: Kernel = kernel("score:one_bit", "score with dtype=one_bit", one_bit_rows);

fn f32_rows(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let data = uniform(settings.seed, 0, &sizes[..2])?;
    run(settings, sizes, StoredRows::F32(MatRef::new(&data, sizes[0], sizes[1])?), 4 * data.len())
}

fn half_rows(settings: &Settings, sizes: &[usize], brain: bool) -> Result<Measured, Failure> {
    // Without the highest bit of the exponent, every pattern is finite in both formats.
    let data = patterns(settings.seed, sizes[0], sizes[1], |bits| bits as u16 & 0xbfff)?;
    let bits = MatRef::new(&data, sizes[0], sizes[1])?;
    run(settings, sizes, if brain { StoredRows::Bf16(bits) } else { StoredRows::F16(bits) }, 2 * data.len())
}

fn int8_rows(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let data = patterns(settings.seed, sizes[0], sizes[1], |bits| (bits as i8).max(-127))?;
    let blocks = sizes[1].div_ceil(BLOCK);
    let scales: Vec<f32> = uniform(settings.seed, 1, &[sizes[0], blocks])?;
    let (codes, scales) = (MatRef::new(&data, sizes[0], sizes[1])?, MatRef::new(&scales, sizes[0], blocks)?);
    let bytes = data.len() + 4 * sizes[0] * blocks;
    run(settings, sizes, StoredRows::Int8(Int8Rows::new(codes, scales, BLOCK)?), bytes)
}

fn one_bit_rows(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let data = patterns(settings.seed, sizes[0], sizes[1].div_ceil(8), |bits| bits as u8)?;
    let scales: Vec<f32> = uniform(settings.seed, 1, &sizes[..1])?;
    let bits = MatRef::new(&data, sizes[0], sizes[1].div_ceil(8))?;
    run(settings, sizes, StoredRows::OneBit(OneBitRows::new(bits, &scales, sizes[1])?), data.len() + 4 * sizes[0])
}

/// Codes from uniform bits.
fn patterns<T>(seed: u32, rows: usize, cols: usize, code: impl Fn(u32) -> T) -> Result<Vec<T>, Failure> {
    let uniform: Vec<f32> = uniform(seed, 0, &[rows, cols])?;
    Ok(uniform.into_iter().map(|x| code((x * 8_388_608.0) as i32 as u32)).collect())
}

fn run(settings: &Settings, sizes: &[usize], rows: StoredRows<'_>, bytes: usize) -> Result<Measured, Failure> {
    let &[n, d, n_query, k] = sizes else { return fail("the table names four sizes") };
    let queries: Vec<f32> = uniform(settings.seed, 2, &[n_query, d])?;
    let queries = MatRef::new(&queries, n_query, d)?;
    let scorer = Scorer { par: Parallelism::threads(settings.threads), ..Scorer::default() };
    let mut selected = Ok(());
    let seconds = settings.time(|| {
        let select = || {
            let mut best = Selection::new(n_query, k, 0)?;
            scorer.select(&mut best, 0, black_box(&rows), queries)?;
            Ok::<_, ascribe_solvers::Error>(best.proponents.finish())
        };
        selected = select().map(|best| drop(black_box(best)));
    });
    selected?;
    Ok(Measured { seconds, flops: 2 * (n * d * n_query) as u64, bytes: (bytes + 4 * n_query * d) as u64 })
}
