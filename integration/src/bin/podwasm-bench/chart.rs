//! A chart of the run as SVG: a panel for each measure, with a scale of its own. Text and bars can be told from a light and
//! from a dark page, since a README has both.

use crate::section::{Better, Panel, Who};
use podwasm_integration::measure::digits;
use podwasm_integration::measure::svg::{TEXT, escape};
use std::fmt::Write as _;

const COLUMNS: usize = 2;
const PANEL_WIDTH: f64 = 420.0;
const TITLE_HEIGHT: f64 = 26.0;
const BAR_HEIGHT: f64 = 16.0;
const BAR_PITCH: f64 = 22.0;
const GAP: f64 = 18.0;
const LABEL_WIDTH: f64 = 128.0;
const VALUE_WIDTH: f64 = 72.0;

const STYLE: &str = ".native{fill:#8c959f}.podwasm{fill:#0969da}.peer{fill:#bf8700}\
                     @media(prefers-color-scheme:dark){.native{fill:#768390}.podwasm{fill:#4493f8}.peer{fill:#d29922}}";

/// Draws the panels; values that were not measured are left out.
pub fn draw<'a>(panels: impl IntoIterator<Item = &'a Panel>) -> String {
    let panels: Vec<_> = panels.into_iter().collect();
    let bars = panels.iter().map(|panel| panel.bars.len()).max().unwrap_or(0);
    let panel_height = TITLE_HEIGHT + number(bars) * BAR_PITCH + GAP;
    let width = number(COLUMNS) * PANEL_WIDTH;
    let height = number(panels.len().div_ceil(COLUMNS)) * panel_height;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\">\n<title>podwasm beside native containers and crun's WasmEdge</title>\n<style>{TEXT}{STYLE}</style>\n"
    );
    for (at, panel) in panels.iter().enumerate() {
        let (x, y) = (
            number(at % COLUMNS) * PANEL_WIDTH,
            number(at / COLUMNS) * panel_height,
        );
        write!(
            svg,
            "<g transform=\"translate({x} {y})\">\n{}</g>\n",
            inside(panel)
        )
        .expect("a String takes all");
    }
    svg + "</svg>\n"
}

fn inside(panel: &Panel) -> String {
    let better = match panel.better {
        Better::Less => "less is better",
        Better::More => "more is better",
    };
    let mut text = format!(
        "<text class=\"title\" x=\"8\" y=\"17\">{} <tspan font-weight=\"400\">({better})</tspan></text>\n",
        escape(&panel.title)
    );
    let bars = panel.bars.iter().filter(|(_, value)| value.is_finite());
    let most = bars
        .clone()
        .map(|&(_, value)| value)
        .fold(f64::MIN_POSITIVE, f64::max);
    for (at, &(who, value)) in bars.enumerate() {
        let y = TITLE_HEIGHT + number(at) * BAR_PITCH;
        let length = (value / most * (PANEL_WIDTH - LABEL_WIDTH - VALUE_WIDTH)).max(1.0);
        let (middle, end) = (y + BAR_HEIGHT - 4.0, LABEL_WIDTH + length + 6.0);
        writeln!(
            text,
            "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{}\" x=\"{LABEL_WIDTH}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR_HEIGHT}\" rx=\"2\"/>\
             <text x=\"{end:.1}\" y=\"{middle}\">{}{}</text>",
            LABEL_WIDTH - 6.0,
            escape(who.name()),
            class(who),
            digits(value),
            escape(panel.unit)
        )
        .expect("a String takes all");
    }
    text
}

fn class(who: Who) -> &'static str {
    match who {
        Who::Native => "native",
        Who::Peer => "peer",
        Who::Podwasm => "podwasm",
    }
}

#[expect(clippy::cast_precision_loss, reason = "there are few panels and bars")]
fn number(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel() -> Panel {
        Panel {
            title: "a & b".to_owned(),
            unit: " ms",
            better: Better::Less,
            bars: vec![(Who::Native, 5.0), (Who::Podwasm, 10.0), (Who::Peer, f64::NAN)],
        }
    }

    #[test]
    fn the_longest_bar_fills_its_panel() {
        let svg = draw([&panel()]);
        assert!(
            svg.contains("class=\"podwasm\" x=\"128\" y=\"48\" width=\"220.0\""),
            "{svg}"
        );
        assert!(
            svg.contains("class=\"native\" x=\"128\" y=\"26\" width=\"110.0\""),
            "{svg}"
        );
        assert!(svg.contains(">10.0 ms<") && svg.contains("a &amp; b"), "{svg}");
    }

    #[test]
    fn what_was_not_measured_has_no_bar() {
        assert!(!draw([&panel()]).contains("class=\"peer\""));
    }
}
