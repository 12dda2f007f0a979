//! What a machine knows of its image server before it has asked anything: public keys, in what it boots.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::key;

/// Where they lie in the miniature system.
pub const PLACE: &str = "/etc/systemimager/pins.json";

/// The keys of one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pins {
    /// The key of its transports, in OpenSSH's form.
    pub host_key: String,
    /// The key that its answers are signed with.
    pub signing_key: String,
}

impl Pins {
    /// Those in a file; `None`: there is none.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn read(file: &Path) -> Result<Option<Self>> {
        let text = match std::fs::read(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
        };
        Self::parse(&text).map(Some).with_context(|| format!("reading {}", file.display()))
    }

    /// A file's contents, checked.
    ///
    /// # Errors
    /// They are something else.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let pins: Pins = serde_json::from_slice(text).context("these are not the keys of an image server")?;
        let fine = key::is_public(&pins.host_key) && key::is_public(&pins.signing_key);
        ensure!(fine, "the image server's key is none");
        Ok(pins)
    }

    /// The file's contents.
    pub fn text(&self) -> Result<String> {
        Ok(serde_json::to_string(self)? + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_all_else_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pins.json");
        assert_eq!(Pins::read(&file).unwrap(), None);
        let key = |seed| key::Key::of_seed(&[seed; 32]).unwrap().public().to_owned();
        let pins = Pins { host_key: key(1), signing_key: key(2) };
        std::fs::write(&file, pins.text().unwrap()).unwrap();
        assert_eq!(Pins::read(&file).unwrap(), Some(pins));
        for (bad, says) in [
            ("{}", "these are not the keys"),
            ("{\"host_key\": \"x\", \"signing_key\": \"\"}", "the image server's key is none"),
        ] {
            std::fs::write(&file, bad).unwrap();
            assert!(format!("{:#}", Pins::read(&file).unwrap_err()).contains(says), "{bad}");
        }
    }
}
