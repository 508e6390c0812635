//! What really happens without half of the training data: the model is retrained on random halves.

use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, thread};

use ascribe_core::metric;
use ascribe_core::random::Stream;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};

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
    subsets: usize,
    seeds: usize,
    train: usize,
    queries: usize,
    seed: u64,
    /// All of it by name, as a file remembers it.
    named: Map<String, Value>,
}

impl Settings {
    pub(crate) fn new(options: &Options, data: &Dataset) -> Self {
        let mut named = Map::new();
        named.insert("format".into(), json!(FORMAT));
        named.insert("data".into(), json!(format!("{:016x}", data.checksum())));
        named.insert("subsets".into(), json!(options.subsets));
        named.insert("seeds".into(), json!(options.seeds));
        named.extend(options.training());
        let &Options { subsets, seeds, train, queries, seed, .. } = options;
        Self { subsets, seeds, train, queries, seed, named }
    }

    /// Random halves of the training rows, each ascending.
    fn draw_subsets(&self) -> Vec<Vec<usize>> {
        let stream = Stream::new(self.seed, "attribute.subset");
        let draw = |subset| {
            let mut rows = vec![0; self.train / 2];
            stream.child(subset as u64).draws().sample_without_replacement(self.train, &mut rows);
            rows.sort_unstable();
            rows
        };
        (0..self.subsets).map(draw).collect()
    }
}

/// The seed of run number `run` of those called `name`.
pub(crate) fn run_seed(seed: u64, name: &str, run: usize) -> u64 {
    let [low, high, ..] = Stream::new(seed, name).words(run as u64, 0);
    u64::from(high) << 32 | u64::from(low)
}

/// The retraining results.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GroundTruth {
    /// The rows of each subset, ascending.
    pub(crate) subsets: Vec<Vec<usize>>,
    /// `[subsets, seeds, queries]`: the margin of the query's own class after training on the subset.
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
                return Self::load(path, settings);
            }
            file::check_writable(path)?;
        }
        let stage = Stage::new("ground truth", settings.subsets * settings.seeds);
        let truth = Self::compute(settings, retrain, threads, &stage)?;
        stage.finish(&format!("{} subsets x {} seeds retrained", settings.subsets, settings.seeds));
        if let Some(path) = path {
            file::write(path, &truth.to_bytes(settings)?)?;
        }
        Ok(truth)
    }

    /// Retrains on every subset with every seed. Each run is a job by itself, so threads change no result.
    pub(crate) fn compute(
        settings: &Settings,
        retrain: &Retrain<'_>,
        threads: usize,
        stage: &Stage,
    ) -> Result<Self, String> {
        let &Settings { seeds, queries, seed, .. } = settings;
        let subsets = settings.draw_subsets();
        let jobs = subsets.len() * seeds;
        let next = AtomicUsize::new(0);
        let worker = || {
            let mut results = Vec::new();
            loop {
                let job = next.fetch_add(1, Ordering::Relaxed);
                if job >= jobs {
                    return results;
                }
                let margins = retrain(&subsets[job / seeds], run_seed(seed, "attribute.retraining", job))
                    .and_then(|margins| check_finite(margins, job / seeds));
                if margins.is_err() {
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

    /// The largest LDS that the measurement's own noise lets a perfect method reach, averaged over the queries;
    /// `None` when there is one seed, and so no telling.
    ///
    /// With r the mean rank correlation of two seeds over the subsets, the mean of S seeds has the reliability
    /// R = S r / (1 + (S - 1) r) (Spearman and Brown), and correlates with the noiseless truth as sqrt(R).
    pub(crate) fn noise_ceiling(&self) -> Option<f64> {
        if self.seeds < 2 {
            return None;
        }
        let column = |seed: usize, q: usize| -> Vec<f64> {
            self.margins.iter().skip(seed * self.queries + q).step_by(self.seeds * self.queries).copied().collect()
        };
        let s = self.seeds as f64;
        let ceiling = |q| {
            let columns: Vec<_> = (0..self.seeds).map(|seed| column(seed, q)).collect();
            let pairs = columns.iter().enumerate().flat_map(|(i, a)| columns[..i].iter().map(move |b| (a, b)));
            let r = pairs.map(|(a, b)| metric::spearman(a, b).value).sum::<f64>() / (s * (s - 1.0) / 2.0);
            let r = r.max(0.0);
            (s * r / (1.0 + (s - 1.0) * r)).sqrt()
        };
        Some((0..self.queries).map(ceiling).sum::<f64>() / self.queries as f64)
    }

    fn to_bytes(&self, settings: &Settings) -> Result<Vec<u8>, String> {
        let rows: Vec<u8> = self.subsets.iter().flatten().flat_map(|&row| (row as u32).to_le_bytes()).collect();
        let margins: Vec<u8> = self.margins.iter().flat_map(|margin| margin.to_le_bytes()).collect();
        let shape = vec![settings.subsets, settings.seeds, settings.queries];
        let tensors = [
            ("subsets", Dtype::U32, vec![settings.subsets, settings.train / 2], &rows),
            ("margins", Dtype::F64, shape, &margins),
        ];
        let view = |(name, dtype, shape, data)| TensorView::new(dtype, shape, data).map(|view| (name, view));
        let views = tensors.map(|(name, dtype, shape, data): (&str, _, _, &Vec<u8>)| view((name, dtype, shape, data)));
        let views = views.into_iter().collect::<Result<Vec<_>, _>>().map_err(|why| why.to_string())?;
        let settings = Value::from(settings.named.clone()).to_string();
        safetensors::serialize(views, Some([("settings".to_owned(), settings)].into()))
            .map_err(|why| format!("the ground truth cannot be stored: {why}"))
    }

    fn load(path: &Path, settings: &Settings) -> Result<Self, String> {
        let name = path.display();
        let bytes = fs::read(path).map_err(|why| format!("cannot read --ground-truth {name}: {why}"))?;
        Self::from_bytes(&bytes, settings)
            .map_err(|why| format!("--ground-truth {name} {why}; the file is left as it is: name another one"))
    }

    fn from_bytes(bytes: &[u8], settings: &Settings) -> Result<Self, String> {
        let foreign = |_| "is not a ground truth that this program wrote".to_owned();
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|why| foreign(why.to_string()))?;
        let stored = header.metadata().as_ref().and_then(|entries| entries.get("settings")).map_or("", String::as_str);
        let stored: Map<String, Value> = serde_json::from_str(stored).map_err(|why| foreign(why.to_string()))?;
        let differences = differences(&stored, &settings.named);
        if !differences.is_empty() {
            return Err(format!("was made with other settings ({})", differences.join(", ")));
        }
        let file = SafeTensors::deserialize(bytes).map_err(|why| foreign(why.to_string()))?;
        let data = |name: &str| file.tensor(name).map(|tensor| tensor.data()).map_err(|why| foreign(why.to_string()));
        let margins: Vec<f64> = data("margins")?.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect();
        let rows: Vec<usize> = data("subsets")?.as_chunks().0.iter().map(|&b| u32::from_le_bytes(b) as usize).collect();
        let subsets = settings.draw_subsets();
        if rows != subsets.concat() || margins.len() != settings.subsets * settings.seeds * settings.queries {
            return Err("is damaged: its tensors do not fit its settings".into());
        }
        let margins = check_finite(margins, 0)?;
        Ok(Self { subsets, margins, seeds: settings.seeds, queries: settings.queries })
    }
}

fn check_finite(margins: Vec<f64>, subset: usize) -> Result<Vec<f64>, String> {
    match margins.iter().position(|margin| !margin.is_finite()) {
        None => Ok(margins),
        Some(query) => Err(format!(
            "training on subset {subset} gave query {query} the margin {}: it diverged; try a smaller --lr",
            margins[query]
        )),
    }
}

/// `name: theirs, not ours` for each setting that differs.
fn differences(stored: &Map<String, Value>, asked: &Map<String, Value>) -> Vec<String> {
    // Through the same printer and parser as the stored ones: a float may lose its last bit there.
    let asked: Map<String, Value> = serde_json::from_str(&Value::from(asked.clone()).to_string()).unwrap_or_default();
    let names = asked.keys().chain(stored.keys().filter(|name| !asked.contains_key(*name)));
    let show = |value: Option<&Value>| value.map_or("none".to_owned(), Value::to_string);
    names
        .filter(|name| stored.get(*name) != asked.get(*name))
        .map(|name| format!("{name}: {} there, {} now", show(stored.get(name)), show(asked.get(name))))
        .collect()
}
