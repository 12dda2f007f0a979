//! Writes a packed root as the archive that a kernel unpacks into its first root file system: "newc".
//!
//! Own code because the `cpio` crate flushes after each entry, which would end a compressor's block each
//! time, and takes only UTF-8 names. Source: Documentation/driver-api/early-userspace/buffer-format.rst
//! of the kernel. Owner is always root and time always 0: the same tree gives the same bytes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result, bail};

use super::tree::{Packed, Source};

const FILE: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const LINK: u32 = 0o120_000;
const CHAR_DEVICE: u32 = 0o020_000;
const TRAILER: &[u8] = b"TRAILER!!!";

/// Writes `tree`, with the directories its entries need, to `out`.
///
/// # Errors
/// A file cannot be read, changed its size meanwhile, or is 4 GiB or larger; `out` fails.
pub fn write(tree: &Packed, out: &mut dyn Write) -> Result<()> {
    for (index, entry) in tree.with_directories().entries().enumerate() {
        let path = entry.path.strip_prefix("/").unwrap_or(&entry.path);
        let name = path.as_os_str().as_bytes();
        let header = |kind: u32, size: u64, device: (u32, u32)| -> Result<Header<'_>> {
            let size = u32::try_from(size).with_context(|| format!("{} is 4 GiB or larger", entry.path.display()))?;
            let inode = u32::try_from(index).unwrap_or(u32::MAX).saturating_add(1);
            Ok(Header { name, inode, mode: kind | entry.mode, size, device })
        };
        let written = match &entry.source {
            Source::Directory => header(DIRECTORY, 0, (0, 0))?.write(out),
            Source::CharDevice(major, minor) => header(CHAR_DEVICE, 0, (*major, *minor))?.write(out),
            Source::Link(to) => {
                let to = to.as_os_str().as_bytes();
                header(LINK, to.len() as u64, (0, 0))?.write(out).and_then(|()| contents(to, out))
            }
            Source::Bytes(bytes) => {
                header(FILE, bytes.len() as u64, (0, 0))?.write(out).and_then(|()| contents(bytes, out))
            }
            Source::File(from) => {
                let mut file = File::open(from).with_context(|| format!("reading {}", from.display()))?;
                let size = file.metadata().with_context(|| format!("reading {}", from.display()))?.len();
                header(FILE, size, (0, 0))?.write(out).context("writing the archive")?;
                let copied = io::copy(&mut Read::by_ref(&mut file).take(size), out)
                    .with_context(|| format!("packing {}", from.display()))?;
                if copied != size {
                    bail!("{} became shorter while it was packed; run it again", from.display());
                }
                pad(size as usize, out)
            }
        };
        written.context("writing the archive")?;
    }
    let trailer = Header { name: TRAILER, inode: 0, mode: 0, size: 0, device: (0, 0) };
    trailer.write(out).context("writing the archive")
}

struct Header<'a> {
    name: &'a [u8],
    inode: u32,
    mode: u32,
    size: u32,
    device: (u32, u32),
}

impl Header<'_> {
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let (major, minor) = self.device;
        let name_size = self.name.len() as u32 + 1;
        // magic, inode, mode, uid, gid, links, time, size, device, device node's number, name's size, check sum
        let fields = [self.inode, self.mode, 0, 0, 1, 0, self.size, 0, 0, major, minor, name_size, 0];
        let mut bytes = b"070701".to_vec();
        for field in fields {
            bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        bytes.extend_from_slice(self.name);
        bytes.push(0);
        out.write_all(&bytes)?;
        pad(bytes.len(), out)
    }
}

fn contents(bytes: &[u8], out: &mut dyn Write) -> io::Result<()> {
    out.write_all(bytes)?;
    pad(bytes.len(), out)
}

/// Everything is filled up to a multiple of 4 bytes.
fn pad(length: usize, out: &mut dyn Write) -> io::Result<()> {
    let missing = length.wrapping_neg() % 4;
    out.write_all([0; 3].get(..missing).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_reader_reads_it_back() {
        let mut tree = Packed::default();
        tree.put("/init", Source::Bytes(b"hello".to_vec()), 0o755);
        tree.put("/usr/bin/sh", Source::Link("busybox".into()), 0o777);
        tree.put("/dev/console", Source::CharDevice(5, 1), 0o600);
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = dir.path().join("f");
        std::fs::write(&file, vec![7; 4099]).expect("write");
        tree.put("/etc/f", Source::File(file), 0o4644);
        let mut bytes = Vec::new();
        write(&tree, &mut bytes).expect("written");
        assert_eq!(bytes.len() % 4, 0);

        let mut rest: &[u8] = &bytes;
        let mut seen = Vec::new();
        loop {
            let mut reader = cpio::newc::Reader::new(rest).expect("a header");
            if reader.entry().is_trailer() {
                break;
            }
            let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            let device = (reader.entry().rdev_major(), reader.entry().rdev_minor());
            let mut contents = Vec::new();
            reader.read_to_end(&mut contents).expect("contents");
            rest = reader.finish().expect("the next");
            seen.push((name, mode, device, contents));
        }
        let find = |name: &str| seen.iter().find(|entry| entry.0 == name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(find("init"), &("init".into(), 0o100_755, (0, 0), b"hello".to_vec()));
        assert_eq!(find("usr/bin/sh"), &("usr/bin/sh".into(), 0o120_777, (0, 0), b"busybox".to_vec()));
        assert_eq!(find("dev/console"), &("dev/console".into(), 0o020_600, (5, 1), vec![]));
        assert_eq!(find("etc/f"), &("etc/f".into(), 0o104_644, (0, 0), vec![7; 4099]));
        assert_eq!(find("dev").1, 0o040_755);
        assert_eq!(find("lib"), &("lib".into(), 0o120_777, (0, 0), b"usr/lib".to_vec()));
    }
}
