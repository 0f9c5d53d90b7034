//! When a container said its first word: the time that containerd puts before each line of a log.

use anyhow::{Context as _, Result, bail, ensure};
use podwasm_integration::prelude::ContainerHandle;
use podwasm_integration::wait::PATIENCE;
use std::time::{Duration, Instant, SystemTime};

const DAY_NANOSECONDS: u64 = 24 * 60 * 60 * 1_000_000_000;

/// A moment of the day, in nanoseconds, on the clock that logs are written by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Moment(u64);

impl Moment {
    pub fn now() -> Self {
        let since_epoch = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        let today = since_epoch % u128::from(DAY_NANOSECONDS);
        Self(u64::try_from(today).expect("a day's nanoseconds are few"))
    }

    /// From an earlier moment to this one, less than a day later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos((self.0 + DAY_NANOSECONDS - earlier.0) % DAY_NANOSECONDS)
    }

    /// Reads the time of a log line, as in `2026-11-23T23:59:59.123456789Z`; a node's time zone is UTC.
    fn parse(text: &str) -> Option<Self> {
        let (_, time) = text
            .strip_suffix('Z')
            .or(text.strip_suffix("+00:00"))?
            .split_once('T')?;
        let (whole, fraction) = time.split_once('.').unwrap_or((time, ""));
        let seconds = whole
            .split(':')
            .try_fold(0, |sum: u64, part| Some(sum * 60 + part.parse::<u64>().ok()?))?;
        let nanoseconds: u64 = format!("{fraction:0<9}").parse().ok()?;
        Some(Self(seconds * 1_000_000_000 + nanoseconds))
    }
}

/// Waits for the first line on standard output, which has to be a greeting, and says when it was written.
///
/// Looks at the log file only: questions to containerd would cost the node CPU time.
pub async fn wait(container: &ContainerHandle<'_>, pause: Duration) -> Result<Moment> {
    let (start, path) = (Instant::now(), container.log_path());
    loop {
        let log = std::fs::read_to_string(&path).unwrap_or_default(); // it may not be there yet
        if let Some(moment) = first_greeting(&log)? {
            return Ok(moment);
        }
        ensure!(
            start.elapsed() < PATIENCE,
            "no output after {PATIENCE:?}: {log:?}"
        );
        tokio::time::sleep(pause).await;
    }
}

fn first_greeting(log: &str) -> Result<Option<Moment>> {
    let whole = &log[..log.rfind('\n').map_or(0, |at| at + 1)];
    let Some(line) = whole.lines().find(|line| line.contains(" stdout ")) else {
        return Ok(None);
    };
    if !line.contains("hello from") {
        bail!("a container said something else: {whole:?}");
    }
    let time = line.split(' ').next().and_then(Moment::parse);
    time.with_context(|| format!("a log line without a time in UTC: {line:?}"))
        .map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_whole_line_on_standard_output_counts() {
        let log = "2026-11-23T00:00:01.5Z stderr F hello on stderr\n\
                   2026-11-23T00:01:00.000000007Z stdout F hello from C\n\
                   2026-11-23T00:02:00Z stdout F argv";
        assert_eq!(first_greeting(log).unwrap(), Some(Moment(60_000_000_007)));
        assert_eq!(
            first_greeting("2026-11-23T00:00:01Z stdout F hello from").unwrap(),
            None
        );
    }

    #[test]
    fn what_is_no_greeting_is_an_error() {
        for log in [
            "2026-11-23T00:00:01Z stdout F exec format error\n",
            "2026-11-23T00:00:01+02:00 stdout F hello from C\n",
            "yesterday stdout F hello from C\n",
        ] {
            assert!(first_greeting(log).is_err(), "{log:?}");
        }
    }

    #[test]
    fn midnight_is_passed() {
        let (before, after) = (Moment(DAY_NANOSECONDS - 1_000), Moment(2_000));
        assert_eq!(after.since(before), Duration::from_micros(3));
    }
}
