//! A device that becomes a medium: whether it may be overwritten, and writing an image to it.
//!
//! Everything is judged before the first byte is written, and the kernel has the last word: the device is opened for
//! exclusive use, which fails while anybody else uses it. What was written is read back and compared.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::sys::block::{self, BlockDevice, Bus, Use, Which};
use crate::sys::signatures;
use crate::sys::{Cmd, Tool, mount, swaps};

/// How much is copied at once, bytes.
const PIECE: usize = 1 << 20;
/// What holds the partition table: written last, so that a half-written stick does not boot.
const FIRST: usize = 512;

/// A device that may be overwritten.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Target {
    /// The device.
    pub path: PathBuf,
    /// Its length, bytes.
    pub size: u64,
    /// What it is, for people: `Flash Disk (usb, 16384 MiB)`.
    pub title: String,
    /// What stands on it and is lost, a line each.
    pub holds: Vec<String>,
}

/// Judges a device. `also_fixed`: somebody said that one which cannot be taken out is meant.
///
/// # Errors
/// It is no disk, or must not be overwritten: all reasons.
pub fn judge(device: &Path, also_fixed: bool) -> Result<Target> {
    let real = device.canonicalize().with_context(|| format!("looking for {}", device.display()))?;
    let metadata = real.metadata().with_context(|| format!("looking at {}", real.display()))?;
    if !metadata.file_type().is_block_device() {
        bail!("{} is no disk; to make an image in a file, name that with --output", device.display());
    }
    let disks = block::list(Path::new("/sys"), Which::All).context("listing disks")?;
    if let Some(whole) = disks.iter().find(|disk| disk.partitions.iter().any(|it| it.path == real)) {
        bail!(
            "{} is a partition; a medium is a whole disk, name {} if all of it is meant",
            device.display(),
            whole.path.display()
        );
    }
    let disk = disks
        .iter()
        .find(|disk| disk.path == real)
        .with_context(|| format!("{} is no disk that the kernel lists in /sys/block", device.display()))?;
    let mounts = mount::table().context("reading the mount table")?;
    refuse(disk, &block::uses(disk, &mounts, &swaps::table()), also_fixed)?;
    Ok(Target { path: real, size: disk.size_bytes, title: title(disk), holds: holds(disk) })
}

/// Why a disk must not be overwritten.
fn refuse(disk: &BlockDevice, uses: &[Use], also_fixed: bool) -> Result<()> {
    let mut why: Vec<String> = uses.iter().map(|it| format!("{it}; {}", remedy(it))).collect();
    if disk.read_only {
        why.push("it cannot be written; look for a switch on it".into());
    }
    if disk.size_bytes == 0 {
        why.push("there is no medium in it".into());
    }
    if !disk.removable && !also_fixed {
        why.push("it cannot be taken out of this machine; if it is meant all the same, give --fixed-disk".into());
    }
    if why.is_empty() {
        return Ok(());
    }
    bail!("{} ({}) is not overwritten:\n  {}", disk.path.display(), title(disk), why.join("\n  "))
}

fn remedy(it: &Use) -> &'static str {
    match it.how {
        block::How::Mounted(_) => "unmount it, or name another device",
        block::How::Swap => "swapoff it, or name another device",
        block::How::Held(_) => "stop that first, or name another device",
    }
}

fn title(disk: &BlockDevice) -> String {
    let model = disk.model.as_deref().unwrap_or("an unnamed disk");
    let bus = if disk.bus == Bus::Other { "" } else { disk.bus.as_str() };
    format!("{model} ({bus}{}{} MiB)", if bus.is_empty() { "" } else { ", " }, disk.size_bytes >> 20)
}

/// What stands on it. What cannot be read is not told: it is overwritten all the same.
fn holds(disk: &BlockDevice) -> Vec<String> {
    let partitions = disk.partitions.iter().map(|it| (it.path.clone(), Some(it.size_bytes)));
    let mut all = Vec::new();
    for (path, size) in std::iter::once((disk.path.clone(), None)).chain(partitions) {
        let marks = signatures::marks(&path).unwrap_or_default();
        let kinds: Vec<String> = marks
            .iter()
            .filter(|mark| !mark.is_table())
            .map(
                |mark| {
                    if mark.label.is_empty() { mark.kind.clone() } else { format!("{} {:?}", mark.kind, mark.label) }
                },
            )
            .collect();
        match size {
            Some(size) => {
                let kinds = if kinds.is_empty() { "nothing known".to_owned() } else { kinds.join(", ") };
                all.push(format!("{}: {kinds} ({} MiB)", path.display(), size >> 20));
            }
            None if !kinds.is_empty() => all.push(format!("{}: {}", path.display(), kinds.join(", "))),
            None => {}
        }
    }
    all
}

/// Whether so many bytes fit onto it.
///
/// # Errors
/// They do not; says how large it must be.
pub fn fits(length: u64, target: &Target) -> Result<()> {
    if length > target.size {
        bail!(
            "{} is too small: the medium needs {} MiB ({length} bytes), and it has {} MiB ({} bytes); nothing was written",
            target.path.display(),
            length.div_ceil(1 << 20),
            target.size >> 20,
            target.size
        );
    }
    Ok(())
}

/// Writes an image to a device and reads it back.
///
/// # Errors
/// The device is too small, or somebody uses it: nothing was written. It cannot be written, or gives other bytes back.
pub fn write(image: &Path, target: &Target) -> Result<()> {
    let mut from = File::open(image).with_context(|| format!("opening {}", image.display()))?;
    let length = from.metadata().context("the size of the image")?.len();
    fits(length, target)?;
    let path = target.path.display();
    let exclusive = OFlags::EXCL.bits().cast_signed();
    let mut to = OpenOptions::new().write(true).custom_flags(exclusive).open(&target.path).map_err(|error| {
        let busy = error.raw_os_error() == Some(Errno::BUSY.raw_os_error());
        let why = if busy { "somebody uses it (mounted, swap, md, LVM); nothing was written" } else { "opening it" };
        anyhow::Error::from(error).context(format!("{path}: {why}"))
    })?;
    // What is left at the far end, such as a second partition table, would be found by those who look for it. Erased
    // through the name: we hold the device, but wipefs only wants it for itself where it is told to.
    if let Err(error) = Cmd::tool(Tool::Wipefs).args(["--all", "--force", "--quiet"]).arg(&target.path).run() {
        bail!("erasing the marks on {path}: {error}");
    }
    copy(&mut from, &mut to, FIRST as u64).with_context(|| format!("writing {path}"))?;
    to.sync_all().with_context(|| format!("writing {path}"))?;
    let mut first = [0; FIRST];
    from.seek(SeekFrom::Start(0)).and_then(|_| from.read_exact(&mut first)).context("reading the image")?;
    to.seek(SeekFrom::Start(0))
        .and_then(|_| to.write_all(&first))
        .and_then(|()| to.sync_all())
        .with_context(|| format!("writing the first sector of {path}"))?;
    // Else the kernel would answer from its memory.
    Cmd::tool(Tool::Blockdev).arg("--flushbufs").arg(&target.path).run().with_context(|| format!("flushing {path}"))?;
    let mut back = File::open(&target.path).with_context(|| format!("reading {path} back"))?;
    from.seek(SeekFrom::Start(0)).context("reading the image")?;
    if let Some(at) = differs(&mut from, &mut back).with_context(|| format!("reading {path} back"))? {
        bail!("{path} gives other bytes back than were written, from byte {at} on; it is broken, use another");
    }
    drop(to);
    // Where the kernel knows no partition tables there is nothing to tell it.
    if let Err(error) = Cmd::tool(Tool::Blockdev).arg("--rereadpt").arg(&target.path).run() {
        tracing::debug!("{error}");
    }
    Ok(())
}

/// Copies from `begin` to the end.
fn copy(from: &mut File, to: &mut File, begin: u64) -> std::io::Result<()> {
    from.seek(SeekFrom::Start(begin))?;
    to.seek(SeekFrom::Start(begin))?;
    let mut piece = vec![0; PIECE];
    loop {
        let count = fill(from, &mut piece)?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(piece.get(..count).unwrap_or_default())?;
    }
}

/// Where two begin to differ, as far as the first goes.
fn differs(one: &mut impl Read, other: &mut impl Read) -> std::io::Result<Option<u64>> {
    let (mut a, mut b) = (vec![0; PIECE], vec![0; PIECE]);
    let mut at = 0;
    loop {
        let count = fill(one, &mut a)?;
        let (a, b) = (a.get(..count).unwrap_or_default(), b.get_mut(..count).unwrap_or_default());
        let there = fill(other, b)?;
        if let Some(here) = a.iter().zip(b.iter()).position(|(a, b)| a != b).or((there < count).then_some(there)) {
            return Ok(Some(at + here as u64));
        }
        if count == 0 {
            return Ok(None);
        }
        at += count as u64;
    }
}

/// Reads until the piece is full or the file ends.
fn fill(from: &mut impl Read, piece: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = piece.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::How;

    fn disk(removable: bool) -> BlockDevice {
        BlockDevice {
            name: "sdb".into(),
            path: "/dev/sdb".into(),
            device: (8, 16),
            size_bytes: 1 << 30,
            logical_sector_bytes: 512,
            removable,
            rotational: false,
            read_only: false,
            model: Some("Flash Disk".into()),
            serial: None,
            wwn: None,
            bus: Bus::Usb,
            modaliases: vec![],
            drivers: vec![],
            partitions: vec![],
            holders: vec![],
            above: vec![],
            by_path: vec![],
        }
    }

    #[test]
    fn what_must_not_be_overwritten() {
        let used = |how| vec![Use { device: "/dev/sdb1".into(), how }];
        type Row<'a> = (&'a str, BlockDevice, Vec<Use>, bool, Result<(), &'a str>);
        let rows: Vec<Row<'_>> = vec![
            ("a stick", disk(true), vec![], false, Ok(())),
            (
                "fixed",
                disk(false),
                vec![],
                false,
                Err("it cannot be taken out of this machine; if it is meant all the same"),
            ),
            ("fixed, and meant", disk(false), vec![], true, Ok(())),
            (
                "mounted",
                disk(true),
                used(How::Mounted("/data".into())),
                false,
                Err("/dev/sdb1 is mounted on /data; unmount"),
            ),
            (
                "the root, and meant",
                disk(false),
                used(How::Mounted("/".into())),
                true,
                Err("/dev/sdb1 is mounted on /; un"),
            ),
            ("swap", disk(true), used(How::Swap), false, Err("/dev/sdb1 is used as swap; swapoff it")),
            (
                "md, LVM",
                disk(true),
                used(How::Held("md0".into())),
                true,
                Err("/dev/sdb1 is part of /dev/md0; stop that"),
            ),
            ("empty", BlockDevice { size_bytes: 0, ..disk(true) }, vec![], false, Err("there is no medium in it")),
            (
                "write-protected",
                BlockDevice { read_only: true, ..disk(true) },
                vec![],
                false,
                Err("it cannot be written"),
            ),
        ];
        for (name, disk, uses, also_fixed, expected) in rows {
            match (refuse(&disk, &uses, also_fixed), expected) {
                (Ok(()), Ok(())) => {}
                (Err(error), Err(says)) => {
                    let error = error.to_string();
                    assert!(error.starts_with("/dev/sdb (Flash Disk (usb, "), "{name}: {error}");
                    assert!(error.contains(&format!("\n  {says}")), "{name}: {error}");
                }
                (got, _) => panic!("{name}: {got:?}"),
            }
        }
    }

    #[test]
    fn bytes_that_differ() {
        let long = vec![7; PIECE + 10];
        let mut other = long.clone();
        other[PIECE + 3] = 8;
        type Row<'a> = (&'a str, &'a [u8], &'a [u8], Option<u64>);
        let rows: &[Row<'_>] = &[
            ("empty", b"", b"", None),
            ("the same", b"abc", b"abc", None),
            ("longer", b"abc", b"abcd", None),
            ("shorter", b"abc", b"ab", Some(2)),
            ("in the middle", b"abc", b"axc", Some(1)),
            ("in the second piece", &long, &other, Some(PIECE as u64 + 3)),
        ];
        for (name, mut one, mut other, expected) in rows.iter().map(|row| (row.0, row.1, row.2, row.3)) {
            assert_eq!(differs(&mut one, &mut other).expect("read"), expected, "{name}");
        }
    }

    #[test]
    fn a_stick_that_is_too_small() {
        let target = Target { path: "/dev/sdb".into(), size: 8 << 20, title: String::new(), holds: vec![] };
        assert!(fits(8 << 20, &target).is_ok());
        let error = fits((8 << 20) + 1, &target).unwrap_err().to_string();
        assert_eq!(
            error,
            "/dev/sdb is too small: the medium needs 9 MiB (8388609 bytes), and it has 8 MiB (8388608 bytes); nothing was \
             written"
        );
    }

    #[test]
    fn what_is_no_disk_is_told() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let error = judge(file.path(), true).expect_err("a file").to_string();
        assert!(error.ends_with("is no disk; to make an image in a file, name that with --output"), "{error}");
        assert!(judge(Path::new("/dev/no-such-disk"), true).is_err());
    }
}
