//! What people read: Markdown, to be pasted as it is.

use crate::bar::Check;
use crate::section::Section;
use crate::table::Table;
use podwasm_integration::measure::machine::Machine;
use serde::Serialize;
use std::fmt;

/// All that was measured, in the order of the parts.
#[derive(Debug, Serialize)]
pub struct Report {
    pub machine: Machine,
    pub sections: Vec<Section>,
    /// Parts that could not be measured, and why.
    pub failures: Vec<String>,
}

impl Report {
    pub fn checks(&self) -> impl Iterator<Item = &Check> {
        self.sections.iter().flat_map(|section| &section.checks)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        for failure in &self.failures {
            writeln!(f, "**{failure}**\n")?;
        }
        if self.checks().next().is_some() {
            writeln!(f, "{}", summary(self.checks()))?;
        }
        for section in &self.sections {
            writeln!(f, "### {}\n", section.title)?;
            for note in &section.notes {
                writeln!(f, "{note}\n")?;
            }
            for table in &section.tables {
                writeln!(f, "{table}")?;
            }
            for check in &section.checks {
                writeln!(f, "- {check}")?;
            }
            if !section.checks.is_empty() {
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

fn summary<'a>(checks: impl Iterator<Item = &'a Check>) -> Table {
    let mut table = Table::new(["measure", "bar", "measured", ""]);
    for check in checks {
        let reached = if check.reached() { "reached" } else { "**missed**" };
        table.row([
            check.what.clone(),
            check.bar(),
            check.measured(),
            reached.to_owned(),
        ]);
    }
    table
}
