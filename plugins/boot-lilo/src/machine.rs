//! An image's lilo.conf made one for a machine: its disk, its root, and nothing of the master's. Pure.
//!
//! LILO knows the geometry of IDE and SCSI disks by their numbers. Of others (virtio, NVMe) it has to be told how many
//! partitions a disk may have, or it refuses them: lilo.conf(5), "max-partitions".

use systemimager_core::{BlockDevice, ImageFacts, Kernel};

use crate::conf::{Conf, Item, Section};

/// Keys that describe the master's disks: all of them go, with what belongs to them.
const OF_A_DISK: [&str; 11] = [
    "disk",
    "bios",
    "sectors",
    "heads",
    "cylinders",
    "inaccessible",
    "max-partitions",
    "partition",
    "start",
    "raid-extra-boot",
    "geometric",
];
/// Keys that this machine decides.
const REPLACED: [&str; 4] = ["boot", "root", "backup", "force-backup"];
/// Longest label, letters (MAX_IMAGE_NAME of LILO's common.h).
pub const LONGEST_LABEL: usize = 15;
/// Kernels that an image without lilo.conf gets entries for: LILO has room for 19, and people for fewer.
const MOST: usize = 9;

/// What of a machine stands in its lilo.conf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The disk that gets the boot code.
    pub disk: BlockDevice,
    /// Highest number of its partitions.
    pub partitions: u32,
    /// UUID of the root file system; empty: none.
    pub root_uuid: String,
    /// Its device.
    pub root_device: String,
}

/// The configuration for a machine. Warnings come with it, a line each.
pub fn adapt(conf: &Conf, machine: &Machine) -> (Conf, Vec<String>) {
    let mut warnings = Vec::new();
    let mut global = vec![Item::new("boot", machine.disk.path.to_string())];
    global.extend(disk(machine));
    global.extend(kept(&conf.global));
    if !global.iter().any(|item| ["lba32", "linear"].contains(&item.key.as_str())) {
        global.push(Item::switch("lba32"));
    }
    let mut sections = Vec::new();
    for section in &conf.sections {
        if section.is_image {
            sections.push(image(section, machine));
        } else {
            warnings.push(format!(
                "the entry {:?} boots {}, a disk of the master client's; it is left out",
                section.label(),
                section.path
            ));
        }
    }
    // The default may have been one of those.
    if let Some(default) = crate::conf::get(&global, "default").map(str::to_owned)
        && !sections.iter().any(|section| section.label() == default || section.get("alias") == Some(&default))
    {
        global.retain(|item| item.key != "default");
        warnings.push(format!("the default entry {default:?} is not there; the first one is booted instead"));
    }
    (Conf { global, sections }, warnings)
}

/// What LILO has to be told of the disk. It is the first that the BIOS knows: the machine starts from it.
fn disk(machine: &Machine) -> Vec<Item> {
    let mut items = vec![Item::new("disk", machine.disk.path.to_string()), Item::new("bios", "0x80")];
    let name = machine.disk.name.as_str();
    let known = ["sd", "hd"].iter().any(|prefix| name.starts_with(prefix));
    if !known {
        let most = [7, 15, 31].into_iter().find(|most| machine.partitions <= *most).unwrap_or(63);
        items.push(Item::new("max-partitions", most.to_string()));
    }
    items
}

fn kept(items: &[Item]) -> Vec<Item> {
    let gone = |item: &&Item| !OF_A_DISK.contains(&item.key.as_str()) && !REPLACED.contains(&item.key.as_str());
    items.iter().filter(gone).map(without_root).collect()
}

/// Words for the kernel, without the master's root.
fn without_root(item: &Item) -> Item {
    let lines = ["append", "addappend", "literal"];
    match &item.value {
        Some(value) if lines.contains(&item.key.as_str()) && value.contains("root=") => {
            let words: Vec<&str> = value.split_whitespace().filter(|word| !word.starts_with("root=")).collect();
            Item::new(&item.key, words.join(" "))
        }
        _ => item.clone(),
    }
}

fn image(section: &Section, machine: &Machine) -> Section {
    let mut items = kept(&section.items);
    // An initrd finds the file system by its UUID, whatever the disk is called then; a kernel alone cannot.
    let with_initrd = section.get("initrd").is_some();
    let root = match machine.root_uuid.as_str() {
        uuid if with_initrd && !uuid.is_empty() => format!("UUID={uuid}"),
        _ => machine.root_device.clone(),
    };
    items.push(Item::new("root", root));
    Section { items, ..section.clone() }
}

/// A configuration for an image that has none: its kernels, the newest first.
pub fn of_kernels(image: &ImageFacts) -> Conf {
    let global = ["prompt", "lba32", "compact"].map(Item::switch).into_iter().chain([Item::new("timeout", "50")]);
    let one = |(number, kernel): (usize, &Kernel)| {
        let label = if number == 0 { "Linux".to_owned() } else { format!("Linux-{number}") };
        let mut items = vec![Item::new("label", label), Item::switch("read-only")];
        items.extend(kernel.initramfs.as_ref().map(|path| Item::new("initrd", path.to_string())));
        Section { is_image: true, path: kernel.path.to_string(), items }
    };
    let sections = image.kernels.iter().take(MOST).enumerate().map(one).collect();
    Conf { global: global.collect(), sections }
}

/// `/dev/sda2`, `/dev/nvme0n1p2`.
pub fn partition(disk: &str, number: u32) -> String {
    let between = if disk.ends_with(|letter: char| letter.is_ascii_digit()) { "p" } else { "" };
    format!("{disk}{between}{number}")
}
