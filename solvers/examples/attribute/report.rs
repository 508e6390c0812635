//! The result of a run: as a table for the terminal, and as JSON.

use serde_json::{Value, json};

use crate::data::Dataset;
use crate::evaluation::{Estimate, Row};
use crate::figure::{Figure, Neighbour};
use crate::options::{ModelKind, Options};

/// Everything that a run found out.
#[derive(Debug)]
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
        let data = self.options.data.as_deref().map_or("UCI digits".into(), |path| path.to_string_lossy());
        let (p, classes) = (self.train.p, self.train.classes);
        let model = match self.options.model {
            ModelKind::Logistic => format!("logistic regression {p}-{classes}"),
            ModelKind::Mlp => {
                let hidden: String = self.options.hidden.iter().map(|width| format!("{width}-")).collect();
                format!("MLP {p}-{hidden}{classes}")
            }
        };
        let models = if self.options.models > 1 { format!("{} x ", self.options.models) } else { String::new() };
        format!("{data}, {models}{model}, {} training images", self.train.n)
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
            ("seconds", |row| format!("{:.2}", row.seconds)),
        ];
        columns.retain(|&(heading, _)| heading != "ensemble" || self.options.models > 1);
        let heading: Vec<_> = columns.iter().map(|&(heading, _)| heading.to_owned()).collect();
        let entries = self.rows.iter().map(|row| columns.iter().map(|(_, entry)| entry(row)).collect());
        let lines: Vec<Vec<String>> = [heading].into_iter().chain(entries).collect();

        let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
        let widths: Vec<_> = (0..columns.len()).map(width).collect();
        let mut text = String::new();
        for line in &lines {
            text += &format!("{:<width$}", line[0], width = widths[0]);
            for (entry, width) in line.iter().zip(&widths).skip(1) {
                text += &format!("  {entry:>width$}");
            }
            text.push('\n');
        }
        for row in &self.rows {
            if let Err(why) = &row.lds {
                text += &format!("{}: {why}\n", row.name);
            }
        }
        text + &format!(
            "{}; LDS over {} subsets x {} seeds, {} queries\n",
            self.ceiling(),
            self.options.subsets,
            self.options.seeds,
            self.queries.n
        )
    }

    /// Every number of the table and of the pictures, and the settings that they come from.
    ///
    /// A query's `index` counts from the first query, a proponent's and an opponent's from the first training image.
    pub(crate) fn json(&self) -> Value {
        let mut settings = self.options.training();
        settings.insert("data".into(), json!(self.options.data.as_deref().map(|path| path.to_string_lossy())));
        settings.insert("damping".into(), json!(self.options.damping));
        settings.insert("threads".into(), json!(self.options.threads));
        json!({
            "methods": self.rows.iter().map(row_json).collect::<Vec<_>>(),
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
        "seconds": row.seconds,
        "failure": row.lds.as_ref().err(),
    })
}

fn neighbours_json(neighbours: &[Neighbour]) -> Value {
    let one = |n: &Neighbour| json!({ "index": n.index, "label": n.label, "score": n.score });
    neighbours.iter().map(one).collect()
}
