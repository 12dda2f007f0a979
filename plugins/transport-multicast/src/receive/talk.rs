//! How the helper that receives and the plugin that started it speak: the request goes in on standard input, lines of JSON come
//! out.

use std::io::Write as _;

use serde::{Deserialize, Serialize};
use systemimager_core::{Level, PluginError, Progress, PullReport};

/// The variable by which the helper gets the key of who pulls.
pub const KEY: &str = "SYSTEMIMAGER_MULTICAST_KEY";

/// What the helper says, a line each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// How far it is.
    Progress(Progress),
    /// Something for the log.
    Log(Level, String),
    /// It has pulled.
    Report(Box<PullReport>),
    /// It has not.
    Error(PluginError),
}

/// Says a line.
pub fn say(line: &Line) {
    if let Ok(mut text) = serde_json::to_vec(line) {
        text.push(b'\n');
        // Nobody may listen any more: then the helper is being ended.
        let _ = std::io::stdout().lock().write_all(&text);
    }
}

/// Says something to the log.
pub fn log(level: Level, text: impl Into<String>) {
    say(&Line::Log(level, text.into()));
}

/// Lines out of the pieces in which they come.
#[derive(Debug, Default)]
pub struct Lines(Vec<u8>);

impl Lines {
    /// Takes a piece; what is whole by it.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        for byte in bytes {
            if *byte == b'\n' {
                lines.extend(serde_json::from_slice(&std::mem::take(&mut self.0)).ok());
            } else {
                self.0.push(*byte);
            }
        }
        lines
    }
}
