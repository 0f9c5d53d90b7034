//! How far the sending of blobs is: bars on a terminal, else a line for each blob.

use std::io::{self, IsTerminal as _, Write as _};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::inspect::show::size;

/// So much of a digest tells blobs apart.
const SHORT_DIGEST: usize = "sha256:".len() + 12;

/// All bars.
#[derive(Debug)]
pub struct Progress {
    bars: Option<MultiProgress>,
    is_quiet: bool,
}

/// The bar of one blob.
#[derive(Clone, Debug)]
pub struct Bar {
    shown: ProgressBar,
    label: String,
    tells: bool,
}

impl Progress {
    /// Bars where standard error is a terminal. Else lines, unless a program reads along.
    pub fn new(for_a_program: bool) -> Self {
        let is_terminal = io::stderr().is_terminal() && !for_a_program;
        Self {
            bars: is_terminal.then(MultiProgress::new),
            is_quiet: for_a_program,
        }
    }

    /// A bar for a blob.
    pub fn bar(&self, digest: &str, size_bytes: u64) -> Bar {
        let short = digest.get(..SHORT_DIGEST).unwrap_or(digest);
        let bar = match &self.bars {
            Some(bars) => bars.add(ProgressBar::new(size_bytes)),
            None => ProgressBar::hidden(),
        };
        let style =
            ProgressStyle::with_template("{prefix} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {msg}");
        bar.set_style(style.expect("the template is a constant"));
        bar.set_prefix(short.to_owned());
        Bar {
            shown: bar,
            label: format!("{short} ({})", size(size_bytes)),
            tells: self.bars.is_none() && !self.is_quiet,
        }
    }
}

impl Bar {
    /// Another try begins.
    pub fn restart(&self) {
        self.shown.set_position(0);
    }

    /// So many bytes more are on their way.
    pub fn advance(&self, bytes: u64) {
        self.shown.inc(bytes);
    }

    /// Nothing more is to come.
    pub fn done(&self, how: &str) {
        self.shown.finish_with_message(how.to_owned());
        if self.tells {
            let _ = writeln!(io::stderr(), "{}: {how}", self.label);
        }
    }
}
