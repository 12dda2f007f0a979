//! The error of everything in `sys` that is not about a program's run.
//!
//! Each message stands alone: what failed, on which object, why, and what to do next where that is
//! known. So the cause is part of the text and not a `source()`, which callers that print the chain
//! would print twice.

use std::io;
use std::path::{Path, PathBuf};

use super::command_error::CommandError;
use super::quote::quote;

/// What went wrong in a system call, a parse of kernel data, or a refused request.
#[derive(Debug, thiserror::Error)]
pub enum SysError {
    /// A system call on one object failed.
    #[error("{doing} {}: {error}{}", quote(.object), after(.advice))]
    Io {
        /// What was being done, as a gerund: `mounting tmpfs on`.
        doing: String,
        /// The path it was done to.
        object: PathBuf,
        /// The kernel's reason. Not named `source`: the text already holds it.
        error: io::Error,
        /// What to do next; empty where the reason says enough.
        advice: String,
    },
    /// A request that is refused before anything is touched.
    #[error("{0}")]
    Refused(String),
    /// A program that was run for it failed.
    #[error(transparent)]
    Command(#[from] CommandError),
}

fn after(advice: &str) -> String {
    if advice.is_empty() { String::new() } else { format!("; {advice}") }
}

impl SysError {
    /// An I/O error without advice.
    pub fn io(doing: impl Into<String>, object: impl AsRef<Path>, error: impl Into<io::Error>) -> Self {
        Self::Io {
            doing: doing.into(),
            object: object.as_ref().to_path_buf(),
            error: error.into(),
            advice: String::new(),
        }
    }

    /// The same error with what to do next.
    #[must_use]
    pub fn advise(mut self, text: impl Into<String>) -> Self {
        if let Self::Io { advice, .. } = &mut self {
            *advice = text.into();
        }
        self
    }

    /// The kernel's error kind, where there is one.
    #[must_use]
    pub fn kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Io { error, .. } => Some(error.kind()),
            Self::Refused(_) | Self::Command(_) => None,
        }
    }
}

/// Result of most functions in `sys`.
pub type Result<T> = std::result::Result<T, SysError>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_object_and_the_way_out() {
        let e = SysError::io("opening", "/dev/sd a", io::Error::from_raw_os_error(2));
        assert_eq!(e.to_string(), "opening '/dev/sd a': No such file or directory (os error 2)");
        assert_eq!(
            e.advise("name another disk with --disk").to_string(),
            "opening '/dev/sd a': No such file or directory (os error 2); name another disk with --disk"
        );
    }
}
