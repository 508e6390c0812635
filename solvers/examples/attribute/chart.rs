//! `attribution.svg`: the queries with what speaks for and against them, and the LDS of each method.

use std::fmt::Write;

use crate::data::Dataset;
use crate::evaluation::Row;
use crate::figure::{Figure, Neighbour};
use crate::picture;
use crate::report::{Report, best};

const WIDTH: f64 = 880.0;
const MARGIN: f64 = 36.0;
const INK: &str = "#1f2328";
const MUTED: &str = "#656d76";
const RULE: &str = "#dfe2e6";
const PROPONENT: &str = "#2866b1";
const OPPONENT: &str = "#c4561c";
const BAR: &str = "#a9b4c2";

const QUERY: f64 = 76.0;
const TILE: f64 = 56.0;
const TILE_PITCH: f64 = 67.0;
const FIGURE_PITCH: f64 = 104.0;
const PROPONENTS_X: f64 = MARGIN + QUERY + 44.0;
const OPPONENTS_X: f64 = WIDTH - MARGIN - 4.0 * TILE_PITCH - TILE;

const BAR_PITCH: f64 = 27.0;
const BAR_HEIGHT: f64 = 15.0;
/// A name longer than this is cut, so that it stays beside its bar.
const NAME_CHARS: usize = 28;
/// As much as fits on a line at 14 px.
const LINE_CHARS: usize = 100;
/// No character of the fonts is wider on average at 13 px.
const CHAR_WIDTH: f64 = 7.4;

#[derive(Clone, Copy)]
enum Anchor {
    Start,
    Middle,
    End,
}

/// An SVG page that grows downwards.
struct Page {
    body: String,
}

impl Page {
    fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, size: u32, fill: &str, text: &str) {
        self.styled(x, y, anchor, size, fill, "", text);
    }

    fn bold(&mut self, (x, y): (f64, f64), anchor: Anchor, size: u32, fill: &str, text: &str) {
        self.styled(x, y, anchor, size, fill, " font-weight=\"600\"", text);
    }

    #[allow(clippy::too_many_arguments)]
    fn styled(&mut self, x: f64, y: f64, anchor: Anchor, size: u32, fill: &str, style: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let _ = writeln!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" fill=\"{fill}\"{style}>{text}</text>"
        );
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: &str, style: &str) {
        let _ = writeln!(
            self.body,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{stroke}\"{style}/>",
            from.0, from.1, to.0, to.1
        );
    }

    /// An image in a frame, `size` wide with the frame.
    fn tile(&mut self, (x, y): (f64, f64), size: f64, frame: &str, pixels: &[f32]) {
        let _ = writeln!(
            self.body,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"5\" fill=\"#ffffff\" stroke=\"{frame}\" stroke-width=\"2\"/>",
            x + 1.0,
            y + 1.0,
            size - 2.0,
            size - 2.0
        );
        picture::draw(&mut self.body, pixels, (x + 5.0, y + 5.0), size - 10.0);
    }
}

/// The whole picture.
pub(crate) fn draw(report: &Report<'_>) -> String {
    let mut page = Page { body: String::new() };
    let mut y = 50.0;
    page.bold((MARGIN, y), Anchor::Start, 22, INK, "Which training examples made the model decide?");
    y += 24.0;
    page.text((MARGIN, y), Anchor::Start, 14, MUTED, &cut(&report.setting(), LINE_CHARS));
    if let Some((method, figures)) = &report.figures {
        y = draw_figures(&mut page, y + 40.0, method, figures, report);
    }
    y = draw_chart(&mut page, y + 46.0, report);
    let height = y + 30.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" height=\"{height:.0}\" \
         font-family=\"system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif\">\n\
         <title>Training examples that made the model decide, and how far each method is to be trusted</title>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"12\" fill=\"#fbfbf9\"/>\n{}</svg>\n",
        page.body
    )
}

/// The queries, one a row; returns where the next part may start.
fn draw_figures(page: &mut Page, top: f64, method: &str, figures: &[Figure], report: &Report<'_>) -> f64 {
    let unit = Unit::of(figures);
    page.bold((MARGIN + QUERY / 2.0, top), Anchor::Middle, 13, INK, "query");
    page.bold((PROPONENTS_X, top), Anchor::Start, 13, PROPONENT, "strongest proponents");
    page.text((PROPONENTS_X, top + 17.0), Anchor::Start, 12, MUTED, "training on them raises the query's margin");
    page.bold((OPPONENTS_X, top), Anchor::Start, 13, OPPONENT, "strongest opponents");
    page.text((OPPONENTS_X, top + 17.0), Anchor::Start, 12, MUTED, "training on them lowers it");

    let mut y = top + 34.0;
    for figure in figures {
        page.tile((MARGIN, y), QUERY, INK, report.queries.image(figure.query));
        page.bold((MARGIN + QUERY / 2.0, y + QUERY + 15.0), Anchor::Middle, 12, INK, &figure.label.to_string());
        let sides = [(PROPONENTS_X, PROPONENT, &figure.proponents), (OPPONENTS_X, OPPONENT, &figure.opponents)];
        for (left, frame, neighbours) in sides {
            for (place, neighbour) in neighbours.iter().enumerate() {
                draw_neighbour(
                    page,
                    (left + place as f64 * TILE_PITCH, y + 10.0),
                    frame,
                    neighbour,
                    &unit,
                    report.train,
                );
            }
        }
        y += FIGURE_PITCH;
    }
    let caption = format!("label and influence{} on the query's margin, by {method}", unit.caption());
    page.text((PROPONENTS_X, y + 8.0), Anchor::Start, 12, MUTED, &caption);
    y + 8.0
}

fn draw_neighbour(page: &mut Page, (x, y): (f64, f64), frame: &str, n: &Neighbour, unit: &Unit, train: &Dataset) {
    page.tile((x, y), TILE, frame, train.image(n.index));
    let baseline = y + TILE + 14.0;
    page.bold((x + 2.0, baseline), Anchor::Start, 12, INK, &n.label.to_string());
    page.text((x + TILE - 1.0, baseline), Anchor::End, 11, MUTED, &unit.show(n.score));
}

/// A power of ten taken out of all scores, so that each is short.
struct Unit {
    exponent: i32,
}

impl Unit {
    fn of(figures: &[Figure]) -> Self {
        let neighbours = figures.iter().flat_map(|figure| figure.proponents.iter().chain(&figure.opponents));
        let largest = neighbours.map(|neighbour| neighbour.score.abs()).fold(0.0, f64::max);
        let exponent = if largest > 0.0 { largest.log10().floor() as i32 } else { 0 };
        // The largest score gets one digit before the point; without need there is no power at all.
        Self { exponent: if (-1..=1).contains(&exponent) { 0 } else { exponent } }
    }

    fn show(&self, score: f64) -> String {
        let value = score / 10_f64.powi(self.exponent);
        let text = if value.abs() < 9.995 { format!("{value:+.2}") } else { format!("{value:+.1}") };
        text.replace('-', "\u{2212}")
    }

    fn caption(&self) -> String {
        if self.exponent == 0 {
            return String::new();
        }
        let superscript = |digit| match digit {
            '-' => '\u{207b}',
            '1' => '\u{b9}',
            '2' => '\u{b2}',
            '3' => '\u{b3}',
            digit => char::from_u32(0x2070 + digit as u32 - '0' as u32).unwrap_or(digit),
        };
        let power: String = self.exponent.to_string().chars().map(superscript).collect();
        format!(" in units of 10{power}")
    }
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
        // Ticks are tenths or fifths; an axis ends at a fifth.
        let fifth = |x: f64| x * 5.0;
        Self {
            left: MARGIN + longest as f64 * CHAR_WIDTH + 14.0,
            right: WIDTH - MARGIN - columns,
            low: fifth(low).floor() / 5.0,
            high: fifth(high).ceil() / 5.0,
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

    page.bold((MARGIN, top), Anchor::Start, 22, INK, "How far is each method to be trusted?");
    let what = "Linear datamodeling score (LDS): rank correlation with what retraining on half the data shows";
    page.text((MARGIN, top + 24.0), Anchor::Start, 14, MUTED, what);

    let head = top + 62.0;
    page.text((lds_x, head), Anchor::End, 12, MUTED, "LDS, 95 % interval");
    page.text((seconds_x, head), Anchor::End, 12, MUTED, "seconds");
    if ensemble {
        page.text((seconds_x - 70.0, head), Anchor::End, 12, MUTED, "ensemble");
    }

    let first = head + 10.0;
    let bottom = first + report.rows.len() as f64 * BAR_PITCH + 2.0;
    let ticks = ((axis.high - axis.low) * 5.0).round() as i32;
    for tick in 0..=ticks {
        let lds = axis.low + f64::from(tick) / 5.0;
        page.line((axis.x(lds), first), (axis.x(lds), bottom), RULE, "");
        let label = format!("{:.1}", lds + 0.0).replace('-', "\u{2212}");
        page.text((axis.x(lds), bottom + 16.0), Anchor::Middle, 12, MUTED, &label);
    }
    let best = best(&report.rows);
    for (i, row) in report.rows.iter().enumerate() {
        let middle = first + (i as f64 + 0.5) * BAR_PITCH + 1.0;
        draw_bar(page, &axis, middle, row, if best == Some(i) { PROPONENT } else { BAR });
        let baseline = middle + 4.5;
        page.text((seconds_x, baseline), Anchor::End, 13, MUTED, &format!("{:.2}", row.seconds));
        if let Some(lds) = row.lds_ensemble {
            page.text((seconds_x - 70.0, baseline), Anchor::End, 13, INK, &signed(lds));
        }
        match &row.lds {
            Ok(lds) => {
                page.bold((lds_x - 96.0, baseline), Anchor::End, 13, INK, &signed(lds.mean));
                let interval = format!("{} to {}", signed(lds.low), signed(lds.high));
                page.text((lds_x, baseline), Anchor::End, 11, MUTED, &interval);
            }
            Err(_) => page.text((lds_x, baseline), Anchor::End, 13, OPPONENT, "failed"),
        }
    }
    page.line((axis.x(0.0), first), (axis.x(0.0), bottom), MUTED, "");
    if let Some(ceiling) = report.noise_ceiling {
        let x = axis.x(ceiling);
        page.line((x, first - 4.0), (x, bottom), OPPONENT, " stroke-width=\"1.5\" stroke-dasharray=\"5 4\"");
        page.text((x, first - 10.0), Anchor::End, 12, OPPONENT, &format!("noise ceiling {ceiling:.2}"));
    }
    let mut legend =
        format!("{} random halves x {} seeds, {} queries", options.subsets, options.seeds, report.queries.n);
    if ensemble {
        let _ = write!(legend, "; bar: one model, diamond: scores of {} models averaged", options.models);
    }
    page.text((MARGIN, bottom + 40.0), Anchor::Start, 12, MUTED, &legend);
    bottom + 40.0
}

/// A name, its bar from zero, the whisker of the interval, and a diamond for the ensemble.
fn draw_bar(page: &mut Page, axis: &Axis, middle: f64, row: &Row, fill: &str) {
    page.text((axis.left - 12.0, middle + 4.5), Anchor::End, 13, INK, &cut(row.name, NAME_CHARS));
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
            "<path d=\"M{x:.1} {:.1}l5.5 5.5l-5.5 5.5l-5.5 -5.5z\" fill=\"#fbfbf9\" stroke=\"{INK}\" stroke-width=\"1.4\"/>",
            middle - 5.5
        );
    }
}

/// At most `chars` characters, the last of them a mark where more were.
fn cut(text: &str, chars: usize) -> String {
    if text.chars().count() <= chars {
        return text.to_owned();
    }
    text.chars().take(chars - 1).chain(['\u{2026}']).collect()
}

/// Two decimals and a proper minus.
fn signed(x: f64) -> String {
    format!("{x:.2}").replace('-', "\u{2212}")
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn long_and_odd_names_stay_in_their_place() {
        let name = "a-name-of-more-than-twenty-eight-characters";
        with_report("--data <&>.safetensors", vec![row(name, Ok(0.0), None)], |report| {
            let svg = draw(report);
            check_svg(&svg);
            assert!(svg.contains(">a-name-of-more-than-twenty-\u{2026}<") && svg.contains("&lt;&amp;&gt;.safetensors"));
        });
    }

    #[test]
    fn scores_share_a_power_of_ten() {
        let neighbour = |score| Neighbour { index: 0, label: 0, score };
        let unit = |scores: [f64; 2]| {
            let [proponent, opponent] = scores.map(|score| vec![neighbour(score)]);
            Unit::of(&[Figure { query: 0, label: 0, proponents: proponent, opponents: opponent }])
        };
        let small = unit([0.000_123, -0.004_56]);
        assert_eq!((small.show(0.000_123), small.show(-0.004_56)), ("+0.12".into(), "\u{2212}4.56".into()));
        assert_eq!(small.caption(), " in units of 10\u{207b}\u{b3}");
        let plain = unit([12.34, -0.5]);
        assert_eq!((plain.show(12.34), plain.show(-0.5)), ("+12.3".into(), "\u{2212}0.50".into()));
        assert_eq!(plain.caption(), "");
        assert_eq!(unit([0.0, 0.0]).show(0.0), "+0.00");
        assert_eq!(unit([4e15, 0.0]).caption(), " in units of 10\u{b9}\u{2075}");
    }
}
