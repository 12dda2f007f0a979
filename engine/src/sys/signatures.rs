//! Signatures: the marks by which file systems, swap, parts of arrays and partition tables are known. Read and
//! erased with wipefs(8); what a partition's entry in the table says, with blkid(8).
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

/// The command that erases the marks at these offsets alone.
#[must_use]
pub fn erasing_at(device: &Path, offsets: &[u64]) -> Cmd {
    let offsets = offsets.iter().flat_map(|offset| ["--offset".to_owned(), offset.to_string()]);
    Cmd::tool(Tool::Wipefs).arg("--quiet").args(offsets).arg(device)
}

/// What tables say of a device: the one that it is in, and the one that is on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// The table on it, `gpt` or `dos`; empty: none.
    pub table: String,
    /// Identifier of that table: a GUID, or 0x… of dos.
    pub table_id: String,
    /// Of a partition: its type, a GUID or hexadecimal without 0x.
    pub kind: String,
    /// Of a partition: its UUID.
    pub uuid: String,
    /// Of a partition: its name.
    pub label: String,
    /// Of a partition: its flags.
    pub flags: u64,
}

/// Reads it.
///
/// # Errors
/// blkid's reason.
pub fn entry(device: &Path) -> Result<Entry, CommandError> {
    // Tables are always looked for. Of file systems that contradict each other it would say nothing at all, hence
    // only the kind of which there can hardly be two.
    let command = Cmd::tool(Tool::Blkid).args(["-p", "-o", "udev", "--usages", "crypto"]).arg(device);
    let output = command.output()?;
    match output.status.code() {
        Some(0) => Ok(parse_entry(&String::from_utf8_lossy(&output.stdout))),
        // Nothing was found.
        Some(2) => Ok(Entry::default()),
        _ => Err(CommandError::Failed { argv: command.describe(), status: output.status, tail: output.stderr }),
    }
}

fn parse_entry(text: &str) -> Entry {
    let mut entry = Entry::default();
    let mut id = String::new();
    for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
        let value = decode(value);
        match key {
            "ID_PART_TABLE_TYPE" => entry.table = value,
            "ID_PART_TABLE_UUID" => id = value,
            "ID_PART_ENTRY_TYPE" => entry.kind = value.trim_start_matches("0x").to_ascii_lowercase(),
            "ID_PART_ENTRY_UUID" => entry.uuid = value,
            "ID_PART_ENTRY_NAME" => entry.label = value,
            "ID_PART_ENTRY_FLAGS" => {
                entry.flags = value.strip_prefix("0x").and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
            }
            _ => {}
        }
    }
    if !matches!(entry.table.as_str(), "gpt" | "dos") {
        entry.table.clear();
    }
    // blkid leaves out what sfdisk and layouts write before the digits of a dos table.
    entry.table_id = match entry.table.as_str() {
        "dos" if !id.is_empty() => format!("0x{id}"),
        "gpt" => id,
        _ => String::new(),
    };
    entry
}

/// `EFI\x20System` is `EFI System`.
fn decode(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.strip_prefix(b"x").and_then(|tail| std::str::from_utf8(tail.get(..2)?).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
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

    #[test]
    fn entries_are_read() {
        let text = "ID_PART_ENTRY_SCHEME=gpt\nID_PART_ENTRY_NAME=EFI\\x20Sys\\x22\\x5c\\x20é\nID_PART_ENTRY_UUID=2e19-1\n\
                    ID_PART_ENTRY_TYPE=0FC6-8\nID_PART_ENTRY_FLAGS=0x8001000000000004\nodd\n";
        let expected = Entry {
            kind: "0fc6-8".into(),
            uuid: "2e19-1".into(),
            label: "EFI Sys\"\\ é".into(),
            flags: 0x8001_0000_0000_0004,
            ..Entry::default()
        };
        assert_eq!(parse_entry(text), expected);
        assert_eq!(parse_entry("ID_PART_ENTRY_TYPE=0x5\n").kind, "5");
        for (text, table, id) in [
            ("ID_PART_TABLE_UUID=1234abcd\nID_PART_TABLE_TYPE=dos\n", "dos", "0x1234abcd"),
            ("ID_PART_TABLE_TYPE=gpt\nID_PART_TABLE_UUID=a-b\n", "gpt", "a-b"),
            ("ID_PART_TABLE_TYPE=sun\nID_PART_TABLE_UUID=a-b\n", "", ""),
            ("", "", ""),
        ] {
            let entry = parse_entry(text);
            assert_eq!((entry.table.as_str(), entry.table_id.as_str()), (table, id), "{text}");
        }
        for (text, plain) in [("\\x4", "\\x4"), ("\\xzz", "\\xzz"), ("a\\", "a\\"), ("\\é", "\\é"), ("x41", "x41")] {
            assert_eq!(decode(text), plain, "{text}");
        }
    }
}
