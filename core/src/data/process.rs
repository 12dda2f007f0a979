//! Programs run through [`Host`](crate::Host), and what is said while they run.

use serde::{Deserialize, Serialize};

use super::{Arg, BytePath, Bytes, Secret};

/// A program to start for a transfer (transports only).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spawn {
    /// argv; the first is a program name, looked up by the host. No shell is involved. `@self` as the first means: the plugin's
    /// own [helper](crate::Transport::helper).
    pub argv: Vec<Arg>,
    /// Environment, besides a clean one (`LC_ALL=C`, `PATH`).
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Environment whose values are secrets; they stay on the host's side.
    #[serde(default)]
    pub secret_env: Vec<(String, Secret)>,
    /// Bytes given on standard input, then end of file.
    #[serde(default)]
    pub stdin: Option<Bytes>,
    /// Directory to start in; absent: `/`. Keeps paths short where a tree's own are near the limit.
    #[serde(default)]
    pub cwd: Option<BytePath>,
    /// Environment whose values are command lines that start the plugin's own [helper](crate::Transport::helper): for a program
    /// that starts another by such a line, as rsync does by `RSYNC_RSH`. The words are joined by blanks; they hold letters,
    /// digits and `+/=._:@%-` only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub helpers: Vec<HelperLine>,
}

/// An environment variable that holds the line by which a helper is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelperLine {
    /// The variable.
    pub env: String,
    /// What the helper is told, before what the program that starts it adds.
    pub words: Vec<String>,
}

/// What a [helper](crate::Transport::helper) is started with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelperCall {
    /// The words of its command line, without the program.
    pub words: Vec<BytePath>,
}

/// How a helper goes on when its method returns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HelperEnd {
    /// It ends with this exit status.
    Exit(i32),
    /// It becomes this program, in the same process.
    Becomes(Vec<Arg>),
    /// This program runs, with the helper's own standard streams, and the helper ends as it does.
    Runs(HelperRun),
}

/// A program that a helper runs, and what it needs meanwhile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelperRun {
    /// argv; the first is a program's name, looked up by the engine. [`HelperRun::FILES`] and the name of a file in a word become
    /// that file's path.
    pub argv: Vec<Arg>,
    /// Files that are there while it runs, for this user alone.
    #[serde(default)]
    pub files: Vec<HelperFile>,
    /// Environment, besides a clean one.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Lines for standard error, by the exit status for which they are said at the end.
    #[serde(default)]
    pub told: Vec<(i32, String)>,
}

impl HelperRun {
    /// What stands before the name of a file in a word of argv.
    pub const FILES: &'static str = "@files/";
}

/// A file for a program that a helper runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelperFile {
    /// A plain name.
    pub name: String,
    /// Its contents.
    pub contents: Bytes,
}

/// A program started by [`Host::spawn`](crate::Host::spawn).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId(pub u64);

/// Some output of a started program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Bytes of standard output, possibly none when the wait timed out.
    pub stdout: Bytes,
    /// Standard output has ended.
    pub ended: bool,
}

/// How a started program ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit status, absent if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The last lines of standard error (at most 64 KiB).
    pub stderr: String,
}

/// What a read-only tool printed; it exited 0 or the call would have failed, except where `code` says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolOutput {
    /// Exit status.
    pub code: i32,
    /// Standard output, at most 16 MiB.
    pub stdout: Bytes,
    /// The last lines of standard error.
    pub stderr: String,
}

/// How loud a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Something failed.
    Error,
    /// Something is odd.
    Warn,
    /// What an administrator wants to know.
    Info,
    /// What a developer wants to know.
    Debug,
    /// Everything.
    Trace,
}

/// How far a long piece of work is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes done.
    pub bytes: u64,
    /// Bytes in all, where known.
    pub total_bytes: Option<u64>,
    /// Files done.
    pub files: u64,
    /// Files in all, where known.
    pub total_files: Option<u64>,
    /// What is being worked on just now.
    pub path: Option<BytePath>,
}
