//! Why the bridge failed, carried from its process to the plugin: a line on standard error, read back from among rsync's own.

use std::fmt;

use systemimager_core::{ErrorKind, Exit, PluginError, Result, Source};

/// What begins such a line.
const MARK: &str = "systemimager-ssh: ";

/// Why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    kind: ErrorKind,
    message: String,
}

impl Reason {
    /// One side does not take the other.
    pub fn denied(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Denied, message: message.into() }
    }

    /// There is no way there, or not any more.
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Unreachable, message: message.into() }
    }

    /// Anything else.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Failed, message: message.into() }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.kind {
            ErrorKind::Denied => "denied",
            ErrorKind::Unreachable => "unreachable",
            _ => "failed",
        };
        // A line: what the other side said may hold anything.
        let message: String =
            self.message.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
        write!(out, "{MARK}{word}: {}", message.trim())
    }
}

fn read(line: &str) -> Option<Reason> {
    let (word, message) = line.strip_prefix(MARK)?.split_once(": ")?;
    let message = message.to_owned();
    Some(match word {
        "denied" => Reason::denied(message),
        "unreachable" => Reason::unreachable(message),
        "failed" => Reason::failed(message),
        _ => return None,
    })
}

/// The error that the bridge told of, if rsync failed for it.
///
/// # Errors
/// That one.
pub fn of(from: &Source, exit: &Exit, cancelled: bool) -> Result<()> {
    // 10, 12, 30 and 35 are rsync's words for a connection that failed; 255 is the bridge's own. Others have reasons of their own: a
    // disk that is full on this side, say.
    if !matches!(exit.code, Some(10 | 12 | 30 | 35 | 255)) || cancelled {
        return Ok(());
    }
    let Some(reason) = exit.stderr.lines().find_map(read) else { return Ok(()) };
    Err(PluginError::new(reason.kind, reason.message).with("export", from.export.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for reason in [Reason::denied("a: b"), Reason::unreachable("x"), Reason::failed("two\nlines")] {
            let line = reason.to_string();
            assert_eq!(line.lines().count(), 1);
            let back = read(&line).unwrap();
            assert_eq!((back.kind, back.message), (reason.kind, reason.message.replace('\n', " ")));
        }
        for other in ["rsync error: x", "systemimager-ssh: odd: x", "systemimager-ssh: denied"] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn only_failures_have_reasons() {
        let from = Source::default();
        let exit = |code| Exit { code: Some(code), stderr: Reason::denied("no").to_string(), ..Exit::default() };
        assert!(of(&from, &exit(0), false).is_ok());
        assert!(of(&from, &exit(12), true).is_ok());
        assert!(of(&from, &exit(11), false).is_ok(), "a disk that is full is no refusal");
        assert_eq!(of(&from, &exit(12), false).unwrap_err().kind, ErrorKind::Denied);
    }
}
