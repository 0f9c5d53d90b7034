//! The machine: clock, disks, control groups, what counting needs of the kernel.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use super::Findings;
use crate::doctor::catalog::{self, Area};
use crate::doctor::facts::{Disk, Facts};
use crate::inspect::show::size;

/// Below this nothing is to be put on a disk any more.
const FULL_BYTES: u64 = 64 << 20;
/// Kubelets evict pods when less is left (`nodefs.available`, `nodefs.inodesFree`).
const TIGHT_PERCENT: u64 = 10;
const TIGHT_INODES_PERCENT: u64 = 5;

pub fn machine(facts: &Facts, findings: &mut Findings) {
    if !facts.is_root {
        findings.problem(&catalog::NOT_ROOT, "this is not root");
    }
    if facts.clock_is_behind {
        findings.problem(
            &catalog::CLOCK_WRONG,
            "the clock is earlier than this program was built",
        );
    }
    facts.disks.iter().for_each(|room| disk(room, findings));
}

fn disk(disk: &Disk, findings: &mut Findings) {
    let seen = format!(
        "{} free ({} %) at {}",
        size(disk.free_bytes),
        disk.free_percent,
        disk.folder.display()
    );
    if disk.free_bytes < FULL_BYTES || disk.free_inodes_percent == 0 {
        findings.problem(&catalog::DISK_FULL, seen);
    } else if disk.free_inodes_percent < TIGHT_INODES_PERCENT {
        findings.problem(
            &catalog::DISK_TIGHT,
            format!("{seen}, {} % of inodes", disk.free_inodes_percent),
        );
    } else if disk.free_percent < TIGHT_PERCENT {
        findings.problem(&catalog::DISK_TIGHT, seen);
    } else {
        findings.ok(Area::Node, seen);
    }
}

pub fn cgroups(facts: &Facts, findings: &mut Findings) {
    let cgroups = match &facts.cgroups {
        Ok(cgroups) => cgroups,
        Err(why) => return findings.unknown(Area::Cgroups, why),
    };
    if !cgroups.has_memory {
        return findings.problem(
            &catalog::CGROUP_NO_MEMORY,
            format!("cgroup {} without memory", cgroups.version),
        );
    }
    findings.ok(Area::Cgroups, format!("version {}, with memory", cgroups.version));
}

pub fn exporter(facts: &Facts, findings: &mut Findings) {
    let exporter = &facts.exporter;
    match (&exporter.packet_socket, &exporter.bpf) {
        (Err(_), _) | (_, Err(_)) if !facts.is_root => {
            findings.unknown(
                Area::Exporter,
                "whether the kernel takes what counting needs is for root to try",
            );
        }
        (Ok(()), Ok(())) => findings.ok(
            Area::Exporter,
            format!("Linux {} takes packet sockets with BPF programs", exporter.kernel),
        ),
        (Ok(()), Err(why)) => findings.problem(&catalog::EXPORTER_NO_BPF, why),
        (Err(why), _) => findings.problem(&catalog::EXPORTER_NO_SOCKETS, why),
    }
    match &exporter.ready {
        Some(Ok(said)) if said.trim() == "ok" => {
            findings.ok(Area::Exporter, "podwasm-exporter runs and is ready");
        }
        Some(Ok(said) | Err(said)) => findings.problem(&catalog::EXPORTER_NOT_READY, said.trim()),
        None => findings.ok(
            Area::Exporter,
            "podwasm-exporter does not run here, so requests are not counted",
        ),
    }
}
