//! The last part of the picture: what a sketch of a gradient is worth, against its length.

use std::fmt::Write;

use crate::evaluation::Row;
use crate::page::{Anchor, INK, MARGIN, MUTED, Page, RULE, WIDTH, bold, regular};
use crate::report::Report;

const HEIGHT: f64 = 300.0;
/// Where the names of the curves stand.
const NAMES: f64 = 130.0;
/// Names closer than this would overlap.
const NAME_PITCH: f64 = 16.0;
const COLOURS: [&str; 8] = ["#2866b1", "#c4561c", "#3a7d44", "#7b4ea3", "#a8822a", "#2f8f9d", "#b03a6b", "#656d76"];

/// The LDS of a method at each length.
#[derive(Debug, Clone)]
pub(crate) struct Curve {
    pub(crate) name: &'static str,
    /// In the order in which the lengths were given.
    pub(crate) points: Vec<(usize, Row)>,
}

impl Curve {
    /// Length and LDS where the method worked: that of the averaged scores where there are several models.
    fn measured(&self) -> Vec<(usize, f64)> {
        let lds = |row: &Row| row.lds_ensemble.or(row.lds.as_ref().ok().map(|lds| lds.mean));
        let mut points: Vec<_> = self.points.iter().filter_map(|(length, row)| Some((*length, lds(row)?))).collect();
        points.sort_by_key(|(length, _)| *length);
        points
    }
}

/// Draws the curves; returns the lower edge.
pub(crate) fn draw(page: &mut Page, top: f64, report: &Report<'_>) -> f64 {
    let curves: Vec<_> = report.curves.iter().map(|curve| (curve.name, curve.measured())).collect();
    let all = || curves.iter().flat_map(|(_, points)| points.iter().copied());
    let (Some(shortest), Some(longest)) = (all().map(|p| p.0).min(), all().map(|p| p.0).max()) else { return top };
    page.text((MARGIN, top), Anchor::Start, bold(22, INK), "How short may a gradient be?");
    let averaged = if report.options.models > 1 { ", scores of all models averaged" } else { "" };
    let what = format!("LDS of influence on sketches of the gradients, against the numbers kept{averaged}");
    page.text((MARGIN, top + 24.0), Anchor::Start, regular(14, MUTED), &what);

    let (left, right) = (MARGIN + 30.0, WIDTH - MARGIN - NAMES);
    let (first, last) = (top + 50.0, top + 50.0 + HEIGHT);
    // The ticks are tenths, and the axis begins and ends at one.
    let low = (all().map(|p| p.1).fold(0.0, f64::min) * 10.0).floor();
    let high = (all().map(|p| p.1).fold(0.1, f64::max) * 10.0).ceil();
    let span = (longest as f64 / shortest as f64).ln().max(f64::MIN_POSITIVE);
    let x = |length: usize| left + (length as f64 / shortest as f64).ln() / span * (right - left);
    let y = |lds: f64| last - (lds * 10.0 - low) / (high - low) * (last - first);
    for tick in 0..=(high - low) as usize {
        let lds = (low + tick as f64) / 10.0;
        page.line((left, y(lds)), (right, y(lds)), RULE, "");
        let label = format!("{lds:.1}").replace('-', "\u{2212}");
        page.text((left - 8.0, y(lds) + 4.0), Anchor::End, regular(12, MUTED), &label);
    }
    let mut lengths: Vec<_> = all().map(|p| p.0).collect();
    lengths.sort_unstable();
    lengths.dedup();
    for length in lengths {
        page.text((x(length), last + 18.0), Anchor::Middle, regular(12, MUTED), &length.to_string());
    }
    let mut ends = Vec::new();
    for ((name, points), colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        let Some(&end) = points.last() else { continue };
        let path: Vec<_> = points.iter().map(|&(k, lds)| format!("{:.1} {:.1}", x(k), y(lds))).collect();
        let _ = writeln!(
            page.body,
            "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join("L")
        );
        for &(k, lds) in points {
            let (x, y) = (x(k), y(lds));
            let _ = writeln!(page.body, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
        }
        ends.push((y(end.1), *name, *colour));
    }
    // Names from top to bottom beside the ends of their curves, pushed down where they would overlap.
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut next = f64::MIN;
    for (y, name, colour) in ends {
        next = y.max(next + NAME_PITCH);
        page.text((right + 10.0, next + 4.0), Anchor::Start, regular(13, colour), name);
    }
    last.max(next) + 24.0
}
