//! What people read: Markdown, to be pasted as it is.

use std::fmt;
use std::time::Duration;

use crate::churn::Tally;
use crate::disrupt::{Happened, What};
use crate::series::{Series, Verdict};
use anyhow::{Result, ensure};
use podwasm_integration::measure::digits;
use podwasm_integration::measure::machine::Machine;
use podwasm_integration::measure::table::Table;
use podwasm_integration::node::Signal;

/// All that was seen.
pub struct Report {
    pub machine: Machine,
    /// Whether nobody interrupted it: its first and last samples are then of a node at rest.
    pub is_whole: bool,
    pub asked: Duration,
    pub series: Vec<Series>,
    pub happened: Vec<Happened>,
    pub tally: Tally,
}

impl Report {
    /// An error where something failed, or grows.
    pub fn check(&self) -> Result<()> {
        let growing: Vec<_> = self
            .series
            .iter()
            .filter(|series| series.verdict() == Verdict::Grows)
            .collect();
        let names: Vec<_> = growing
            .iter()
            .map(|series| format!("{} of {}", series.panel.title(), series.who))
            .collect();
        ensure!(growing.is_empty(), "not flat: {}", names.join(", "));
        ensure!(self.tally.failures == 0, "{} failures", self.tally.failures);
        Ok(())
    }

    fn count(&self, what: What) -> usize {
        self.happened
            .iter()
            .filter(|happened| happened.what == what)
            .count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        if !self.is_whole {
            writeln!(
                f,
                "**Interrupted** before the {} minutes were over.\n",
                self.asked.as_secs_f64() / 60.0
            )?;
        }
        let [killed, term, kill] = [
            What::WorkerKilled,
            What::ContainerdRestarted(Signal::SIGTERM),
            What::ContainerdRestarted(Signal::SIGKILL),
        ]
        .map(|what| self.count(what));
        writeln!(
            f,
            "{}; {killed} workers killed; containerd ended by TERM {term} times, by KILL {kill} times.\n",
            self.tally
        )?;
        for failure in &self.tally.failed {
            writeln!(f, "- failed: {failure}")?;
        }
        writeln!(f, "{}", table(&self.series))
    }
}

fn table(series: &[Series]) -> Table {
    let mut table = Table::new([
        "",
        "first",
        "median",
        "last",
        "second sixth",
        "last sixth",
        "slope per hour",
        "",
    ]);
    for series in series {
        let end = |point: Option<&(f64, f64)>| point.map_or("–".to_owned(), |&(_, value)| digits(value));
        let [early, late] = series.sixths();
        table.row([
            format!("{}, {}", series.panel.title(), series.who),
            end(series.points.first()),
            digits(series.median()),
            end(series.points.last()),
            digits(early),
            digits(late),
            format!("{:+.2}", series.slope_per_hour()),
            series.verdict().name().to_owned(),
        ]);
    }
    table
}
