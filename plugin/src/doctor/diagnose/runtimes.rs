//! containerd, its NRI, and the runtimes below it.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::path::Path;

use super::Findings;
use crate::annotation::Handler;
use crate::doctor::catalog::{self, Area, Check, Severity};
use crate::doctor::facts::{Cri, Facts, Reach, Runtime};

/// The first containerd with an NRI that podwasm speaks.
const FIRST_CONTAINERD: Version = [1, 7, 0];
/// The first crun whose Wasm handler works beside native containers in Kubernetes, by crun's own NEWS.
const FIRST_CRUN: Version = [1, 4, 4];
/// The first crun that refuses cgroups of version 1 unless each controller is mounted.
const STRICT_CRUN: Version = [1, 21, 0];

type Version = [u32; 3];

pub fn containerd(facts: &Facts, findings: &mut Findings) {
    let socket = facts.containerd.socket.display();
    let problem: (&'static Check, String) = match &facts.containerd.reach {
        Reach::Answers(version) => return answering(facts, version, findings),
        Reach::Denied => (
            &catalog::CONTAINERD_SOCKET_DENIED,
            format!("{socket} may not be opened"),
        ),
        Reach::Failed(why) => (&catalog::CONTAINERD_SILENT, format!("{socket}: {why}")),
        Reach::Missing => (
            &catalog::CONTAINERD_SOCKET_MISSING,
            format!("there is no {socket}"),
        ),
        Reach::Refused => (&catalog::CONTAINERD_DOWN, format!("nobody listens at {socket}")),
        Reach::Silent => (&catalog::CONTAINERD_SILENT, format!("no answer at {socket}")),
    };
    let (check, seen) = problem;
    let fix = check.fix.replace(
        "systemctl start containerd",
        &facts.distribution.restart().replace("restart", "start"),
    );
    findings.problem_with(check, check.severity, seen, fix);
}

fn answering(facts: &Facts, version: &str, findings: &mut Findings) {
    let name = facts.distribution.name();
    let of = if name == "containerd" {
        String::new()
    } else {
        format!(" of {name}")
    };
    let seen = format!(
        "containerd {version}{of} at {}",
        facts.containerd.socket.display()
    );
    if first_version(version).is_some_and(|version| version < FIRST_CONTAINERD) {
        return findings.problem(&catalog::CONTAINERD_OLD, seen);
    }
    findings.ok(Area::Containerd, seen);
    match &facts.cri {
        Some(Ok(Cri { unready, .. })) if !unready.is_empty() => {
            findings.problem(&catalog::CRI_NOT_READY, unready.join("; "));
        }
        Some(Ok(_)) => findings.ok(Area::Containerd, "CRI is ready, runtime and network"),
        Some(Err(why)) if why.contains("unknown service") => findings.problem(&catalog::CRI_MISSING, why),
        Some(Err(why)) => findings.problem(&catalog::CRI_NOT_READY, why),
        None => {}
    }
}

pub fn nri(facts: &Facts, findings: &mut Findings) {
    let socket = facts.nri.socket.display();
    match (facts.nri.is_there, &facts.containerd.nri) {
        (Some(true), _) => findings.ok(Area::Nri, format!("NRI's socket is at {socket}")),
        (None, _) => findings.unknown(Area::Nri, format!("whether {socket} is there may not be seen")),
        (Some(false), Ok(config)) if config.is_off => {
            let seen = format!(
                "`disable = true` for NRI in {}",
                facts.containerd.config.path.display()
            );
            let commands = facts.distribution.switch_nri_on(&facts.containerd.config);
            let fix = format!("{}\n{commands}", catalog::NRI_OFF.fix);
            findings.problem_with(&catalog::NRI_OFF, Severity::Fail, seen, fix);
        }
        (Some(false), Ok(config)) if !same_path(&config.socket, &facts.nri.socket) => {
            let seen = format!(
                "containerd has {}, podwasm looks for {socket}",
                config.socket.display()
            );
            findings.problem(&catalog::NRI_SOCKET_ELSEWHERE, seen);
        }
        (Some(false), Ok(_)) => {
            let fix = format!(
                "{}\n{}",
                catalog::NRI_NEEDS_RESTART.fix,
                facts.distribution.restart()
            );
            let seen = format!("there is no {socket}");
            findings.problem_with(&catalog::NRI_NEEDS_RESTART, Severity::Fail, seen, fix);
        }
        (Some(false), Err(why)) => {
            findings.problem(
                &catalog::NRI_SOCKET_MISSING,
                format!("there is no {socket} ({why})"),
            );
        }
    }
}

/// `/var/run` is `/run`.
fn same_path(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| match path.strip_prefix("/var/run") {
        Ok(rest) => Path::new("/run").join(rest),
        Err(_) => path.to_owned(),
    };
    real(a) == real(b)
}

pub fn runtimes(facts: &Facts, findings: &mut Findings) {
    let oci = facts
        .runtimes
        .iter()
        .filter(|runtime| runtime.shim.ends_with(".runc.v2"));
    oci.for_each(|runtime| of_runtime(facts, runtime, findings));
    let others: Vec<_> = facts
        .runtimes
        .iter()
        .filter(|runtime| !runtime.shim.ends_with(".runc.v2"))
        .map(|runtime| format!("{} ({})", runtime.name, runtime.shim))
        .collect();
    if !others.is_empty() {
        findings.ok(
            Area::Runtime,
            format!("left to themselves: {}", others.join(", ")),
        );
    }
}

fn of_runtime(facts: &Facts, runtime: &Runtime, findings: &mut Findings) {
    let Runtime { name, program, .. } = runtime;
    // What no pod gets unless it asks for it by name is nobody's outage.
    let severity = if runtime.is_default {
        Severity::Fail
    } else {
        Severity::Warn
    };
    let said = match &runtime.version {
        _ if !runtime.is_there => {
            let fix = catalog::RUNTIME_MISSING.fix;
            return findings.problem_with(
                &catalog::RUNTIME_MISSING,
                severity,
                format!("{name}: there is no {program}"),
                fix,
            );
        }
        Err(why) => {
            let fix = catalog::RUNTIME_BROKEN.fix;
            return findings.problem_with(
                &catalog::RUNTIME_BROKEN,
                severity,
                format!("{name}: {program}: {why}"),
                fix,
            );
        }
        Ok(said) => said,
    };
    let (is_crun, wasm) = (said.contains("crun version"), wasm_of(said));
    let version = first_version(said).unwrap_or_default();
    let mut is_well = true;
    if runtime.is_default && wants_crun(facts) && wasm.is_none() {
        is_well = false;
        findings.problem(
            &catalog::CRUN_WITHOUT_WASM,
            format!("the policy says `handler: crun`; {name} is {}", first_line(said)),
        );
    }
    if is_crun && wasm.is_some() && version < FIRST_CRUN {
        is_well = false;
        findings.problem(&catalog::CRUN_OLD, format!("{name} is {}", first_line(said)));
    }
    if let (true, Ok(cgroups)) = (is_crun && version >= STRICT_CRUN, &facts.cgroups)
        && cgroups.version != "v2"
        && !cgroups.unmounted.is_empty()
    {
        is_well = false;
        let seen = format!(
            "{name} is {}; not mounted: {}",
            first_line(said),
            cgroups.unmounted.join(", ")
        );
        let fix = catalog::CRUN_HYBRID_CGROUPS.fix;
        findings.problem_with(&catalog::CRUN_HYBRID_CGROUPS, severity, seen, fix);
    }
    if is_well {
        let default = if runtime.is_default { ", the default" } else { "" };
        let wasm = wasm
            .map(|engine| format!(", with Wasm by {engine}"))
            .unwrap_or_default();
        findings.ok(
            Area::Runtime,
            format!("{name}: {}{wasm}{default}", first_line(said)),
        );
    }
}

fn wants_crun(facts: &Facts) -> bool {
    facts
        .policy
        .policy
        .as_ref()
        .is_ok_and(|policy| policy.handler == Handler::Crun)
}

/// The engine in a crun, from `+WASM:wasmedge`.
fn wasm_of(said: &str) -> Option<&str> {
    said.split_whitespace()
        .find_map(|word| word.strip_prefix("+WASM:"))
}

fn first_line(said: &str) -> &str {
    said.lines().next().unwrap_or_default()
}

/// The first thing that looks like a version: `1.21`, `v1.7.24~ds1`, `2.1.9`.
fn first_version(text: &str) -> Option<Version> {
    let word = text
        .split_whitespace()
        .map(|word| word.trim_start_matches('v'))
        .find(|word| word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.'))?;
    let mut numbers = word.split('.').map(|part| {
        let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or(0)
    });
    Some(std::array::from_fn(|_| numbers.next().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found() {
        let check = |text: &str, expected| assert_eq!(first_version(text), expected, "{text}");
        check("1.7.24~ds1", Some([1, 7, 24]));
        check("v2.1.9-k3s1", Some([2, 1, 9]));
        check("crun version 1.21\ncommit: abc", Some([1, 21, 0]));
        check("runc version 1.1.15+ds1", Some([1, 1, 15]));
        check("no version", None);
    }

    #[test]
    fn run_is_run() {
        let check = |a: &str, b: &str| same_path(a.as_ref(), b.as_ref());
        assert!(check("/var/run/nri/nri.sock", "/run/nri/nri.sock"));
        assert!(!check("/run/nri/nri.sock", "/run/other.sock"));
    }
}
