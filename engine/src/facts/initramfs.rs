//! Which kernel modules an initramfs holds: names only, nothing is unpacked to disk.
//!
//! An initramfs is a chain of newc cpio archives; the first may be plain (early microcode), the last is
//! mostly compressed. It is read as a stream, in bounded memory.
//! Source: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::sys::{Cmd, Input, Program, Running};

/// Most that an unpacked initramfs may be, bytes. A small file can unpack to any size.
const LIMIT: u64 = 4 << 30;
/// Longest name, bytes (PATH_MAX).
const NAME_LIMIT: u64 = 4096;
/// Bytes of a cpio header.
const HEADER: usize = 110;
/// How long an unpacking program may print nothing.
const STALL: Duration = Duration::from_secs(60);

/// Beginnings of compressed data, and the program that unpacks it with `-dc`. In the order of
/// usr/gen_initramfs.sh and lib/decompress.c of the kernel; lz4 is mostly of the legacy kind.
const COMPRESSED: [(&[u8], &str); 8] = [
    (&[0x1f, 0x8b], "gzip"),
    (b"BZh", "bzip2"),
    (&[0x5d, 0, 0], "xz"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
    (&[0x89, b'L', b'Z', b'O'], "lzop"),
    (&[0x02, 0x21, 0x4c, 0x18], "lz4"),
    (&[0x04, 0x22, 0x4d, 0x18], "lz4"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
];

/// The modules in an initramfs, by name as the kernel writes it (`virtio_blk`), sorted.
///
/// # Errors
/// It is no initramfs, is compressed in a way that is not known here, or the program for that is missing.
pub fn modules(path: &Path) -> Result<Vec<String>> {
    // Not a link, which would lead out of the tree, nor a fifo, on which opening would wait.
    let regular = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file());
    if !regular {
        bail!("{} is not a regular file", path.display());
    }
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut names = BTreeSet::new();
    let mut plain = Counted { input: BufReader::new(file), at: 0 };
    let packed = archives(&mut plain, &mut names).with_context(|| format!("reading {}", path.display()))?;
    if let Some((start, magic)) = packed {
        unpack(path, start, &magic, &mut names).with_context(|| format!("unpacking {}", path.display()))?;
    }
    Ok(names.into_iter().collect())
}

/// The modules in plain archives, and where something begins that is none.
pub(super) fn in_bytes(bytes: &[u8], names: &mut BTreeSet<String>) -> Result<Option<u64>> {
    let packed = archives(&mut Counted { input: bytes, at: 0 }, names)?;
    Ok(packed.map(|(start, _)| start))
}

/// Reads what a program unpacks from the file at `start` on; it is the last part.
fn unpack(path: &Path, start: u64, magic: &[u8], names: &mut BTreeSet<String>) -> Result<()> {
    let Some((_, program)) = COMPRESSED.iter().find(|(beginning, _)| magic.starts_with(beginning)) else {
        bail!("byte {start} begins neither a cpio archive nor data compressed in a known way");
    };
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    let cmd = Cmd::new(Program::named(program)?).arg("-dc").stdin(Input::File(file));
    let running = Running::start(program, cmd)?;
    let mut unpacked = Counted { input: BufReader::new(Output(&running)), at: 0 };
    if let Some((at, _)) = archives(&mut unpacked, names)? {
        bail!("byte {at} of what is unpacked begins no cpio archive");
    }
    Ok(running.finish()?)
}

/// Standard output of a program.
struct Output<'a>(&'a Running);

impl Read for Output<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let chunk = self.0.read(buffer.len(), STALL).map_err(io::Error::other)?;
        if chunk.stdout.is_empty() && !chunk.eof {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{} prints nothing", self.0.describe())));
        }
        let count = chunk.stdout.len().min(buffer.len());
        buffer[..count].copy_from_slice(&chunk.stdout[..count]);
        Ok(count)
    }
}

/// A stream that knows how far it was read.
struct Counted<R> {
    input: R,
    at: u64,
}

impl<R: Read> Counted<R> {
    /// Reads until the buffer is full or the stream ends; how much it was.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.input.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.at += filled as u64;
        Ok(filled)
    }

    fn whole(&mut self, buffer: &mut [u8]) -> Result<()> {
        if self.fill(buffer)? < buffer.len() {
            bail!("the archive is cut off at byte {}", self.at);
        }
        Ok(())
    }

    fn skip(&mut self, count: u64) -> Result<()> {
        if count > LIMIT.saturating_sub(self.at) {
            bail!("it is larger than {} GiB", LIMIT >> 30);
        }
        let skipped = io::copy(&mut self.input.by_ref().take(count), &mut io::sink())?;
        self.at += skipped;
        if skipped < count {
            bail!("the archive is cut off at byte {}", self.at);
        }
        Ok(())
    }
}

/// Reads archives, with zeros between them, to the end of the stream, or to something else: where that
/// begins, and its first bytes.
fn archives(input: &mut Counted<impl Read>, names: &mut BTreeSet<String>) -> Result<Option<(u64, Vec<u8>)>> {
    loop {
        let mut magic = [0; 6];
        loop {
            if input.fill(&mut magic[..1])? == 0 {
                return Ok(None);
            }
            if magic[0] != 0 {
                break;
            }
        }
        let start = input.at - 1;
        let count = 1 + input.fill(&mut magic[1..])?;
        if !is_magic(&magic) {
            return Ok(Some((start, magic[..count].to_vec())));
        }
        archive(input, names)?;
    }
}

fn is_magic(bytes: &[u8]) -> bool {
    bytes == b"070701" || bytes == b"070702"
}

/// Reads one archive to the end of its trailer. The magic of its first entry was read already.
fn archive(input: &mut Counted<impl Read>, names: &mut BTreeSet<String>) -> Result<()> {
    loop {
        let mut header = [0; HEADER - 6];
        input.whole(&mut header)?;
        let (file_size, name_size) = (field(&header, 6)?, field(&header, 11)?);
        if name_size == 0 || name_size > NAME_LIMIT {
            bail!("byte {}: a name of {name_size} bytes", input.at);
        }
        // Header and name together, and the data, each end on a multiple of four.
        let mut name = vec![0; (padded(HEADER as u64 + name_size) - HEADER as u64) as usize];
        input.whole(&mut name)?;
        name.truncate(name_size as usize - 1);
        input.skip(padded(file_size))?;
        if name == b"TRAILER!!!" {
            return Ok(());
        }
        names.extend(module_name(&name));
        let mut magic = [0; 6];
        input.whole(&mut magic)?;
        if !is_magic(&magic) {
            bail!("byte {} begins no cpio entry", input.at - 6);
        }
    }
}

/// A field of a header (after the magic): eight hexadecimal digits.
fn field(header: &[u8; HEADER - 6], index: usize) -> Result<u64> {
    let digits = header.get(index * 8..index * 8 + 8).unwrap_or_default();
    let text = std::str::from_utf8(digits).context("a cpio header that is not text")?;
    u64::from_str_radix(text, 16).context("a cpio header that is not hexadecimal")
}

fn padded(size: u64) -> u64 {
    size.next_multiple_of(4)
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
    use crate::sys::tool::search_dirs;

    fn entry(name: &str, data: &[u8]) -> Vec<u8> {
        let fields = [1, 0o100644, 0, 0, 1, 0, data.len(), 0, 0, 0, 0, name.len() + 1, 0];
        let mut out = b"070701".to_vec();
        for field in fields {
            out.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        out.extend_from_slice(name.as_bytes());
        out.push(0);
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    fn cpio(names: &[&str]) -> Vec<u8> {
        let mut out: Vec<u8> = names.iter().flat_map(|name| entry(name, b"data!")).collect();
        out.extend(entry("TRAILER!!!", b""));
        out
    }

    #[test]
    fn modules_are_found_in_each_part() {
        let dir = tempfile::tempdir().unwrap();
        let plain = cpio(&["kernel/x86/microcode/AuthenticAMD.bin", "lib/modules/1/early-one.ko"]);
        let main = cpio(&["init", "lib/modules/1/kernel/virtio-blk.ko", "lib/modules/1/sd_mod.ko.xz", "x.ko.txt"]);
        let rows: [(&str, &[&str]); 7] = [
            ("cat", &[]),
            ("gzip", &["-c"]),
            ("zstd", &["-c"]),
            ("xz", &["-c", "--check=crc32"]),
            ("xz", &["-c", "--format=lzma"]),
            ("lz4", &["-l", "-c"]),
            ("bzip2", &["-c"]),
        ];
        for (program, args) in rows {
            let named = Program::named(program).unwrap();
            if named.find_in(&search_dirs()).is_err() {
                eprintln!("SKIPPED: modules_are_found_in_each_part ({program}): it is not installed");
                continue;
            }
            let packed = Cmd::new(named).args(args).stdin_bytes(main.clone()).read().unwrap();
            let path = dir.path().join("initrd");
            std::fs::write(&path, [plain.clone(), vec![0; 512], packed].concat()).unwrap();
            assert_eq!(modules(&path).unwrap(), ["early_one", "sd_mod", "virtio_blk"], "{program} {args:?}");
        }
    }

    #[test]
    fn what_is_no_initramfs_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let whole = cpio(&["a.ko"]);
        let mut huge = entry("a.ko", b"");
        let mut larger = huge.clone();
        larger[6 + 48..6 + 56].copy_from_slice(b"00ffffff");
        huge[6 + 48..6 + 56].copy_from_slice(b"ffffffff");
        let rows: Vec<(&str, Vec<u8>, &str)> = vec![
            ("text", b"hello".to_vec(), "byte 0 begins neither a cpio archive nor data"),
            ("cut off in a header", whole[..100].to_vec(), "cut off at byte 100"),
            ("cut off in a name", whole[..112].to_vec(), "cut off at byte 112"),
            ("cut off in the data", whole[..117].to_vec(), "cut off at byte 117"),
            ("no trailer", entry("a.ko", b"x"), "cut off at byte 120"),
            (
                "another entry's magic",
                [entry("a.ko", b"x"), b"070707".to_vec()].concat(),
                "byte 120 begins no cpio entry",
            ),
            ("bad header", [b"070701".as_slice(), &[b'z'; 104]].concat(), "not hexadecimal"),
            ("no name", [b"070701".as_slice(), &[b'0'; 104]].concat(), "a name of 0 bytes"),
            ("a name without end", [b"070701".as_slice(), &[b'f'; 104]].concat(), "a name of 4294967295 bytes"),
            ("more data than there is", larger, "cut off"),
            ("more data than can be", huge, "it is larger than 4 GiB"),
            ("bad gzip", vec![0x1f, 0x8b, 1, 2, 3], "gzip -dc"),
        ];
        for (name, bytes, says) in rows {
            let path = dir.path().join("x");
            std::fs::write(&path, bytes).unwrap();
            let error = format!("{:#}", modules(&path).unwrap_err());
            assert!(error.contains(says), "{name}: {error}");
        }
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        let error = modules(&dir.path().join("link")).unwrap_err().to_string();
        assert!(error.ends_with("is not a regular file"), "{error}");
    }
}
