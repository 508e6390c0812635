//! How good a method is: the linear datamodeling score (LDS) of its scores against the ground truth.
//!
//! A method predicts that training on a subset moves a query's margin by the sum of the subset's scores. The LDS is
//! the rank correlation of these predictions with the measured margins (Park et al. 2023, arXiv:2303.14186).

use ascribe_core::MatRef;
use ascribe_core::metric::{self, QueryCorrelations};
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
    /// How far the solved queries are from those of the explicit method, relative to these; mean over the models.
    pub(crate) error: Option<f64>,
    /// Mean seconds a model.
    pub(crate) seconds: f64,
}

/// What a method gives for one model.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attribution {
    /// `[train, queries]`.
    pub(crate) scores: Vec<f64>,
    /// What the scores of each training image are to be multiplied by, after the average over the models; empty for 1.
    pub(crate) residuals: Vec<f64>,
    /// The inverse curvature times the queries' gradients, `[queries, parameters]`; empty for methods without one.
    pub(crate) solved: Vec<f32>,
}

impl Attribution {
    /// The scores of this model alone.
    fn weighted(&self) -> Vec<f64> {
        weighted(&self.scores, &self.residuals)
    }

    /// `|x - y| / |y|` over the solved queries.
    fn distance(&self, reference: &Self) -> Option<f64> {
        if self.solved.is_empty() || self.solved.len() != reference.solved.len() {
            return None;
        }
        let pairs = self.solved.iter().zip(&reference.solved).map(|(&x, &y)| (f64::from(x), f64::from(y)));
        let (off, all) = pairs.fold((0.0, 0.0), |(off, all), (x, y)| (off + (x - y).powi(2), all + y * y));
        Some((off / all).sqrt())
    }
}

/// Scores `[train, queries]`, each row multiplied by its residual if there are any.
fn weighted(scores: &[f64], residuals: &[f64]) -> Vec<f64> {
    if residuals.is_empty() {
        return scores.to_vec();
    }
    let rows = scores.chunks((scores.len() / residuals.len()).max(1)).zip(residuals);
    rows.flat_map(|(row, residual)| row.iter().map(move |score| score * residual)).collect()
}

/// What one method has given so far, model by model.
#[derive(Debug)]
pub(crate) struct Tally {
    name: &'static str,
    models: usize,
    /// For each query the LDS of each model; one that is undefined, for want of differing predictions, is left out.
    lds: Vec<Vec<f64>>,
    /// The sum over the models, `[train, queries]`.
    scores: Vec<f64>,
    /// The sum over the models; empty for a method without.
    residuals: Vec<f64>,
    seconds: f64,
    /// Of each model that has one.
    errors: Vec<f64>,
    failure: Option<String>,
}

impl Tally {
    pub(crate) fn new(name: &'static str, truth: &Truth) -> Self {
        let (lds, scores) = (vec![Vec::new(); truth.queries], vec![0.0; truth.train * truth.queries]);
        Self { name, models: 0, lds, scores, residuals: Vec::new(), seconds: 0.0, errors: Vec::new(), failure: None }
    }

    /// Adds the result of one more model, of which `reference` is the explicit one's. A method that fails on one model
    /// has failed; the other methods go on.
    pub(crate) fn add(
        &mut self,
        result: &Result<Attribution, String>,
        seconds: f64,
        truth: &Truth,
        reference: Option<&Attribution>,
    ) {
        self.models += 1;
        self.seconds += seconds;
        match result.as_ref().map_err(String::clone).and_then(|result| Ok((truth.lds(&result.weighted())?, result))) {
            Ok((lds, result)) => {
                let scores = &result.scores;
                self.errors.extend(reference.and_then(|reference| result.distance(reference)));
                let defined = self.lds.iter_mut().zip(&lds.per_query).filter(|(_, lds)| lds.valid);
                defined.for_each(|(models, lds)| models.push(lds.value));
                self.scores.iter_mut().zip(scores).for_each(|(sum, score)| *sum += score);
                self.residuals.resize(result.residuals.len(), 0.0);
                self.residuals.iter_mut().zip(&result.residuals).for_each(|(sum, x)| *sum += x);
            }
            Err(why) => self.failure = Some(why),
        }
    }

    /// The scores averaged over the models, `[train, queries]`, times the averaged residuals; `None` when the method
    /// failed.
    pub(crate) fn mean_scores(&self) -> Option<Vec<f64>> {
        let average = |sums: &[f64]| -> Vec<f64> { sums.iter().map(|sum| sum / self.models as f64).collect() };
        self.failure.is_none().then(|| weighted(&average(&self.scores), &average(&self.residuals)))
    }

    pub(crate) fn row(&self, truth: &Truth, seed: u64) -> Row {
        let lds = match &self.failure {
            Some(why) => Err(why.clone()),
            None => self.estimate(seed),
        };
        let ensemble = self.mean_scores().filter(|_| self.models > 1).and_then(|scores| truth.lds(&scores).ok());
        let lds_ensemble = ensemble.filter(|lds| lds.mean.valid).map(|lds| lds.mean.value);
        let error = (!self.errors.is_empty()).then(|| mean(&self.errors));
        Row { name: self.name, lds, lds_ensemble, error, seconds: self.seconds / self.models as f64 }
    }

    fn estimate(&self, seed: u64) -> Result<Estimate, String> {
        let defined = self.lds.iter().filter(|models| !models.is_empty());
        let lds: Vec<_> = defined.map(|models| mean(models)).collect();
        if lds.is_empty() {
            return Err("the scores of every query predict the same margin for all subsets".into());
        }
        let stream = Stream::new(seed, "attribute.bootstrap");
        let interval = metric::bootstrap_interval(&lds, 0.95, 10_000, stream).map_err(|why| why.to_string())?;
        Ok(Estimate { mean: mean(&lds), low: interval.lower, high: interval.upper })
    }
}

/// The ground truth in the form in which scores are compared with it.
#[derive(Debug)]
pub(crate) struct Truth {
    subsets: Vec<Vec<usize>>,
    /// `[subsets, queries]`.
    measurement: Vec<f64>,
    train: usize,
    queries: usize,
}

impl Truth {
    pub(crate) fn new(truth: &GroundTruth, train: usize) -> Self {
        Self { subsets: truth.subsets.clone(), measurement: truth.measurement(), train, queries: truth.queries }
    }

    fn lds(&self, scores: &[f64]) -> Result<QueryCorrelations, String> {
        if let Some(at) = scores.iter().position(|score| !score.is_finite()) {
            let (example, query) = (at / self.queries, at % self.queries);
            let score = scores[at];
            return Err(format!("the score of example {example} for query {query} is {score}; try a larger --damping"));
        }
        let lds = || {
            let scores = MatRef::new(scores, self.train, self.queries)?;
            let measurement = MatRef::new(&self.measurement, self.subsets.len(), self.queries)?;
            metric::lds(scores, &self.subsets, measurement)
        };
        lds().map(|lds| lds.correlations).map_err(|why| why.to_string())
    }
}

/// The largest LDS that the noise of the measurement lets a perfect method reach, averaged over the queries: 1 for
/// `deterministic` training; `None` for one seed of any other, which tells nothing about its noise.
///
/// With r the mean rank correlation over the subsets of two seeds, the mean of S seeds has the reliability
/// R = S r / (1 + (S - 1) r) (Spearman and Brown), and correlates with the noiseless margin as sqrt(R).
pub(crate) fn noise_ceiling(truth: &GroundTruth, deterministic: bool) -> Option<f64> {
    if deterministic {
        return Some(1.0);
    }
    let (seeds, queries) = (truth.seeds, truth.queries);
    let column = |seed: usize, query: usize| -> Vec<f64> {
        truth.margins.iter().skip(seed * queries + query).step_by(seeds * queries).copied().collect()
    };
    let ceiling = |query| {
        let columns: Vec<_> = (0..seeds).map(|seed| column(seed, query)).collect();
        let pairs = columns.iter().enumerate().flat_map(|(i, a)| columns[..i].iter().map(move |b| (a, b)));
        let r: Vec<_> = pairs.map(|(a, b)| metric::spearman(a, b).map_or(0.0, |r| r.value)).collect();
        let (s, r) = (seeds as f64, mean(&r).max(0.0));
        (s * r / (1.0 + (s - 1.0) * r)).sqrt()
    };
    (seeds > 1).then(|| mean(&(0..queries).map(ceiling).collect::<Vec<_>>()))
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four subsets of four examples, two queries; the margins are sums of the effects 8, 4, 2, 1 and their negatives.
    fn truth() -> Truth {
        let subsets: Vec<Vec<usize>> = vec![vec![0, 1], vec![0, 2], vec![1, 3], vec![2, 3]];
        let margins = vec![12.0, -12.0, 10.0, -10.0, 5.0, -5.0, 3.0, -3.0];
        Truth::new(&GroundTruth { subsets, margins, seeds: 1, queries: 2 }, 4)
    }

    #[allow(clippy::unnecessary_wraps, reason = "it stands for what a method returns")]
    fn scores(scores: [f64; 8]) -> Result<Attribution, String> {
        Ok(Attribution { scores: scores.to_vec(), ..Attribution::default() })
    }

    #[test]
    fn the_error_of_a_solver_is_relative_to_the_reference_and_averaged() {
        let truth = truth();
        let solved = |solved: [f32; 2]| Attribution {
            scores: EFFECTS.to_vec(),
            solved: solved.to_vec(),
            ..Attribution::default()
        };
        let mut tally = Tally::new("solver", &truth);
        for (own, reference) in [([3.0, 4.0], [3.0, 4.0]), ([3.0, 9.0], [3.0, 4.0])] {
            tally.add(&Ok(solved(own)), 1.0, &truth, Some(&solved(reference)));
        }
        assert_eq!(tally.row(&truth, 0).error, Some(0.5));
        let mut tally = Tally::new("no solver", &truth);
        tally.add(&scores(EFFECTS), 1.0, &truth, Some(&solved([3.0, 4.0])));
        assert_eq!(tally.row(&truth, 0).error, None);
    }

    const EFFECTS: [f64; 8] = [8.0, -8.0, 4.0, -4.0, 2.0, -2.0, 1.0, -1.0];

    #[test]
    fn true_effects_score_one_and_their_opposite_minus_one() {
        let truth = truth();
        for sign in [1.0, -1.0] {
            let mut tally = Tally::new("effects", &truth);
            tally.add(&scores(EFFECTS.map(|effect| sign * effect)), 2.0, &truth, None);
            let row = tally.row(&truth, 0);
            assert_eq!(row.lds, Ok(Estimate { mean: sign, low: sign, high: sign }));
            assert_eq!((row.lds_ensemble, row.seconds), (None, 2.0));
        }
    }

    #[test]
    fn an_ensemble_averages_scores_not_scores_of_scores() {
        let truth = truth();
        let mut tally = Tally::new("effects", &truth);
        tally.add(&scores(EFFECTS.map(|effect| 3.0 * effect)), 1.0, &truth, None);
        tally.add(&scores(EFFECTS.map(|effect| -effect)), 3.0, &truth, None);
        let row = tally.row(&truth, 0);
        assert_eq!((row.lds.unwrap().mean, row.lds_ensemble, row.seconds), (0.0, Some(1.0), 2.0));
        assert_eq!(tally.mean_scores().unwrap(), EFFECTS);
    }

    #[test]
    fn residuals_are_averaged_by_themselves() {
        let truth = truth();
        let mut tally = Tally::new("trak", &truth);
        for (scale, residuals) in [(1.0, [1.0, 0.5, 0.25, 0.0]), (3.0, [0.0, 0.5, 0.75, 0.0])] {
            let scores = EFFECTS.map(|effect| scale * effect).to_vec();
            let result = Attribution { scores, residuals: residuals.to_vec(), ..Attribution::default() };
            tally.add(&Ok(result), 1.0, &truth, None);
        }
        // Twice the effects, times 0.5, 0.5, 0.5 and 0.
        assert_eq!(tally.mean_scores().unwrap(), [8.0, -8.0, 4.0, -4.0, 2.0, -2.0, 0.0, 0.0]);
    }

    #[test]
    fn a_failed_method_says_why_and_has_no_scores() {
        let truth = truth();
        let mut nan = EFFECTS;
        nan[5] = f64::NAN;
        for (result, expected) in [
            (Err("no convergence".to_owned()), "no convergence"),
            (scores(nan), "the score of example 2 for query 1 is NaN"),
            (Ok(Attribution { scores: vec![0.0; 7], ..Attribution::default() }), "expected 8, got 7"),
        ] {
            let mut tally = Tally::new("broken", &truth);
            tally.add(&scores(EFFECTS), 1.0, &truth, None);
            tally.add(&result, 1.0, &truth, None);
            let why = tally.row(&truth, 0).lds.unwrap_err();
            assert!(why.contains(expected), "{why}");
            assert_eq!((tally.mean_scores(), tally.row(&truth, 0).lds_ensemble), (None, None));
        }
    }

    #[test]
    fn scores_that_do_not_differ_have_no_lds() {
        let truth = truth();
        let mut tally = Tally::new("constant", &truth);
        tally.add(&scores([1.0; 8]), 1.0, &truth, None);
        assert!(tally.row(&truth, 0).lds.unwrap_err().contains("same margin"));
    }

    /// Margins of `seeds` runs on 400 subsets: a signal of variance 1 and, a run, noise of variance `noise`.
    fn noisy(seeds: usize, noise: f64) -> (GroundTruth, Vec<f64>) {
        let mut draws = Stream::new(7, "noisy").draws();
        let signal: Vec<_> = (0..400).map(|_| draws.next_normal()).collect();
        let margins = signal.iter().flat_map(|s| vec![*s; seeds]).map(|s| s + noise.sqrt() * draws.next_normal());
        (GroundTruth { subsets: vec![vec![]; 400], margins: margins.collect(), seeds, queries: 1 }, signal)
    }

    #[test]
    fn the_ceiling_is_what_the_noiseless_signal_reaches() {
        for (seeds, noise) in [(2, 0.5), (5, 1.0), (20, 4.0)] {
            let (truth, signal) = noisy(seeds, noise);
            let reached = metric::spearman(&signal, &truth.measurement()).unwrap().value;
            let ceiling = noise_ceiling(&truth, false).unwrap();
            // The standard error of a correlation over 400 subsets is at most 1/sqrt(400) = 0.05; both err alike.
            assert!((ceiling - reached).abs() < 0.05, "{seeds} seeds: {ceiling} against {reached}");
            assert!(reached < 0.95, "the noise is felt: {reached}");
        }
    }

    #[test]
    fn the_ceiling_without_noise_or_without_telling() {
        assert_eq!(noise_ceiling(&noisy(3, 0.0).0, false), Some(1.0));
        assert_eq!(noise_ceiling(&noisy(1, 0.0).0, false), None);
        assert_eq!(noise_ceiling(&noisy(1, 0.0).0, true), Some(1.0));
        let (mut truth, _) = noisy(2, 0.0);
        truth.margins.iter_mut().skip(1).step_by(2).for_each(|margin| *margin = -*margin);
        assert_eq!(noise_ceiling(&truth, false), Some(0.0), "seeds that contradict each other");
    }
}
