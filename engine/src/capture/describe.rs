//! The layout of a running machine, asked of the plugins: partition tables of the disks that are in
//! use, file systems and swap on them, mounts.
//!
//! Nodes are named by what they are for (`root`, `boot`, `swap`), never by devices.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use systemimager_core::contract::{BootloaderDetect, FileSystemDescribe, PartitionerCapture};
use systemimager_core::{
    BlockDevice, BytePath, DiskLayout, DiskRule, ErrorKind, FileSystemLayout, Host, Layout, MountLayout, NodeName,
    Place, Registry,
};

use super::mount_table::Taken;
use crate::sys::swaps::SwapArea;

/// The layout, and the partitioner that read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Disks, file systems, mounts.
    pub layout: Layout,
    /// Id of the partitioner plugin.
    pub partitioner: String,
}

/// A file system or swap area, and the kernel name of its device.
struct Found<'a> {
    device: String,
    fstype: String,
    at: Option<&'a Path>,
}

/// Describes. `disks` are the machine's, in the order of their buses; `device_name` tells the kernel's
/// name (`sda1`) of what a mount is on.
///
/// # Errors
/// A device that is on no disk; no partitioner that serves a disk's label; a file system that its
/// plugin cannot describe.
pub fn describe(
    registry: &Registry,
    host: &dyn Host,
    disks: &[BlockDevice],
    taken: &[Taken],
    swaps: &[SwapArea],
    device_name: &dyn Fn(&Taken) -> Result<String>,
) -> Result<Described> {
    let mut found = Vec::new();
    for mount in taken {
        found.push(Found { device: device_name(mount)?, fstype: mount.mount.fstype.clone(), at: Some(&mount.at) });
    }
    for swap in swaps.iter().filter(|swap| !swap.is_file) {
        let name = swap.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        // Compressed memory is set up by the system itself.
        if !name.starts_with("zram") {
            found.push(Found { device: name, fstype: "swap".into(), at: None });
        }
    }
    let mut layout = Layout::default();
    let mut partitioner = None;
    let mut names = Names::default();
    let mut on_disks: BTreeMap<String, NodeName> = BTreeMap::new();
    for disk in disks {
        let holds = |found: &Found<'_>| {
            found.device == disk.name || disk.partitions.iter().any(|partition| partition.name == found.device)
        };
        if !found.iter().any(holds) {
            continue;
        }
        let node = names.fresh(&format!("disk{}", layout.disks.len()))?;
        let (id, mut captured) = table(registry, host, disk, &node)?;
        if partitioner.get_or_insert_with(|| id.clone()) != &id {
            bail!(
                "the disk {} is served by the partitioner {id} and another by {}; only one partitioner can install \
                 an image",
                disk.path,
                partitioner.unwrap_or_default()
            );
        }
        if captured.rule == DiskRule::default() {
            captured.rule.order = u32::try_from(layout.disks.len()).ok();
        }
        on_disks.insert(disk.name.clone(), captured.node.clone());
        for partition in &captured.partitions {
            names.taken.insert(partition.node.clone());
            if let Some(info) = disk.partitions.iter().find(|info| info.number == partition.number) {
                on_disks.insert(info.name.clone(), partition.node.clone());
            }
        }
        layout.disks.push(captured);
    }
    for found in found {
        let Some(on) = on_disks.get(&found.device) else {
            bail!(
                "{} ({}) is on {}, which is neither a disk of this machine nor a partition that its table lists; \
                 unmount it, or capture a tree with --source DIR",
                found.at.map_or_else(|| "swap".to_owned(), |at| at.display().to_string()),
                found.fstype,
                found.device
            );
        };
        add(registry, host, &mut layout, &mut names, &found, on)?;
    }
    layout.check().map_err(|errors| {
        let list: Vec<String> = errors.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("what the plugins found is no layout: {}", list.join("; "))
    })?;
    let Some(partitioner) = partitioner else {
        bail!("none of the file systems to capture is on a disk that can be seen; is /sys mounted?")
    };
    Ok(Described { layout, partitioner })
}

fn add(
    registry: &Registry,
    host: &dyn Host,
    layout: &mut Layout,
    names: &mut Names,
    found: &Found<'_>,
    on: &NodeName,
) -> Result<()> {
    let device = BytePath::from(format!("/dev/{}", found.device));
    let (id, plugin) = file_system(registry, host, &found.fstype)?;
    let facts = plugin
        .describe(host, FileSystemDescribe { device: device.clone(), fstype: found.fstype.clone() })
        .with_context(|| format!("file-system {id} describing {device} ({})", found.fstype))?;
    let node = names.fresh(&purpose(found.at))?;
    layout.filesystems.push(FileSystemLayout {
        node: node.clone(),
        on: on.clone(),
        kind: found.fstype.clone(),
        uuid: facts.uuid,
        new_uuid: false,
        label: facts.label,
        options: facts.options,
    });
    if let Some(at) = found.at {
        layout.mounts.push(MountLayout { node, at: at.into(), options: String::new(), subvolume: None });
    }
    Ok(())
}

/// The plugin that serves a type.
///
/// # Errors
/// There is none; names the type.
pub fn file_system<'a>(
    registry: &'a Registry,
    host: &dyn Host,
    fstype: &str,
) -> Result<(&'a str, &'a dyn systemimager_core::FileSystem)> {
    let mut served = Vec::new();
    for (id, plugin) in registry.filesystems() {
        for kind in plugin.types(host, ())? {
            if kind.name == fstype {
                return Ok((id, plugin));
            }
            served.push(kind.name);
        }
    }
    bail!(
        "no file system plugin serves {fstype} (served: {}); put one that does into the plugin directory",
        if served.is_empty() { "none".to_owned() } else { served.join(", ") }
    )
}

/// The types that hold files and that some plugin serves.
///
/// # Errors
/// A plugin fails.
pub fn mountable_types(registry: &Registry, host: &dyn Host) -> Result<BTreeSet<String>> {
    let mut types = BTreeSet::new();
    for (_, plugin) in registry.filesystems() {
        types.extend(plugin.types(host, ())?.into_iter().filter(|kind| kind.mountable).map(|kind| kind.name));
    }
    Ok(types)
}

/// Asks each partitioner until one serves the disk's label.
fn table(registry: &Registry, host: &dyn Host, disk: &BlockDevice, node: &NodeName) -> Result<(String, DiskLayout)> {
    let mut refused = Vec::new();
    for (id, plugin) in registry.partitioners() {
        match plugin.capture(host, PartitionerCapture { disk: disk.clone(), node: node.clone() }) {
            Ok(layout) => return Ok((id.to_owned(), layout)),
            Err(error) if error.kind == ErrorKind::Unsupported => refused.push(format!("{id}: {error}")),
            Err(error) => {
                return Err(error).with_context(|| format!("partitioner {id} reading the table of {}", disk.path));
            }
        }
    }
    if refused.is_empty() {
        bail!("there is no partitioner plugin to read the table of {} with; install one", disk.path);
    }
    bail!("no partitioner plugin serves the disk {}: {}", disk.path, refused.join("; "))
}

/// The boot loader plugin that recognises its own in a tree; the first by id if several do.
pub fn bootloader(registry: &Registry, host: &dyn Host, place: &Place) -> Option<String> {
    let mut found = None;
    for (id, plugin) in registry.bootloaders() {
        match plugin.detect(host, BootloaderDetect { place: place.clone() }) {
            Ok(Some(_)) if found.is_none() => found = Some(id.to_owned()),
            Ok(_) => {}
            Err(error) if error.kind == ErrorKind::Unsupported => {}
            Err(error) => tracing::warn!("boot loader {id} could not be looked for: {error}"),
        }
    }
    found
}

/// What a file system is for, as a name: `/` is `root`, `/boot/efi` is `boot-efi`.
fn purpose(at: Option<&Path>) -> String {
    let Some(at) = at else { return "swap".into() };
    let name: String = at
        .to_string_lossy()
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() || letter == '_' { letter } else { '-' })
        .collect();
    let name = name.trim_matches(|letter| matches!(letter, '-' | '_'));
    match name {
        "" if at == Path::new("/") => "root".into(),
        "" => "data".into(),
        name => name.chars().take(50).collect(),
    }
}

/// Names that are given once.
#[derive(Default)]
struct Names {
    taken: BTreeSet<NodeName>,
}

impl Names {
    fn fresh(&mut self, wanted: &str) -> Result<NodeName> {
        let mut name = NodeName::try_from(wanted)?;
        let mut count = 2;
        while self.taken.contains(&name) {
            name = NodeName::try_from(format!("{wanted}{count}"))?;
            count += 1;
        }
        self.taken.insert(name.clone());
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::capture::fakes::{self, FakeFileSystem, FakePartitioner};
    use crate::sys::mountinfo;
    use systemimager_core::abi::private::Instance;
    use systemimager_core::testing::RecordedHost;
    use systemimager_core::{PartitionInfo, Size};

    fn registry() -> Registry {
        let mut registry = Registry::default();
        fakes::add(&mut registry, "extents", Instance::FileSystem(Box::new(FakeFileSystem(&["ext4", "ext2"]))));
        fakes::add(&mut registry, "paging", Instance::FileSystem(Box::new(FakeFileSystem(&["swap"]))));
        fakes::add(&mut registry, "ata-tables", Instance::Partitioner(Box::new(FakePartitioner("ata"))));
        fakes::add(&mut registry, "nvme-tables", Instance::Partitioner(Box::new(FakePartitioner("nvme"))));
        registry
    }

    fn disk(name: &str, bus: &str, partitions: u32) -> BlockDevice {
        BlockDevice {
            name: name.into(),
            path: format!("/dev/{name}").into(),
            bus: bus.into(),
            size: Size(1 << 30),
            partitions: (1..=partitions)
                .map(|number| PartitionInfo {
                    name: format!("{name}{number}"),
                    number,
                    size: Size(1 << 20),
                    ..PartitionInfo::default()
                })
                .collect(),
            ..BlockDevice::default()
        }
    }

    fn taken(lines: &[&str]) -> Vec<Taken> {
        mountinfo::parse(lines.join("\n").as_bytes())
            .unwrap()
            .into_iter()
            .map(|mount| Taken { at: mount.mount_point.clone(), inside: mount.mount_point.clone(), mount })
            .collect()
    }

    fn ask(disks: &[BlockDevice], lines: &[&str], swaps: &[&str]) -> Result<Described> {
        let name = |taken: &Taken| Ok(taken.mount.source.to_string_lossy().replace("/dev/", ""));
        let swaps: Vec<SwapArea> =
            swaps.iter().map(|path| SwapArea { path: (*path).into(), is_file: path.starts_with("/var") }).collect();
        describe(&registry(), &RecordedHost::new(), disks, &taken(lines), &swaps, &name)
    }

    const ROOT: &str = "21 1 8:1 / / rw - ext4 /dev/sda1 rw";
    const BOOT: &str = "22 21 8:17 / /boot rw - ext2 /dev/sdc1 rw";

    #[test]
    fn a_machine_is_laid_out() {
        // sdb is not in use, so it is no part of the layout.
        let disks = [disk("sda", "ata", 2), disk("sdb", "usb", 1), disk("sdc", "ata", 1)];
        let found = ask(&disks, &[ROOT, BOOT], &["/dev/sda2", "/dev/zram0", "/var/swap"]).unwrap();
        assert_eq!(found.partitioner, "ata-tables");
        let text = serde_json::to_value(&found.layout).unwrap();
        let pick = |list: &str, keys: [&str; 2]| -> Vec<(String, String)> {
            text[list].as_array().unwrap().iter().map(|it| (it[keys[0]].to_string(), it[keys[1]].to_string())).collect()
        };
        let quoted = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(a, b)| (format!("\"{a}\""), format!("\"{b}\""))).collect()
        };
        assert_eq!(
            pick("filesystem", ["node", "on"]),
            quoted(&[("root", "disk0p1"), ("boot", "disk1p1"), ("swap", "disk0p2")])
        );
        assert_eq!(pick("mount", ["node", "at"]), quoted(&[("root", "/"), ("boot", "/boot")]));
        assert_eq!(text["filesystem"][2]["uuid"], "uuid-of-/dev/sda2");
        let orders: Vec<_> = found.layout.disks.iter().map(|disk| disk.rule.order).collect();
        assert_eq!(orders, [Some(0), Some(1)]);
    }

    #[test]
    fn what_cannot_be_laid_out_is_named() {
        for (name, disks, lines, swaps, says) in [
            ("no such disk", vec![], vec![ROOT], vec![], "/ (ext4) is on sda1, which is neither a disk"),
            ("swap elsewhere", vec![disk("sda", "ata", 1)], vec![ROOT], vec!["/dev/dm-0"], "swap (swap) is on dm-0"),
            (
                "label",
                vec![disk("sda", "usb", 1)],
                vec![ROOT],
                vec![],
                "no partitioner plugin serves the disk /dev/sda",
            ),
            (
                "two partitioners",
                vec![disk("sda", "ata", 1), disk("sdc", "nvme", 1)],
                vec![ROOT, BOOT],
                vec![],
                "only one partitioner can install an image",
            ),
            (
                "type",
                vec![disk("sda", "ata", 1)],
                vec!["21 1 8:1 / / rw - xfs /dev/sda1 rw"],
                vec![],
                "no file system plugin serves xfs (served: ext4, ext2, swap)",
            ),
        ] {
            let error = format!("{:#}", ask(&disks, &lines, &swaps).unwrap_err());
            assert!(error.contains(says), "{name}: {error}");
        }
    }

    #[test]
    fn nodes_are_named_by_purpose() {
        let mut names = Names::default();
        for (at, expected) in [
            (Some("/"), "root"),
            (Some("/boot/efi"), "boot-efi"),
            (Some("/home"), "home"),
            (Some("/home/"), "home2"),
            (None, "swap"),
            (None, "swap2"),
            (Some("/root"), "root2"),
            (Some("/srv/ä b"), "srv---b"),
            (Some("/ä"), "data"),
        ] {
            assert_eq!(names.fresh(&purpose(at.map(Path::new))).unwrap().as_str(), expected, "{at:?}");
        }
    }
}
