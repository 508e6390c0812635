//! `attribution.svg`: the queries with what speaks for and against them, and the LDS of each method.

use std::fmt::Write;

use crate::curves;
use crate::evaluation::Row;
use crate::gallery;
use crate::page::{Anchor, BAR, INK, MARGIN, MUTED, OPPONENT, PAPER, PROPONENT, Page, RULE, WIDTH, bold, cut, regular};
use crate::report::{Report, best};

const BAR_PITCH: f64 = 27.0;
const BAR_HEIGHT: f64 = 15.0;
/// A name longer than this is cut, so that it stays beside its bar.
const NAME_CHARS: usize = 28;
/// As much as fits on a line at 14 px.
const LINE_CHARS: usize = 100;
/// No character of the fonts is wider on average at 13 px.
const CHAR_WIDTH: f64 = 7.4;

/// The whole picture.
pub(crate) fn draw(report: &Report<'_>) -> String {
    let mut page = Page::default();
    let mut y = 50.0;
    page.text((MARGIN, y), Anchor::Start, bold(22, INK), "Which training examples made the model decide?");
    y += 24.0;
    page.text((MARGIN, y), Anchor::Start, regular(14, MUTED), &cut(&report.setting(), LINE_CHARS));
    if let Some((method, figures)) = &report.figures {
        y = gallery::draw(&mut page, y + 40.0, method, figures, report);
    }
    y = draw_chart(&mut page, y + 46.0, report);
    if !report.curves.is_empty() {
        y = curves::draw(&mut page, y + 50.0, report);
    }
    let height = y + 30.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" height=\"{height:.0}\" \
         font-family=\"system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif\">\n\
         <title>Training examples that made the model decide, and how far each method is to be trusted</title>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"12\" fill=\"{PAPER}\"/>\n{}</svg>\n",
        page.body
    )
}

/// Where the parts of the bar chart stand.
struct Axis {
    left: f64,
    right: f64,
    low: f64,
    high: f64,
}

impl Axis {
    fn new(report: &Report<'_>, columns: f64) -> Self {
        let name = |row: &Row| row.name.chars().count().min(NAME_CHARS);
        let longest = report.rows.iter().map(name).max().unwrap_or(0);
        let estimates = || report.rows.iter().filter_map(|row| row.lds.as_ref().ok());
        let ensembles = report.rows.iter().filter_map(|row| row.lds_ensemble);
        let low = estimates().map(|lds| lds.low).chain(ensembles.clone()).fold(0.0, f64::min);
        let high = estimates().map(|lds| lds.high).chain(ensembles).chain(report.noise_ceiling).fold(0.2, f64::max);
        // The ticks are fifths, and the axis begins and ends at one.
        Self {
            left: MARGIN + longest as f64 * CHAR_WIDTH + 14.0,
            right: WIDTH - MARGIN - columns,
            low: (low * 5.0).floor() / 5.0,
            high: (high * 5.0).ceil() / 5.0,
        }
    }

    fn x(&self, lds: f64) -> f64 {
        self.left + (lds - self.low) / (self.high - self.low) * (self.right - self.left)
    }
}

/// A bar for each method; returns the lower edge.
fn draw_chart(page: &mut Page, top: f64, report: &Report<'_>) -> f64 {
    let options = report.options;
    let ensemble = options.models > 1;
    let (seconds_x, lds_x) = (WIDTH - MARGIN, WIDTH - MARGIN - 70.0 - if ensemble { 76.0 } else { 0.0 });
    let axis = Axis::new(report, WIDTH - MARGIN - lds_x + 144.0);

    page.text((MARGIN, top), Anchor::Start, bold(22, INK), "How far is each method to be trusted?");
    let what = "Linear datamodeling score (LDS): rank correlation with what retraining on half the data shows";
    page.text((MARGIN, top + 24.0), Anchor::Start, regular(14, MUTED), what);

    let head = top + 62.0;
    page.text((lds_x, head), Anchor::End, regular(12, MUTED), "LDS, 95 % interval");
    page.text((seconds_x, head), Anchor::End, regular(12, MUTED), "seconds");
    if ensemble {
        page.text((seconds_x - 70.0, head), Anchor::End, regular(12, MUTED), "ensemble");
    }

    let first = head + 10.0;
    let bottom = first + report.rows.len() as f64 * BAR_PITCH + 2.0;
    let ticks = ((axis.high - axis.low) * 5.0).round() as i32;
    for tick in 0..=ticks {
        let lds = axis.low + f64::from(tick) / 5.0;
        page.line((axis.x(lds), first), (axis.x(lds), bottom), RULE, "");
        let label = format!("{:.1}", lds + 0.0).replace('-', "\u{2212}");
        page.text((axis.x(lds), bottom + 16.0), Anchor::Middle, regular(12, MUTED), &label);
    }
    let best = best(&report.rows);
    for (i, row) in report.rows.iter().enumerate() {
        let middle = first + (i as f64 + 0.5) * BAR_PITCH + 1.0;
        draw_bar(page, &axis, middle, row, if best == Some(i) { PROPONENT } else { BAR });
        let baseline = middle + 4.5;
        page.text((seconds_x, baseline), Anchor::End, regular(13, MUTED), &format!("{:.2}", row.seconds));
        if let Some(lds) = row.lds_ensemble {
            page.text((seconds_x - 70.0, baseline), Anchor::End, regular(13, INK), &signed(lds));
        }
        match &row.lds {
            Ok(lds) => {
                page.text((lds_x - 96.0, baseline), Anchor::End, bold(13, INK), &signed(lds.mean));
                let interval = format!("{} to {}", signed(lds.low), signed(lds.high));
                page.text((lds_x, baseline), Anchor::End, regular(11, MUTED), &interval);
            }
            Err(_) => page.text((lds_x, baseline), Anchor::End, regular(13, OPPONENT), "failed"),
        }
    }
    page.line((axis.x(0.0), first), (axis.x(0.0), bottom), MUTED, "");
    if let Some(ceiling) = report.noise_ceiling {
        let x = axis.x(ceiling);
        page.line((x, first - 4.0), (x, bottom), OPPONENT, " stroke-width=\"1.5\" stroke-dasharray=\"5 4\"");
        page.text((x, first - 10.0), Anchor::End, regular(12, OPPONENT), &format!("noise ceiling {ceiling:.2}"));
    }
    let mut legend =
        format!("{} random halves x {} seeds, {} queries", options.subsets, options.seeds, report.queries.n);
    if ensemble {
        let _ = write!(legend, "; bar: one model, diamond: scores of {} models averaged", options.models);
    }
    page.text((MARGIN, bottom + 40.0), Anchor::Start, regular(12, MUTED), &legend);
    bottom + 40.0
}

/// A name, its bar from zero, the whisker of the interval, and a diamond for the ensemble.
fn draw_bar(page: &mut Page, axis: &Axis, middle: f64, row: &Row, fill: &str) {
    page.text((axis.left - 12.0, middle + 4.5), Anchor::End, regular(13, INK), &cut(row.name, NAME_CHARS));
    if let Ok(lds) = &row.lds {
        let (from, to) = (axis.x(lds.mean.min(0.0)), axis.x(lds.mean.max(0.0)));
        let _ = writeln!(
            page.body,
            "<rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{BAR_HEIGHT}\" rx=\"2\" fill=\"{fill}\"/>",
            middle - BAR_HEIGHT / 2.0,
            to - from
        );
        let (low, high) = (axis.x(lds.low), axis.x(lds.high));
        page.line((low, middle), (high, middle), INK, " stroke-width=\"1.4\"");
        for end in [low, high] {
            page.line((end, middle - 4.0), (end, middle + 4.0), INK, " stroke-width=\"1.4\"");
        }
    }
    if let Some(lds) = row.lds_ensemble {
        let x = axis.x(lds);
        let _ = writeln!(
            page.body,
            "<path d=\"M{x:.1} {:.1}l5.5 5.5l-5.5 5.5l-5.5 -5.5z\" fill=\"{PAPER}\" stroke=\"{INK}\" stroke-width=\"1.4\"/>",
            middle - 5.5
        );
    }
}

/// Two decimals and a proper minus.
fn signed(x: f64) -> String {
    format!("{x:.2}").replace('-', "\u{2212}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curves::Curve;
    use crate::report::tests::{row, with_report};

    /// Every element is closed, and every number in an attribute is finite.
    fn check_svg(svg: &str) {
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        for name in ["svg", "g", "text", "title"] {
            assert_eq!(svg.matches(&format!("<{name}")).count(), svg.matches(&format!("</{name}>")).count(), "{name}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf\""), "{svg}");
        assert_eq!(svg.matches('<').count(), svg.matches('>').count());
    }

    #[test]
    fn every_method_has_its_bar_and_numbers() {
        let rows =
            vec![row("dot", Ok(0.2), Some(0.25)), row("cg", Ok(-0.1), Some(-0.2)), row("lissa", Err("no"), None)];
        with_report("--models 2", rows, |report| {
            let svg = draw(report);
            check_svg(&svg);
            for text in [">dot<", ">cg<", ">lissa<", ">0.20<", ">\u{2212}0.10<", ">failed<", ">noise ceiling 0.91<"] {
                assert!(svg.contains(text), "{text}");
            }
            assert_eq!(svg.matches("l5.5 5.5").count(), 2, "a diamond for each ensemble");
            assert_eq!(svg.matches("<g ").count(), 3, "a query, a proponent and an opponent");
            let legend =
                "100 random halves x 5 seeds, 100 queries; bar: one model, diamond: scores of 2 models averaged";
            assert!(svg.contains(legend));
        });
    }

    #[test]
    fn curves_have_their_points_and_names() {
        with_report("", vec![row("dot", Ok(0.2), None)], |report| {
            let point = |length, lds| (length, row("sjlt", lds, None));
            let points = vec![point(256, Ok(0.4)), point(64, Ok(0.3)), point(1024, Err("no"))];
            let curves =
                vec![Curve { name: "sjlt", points }, Curve { name: "trak", points: vec![point(64, Err("no"))] }];
            let svg = draw(&Report { curves, ..report.clone() });
            check_svg(&svg);
            assert_eq!((svg.matches("<circle ").count(), svg.matches(">sjlt<").count()), (2, 1));
            assert!(svg.contains(">256<") && !svg.contains(">1024<") && !svg.contains(">trak<"));
        });
    }

    #[test]
    fn long_and_odd_names_stay_in_their_place() {
        let name = "a-name-of-more-than-twenty-eight-characters";
        with_report("--data <&>.safetensors", vec![row(name, Ok(0.0), None)], |report| {
            let svg = draw(report);
            check_svg(&svg);
            assert!(svg.contains(">a-name-of-more-than-twenty-\u{2026}<") && svg.contains("&lt;&amp;&gt;.safetensors"));
        });
    }
}
