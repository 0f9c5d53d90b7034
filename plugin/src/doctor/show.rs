//! Findings for people.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::fmt::Write as _;

use super::catalog::{Area, Severity};
use super::diagnose::Finding;
use crate::inspect::show::printable;

/// How many findings there are of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// All is well.
    pub ok: usize,
    /// Not known.
    pub unknown: usize,
    /// Could be better.
    pub warn: usize,
    /// Does not work.
    pub fail: usize,
}

impl Summary {
    /// Counts findings.
    pub fn of(findings: &[Finding]) -> Self {
        let count = |severity| {
            findings
                .iter()
                .filter(|finding| finding.severity == severity)
                .count()
        };
        Self {
            ok: count(Severity::Ok),
            unknown: count(Severity::Unknown),
            warn: count(Severity::Warn),
            fail: count(Severity::Fail),
        }
    }
}

/// All findings as text, one area after the other.
pub fn show(findings: &[Finding], coloured: bool) -> String {
    let mut text = String::new();
    let mut area: Option<Area> = None;
    for finding in findings {
        let label = if area == Some(finding.area) {
            ""
        } else {
            finding.area.as_str()
        };
        area = Some(finding.area);
        let mark = painted(finding.severity, coloured);
        let id = finding.id.map(|id| format!("{id}: ")).unwrap_or_default();
        let _ = writeln!(text, "{label:11} {mark} {id}{}", printable(&finding.seen));
        if let Some(meaning) = finding.meaning {
            indented(&mut text, "", meaning);
        }
        if let Some(fix) = &finding.fix {
            indented(&mut text, "do: ", fix);
        }
    }
    let _ = write!(text, "\n{}\n", sentence(Summary::of(findings)));
    text
}

fn indented(text: &mut String, before: &str, paragraph: &str) {
    for (number, line) in paragraph.lines().enumerate() {
        let before = if number == 0 { before } else { "    " };
        let _ = writeln!(text, "{:18}{before}{line}", "");
    }
}

fn painted(severity: Severity, coloured: bool) -> String {
    let (colour, mark) = match severity {
        Severity::Ok => (32, "ok  "),
        Severity::Unknown => (36, "?   "),
        Severity::Warn => (33, "warn"),
        Severity::Fail => (31, "FAIL"),
    };
    if coloured {
        format!("\x1b[{colour}m{mark}\x1b[0m")
    } else {
        mark.to_owned()
    }
}

fn sentence(summary: Summary) -> String {
    let Summary {
        ok,
        unknown,
        warn,
        fail,
    } = summary;
    let mut parts = vec![format!("{ok} ok")];
    parts.extend(counted(fail, "problem"));
    parts.extend(counted(warn, "warning"));
    parts.extend((unknown > 0).then(|| format!("{unknown} not known")));
    let verdict = match (fail, warn, unknown) {
        (0, 0, 0) => "This node is fine",
        (0, _, 0) => "This node works",
        (0, _, _) => "Nothing was found to be broken, but not all could be looked at",
        _ => "This node has problems",
    };
    format!("{verdict}: {}.", parts.join(", "))
}

fn counted(number: usize, thing: &str) -> Option<String> {
    match number {
        0 => None,
        1 => Some(format!("1 {thing}")),
        number => Some(format!("{number} {thing}s")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::diagnose::diagnose;
    use crate::doctor::facts::Facts;

    #[test]
    fn a_healthy_node_is_one_line_for_each_thing() {
        let findings = diagnose(&Facts::healthy());
        let text = show(&findings, false);
        assert!(text.ends_with("This node is fine: 17 ok.\n"), "{text}");
        assert!(!text.contains('\x1b') && !text.contains("FAIL"), "{text}");
    }

    #[test]
    fn problems_say_what_to_do() {
        let mut facts = Facts::healthy();
        facts.daemons = Ok(Vec::new());
        facts.state.found = None;
        facts.is_root = false;
        let findings = diagnose(&facts);
        let text = show(&findings, true);
        assert!(
            text.contains("\x1b[31mFAIL\x1b[0m daemon-down: there is no process"),
            "{text}"
        );
        assert!(text.contains("do: Start `podwasm run`"), "{text}");
        assert!(
            text.ends_with("This node has problems: 15 ok, 1 problem, 1 warning, 1 not known.\n"),
            "{text}"
        );
    }
}
