//! What the kernel says of a process' memory, by its folder in `/proc`.

use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks that have to be the same.
const PAUSE: Duration = Duration::from_millis(50);

/// All mappings of a process taken together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rollup {
    /// Written to, and nobody else's.
    pub private_dirty_megabytes: f64,
    /// With a share of what others have mapped too.
    pub pss_megabytes: f64,
}

/// Pages of some mappings.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pages {
    /// In memory.
    pub resident_kilobytes: f64,
    /// Of those, mapped by others too.
    pub shared_kilobytes: f64,
}

impl Rollup {
    /// Reads it of a process.
    pub fn of(process: &Path) -> Result<Self> {
        Self::parse(&read(process, "smaps_rollup")?).context("smaps_rollup without a figure")
    }

    fn parse(text: &str) -> Option<Self> {
        let kilobytes = |name: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| kilobytes(line.strip_prefix(name)?.strip_prefix(':')?))
        };
        Some(Self {
            private_dirty_megabytes: kilobytes("Private_Dirty")? / 1e3,
            pss_megabytes: kilobytes("Pss")? / 1e3,
        })
    }
}

/// The memory of a process, once it sleeps and no longer changes.
pub async fn of_sleeping(process: &Path) -> Result<Rollup> {
    let start = Instant::now();
    let mut last = None;
    loop {
        let executed = fs::read_link(process.join("exe")).context("it has ended")?;
        let (now, state) = (Rollup::of(process)?, read(process, "stat")?);
        let sleeps = state
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('S'));
        if sleeps && !executed.ends_with("contain") && last == Some(now) {
            return Ok(now);
        }
        ensure!(
            start.elapsed() < PATIENCE,
            "{} does not come to rest",
            process.display()
        );
        last = sleeps.then_some(now);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether a process has native code of a module mapped.
pub fn has_compiled_module(process: &Path) -> Result<bool> {
    Ok(compiled_code(process)?.resident_kilobytes > 0.0)
}

/// The pages of the native code of a module that a process has mapped.
pub fn compiled_code(process: &Path) -> Result<Pages> {
    Ok(Pages::of_code(&read(process, "smaps")?))
}

impl Pages {
    /// Those that can be executed and come from a compiled module.
    fn of_code(smaps: &str) -> Self {
        let (mut pages, mut counts) = (Self::default(), false);
        for line in smaps.lines() {
            let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
            match first.strip_suffix(':') {
                None => counts = rest.starts_with("r-xp") && is_compiled_module(rest),
                Some(name) if counts => pages.add(name, kilobytes(rest).unwrap_or(0.0)),
                Some(_) => {}
            }
        }
        pages
    }

    fn add(&mut self, name: &str, kilobytes: f64) {
        match name {
            "Rss" => self.resident_kilobytes += kilobytes,
            "Shared_Clean" | "Shared_Dirty" => self.shared_kilobytes += kilobytes,
            _ => {}
        }
    }
}

fn is_compiled_module(path: &str) -> bool {
    path.ends_with("-optimised.so") || path.ends_with("-fast.so")
}

fn kilobytes(text: &str) -> Option<f64> {
    text.trim().strip_suffix(" kB")?.parse().ok()
}

fn read(process: &Path, name: &str) -> Result<String> {
    let path = process.join(name);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_by_their_whole_name() {
        let text = "5580-7ffd ---p 00000000 00:00 0 [rollup]\nPss:    240 kB\nPss_Dirty:  8 kB\nPrivate_Dirty:   52 kB\n";
        let rollup = Rollup::parse(text).unwrap();
        assert!((rollup.pss_megabytes - 0.24).abs() < 1e-9);
        assert!((rollup.private_dirty_megabytes - 0.052).abs() < 1e-9);
        assert!(Rollup::parse("Rss: 1 kB\n").is_none());
    }

    #[test]
    fn only_code_of_compiled_modules_counts() {
        let text = "7f00-7f01 r-xp 00001000 08:01 7  /.podwasm/module/ab-fast.so\nRss:   10 kB\nShared_Clean:  9 kB\n\
                    7f01-7f02 rw-p 00002000 08:01 7  /.podwasm/module/ab-fast.so\nRss:   10 kB\nShared_Clean:  0 kB\n\
                    7f02-7f03 r-xp 00002000 08:01 8  /lib/libc.so.6\nRss:   10 kB\nShared_Clean:  0 kB\n\
                    7f03-7f04 r-xp 00001000 08:01 7  /.podwasm/module/ab-optimised.so\nRss:   4 kB\nShared_Clean:  4 kB\n";
        let pages = Pages::of_code(text);
        assert!((pages.resident_kilobytes - 14.0).abs() < 1e-9);
        assert!((pages.shared_kilobytes - 13.0).abs() < 1e-9);
    }
}
