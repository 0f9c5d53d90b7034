//! From facts to findings, without asking anything.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

mod containers;
mod node;
mod podwasm;
mod runtimes;
#[cfg(test)]
mod tests;

use serde::Serialize;

use super::catalog::{Area, Check, Severity};
use super::facts::Facts;

/// Something that was found, good or bad.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The problem's name; none where all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'static str>,
    /// What it is about.
    pub area: Area,
    /// How much it matters.
    pub severity: Severity,
    /// What was seen on this node.
    pub seen: String,
    /// What that means.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meaning: Option<&'static str>,
    /// What to do, on this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// Findings, from top to bottom.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, area: Area, seen: impl Into<String>) {
        self.plain(area, Severity::Ok, seen);
    }

    /// What could not be learnt, and why.
    fn unknown(&mut self, area: Area, seen: impl Into<String>) {
        self.plain(area, Severity::Unknown, seen);
    }

    fn plain(&mut self, area: Area, severity: Severity, seen: impl Into<String>) {
        self.0.push(Finding {
            id: None,
            area,
            severity,
            seen: seen.into(),
            meaning: None,
            fix: None,
        });
    }

    fn problem(&mut self, check: &'static Check, seen: impl Into<String>) {
        self.problem_with(check, check.severity, seen, check.fix);
    }

    fn problem_with(
        &mut self,
        check: &'static Check,
        severity: Severity,
        seen: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.0.push(Finding {
            id: Some(check.id),
            area: check.area,
            severity,
            seen: seen.into(),
            meaning: Some(check.meaning),
            fix: Some(fix.into()),
        });
    }
}

/// What is to be said of a node.
pub fn diagnose(facts: &Facts) -> Vec<Finding> {
    let mut findings = Findings::default();
    node::machine(facts, &mut findings);
    runtimes::containerd(facts, &mut findings);
    runtimes::nri(facts, &mut findings);
    podwasm::daemons(facts, &mut findings);
    podwasm::engine(&facts.engine, &mut findings);
    podwasm::compiler(&facts.compiler, &mut findings);
    podwasm::state(facts, &mut findings);
    podwasm::policy(&facts.policy, &mut findings);
    runtimes::runtimes(facts, &mut findings);
    node::cgroups(facts, &mut findings);
    containers::images(facts, &mut findings);
    containers::dns(&facts.dns, &mut findings);
    node::exporter(facts, &mut findings);
    containers::pod(&facts.pod, &mut findings);
    findings.0
}
