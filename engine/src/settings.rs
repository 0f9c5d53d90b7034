//! What may differ from one container to the next, beyond what the container itself says.
//!
//! The plugin passes it in one environment variable, [`VARIABLE`], which the guest does not see: lines of `key=value`. A key that
//! is left out has its default; one that is not known is an error, because an older engine would otherwise ignore what was
//! asked of it.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::proposal::Proposal;

/// The variable that carries the settings.
pub const VARIABLE: &str = "PODWASM_SETTINGS";

/// Bytes in a page of WebAssembly memory.
pub const PAGE_BYTES: u64 = 64 * 1024;

/// The most pages that a memory can have: 4 GiB.
pub const MAX_PAGES: u32 = 65536;

/// How long the name of a build is: so many hexadecimal digits, in lower case.
pub const BUILD_LENGTH: usize = 16;

/// How the guest is to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whose native code may be run, by the name of the build that stands in the files' names; `None` to interpret.
    pub compiled: Option<String>,
    /// How long the guest goes on after it was asked to end; in whole milliseconds.
    pub drain: Duration,
    /// The most memory the guest can grow to, in pages; at most [`MAX_PAGES`].
    pub memory_pages: u32,
    /// Names of the plugins to load.
    pub plugins: Vec<String>,
    /// All that the guest sees of the file system besides its working directory; `None` for everything.
    pub preopens: Option<Vec<Preopen>>,
    /// What the module may use beyond version 2.0 of the core specification.
    pub proposals: Vec<Proposal>,
    /// Whether the guest may open sockets.
    pub sockets: bool,
    /// The most memory for the guest's call stack in the interpreter. A native process has 8 MiB by
    /// default; a value takes 16 bytes here.
    pub stack_bytes: usize,
    /// How long to wait for native code before the module is interpreted; in whole milliseconds.
    pub wait: Duration,
}

/// A folder that the guest may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preopen {
    /// Its path, the same for guest and container.
    pub path: String,
    /// Whether it may only be read.
    pub read_only: bool,
}

/// A text that is no settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{VARIABLE} has the line {line:?}, which this engine does not know")]
pub struct SettingsError {
    line: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            compiled: None,
            drain: Duration::ZERO,
            memory_pages: MAX_PAGES,
            plugins: Vec::new(),
            preopens: None,
            proposals: Vec::new(),
            sockets: true,
            stack_bytes: 16 << 20,
            wait: Duration::ZERO,
        }
    }
}

impl Settings {
    fn set(&mut self, key: &str, value: &str) -> Option<()> {
        match key {
            "compiled" => self.compiled = Some(build(value)?),
            "drain_ms" => self.drain = milliseconds(value)?,
            "memory_pages" => self.memory_pages = value.parse().ok().filter(|pages| *pages <= MAX_PAGES)?,
            "plugin" => self.plugins.push(value.to_owned()),
            "preopens" if value == "mounts" => drop(self.preopens.get_or_insert_default()),
            "preopen" => self.preopens.get_or_insert_default().push(Preopen::parse(value)?),
            "proposal" => self.proposals.push(value.parse().ok()?),
            "sockets" => self.sockets = on_or_off(value)?,
            "stack_bytes" => self.stack_bytes = value.parse().ok()?,
            "wait_ms" => self.wait = milliseconds(value)?,
            _ => return None,
        }
        Some(())
    }
}

impl Preopen {
    fn parse(text: &str) -> Option<Self> {
        let (mode, path) = text.split_once(':')?;
        let read_only = match mode {
            "ro" => true,
            "rw" => false,
            _ => return None,
        };
        let path = path.to_owned();
        path.starts_with('/').then_some(Self { path, read_only })
    }
}

/// It becomes part of a path.
fn build(value: &str) -> Option<String> {
    let digits = value
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (digits && value.len() == BUILD_LENGTH).then(|| value.to_owned())
}

fn milliseconds(value: &str) -> Option<Duration> {
    Some(Duration::from_millis(value.parse().ok()?))
}

fn on_or_off(value: &str) -> Option<bool> {
    match value {
        "off" => Some(false),
        "on" => Some(true),
        _ => None,
    }
}

impl FromStr for Settings {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        let mut settings = Self::default();
        // Not `lines()`, which would take a `\r` off a path's end.
        for line in text.split_terminator('\n') {
            let known = line
                .split_once('=')
                .and_then(|(key, value)| settings.set(key, value));
            known.ok_or_else(|| SettingsError {
                line: line.to_owned(),
            })?;
        }
        Ok(settings)
    }
}

/// The value of [`VARIABLE`]: what differs from the defaults. Empty where nothing does.
impl fmt::Display for Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let defaults = Self::default();
        let mut lines = Vec::new();
        lines.extend(self.compiled.iter().map(|build| format!("compiled={build}")));
        if self.drain != defaults.drain {
            lines.push(format!("drain_ms={}", self.drain.as_millis()));
        }
        if self.memory_pages != defaults.memory_pages {
            lines.push(format!("memory_pages={}", self.memory_pages));
        }
        lines.extend(self.plugins.iter().map(|name| format!("plugin={name}")));
        if let Some(preopens) = &self.preopens {
            lines.push("preopens=mounts".to_owned());
            let mode = |preopen: &Preopen| if preopen.read_only { "ro" } else { "rw" };
            lines.extend(
                preopens
                    .iter()
                    .map(|preopen| format!("preopen={}:{}", mode(preopen), preopen.path)),
            );
        }
        let proposals = self.proposals.iter();
        lines.extend(proposals.map(|proposal| format!("proposal={proposal}")));
        if self.sockets != defaults.sockets {
            lines.push("sockets=off".to_owned());
        }
        if self.stack_bytes != defaults.stack_bytes {
            lines.push(format!("stack_bytes={}", self.stack_bytes));
        }
        if self.wait != defaults.wait {
            lines.push(format!("wait_ms={}", self.wait.as_millis()));
        }
        formatter.write_str(&lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &Settings) {
        assert_eq!(text.parse().as_ref(), Ok(expected));
        assert_eq!(expected.to_string(), text);
    }

    #[test]
    fn a_path_that_ends_in_a_carriage_return_keeps_it() {
        let preopen = Preopen {
            path: "/a\r".to_owned(),
            read_only: true,
        };
        check(
            "preopens=mounts\npreopen=ro:/a\r",
            &Settings {
                preopens: Some(vec![preopen]),
                ..Settings::default()
            },
        );
    }

    #[test]
    fn what_is_written_is_read() {
        check("", &Settings::default());
        check(
            "compiled=0123456789abcdef\nwait_ms=3000",
            &Settings {
                compiled: Some("0123456789abcdef".to_owned()),
                wait: Duration::from_secs(3),
                ..Settings::default()
            },
        );
        check(
            "drain_ms=2500",
            &Settings {
                drain: Duration::from_millis(2500),
                ..Settings::default()
            },
        );
        check(
            "memory_pages=800",
            &Settings {
                memory_pages: 800,
                ..Settings::default()
            },
        );
        check(
            "sockets=off",
            &Settings {
                sockets: false,
                ..Settings::default()
            },
        );
        check(
            "proposal=gc\nproposal=tail-call",
            &Settings {
                proposals: vec![Proposal::Gc, Proposal::TailCall],
                ..Settings::default()
            },
        );
        check(
            "stack_bytes=1048576",
            &Settings {
                stack_bytes: 1 << 20,
                ..Settings::default()
            },
        );
        check(
            "preopens=mounts",
            &Settings {
                preopens: Some(Vec::new()),
                ..Settings::default()
            },
        );
        let plugins = vec!["wasi_nn".to_owned(), "other".to_owned()];
        check(
            "plugin=wasi_nn\nplugin=other",
            &Settings {
                plugins,
                ..Settings::default()
            },
        );
        let preopens = vec![
            Preopen {
                path: "/data".to_owned(),
                read_only: false,
            },
            Preopen {
                path: "/etc/a:b=c".to_owned(),
                read_only: true,
            },
        ];
        let preopens = Some(preopens);
        check(
            "preopens=mounts\npreopen=rw:/data\npreopen=ro:/etc/a:b=c",
            &Settings {
                preopens,
                ..Settings::default()
            },
        );
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        for line in [
            "colour=blue",
            "compiled=",
            "compiled=0123456789abcde",
            "compiled=0123456789ABCDEF",
            "compiled=../../../../etc1",
            "wait_ms=3s",
            "wait_ms=-1",
            "sockets=maybe",
            "memory_pages=65537",
            "memory_pages=-1",
            "preopen=/data",
            "preopen=rw:data",
            "x",
            "preopens=all",
            "proposal=all",
        ] {
            let error = format!("drain_ms=1\n{line}").parse::<Settings>().unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("PODWASM_SETTINGS has the line {line:?}, which this engine does not know")
            );
        }
    }
}
