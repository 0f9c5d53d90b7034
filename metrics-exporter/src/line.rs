//! Lines of a stream that comes in pieces. Of a line that was split only the ends are kept, so that no line takes memory.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

/// How much of a split line's start is kept.
const PREFIX: usize = 256;
/// How much of its end.
const SUFFIX: usize = 16;

/// Puts a line together.
#[derive(Debug, Default)]
pub struct Line {
    prefix: Vec<u8>,
    suffix: [u8; SUFFIX],
    suffix_length: usize,
    length: usize,
    is_done: bool,
}

/// A line without its end.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    prefix: &'a [u8],
    suffix: &'a [u8],
}

impl<'a> Text<'a> {
    /// All of it, or its first part.
    pub fn prefix(&self) -> &'a [u8] {
        self.prefix
    }

    /// All of it, or its last part.
    pub fn suffix(&self) -> &'a [u8] {
        self.suffix
    }

    /// Whether nothing of it is missing.
    pub fn is_whole(&self) -> bool {
        std::ptr::eq(self.prefix, self.suffix)
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.prefix.is_empty()
    }

    /// A line that comes in one piece. Of a long one only the ends are looked at all the same: what is found must not depend on
    /// how the stream was cut.
    fn of(line: &'a [u8]) -> Self {
        if line.len() > PREFIX {
            return Self::ends(&line[..PREFIX], &line[line.len() - SUFFIX..]);
        }
        let line = without_return(line);
        Self {
            prefix: line,
            suffix: line,
        }
    }

    fn ends(prefix: &'a [u8], suffix: &'a [u8]) -> Self {
        let suffix = without_return(suffix);
        Self { prefix, suffix }
    }
}

impl Line {
    /// Takes bytes up to the line's end. `None` if that is still to come: then all bytes are taken.
    pub fn take<'a, 'b: 'a>(&'a mut self, bytes: &mut &'b [u8]) -> Option<Text<'a>> {
        if self.is_done {
            self.clear();
        }
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            self.keep(bytes);
            *bytes = &[];
            return None;
        };
        let line = &bytes[..end];
        *bytes = &bytes[end + 1..];
        if self.length == 0 {
            return Some(Text::of(line));
        }
        self.keep(line);
        self.is_done = true;
        Some(self.text())
    }

    /// The first part of a line whose end is still to come.
    pub fn so_far(&self) -> &[u8] {
        &self.prefix
    }

    /// Begins anew.
    pub fn clear(&mut self) {
        *self = Self {
            prefix: std::mem::take(&mut self.prefix),
            ..Self::default()
        };
        self.prefix.clear();
    }

    fn text(&self) -> Text<'_> {
        if self.length <= self.prefix.len() {
            return Text::of(&self.prefix);
        }
        Text::ends(&self.prefix, &self.suffix[..self.suffix_length])
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = PREFIX - self.prefix.len();
        self.prefix.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.length = self.length.saturating_add(bytes.len());
        let fresh = &bytes[bytes.len().saturating_sub(SUFFIX)..];
        let old = self.suffix_length.min(SUFFIX - fresh.len());
        self.suffix
            .copy_within(self.suffix_length - old..self.suffix_length, 0);
        self.suffix[old..old + fresh.len()].copy_from_slice(fresh);
        self.suffix_length = old + fresh.len();
    }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is seen of the lines of a text that comes in pieces of one size.
    fn lines(text: &[u8], size: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut line = Line::default();
        let mut seen = Vec::new();
        for mut piece in text.chunks(size) {
            while !piece.is_empty() {
                if let Some(text) = line.take(&mut piece) {
                    seen.push((text.prefix().to_vec(), text.suffix().to_vec()));
                }
            }
        }
        seen
    }

    #[test]
    fn short_lines_are_whole_however_they_come() {
        let both = |line: &[u8]| (line.to_vec(), line.to_vec());
        let expected = [
            both(b"one"),
            both(b""),
            both(b"a longer line than the end that is kept"),
        ];
        for size in [1, 2, 3, 5, 7, 100] {
            let text = b"one\r\n\na longer line than the end that is kept\r\npart";
            assert_eq!(lines(text, size), expected, "{size}");
        }
    }

    #[test]
    fn of_long_lines_the_ends_are_kept() {
        let mut text = b"start ".to_vec();
        text.extend(vec![b'x'; 100_000]);
        text.extend(b" the very end of it\r\n");
        for size in [1, 2, 15, 16, 17, 1000, 1_000_000] {
            let seen = lines(&text, size);
            assert_eq!(seen.len(), 1);
            assert!(seen[0].0.starts_with(b"start xxx") && seen[0].0.len() == PREFIX);
            assert!(seen[0].1.ends_with(b"very end of it"), "{size}");
        }
    }

    #[test]
    fn a_long_line_is_seen_the_same_whether_it_was_split_or_not() {
        for length in [PREFIX - 1, PREFIX, PREFIX + 1, PREFIX + SUFFIX, 1000] {
            let text = [&vec![b'x'; length][..], b"end\r\n"].concat();
            assert_eq!(lines(&text, text.len()), lines(&text, 7), "{length}");
        }
    }
}
