//! The run as a chart: a panel for each thing that was looked at, with a line for each process, over time.

use std::fmt::Write as _;

use crate::disrupt::What;
use crate::report::Report;
use crate::series::{Panel, Series};
use podwasm_integration::measure::digits;
use podwasm_integration::measure::stats::Values;
use podwasm_integration::measure::svg::{TEXT, escape};

const PANELS: [Panel; 8] = [
    Panel::Private,
    Panel::Pss,
    Panel::Descriptors,
    Panel::Threads,
    Panel::Cache,
    Panel::Mounts,
    Panel::Namespaces,
    Panel::Processes,
];
const COLUMNS: usize = 2;
const PANEL_WIDTH: f64 = 420.0;
const PANEL_HEIGHT: f64 = 190.0;
const LEFT: f64 = 48.0;
const TOP: f64 = 42.0;
const PLOT_WIDTH: f64 = 356.0;
const PLOT_HEIGHT: f64 = 120.0;
/// A line has so many points: each stands for the median of its time.
const POINTS: usize = 120;

/// Colours that can be told apart, on a light and on a dark page.
const STYLE: &str = "polyline,line{fill:none;stroke-width:1.5}.a{stroke:#0969da}.b{stroke:#bc4c00}.c{stroke:#8250df}\
                     .d{stroke:#1a7f37}.e{stroke:#bf3989}line.axis{stroke:#8c959f;stroke-width:1}\
                     line.killed{stroke:#bf8700;stroke-width:.8;stroke-dasharray:3 2}\
                     line.restarted{stroke:#8c959f;stroke-width:.8;stroke-dasharray:1 3}\
                     @media(prefers-color-scheme:dark){.a{stroke:#4493f8}.c{stroke:#ab7df8}}";
const CLASSES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Draws all panels.
pub fn draw(report: &Report) -> String {
    let end = report
        .series
        .iter()
        .filter_map(|series| series.points.last())
        .map(|point| point.0);
    let end = end.fold(f64::MIN_POSITIVE, f64::max);
    let width = number(COLUMNS) * PANEL_WIDTH;
    let height = number(PANELS.len().div_ceil(COLUMNS)) * PANEL_HEIGHT + 24.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\">\n<title>What podwasm and its node keep during a soak</title>\n<style>{TEXT}{STYLE}</style>\n"
    );
    let events: String = report
        .happened
        .iter()
        .map(|happened| event(happened.what, happened.minutes / end))
        .collect();
    for (at, panel) in PANELS.into_iter().enumerate() {
        let (x, y) = (
            number(at % COLUMNS) * PANEL_WIDTH,
            number(at / COLUMNS) * PANEL_HEIGHT,
        );
        let series: Vec<_> = report
            .series
            .iter()
            .filter(|series| series.panel == panel)
            .collect();
        put(
            &mut svg,
            format_args!(
                "<g transform=\"translate({x} {y})\">\n{events}{}</g>\n",
                inside(panel, &series, end)
            ),
        );
    }
    let legend = "dashed: a worker killed; dotted: containerd restarted";
    put(
        &mut svg,
        format_args!(
            "<text x=\"{LEFT}\" y=\"{}\">{legend}</text>\n</svg>\n",
            height - 8.0
        ),
    );
    svg
}

fn inside(panel: Panel, series: &[&Series], end: f64) -> String {
    let values = series
        .iter()
        .flat_map(|series| &series.points)
        .map(|point| point.1);
    let most = round_up(values.fold(f64::MIN_POSITIVE, f64::max));
    let bottom = TOP + PLOT_HEIGHT;
    let mut text = format!(
        "<text class=\"title\" x=\"8\" y=\"17\">{}</text>\n",
        escape(panel.title())
    );
    for (x1, y1, x2, y2) in [
        (LEFT, bottom, LEFT + PLOT_WIDTH, bottom),
        (LEFT, TOP, LEFT, bottom),
    ] {
        put(
            &mut text,
            format_args!("<line class=\"axis\" x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"/>"),
        );
    }
    for (label, x, y) in [
        (digits(most), LEFT - 4.0, TOP + 8.0),
        ("0".to_owned(), LEFT - 4.0, bottom),
        (format!("{end:.0} min"), LEFT + PLOT_WIDTH, bottom + 15.0),
    ] {
        put(
            &mut text,
            format_args!("<text x=\"{x}\" y=\"{y}\" text-anchor=\"end\">{label}</text>\n"),
        );
    }
    let mut x = LEFT;
    for (series, class) in series.iter().zip(CLASSES) {
        if series.who != "node" {
            let (to, label) = (x + 12.0, x + 15.0);
            put(
                &mut text,
                format_args!(
                    "<line class=\"{class}\" x1=\"{x}\" y1=\"30\" x2=\"{to}\" y2=\"30\"/><text x=\"{label}\" y=\"34\">{}</text>",
                    series.who
                ),
            );
            x = label + 9.0 + 6.4 * number(series.who.len());
        }
        let points: Vec<_> = thinned(&series.points, end)
            .into_iter()
            .map(|(at, value)| {
                format!(
                    "{:.1},{:.1}",
                    LEFT + at / end * PLOT_WIDTH,
                    bottom - value / most * PLOT_HEIGHT
                )
            })
            .collect();
        put(
            &mut text,
            format_args!("<polyline class=\"{class}\" points=\"{}\"/>\n", points.join(" ")),
        );
    }
    text
}

/// A line through a panel, at a share of its width.
fn event(what: What, share: f64) -> String {
    let class = match what {
        What::ContainerdRestarted(_) => "restarted",
        What::WorkerKilled => "killed",
    };
    let (x, bottom) = (LEFT + share * PLOT_WIDTH, TOP + PLOT_HEIGHT);
    format!("<line class=\"{class}\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\"/>\n")
}

/// The medians of equal parts of the time; parts in which nothing was seen are left out.
fn thinned(points: &[(f64, f64)], end: f64) -> Vec<(f64, f64)> {
    let part = end / number(POINTS);
    let parts = (0..POINTS).map(|at| (number(at) * part, number(at + 1) * part));
    parts
        .filter_map(|(from, to)| {
            let inside = points
                .iter()
                .filter(|(at, _)| (from..to).contains(at))
                .map(|point| point.1);
            let median = inside.collect::<Values>().median();
            (!median.is_nan()).then_some((f64::midpoint(from, to), median))
        })
        .collect()
}

/// The next number of which one digit is not zero.
fn round_up(value: f64) -> f64 {
    let unit = 10_f64.powf(value.log10().floor());
    (value / unit).ceil() * unit
}

fn put(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).expect("a String takes all");
}

#[expect(clippy::cast_precision_loss, reason = "a small number")]
fn number(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_ends_above_what_is_shown() {
        for (value, expected) in [(7.0, 7.0), (7.1, 8.0), (93.0, 100.0), (0.31, 0.4)] {
            assert!(
                (round_up(value) - expected).abs() < 1e-9,
                "{value}: {}",
                round_up(value)
            );
        }
    }

    #[test]
    fn a_line_has_few_points() {
        let points: Vec<_> = (0..6000).map(|at| (f64::from(at) / 100.0, 1.0)).collect();
        assert_eq!(thinned(&points, 60.0).len(), POINTS);
        assert_eq!(thinned(&points[..10], 60.0).len(), 1);
        assert_eq!(thinned(&[], 60.0), []);
    }

    #[test]
    fn a_line_reaches_from_the_bottom_to_the_top() {
        let points = vec![(0.0, 0.0), (10.0, 10.0)];
        let series = Series {
            points,
            ..Series::new(Panel::Mounts, "node")
        };
        let text = inside(Panel::Mounts, &[&series], 10.1);
        assert!(text.contains(",162.0 ") && text.contains(",42.0\""), "{text}");
    }
}
