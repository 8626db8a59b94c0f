//! Splits the input of an import into lines.

use std::io::{self, BufRead, Read};

/// The largest number of bytes of a line that is imported: 64 MiB. It bounds the memory of an import.
pub const MAX_LINE_BYTES: usize = 64 << 20;

/// A reader of lines, which counts them.
pub(super) struct LineReader<R> {
    input: R,
    /// The number of lines that have been read.
    lines: u64,
    line: Vec<u8>,
    max_bytes: usize,
}

/// A line without its end.
#[derive(Debug, PartialEq)]
pub(super) enum RawLine<'a> {
    Text(&'a [u8]),
    /// The line has more bytes than the reader accepts.
    TooLong,
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

impl<R: BufRead> LineReader<R> {
    pub(super) fn new(input: R, max_bytes: usize) -> Self {
        LineReader {
            input,
            lines: 0,
            line: Vec::new(),
            max_bytes,
        }
    }

    /// Returns the number of lines that have been read: that of the current one.
    pub(super) fn lines(&self) -> u64 {
        self.lines
    }

    /// Skips a line. Returns `false` at the end.
    pub(super) fn skip(&mut self) -> io::Result<bool> {
        let skipped = self.input.skip_until(b'\n')? > 0;
        self.lines += u64::from(skipped);
        Ok(skipped)
    }

    /// Returns the next line, or `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<RawLine<'_>>> {
        // A large line does not keep its memory.
        self.line.clear();
        self.line.shrink_to(1 << 20);
        // A carriage return and a newline are not part of the line.
        let limit = self.max_bytes as u64 + 2;
        let read = self
            .input
            .by_ref()
            .take(limit)
            .read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Ok(None);
        }
        self.lines += 1;
        let mut line = self.line.as_slice();
        let is_complete = line.ends_with(b"\n");
        line = line.strip_suffix(b"\n").unwrap_or(line);
        line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > self.max_bytes {
            if !is_complete {
                self.input.skip_until(b'\n')?;
            }
            return Ok(Some(RawLine::TooLong));
        }
        if self.lines == 1 {
            line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        }
        Ok(Some(RawLine::Text(line)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the lines of `input`, with `None` for one of more than five bytes.
    fn lines(input: &[u8]) -> Vec<Option<String>> {
        // A buffer of one byte, so that each line spans several.
        let buffered = io::BufReader::with_capacity(1, input);
        let mut reader = LineReader::new(buffered, 5);
        let mut lines = Vec::new();
        while let Some(line) = reader.next().unwrap() {
            lines.push(match line {
                RawLine::Text(text) => Some(String::from_utf8(text.to_vec()).unwrap()),
                RawLine::TooLong => None,
            });
            assert_eq!(reader.lines(), lines.len() as u64);
        }
        assert_eq!(reader.next().unwrap(), None);
        lines
    }

    fn text(lines: &[&str]) -> Vec<Option<String>> {
        lines.iter().map(|line| Some((*line).to_owned())).collect()
    }

    #[test]
    fn lines_end_with_a_newline_or_the_end_of_the_input() {
        assert_eq!(lines(b""), []);
        assert_eq!(lines(b"\n"), text(&[""]));
        assert_eq!(lines(b"a\nbc\n"), text(&["a", "bc"]));
        assert_eq!(lines(b"a\r\n\r\nbc"), text(&["a", "", "bc"]));
        assert_eq!(
            lines("\u{feff}a\n\u{feff}\n".as_bytes()),
            text(&["a", "\u{feff}"])
        );
    }

    #[test]
    fn a_line_that_is_too_long_does_not_hide_the_next_one() {
        assert_eq!(lines(b"12345\n12345\r\n12345"), text(&["12345"; 3]));
        for long in ["123456", "1234567", "12345678901234567890"] {
            for end in ["\n", "\r\n"] {
                let input = format!("a{end}{long}{end}b{end}{long}");
                let found = lines(input.as_bytes());
                let expected = [Some("a".into()), None, Some("b".into()), None];
                assert_eq!(found, expected, "{input:?}");
            }
        }
    }

    #[test]
    fn skipped_lines_are_counted() {
        let mut reader = LineReader::new(&b"a\nb\nc"[..], 5);
        assert!(reader.skip().unwrap() && reader.skip().unwrap());
        assert_eq!(reader.next().unwrap(), Some(RawLine::Text(b"c")));
        assert_eq!(reader.lines(), 3);
        assert!(!reader.skip().unwrap());
        assert_eq!(reader.lines(), 3);
    }
}
