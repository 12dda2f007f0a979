//! What lies between a file system and its disk: LVM, md, LUKS, multipath. Read from sysfs.
//!
//! No plugin makes these anew yet, so a machine that stands on one is refused by name rather than
//! captured as something that could not be installed.

use std::path::Path;

/// Names what a block device is made of, if it is no disk or partition: `LVM (vg0-root)`.
///
/// `sysfs` is `/sys`, or a recorded tree in tests. A device that sysfs does not know is taken for a disk:
/// what follows will say that it is none.
pub fn made_of(sysfs: &Path, device: (u32, u32)) -> Option<String> {
    let dir = sysfs.join("dev/block").join(format!("{}:{}", device.0, device.1));
    let dir = std::fs::canonicalize(&dir).ok()?;
    // A partition of such a device lies in the device's directory.
    let whole = dir.join("partition").exists().then(|| dir.parent()).flatten();
    [Some(dir.as_path()), whole].into_iter().flatten().find_map(of_directory)
}

fn of_directory(dir: &Path) -> Option<String> {
    let read = |file: &str| std::fs::read_to_string(dir.join(file)).ok().map(|text| text.trim().to_owned());
    let name = || dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if let Some(uuid) = read("dm/uuid") {
        let called = read("dm/name").filter(|text| !text.is_empty()).unwrap_or_else(name);
        // kpartx makes `part1-mpath-…` of a partition.
        let bare = uuid.strip_prefix("part").and_then(|rest| rest.split_once('-')).map_or(uuid.as_str(), |it| it.1);
        let kind = match bare.split('-').next() {
            Some("LVM") => "LVM",
            Some("CRYPT") => "LUKS",
            Some("mpath") => "multipath",
            _ => "device-mapper",
        };
        return Some(format!("{kind} ({called})"));
    }
    if dir.join("md").is_dir() {
        return Some(format!("md ({})", name()));
    }
    if dir.join("bcache").is_dir() && name().starts_with("bcache") {
        return Some(format!("bcache ({})", name()));
    }
    name().starts_with("drbd").then(|| format!("DRBD ({})", name()))
}

/// Why a file system of this type, mounted so, cannot be laid out: `zfs`, or a btrfs subvolume.
pub fn of_type(fstype: &str, root: &Path, super_options: &[String]) -> Option<String> {
    match fstype {
        "zfs" => Some("zfs".to_owned()),
        "btrfs" if root != Path::new("/") => Some(format!("the btrfs subvolume {}", root.display())),
        "btrfs" => super_options
            .iter()
            .find_map(|option| option.strip_prefix("subvol=").filter(|name| *name != "/"))
            .map(|name| format!("the btrfs subvolume {name}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// sysfs as recorded on machines: a disk, and one device of each sort.
    fn sysfs() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let device = |number: &str, place: &str, files: &[(&str, &str)]| {
            let at = dir.path().join("devices").join(place);
            fs::create_dir_all(&at).unwrap();
            for (file, text) in files {
                let path = at.join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            let link = dir.path().join("dev/block");
            fs::create_dir_all(&link).unwrap();
            symlink(&at, link.join(number)).unwrap();
        };
        device("8:0", "pci/ata1/block/sda", &[("size", "1\n")]);
        device("8:1", "pci/ata1/block/sda/sda1", &[("partition", "1\n")]);
        let lvm = "LVM-9fJkBd0rC2\n";
        device("253:0", "virtual/block/dm-0", &[("dm/uuid", lvm), ("dm/name", "vg0-root\n")]);
        device("253:1", "virtual/block/dm-1", &[("dm/uuid", "CRYPT-LUKS2-0a-x\n"), ("dm/name", "x\n")]);
        device("253:2", "virtual/block/dm-2", &[("dm/uuid", "mpath-3600a\n"), ("dm/name", "mpatha\n")]);
        device("253:3", "virtual/block/dm-3", &[("dm/uuid", "part1-mpath-3600a\n"), ("dm/name", "mpatha1\n")]);
        device("253:4", "virtual/block/dm-4", &[("dm/uuid", "\n"), ("dm/name", "linear\n")]);
        device("9:0", "virtual/block/md0", &[("md/level", "raid1\n")]);
        device("259:0", "virtual/block/md0/md0p1", &[("partition", "1\n")]);
        dir
    }

    #[test]
    fn stacks_are_named() {
        let sysfs = sysfs();
        for (name, device, expected) in [
            ("disk", (8, 0), None),
            ("partition", (8, 1), None),
            ("lvm", (253, 0), Some("LVM (vg0-root)")),
            ("luks", (253, 1), Some("LUKS (x)")),
            ("multipath", (253, 2), Some("multipath (mpatha)")),
            ("partition of multipath", (253, 3), Some("multipath (mpatha1)")),
            ("other", (253, 4), Some("device-mapper (linear)")),
            ("md", (9, 0), Some("md (md0)")),
            ("partition of md", (259, 0), Some("md (md0)")),
            ("unknown", (1, 1), None),
        ] {
            assert_eq!(made_of(sysfs.path(), device).as_deref(), expected, "{name}");
        }
        let options = vec!["space_cache".to_owned(), "subvol=/@".to_owned()];
        for (name, fstype, root, options, expected) in [
            ("zfs", "zfs", "/", &[][..], Some("zfs")),
            ("subvolume by root", "btrfs", "/@", &[], Some("the btrfs subvolume /@")),
            ("subvolume by option", "btrfs", "/", options.as_slice(), Some("the btrfs subvolume /@")),
            ("btrfs", "btrfs", "/", &[], None),
            ("ext4", "ext4", "/x", &[], None),
        ] {
            assert_eq!(of_type(fstype, Path::new(root), options).as_deref(), expected, "{name}");
        }
    }
}
