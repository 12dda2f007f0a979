//! What a machine that has a system puts onto its own disk to be installed anew: kernel and initrd, the same as for
//! every other medium, and what they are started with. The image server says it; the machine checks what it gets.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use systemimager_core::{BootEntry, HostName, ImageName};

use super::{INITRD, KERNEL};

/// A boot file of the server's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootFileFacts {
    /// Name below the TFTP root, and in the URL.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 of its contents, hexadecimal.
    pub blake3: String,
}

/// What the server answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FromDisk {
    /// The entry; kernel and initrd are names below the TFTP root.
    pub entry: BootEntry,
    /// Kernel and initrd, in this order.
    pub files: Vec<BootFileFacts>,
    /// The machine that asked, as the server knows it by its address.
    #[serde(default)]
    pub host: Option<HostName>,
    /// It is ordered to be installed.
    #[serde(default)]
    pub ordered: bool,
    /// With this image.
    #[serde(default)]
    pub image: Option<ImageName>,
}

/// Kernel and initrd below a TFTP root.
///
/// # Errors
/// One is not there, or cannot be read.
pub fn files(tftp: &Path) -> Result<Vec<BootFileFacts>> {
    [KERNEL, INITRD].into_iter().map(|name| facts(tftp, name)).collect()
}

fn facts(tftp: &Path, name: &str) -> Result<BootFileFacts> {
    let path = tftp.join(name);
    let reading = || format!("reading {}; make it with systemimager mkinitrd", path.display());
    let mut file = File::open(&path).with_context(reading)?;
    let (mut hasher, mut bytes, mut block) = (blake3::Hasher::new(), 0, vec![0; 1 << 16]);
    loop {
        let read = file.read(&mut block).with_context(reading)?;
        if read == 0 {
            break;
        }
        bytes += read as u64;
        hasher.update(block.get(..read).unwrap_or_default());
    }
    Ok(BootFileFacts { name: name.into(), bytes, blake3: hasher.finalize().to_hex().to_string() })
}

impl BootFileFacts {
    /// Whether these are its contents.
    pub fn is(&self, contents: &[u8]) -> bool {
        contents.len() as u64 == self.bytes && blake3::hash(contents).to_hex().as_str() == self.blake3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_contents() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(KERNEL), "a kernel").unwrap();
        let error = format!("{:#}", files(dir.path()).unwrap_err());
        assert!(error.contains("initrd.img; make it with systemimager mkinitrd"), "{error}");
        std::fs::write(dir.path().join(INITRD), vec![7; 200_000]).unwrap();
        let found = files(dir.path()).unwrap();
        assert_eq!(
            found.iter().map(|it| (it.name.as_str(), it.bytes)).collect::<Vec<_>>(),
            [("kernel", 8), ("initrd.img", 200_000)]
        );
        assert!(found[0].is(b"a kernel") && found[1].is(&vec![7; 200_000]));
        assert!(!found[0].is(b"a kerne1") && !found[0].is(b"a kernel ") && !found[1].is(b""));
    }
}
