//! Whether the image would come up on disks as the layout makes them: a first process, and an fstab whose
//! file systems will be there. Nothing rewrites an image's fstab, so what it names has to be made.
//!
//! Pure. The end of an install looks again at the files themselves (`install::seal`).

use systemimager_core::{BytePath, DiskLayout, FileSystemLayout, FstabEntry, ImageFacts, Layout};

use crate::facts::INITS;
use crate::sys::fstab::Spec;

/// Adds what is wrong to `problems`, and what cannot be judged to `warnings`.
pub fn check(layout: &Layout, facts: &ImageFacts, problems: &mut Vec<String>, warnings: &mut Vec<String>) {
    let image = &facts.name;
    if !facts.has_init {
        problems.push(format!(
            "the image {image} has none of {}: nothing would start on a machine; install an init system on the \
             master client and capture it again",
            INITS.join(", ")
        ));
    }
    if !facts.has_fstab {
        problems.push(format!(
            "the image {image} has no /etc/fstab: a machine would not mount its file systems; write one into the \
             image that names them by UUID= as {image}.master does"
        ));
        return;
    }
    // An image that is not to be installed has no layout to hold its fstab against; that is said elsewhere.
    if layout.is_empty() {
        return;
    }
    for entry in &facts.fstab {
        match judge(layout, entry) {
            Verdict::Fine => {}
            Verdict::Problem(why) => {
                problems.push(format!("the image's /etc/fstab names {} (for {}), {why}", entry.spec, purpose(entry)));
            }
            Verdict::Warning(why) => {
                warnings.push(format!("the image's /etc/fstab names {} (for {}), {why}", entry.spec, purpose(entry)));
            }
        }
    }
    for mount in layout.mounts_in_order() {
        // The kernel's command line names the root as well; a unit of systemd may mount any other.
        if mount.at != BytePath::from("/") && !facts.fstab.iter().any(|entry| same_place(&entry.file, &mount.at)) {
            warnings.push(format!(
                "{image}.master mounts {} at {}, and the image's /etc/fstab has no entry for it: what is installed \
                 there is not to be seen unless something else mounts it",
                mount.node, mount.at
            ));
        }
    }
}

enum Verdict {
    Fine,
    Problem(String),
    Warning(String),
}

const NOT_MADE: &str = "which the layout does not make; add it to the layout in the master file, correct the image's \
                        /etc/fstab, or give the entry `nofail` or `noauto` if other machines lack it";

fn judge(layout: &Layout, entry: &FstabEntry) -> Verdict {
    let waived = entry.options.iter().any(|option| option == "noauto" || option == "nofail");
    let spec = spec(&entry.spec);
    if let Spec::Uuid(uuid) = &spec
        && let Some(fs) = layout.filesystems.iter().find(|fs| fs.new_uuid && has_uuid(fs, uuid))
    {
        return Verdict::Problem(format!(
            "and the layout has new_uuid = true for {}: no machine would have that UUID; remove new_uuid from the \
             master file, or name the file system by LABEL= in the image",
            fs.node
        ));
    }
    if waived {
        return Verdict::Fine;
    }
    let partitions = || layout.disks.iter().flat_map(|disk| disk.partitions.iter().map(move |it| (disk, it)));
    let made = match &spec {
        Spec::Uuid(uuid) => layout.filesystems.iter().any(|fs| has_uuid(fs, uuid)),
        Spec::Label(label) => layout.filesystems.iter().any(|fs| fs.label.as_deref() == Some(label)),
        Spec::PartUuid(uuid) => partitions().any(|(disk, it)| {
            it.uuid.as_ref().is_some_and(|it| it.eq_ignore_ascii_case(uuid))
                || dos_partuuid(disk, it.number).is_some_and(|it| it.eq_ignore_ascii_case(uuid))
        }),
        Spec::PartLabel(name) => partitions().any(|(_, it)| it.name.as_deref() == Some(name)),
        // `tmpfs`, `server:/export` and the like need no disk.
        Spec::Other(_) => true,
        Spec::Path(path) => return device(layout, entry, &path.to_string_lossy(), spec.is_kernel_name()),
    };
    match made_as(layout, &spec) {
        _ if !made => Verdict::Problem(NOT_MADE.into()),
        Some(fs) if !can_be_mounted_as(&fs.kind, &entry.fstype) => Verdict::Problem(format!(
            "as {}, and the layout makes it {}: it would not be mounted, or only for reading; correct type and options \
             in the image's /etc/fstab, or the type in the master file",
            entry.fstype, fs.kind
        )),
        _ => Verdict::Fine,
    }
}

/// What the layout makes of the file system that an entry names.
fn made_as<'a>(layout: &'a Layout, spec: &Spec) -> Option<&'a FileSystemLayout> {
    layout.filesystems.iter().find(|fs| match spec {
        Spec::Uuid(uuid) => has_uuid(fs, uuid),
        Spec::Label(label) => fs.label.as_deref() == Some(label),
        _ => false,
    })
}

/// Whether one of the types in an entry (`auto`, a list) mounts what is of this kind. Drivers of one family read each
/// other's.
fn can_be_mounted_as(kind: &str, types: &str) -> bool {
    let family = |name: &str| match name {
        "ext2" | "ext3" | "ext4" => "ext".to_owned(),
        "fat" | "vfat" | "msdos" => "fat".to_owned(),
        other if other.starts_with("ntfs") => "ntfs".to_owned(),
        other => other.to_owned(),
    };
    types.split(',').any(|it| it == "auto" || it.starts_with("fuse") || family(it) == family(kind))
}

/// An entry that names a path: a device, a file (swap), a directory (bind mount), `//server/share`.
fn device(layout: &Layout, entry: &FstabEntry, path: &str, kernel_name: bool) -> Verdict {
    if path.starts_with("//") {
        return Verdict::Fine;
    }
    let Some(name) = path.strip_prefix("/dev/") else { return Verdict::Fine };
    // Memory that a machine makes devices of is no disk.
    if name == "root" || name.starts_with("zram") || name.starts_with("ram") {
        return Verdict::Fine;
    }
    if !kernel_name {
        return Verdict::Warning(
            "a device that the layout does not make: see that each machine has it, or give the entry `nofail`".into(),
        );
    }
    let is_its = |fs: &&FileSystemLayout| match entry.fstype.as_str() {
        "swap" => fs.kind == "swap",
        _ => layout.mounts.iter().any(|it| it.node == fs.node && same_place(&it.at, &entry.file)),
    };
    let uuid = layout.filesystems.iter().find(is_its).and_then(|fs| fs.uuid.as_ref());
    let instead = uuid.map_or_else(|| "UUID=".to_owned(), |uuid| format!("UUID={uuid}"));
    Verdict::Problem(format!(
        "a kernel's name, which is another disk's on another machine; write {instead} in its place in the image's \
         /etc/fstab, or give the entry `nofail` or `noauto` if other machines lack it"
    ))
}

/// `TAG=value`, or the link of udev that means the same.
pub(super) fn spec(text: &str) -> Spec {
    type Make = fn(String) -> Spec;
    let tags: [(&str, &str, Make); 4] = [
        ("UUID=", "/dev/disk/by-uuid/", Spec::Uuid),
        ("LABEL=", "/dev/disk/by-label/", Spec::Label),
        ("PARTUUID=", "/dev/disk/by-partuuid/", Spec::PartUuid),
        ("PARTLABEL=", "/dev/disk/by-partlabel/", Spec::PartLabel),
    ];
    for (tag, link, make) in tags {
        if let Some(value) = text.strip_prefix(tag) {
            return make(value.to_owned());
        }
        // udev writes odd letters of labels as \x20; such a link is left to the reader of a warning.
        if let Some(value) = text.strip_prefix(link).filter(|value| !value.contains('\\')) {
            return make(value.to_owned());
        }
    }
    if text.starts_with('/') { Spec::Path(text.into()) } else { Spec::Other(text.into()) }
}

fn has_uuid(fs: &FileSystemLayout, uuid: &str) -> bool {
    // vfat's are shown in upper case by some.
    fs.uuid.as_deref().is_some_and(|it| it.eq_ignore_ascii_case(uuid))
}

/// What udev calls a partition of a dos table: the table's identifier as eight digits, and the number as
/// two, all hexadecimal (block/partitions/msdos.c of the kernel).
fn dos_partuuid(disk: &DiskLayout, number: u32) -> Option<String> {
    let id = disk.id.as_ref().filter(|_| disk.label == "dos")?;
    let id = u32::from_str_radix(id.strip_prefix("0x").unwrap_or(id), 16).ok()?;
    Some(format!("{id:08x}-{number:02x}"))
}

fn purpose(entry: &FstabEntry) -> String {
    if entry.fstype == "swap" { "swap".into() } else { entry.file.to_string() }
}

pub(super) fn same_place(one: &BytePath, other: &BytePath) -> bool {
    let trimmed = |path: &BytePath| {
        let bytes = path.as_bytes();
        bytes[..bytes.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1)].to_vec()
    };
    trimmed(one) == trimmed(other)
}
