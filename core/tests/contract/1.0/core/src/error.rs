//! The one error type that crosses the plugin boundary: a kind to match on, a message for a person,
//! and context as pairs.

use serde::{Deserialize, Serialize};

/// What a plugin's method returns.
pub type Result<T, E = PluginError> = std::result::Result<T, E>;

/// What sort of failure it was; the engine decides by it, never by the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request itself is wrong (a layout that cannot fit, an option that does not exist).
    Invalid,
    /// The object asked about does not exist.
    NotFound,
    /// This plugin does not do that (an unknown method, a file system type it does not serve).
    Unsupported,
    /// A program, kernel module, file or library is missing.
    Missing,
    /// Access was refused, or a secret was wrong.
    Denied,
    /// The other side does not answer, or went away.
    Unreachable,
    /// Some files could not be transferred; the report names them.
    Partial,
    /// The target is full.
    NoSpace,
    /// The caller cancelled.
    Cancelled,
    /// A program ran and failed.
    Failed,
    /// The plugin broke its contract (panicked, answered garbage).
    PluginBug,
    /// A kind this side does not know: a newer plugin.
    #[serde(other)]
    Other,
}

/// An error from a plugin: what failed, on which object, why, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}{}", show_context(.context))]
pub struct PluginError {
    /// What sort of failure.
    pub kind: ErrorKind,
    /// One line (or a few) for a person.
    pub message: String,
    /// Further facts, such as `("argv", "rsync …")`.
    #[serde(default)]
    pub context: Vec<(String, String)>,
}

fn show_context(context: &[(String, String)]) -> String {
    context.iter().map(|(key, value)| format!("\n  {key}: {value}")).collect()
}

impl PluginError {
    /// An error of `kind` that says `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), context: Vec::new() }
    }

    /// The same, with one more fact.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.context.push((key.into(), value.into()));
        self
    }

    /// [`ErrorKind::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// [`ErrorKind::Unsupported`].
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// [`ErrorKind::Failed`].
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, message)
    }

    /// [`ErrorKind::PluginBug`].
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::PluginBug, message)
    }
}
