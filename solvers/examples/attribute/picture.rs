//! An image as SVG: runs of equal ink, one path a shade, so that any viewer draws it.

use std::fmt::Write;

/// Shades between paper and ink; more would make the file larger, not the digit clearer.
const SHADES: usize = 16;

/// Draws square pixels in 0..=1, `size` wide, with the upper left corner at (`x`, `y`).
pub(crate) fn draw(svg: &mut String, pixels: &[f32], (x, y): (f64, f64), size: f64) {
    let side = pixels.len().isqrt().max(1);
    let shade = |pixel: f32| (pixel * (SHADES - 1) as f32).round() as usize;
    let mut paths = vec![String::new(); SHADES];
    for (row, line) in pixels.chunks(side).enumerate() {
        let mut column = 0;
        for run in line.chunk_by(|&a, &b| shade(a) == shade(b)) {
            let width = run.len();
            let _ = write!(paths[shade(run[0]).min(SHADES - 1)], "M{column} {row}h{width}v1h-{width}z");
            column += width;
        }
    }
    let scale = size / side as f64;
    let _ = write!(svg, "<g transform=\"translate({x:.2} {y:.2}) scale({scale:.4})\" shape-rendering=\"crispEdges\">");
    // Shade 0 is the paper that the tile already is.
    for (shade, path) in paths.iter().enumerate().skip(1).filter(|(_, path)| !path.is_empty()) {
        let gray = 255 - 232 * shade / (SHADES - 1);
        let _ = write!(svg, "<path fill=\"#{gray:02x}{gray:02x}{gray:02x}\" d=\"{path}\"/>");
    }
    svg.push_str("</g>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_merged_and_paper_is_left_out() {
        let mut svg = String::new();
        draw(&mut svg, &[0.0, 0.0, 1.0, 1.0, 1.0, 0.5, 0.0, 0.0, 1.0], (2.0, 3.0), 6.0);
        assert!(svg.starts_with("<g transform=\"translate(2.00 3.00) scale(2.0000)\""), "{svg}");
        assert_eq!(svg.matches("<path").count(), 2, "two shades besides paper: {svg}");
        assert!(svg.contains("<path fill=\"#171717\" d=\"M2 0h1v1h-1zM0 1h2v1h-2zM2 2h1v1h-1z\"/>"), "{svg}");
        assert!(svg.contains("d=\"M2 1h1v1h-1z\"") && svg.ends_with("</g>\n"), "{svg}");
    }
}
