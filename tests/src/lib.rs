//! What the tests share: the conformance runner, the measurements, generators, oracles and the table of tolerances.

pub mod conformance;
pub mod exact;
pub mod failure;
pub mod measure;
pub mod oracle;
pub mod solving;
pub mod stored;
pub mod tolerance;

pub use failure::Failure;

/// Runs `f` where eight threads can work, however many processors there are: a solver starts no more than its pool has.
///
/// # Panics
/// When the system refuses eight threads.
pub fn with_eight_threads<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(8).build().expect("eight threads").install(f)
}

/// Says that a test cannot be run here, where the capture of a passing test's output does not hide it.
pub fn skipped(why: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// The README's examples, compiled and run with the other tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
