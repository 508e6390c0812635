//! The upper part of the picture: queries, with what speaks for and against each.

use crate::data::Dataset;
use crate::figure::{Figure, Neighbour};
use crate::page::{Anchor, INK, MARGIN, MUTED, OPPONENT, PROPONENT, Page, WIDTH, bold, regular};
use crate::report::Report;

const QUERY: f64 = 76.0;
const TILE: f64 = 56.0;
const TILE_PITCH: f64 = 67.0;
const FIGURE_PITCH: f64 = 104.0;
const PROPONENTS_X: f64 = MARGIN + QUERY + 44.0;
const OPPONENTS_X: f64 = WIDTH - MARGIN - 4.0 * TILE_PITCH - TILE;

/// Draws the queries, one a row; returns the lower edge.
pub(crate) fn draw(page: &mut Page, top: f64, method: &str, figures: &[Figure], report: &Report<'_>) -> f64 {
    let unit = Unit::of(figures);
    page.text((MARGIN + QUERY / 2.0, top), Anchor::Middle, bold(13, INK), "query");
    page.text((PROPONENTS_X, top), Anchor::Start, bold(13, PROPONENT), "strongest proponents");
    page.text(
        (PROPONENTS_X, top + 17.0),
        Anchor::Start,
        regular(12, MUTED),
        "training on them raises the query's margin",
    );
    page.text((OPPONENTS_X, top), Anchor::Start, bold(13, OPPONENT), "strongest opponents");
    page.text((OPPONENTS_X, top + 17.0), Anchor::Start, regular(12, MUTED), "training on them lowers it");

    let mut y = top + 34.0;
    for figure in figures {
        page.tile((MARGIN, y), QUERY, INK, report.queries.image(figure.query));
        page.text((MARGIN + QUERY / 2.0, y + QUERY + 15.0), Anchor::Middle, bold(12, INK), &figure.label.to_string());
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
    page.text((PROPONENTS_X, y + 8.0), Anchor::Start, regular(12, MUTED), &caption);
    y + 8.0
}

fn draw_neighbour(page: &mut Page, (x, y): (f64, f64), frame: &str, n: &Neighbour, unit: &Unit, train: &Dataset) {
    page.tile((x, y), TILE, frame, train.image(n.index));
    let baseline = y + TILE + 14.0;
    page.text((x + 2.0, baseline), Anchor::Start, bold(12, INK), &n.label.to_string());
    page.text((x + TILE - 1.0, baseline), Anchor::End, regular(11, MUTED), &unit.show(n.score));
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

#[cfg(test)]
mod tests {
    use super::*;

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
