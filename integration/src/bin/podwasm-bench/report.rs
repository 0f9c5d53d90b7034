//! What people read.

use crate::machine::Machine;
use crate::overhead::{Overhead, Overheads};
use crate::pods::Row;
use crate::stats::Values;
use crate::variant::Handler;
use serde::Serialize;
use std::fmt::{self, Write as _};

/// All that was measured; a part that was not asked for is missing.
#[derive(Debug, Serialize)]
pub struct Report {
    pub machine: Machine,
    pub load_after: String,
    /// Seconds of CPU time per second that the node uses when nothing is asked of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one_by_one: Option<Vec<Row>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_once: Option<AtOnce>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Overheads>,
}

/// Many pods at once.
#[derive(Debug, Serialize)]
pub struct AtOnce {
    pub pods: usize,
    pub rows: Vec<Row>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        writeln!(
            f,
            "{}, {} CPUs, {}",
            machine.processor, machine.processors, machine.memory
        )?;
        writeln!(
            f,
            "Linux {}; {}; {}; {}",
            machine.kernel, machine.containerd, machine.runc, machine.crun
        )?;
        writeln!(f, "{}; engine {}", machine.plugin, machine.engine)?;
        writeln!(
            f,
            "load average {} before, {} after",
            machine.load_before, self.load_after
        )?;
        if let Some(idle) = self.idle {
            let idle = idle * 1e3;
            writeln!(
                f,
                "CPU time is the whole node's, less the {idle:.1} ms/s that it uses when idle"
            )?;
        }
        if let Some(rows) = &self.one_by_one {
            let pods = rows.first().map_or(0, |row| row.pod_cpu_milliseconds.count());
            writeln!(
                f,
                "\nOne by one, {pods} pods each; medians (× native on the same runtime)\n"
            )?;
            f.write_str(&one_by_one(rows))?;
        }
        if let Some(at_once) = &self.at_once {
            let rounds = at_once
                .rows
                .first()
                .map_or(0, |row| row.pod_cpu_milliseconds.count());
            writeln!(
                f,
                "\n{} pods at once, {rounds} times each (× native on the same runtime)\n",
                at_once.pods
            )?;
            f.write_str(&all_at_once(&at_once.rows))?;
        }
        if let Some(latency) = &self.latency {
            writeln!(
                f,
                "\nCreateContainer of native containers, with the plugin registered and without\n"
            )?;
            f.write_str(&overheads(latency))?;
        }
        Ok(())
    }
}

fn one_by_one(rows: &[Row]) -> String {
    let head = [
        "",
        "runtime",
        "create → output ms",
        "p10–p90",
        "CPU/container ms",
        "CPU/pod ms",
    ];
    table(
        &head,
        rows.iter().map(|row| {
            let output = &row.first_output_milliseconds;
            vec![
                row.variant.name().to_owned(),
                row.variant.runtime.to_string(),
                relative(rows, row, |row| output_of(row).median()),
                format!("{:.1}–{:.1}", output.percentile(10), output.percentile(90)),
                relative(rows, row, |row| row.container_cpu_milliseconds.median()),
                relative(rows, row, |row| row.pod_cpu_milliseconds.median()),
            ]
        }),
    )
}

fn all_at_once(rows: &[Row]) -> String {
    let head = [
        "",
        "runtime",
        "create → output ms",
        "p90",
        "until the last ms",
        "CPU/container ms",
        "CPU/pod ms",
    ];
    table(
        &head,
        rows.iter().map(|row| {
            vec![
                row.variant.name().to_owned(),
                row.variant.runtime.to_string(),
                relative(rows, row, |row| output_of(row).median()),
                format!("{:.0}", output_of(row).percentile(90)),
                relative(rows, row, |row| row.all_output_milliseconds.median()),
                relative(rows, row, |row| row.container_cpu_milliseconds.median()),
                relative(rows, row, |row| row.pod_cpu_milliseconds.median()),
            ]
        }),
    )
}

fn output_of(row: &Row) -> &Values {
    &row.first_output_milliseconds
}

/// A value, and how many times the native one on the same runtime it is.
fn relative(rows: &[Row], row: &Row, value: impl Fn(&Row) -> f64) -> String {
    let mine = value(row);
    let native = rows.iter().find(|other| other.variant == row.variant.native());
    match native {
        Some(native) if row.variant.handler != Handler::Native => {
            format!("{mine:.1} (× {:.2})", mine / value(native))
        }
        _ => format!("{mine:.1}"),
    }
}

fn overheads(overheads: &Overheads) -> String {
    let head = [
        "entrypoint",
        "N each",
        "with ms",
        "without ms",
        "difference ms",
        "ratio",
        "p99 with",
        "p99 without",
        "the plugin's own figure",
    ];
    let row = |name: &str, overhead: &Overhead| {
        let (with, without) = (&overhead.with_milliseconds, &overhead.without_milliseconds);
        // With less than a hundred values there is no hundredth.
        let p99 = |values: &Values| match values.count() {
            0..100 => "-".to_owned(),
            _ => format!("{:.2}", values.percentile(99)),
        };
        vec![
            name.to_owned(),
            with.count().to_string(),
            format!("{:.3}", with.median()),
            format!("{:.3}", without.median()),
            format!("{:+.3}", with.median() - without.median()),
            format!("{:.3}", with.median() / without.median()),
            p99(with),
            p99(without),
            own_figure(overhead),
        ]
    };
    table(
        &head,
        [row("seen before", &overheads.known), row("new", &overheads.new)],
    )
}

/// Mean, and the bounds of the plugin's histogram that half and 99 of a hundred keep.
fn own_figure(overhead: &Overhead) -> String {
    let figure = &overhead.plugin;
    let mut text = format!("mean {:.0} µs of {}", figure.mean_microseconds(), figure.count);
    for percent in [50.0, 99.0] {
        let bound = figure.percentile_microseconds(percent);
        let bound = bound.map_or("> 2 s".to_owned(), |bound| format!("≤ {bound} µs"));
        let _ = write!(text, ", {percent} % {bound}");
    }
    text
}

/// Columns of equal width: the first to the left, the others to the right.
fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let head = head.iter().map(|&cell| cell.to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..rows[0].len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(at, (cell, &width))| match at {
                0 => format!("{cell:<width$}"),
                _ => format!("  {cell:>width$}"),
            });
        cells.collect::<String>().trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let text = table(&["", "ms"], [vec!["native".to_owned(), "4".to_owned()]]);
        assert_eq!(text, "        ms\nnative   4\n");
    }
}
