//! Looks at the machine: disks, clock, control groups, what the kernel lets a process do.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::statvfs;

use super::kernel;
use crate::doctor::facts::{Cgroups, Disk, Exporter, Learnt};

/// Disks by a folder on each; one that several folders are on counts once.
pub fn disks(folders: &[&Path]) -> Vec<Disk> {
    let mut seen = HashSet::new();
    let mut disks = Vec::new();
    for folder in folders {
        let Ok(about) = statvfs(*folder) else {
            continue;
        };
        if !seen.insert((about.f_fsid, about.f_blocks, about.f_bavail)) {
            continue;
        }
        let percent = |part: u64, all: u64| (part.saturating_mul(100)).checked_div(all).unwrap_or(100);
        disks.push(Disk {
            folder: (*folder).to_owned(),
            free_bytes: about.f_bavail.saturating_mul(about.f_frsize),
            free_percent: percent(about.f_bavail, about.f_blocks),
            free_inodes_percent: percent(about.f_favail, about.f_files),
        });
    }
    disks
}

/// Whether the clock shows a time before this program was built.
pub fn clock_is_behind() -> bool {
    let program = std::env::current_exe().and_then(fs::metadata);
    let built = program.and_then(|program| program.modified());
    built.is_ok_and(|built| SystemTime::now() < built)
}

/// How control groups are mounted.
pub fn cgroups() -> Learnt<Cgroups> {
    let mounts =
        fs::read_to_string("/proc/self/mounts").map_err(|error| format!("/proc/self/mounts: {error}"))?;
    let controllers = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let of_second = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").ok();
    Ok(of_cgroups(&mounts, &controllers, of_second.as_deref()))
}

fn of_cgroups(mounts: &str, controllers: &str, of_second: Option<&str>) -> Cgroups {
    let mut mounted = HashSet::new();
    let mut has_second = false;
    for line in mounts.lines() {
        let fields: Vec<_> = line.split(' ').collect();
        match fields.get(2..4) {
            Some(["cgroup", options]) => mounted.extend(options.split(',')),
            Some(["cgroup2", _]) => has_second = true,
            _ => {}
        }
    }
    // Columns: name, hierarchy, number of groups, enabled.
    let enabled: Vec<_> = controllers
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            (fields.get(3) == Some(&"1")).then(|| fields[0])
        })
        .collect();
    let has_first = mounted.contains("memory") || mounted.contains("cpu") || mounted.contains("pids");
    let version = match (has_first, has_second) {
        (true, true) => "hybrid",
        (true, false) => "v1",
        (false, _) => "v2",
    };
    let has_memory = match of_second {
        Some(controllers) if version == "v2" => controllers.split_whitespace().any(|name| name == "memory"),
        _ => mounted.contains("memory"),
    };
    let unmounted = if version == "v2" {
        Vec::new()
    } else {
        enabled
            .into_iter()
            .filter(|name| !mounted.contains(name))
            .map(str::to_owned)
            .collect()
    };
    Cgroups {
        has_memory,
        unmounted,
        version,
    }
}

/// What the exporter needs of the kernel, tried.
pub fn exporter(ready: Option<Learnt<String>>) -> Exporter {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let socket = kernel::packet_socket().map_err(|error| format!("packet sockets: {error}"));
    let bpf = match &socket {
        Ok(socket) => kernel::attach_program(socket).map_err(|error| format!("BPF programs: {error}")),
        Err(_) => Err("without a packet socket there is nothing to filter".to_owned()),
    };
    Exporter {
        kernel,
        bpf,
        packet_socket: socket.map(drop),
        ready,
    }
}

/// Where containerd and the state folder keep what they keep.
pub fn folders(containerd: &Path, state: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<_> = ["/", "/run"].map(PathBuf::from).to_vec();
    folders.extend(
        [containerd.to_owned(), state.to_owned()]
            .into_iter()
            .filter(|folder| folder.exists()),
    );
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROLLERS: &str = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t1\t1\nmemory\t2\t1\t1\nhugetlb\t0\t1\t1\nnet_prio\t0\t1\t0\n";

    #[test]
    fn control_groups_are_told_apart() {
        let check = |mounts: &str, of_second, version, has_memory, unmounted: &[&str]| {
            let found = of_cgroups(mounts, CONTROLLERS, of_second);
            assert_eq!(
                (found.version, found.has_memory),
                (version, has_memory),
                "{mounts}"
            );
            assert_eq!(found.unmounted, unmounted, "{mounts}");
        };
        let second = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        check(second, Some("cpu memory"), "v2", true, &[]);
        check(second, Some("cpu"), "v2", false, &[]);
        let first = "c /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\nc /sys/fs/cgroup/memory cgroup rw,memory 0 0\n";
        check(first, None, "v1", true, &["hugetlb"]);
        let hybrid = format!("{first}cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n");
        check(&hybrid, None, "hybrid", true, &["hugetlb"]);
        check(
            "c /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n",
            None,
            "v1",
            false,
            &["memory", "hugetlb"],
        );
    }

    #[test]
    fn a_disk_counts_once() {
        let folder = tempfile::tempdir().unwrap();
        let disks = disks(&[folder.path(), folder.path(), Path::new("/no/such/folder")]);
        assert_eq!(disks.len(), 1);
        assert!(disks[0].free_percent <= 100, "{disks:?}");
    }
}
