//! A page of SVG: what is drawn on it, and the colours it is drawn in.

use std::fmt::Write;

use crate::picture;

pub(crate) const WIDTH: f64 = 880.0;
pub(crate) const MARGIN: f64 = 36.0;

pub(crate) const PAPER: &str = "#fbfbf9";
pub(crate) const INK: &str = "#1f2328";
pub(crate) const MUTED: &str = "#656d76";
pub(crate) const RULE: &str = "#dfe2e6";
pub(crate) const PROPONENT: &str = "#2866b1";
pub(crate) const OPPONENT: &str = "#c4561c";
pub(crate) const BAR: &str = "#a9b4c2";

/// Which end of a text stands at its position.
#[derive(Clone, Copy)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// How a text looks.
#[derive(Clone, Copy)]
pub(crate) struct Font {
    size: u32,
    weight: u32,
    fill: &'static str,
}

pub(crate) fn regular(size: u32, fill: &'static str) -> Font {
    Font { size, weight: 400, fill }
}

pub(crate) fn bold(size: u32, fill: &'static str) -> Font {
    Font { size, weight: 600, fill }
}

/// The elements so far.
#[derive(Default)]
pub(crate) struct Page {
    pub(crate) body: String,
}

impl Page {
    pub(crate) fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, font: Font, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let Font { size, weight, fill } = font;
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let _ = writeln!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" font-weight=\"{weight}\" \
             fill=\"{fill}\">{text}</text>"
        );
    }

    pub(crate) fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: &str, style: &str) {
        let _ = writeln!(
            self.body,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{stroke}\"{style}/>",
            from.0, from.1, to.0, to.1
        );
    }

    /// An image in a frame, `size` wide with the frame.
    pub(crate) fn tile(&mut self, (x, y): (f64, f64), size: f64, frame: &str, pixels: &[f32]) {
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

/// At most `chars` characters, the last of them a mark where more were.
pub(crate) fn cut(text: &str, chars: usize) -> String {
    if text.chars().count() <= chars {
        return text.to_owned();
    }
    text.chars().take(chars - 1).chain(['\u{2026}']).collect()
}
