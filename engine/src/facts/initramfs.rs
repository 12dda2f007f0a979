//! Which kernel modules an initramfs holds: names only, nothing is unpacked.
//!
//! An initramfs is a chain of newc cpio archives; the first may be plain (early microcode), the last is
//! mostly compressed. Source: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::sys::{Cmd, Input, Tool};

/// Most that an unpacked initramfs may be, bytes.
const LIMIT: usize = 1 << 30;
/// Longest name, bytes (PATH_MAX).
const NAME_LIMIT: u64 = 4096;

/// The modules in an initramfs, by name as the kernel writes it (`virtio_blk`), sorted.
///
/// # Errors
/// It is no initramfs, is compressed in a way that is not known here, or the tool for that is missing.
pub fn modules(path: &Path) -> Result<Vec<String>> {
    let mut names = BTreeSet::new();
    let mut rest = read(path)?;
    // Each turn takes one archive; the compressed one is the last.
    loop {
        let start = rest.iter().position(|byte| *byte != 0).unwrap_or(rest.len());
        rest.drain(..start);
        if rest.is_empty() {
            break;
        }
        if rest.starts_with(b"070701") || rest.starts_with(b"070702") {
            let used = archive(&rest, &mut names).with_context(|| format!("reading {}", path.display()))?;
            rest.drain(..used);
            continue;
        }
        let Some(tool) = compressor(&rest) else {
            bail!("{}: neither a cpio archive nor compressed in a known way", path.display());
        };
        rest = Cmd::tool(tool)
            .arg("-dc")
            .stdin(Input::Bytes(std::mem::take(&mut rest)))
            .stdout_limit(LIMIT)
            .read()
            .with_context(|| format!("unpacking {}", path.display()))?;
    }
    Ok(names.into_iter().collect())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut bytes = Vec::new();
    BufReader::new(file.take(LIMIT as u64)).read_to_end(&mut bytes).with_context(|| format!("reading {}", path.display()))?;
    Ok(bytes)
}

/// The tool that unpacks what begins so.
fn compressor(bytes: &[u8]) -> Option<Tool> {
    match bytes {
        [0x1f, 0x8b, ..] => Some(Tool::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Tool::Zstd),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] | [0x5d, 0, 0, ..] => Some(Tool::Xz),
        _ => None,
    }
}

/// Reads one archive up to its trailer; how many bytes it took.
fn archive(bytes: &[u8], names: &mut BTreeSet<String>) -> Result<usize> {
    let mut at = 0usize;
    loop {
        let header = bytes.get(at..at + 110).context("the archive is cut off")?;
        if !header.starts_with(b"07070") {
            bail!("byte {at} begins no cpio entry");
        }
        let field = |index: usize| -> Result<u64> {
            let text = std::str::from_utf8(&header[6 + index * 8..14 + index * 8]).context("a header that is not text")?;
            u64::from_str_radix(text, 16).context("a header that is not hexadecimal")
        };
        let (file_size, name_size) = (field(6)?, field(11)?);
        if name_size == 0 || name_size > NAME_LIMIT {
            bail!("byte {at}: a name of {name_size} bytes");
        }
        let name_end = at + 110 + usize::try_from(name_size)?;
        let name = bytes.get(at + 110..name_end - 1).context("the archive is cut off")?;
        let data = pad(name_end);
        at = data.checked_add(pad(usize::try_from(file_size)?)).context("an entry longer than memory")?;
        if name == b"TRAILER!!!" {
            return Ok(at.min(bytes.len()));
        }
        if at > bytes.len() {
            bail!("the archive is cut off");
        }
        names.extend(module_name(name));
    }
}

fn pad(size: usize) -> usize {
    size.div_ceil(4) * 4
}

/// `virtio_blk` of `lib/modules/6.1/kernel/drivers/block/virtio-blk.ko.xz`.
pub fn module_name(path: &[u8]) -> Option<String> {
    let file = path.rsplit(|byte| *byte == b'/').next()?;
    let file = std::str::from_utf8(file).ok()?;
    let name = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"].iter().find_map(|end| file.strip_suffix(end))?;
    Some(name.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, data: &[u8]) -> Vec<u8> {
        let mut out = format!(
            "070701{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
            1, 0o100644, 0, 0, 1, 0, data.len(), 0, 0, 0, 0, name.len() + 1, 0
        )
        .into_bytes();
        out.extend_from_slice(name.as_bytes());
        out.push(0);
        out.resize(pad(out.len()), 0);
        out.extend_from_slice(data);
        out.resize(pad(out.len()), 0);
        out
    }

    fn cpio(names: &[&str]) -> Vec<u8> {
        let mut out: Vec<u8> = names.iter().flat_map(|name| entry(name, b"data")).collect();
        out.extend(entry("TRAILER!!!", b""));
        out
    }

    #[test]
    fn modules_are_found_in_each_part() {
        let dir = tempfile::tempdir().unwrap();
        let plain = cpio(&["kernel/x86/microcode/AuthenticAMD.bin", "lib/modules/1/early-one.ko"]);
        let main = cpio(&["init", "lib/modules/1/kernel/virtio-blk.ko", "lib/modules/1/sd_mod.ko.xz", "x.ko.txt"]);
        for (name, tool) in [("plain", None), ("gzip", Some(Tool::Gzip)), ("zstd", Some(Tool::Zstd)), ("xz", Some(Tool::Xz))] {
            let packed = match tool {
                Some(tool) => Cmd::tool(tool).arg("-c").stdin_bytes(main.clone()).read().unwrap(),
                None => main.clone(),
            };
            let path = dir.path().join(name);
            std::fs::write(&path, [plain.clone(), vec![0; 512], packed].concat()).unwrap();
            assert_eq!(modules(&path).unwrap(), ["early_one", "sd_mod", "virtio_blk"], "{name}");
        }
    }

    #[test]
    fn what_is_no_initramfs_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let whole = cpio(&["a.ko"]);
        for (name, bytes) in [
            ("text", b"hello".to_vec()),
            ("cut off", whole[..100].to_vec()),
            ("cut off in a name", whole[..112].to_vec()),
            ("bad header", [b"070701".as_slice(), &[b'z'; 104]].concat()),
            ("bad gzip", vec![0x1f, 0x8b, 1, 2, 3]),
        ] {
            let path = dir.path().join("x");
            std::fs::write(&path, bytes).unwrap();
            assert!(modules(&path).is_err(), "{name}");
        }
    }
}
