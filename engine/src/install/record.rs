//! What an installed machine knows of where it came from: image and server, so that an update need not be told. An
//! install writes it, and each update.

use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use systemimager_core::{BytePath, ImageName};

use crate::config::MACHINE_STATE as STATE;
use crate::key::Key;
use crate::pins::Pins;
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

/// Where the machine's private key lies: by it the machine may have its image, to be updated.
pub fn key_file() -> BytePath {
    BytePath::from(STATE).join("key")
}

/// What a capture leaves out, whatever the machine is: keys and orders of machines and of image servers are for that machine alone.
pub fn never_captured() -> Vec<BytePath> {
    ["key", "pins.json", "keys", "machine-keys", "orders"].map(|name| BytePath::from(STATE).join(name)).into()
}

fn pins_file() -> BytePath {
    BytePath::from(STATE).join("pins.json")
}

/// Writes the machine's private key, and its server's public ones.
///
/// # Errors
/// They cannot be written.
pub fn write_keys(inside: &Inside, private: &[u8], pins: &Pins) -> Result<()> {
    inside.make_directory(&STATE.into(), 0o700)?;
    inside.write(&pins_file(), pins.text()?.as_bytes(), 0o600)?;
    inside.write(&key_file(), private, 0o600)
}

/// Reads them; `None` on a machine that was not installed with keys.
///
/// # Errors
/// One of them cannot be read, or is none.
pub fn keys(inside: &Inside) -> Result<Option<(Key, Pins)>> {
    let Some(private) = inside.read(&key_file())? else { return Ok(None) };
    let pins = inside.read(&pins_file())?.with_context(|| {
        format!("{} is there and {} is not; install this machine anew, or remove the key", key_file(), pins_file())
    })?;
    let mode =
        std::fs::metadata(inside.seen_from_outside(&key_file())?).with_context(|| key_file().to_string())?.mode();
    ensure!(
        mode & 0o077 == 0,
        "{} can be read by others than root (mode {:o}), who may have it by now: revoke it on the image server (systemimager revoke) \
         and install this machine anew, or, where nobody else was on it, chmod 600 it",
        key_file(),
        mode & 0o7777
    );
    let key = std::str::from_utf8(&private).context("this is no text").and_then(Key::parse);
    let key = key.with_context(|| key_file().to_string())?;
    Ok(Some((key, Pins::parse(&pins).with_context(|| pins_file().to_string())?)))
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

    #[test]
    fn keys_are_for_root_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let inside = Inside::open(dir.path()).unwrap();
        assert!(keys(&inside).unwrap().is_none());
        let key = crate::key::Key::of_seed(&[3; 32]).unwrap();
        let pins = Pins { host_key: key.public().to_owned(), signing_key: key.public().to_owned() };
        write_keys(&inside, key.private().as_bytes(), &pins).unwrap();
        let (read, of_server) = keys(&inside).unwrap().unwrap();
        assert_eq!((read.public(), of_server), (key.public(), pins));
        let file = dir.path().join("var/lib/systemimager/key");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(keys(&inside).unwrap_err().to_string().contains("can be read by others"));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::remove_file(dir.path().join("var/lib/systemimager/pins.json")).unwrap();
        assert!(keys(&inside).unwrap_err().to_string().contains("install this machine anew"));
    }
}
