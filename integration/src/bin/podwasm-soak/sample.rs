//! What podwasm's processes and the node keep at a moment.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::Parts;
use crate::series::{Panel, Series};
use anyhow::{Context as _, Result};
use podwasm_integration::measure::digits;
use podwasm_integration::measure::mappings::Rollup;
use std::fmt::Write as _;
use tokio::time::Instant;

/// Workers are replaced in the first half of a run. In the second, the one at work is left alone, so that it shows whether it grows.
pub const WORKERS_LAST_FROM: f64 = 0.5;

/// All samples so far.
pub struct Samples {
    start: Instant,
    pub series: Vec<Series>,
}

impl Samples {
    pub fn new(start: Instant) -> Self {
        Self {
            start,
            series: Vec::new(),
        }
    }

    /// Takes one more. A process that has just ended is left out of it.
    pub fn take(&mut self, parts: &Parts<'_>) -> Result<()> {
        let workers = parts.plugin.workers()?;
        let processes = [
            ("front", Some(parts.plugin.process().pid())),
            ("worker", workers.first().copied()),
            ("spare worker", workers.get(1).copied()),
            ("exporter", Some(parts.exporter.process().pid())),
            ("scaler", Some(parts.scaler.process().pid())),
        ];
        for (who, pid) in processes {
            let kept = pid.and_then(|pid| Kept::by(&Path::new("/proc").join(pid.to_string())).ok());
            if let Some(kept) = kept {
                self.add(Panel::Private, who, kept.memory.private_dirty_megabytes);
                self.add(Panel::Pss, who, kept.memory.pss_megabytes);
                self.add(Panel::Descriptors, who, number(kept.descriptors));
                self.add(Panel::Threads, who, number(kept.threads));
            }
        }
        let node = parts.node;
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", node.init())).context("list mounts")?;
        self.add(Panel::Mounts, "node", number(mounts.lines().count()));
        let namespaces = fs::read_dir(node.path("/run/netns")).map_or(0, Iterator::count); // made with the first pod
        self.add(Panel::Namespaces, "node", number(namespaces));
        self.add(
            Panel::Cache,
            "node",
            bytes_below(&node.path("/var/lib/podwasm")) / 1e6,
        );
        let [processes, zombies] = processes_in(&node.path("/proc"))?;
        self.add(Panel::Processes, "node", number(processes));
        self.add(Panel::Processes, "zombies", number(zombies));
        Ok(())
    }

    fn add(&mut self, panel: Panel, who: &'static str, value: f64) {
        let minutes = self.start.elapsed().as_secs_f64() / 60.0;
        let found = self
            .series
            .iter()
            .position(|series| series.panel == panel && series.who == who);
        let at = found.unwrap_or_else(|| {
            let mut series = Series::new(panel, who);
            if who.ends_with("worker") {
                series.counts_from = WORKERS_LAST_FROM;
            }
            self.series.push(series);
            self.series.len() - 1
        });
        self.series[at].points.push((minutes, value));
    }

    /// The last sample in a line.
    pub fn line(&self) -> String {
        let minutes = self.start.elapsed().as_secs_f64() / 60.0;
        let mut line = format!("{minutes:5.1} min:");
        for series in &self.series {
            let Some((_, value)) = series.points.last() else {
                continue;
            };
            match series.panel {
                Panel::Private => _ = write!(line, " {} {} MB,", series.who, digits(*value)),
                Panel::Pss | Panel::Threads => {}
                Panel::Descriptors => _ = write!(line, " {} fds {value},", series.who),
                panel => _ = write!(line, " {} {},", panel.title(), digits(*value)),
            }
        }
        line.trim_end_matches(',').to_owned()
    }
}

/// What one process keeps.
struct Kept {
    memory: Rollup,
    descriptors: usize,
    threads: usize,
}

impl Kept {
    fn by(process: &Path) -> Result<Self> {
        Ok(Self {
            memory: Rollup::of(process)?,
            descriptors: fs::read_dir(process.join("fd"))?.count(),
            threads: fs::read_dir(process.join("task"))?.count(),
        })
    }
}

/// What files take, by their length, each once however many names it has. What vanishes meanwhile is left out.
fn bytes_below(folder: &Path) -> f64 {
    let mut seen = std::collections::HashSet::new();
    let (mut bytes, mut folders) = (0, vec![PathBuf::from(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                Ok(metadata) if seen.insert(metadata.ino()) => bytes += metadata.len(),
                _ => {}
            }
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "it is divided by a million")]
    let bytes = bytes as f64;
    bytes
}

/// All processes of a node, and those of them that have ended and that nobody has waited for.
fn processes_in(folder: &Path) -> Result<[usize; 2]> {
    let mut found = [0, 0];
    for entry in fs::read_dir(folder)?.flatten() {
        let name = entry.file_name();
        if !name.to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default(); // it may be gone
        found[0] += 1;
        found[1] += usize::from(
            stat.rsplit_once(") ")
                .is_some_and(|(_, rest)| rest.starts_with('Z')),
        );
    }
    Ok(found)
}

#[expect(clippy::cast_precision_loss, reason = "a small number")]
fn number(count: usize) -> f64 {
    count as f64
}
