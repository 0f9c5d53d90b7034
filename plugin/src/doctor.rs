//! `podwasm doctor`: looks at a node from top to bottom, and says of each finding what it means and what to do.
//!
//! What is known is gathered first, all I/O in [`gather`]; what follows from it is decided by [`diagnose`], which asks nothing.

mod catalog;
mod complaints;
mod diagnose;
mod distribution;
mod facts;
mod gather;
mod show;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use serde_json::json;

use crate::flags::Doctor;
use crate::inspect::show::printable;
use facts::{Facts, Reach};
use show::Summary;

/// The exit code of what cannot be looked at. Wrong flags have it too.
const CANNOT: u8 = 2;

/// Looks, tells, and says by the exit code whether something does not work.
pub async fn run(flags: Doctor) -> ExitCode {
    if flags.list {
        return print(&complaints::list());
    }
    if let Some(name) = &flags.explain {
        return match complaints::explain(name) {
            Some(text) => print(&text),
            None => cannot(&format!(
                "there is no complaint or check {name:?}; --list has all"
            )),
        };
    }
    let facts = gather::gather(&flags).await;
    if let Some(wanted) = flags.pod.as_ref().filter(|_| facts.pod.is_empty()) {
        return cannot(&no_such_pod(&facts, wanted));
    }
    let findings = diagnose::diagnose(&facts);
    let summary = Summary::of(&findings);
    let text = if flags.json {
        format!(
            "{:#}\n",
            json!({"version": facts.version, "summary": summary, "findings": findings})
        )
    } else {
        let coloured =
            io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        show::show(&findings, coloured)
    };
    print(&text);
    if summary.fail == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn no_such_pod(facts: &Facts, wanted: &str) -> String {
    match facts.containerd.reach {
        Reach::Answers(_) => format!(
            "containerd knows no container of {wanted}: one that was refused was never created, and `kubectl describe pod` has the reason"
        ),
        _ => format!(
            "containerd at {} does not answer",
            facts.containerd.socket.display()
        ),
    }
}

/// A reader that has gone away has read enough.
fn print(text: &str) -> ExitCode {
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn cannot(problem: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "podwasm: {}", printable(problem));
    ExitCode::from(CANNOT)
}
