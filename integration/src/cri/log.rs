//! A container's log file: each line has a time, a stream, a mark for parts of long lines, and the text.

use anyhow::{Context as _, Result, bail};

/// A container's output by stream. A last line without its end cannot be told from one with it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Logs {
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Logs {
    /// Reads a log file's content; bytes that are not UTF-8 are replaced.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut logs = Self::default();
        for line in String::from_utf8_lossy(bytes).split_inclusive('\n') {
            let line = line.strip_suffix('\n').unwrap_or(line);
            logs.add(line).with_context(|| format!("log line {line:?}"))?;
        }
        Ok(logs)
    }

    fn add(&mut self, line: &str) -> Result<()> {
        let mut fields = line.splitn(4, ' ');
        let _time = fields.next();
        let stream = match fields.next() {
            Some("stderr") => &mut self.stderr,
            Some("stdout") => &mut self.stdout,
            other => bail!("no stream of a container: {other:?}"),
        };
        let tag = fields.next().context("no tag")?;
        stream.push_str(fields.next().context("no text")?);
        match tag {
            "F" => stream.push('\n'),
            "P" => {}
            other => bail!("neither a full nor a partial line: {other:?}"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(log: &str, stdout: &str, stderr: &str) {
        let expected = Logs {
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
        };
        assert_eq!(Logs::parse(log.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn streams_are_kept_apart() {
        check(
            "T stdout F a b\nT stderr F oh\nT stdout F c\n",
            "a b\nc\n",
            "oh\n",
        );
    }

    #[test]
    fn parts_of_a_line_are_joined() {
        check(
            "T stdout P long \nT stderr F x\nT stdout F line\n",
            "long line\n",
            "x\n",
        );
    }

    #[test]
    fn empty_lines_count() {
        check("T stdout F \nT stdout F  indented\n", "\n indented\n", "");
    }

    #[test]
    fn what_is_not_a_log_is_an_error() {
        for log in ["nonsense\n", "T stdin F x\n", "T stdout Q x\n", "T stdout F\n"] {
            assert!(Logs::parse(log.as_bytes()).is_err(), "{log:?}");
        }
    }
}
