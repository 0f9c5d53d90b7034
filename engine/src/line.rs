//! The one line that the engine writes when it has to say something.
//!
//! Names in it come from the image, and whoever reads the container's log must not be fooled by
//! them: control characters are escaped, and the length is bounded, so that the line is one line and
//! reaches a pipe in one piece.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::error::Error;
use std::fmt::Write as _;
use std::iter;

/// The longest line, with its line feed: what POSIX writes to a pipe without interleaving is at least 512
/// bytes, on Linux 4096.
pub const MAX_LINE_BYTES: usize = 1024;

/// The longest part of a line that is quoted from the image.
const MAX_QUOTED_CHARS: usize = 160;

/// A message with the project's name before it and a line feed behind it.
pub fn line(message: &str) -> String {
    one_line("podwasm", message)
}

/// A message with a program's name before it and a line feed behind it.
pub fn one_line(program: &str, message: &str) -> String {
    let mut line = format!("{program}: ");
    for c in message.chars() {
        let before = line.len();
        push_escaped(&mut line, c);
        if line.len() > MAX_LINE_BYTES - "...\n".len() {
            line.truncate(before);
            line.push_str("...");
            break;
        }
    }
    line.push('\n');
    line
}

/// An error with its causes.
pub fn with_causes(error: &dyn Error) -> String {
    let causes = iter::successors(error.source(), |&cause| cause.source());
    // WasmEdge's errors repeat their cause as their own text.
    causes.fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.ends_with(&cause) {
            text
        } else {
            format!("{text}: {cause}")
        }
    })
}

/// Bytes from the image in double quotes, shortened when there are too many.
pub fn quoted(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut quoted = String::from('"');
    for (at, c) in text.chars().enumerate() {
        if at == MAX_QUOTED_CHARS {
            quoted.push_str("...");
            break;
        }
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c => push_escaped(&mut quoted, c),
        }
    }
    quoted.push('"');
    quoted
}

fn push_escaped(text: &mut String, c: char) {
    if c.is_control() || is_invisible(c) {
        write!(text, "\\u{{{:x}}}", u32::from(c)).expect("writing to a string cannot fail");
    } else {
        text.push(c);
    }
}

/// Line and paragraph separators, and characters that change the direction of the text around them.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_carries_the_name_and_ends() {
        assert_eq!(line("trap: unreachable"), "podwasm: trap: unreachable\n");
    }

    #[test]
    fn a_line_is_one_line_whatever_is_in_it() {
        let line = line("a\nb\r\x1b[31mc\u{2028}d\0");
        assert_eq!(line, "podwasm: a\\u{a}b\\u{d}\\u{1b}[31mc\\u{2028}d\\u{0}\n");
    }

    #[test]
    fn a_long_line_is_cut_at_a_character() {
        let line = line(&"ü\x07".repeat(MAX_LINE_BYTES));
        assert!(line.len() <= MAX_LINE_BYTES, "{}", line.len());
        assert!(line.ends_with("...\n"), "{line}");
    }

    #[test]
    fn quotes_hold_what_they_quote() {
        assert_eq!(quoted(b"app.wasm"), r#""app.wasm""#);
        assert_eq!(quoted(br#"a"b\c"#), r#""a\"b\\c""#);
        assert_eq!(quoted(b"\xff\n"), "\"\u{fffd}\\u{a}\"");
        assert_eq!(quoted("x".repeat(500).as_bytes()).len(), 160 + 5);
    }
}
