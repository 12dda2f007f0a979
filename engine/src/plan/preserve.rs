//! Partitions that stay as they are, with all that is in them: found on the chosen disks, held against the layout,
//! and kept out of every step.
//!
//! Pure. [`resolve`] sees everything that can be refused before anything is written; [`unkept`] holds a plugin's fitted
//! layout against that; [`guard`] holds all steps of a plan against it: none may write to a preserved partition,
//! mount it, or give it to a program. Nothing is mounted from it while installing; `/etc/fstab` gets its line.

use std::collections::{BTreeMap, BTreeSet};

use systemimager_core::{
    Action, Arg, BlockDevice, BytePath, DiskLayout, FileSystemLayout, FstabEntry, Kind, Layout, NodeName,
    PartitionInfo, PartitionLayout, Phase, Signature, Step,
};

use super::disks::describe;
use super::fstab::{same_place, spec};
use crate::sys::block::partition_path;
use crate::sys::fstab::{Entry, Spec};

/// Gives preserved partitions of the layout the places, types, names and UUIDs that they have, and their file systems
/// theirs. Returns the disks where that fails, having added to `problems` all that is wrong.
pub fn resolve(
    layout: &mut Layout,
    chosen: &BTreeMap<NodeName, BlockDevice>,
    problems: &mut Vec<String>,
) -> BTreeSet<NodeName> {
    let mut failed = BTreeSet::new();
    let Layout { disks, filesystems, .. } = layout;
    for disk in disks.iter_mut().filter(|disk| disk.partitions.iter().any(|it| it.preserve)) {
        let Some(device) = chosen.get(&disk.node) else { continue };
        let wrong = match resolve_disk(disk, device, filesystems) {
            Ok(()) => twins(disk, filesystems),
            Err(wrong) => wrong,
        };
        if !wrong.is_empty() {
            failed.insert(disk.node.clone());
            problems.extend(wrong);
        }
    }
    failed
}

/// The line of a master file that makes the difference.
fn line(partition: &PartitionLayout) -> String {
    format!("the line preserve = true of the partition {} in the master file", partition.node)
}

fn resolve_disk(
    disk: &mut DiskLayout,
    device: &BlockDevice,
    filesystems: &mut [FileSystemLayout],
) -> Result<(), Vec<String>> {
    let wanted: Vec<usize> = (0..disk.partitions.len()).filter(|index| is_preserved(disk, *index)).collect();
    let names: Vec<&str> =
        wanted.iter().filter_map(|index| disk.partitions.get(*index)).map(|it| it.node.as_str()).collect();
    let names = names.join(" and ");
    if let Some(why) = unfit_disk(disk, device) {
        return Err(vec![format!("{names} cannot be preserved on {}: {why}", describe(device))]);
    }
    let mut problems = Vec::new();
    let mut taken: BTreeMap<u32, NodeName> = BTreeMap::new();
    for index in wanted {
        let Some(partition) = disk.partitions.get(index).cloned() else { continue };
        let mut refuse = |why: String| {
            problems.push(format!("{} cannot be preserved on {}: {why}", partition.node, describe(device)))
        };
        let info = match find(&partition, device) {
            Ok(info) => info,
            Err(why) => {
                refuse(why);
                continue;
            }
        };
        if let Some(other) = taken.insert(info.number, partition.node.clone()) {
            refuse(format!("its partition {} is {other} already; correct number or preserve_label", info.number));
            continue;
        }
        let other = disk.partitions.iter().find(|it| !it.preserve && it.number == info.number);
        if let Some(other) = other {
            refuse(format!(
                "it has the number {} there, which {} is to get; give {} another number in the master file",
                info.number, other.node, other.node
            ));
        }
        unfit(&partition, info, device).into_iter().for_each(&mut refuse);
        let fs = filesystems.iter_mut().find(|fs| fs.on == partition.node);
        if let Some(fs) = fs {
            match holds(fs, info) {
                Ok(signature) => {
                    fs.uuid = Some(signature.uuid.clone()).filter(|uuid| !uuid.is_empty());
                    fs.label = Some(signature.label.clone()).filter(|label| !label.is_empty());
                }
                Err(why) => refuse(why),
            }
        }
        if let Some(partition) = disk.partitions.get_mut(index) {
            take_over(partition, info, &device.table);
        }
    }
    disk.id = Some(device.table_id.clone()).filter(|id| !id.is_empty()).or(disk.id.take());
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

fn is_preserved(disk: &DiskLayout, index: usize) -> bool {
    disk.partitions.get(index).is_some_and(|it| it.preserve)
}

fn unfit_disk(disk: &DiskLayout, device: &BlockDevice) -> Option<String> {
    if !device.looked_at {
        return Some(
            "what stands on the disk could not be read; see that it can be, or take preserve = true away".into(),
        );
    }
    if device.table.is_empty() {
        return Some(format!(
            "the disk has no partition table (gpt or dos), so there is nothing to preserve; on a new disk take {} away",
            disk.partitions.iter().find(|it| it.preserve).map_or_else(String::new, line)
        ));
    }
    if device.table != disk.label {
        return Some(format!(
            "the disk has a {} table and the layout a {} table, and what is preserved stays in its table; write label = \
             \"{}\" into its [[layout.disk]], or take preserve = true away",
            device.table, disk.label, device.table
        ));
    }
    let whole = device.signatures.iter().find(|it| !it.part_of.is_empty())?;
    Some(format!(
        "the disk as a whole is a part of {}, which has to go; take that apart first, or take preserve = true away",
        whole.part_of
    ))
}

/// The partition that is meant.
fn find<'a>(wanted: &PartitionLayout, device: &'a BlockDevice) -> Result<&'a PartitionInfo, String> {
    let fits = |it: &&PartitionInfo| match &wanted.preserve_label {
        Some(label) => it.label == *label || it.signatures.iter().any(|signature| signature.label == *label),
        None => it.number == wanted.number,
    };
    let what = match &wanted.preserve_label {
        Some(label) => format!("partition with the name or label \"{label}\""),
        None => format!("partition with the number {}", wanted.number),
    };
    let found: Vec<&PartitionInfo> = device.partitions.iter().filter(fits).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => {
            let there: Vec<String> = device.partitions.iter().map(show).collect();
            let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
            Err(format!(
                "there is no {what} (there: {there}); correct number or preserve_label, or take {} away to have it made",
                line(wanted)
            ))
        }
        several => {
            let several: Vec<String> = several.iter().map(|it| show(it)).collect();
            Err(format!(
                "more than one is a {what} ({}); give one of them another label, or name it by its number without \
                 preserve_label",
                several.join(", ")
            ))
        }
    }
}

/// `3 (200 MiB, ext4 "data")`.
fn show(info: &PartitionInfo) -> String {
    let named = |text: &str| if text.is_empty() { String::new() } else { format!(" \"{text}\"") };
    let holds: Vec<String> = info.signatures.iter().map(|it| format!(", {}{}", it.kind, named(&it.label))).collect();
    format!("{}{} ({}{})", info.number, named(&info.label), info.size, holds.concat())
}

/// Why a partition that was found cannot stay what the layout says.
fn unfit(wanted: &PartitionLayout, info: &PartitionInfo, device: &BlockDevice) -> Vec<String> {
    let mut why = Vec::new();
    let number = info.number;
    if device.table == "dos" && number > 4 {
        why.push(format!(
            "partition {number} is a logical one, which hangs on the partitions beside it; only primary ones (1 to 4) \
             can be preserved"
        ));
    }
    if device.table == "dos" && matches!(plain(&info.kind).as_str(), "5" | "f" | "85") {
        why.push(format!("partition {number} is the extended one, which only holds others; preserve a primary one"));
    }
    if plain(&info.kind) != plain(&wanted.kind) {
        why.push(format!(
            "partition {number} has the type {}, and the layout says {}; write type = \"{}\", or preserve another",
            info.kind, wanted.kind, info.kind
        ));
    }
    if let Some(least) = wanted.min_size.or(wanted.size).filter(|least| info.size < *least) {
        why.push(format!(
            "partition {number} has {}, and the layout asks for {least}; write size = \"{}\", or leave size and \
             min_size out to keep it as it is",
            info.size, info.size
        ));
    }
    let part = info.signatures.iter().find(|it| !it.part_of.is_empty() || is_member(&it.kind));
    if let Some(part) = part {
        let of = if part.part_of.is_empty() { String::new() } else { format!(" of {}", part.part_of) };
        why.push(format!(
            "partition {number} is a part{of} ({}), and volumes are not preserved; take that apart first, or take {} away",
            part.kind,
            line(wanted)
        ));
    } else if let Some(holder) = device.holders.iter().find(|it| it.on.contains(&info.name)) {
        why.push(format!("{} stands on partition {number}; stop it first", holder.title));
    }
    why
}

/// Marks of what is a member of something larger.
fn is_member(kind: &str) -> bool {
    kind.ends_with("_raid_member") || matches!(kind, "LVM2_member" | "LVM1_member" | "zfs_member" | "bcache")
}

/// Types are compared without regard to case and leading zeros.
fn plain(kind: &str) -> String {
    kind.trim_start_matches('0').to_ascii_lowercase()
}

/// The file system that the layout has there.
fn holds<'a>(fs: &FileSystemLayout, info: &'a PartitionInfo) -> Result<&'a Signature, String> {
    let number = info.number;
    match info.signatures.as_slice() {
        [one] if one.kind == fs.kind => Ok(one),
        [] => Err(format!(
            "the layout has the file system {} ({}) on it, and partition {number} holds none; \
             take the line preserve = true of {} away to have it made",
            fs.node, fs.kind, fs.on
        )),
        [one] => Err(format!(
            "the layout has the file system {} ({}) on it, and partition {number} holds {}; write type = \"{}\" for {}, \
             or preserve another",
            fs.node, fs.kind, one.kind, one.kind, fs.node
        )),
        several => {
            let kinds: Vec<&str> = several.iter().map(|it| it.kind.as_str()).collect();
            Err(format!(
                "partition {number} has the marks of {}, which contradict each other; erase the wrong one first \
                 (wipefs --types)",
                kinds.join(" and ")
            ))
        }
    }
}

fn take_over(partition: &mut PartitionLayout, info: &PartitionInfo, table: &str) {
    let gpt = table == "gpt";
    let said = |text: &str| Some(text.to_owned()).filter(|text| gpt && !text.is_empty());
    partition.number = info.number;
    (partition.start, partition.size) = (Some(info.start), Some(info.size));
    partition.min_size = None;
    partition.kind.clone_from(&info.kind);
    partition.name = said(&info.label);
    partition.uuid = said(&info.uuid);
    partition.attributes = said(&attributes(info.flags));
    partition.bootable = !gpt && info.flags & 0x80 != 0;
}

/// The attribute bits of gpt as sfdisk(8) writes them (UEFI specification 2.10, table 5.8).
fn attributes(flags: u64) -> String {
    let mut words: Vec<String> = ["RequiredPartition", "NoBlockIOProtocol", "LegacyBIOSBootable"]
        .iter()
        .enumerate()
        .filter(|(bit, _)| flags >> bit & 1 == 1)
        .map(|(_, name)| (*name).to_owned())
        .collect();
    let own: Vec<String> = (48..64).filter(|bit| flags >> bit & 1 == 1).map(|bit: u32| bit.to_string()).collect();
    if !own.is_empty() {
        words.push(format!("GUID:{}", own.join(",")));
    }
    words.join(" ")
}

/// What is to be made must not be mistaken for what stays.
fn twins(disk: &DiskLayout, filesystems: &[FileSystemLayout]) -> Vec<String> {
    let same = |one: &Option<String>, other: &Option<String>| {
        one.as_ref().zip(other.as_ref()).is_some_and(|(one, other)| one.eq_ignore_ascii_case(other))
    };
    let mut problems = Vec::new();
    for kept in disk.partitions.iter().filter(|it| it.preserve) {
        let Some(fs) = filesystems.iter().find(|fs| fs.on == kept.node) else { continue };
        if let Some(twin) = filesystems.iter().find(|it| it.node != fs.node && same(&it.uuid, &fs.uuid)) {
            problems.push(format!(
                "{} cannot be preserved: its file system has the UUID {}, which {} is to get as well; give one of them \
                 another (new_uuid = true for {})",
                kept.node,
                fs.uuid.as_deref().unwrap_or_default(),
                twin.node,
                twin.node
            ));
        }
    }
    for kept in disk.partitions.iter().filter(|it| it.preserve) {
        let twin = disk.partitions.iter().find(|it| it.node != kept.node && same(&it.uuid, &kept.uuid));
        if let Some(twin) = twin {
            problems.push(format!(
                "{} cannot be preserved: its partition has the UUID {}, which {} is to get as well; leave uuid out of {}",
                kept.node,
                kept.uuid.as_deref().unwrap_or_default(),
                twin.node,
                twin.node
            ));
        }
    }
    problems
}

/// What a plugin's fitted layout changes of preserved partitions, or lays over them.
pub fn unkept(before: &DiskLayout, after: &DiskLayout) -> Vec<String> {
    let mut problems = Vec::new();
    let range = |it: &PartitionLayout| {
        let start = it.start.map_or(0, |start| start.0);
        start..start.saturating_add(it.size.map_or(0, |size| size.0))
    };
    for kept in before.partitions.iter().filter(|it| it.preserve) {
        let said = match after.partitions.iter().find(|it| it.node == kept.node) {
            Some(same) if same == kept && before.id == after.id => None,
            Some(_) => Some("moves or changes it".to_owned()),
            None => Some("leaves it out".to_owned()),
        };
        let mine = range(kept);
        let over = after
            .partitions
            .iter()
            .filter(|it| it.node != kept.node)
            .find(|it| range(it).start < mine.end && mine.start < range(it).end)
            .map(|it| format!("lays {} over it", it.node));
        problems.extend(said.into_iter().chain(over).map(|what| {
            format!("{} is preserved, and the partitioner {what}; report it to the plugin's author", kept.node)
        }));
    }
    problems
}

/// Every step that might touch a preserved partition: this is the one place that allows or forbids it.
pub fn guard(layout: &Layout, disks: &BTreeMap<NodeName, BlockDevice>, steps: &[Step]) -> Vec<String> {
    let mut problems = Vec::new();
    for disk in &layout.disks {
        for kept in disk.partitions.iter().filter(|it| it.preserve) {
            let path = disks.get(&disk.node).map(|device| partition_path(device.path.as_path(), kept.number));
            let path = path.map(|path| path.into_os_string().into_encoded_bytes()).unwrap_or_default();
            let on = on(layout, &kept.node);
            let mounts: Vec<&BytePath> =
                layout.mounts.iter().filter(|it| on.contains(&it.node)).map(|it| &it.at).collect();
            for step in steps {
                if let Some(what) = touches(step, &disk.node, &on, &path, &mounts) {
                    problems.push(format!(
                        "{}: the step \"{}\" would {what}, and {} is preserved; report it to the plugin's author",
                        step.by, step.what, kept.node
                    ));
                }
            }
        }
    }
    problems
}

/// A node and all that stands on it.
fn on(layout: &Layout, node: &NodeName) -> BTreeSet<NodeName> {
    let mut nodes = BTreeSet::from([node.clone()]);
    for volume in layout.volumes.iter().filter(|it| it.on.contains(node)) {
        nodes.insert(volume.node.clone());
    }
    let filesystems = layout.filesystems.iter().filter(|fs| nodes.contains(&fs.on)).map(|fs| fs.node.clone());
    let filesystems: Vec<_> = filesystems.collect();
    nodes.extend(filesystems);
    nodes
}

fn touches(step: &Step, disk: &NodeName, on: &BTreeSet<NodeName>, path: &[u8], mounts: &[&BytePath]) -> Option<String> {
    let by = |kind: Kind| step.by.starts_with(&format!("{kind} "));
    let engine = step.by == "engine";
    if let Some(node) = step.destroys.iter().find(|node| on.contains(node)) {
        return Some(format!("destroy {node}"));
    }
    if let Some(node) = step.provides.iter().find(|node| on.contains(node) && !by(Kind::Partitioner)) {
        return Some(format!("make {node}"));
    }
    // The engine's own wiping keeps what is preserved; a partitioner that knows of it names the others one by one.
    let wipes = engine && matches!(step.action, Action::Wipe { .. });
    if step.destroys.contains(disk) && !wipes {
        return Some(format!("destroy {disk}"));
    }
    match &step.action {
        Action::Run { argv, .. } | Action::InTarget { argv, .. } => {
            for arg in argv {
                match arg {
                    Arg::Device(node) | Arg::PrefixedDevice(_, node) if on.contains(node) => {
                        return Some(format!("give {node} to a program"));
                    }
                    // Boot code lies before the partitions and in those made for it.
                    Arg::Device(node) | Arg::PrefixedDevice(_, node)
                        if node == disk && !by(Kind::Partitioner) && !by(Kind::Bootloader) =>
                    {
                        return Some(format!("give {disk} to a program"));
                    }
                    Arg::Text(text) if !path.is_empty() && names(text.as_bytes(), path) => {
                        return Some(format!("give {} to a program", String::from_utf8_lossy(path)));
                    }
                    _ => {}
                }
            }
            None
        }
        Action::Mount { node, .. } if on.contains(node) => Some(format!("mount {node}")),
        _ if engine => None,
        _ => {
            let written = step.written();
            let at = mounts
                .iter()
                .find(|at| written.iter().any(|it| !it.path.as_bytes().is_empty() && within(&it.path, at)));
            at.map(|at| format!("write to {at}"))
        }
    }
}

/// Whether a text has this path in it, not only as the beginning of a longer name.
fn names(text: &[u8], path: &[u8]) -> bool {
    text.windows(path.len())
        .enumerate()
        .any(|(at, found)| found == path && !text.get(at + path.len()).is_some_and(u8::is_ascii_alphanumeric))
}

fn within(path: &BytePath, above: &BytePath) -> bool {
    let parts = |path: &BytePath| -> Vec<Vec<u8>> {
        path.as_bytes().split(|byte| *byte == b'/').filter(|it| !it.is_empty()).map(<[u8]>::to_vec).collect()
    };
    parts(path).starts_with(&parts(above))
}

/// Steps by which an installed machine finds its preserved file systems: their mount points, and their lines in
/// /etc/fstab where the image's names another one or none. Returns the entries as they will be.
///
/// `wanted` is the layout before [`resolve`].
pub fn mounted_later(
    wanted: &Layout,
    layout: &Layout,
    fstab: &[FstabEntry],
    problems: &mut Vec<String>,
) -> (Vec<Step>, Vec<FstabEntry>) {
    let mut entries = fstab.to_vec();
    let mut steps = Vec::new();
    for fs in layout.filesystems.iter().filter(|fs| layout.preserved_under(&fs.node).is_some()) {
        let mount = layout.mounts.iter().find(|mount| mount.node == fs.node);
        if let Some(mount) = mount {
            let action = Action::MakeDirectory { path: mount.at.clone(), mode: 0o755 };
            let what = format!("have the mount point {} of the preserved {}", mount.at, fs.on);
            steps.push(Step::new(Phase::Identity, what, action));
        }
        // Swap has no mount: its entry is the one that names what the layout was captured with.
        let was = wanted.filesystems.iter().find(|it| it.node == fs.node);
        let is_its = |entry: &FstabEntry| match mount {
            Some(mount) => entry.fstype != "swap" && same_place(&entry.file, &mount.at),
            None => fs.kind == "swap" && entry.fstype == "swap" && was.is_some_and(|was| means(wanted, was, entry)),
        };
        let found = entries.iter().position(is_its);
        let (Some(uuid), true) = (&fs.uuid, mount.is_some() || found.is_some()) else { continue };
        let old = found.and_then(|at| entries.get(at)).cloned();
        // A kernel's name is judged like any other's.
        let stays = |entry: &FstabEntry| means(layout, fs, entry) || matches!(spec(&entry.spec), Spec::Path(_));
        if old.as_ref().is_some_and(stays) {
            continue;
        }
        let new = FstabEntry {
            spec: format!("UUID={uuid}"),
            file: mount.map_or_else(|| "none".into(), |mount| mount.at.clone()),
            fstype: fs.kind.clone(),
            options: old.as_ref().map_or_else(|| vec!["defaults".into()], |old| old.options.clone()),
        };
        let prefix = old.as_ref().map_or_else(|| new.spec.clone(), |old| old.spec.clone());
        if entries.iter().filter(|it| it.spec.starts_with(&prefix)).count() > usize::from(old.is_some()) {
            problems.push(format!(
                "the image's /etc/fstab names {prefix} more than once, and the preserved {} has the UUID {uuid}; \
                 write UUID={uuid} into the entry for it",
                fs.on
            ));
            continue;
        }
        let entry = Entry {
            spec: Spec::Uuid(uuid.clone()),
            file: new.file.as_path().to_path_buf(),
            fstype: new.fstype.clone(),
            options: new.options.clone(),
            freq: 0,
            pass: if mount.is_some() { 2 } else { 0 },
        };
        let line = String::from_utf8_lossy(&entry.to_line()).into_owned();
        let what = format!("have /etc/fstab name the preserved {}", fs.on);
        steps.push(Step::new(Phase::Identity, what, Action::SetLine { path: "/etc/fstab".into(), prefix, line }));
        match found.and_then(|at| entries.get_mut(at)) {
            Some(entry) => *entry = new,
            None => entries.push(new),
        }
    }
    (steps.into_iter().map(|step| Step { by: "engine".into(), ..step }).collect(), entries)
}

/// Whether an entry of fstab names this file system.
fn means(layout: &Layout, fs: &FileSystemLayout, entry: &FstabEntry) -> bool {
    let is = |have: Option<&String>, named: &str| have.is_some_and(|have| have.eq_ignore_ascii_case(named));
    let partition = layout.disks.iter().flat_map(|disk| &disk.partitions).find(|it| it.node == fs.on);
    match spec(&entry.spec) {
        Spec::Uuid(uuid) => is(fs.uuid.as_ref(), &uuid),
        Spec::Label(label) => fs.label.as_deref() == Some(label.as_str()),
        Spec::PartUuid(uuid) => is(partition.and_then(|it| it.uuid.as_ref()), &uuid),
        Spec::PartLabel(name) => partition.is_some_and(|it| it.name.as_deref() == Some(name.as_str())),
        Spec::Path(_) | Spec::Other(_) => false,
    }
}

#[cfg(test)]
mod tests;
