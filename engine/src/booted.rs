//! What an installed system boots from, read from the machine: for boot loader plugins that plan on it.
//!
//! It reads the mount table, sysfs and the signatures of file systems; it changes nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use systemimager_core::{BlockDevice, Booted, BootedMount, BytePath, Place};

use crate::capture::stack;
use crate::hardware;
use crate::sys::mount;
use crate::sys::mountinfo::MountInfo;
use crate::sys::signatures;

/// Looks at the system whose `/` is this directory: `/` itself, or a tree on mounted file systems.
///
/// # Errors
/// The directory is not there; /proc or /sys is not mounted.
pub fn look(root: &Path) -> Result<Booted> {
    let root = std::fs::canonicalize(root).with_context(|| format!("looking at {}", root.display()))?;
    let place = if root == Path::new("/") { Place::Running } else { Place::Tree { root: root.as_path().into() } };
    let table = mount::table().context("reading the mount table")?;
    let found = mounts(&root, &table);
    let sysfs = Path::new("/sys");
    let describe = |(at, mount): &(PathBuf, &MountInfo)| {
        let device = device(sysfs, mount);
        // What cannot be read has no UUID here; a boot loader says whether it needs one.
        let marks = device.as_deref().map(|device| signatures::marks(device).unwrap_or_default()).unwrap_or_default();
        let uuid = marks.into_iter().find(|mark| mark.kind == mount.fstype).map(|mark| mark.uuid).unwrap_or_default();
        BootedMount {
            at: at.as_path().into(),
            device: device.as_deref().map(BytePath::from).unwrap_or_default(),
            fstype: mount.fstype.clone(),
            uuid,
            made_of: stack::made_of(sysfs, mount.device).unwrap_or_default(),
        }
    };
    let mut booted = Booted::new(place);
    booted.mounts = found.iter().map(describe).collect();
    booted.firmware = hardware::firmware(sysfs).to_owned();
    booted.efivars = hardware::efivars(sysfs)?;
    if let Some(boot) = booted.mount_of("/boot") {
        let name = boot.device.to_string();
        let name = name.strip_prefix("/dev/").unwrap_or(&name).to_owned();
        booted.disks = hardware::block_devices()?.into_iter().filter(|disk| holds(disk, &name)).collect();
    }
    Ok(booted)
}

/// The file systems on block devices of a tree, where they are in it: that of `/`, then those below, in their order.
fn mounts<'a>(root: &Path, table: &'a [MountInfo]) -> Vec<(PathBuf, &'a MountInfo)> {
    let mut found: Vec<(PathBuf, &MountInfo)> = Vec::new();
    // The tree may be a directory of a larger file system.
    let above = table.iter().filter(|mount| root.starts_with(&mount.mount_point));
    found.extend(above.max_by_key(|mount| mount.mount_point.as_os_str().len()).map(|mount| ("/".into(), mount)));
    for mount in table.iter().filter(|mount| mount.mount_point != root && mount.mount_point.starts_with(root)) {
        let inside = Path::new("/").join(mount.mount_point.strip_prefix(root).unwrap_or(Path::new("")));
        let on_device = mount.source.as_encoded_bytes().starts_with(b"/dev/");
        if on_device && mount.root == Path::new("/") {
            // What is mounted last on a directory hides the others.
            found.retain(|(at, _)| *at != inside);
            found.push((inside, mount));
        }
    }
    found
}

/// The device of a mount as the kernel names it; what the mounter said where it has no number of its own.
fn device(sysfs: &Path, mount: &MountInfo) -> Option<PathBuf> {
    let (major, minor) = mount.device;
    let link = sysfs.join("dev/block").join(format!("{major}:{minor}"));
    let name = std::fs::canonicalize(link).ok().and_then(|dir| Some(dir.file_name()?.to_owned()));
    let named = mount.source.as_encoded_bytes().starts_with(b"/dev/").then(|| PathBuf::from(&mount.source));
    // sysfs has ! where names have slashes.
    name.map(|name| Path::new("/dev").join(name.to_string_lossy().replace('!', "/"))).or(named)
}

/// Whether a device is a disk, a partition of it, or made of any of them.
fn holds(disk: &BlockDevice, name: &str) -> bool {
    disk.name == name
        || disk.partitions.iter().any(|partition| partition.name == name)
        || disk.holders.iter().any(|holder| holder.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mountinfo;
    use systemimager_core::Holder;

    const TABLE: &str = "\
21 1 8:1 / / rw - ext4 /dev/sda1 rw
22 21 0:20 / /proc rw - proc proc rw
23 21 8:2 / /boot rw - ext2 /dev/sda2 rw
24 23 8:3 / /boot/efi rw - vfat /dev/sda3 rw
25 21 8:17 / /mnt rw - ext4 /dev/sdb1 rw
26 25 8:18 / /mnt/boot rw - ext4 /dev/sdb2 rw
27 21 8:1 /srv /mnt/srv rw - ext4 /dev/sda1 rw
28 23 8:4 / /boot/efi rw - vfat /dev/sda4 rw
";

    #[test]
    fn a_system_has_the_mounts_of_its_tree() {
        let table = mountinfo::parse(TABLE.as_bytes()).unwrap();
        let shown = |root: &str| -> Vec<(String, String)> {
            let found = mounts(Path::new(root), &table);
            found.into_iter().map(|(at, it)| (at.display().to_string(), it.source.to_string_lossy().into())).collect()
        };
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(at, on)| ((*at).to_owned(), format!("/dev/{on}"))).collect()
        };
        let all = [("/", "sda1"), ("/boot", "sda2"), ("/mnt", "sdb1"), ("/mnt/boot", "sdb2"), ("/boot/efi", "sda4")];
        assert_eq!(shown("/"), pairs(&all));
        assert_eq!(shown("/mnt"), pairs(&[("/", "sdb1"), ("/boot", "sdb2")]));
        assert_eq!(shown("/mnt/boot/x"), pairs(&[("/", "sdb2")]));
    }

    #[test]
    fn a_device_lies_on_the_disks_that_it_is_made_of() {
        let raid = Holder { name: "md0".into(), title: "md0".into(), on: vec!["sda1".into(), "sdb1".into()] };
        let disk = BlockDevice { name: "sda".into(), holders: vec![raid], ..BlockDevice::default() };
        for (name, expected) in [("sda", true), ("md0", true), ("sdb", false), ("", false)] {
            assert_eq!(holds(&disk, name), expected, "{name}");
        }
    }

    #[test]
    fn this_machine_has_a_root() {
        let booted = look(Path::new("/")).unwrap();
        assert_eq!(booted.mounts.first().map(|mount| mount.at.clone()), Some("/".into()));
        assert_eq!(booted.place, Place::Running);
    }
}
