//! What the master client tells the image server beside its files. JSON, in an export of its own:
//! never a file in the tree.
//!
//! It comes from another machine: the server checks it like any other input.

use serde::{Deserialize, Serialize};
use systemimager_core::{BytePath, Layout, Size};

/// The format that this program writes and reads.
pub const FACTS_FORMAT: u32 = 1;
/// The file in the export.
pub const FACTS_FILE: &str = "facts.json";
/// The export of the facts.
pub const FACTS_EXPORT: &str = "facts";
/// The export of the files.
pub const ROOT_EXPORT: &str = "root";
/// The export whose use says that the capture is finished.
pub const FINISH_EXPORT: &str = "finished";
/// The name under which both sides keep the secret of a capture.
pub const SECRET: &str = "capture";

/// A mount whose files are in the capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenMount {
    /// Where, on the master client.
    pub at: BytePath,
    /// File system type.
    pub fstype: String,
    /// Its device, for people.
    pub device: BytePath,
}

/// A mount whose files are not in the capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOutMount {
    /// Where, on the master client.
    pub at: BytePath,
    /// File system type.
    pub fstype: String,
    /// Why: `a network file system`.
    pub why: String,
}

/// The facts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureFacts {
    /// [`FACTS_FORMAT`].
    pub format: u32,
    /// The directory that is captured.
    pub source: BytePath,
    /// `x86_64`.
    pub arch: String,
    /// Disks, file systems, mounts; absent when only a directory is captured.
    pub layout: Option<Layout>,
    /// The partitioner plugin that read the tables.
    pub partitioner: Option<String>,
    /// The boot loader plugin that recognised its own.
    pub bootloader: Option<String>,
    /// Mounts that are in the capture.
    pub taken: Vec<TakenMount>,
    /// Mounts that are not.
    pub left_out: Vec<LeftOutMount>,
    /// Bytes that the files take.
    pub bytes: Size,
    /// Files, directories, links.
    pub inodes: u64,
    /// What an administrator should know: databases that run, swap files, flags that are lost.
    pub advice: Vec<String>,
}

impl CaptureFacts {
    /// Reads the facts.
    ///
    /// # Errors
    /// Another format, or a layout that is none: all of its faults.
    pub fn parse(text: &[u8]) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let format: Format = serde_json::from_slice(text)?;
        anyhow::ensure!(
            format.format == FACTS_FORMAT,
            "the master client speaks format {} and this server format {FACTS_FORMAT}; install the same version of \
             systemimager on both",
            format.format
        );
        let facts: Self = serde_json::from_slice(text)?;
        if let Some(layout) = &facts.layout {
            layout.check().map_err(|errors| {
                let list: Vec<String> = errors.iter().map(ToString::to_string).collect();
                anyhow::anyhow!("the layout of the master client: {}", list.join("; "))
            })?;
        }
        Ok(facts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_makes_sense_is_read() {
        let good = CaptureFacts { format: FACTS_FORMAT, source: "/".into(), ..CaptureFacts::default() };
        let text = serde_json::to_vec(&good).unwrap();
        assert_eq!(CaptureFacts::parse(&text).unwrap(), good);
        let other = String::from_utf8(text).unwrap().replace("\"format\":1", "\"format\":2");
        for (name, text, says) in [
            ("format", other.as_str(), "install the same version"),
            ("not JSON", "x", "expected value"),
            (
                "layout",
                r#"{"format":1,"source":"/","arch":"","layout":{"mount":[{"node":"x","at":"/"}]},"partitioner":null,
                    "bootloader":null,"taken":[],"left_out":[],"bytes":0,"inodes":0,"advice":[]}"#,
                "mount.0.node: there is no file system named x",
            ),
        ] {
            let error = format!("{:#}", CaptureFacts::parse(text.as_bytes()).unwrap_err());
            assert!(error.contains(says), "{name}: {error}");
        }
    }
}
