//! Bar charts as SVG: a bar per variant, with a line over the middle half of the rounds. A few shapes and texts, so no crate.

use std::fmt::Write as _;

use crate::stats::Quartiles;

/// One bar.
pub struct Bar {
    /// What stands before it.
    pub label: String,
    /// Its length and its line.
    pub value: Quartiles,
}

const WIDTH: f64 = 760.0;
/// Where bars begin and how long the longest is.
const LEFT: f64 = 180.0;
const LONGEST: f64 = 440.0;
const TOP: f64 = 48.0;
const STEP: f64 = 34.0;
const THICK: f64 = 20.0;

/// The first bar is ours.
const OURS: &str = "#2a6f97";
const OTHERS: &str = "#a9b4bd";

/// Draws them, from zero on.
pub fn bars(title: &str, unit: &str, bars: &[Bar]) -> String {
    let height = TOP + STEP * bars.len() as f64 + 12.0;
    let most = bars.iter().map(|b| b.value.high).fold(f64::MIN_POSITIVE, f64::max);
    let x = |value: f64| LEFT + LONGEST * (value / most).max(0.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"12\" y=\"26\" font-size=\"15\" font-weight=\"bold\">{} ({})</text>\n",
        escape(title),
        escape(unit)
    );
    for (number, bar) in bars.iter().enumerate() {
        let top = TOP + STEP * number as f64;
        let (middle, base) = (top + THICK / 2.0, top + THICK / 2.0 + 4.5);
        let fill = if number == 0 { OURS } else { OTHERS };
        let (low, end, high) = (x(bar.value.low), x(bar.value.median), x(bar.value.high));
        let digits = if bar.value.median.abs() >= 100.0 { 0 } else { 2 };
        // Writing into a string does not fail.
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{base:.1}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LEFT:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{THICK:.1}\" fill=\"{fill}\"/>\n\
             <line x1=\"{low:.1}\" y1=\"{middle:.1}\" x2=\"{high:.1}\" y2=\"{middle:.1}\" stroke=\"#222222\" stroke-width=\"2\"/>\n\
             <text x=\"{:.1}\" y=\"{base:.1}\">{:.digits$}</text>\n",
            LEFT - 10.0,
            escape(&bar.label),
            end - LEFT,
            high.max(end) + 8.0,
            bar.value.median
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(label: &str, median: f64) -> Bar {
        Bar { label: label.to_owned(), value: Quartiles { low: median, median, high: median } }
    }

    #[test]
    fn a_bar_is_as_long_as_its_value() {
        let svg = bars("t", "us", &[bar("a", 2.0), bar("b", 4.0)]);
        assert!(svg.contains(&format!("width=\"{:.1}\" height=\"{THICK:.1}\"", LONGEST / 2.0)), "{svg}");
        assert!(svg.contains(&format!("width=\"{LONGEST:.1}\" height=\"{THICK:.1}\"")), "{svg}");
    }

    #[test]
    fn labels_are_text_and_no_markup() {
        assert!(bars("a < b & c", "us", &[]).contains("a &lt; b &amp; c"));
    }
}
