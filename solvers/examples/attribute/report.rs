//! The result of a run: as a table for the terminal, and as JSON.

use std::ffi::OsStr;
use std::fmt::Write;
use std::path::Path;

use serde_json::{Value, json};

use crate::curves::Curve;
use crate::data::Dataset;
use crate::evaluation::{Estimate, Row};
use crate::figure::{Figure, Neighbour};
use crate::options::{ModelKind, Options};

/// Everything that a run found out.
#[derive(Debug, Clone)]
pub(crate) struct Report<'a> {
    pub(crate) options: &'a Options,
    pub(crate) train: &'a Dataset,
    pub(crate) queries: &'a Dataset,
    /// The share of images that the models classify rightly, averaged over the models.
    pub(crate) train_accuracy: f64,
    pub(crate) query_accuracy: f64,
    /// The largest LDS that the noise of retraining permits; `None` when one seed cannot tell.
    pub(crate) noise_ceiling: Option<f64>,
    pub(crate) rows: Vec<Row>,
    /// Of the methods that sketch, the LDS at other lengths.
    pub(crate) curves: Vec<Curve>,
    /// The method of the figures, when any method worked: the one with the highest LDS.
    pub(crate) figures: Option<(&'static str, Vec<Figure>)>,
    pub(crate) seconds: f64,
}

/// The row with the highest LDS, the ensemble's where there is one; the first of equals.
pub(crate) fn best(rows: &[Row]) -> Option<usize> {
    let lds = |row: &Row| row.lds_ensemble.or(row.lds.as_ref().ok().map(|lds| lds.mean));
    let rows = rows.iter().enumerate().filter_map(|(i, row)| Some((i, lds(row)?)));
    rows.rev().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(i, _)| i)
}

/// A column of the table: its heading, and its entry in a row.
type Column = (&'static str, fn(&Row) -> String);

impl Report<'_> {
    /// What was trained on what, in a line.
    pub(crate) fn setting(&self) -> String {
        let file = self.options.data.as_deref().and_then(Path::file_name);
        let data = file.map_or("UCI digits".into(), OsStr::to_string_lossy);
        let (p, classes) = (self.train.p, self.train.classes);
        let model = match self.options.model {
            ModelKind::Logistic => format!("logistic regression {p}-{classes}"),
            ModelKind::Mlp => {
                let hidden = self.options.hidden.iter().copied();
                let widths: Vec<_> = [p].into_iter().chain(hidden).chain([classes]).map(|w| w.to_string()).collect();
                format!("MLP {}", widths.join("-"))
            }
        };
        let models = if self.options.models > 1 { format!("{} x ", self.options.models) } else { String::new() };
        let right = 100.0 * self.query_accuracy;
        format!("{data}, {models}{model}, {} training images, {right:.1} % of the queries right", self.train.n)
    }

    /// What the noise ceiling stands on, in a line.
    pub(crate) fn ceiling(&self) -> String {
        match self.noise_ceiling {
            Some(ceiling) => format!("noise ceiling {ceiling:.3}"),
            None => "noise ceiling unknown (one seed)".into(),
        }
    }

    /// The table, aligned, with a line for each method and one for the noise ceiling.
    pub(crate) fn table(&self) -> String {
        let mut columns: Vec<Column> = vec![
            ("method", |row| row.name.into()),
            ("LDS", |row| lds(row, |lds| format!("{:.3}", lds.mean))),
            ("95 % interval", |row| lds(row, |lds| format!("{:.3} to {:.3}", lds.low, lds.high))),
            ("ensemble", |row| row.lds_ensemble.map_or("-".into(), |lds| format!("{lds:.3}"))),
            ("off explicit", |row| row.error.map_or("-".into(), |error| format!("{error:.1e}"))),
            ("seconds", |row| format!("{:.2}", row.seconds)),
        ];
        columns.retain(|&(heading, _)| heading != "ensemble" || self.options.models > 1);
        let explicit = self.rows.iter().any(|row| row.error.is_some());
        columns.retain(|&(heading, _)| heading != "off explicit" || explicit);
        let heading: Vec<_> = columns.iter().map(|&(heading, _)| heading.to_owned()).collect();
        let entries = self.rows.iter().map(|row| columns.iter().map(|(_, entry)| entry(row)).collect());
        let lines: Vec<Vec<String>> = [heading].into_iter().chain(entries).collect();

        let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
        let widths: Vec<_> = (0..columns.len()).map(width).collect();
        let mut text = String::new();
        for line in &lines {
            let _ = write!(text, "{:<1$}", line[0], widths[0]);
            for (entry, width) in line.iter().zip(&widths).skip(1) {
                let _ = write!(text, "  {entry:>width$}");
            }
            text.push('\n');
        }
        for row in &self.rows {
            if let Err(why) = &row.lds {
                let _ = writeln!(text, "{}: {why}", row.name);
            }
        }
        let (subsets, seeds) = (self.options.subsets, self.options.seeds);
        let _ = write!(text, "{}; LDS over {subsets} subsets x {seeds} seeds", self.ceiling());
        text
    }

    /// Every number of the table and of the pictures, and the settings that they come from.
    ///
    /// A query's `index` counts from the first query, a proponent's and an opponent's from the first training image.
    pub(crate) fn json(&self) -> Value {
        let mut settings = self.options.training();
        settings.insert("data".into(), json!(self.options.data.as_deref().map(|path| path.to_string_lossy())));
        settings.insert("damping".into(), json!(self.options.damping));
        settings.insert("sketch".into(), json!(self.options.sketch));
        settings.insert("device".into(), json!(self.options.device_name()));
        settings.insert("threads".into(), json!(self.options.threads));
        json!({
            "methods": self.rows.iter().map(row_json).collect::<Vec<_>>(),
            "lengths": self.curves.iter().map(curve_json).collect::<Vec<_>>(),
            "noise_ceiling": self.noise_ceiling,
            "subsets": self.options.subsets,
            "seeds": self.options.seeds,
            "models": self.options.models,
            "accuracy": { "train": self.train_accuracy, "queries": self.query_accuracy },
            "seconds": self.seconds,
            "settings": settings,
            "figures": self.figures.as_ref().map(|(method, figures)| json!({
                "method": method,
                "queries": figures.iter().map(|figure| json!({
                    "index": figure.query,
                    "label": figure.label,
                    "proponents": neighbours_json(&figure.proponents),
                    "opponents": neighbours_json(&figure.opponents),
                })).collect::<Vec<_>>(),
            })),
        })
    }
}

fn lds(row: &Row, show: impl Fn(&Estimate) -> String) -> String {
    row.lds.as_ref().map_or_else(|_| "failed".into(), show)
}

fn row_json(row: &Row) -> Value {
    let lds = row.lds.as_ref().ok();
    json!({
        "name": row.name,
        "lds": lds.map(|lds| lds.mean),
        "lds_low": lds.map(|lds| lds.low),
        "lds_high": lds.map(|lds| lds.high),
        "lds_ensemble": row.lds_ensemble,
        "off_explicit": row.error,
        "seconds": row.seconds,
        "failure": row.lds.as_ref().err(),
    })
}

fn curve_json(curve: &Curve) -> Value {
    let point = |(length, row): &(usize, Row)| json!({ "length": length, "result": row_json(row) });
    json!({ "name": curve.name, "points": curve.points.iter().map(point).collect::<Vec<_>>() })
}

fn neighbours_json(neighbours: &[Neighbour]) -> Value {
    let one = |n: &Neighbour| json!({ "index": n.index, "label": n.label, "score": n.score });
    neighbours.iter().map(one).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::options::Parsed;

    pub(crate) fn row(name: &'static str, lds: Result<f64, &str>, lds_ensemble: Option<f64>) -> Row {
        let estimate = |mean| Estimate { mean, low: mean - 0.03, high: mean + 0.04 };
        Row { name, lds: lds.map(estimate).map_err(str::to_owned), lds_ensemble, error: None, seconds: 1.25 }
    }

    pub(crate) fn with_report(line: &str, rows: Vec<Row>, check: impl Fn(&Report<'_>)) {
        let Ok(Parsed::Run(options)) = Options::parse(line.split_whitespace().map(Into::into), &[]) else {
            panic!("{line}");
        };
        let (train, queries) = Dataset::load(None).unwrap().split(options.train, options.queries).unwrap();
        let figure = Figure {
            query: 4,
            label: 5,
            proponents: vec![Neighbour { index: 3, label: 5, score: 2.0 }],
            opponents: vec![Neighbour { index: 8, label: 1, score: -1.0 }],
        };
        check(&Report {
            options: &options,
            train: &train,
            queries: &queries,
            train_accuracy: 1.0,
            query_accuracy: 0.945,
            noise_ceiling: Some(0.907),
            rows,
            curves: Vec::new(),
            figures: Some(("cg", vec![figure])),
            seconds: 42.0,
        });
    }

    #[test]
    fn the_table_is_aligned() {
        let rows =
            vec![row("gradient-dot", Ok(0.2), None), row("cg", Ok(-0.1), None), row("lissa", Err("diverged"), None)];
        with_report("", rows, |report| {
            let expected = "\
method           LDS     95 % interval  seconds
gradient-dot   0.200    0.170 to 0.240     1.25
cg            -0.100  -0.130 to -0.060     1.25
lissa         failed            failed     1.25
lissa: diverged
noise ceiling 0.907; LDS over 100 subsets x 5 seeds";
            assert_eq!(report.table(), expected);
        });
        let solved = Row { error: Some(1.5e-4), ..row("cg", Ok(0.1), None) };
        with_report("", vec![row("gradient-dot", Ok(0.2), None), solved], |report| {
            let expected = "\
method          LDS   95 % interval  off explicit  seconds
gradient-dot  0.200  0.170 to 0.240             -     1.25
cg            0.100  0.070 to 0.140        1.5e-4     1.25
noise";
            assert!(report.table().starts_with(expected), "{}", report.table());
        });
        with_report("--models 2", vec![row("cg", Ok(0.1), Some(0.3))], |report| {
            assert!(
                report.table().starts_with("method    LDS   95 % interval  ensemble  seconds\n"),
                "{}",
                report.table()
            );
            assert!(report.setting().starts_with("UCI digits, 2 x MLP 64-128-64-10, 1000 training images, 94.5 %"));
        });
    }

    #[test]
    fn json_has_every_number_and_null_for_none() {
        let rows = vec![row("cg", Ok(0.5), Some(0.6)), row("lissa", Err("diverged"), None)];
        with_report("--models 2 --lr 0.25", rows, |report| {
            let json = report.json();
            let cg = json!({ "name": "cg", "lds": 0.5, "lds_low": 0.47, "lds_high": 0.54, "lds_ensemble": 0.6,
                             "off_explicit": null, "seconds": 1.25, "failure": null });
            assert_eq!(json["methods"][0], cg);
            assert_eq!(
                (&json["methods"][1]["lds"], &json["methods"][1]["failure"]),
                (&json!(null), &json!("diverged"))
            );
            assert_eq!((&json["noise_ceiling"], &json["seconds"]), (&json!(0.907), &json!(42.0)));
            assert_eq!((&json["settings"]["lr"], &json["settings"]["data"]), (&json!(0.25), &json!(null)));
            let proponent = json!({ "index": 3, "label": 5, "score": 2.0 });
            assert_eq!(json["figures"]["queries"][0]["proponents"], json!([proponent]));
        });
    }

    #[test]
    fn the_best_is_the_first_of_the_highest() {
        let rows =
            [row("a", Err("no"), None), row("b", Ok(0.5), None), row("c", Ok(0.5), None), row("d", Ok(0.2), None)];
        assert_eq!((best(&rows), best(&rows[..1]), best(&[])), (Some(1), None, None));
        assert_eq!(best(&[row("a", Ok(0.5), Some(0.5)), row("b", Ok(0.4), Some(0.6))]), Some(1), "the ensemble counts");
    }
}
