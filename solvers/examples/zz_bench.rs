use ascribe_core::MatRef;
use ascribe_solvers::{parallel::Parallelism, score::*};
use std::time::Instant;
fn main() {
    let zero = Instant::now(); let a: Vec<String> = std::env::args().collect();
    let get = |i: usize, d: usize| a.get(i).map_or(d, |s| s.parse().unwrap());
    let kind = a.get(1).map_or("f32", |s| s.as_str());
    let (n, d, q, threads, runs) = (get(2, 100_000), get(3, 4096), get(4, 64), get(5, 2), get(6, 5));
    let mut state = 1u64;
    let mut rnd = || { state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407); (state >> 33) as u32 };
    let queries: Vec<f32> = (0..q * d).map(|_| rnd() as f32 / 2f32.powi(30) - 1.0).collect();
    let queries = MatRef::new(&queries, q, d).unwrap();
    let (mut f, mut h, mut c, mut b, mut s) = (vec![], vec![], vec![], vec![], vec![]);
    let rows = match kind {
        "f32" => { f = (0..n * d).map(|_| rnd() as f32 / 2f32.powi(30) - 1.0).collect(); StoredRows::F32(MatRef::new(&f, n, d).unwrap()) }
        "f16" | "bf16" => { h = (0..n * d).map(|_| (rnd() & 0xbbff) as u16).collect(); let m = MatRef::new(&h, n, d).unwrap(); if kind == "f16" { StoredRows::F16(m) } else { StoredRows::Bf16(m) } }
        "int8" => { c = (0..n * d).map(|_| (rnd() % 255) as i32 as u8 as i8).collect(); s = vec![0.01; n * d.div_ceil(64)]; StoredRows::Int8(Int8Rows::new(MatRef::new(&c, n, d).unwrap(), MatRef::new(&s, n, d.div_ceil(64)).unwrap(), 64).unwrap()) }
        _ => { b = (0..n * d.div_ceil(8)).map(|_| rnd() as u8).collect(); s = vec![1.0; n]; StoredRows::OneBit(OneBitRows::new(MatRef::new(&b, n, d.div_ceil(8)).unwrap(), &s, d).unwrap()) }
    };
    let _ = (&f, &h, &c, &b, &s);
    let scorer = Scorer { par: Parallelism::threads(threads), ..Scorer::default() };
    let mut times = vec![];
    for _ in 0..runs {
        let mut best = Selection::new(q, 100, 0).unwrap();
        let cpu = || -> f64 { if threads == 1 { std::fs::read_to_string("/proc/self/schedstat").unwrap().split(' ').next().unwrap().parse::<f64>().unwrap() * 1e-9 } else { zero.elapsed().as_secs_f64() } }; let t = cpu();
        scorer.select(&mut best, 0, &rows, queries).unwrap();
        times.push(cpu() - t);
        std::hint::black_box(best.proponents.finish());
    }
    times.sort_by(f64::total_cmp);
    println!("{kind} {n} {d} {q} t{threads}: min {:.4} med {:.4}  {:.1} G/s", times[0], times[runs / 2], 2.0 * (n * d * q) as f64 / times[0] / 1e9);
}
