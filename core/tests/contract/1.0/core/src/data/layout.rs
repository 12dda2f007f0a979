//! The layout graph: disk → partition → volume → file system → mounts, by node names.
//!
//! A layout says what is to be; it names no device. It must stay able to hold md, LVM, LUKS and
//! subvolumes, which no plugin of the first release serves.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::size::Size;
use super::{BytePath, NodeName};

/// Why a layout is not one: where (as a path of keys in the master file) and what.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {why}")]
pub struct LayoutError {
    /// `filesystem.2.on`.
    pub at: String,
    /// What is wrong, and what to do.
    pub why: String,
}

/// How machines that get this image are partitioned and mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Disks with their partitions.
    #[serde(default, rename = "disk")]
    pub disks: Vec<DiskLayout>,
    /// Things made on partitions: md, LVM, LUKS.
    #[serde(default, rename = "volume", skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeLayout>,
    /// File systems and swap.
    #[serde(default, rename = "filesystem")]
    pub filesystems: Vec<FileSystemLayout>,
    /// Where they are mounted.
    #[serde(default, rename = "mount")]
    pub mounts: Vec<MountLayout>,
}

/// Which disk of a machine a [`DiskLayout`] is meant for. All that is set must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskRule {
    /// The n-th (from 0) of the disks that the other conditions leave, by bus path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<u32>,
    /// Serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// World wide name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wwn: Option<String>,
    /// Bus path: as below /dev/disk/by-path, or as below /sys/devices; `*` and `?` match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Model; `*` and `?` match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Not smaller than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_size: Option<Size>,
    /// Not larger than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_size: Option<Size>,
    /// Spinning or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotational: Option<bool>,
}

/// A disk and its partition table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskLayout {
    /// Its node.
    pub node: NodeName,
    /// `gpt`, `dos`, or `none` for a disk without a table (a file system right on it).
    pub label: String,
    /// Identifier of the table (GUID, or 0x… of MBR).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Size of the disk it was captured from.
    pub size: Size,
    /// Bytes of a logical sector on it.
    #[serde(default = "default_sector")]
    pub sector_size: u32,
    /// Which disk of the machine it is.
    #[serde(default, rename = "match")]
    pub rule: DiskRule,
    /// Partitions, by number.
    #[serde(default, rename = "partition")]
    pub partitions: Vec<PartitionLayout>,
}

fn default_sector() -> u32 {
    512
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionLayout {
    /// Its node.
    pub node: NodeName,
    /// Number in the table, from 1; 5 and above are logical in a `dos` table.
    pub number: u32,
    /// Offset on the disk; absent: after the partition before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Size>,
    /// Size; absent or `*`: all that is left (one partition of a disk may say so).
    #[serde(default, deserialize_with = "size_or_rest", skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// Type: a GUID for gpt, hexadecimal without 0x for dos.
    #[serde(rename = "type")]
    pub kind: String,
    /// Name in a gpt table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// UUID in a gpt table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Attributes as sfdisk writes them (`LegacyBIOSBootable`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<String>,
    /// Active flag of a dos table.
    #[serde(default, skip_serializing_if = "is_false")]
    pub bootable: bool,
    /// Where the disk is too small for all sizes, this one may shrink so far. Absent: a partition with a size keeps
    /// it, one that takes what is left needs 1 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_size: Option<Size>,
    /// It is on the disk already and stays as it is, with all that is in it: found by `preserve_label`, else by its
    /// number. Where it lies and what it is called stays too, whatever `start`, `name`, `uuid` and `attributes` say.
    #[serde(default, skip_serializing_if = "is_false")]
    pub preserve: bool,
    /// Name in the gpt table, or label of the file system, by which a preserved partition is found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preserve_label: Option<String>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// A size, or `*` for what is left.
fn size_or_rest<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Size>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a size with a unit (\"20 GiB\"), or \"*\" for what is left")]
    enum Wire {
        Number(u64),
        Text(String),
    }
    match Option::<Wire>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Wire::Number(number)) => Ok(Some(Size(number))),
        Some(Wire::Text(text)) if text.trim() == "*" => Ok(None),
        Some(Wire::Text(text)) => text.parse().map(Some).map_err(serde::de::Error::custom),
    }
}

/// Nothing of an image is pulled into a preserved file system, and without what is here no machine starts.
const SYSTEM: [&str; 12] =
    ["/", "/boot", "/boot/efi", "/efi", "/usr", "/etc", "/bin", "/sbin", "/lib", "/lib64", "/var", "/dev"];

/// Types of partitions that boot loaders write to: the EFI system partition and GRUB's (gpt), and EFI's of dos.
const BOOT_TYPES: [(&str, &str); 3] = [
    ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "the EFI system partition"),
    ("21686148-6449-6e6f-744e-656564454649", "a BIOS boot partition"),
    ("ef", "the EFI system partition"),
];

/// A thing made on other nodes: md, LVM, LUKS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeLayout {
    /// Its node.
    pub node: NodeName,
    /// `md`, `lvm`, `luks`.
    pub kind: String,
    /// The nodes it is made on.
    pub on: Vec<NodeName>,
    /// Its plugin's own settings.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

/// A file system (or swap) on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSystemLayout {
    /// Its node: `root`, `boot`, `swap`.
    pub node: NodeName,
    /// The partition, volume or disk it is on.
    pub on: NodeName,
    /// `ext4`, `swap`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// UUID, made again on each machine unless `new_uuid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// A fresh UUID on each machine; fstab and the boot loader must not name the old one then.
    #[serde(default, skip_serializing_if = "is_false")]
    pub new_uuid: bool,
    /// Label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Features and sizes the file system was captured with, in its plugin's words.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountLayout {
    /// The file system's node.
    pub node: NodeName,
    /// Where: an absolute path.
    pub at: BytePath,
    /// Options while installing (`acl,user_xattr`), comma-separated.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub options: String,
    /// A subvolume, where the file system has such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subvolume: Option<BytePath>,
}

impl PartitionLayout {
    /// What contradicts that it is preserved: the key and why.
    fn preserve_fault(&self) -> Option<(&'static str, String)> {
        if !self.preserve {
            let why = "it says how a preserved partition is found; add preserve = true, or take it away";
            return self.preserve_label.as_ref().map(|_| ("preserve_label", why.into()));
        }
        if self.preserve_label.as_deref() == Some("") {
            return Some(("preserve_label", "an empty label finds nothing; leave it out".into()));
        }
        let kind = self.kind.to_ascii_lowercase();
        let (_, what) = BOOT_TYPES.iter().find(|(known, _)| *known == kind)?;
        Some((
            "preserve",
            format!("{} is {what}, which the boot loader has to write to; take preserve away", self.node),
        ))
    }
}

fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty())
}

/// Whether a path lies below another.
fn below(path: &BytePath, above: &BytePath) -> bool {
    let mut rest = parts(path.as_bytes());
    parts(above.as_bytes()).all(|part| rest.next() == Some(part)) && rest.next().is_some()
}

impl Layout {
    /// Checks the graph: names once each, every `on` there, no circle, one root, absolute mount points.
    ///
    /// # Errors
    /// All that is wrong, each with the keys that lead to it.
    pub fn check(&self) -> Result<(), Vec<LayoutError>> {
        let mut errors = Vec::new();
        let mut wrong = |at: String, why: String| errors.push(LayoutError { at, why });
        let mut seen: BTreeSet<&NodeName> = BTreeSet::new();
        let mut blocks: BTreeSet<&NodeName> = BTreeSet::new();
        for (index, disk) in self.disks.iter().enumerate() {
            let at = format!("disk.{index}");
            if !seen.insert(&disk.node) {
                wrong(format!("{at}.node"), format!("the node {} is there twice; give each its own name", disk.node));
            }
            blocks.insert(&disk.node);
            let mut numbers = BTreeSet::new();
            let mut open = 0;
            for (number, partition) in disk.partitions.iter().enumerate() {
                let at = format!("{at}.partition.{number}");
                if !seen.insert(&partition.node) {
                    wrong(
                        format!("{at}.node"),
                        format!("the node {} is there twice; give each its own name", partition.node),
                    );
                }
                blocks.insert(&partition.node);
                if partition.number == 0 || !numbers.insert(partition.number) {
                    wrong(
                        format!("{at}.number"),
                        format!("the number {} is 0 or used twice on {}", partition.number, disk.node),
                    );
                }
                open += u32::from(partition.size.is_none() && !partition.preserve);
                if partition.size == Some(Size(0)) {
                    wrong(format!("{at}.size"), "a partition needs a size above 0".into());
                }
                if let (Some(size), Some(least)) = (partition.size, partition.min_size)
                    && least > size
                {
                    wrong(format!("{at}.min_size"), format!("{least} is more than the size, {size}; swap them"));
                }
                if let Some((field, why)) = partition.preserve_fault() {
                    wrong(format!("{at}.{field}"), why);
                }
            }
            if open > 1 {
                wrong(format!("{at}.partition"), "only one partition of a disk may leave its size open".into());
            }
        }
        for (index, volume) in self.volumes.iter().enumerate() {
            let at = format!("volume.{index}");
            if !seen.insert(&volume.node) {
                wrong(format!("{at}.node"), format!("the node {} is there twice", volume.node));
            }
            for on in &volume.on {
                // A volume may only stand on what comes before it: so there can be no circle.
                if !blocks.contains(on) {
                    wrong(format!("{at}.on"), format!("there is no disk, partition or earlier volume named {on}"));
                }
            }
            blocks.insert(&volume.node);
        }
        let mut used: BTreeSet<&NodeName> = BTreeSet::new();
        let mut filesystems: BTreeSet<&NodeName> = BTreeSet::new();
        for (index, fs) in self.filesystems.iter().enumerate() {
            let at = format!("filesystem.{index}");
            if !seen.insert(&fs.node) {
                wrong(format!("{at}.node"), format!("the node {} is there twice", fs.node));
            }
            if !blocks.contains(&fs.on) {
                wrong(format!("{at}.on"), format!("there is no disk, partition or volume named {}", fs.on));
            } else if !used.insert(&fs.on) {
                wrong(format!("{at}.on"), format!("{} already holds another file system", fs.on));
            }
            if fs.new_uuid && self.preserved_under(&fs.node).is_some() {
                wrong(
                    format!("{at}.new_uuid"),
                    format!("{} is preserved and keeps the UUID that it has; take new_uuid or preserve away", fs.on),
                );
            }
            filesystems.insert(&fs.node);
        }
        let mut points: BTreeSet<&BytePath> = BTreeSet::new();
        for (index, mount) in self.mounts.iter().enumerate() {
            let at = format!("mount.{index}");
            if !filesystems.contains(&mount.node) {
                wrong(format!("{at}.node"), format!("there is no file system named {}", mount.node));
            }
            let bytes = mount.at.as_bytes();
            let climbs = bytes.split(|byte| *byte == b'/').any(|part| part == b".." || part == b".");
            if !bytes.starts_with(b"/") || climbs {
                wrong(format!("{at}.at"), format!("{} is not an absolute path without . and ..", mount.at));
            }
            if !points.insert(&mount.at) {
                wrong(format!("{at}.at"), format!("two file systems are mounted at {}", mount.at));
            }
            if let Some(partition) = self.preserved_under(&mount.node)
                && let Some(why) = self.preserved_mount_fault(partition, mount)
            {
                wrong(format!("{at}.at"), why);
            }
        }
        if !self.disks.is_empty() && !points.contains(&BytePath::from("/")) {
            wrong("mount".into(), "no file system is mounted at /; an installed machine needs one".into());
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// No disks: the image can be pulled, but not installed.
    pub fn is_empty(&self) -> bool {
        self.disks.is_empty()
    }

    /// The disk a node lies on, following partitions, volumes (the first they are made on) and file systems.
    pub fn disk_of(&self, node: &NodeName) -> Option<&DiskLayout> {
        if let Some(fs) = self.filesystems.iter().find(|fs| fs.node == *node) {
            return self.disk_of(&fs.on);
        }
        if let Some(volume) = self.volumes.iter().find(|volume| volume.node == *node) {
            return volume.on.first().filter(|on| *on != node).and_then(|on| self.disk_of(on));
        }
        self.disks
            .iter()
            .find(|disk| disk.node == *node || disk.partitions.iter().any(|partition| partition.node == *node))
    }

    /// The preserved partition that a file system is on.
    pub fn preserved_under(&self, filesystem: &NodeName) -> Option<&PartitionLayout> {
        let fs = self.filesystems.iter().find(|fs| fs.node == *filesystem)?;
        self.disks.iter().flat_map(|disk| &disk.partitions).find(|it| it.preserve && it.node == fs.on)
    }

    /// Mounts of preserved file systems: while installing nothing is mounted there, and nothing is pulled into them.
    pub fn preserved_mounts(&self) -> Vec<&MountLayout> {
        self.mounts.iter().filter(|mount| self.preserved_under(&mount.node).is_some()).collect()
    }

    fn preserved_mount_fault(&self, partition: &PartitionLayout, mount: &MountLayout) -> Option<String> {
        if SYSTEM.iter().any(|place| parts(mount.at.as_bytes()).eq(parts(place.as_bytes()))) {
            return Some(format!(
                "{} is preserved, so nothing of the image gets into it, and no machine starts without what the image \
                 has at {}; preserve only data, or take preserve away from {}",
                partition.node, mount.at, partition.node
            ));
        }
        let inner = self.mounts.iter().find(|it| it.at != mount.at && below(&it.at, &mount.at))?;
        Some(format!(
            "{} is preserved and not written to, and {} would be mounted below it, at {}; mount that elsewhere",
            partition.node, inner.node, inner.at
        ))
    }

    /// The file system mounted at `at`.
    pub fn mounted_at(&self, at: &str) -> Option<&FileSystemLayout> {
        let mount = self.mounts.iter().find(|mount| mount.at == BytePath::from(at))?;
        self.filesystems.iter().find(|fs| fs.node == mount.node)
    }

    /// Mounts in the order in which they can be made: `/` first, then by depth.
    pub fn mounts_in_order(&self) -> Vec<&MountLayout> {
        let mut mounts: Vec<_> = self.mounts.iter().collect();
        mounts.sort_by_key(|mount| {
            let parts = mount.at.as_bytes().split(|byte| *byte == b'/').filter(|part| !part.is_empty()).count();
            (parts, mount.at.clone())
        });
        mounts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName::try_from(name).unwrap()
    }

    fn layout() -> Layout {
        Layout {
            disks: vec![DiskLayout {
                node: node("disk0"),
                label: "dos".into(),
                id: None,
                size: Size(8 << 30),
                sector_size: 512,
                rule: DiskRule::default(),
                partitions: vec![PartitionLayout {
                    node: node("disk0p1"),
                    number: 1,
                    start: None,
                    size: None,
                    kind: "83".into(),
                    name: None,
                    uuid: None,
                    attributes: None,
                    bootable: true,
                    min_size: None,
                    preserve: false,
                    preserve_label: None,
                }],
            }],
            volumes: vec![],
            filesystems: vec![FileSystemLayout {
                node: node("root"),
                on: node("disk0p1"),
                kind: "ext4".into(),
                uuid: None,
                new_uuid: false,
                label: None,
                options: BTreeMap::new(),
            }],
            mounts: vec![MountLayout { node: node("root"), at: "/".into(), options: String::new(), subvolume: None }],
        }
    }

    #[test]
    fn a_good_layout_passes() {
        assert_eq!(layout().check(), Ok(()));
        assert_eq!(Layout::default().check(), Ok(()));
        assert_eq!(layout().disk_of(&node("root")).unwrap().node, node("disk0"));
    }

    #[test]
    fn what_is_left_has_two_spellings() {
        let read = |size: &str| {
            let text = format!("{{\"node\": \"a\", \"number\": 1, \"type\": \"83\"{size}}}");
            serde_json::from_str::<PartitionLayout>(&text).map(|it| it.size).map_err(|error| error.to_string())
        };
        for (text, expected) in [
            ("", None),
            (", \"size\": \"*\"", None),
            (", \"size\": null", None),
            (", \"size\": \"2 MiB\"", Some(Size(2 << 20))),
            (", \"size\": 5", Some(Size(5))),
        ] {
            assert_eq!(read(text), Ok(expected), "{text}");
        }
        let error = read(", \"size\": \"**\"").unwrap_err();
        assert!(error.contains("\"**\" is not a size"), "{error}");
    }

    #[test]
    fn data_may_be_preserved() {
        let mut layout = layout();
        let data = PartitionLayout { preserve: true, ..PartitionLayout::new(node("disk0p2"), 2, "83") };
        layout.disks[0].partitions.push(data);
        layout.filesystems.push(FileSystemLayout::new(node("data"), node("disk0p2"), "ext4"));
        layout.mounts.push(MountLayout::new(node("data"), "/data"));
        // Its size may be left out beside the one that takes what is left.
        assert_eq!(layout.check(), Ok(()));
        assert_eq!(layout.preserved_mounts(), [&layout.mounts[1]]);
        assert_eq!(layout.preserved_under(&node("root")), None);
    }

    type Spoil = fn(&mut Layout);

    #[test]
    fn each_fault_is_named() {
        let rows: &[(&str, Spoil, &str)] = &[
            ("twice", |l| l.filesystems[0].node = node("disk0"), "filesystem.0.node: the node disk0 is there twice"),
            ("no such on", |l| l.filesystems[0].on = node("x"), "filesystem.0.on: there is no disk"),
            ("relative", |l| l.mounts[0].at = "x".into(), "mount.0.at: x is not an absolute path"),
            ("climbing", |l| l.mounts[0].at = "/a/../b".into(), "mount.0.at: /a/../b is not"),
            ("no root", |l| l.mounts.clear(), "mount: no file system is mounted at /"),
            ("no fs", |l| l.mounts[0].node = node("x"), "mount.0.node: there is no file system named x"),
            (
                "least above size",
                |l| {
                    l.disks[0].partitions[0].size = Some(Size(1 << 20));
                    l.disks[0].partitions[0].min_size = Some(Size(2 << 20));
                },
                "disk.0.partition.0.min_size: 2 MiB is more than the size, 1 MiB",
            ),
            (
                "label without preserve",
                |l| l.disks[0].partitions[0].preserve_label = Some("data".into()),
                "disk.0.partition.0.preserve_label: it says how a preserved partition is found; add preserve = true",
            ),
            (
                "empty label",
                |l| {
                    l.disks[0].partitions[0].preserve = true;
                    l.disks[0].partitions[0].preserve_label = Some(String::new());
                },
                "disk.0.partition.0.preserve_label: an empty label finds nothing",
            ),
            (
                "root preserved",
                |l| l.disks[0].partitions[0].preserve = true,
                "mount.0.at: disk0p1 is preserved, so nothing of the image gets into it, and no machine starts without \
                 what the image has at /; preserve only data",
            ),
            (
                "/boot/ preserved",
                |l| {
                    l.disks[0].partitions[0].preserve = true;
                    l.mounts[0].at = "/boot//".into();
                },
                "mount.0.at: disk0p1 is preserved, so nothing of the image gets into it",
            ),
            (
                "/usr preserved",
                |l| {
                    l.disks[0].partitions[0].preserve = true;
                    l.mounts[0].at = "/usr".into();
                },
                "mount.0.at: disk0p1 is preserved, so nothing of the image gets into it",
            ),
            (
                "mounted below",
                |l| {
                    l.disks[0].partitions[0].preserve = true;
                    l.mounts[0].at = "/data".into();
                    l.mounts.push(MountLayout::new(node("cache"), "/data/cache"));
                },
                "mount.0.at: disk0p1 is preserved and not written to, and cache would be mounted below it, at \
                 /data/cache; mount that elsewhere",
            ),
            (
                "ESP preserved",
                |l| {
                    l.disks[0].partitions[0].preserve = true;
                    l.disks[0].partitions[0].kind = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B".into();
                },
                "disk.0.partition.0.preserve: disk0p1 is the EFI system partition, which the boot loader has to write",
            ),
            (
                "BIOS boot preserved",
                |l| {
                    l.disks[0].partitions[0].preserve = true;
                    l.disks[0].partitions[0].kind = "21686148-6449-6E6F-744E-656564454649".into();
                },
                "disk.0.partition.0.preserve: disk0p1 is a BIOS boot partition, which the boot loader has to write to",
            ),
            (
                "new UUID",
                |l| {
                    l.disks[0].partitions[0].preserve = true;
                    l.filesystems[0].new_uuid = true;
                },
                "filesystem.0.new_uuid: disk0p1 is preserved and keeps the UUID that it has",
            ),
            ("number 0", |l| l.disks[0].partitions[0].number = 0, "disk.0.partition.0.number"),
            (
                "circle",
                |l| {
                    l.volumes.push(VolumeLayout {
                        node: node("v"),
                        kind: "md".into(),
                        on: vec![node("v")],
                        options: BTreeMap::new(),
                    })
                },
                "volume.0.on: there is no disk, partition or earlier volume named v",
            ),
        ];
        for (name, spoil, says) in rows {
            let mut layout = layout();
            spoil(&mut layout);
            let errors: Vec<String> = layout.check().unwrap_err().iter().map(ToString::to_string).collect();
            assert!(errors.iter().any(|error| error.starts_with(says)), "{name}: {errors:?}");
        }
    }
}
