//! The end of a stream in bounded memory, and the cutting of a stream into lines.
//!
//! Programs may print without end; an error message wants their last lines only.

use std::collections::VecDeque;

/// How much of a stream is kept for an error message, bytes.
pub(super) const TAIL_BYTES: usize = 8 * 1024;
/// How many lines of it are shown.
const TAIL_LINES: usize = 12;
/// A "line" longer than this is handed on in pieces, bytes.
const LINE_BYTES: usize = 64 * 1024;

/// The last [`TAIL_BYTES`] of a stream.
#[derive(Debug, Default, Clone)]
pub(super) struct Tail {
    bytes: VecDeque<u8>,
}

impl Tail {
    /// Appends, forgetting the oldest.
    pub(super) fn push(&mut self, chunk: &[u8]) {
        let chunk = &chunk[chunk.len().saturating_sub(TAIL_BYTES)..];
        let excess = (self.bytes.len() + chunk.len()).saturating_sub(TAIL_BYTES);
        self.bytes.drain(..excess);
        self.bytes.extend(chunk);
    }

    /// The last lines as text, without blank ones; what a progress bar overwrote with carriage
    /// returns is left out, and so are control characters.
    pub(super) fn text(&self, secrets: &Secrets) -> String {
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        let text = secrets.mask(&String::from_utf8_lossy(&bytes));
        let lines: Vec<String> = text.lines().map(clean).filter(|l| !l.is_empty()).collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

/// A line as a terminal would show it at its end: after the last carriage return, no controls.
fn clean(line: &str) -> String {
    let shown = line.trim_end().rsplit('\r').next().unwrap_or_default();
    shown.chars().filter(|c| !c.is_control() || *c == '\t').collect::<String>().trim_end().to_owned()
}

/// Cuts a byte stream into lines at `\n` and `\r` (progress), bounded in memory.
#[derive(Debug, Default)]
pub(super) struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Feeds bytes; calls `line` for each complete line that is not empty.
    pub(super) fn push(&mut self, chunk: &[u8], line: &mut dyn FnMut(&str)) {
        for piece in chunk.split_inclusive(|b| matches!(b, b'\n' | b'\r')) {
            self.partial.extend_from_slice(piece);
            if matches!(piece.last(), Some(b'\n' | b'\r')) || self.partial.len() >= LINE_BYTES {
                self.flush(line);
            }
        }
    }

    /// Hands out what has no line end yet.
    pub(super) fn flush(&mut self, line: &mut dyn FnMut(&str)) {
        let text = String::from_utf8_lossy(&self.partial);
        let text = text.trim_end_matches(['\n', '\r']);
        if !text.is_empty() {
            line(text);
        }
        self.partial.clear();
    }
}

/// Values that may never be shown: they are replaced wherever program output goes to people.
#[derive(Default, Clone)]
pub(super) struct Secrets(Vec<String>);

impl Secrets {
    /// Adds one; an empty one is ignored (it would match everywhere).
    pub(super) fn add(&mut self, secret: &std::ffi::OsStr) {
        let secret = secret.to_string_lossy().into_owned();
        if !secret.is_empty() {
            self.0.push(secret);
        }
    }

    /// The text with every secret replaced by `***`.
    pub(super) fn mask(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"))
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_keeps_the_last_lines() {
        let mut secrets = Secrets::default();
        secrets.add("hunter2".as_ref());
        secrets.add("".as_ref());
        let many: String = (0..5000).map(|n| format!("line {n}\n")).collect();
        let rows: &[(&str, &[u8], &str)] = &[
            ("one line", b"no space left\n", "no space left"),
            ("no line end", b"a\nb", "a\nb"),
            ("blank lines", b"\n\na\n \n", "a"),
            ("progress", b" 10%\r 50%\r100%\ndone\n", "100%\ndone"),
            ("dos line end", b"a\r\nb\r\n", "a\nb"),
            ("terminal escape", b"\x1b[31mred\n", "[31mred"),
            ("secret", b"user hunter2 refused\n", "user *** refused"),
        ];
        for (name, input, expected) in rows {
            let mut tail = Tail::default();
            for byte in *input {
                tail.push(&[*byte]);
            }
            assert_eq!(tail.text(&secrets), *expected, "{name}");
        }
        let mut tail = Tail::default();
        tail.push(many.as_bytes());
        assert!(tail.text(&secrets).ends_with("line 4998\nline 4999"));
        assert_eq!(tail.text(&secrets).lines().count(), TAIL_LINES);
        assert_eq!(tail.bytes.len(), TAIL_BYTES);
    }

    #[test]
    fn lines_are_cut_across_chunks() {
        let mut seen = Vec::new();
        let mut lines = Lines::default();
        for chunk in [&b"ab"[..], b"c\nd\r", b"\n", b"e"] {
            lines.push(chunk, &mut |l| seen.push(l.to_owned()));
        }
        lines.flush(&mut |l| seen.push(l.to_owned()));
        assert_eq!(seen, ["abc", "d", "e"]);
    }
}
