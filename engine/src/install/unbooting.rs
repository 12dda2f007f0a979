//! Half-written disks do not boot: what firmware starts of a disk is erased. A BIOS starts the boot code in its first
//! sector, UEFI a file of an EFI system partition, which is no file system any more without its first sector.
//!
//! Nothing else is touched; partition tables and contents stay, for who looks into a failure.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context, Result};
use systemimager_core::{BlockDevice, Layout, NodeName};

use crate::sys::boot_code;

/// Types of EFI system partitions, of gpt and dos tables.
const ESP: [&str; 2] = ["c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "ef"];

fn is_esp(kind: &str) -> bool {
    ESP.iter().any(|it| it.eq_ignore_ascii_case(kind))
}

/// Where EFI system partitions begin on a disk as it is found, bytes.
pub fn of_device(disk: &BlockDevice) -> Vec<u64> {
    disk.partitions.iter().filter(|it| is_esp(&it.kind)).map(|it| it.start.0).collect()
}

/// Where they begin on a disk as it is going to be.
pub fn of_layout(layout: &Layout, disk: &NodeName) -> Vec<u64> {
    let disks = layout.disks.iter().filter(|it| it.node == *disk);
    let esps = disks.flat_map(|disk| &disk.partitions).filter(|it| is_esp(&it.kind));
    esps.filter_map(|it| it.start).map(|start| start.0).collect()
}

/// Erases the boot code of a disk, and as much at each of these places.
///
/// # Errors
/// The disk does not take it.
pub fn unboot(disk: &Path, places: &[u64]) -> Result<()> {
    let file = File::options().write(true).open(disk).with_context(|| format!("opening {}", disk.display()))?;
    for place in [0].iter().chain(places) {
        file.write_all_at(&boot_code::erased(*place), *place)
            .with_context(|| format!("erasing the boot code of {}", disk.display()))?;
    }
    file.sync_all().with_context(|| format!("writing out {}", disk.display()))
}

/// Takes away the boot code that a boot loader has put onto a disk with a partition table, for [`give_back`]; `None`: there
/// is none.
///
/// # Errors
/// The disk cannot be read, or does not take it.
pub fn take(disk: &Path) -> Result<Option<[u8; boot_code::LENGTH]>> {
    let file = File::open(disk).with_context(|| format!("opening {}", disk.display()))?;
    let mut code = [0; boot_code::LENGTH];
    file.read_exact_at(&mut code, 0).with_context(|| format!("reading the boot code of {}", disk.display()))?;
    if code == boot_code::erased(0) || code.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    unboot(disk, &[])?;
    Ok(Some(code))
}

/// Puts boot code back: from here on the disk boots.
///
/// # Errors
/// The disk does not take it.
pub fn give_back(disk: &Path, code: &[u8; boot_code::LENGTH]) -> Result<()> {
    let what = || format!("putting boot code on {}", disk.display());
    let file = File::options().write(true).open(disk).with_context(what)?;
    file.write_all_at(code, 0).and_then(|()| file.sync_all()).with_context(what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::{DiskLayout, PartitionInfo, PartitionLayout, Size};

    #[test]
    fn what_firmware_starts_is_erased_and_nothing_else() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [7; 4096]).unwrap();
        unboot(file.path(), &[2048]).unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        for (at, byte) in bytes.iter().enumerate() {
            let expected = if at < 440 { boot_code::erased(0)[at] } else { 7 };
            assert_eq!(*byte, if (2048..2488).contains(&at) { 0 } else { expected }, "{at}");
        }
    }

    #[test]
    fn boot_code_is_taken_and_given_back() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [7; 1024]).unwrap();
        let code = take(file.path()).unwrap().unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        assert!(code == [7; 440] && bytes[..440] == boot_code::erased(0) && bytes[440..] == [7; 584]);
        assert_eq!(take(file.path()).unwrap(), None, "it is taken already");
        give_back(file.path(), &code).unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), [7; 1024]);
        std::fs::write(file.path(), [0; 1024]).unwrap();
        assert_eq!(take(file.path()).unwrap(), None, "a table and no code");
        std::fs::write(file.path(), [7; 100]).unwrap();
        assert!(take(file.path()).is_err(), "no disk is so small");
    }

    #[test]
    fn efi_system_partitions_are_known_by_their_type() {
        let node = |name: &str| NodeName::try_from(name).unwrap();
        let mut disk = DiskLayout::new(node("disk0"), "gpt", Size(1 << 30), 512);
        for (number, kind) in [(1, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"), (2, "0FC63DAF-8483-4772-8E79-3D69D8477DE4")]
        {
            let partition = PartitionLayout::new(node(&format!("p{number}")), number, kind);
            disk.partitions.push(PartitionLayout { start: Some(Size(u64::from(number) << 20)), ..partition });
        }
        let layout = Layout { disks: vec![disk], ..Layout::default() };
        assert_eq!(of_layout(&layout, &node("disk0")), [1 << 20]);
        assert_eq!(of_layout(&layout, &node("disk1")), [0; 0]);
        let partition = PartitionInfo { kind: "ef".into(), start: Size(512), ..PartitionInfo::default() };
        let device = BlockDevice { partitions: vec![partition], ..BlockDevice::default() };
        assert_eq!(of_device(&device), [512]);
    }
}
