//! What the kernel has made of a disk and its partitions: md arrays, device-mapper devices (LVM volumes, opened
//! LUKS containers, multipath), and what is made of those in turn.
//!
//! Everything is read below a given directory, so that a machine's /sys can be a fixture in a test. No device is
//! opened and nothing is changed. Sources: Documentation/ABI/testing/sysfs-block-dm and
//! Documentation/admin-guide/md.rst of the kernel.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::mountinfo;

/// How deep such devices may stand on each other; more is no real machine.
const DEEPEST: usize = 32;

/// What made a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// The device mapper.
    Dm,
    /// Software RAID.
    Md,
    /// Something else (bcache, drbd).
    Other,
}

/// A device that is made of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Above {
    /// The kernel's name, `dm-0`.
    pub name: String,
    /// What people call it: the mapper's name (`vg0-root`), or the kernel's.
    pub title: String,
    /// What made it.
    pub made: Made,
    /// Its directory in sysfs.
    pub dir: PathBuf,
    /// Bytes; 0 while it is not running.
    pub size_bytes: u64,
    /// Number and kernel name of it and of its partitions.
    pub devices: Vec<((u32, u32), String)>,
    /// Kernel names of the disks and partitions at the bottom of it.
    pub on: Vec<String>,
}

/// All that stands on a disk or its partitions, each before what it stands on: in this order they can be taken
/// apart. `disk` is its directory in sysfs.
#[must_use]
pub fn above(disk: &Path) -> Vec<Above> {
    let Ok(disk) = fs::canonicalize(disk) else { return Vec::new() };
    let (mut seen, mut found) = (BTreeSet::new(), Vec::new());
    for part in itself_and_partitions(&disk) {
        climb(&part, DEEPEST, &mut seen, &mut found);
    }
    found
}

fn climb(dir: &Path, deeper: usize, seen: &mut BTreeSet<PathBuf>, found: &mut Vec<Above>) {
    for holder in linked(&dir.join("holders")) {
        if deeper == 0 || !seen.insert(holder.clone()) {
            continue;
        }
        let parts = itself_and_partitions(&holder);
        for part in &parts {
            climb(part, deeper - 1, seen, found);
        }
        let (mut on, mut passed) = (BTreeSet::new(), BTreeSet::new());
        bottom(&holder, DEEPEST, &mut passed, &mut on);
        let mapped = text(&holder.join("dm/name"));
        let name = name(&holder);
        found.push(Above {
            title: mapped.clone().unwrap_or_else(|| name.clone()),
            made: match (mapped.is_some(), holder.join("md").is_dir()) {
                (true, _) => Made::Dm,
                (_, true) => Made::Md,
                _ => Made::Other,
            },
            // sysfs counts in 512 bytes whatever the device's own sectors are.
            size_bytes: text(&holder.join("size"))
                .and_then(|it| it.parse::<u64>().ok())
                .unwrap_or(0)
                .saturating_mul(512),
            devices: parts.iter().filter_map(|part| Some((numbers(part)?, self::name(part)))).collect(),
            on: on.into_iter().collect(),
            dir: holder,
            name,
        });
    }
}

/// The names of what lies at the bottom: that which is made of nothing.
fn bottom(dir: &Path, deeper: usize, passed: &mut BTreeSet<PathBuf>, on: &mut BTreeSet<String>) {
    if deeper == 0 || !passed.insert(dir.to_path_buf()) {
        return;
    }
    let mut slaves = linked(&dir.join("slaves"));
    if slaves.is_empty() && dir.join("partition").exists() {
        // The partition of an array is made of what the array is made of.
        slaves = dir.parent().map(|disk| linked(&disk.join("slaves"))).unwrap_or_default();
    }
    if slaves.is_empty() {
        on.insert(name(dir));
    }
    for slave in slaves {
        bottom(&slave, deeper - 1, passed, on);
    }
}

fn itself_and_partitions(dir: &Path) -> Vec<PathBuf> {
    let inside = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut parts: Vec<PathBuf> = inside.filter(|path| path.join("partition").is_file()).collect();
    parts.sort();
    parts.insert(0, dir.to_path_buf());
    parts
}

/// The directories that the links in a directory lead to, by name.
fn linked(dir: &Path) -> Vec<PathBuf> {
    let mut links: Vec<PathBuf> = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    links.sort();
    links.into_iter().filter_map(|link| fs::canonicalize(link).ok()).collect()
}

fn name(dir: &Path) -> String {
    dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn text(file: &Path) -> Option<String> {
    Some(fs::read_to_string(file).ok()?.trim().to_owned()).filter(|text| !text.is_empty())
}

fn numbers(dir: &Path) -> Option<(u32, u32)> {
    mountinfo::device(fs::read(dir.join("dev")).ok()?.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Devices by path below /sys/devices; each with what it stands on.
    fn sys(devices: &[(&str, &[&str])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("temporary directory");
        for (minor, (path, _)) in devices.iter().enumerate() {
            let dir = dir.path().join(path);
            fs::create_dir_all(dir.join("holders")).expect("mkdir");
            fs::create_dir_all(dir.join("slaves")).expect("mkdir");
            fs::write(dir.join("dev"), format!("9:{minor}\n")).expect("written");
            fs::write(dir.join("size"), "8\n").expect("written");
            match path.rsplit('/').next() {
                Some(name) if name.starts_with("dm-") => {
                    fs::create_dir_all(dir.join("dm")).expect("mkdir");
                    fs::write(dir.join("dm/name"), format!("vg-{name}\n")).expect("written");
                }
                Some(name) if name.starts_with("md") && !name.contains('p') => {
                    fs::create_dir_all(dir.join("md")).expect("mkdir");
                }
                Some(name) if name.ends_with(|last: char| last.is_ascii_digit()) && !name.starts_with("bcache") => {
                    fs::write(dir.join("partition"), "1\n").expect("written");
                }
                _ => {}
            }
        }
        for (path, on) in devices {
            let upper = dir.path().join(path);
            for on in *on {
                let lower = dir.path().join(on);
                symlink(&upper, lower.join("holders").join(upper.file_name().expect("name"))).expect("link");
                symlink(&lower, upper.join("slaves").join(lower.file_name().expect("name"))).expect("link");
            }
        }
        dir
    }

    #[test]
    fn the_uppermost_comes_first_and_knows_its_bottom() {
        let sys = sys(&[
            ("pci/sda", &[]),
            ("pci/sda/sda1", &[]),
            ("pci/sda/sda2", &[]),
            ("pci/sdb", &[]),
            // An array over two disks, partitioned; a volume group on its partition and another disk's.
            ("virtual/md127", &["pci/sda/sda1", "pci/sdb"]),
            ("virtual/md127/md127p1", &[]),
            ("virtual/dm-0", &["virtual/md127/md127p1", "pci/sda/sda2"]),
            ("virtual/dm-1", &["virtual/dm-0"]),
            ("virtual/bcache0", &["virtual/dm-1"]),
        ]);
        let found = above(&sys.path().join("pci/sda"));
        let seen: Vec<_> = found.iter().map(|it| (it.name.as_str(), it.made, it.on.join(" "))).collect();
        let all = "sda1 sda2 sdb";
        assert_eq!(
            seen,
            [
                ("bcache0", Made::Other, all.into()),
                ("dm-1", Made::Dm, all.into()),
                ("dm-0", Made::Dm, all.into()),
                ("md127", Made::Md, "sda1 sdb".into()),
            ]
        );
        assert_eq!(found[1].title, "vg-dm-1");
        assert_eq!(found[3].size_bytes, 4096);
        let parts: Vec<_> = found[3].devices.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(parts, ["md127", "md127p1"]);
        assert_eq!(above(&sys.path().join("virtual/bcache0")), Vec::new());
        assert_eq!(above(&sys.path().join("absent")), Vec::new());
    }

    #[test]
    fn a_circle_ends() {
        let sys = sys(&[("a/sda", &[]), ("v/dm-0", &["a/sda", "v/dm-1"]), ("v/dm-1", &["v/dm-0"])]);
        let names: Vec<_> = above(&sys.path().join("a/sda")).into_iter().map(|it| it.name).collect();
        assert_eq!(names, ["dm-1", "dm-0"]);
    }
}
