//! Lines over steps on a logarithmic scale, as an SVG picture.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 52.0;
const COLOURS: [&str; 6] = ["#2866b1", "#c4561c", "#2f7d4f", "#8250a8", "#9a6b00", "#656d76"];
/// What is drawn of a value that is zero or smaller.
const LEAST: f64 = 1e-300;

/// A named line: its value at each step, the first at step 0.
pub(crate) struct Line {
    /// What the legend calls it.
    pub(crate) name: String,
    /// Not negative.
    pub(crate) values: Vec<f64>,
    /// Whether it is dashed: for what the others are compared with.
    pub(crate) dashed: bool,
}

/// The picture. Values below `floor` are drawn at it.
pub(crate) fn draw(title: &str, across: &str, floor: f64, lines: &[Line]) -> String {
    let logarithm = |value: f64| value.max(floor).max(LEAST).log10();
    let all = || lines.iter().flat_map(|line| line.values.iter().copied().map(logarithm));
    let (low, high) = (all().fold(f64::INFINITY, f64::min).floor(), all().fold(f64::NEG_INFINITY, f64::max).ceil());
    let steps = lines.iter().map(|line| line.values.len().saturating_sub(1)).max().unwrap_or(0).max(1);
    let x = |step: usize| LEFT + step as f64 / steps as f64 * (WIDTH - LEFT - RIGHT);
    let y = |logarithm: f64| TOP + (high - logarithm) / (high - low).max(1.0) * (HEIGHT - TOP - BOTTOM);
    let mut body = String::new();
    let mut text = |x: f64, y: f64, anchor: &str, size: u32, fill: &str, text: &str| {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let _ = writeln!(
            body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" fill=\"{fill}\">{text}</text>"
        );
    };
    text(LEFT, 28.0, "start", 17, "#1f2328", title);
    text(f64::midpoint(LEFT, WIDTH - RIGHT), HEIGHT - 14.0, "middle", 12, "#656d76", across);
    let mut legend = LEFT;
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        text(legend, 48.0, "start", 13, colour, &line.name);
        legend += 7.4 * line.name.chars().count() as f64 + 22.0;
    }
    // At most eight lines of the grid, each a whole power of ten.
    let apart = ((high - low) / 8.0).ceil().max(1.0);
    let mut ticks = Vec::new();
    let mut tick = low;
    while tick <= high {
        text(LEFT - 8.0, y(tick) + 4.0, "end", 12, "#656d76", &format!("1e{tick:.0}"));
        ticks.push(y(tick));
        tick += apart;
    }
    for quarter in 0..=4 {
        let step = steps * quarter / 4;
        text(x(step), HEIGHT - BOTTOM + 18.0, "middle", 12, "#656d76", &step.to_string());
    }
    for tick in ticks {
        let right = WIDTH - RIGHT;
        let _ =
            writeln!(body, "<line x1=\"{LEFT}\" y1=\"{tick:.1}\" x2=\"{right}\" y2=\"{tick:.1}\" stroke=\"#dfe2e6\"/>");
    }
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let points: Vec<String> =
            line.values.iter().enumerate().map(|(i, v)| format!("{:.1},{:.1}", x(i), y(logarithm(*v)))).collect();
        let dashes = if line.dashed { " stroke-dasharray=\"6 4\"" } else { "" };
        let points = points.join(" ");
        let _ = writeln!(
            body,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>"
        );
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         font-family=\"system-ui, sans-serif\">\n<title>{title}</title>\n<rect width=\"100%\" height=\"100%\" rx=\"12\" \
         fill=\"#fbfbf9\"/>\n{body}</svg>\n"
    )
}
