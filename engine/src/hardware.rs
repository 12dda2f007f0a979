//! The running machine's disks, as the contract describes them.

use std::path::Path;

use anyhow::{Context, Result};
use systemimager_core::{BlockDevice, Holder, PartitionInfo, Size};

use crate::sys::block::{self, Which};
use crate::sys::mount;

/// The disks that could be installed on or captured, ordered by their place on the buses, so that the
/// order is the same at each boot whatever names the kernel gives.
///
/// # Errors
/// /sys or /proc is not mounted.
pub fn block_devices() -> Result<Vec<BlockDevice>> {
    let sysfs = Path::new("/sys");
    let mounts = mount::table().context("reading the mount table")?;
    let swaps = std::fs::read("/proc/swaps").unwrap_or_default();
    let mut disks: Vec<BlockDevice> = block::list(sysfs, Which::Disks)
        .context("listing disks")?
        .into_iter()
        .map(|disk| {
            let in_use = block::uses(&disk, &mounts, &swaps).iter().map(ToString::to_string).collect();
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
