//! The running machine's disks, as the contract describes them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use systemimager_core::{BlockDevice, Holder, PartitionInfo, Signature, Size};

use crate::sys::block::{self, How, Which};
use crate::sys::lvm;
use crate::sys::mount;
use crate::sys::signatures::{self, Mark};

/// The disks that could be installed on or captured, ordered by their place on the buses, so that the
/// order is the same at each boot whatever names the kernel gives.
///
/// # Errors
/// /sys or /proc is not mounted.
pub fn block_devices() -> Result<Vec<BlockDevice>> {
    let sysfs = Path::new("/sys");
    let mounts = mount::table().context("reading the mount table")?;
    let mut disks: Vec<BlockDevice> = block::list(sysfs, Which::Disks)
        .context("listing disks")?
        .into_iter()
        .map(|disk| {
            // What is held or swapped on can be taken apart; what is mounted, somebody uses.
            let uses = block::uses(&disk, &mounts, &[]);
            let mounted = uses.iter().filter(|it| matches!(it.how, How::Mounted(_)));
            let in_use = mounted.map(ToString::to_string).collect();
            let place = std::fs::canonicalize(sysfs.join("block").join(&disk.name)).unwrap_or_default();
            BlockDevice {
                sysfs: place.strip_prefix("/sys/devices").unwrap_or(&place).display().to_string(),
                in_use,
                ..convert(disk)
            }
        })
        .collect();
    disks.sort_by_cached_key(|disk| bus_order(&disk.sysfs));
    Ok(disks)
}

/// Fills in what stands on these disks and their partitions. Programs read them for that; nothing is changed. A disk
/// that cannot be read is not `looked_at`.
pub fn look_at(disks: &mut [BlockDevice]) {
    let mut groups = BTreeMap::new();
    for disk in disks.iter_mut().filter(|disk| disk.size.0 > 0) {
        if let Err(error) = look_at_one(disk, &mut groups) {
            // It may be a disk that nobody is going to touch.
            tracing::warn!("what stands on {} cannot be seen: {error:#}", disk.path);
        }
    }
    // A physical volume without a description of its own is named in those of the others.
    for disk in disks {
        let all = disk.partitions.iter_mut().flat_map(|it| &mut it.signatures).chain(&mut disk.signatures);
        for signature in all.filter(|it| it.kind == LVM && it.part_of.is_empty()) {
            signature.part_of = groups.get(&signature.uuid).cloned().unwrap_or_default();
        }
    }
}

/// How libblkid calls a physical volume of LVM.
const LVM: &str = "LVM2_member";

/// `groups` collects the volume group of each physical volume, by its UUID.
fn look_at_one(disk: &mut BlockDevice, groups: &mut BTreeMap<String, String>) -> Result<()> {
    let path = disk.path.clone();
    disk.signatures = found_on(path.as_path(), groups)?;
    let entry = signatures::entry(path.as_path())?;
    (disk.table, disk.table_id) = (entry.table, entry.table_id);
    for partition in &mut disk.partitions {
        let path = block::partition_path(path.as_path(), partition.number);
        partition.signatures = found_on(&path, groups)?;
        let entry = signatures::entry(&path)?;
        (partition.kind, partition.label, partition.flags) = (entry.kind, entry.label, entry.flags);
        // Of a dos table it only repeats the table's identifier.
        partition.uuid = if disk.table == "gpt" { entry.uuid } else { String::new() };
    }
    disk.looked_at = true;
    Ok(())
}

fn found_on(device: &Path, groups: &mut BTreeMap<String, String>) -> Result<Vec<Signature>> {
    let mut found: Vec<Signature> = Vec::new();
    for mark in signatures::marks(device)?.into_iter().filter(|mark| !mark.is_table()) {
        let same = |it: &Signature| (&it.kind, &it.uuid, &it.label) == (&mark.kind, &mark.uuid, &mark.label);
        if !found.iter().any(same) {
            let part_of = part_of(device, &mark, groups);
            found.push(Signature { kind: mark.kind, uuid: mark.uuid, label: mark.label, part_of });
        }
    }
    Ok(found)
}

/// What a signature says that its device is a part of.
fn part_of(device: &Path, mark: &Mark, groups: &mut BTreeMap<String, String>) -> String {
    let named = |what: &str| match (mark.label.as_str(), mark.uuid.as_str()) {
        ("", "") => format!("{what} without an identity"),
        ("", uuid) => format!("{what} {uuid}"),
        (label, uuid) => format!("{what} {label} ({uuid})"),
    };
    match mark.kind.as_str() {
        LVM => {
            let Some(group) = lvm::group(device) else { return String::new() };
            let name = format!("the volume group {} ({})", group.name, group.id);
            groups.extend(group.volumes.into_iter().map(|volume| (volume, name.clone())));
            name
        }
        "linux_raid_member" => named("the md array"),
        "zfs_member" => named("the ZFS pool"),
        "btrfs" if btrfs_devices(device) > 1 => named("the btrfs"),
        kind if kind.ends_with("_raid_member") => named(&format!("the {kind} array")),
        _ => String::new(),
    }
}

/// How many devices a btrfs is made of, by its first superblock (Documentation/filesystems/btrfs: at 64 KiB,
/// `num_devices` 0x88 bytes into it).
fn btrfs_devices(device: &Path) -> u64 {
    use std::os::unix::fs::FileExt as _;
    let mut number = [0; 8];
    let read = std::fs::File::open(device).and_then(|file| file.read_exact_at(&mut number, 0x1_0000 + 0x88));
    read.map_or(1, |()| u64::from_le_bytes(number))
}

/// `uefi` or `bios`: what started this kernel.
pub fn firmware(sysfs: &Path) -> &'static str {
    if sysfs.join("firmware/efi").is_dir() { "uefi" } else { "bios" }
}

/// Whether the firmware's boot entries can be written: efivarfs is mounted, or the kernel has it to be mounted.
///
/// # Errors
/// /proc is not mounted.
pub fn efivars(sysfs: &Path) -> Result<bool> {
    if !sysfs.join("firmware/efi/efivars").is_dir() {
        return Ok(false);
    }
    let known = std::fs::read_to_string("/proc/filesystems").context("reading /proc/filesystems")?;
    Ok(known.lines().any(|line| line.split_whitespace().last() == Some("efivarfs")))
}

fn convert(disk: block::BlockDevice) -> BlockDevice {
    BlockDevice {
        path: disk.path.into(),
        size: Size(disk.size_bytes),
        sector_size: disk.logical_sector_bytes,
        removable: disk.removable,
        read_only: disk.read_only,
        rotational: disk.rotational,
        model: disk.model.unwrap_or_default(),
        serial: disk.serial.unwrap_or_default(),
        wwn: disk.wwn.unwrap_or_default(),
        bus: disk.bus.as_str().to_owned(),
        modaliases: disk.modaliases,
        drivers: disk.drivers.into_iter().filter_map(|driver| driver.module).collect(),
        partitions: disk
            .partitions
            .into_iter()
            .map(|it| PartitionInfo {
                name: it.name,
                number: it.number,
                start: Size(it.start_bytes),
                size: Size(it.size_bytes),
                ..PartitionInfo::default()
            })
            .collect(),
        by_path: disk.by_path,
        holders: disk.above.into_iter().map(|it| Holder { name: it.name, title: it.title, on: it.on }).collect(),
        name: disk.name,
        ..BlockDevice::default()
    }
}

/// A key by which paths in sysfs are ordered as people count: `ata2` before `ata10`, and PCI addresses, which are
/// hexadecimal, `1a` after `02`.
pub fn bus_order(path: &str) -> Vec<(String, Option<u64>)> {
    let mut key = Vec::new();
    for part in path.split('/') {
        let hexadecimal = part.contains(':') && part.contains('.');
        let mut rest = part;
        while !rest.is_empty() {
            let plain = |letter: char| letter.is_ascii_digit() && !hexadecimal;
            let digits = rest.find(plain).unwrap_or(rest.len());
            let (word, tail) = rest.split_at(digits);
            let end = tail.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(tail.len());
            let (number, tail) = tail.split_at(end);
            key.push((word.to_owned(), (!number.is_empty()).then(|| number.parse().unwrap_or(u64::MAX))));
            rest = tail;
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buses_are_counted_as_people_do() {
        let mut paths =
            ["pci0/ata10/x", "pci0/ata2/x", "pci0/ata2/x1", "pci0", "pci0/0000:00:1a.0", "pci0/0000:00:02.0"];
        paths.sort_by_key(|path| bus_order(path));
        assert_eq!(
            paths,
            ["pci0", "pci0/0000:00:02.0", "pci0/0000:00:1a.0", "pci0/ata2/x", "pci0/ata2/x1", "pci0/ata10/x"]
        );
    }
}
