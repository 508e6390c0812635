//! How good a method is: the linear datamodeling score (LDS) of its scores against the ground truth.
//!
//! A method predicts that training on a subset moves a query's margin by the sum of the subset's scores. The LDS is
//! the rank correlation of these predictions with the measured margins (Park et al. 2023, arXiv:2303.14186, Def. 2).

use ascribe_core::MatRef;
use ascribe_core::metric;
use ascribe_core::random::Stream;

use crate::ground_truth::GroundTruth;

/// A mean over the queries, and its bootstrap 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) mean: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// A line of the table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// The mean over the models of each one's LDS, or why there is none.
    pub(crate) lds: Result<Estimate, String>,
    /// The LDS of the scores averaged over the models, when there are several.
    pub(crate) lds_ensemble: Option<f64>,
    /// Mean seconds a model.
    pub(crate) seconds: f64,
}

/// What one method has given so far, model by model.
#[derive(Debug)]
pub(crate) struct Tally {
    name: &'static str,
    models: usize,
    lds: Vec<f64>,
    scores: Vec<f64>,
    seconds: f64,
    failure: Option<String>,
}

impl Tally {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, models: 0, lds: Vec::new(), scores: Vec::new(), seconds: 0.0, failure: None }
    }

    /// Adds the scores `[train, queries]` of one more model. A method that fails on one model has failed, and the
    /// others go on.
    pub(crate) fn add(&mut self, scores: Result<Vec<f64>, String>, seconds: f64, truth: &Truth) {
        match scores.and_then(|scores| Ok((truth.lds(&scores)?, scores))) {
            Ok((lds, scores)) => {
                accumulate(&mut self.lds, &lds);
                accumulate(&mut self.scores, &scores);
            }
            Err(why) => self.failure = Some(why),
        }
        self.models += 1;
        self.seconds += seconds;
    }

    /// The scores averaged over the models, `[train, queries]`; `None` when the method failed.
    pub(crate) fn mean_scores(&self) -> Option<Vec<f64>> {
        let n = self.models as f64;
        self.failure.is_none().then(|| self.scores.iter().map(|score| score / n).collect())
    }

    pub(crate) fn row(&self, truth: &Truth, seed: u64) -> Row {
        let n = self.models as f64;
        let lds = match &self.failure {
            Some(why) => Err(why.clone()),
            None => estimate(&self.lds.iter().map(|lds| lds / n).collect::<Vec<_>>(), seed),
        };
        let ensemble = self.mean_scores().filter(|_| self.models > 1).and_then(|scores| truth.lds(&scores).ok());
        let lds_ensemble = ensemble.map(|lds| lds.iter().sum::<f64>() / lds.len() as f64);
        Row { name: self.name, lds, lds_ensemble, seconds: self.seconds / n }
    }
}

/// The ground truth in the form in which scores are compared with it.
#[derive(Debug)]
pub(crate) struct Truth {
    subsets: Vec<Vec<usize>>,
    measurement: Vec<f64>,
    train: usize,
    queries: usize,
}

impl Truth {
    pub(crate) fn new(truth: &GroundTruth, train: usize) -> Self {
        let measurement = truth.measurement();
        Self { subsets: truth.subsets.clone(), measurement, train, queries: truth.queries }
    }

    /// The LDS of each query; 0 where the predictions are all the same, which is what they tell.
    fn lds(&self, scores: &[f64]) -> Result<Vec<f64>, String> {
        if let Some(at) = scores.iter().position(|score| !score.is_finite()) {
            let (row, query) = (at / self.queries, at % self.queries);
            return Err(format!(
                "the score of example {row} for query {query} is {}; try a larger --damping",
                scores[at]
            ));
        }
        let lds = || {
            let scores = MatRef::new(scores, self.train, self.queries)?;
            let measurement = MatRef::new(&self.measurement, self.subsets.len(), self.queries)?;
            metric::lds(scores, &self.subsets, measurement)
        };
        let lds = lds().map_err(|why| why.to_string())?;
        Ok(lds.per_query.iter().map(|correlation| correlation.value).collect())
    }
}

fn estimate(lds: &[f64], seed: u64) -> Result<Estimate, String> {
    let stream = Stream::new(seed, "attribute.bootstrap");
    let interval = metric::bootstrap_interval(lds, 10_000, 0.95, &stream).map_err(|why| why.to_string())?;
    let mean = lds.iter().sum::<f64>() / lds.len() as f64;
    Ok(Estimate { mean, low: interval.low, high: interval.high })
}

fn accumulate(sum: &mut Vec<f64>, x: &[f64]) {
    sum.resize(x.len(), 0.0);
    sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
}
