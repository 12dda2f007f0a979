//! Signatures: the marks by which file systems, swap, parts of arrays and partition tables are known. Read and
//! erased with wipefs(8).
//!
//! It knows nothing of what should be erased: see `install`.

use std::path::Path;

use serde::Deserialize;

use super::command_error::CommandError;
use super::run::Cmd;
use super::tool::Tool;

/// Kinds of signature that are partition tables.
const TABLES: [&str; 12] =
    ["gpt", "PMBR", "dos", "aix", "atari", "bsd", "mac", "sgi", "solaris_x86", "sun", "ultrix", "unixware"];

/// One mark. A thing may leave several: GPT has a header at each end, LUKS2 too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// As libblkid names it: `ext4`, `linux_raid_member`, `gpt`.
    pub kind: String,
    /// Its UUID, or empty.
    pub uuid: String,
    /// Its label, or empty.
    pub label: String,
    /// Where it is, bytes.
    pub offset: u64,
}

impl Mark {
    /// It is a partition table's.
    #[must_use]
    pub fn is_table(&self) -> bool {
        TABLES.contains(&self.kind.as_str())
    }
}

/// All marks on a device.
///
/// # Errors
/// wipefs's reason: no such device, a disk that cannot be read.
pub fn marks(device: &Path) -> Result<Vec<Mark>, CommandError> {
    let command = Cmd::tool(Tool::Wipefs).arg("--json").arg(device);
    let output = command.read_string()?;
    // Where there is none some versions print an empty list, and some nothing.
    if output.trim().is_empty() {
        return Ok(Vec::new());
    }
    parse_marks(&output).map_err(|why| CommandError::BadOutput {
        argv: command.describe(),
        expected: "a list of signatures",
        why,
    })
}

pub(crate) fn parse_marks(json: &str) -> Result<Vec<Mark>, String> {
    #[derive(Deserialize)]
    struct List {
        signatures: Vec<One>,
    }
    #[derive(Deserialize)]
    struct One {
        offset: String,
        #[serde(rename = "type")]
        kind: String,
        uuid: Option<String>,
        label: Option<String>,
    }
    let list: List = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let mark = |one: One| {
        let offset = one.offset.strip_prefix("0x").and_then(|hex| u64::from_str_radix(hex, 16).ok());
        Ok(Mark {
            offset: offset.ok_or_else(|| format!("{:?} is no offset", one.offset))?,
            kind: one.kind,
            uuid: one.uuid.unwrap_or_default(),
            label: one.label.unwrap_or_default(),
        })
    };
    list.signatures.into_iter().map(mark).collect()
}

/// The command that erases all marks on a device, and tells the kernel if a partition table was among them. It fails
/// where the device is in use.
#[must_use]
pub fn erasing(device: &Path) -> Cmd {
    Cmd::tool(Tool::Wipefs).args(["--all", "--quiet"]).arg(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read() {
        let json = r#"{ "signatures": [
            {"device":"sda2", "offset":"0x438", "type":"ext4", "uuid":"79ca-1", "label":"data"},
            {"device":"sda2", "offset":"0x1fe", "type":"PMBR", "uuid":null, "label":null} ] }"#;
        let mark = |kind: &str, uuid: &str, label: &str, offset| Mark {
            kind: kind.into(),
            uuid: uuid.into(),
            label: label.into(),
            offset,
        };
        let found = parse_marks(json).expect("parsed");
        assert_eq!(found, [mark("ext4", "79ca-1", "data", 0x438), mark("PMBR", "", "", 0x1fe)]);
        assert_eq!(found.iter().map(Mark::is_table).collect::<Vec<_>>(), [false, true]);
        for bad in ["", "{}", r#"{"signatures":[{"offset":"12","type":"x","uuid":null,"label":null}]}"#] {
            assert!(parse_marks(bad).is_err(), "{bad}");
        }
    }
}
