//! What really happens without half of the training data: the model is retrained on random halves.

use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use ascribe_core::Error;
use ascribe_core::random::Stream;
use serde_json::{Map, Value, json};

use crate::archive;
use crate::data::Dataset;
use crate::file;
use crate::options::Options;
use crate::progress::Stage;

/// Trains on these rows with this seed, and gives the margin of each query.
pub(crate) type Retrain<'a> = dyn Fn(&[usize], u64) -> Result<Vec<f64>, String> + Sync + 'a;

/// The version of the file, and of what a training run with given settings ends with: to be raised when either
/// changes, so that no old file passes for a new one.
const FORMAT: u32 = 1;

/// Everything that the retraining results depend on.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) subsets: usize,
    pub(crate) seeds: usize,
    pub(crate) train: usize,
    pub(crate) queries: usize,
    pub(crate) seed: u64,
    /// All of it by name, as a file remembers it.
    pub(crate) named: Map<String, Value>,
}

impl Settings {
    pub(crate) fn new(options: &Options, data: &Dataset) -> Self {
        let &Options { subsets, seeds, train, queries, seed, .. } = options;
        let mut named = options.training();
        let rest = [
            ("format", json!(FORMAT)),
            ("data", json!(format!("{:016x}", data.checksum()))),
            ("subsets", json!(subsets)),
            ("seeds", json!(seeds)),
        ];
        named.extend(rest.map(|(name, value)| (name.to_owned(), value)));
        Self { subsets, seeds, train, queries, seed, named }
    }

    /// Random halves of the training rows, each ascending.
    pub(crate) fn draw_subsets(&self) -> Result<Vec<Vec<usize>>, Error> {
        let stream = Stream::new(self.seed, "attribute.subset");
        let draw = |subset| {
            let mut rows = vec![0; self.train / 2];
            stream.child(subset as u64).draws().sample_without_replacement(&mut rows, self.train)?;
            Ok(rows)
        };
        (0..self.subsets).map(draw).collect()
    }
}

/// The seed of run number `run` of those called `name`.
pub(crate) fn run_seed(seed: u64, name: &str, run: usize) -> u64 {
    Stream::new(seed, name).child(run as u64).draws().next_u64()
}

/// The retraining results.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GroundTruth {
    /// The rows of each subset, ascending.
    pub(crate) subsets: Vec<Vec<usize>>,
    /// `[subsets, seeds, queries]`: the margin `log p/(1 - p)` of the query's own class after training on the subset.
    pub(crate) margins: Vec<f64>,
    pub(crate) seeds: usize,
    pub(crate) queries: usize,
}

impl GroundTruth {
    /// The results in `path` if there are some, otherwise new ones, which are kept there.
    pub(crate) fn obtain(
        settings: &Settings,
        retrain: &Retrain<'_>,
        threads: usize,
        path: Option<&Path>,
    ) -> Result<Self, String> {
        if let Some(path) = path {
            if path.exists() {
                let stage = Stage::new("ground truth", 1);
                let truth = archive::load(path, settings)?;
                stage.finish(&format!("read from {}", path.display()));
                return Ok(truth);
            }
            file::check_writable(path)?;
        }
        let stage = Stage::new("ground truth", settings.subsets * settings.seeds);
        let truth = Self::compute(settings, retrain, threads, &stage)?;
        stage.finish(&format!("{} halves retrained with {} seeds", settings.subsets, settings.seeds));
        if let Some(path) = path {
            archive::save(path, &truth, settings)?;
        }
        Ok(truth)
    }

    /// Retrains on every subset with every seed. Each run is a job by itself, so `threads` changes no result.
    pub(crate) fn compute(
        settings: &Settings,
        retrain: &Retrain<'_>,
        threads: usize,
        stage: &Stage,
    ) -> Result<Self, String> {
        let &Settings { seeds, queries, seed, .. } = settings;
        let subsets = settings.draw_subsets().map_err(|why| why.to_string())?;
        let jobs = subsets.len() * seeds;
        let next = AtomicUsize::new(0);
        let worker = || {
            let mut results = Vec::new();
            loop {
                let job = next.fetch_add(1, Ordering::Relaxed);
                if job >= jobs {
                    return results;
                }
                let margins = retrain(&subsets[job / seeds], run_seed(seed, "attribute.retraining", job));
                let margins = margins.and_then(check_margins).map_err(|why| format!("subset {}: {why}", job / seeds));
                if margins.is_err() {
                    // Nobody needs the rest.
                    next.store(jobs, Ordering::Relaxed);
                }
                results.push((job, margins));
                stage.tick();
            }
        };
        let mut results: Vec<_> = thread::scope(|scope| {
            let workers: Vec<_> = (0..threads.min(jobs)).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
        });
        results.sort_unstable_by_key(|&(job, _)| job);
        let runs = results.into_iter().map(|(_, margins)| margins).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { subsets, margins: runs.concat(), seeds, queries })
    }

    /// `[subsets, queries]`: the mean over the seeds, which is what a method is to predict.
    pub(crate) fn measurement(&self) -> Vec<f64> {
        let mean = |runs: &[f64], q| runs.iter().skip(q).step_by(self.queries).sum::<f64>() / self.seeds as f64;
        let subsets = self.margins.chunks_exact(self.seeds * self.queries);
        subsets.flat_map(|runs| (0..self.queries).map(move |q| mean(runs, q))).collect()
    }
}

/// All finite, or which is not.
pub(crate) fn check_margins(margins: Vec<f64>) -> Result<Vec<f64>, String> {
    match margins.iter().position(|margin| !margin.is_finite()) {
        None => Ok(margins),
        Some(q) => Err(format!("training diverged, the margin of query {q} is {}; try a smaller --lr", margins[q])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Parsed;

    fn settings(line: &str) -> Settings {
        let Ok(Parsed::Run(options)) = Options::parse(line.split_whitespace().map(Into::into), &[]) else {
            panic!("{line}");
        };
        Settings::new(&options, &Dataset::load(None).unwrap())
    }

    /// The sum of the rows, the seed and the number of the query: it tells every run from every other.
    fn margins(rows: &[usize], seed: u64) -> Vec<f64> {
        (0..3).map(|query| rows.iter().sum::<usize>() as f64 + seed as f64 * 1e-20 + f64::from(query)).collect()
    }

    fn compute(settings: &Settings, retrain: &Retrain<'_>, threads: usize) -> Result<GroundTruth, String> {
        GroundTruth::compute(settings, retrain, threads, &Stage::new("test", 0))
    }

    #[test]
    fn subsets_are_random_halves() {
        let settings = settings("--train 101 --subsets 400");
        let subsets = settings.draw_subsets().unwrap();
        assert_eq!(subsets.len(), 400);
        let mut count = [0.0; 101];
        for subset in &subsets {
            assert_eq!(subset.len(), 50);
            assert!(subset.is_sorted_by(|a, b| a < b) && subset[49] < 101);
            for &row in subset {
                count[row] += 1.0;
            }
        }
        // 400 draws of probability 1/2 have the standard deviation 10: none of 101 counts is 5 of them away
        // but with a probability of 6e-5.
        assert!(count.iter().all(|count| (count - 198.0_f64).abs() < 50.0), "{count:?}");
        assert_ne!(subsets[0], subsets[1]);
    }

    #[test]
    fn threads_change_no_result() {
        let settings = settings("--train 9 --queries 3 --subsets 7 --seeds 3");
        let retrain = |rows: &[usize], seed| Ok(margins(rows, seed));
        let truth = compute(&settings, &retrain, 1).unwrap();
        assert_eq!(truth.margins.len(), 7 * 3 * 3);
        for threads in [2, 5, 64] {
            assert_eq!(compute(&settings, &retrain, threads).unwrap(), truth);
        }
        let seeds: std::collections::BTreeSet<_> = truth.margins.iter().map(|margin| margin.to_bits()).collect();
        assert_eq!(seeds.len(), 7 * 3 * 3, "every run has a seed of its own");
    }

    #[test]
    fn the_measurement_is_the_mean_over_seeds() {
        let margins = vec![1.0, 10.0, 3.0, 30.0, 5.0, 50.0, 6.0, 60.0];
        let truth = GroundTruth { subsets: vec![vec![0], vec![1]], margins, seeds: 2, queries: 2 };
        assert_eq!(truth.measurement(), [2.0, 20.0, 5.5, 55.0]);
    }

    #[test]
    fn a_failing_run_ends_the_computation() {
        let settings = settings("--train 9 --queries 3 --subsets 50 --seeds 3");
        let runs = AtomicUsize::new(0);
        let fails = |_: &[usize], _| {
            runs.fetch_add(1, Ordering::Relaxed);
            Err("no".into())
        };
        assert_eq!(compute(&settings, &fails, 1).unwrap_err(), "subset 0: no");
        assert_eq!(runs.load(Ordering::Relaxed), 1);
        let diverges = |_: &[usize], _| Ok(vec![0.0, f64::NAN, 0.0]);
        assert!(compute(&settings, &diverges, 2).unwrap_err().contains("margin of query 1 is NaN; try a smaller --lr"));
    }
}
