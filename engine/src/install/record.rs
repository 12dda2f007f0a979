//! What an installed machine knows of where it came from: image and server, so that an update need not be told. An
//! install writes it, and each update.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use systemimager_core::{BytePath, ImageName};

use crate::config::MACHINE_STATE as STATE;
use crate::tree::Inside;

/// The record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The image that the machine was brought to last.
    pub image: ImageName,
    /// The image server, as it was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Which tree of the server it was, if the server told.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tree: String,
}

/// Where it lies.
pub fn file() -> BytePath {
    BytePath::from(STATE).join("machine.json")
}

/// Reads it; `None` on a machine that this program neither installed nor updated.
///
/// # Errors
/// It is there, and cannot be read.
pub fn read(inside: &Inside) -> Result<Option<Record>> {
    let Some(text) = inside.read(&file())? else { return Ok(None) };
    serde_json::from_slice(&text)
        .map(Some)
        .with_context(|| format!("{} does not say what this machine was made from; remove it", file()))
}

/// Writes it.
///
/// # Errors
/// It cannot be written.
pub fn write(inside: &Inside, record: &Record) -> Result<()> {
    inside.make_directory(&STATE.into(), 0o700)?;
    let mut text = serde_json::to_vec_pretty(record)?;
    text.push(b'\n');
    inside.write(&file(), &text, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let dir = tempfile::tempdir().unwrap();
        let inside = Inside::open(dir.path()).unwrap();
        assert_eq!(read(&inside).unwrap(), None);
        let record = Record { image: "web-v2".parse().unwrap(), server: Some("10.0.0.1".into()), tree: "1:2".into() };
        write(&inside, &record).unwrap();
        assert_eq!(read(&inside).unwrap(), Some(record));
        std::fs::write(dir.path().join("var/lib/systemimager/machine.json"), "{").unwrap();
        assert!(read(&inside).unwrap_err().to_string().contains("remove it"));
    }
}
