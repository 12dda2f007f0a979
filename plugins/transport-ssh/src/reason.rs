//! Why the bridge failed, carried from its process to the plugin: a line on standard error, read back from among rsync's own.

use std::fmt;

use systemimager_core::{ErrorKind, Exit, PluginError, Result, Source};

/// What ends one where the line before says more.
const SAID_BEFORE: &str = " (as said before)";
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

    /// The same, where another program has said why before: its last line goes with it, and may say that it was not let in.
    pub fn said_before(self) -> Self {
        Self { message: self.message + SAID_BEFORE, ..self }
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

/// What OpenSSH's client says where it is not let in, or the other side is another.
const DENIED: [&str; 3] =
    ["Permission denied", "Host key verification failed", "REMOTE HOST IDENTIFICATION HAS CHANGED"];

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
    let Some(mut reason) = exit.stderr.lines().find_map(read) else { return Ok(()) };
    if let Some(why) = reason.message.strip_suffix(SAID_BEFORE).map(str::to_owned) {
        let said = exit.stderr.lines().take_while(|line| read(line).is_none());
        let said: Vec<&str> = said.map(str::trim).filter(|line| !line.is_empty()).collect();
        if said.iter().any(|line| DENIED.iter().any(|words| line.contains(words))) {
            reason.kind = ErrorKind::Denied;
        }
        reason.message = format!("{why}: {}", said.last().unwrap_or(&"it does not say why"));
    }
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
    fn what_another_program_said_goes_with_it() {
        let of = |said: &str| {
            let stderr = format!("{said}\n{}\nrsync error: x", Reason::unreachable("no way").said_before());
            of(&Source::default(), &Exit { code: Some(12), stderr, ..Exit::default() }, false).unwrap_err()
        };
        let error = of("ssh: connect to host h port 1: Connection refused");
        assert_eq!(error.kind, ErrorKind::Unreachable);
        assert_eq!(error.message, "no way: ssh: connect to host h port 1: Connection refused");
        for said in ["root@h: Permission denied (publickey).", "x\nHost key verification failed."] {
            assert_eq!(of(said).kind, ErrorKind::Denied, "{said}");
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
