//! Why a program could not be run, or how it failed.
//!
//! The text says everything (quoted argv, exit status or signal, last lines of its output), and
//! never holds a secret: values given as secrets are masked where output enters the error.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use super::quote::{quote, quote_all};
use super::tool::Program;

/// What went wrong with one program.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// `argv[0]` is neither a bare name nor an absolute path.
    #[error("{} cannot be a program: {why}", quote(.name))]
    BadProgram {
        /// As given.
        name: OsString,
        /// The rule it breaks.
        why: &'static str,
    },
    /// There is no such program.
    #[error("{}", not_found(.program, .dirs))]
    NotFound {
        /// What was looked for.
        program: Program,
        /// Where.
        dirs: Vec<PathBuf>,
    },
    /// There is no such program inside the tree it was to run in.
    #[error("{} is not in the tree {}; the image lacks it", quote(.program.name()), quote(.root))]
    NotInTree {
        /// What was to run.
        program: Program,
        /// The chroot.
        root: PathBuf,
    },
    /// The kernel would not start it.
    #[error("starting {argv}: {error}")]
    Spawn {
        /// Quoted.
        argv: String,
        /// The kernel's reason.
        error: io::Error,
    },
    /// It ended with another status than 0.
    #[error("{argv} {}{}", ended(*.status), said(.tail))]
    Failed {
        /// Quoted.
        argv: String,
        /// Exit code or signal.
        status: ExitStatus,
        /// Last lines of its stderr (of stdout where stderr is empty), secrets masked.
        tail: String,
    },
    /// It was stopped because it took too long.
    #[error("{argv} was stopped after {} seconds without an end{}", .after.as_secs_f32(), said(.tail))]
    TimedOut {
        /// Quoted.
        argv: String,
        /// The limit that was set.
        after: Duration,
        /// Last lines of its output.
        tail: String,
    },
    /// It was stopped because the caller asked for that.
    #[error("{argv} was stopped on request")]
    Cancelled {
        /// Quoted.
        argv: String,
    },
    /// It printed more than the caller takes.
    #[error("{argv} printed more than {limit} bytes and was stopped")]
    TooMuchOutput {
        /// Quoted.
        argv: String,
        /// The limit, bytes.
        limit: usize,
    },
    /// Its output is not what was asked for.
    #[error("{argv} printed what cannot be read as {expected}: {why}")]
    BadOutput {
        /// Quoted.
        argv: String,
        /// `text`, `JSON`.
        expected: &'static str,
        /// The parser's reason and place.
        why: String,
    },
    /// Talking to it failed.
    #[error("{doing} {argv}: {error}")]
    Io {
        /// A gerund: `reading the output of`.
        doing: &'static str,
        /// Quoted.
        argv: String,
        /// The kernel's reason.
        error: io::Error,
    },
}

/// How a program ended, for people: `exited with status 2`, `was killed by signal 9`.
#[must_use]
pub fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

fn said(tail: &str) -> String {
    match tail.lines().count() {
        0 => String::new(),
        1 => format!(": {tail}"),
        _ => format!(":\n  {}", tail.replace('\n', "\n  ")),
    }
}

fn not_found(program: &Program, dirs: &[PathBuf]) -> String {
    let places = quote_all(dirs);
    match program {
        Program::Tool(tool) => format!(
            "{}, needed to {}, was not found in {places}; install the package {}",
            tool.name(),
            tool.purpose(),
            tool.package()
        ),
        Program::Name(name) => {
            format!("{} was not found in {places}; install it, or give its absolute path", quote(name))
        }
        Program::File(path) => format!("{} is not an executable file", quote(path)),
    }
}

impl CommandError {
    /// The exit status, where the program ran to an end by itself.
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        match self {
            Self::Failed { status, .. } => Some(*status),
            _ => None,
        }
    }
}
