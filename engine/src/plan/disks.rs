//! Which disk of the machine each disk of the layout is.
//!
//! Pure. Removable and USB disks are never taken unless the rule names them by serial, wwn or path; a
//! disk that is in use is never taken. Rules decide: several disks that fit a rule are refused, none of them is
//! guessed.

use std::collections::BTreeMap;

use systemimager_core::{BlockDevice, DiskLayout, DiskRule, NodeName};

use crate::hardware::bus_order;

/// For people: `/dev/sda (QEMU HARDDISK, 8 GiB, ata)`.
pub fn describe(disk: &BlockDevice) -> String {
    let model = if disk.model.is_empty() { "unnamed" } else { &disk.model };
    let bus = if disk.bus.is_empty() { "unknown bus" } else { &disk.bus };
    // Sticks and disks say of themselves what they like, and a console shows it.
    super::printable(&format!("{} ({model}, {}, {bus})", disk.path, disk.size)).replace('\n', "?")
}

/// What was chosen.
#[derive(Debug, Default)]
pub struct Choice {
    /// The disk of the machine for each disk of the layout that found one.
    pub disks: BTreeMap<NodeName, BlockDevice>,
    /// For each disk of the layout that found none, or more than one: the disks that are there, and why each did
    /// or did not fit.
    pub problems: Vec<String>,
    /// For each that was chosen by its order among several: which, and what else fits.
    pub warnings: Vec<String>,
    /// Some disk of the layout found none; another machine, or a disk that is still to come, may have it.
    pub lacking: bool,
}

/// Chooses a disk for each, so that the answer hangs on the rules and the machine alone, not on how the kernel
/// names its disks or in what order they are listed.
///
/// Rules that name a disk (by serial, wwn or path) come first, then those with an `order`: that one takes the disk
/// with that number (from 0, by place on the buses, among those that its other conditions leave, those counted that
/// another rule took). Of the others each takes the only disk that fits and is left; more than one is a problem,
/// as is none.
pub fn choose(wanted: &[DiskLayout], found: &[BlockDevice]) -> Choice {
    let mut found: Vec<&BlockDevice> = found.iter().collect();
    found.sort_by_cached_key(|disk| (bus_order(&disk.sysfs), disk.name.clone()));
    let mut choice = Choice::default();
    let (ordered, mut left): (Vec<&DiskLayout>, Vec<_>) = wanted.iter().partition(|disk| disk.rule.order.is_some());
    left.retain(|disk| !names_one(&disk.rule) || choice.take_only(disk, &found).is_some());
    for disk in ordered {
        choice.take_in_order(disk, &found);
    }
    // One rule's disk may be what makes another's the only one: until no rule is helped any more.
    loop {
        let before = left.len();
        left.retain(|disk| choice.take_only(disk, &found).is_some());
        if left.len() == before {
            break;
        }
    }
    for disk in left {
        let fitting = choice.fitting(disk, &found);
        choice.lacking |= fitting.is_empty();
        choice.problems.push(match fitting.as_slice() {
            [] => no_disk(disk, &choice.listed(disk, &found)),
            several => ambiguous(disk, several, &choice.listed(disk, &found)),
        });
    }
    choice
}

impl Choice {
    fn is_taken(&self, device: &BlockDevice) -> bool {
        self.disks.values().any(|other| other.name == device.name || other.path == device.path)
    }

    fn fitting<'a>(&self, disk: &DiskLayout, found: &[&'a BlockDevice]) -> Vec<&'a BlockDevice> {
        found.iter().copied().filter(|it| !self.is_taken(it) && unfit(&disk.rule, it).is_none()).collect()
    }

    /// Takes the only disk that fits; gives the rule back where there is none or more than one.
    fn take_only<'a>(&mut self, disk: &'a DiskLayout, found: &[&BlockDevice]) -> Option<&'a DiskLayout> {
        match self.fitting(disk, found).as_slice() {
            [device] => {
                self.disks.insert(disk.node.clone(), (*device).clone());
                None
            }
            _ => Some(disk),
        }
    }

    fn take_in_order(&mut self, disk: &DiskLayout, found: &[&BlockDevice]) {
        let order = disk.rule.order.unwrap_or_default();
        let fitting: Vec<&BlockDevice> = found.iter().copied().filter(|it| unfit(&disk.rule, it).is_none()).collect();
        match fitting.get(order as usize) {
            Some(device) if !self.is_taken(device) => {
                let others: Vec<String> = fitting
                    .iter()
                    .filter(|it| it.name != device.name && !self.is_taken(it))
                    .map(|it| describe(it))
                    .collect();
                if !others.is_empty() && !names_one(&disk.rule) {
                    self.warnings.push(format!(
                        "{} is {}, chosen by order; {} would fit too: name it by serial, wwn or path in the master \
                         file to be sure",
                        disk.node,
                        describe(device),
                        others.join(" and ")
                    ));
                }
                self.disks.insert(disk.node.clone(), (*device).clone());
            }
            _ => {
                self.lacking = true;
                let what =
                    format!("{}: there is no disk number {order} (counted from 0) that fits and is free", disk.node);
                let list = self.listed(disk, found);
                self.problems.push(if fitting.is_empty() { no_disk(disk, &list) } else { what + &list });
            }
        }
    }

    /// A line for each disk of the machine: why it fits or does not.
    fn listed(&self, disk: &DiskLayout, found: &[&BlockDevice]) -> String {
        let mut text = String::new();
        for device in found {
            let (what, taken) = (describe(device), self.is_taken(device));
            let line = match unfit(&disk.rule, device) {
                Some(why) => format!("{what} {why}"),
                None if taken => format!("{what} is already taken"),
                None => format!("{what} fits; to take it: {}", line_for(device, found)),
            };
            text.push_str("\n  ");
            text.push_str(&line);
        }
        text
    }
}

fn names_one(rule: &DiskRule) -> bool {
    rule.serial.is_some() || rule.wwn.is_some() || rule.path.is_some()
}

/// The line of a master file that means this disk and no other of the machine.
fn line_for(device: &BlockDevice, found: &[&BlockDevice]) -> String {
    let alone = |value: &dyn Fn(&BlockDevice) -> Option<String>| {
        let mine = value(device).filter(|mine| !mine.is_empty())?;
        (found.iter().filter(|other| value(other).as_ref() == Some(&mine)).count() == 1).then_some(mine)
    };
    let path = |disk: &BlockDevice| disk.by_path.first().cloned().or_else(|| Some(disk.sysfs.clone()));
    let found = [
        ("serial", alone(&|disk| Some(disk.serial.clone()))),
        ("wwn", alone(&|disk| Some(disk.wwn.clone()))),
        ("path", alone(&path)),
    ];
    match found.into_iter().find_map(|(key, value)| Some((key, value?))) {
        Some((key, value)) => {
            // A pattern letter in it stands for itself.
            let value = toml_edit::Value::from(glob::Pattern::escape(&value));
            format!("match = {{ {key} = {} }}", value.to_string().trim())
        }
        None => "nothing names it alone; tell it apart by model, size or order".into(),
    }
}

/// Why a disk does not fit a rule.
fn unfit(rule: &DiskRule, disk: &BlockDevice) -> Option<String> {
    if disk.read_only {
        return Some("is read-only".into());
    }
    if !disk.in_use.is_empty() {
        return Some(format!("is in use ({})", disk.in_use.join(", ")));
    }
    if disk.size.0 == 0 {
        return Some("has no medium".into());
    }
    if !names_one(rule) && disk.bus == "virtual" {
        return Some("is made by the kernel, of other disks perhaps; name it by path to use it".into());
    }
    if !names_one(rule) && (disk.removable || disk.bus == "usb") {
        return Some("is removable or on USB; name it by serial, wwn or path to use it".into());
    }
    let differs = |wanted: &Option<String>, have: &str, what: &str| match wanted {
        Some(wanted) if !wildcard(wanted, have) => Some(format!("has the {what} \"{have}\", not \"{wanted}\"")),
        _ => None,
    };
    differs(&rule.serial, &disk.serial, "serial number")
        .or_else(|| differs(&rule.wwn, &disk.wwn, "wwn"))
        .or_else(|| {
            let wanted = rule.path.as_deref()?;
            let wanted = ["/dev/disk/by-path/", "/sys/devices/", "/"]
                .iter()
                .find_map(|start| wanted.strip_prefix(start))
                .unwrap_or(wanted);
            let mut paths = disk.by_path.iter().map(String::as_str).chain([disk.sysfs.as_str()]);
            let fits = paths.any(|path| wildcard(wanted, path.trim_start_matches('/')));
            (!fits).then(|| {
                let first = disk.by_path.first().unwrap_or(&disk.sysfs);
                format!("has the path \"{first}\", not \"{wanted}\"")
            })
        })
        .or_else(|| differs(&rule.model, &disk.model, "model"))
        .or_else(|| rule.min_size.filter(|least| disk.size < *least).map(|least| format!("is smaller than {least}")))
        .or_else(|| rule.max_size.filter(|most| disk.size > *most).map(|most| format!("is larger than {most}")))
        .or_else(|| {
            rule.rotational
                .filter(|wanted| *wanted != disk.rotational)
                .map(|wanted| if wanted { "does not rotate".into() } else { "rotates".into() })
        })
}

fn wildcard(pattern: &str, text: &str) -> bool {
    glob::Pattern::new(pattern).map_or(pattern == text, |pattern| pattern.matches(text))
}

fn no_disk(disk: &DiskLayout, list: &str) -> String {
    let none = if list.is_empty() { "; no disk was found at all: is its driver in the initrd?" } else { "" };
    format!("{}: no disk of this machine fits{none}{list}", disk.node)
}

fn ambiguous(disk: &DiskLayout, fitting: &[&BlockDevice], list: &str) -> String {
    format!(
        "{}: {} disks of this machine fit, and its rule does not say which; write one of these lines into its \
         [[layout.disk]] in the master file{list}",
        disk.node,
        fitting.len(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::Size;

    fn disk(name: &str, bus: &str, gib: u64) -> BlockDevice {
        BlockDevice {
            name: name.into(),
            path: format!("/dev/{name}").into(),
            sysfs: format!("pci0/0000:00:01.0/{name}"),
            size: Size(gib << 30),
            bus: bus.into(),
            serial: format!("S-{name}"),
            ..BlockDevice::default()
        }
    }

    fn wanted(rule: DiskRule) -> DiskLayout {
        DiskLayout {
            node: NodeName::try_from("disk0").unwrap(),
            label: "gpt".into(),
            id: None,
            size: Size(8 << 30),
            sector_size: 512,
            rule,
            partitions: vec![],
        }
    }

    fn serial(serial: &str) -> DiskRule {
        DiskRule { serial: Some(serial.into()), ..DiskRule::default() }
    }

    fn path(path: &str) -> DiskRule {
        DiskRule { path: Some(path.into()), ..DiskRule::default() }
    }

    fn order(order: u32) -> DiskRule {
        DiskRule { order: Some(order), ..DiskRule::default() }
    }

    #[test]
    fn the_right_disk_or_none() {
        let mut stick = disk("sdb", "usb", 64);
        stick.removable = true;
        let mut used = disk("sdc", "ata", 8);
        used.in_use = vec!["/".into()];
        let mut nvme = disk("nvme0n1", "nvme", 16);
        nvme.by_path = vec!["pci-0000:01:00.0-nvme-1".into()];
        nvme.sysfs = "pci0/0000:00:09.0/nvme0n1".into();
        let raid = disk("md0", "virtual", 8);
        let machine = [stick, used, disk("sda", "ata", 8), nvme, raid];
        let rows: [(&str, DiskRule, Result<&str, &str>); 16] = [
            ("order", order(1), Ok("nvme0n1")),
            ("order 0 is the first by bus", order(0), Ok("sda")),
            ("order beyond", order(2), Err("no disk number 2")),
            ("order among what else fits", DiskRule { min_size: Some(Size(9 << 30)), ..order(0) }, Ok("nvme0n1")),
            ("serial", serial("S-nvme*"), Ok("nvme0n1")),
            ("USB by its serial", serial("S-sdb"), Ok("sdb")),
            ("what the kernel made, by name", path("pci0/0000:00:01.0/md0"), Ok("md0")),
            ("by-path", path("/dev/disk/by-path/pci-0000:01:00.0-nvme-1"), Ok("nvme0n1")),
            ("by-path, a pattern", path("pci-*-nvme-?"), Ok("nvme0n1")),
            ("place in sysfs", path("/sys/devices/pci0/0000:00:09.0/nvme0n1"), Ok("nvme0n1")),
            ("another path", path("pci-0000:02:00.0-nvme-1"), Err("has the path \"pci-0000:01:00.0-nvme-1\", not")),
            ("never one in use", serial("S-sdc"), Err("is in use (/)")),
            ("size", DiskRule { min_size: Some(Size(10 << 30)), ..DiskRule::default() }, Ok("nvme0n1")),
            ("small", DiskRule { max_size: Some(Size(10 << 30)), ..DiskRule::default() }, Ok("sda")),
            (
                "none so large",
                DiskRule { min_size: Some(Size(1 << 40)), ..DiskRule::default() },
                Err("smaller than 1 TiB"),
            ),
            ("no rule", DiskRule::default(), Err("2 disks of this machine fit, and its rule does not say which")),
        ];
        for (name, rule, expected) in rows {
            let node = NodeName::try_from("disk0").unwrap();
            let choice = choose(&[wanted(rule)], &machine);
            match expected {
                Ok(expected) => assert_eq!(choice.disks[&node].name, expected, "{name}: {choice:?}"),
                Err(says) => assert!(choice.problems[0].contains(says), "{name}: {choice:?}"),
            }
            assert_eq!(choice.disks.is_empty(), expected.is_err(), "{name}");
            assert_eq!(choice.problems.is_empty(), expected.is_ok(), "{name}");
        }
        let none = choose(&[wanted(DiskRule::default())], &[]);
        assert!(none.problems[0].contains("no disk was found at all") && none.lacking, "{none:?}");
        let only = choose(&[wanted(DiskRule::default())], &machine[..3]);
        assert_eq!(only.disks.values().next().unwrap().name, "sda", "the only one that may be taken");
    }

    #[test]
    fn several_that_fit_are_refused_with_the_lines_to_write() {
        let mut stick = disk("sdb", "usb", 64);
        stick.serial = "odd \"[1]\"".into();
        let mut nameless = disk("sdc", "ata", 16);
        nameless.serial.clear();
        let mut twin = disk("sdd", "ata", 16);
        twin.serial = "S-sda".into();
        twin.wwn = "naa.5".into();
        let machine = [disk("sda", "ata", 8), stick.clone(), nameless, twin];
        let choice = choose(&[wanted(DiskRule::default())], &machine);
        assert!(!choice.lacking, "waiting for more disks would not help");
        assert_eq!(
            choice.problems,
            ["disk0: 3 disks of this machine fit, and its rule does not say which; write one of these lines into its \
              [[layout.disk]] in the master file\n  \
              /dev/sda (unnamed, 8 GiB, ata) fits; to take it: match = { path = \"pci0/0000:00:01.0/sda\" }\n  \
              /dev/sdb (unnamed, 64 GiB, usb) is removable or on USB; name it by serial, wwn or path to use it\n  \
              /dev/sdc (unnamed, 16 GiB, ata) fits; to take it: match = { path = \"pci0/0000:00:01.0/sdc\" }\n  \
              /dev/sdd (unnamed, 16 GiB, ata) fits; to take it: match = { wwn = \"naa.5\" }"]
        );
        // The line is taken as it stands, whatever the disk's maker wrote.
        for device in &machine {
            let line = line_for(device, &machine.iter().collect::<Vec<_>>());
            let table: toml::Table = toml::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
            let rule: DiskRule = table["match"].clone().try_into().unwrap();
            let choice = choose(&[wanted(rule)], &machine);
            assert_eq!(choice.disks.values().next().map(|it| &it.name), Some(&device.name), "{line}");
        }
        let named = choose(&[wanted(serial("S-*"))], &machine).problems;
        assert!(named[0].starts_with("disk0: 2 disks of this machine fit"), "{named:?}");
    }

    #[test]
    fn several_disks_of_a_layout() {
        let machine = [disk("sda", "ata", 8), disk("sdb", "ata", 8), disk("sdc", "ata", 16)];
        let large = DiskRule { min_size: Some(Size(10 << 30)), ..DiskRule::default() };
        let (sda, sdb, sdc) =
            ("/dev/sda (unnamed, 8 GiB, ata)", "/dev/sdb (unnamed, 8 GiB, ata)", "/dev/sdc (unnamed, 16 GiB, ata)");
        let said = |node: &str, took: &str, others: &str| {
            format!(
                "{node} is {took}, chosen by order; {others} would fit too: name it by serial, wwn or path in the \
                 master file to be sure"
            )
        };
        // Name, rules, disks taken, warnings, problems.
        type Row<'a> = (&'a str, Vec<DiskRule>, &'a [&'a str], Vec<String>, usize);
        let rows: [Row<'_>; 8] = [
            ("order", vec![order(0)], &["sda"], vec![said("disk0", sda, &format!("{sdb} and {sdc}"))], 0),
            ("no rule", vec![DiskRule::default()], &[], vec![], 1),
            ("the only one that fits", vec![large.clone()], &["sdc"], vec![], 0),
            ("named", vec![serial("S-sdb")], &["sdb"], vec![], 0),
            (
                "what is named is no choice",
                vec![DiskRule::default(), serial("S-sdc"), serial("S-sdb")],
                &["sda", "sdc", "sdb"],
                vec![],
                0,
            ),
            (
                "an order goes before none",
                vec![DiskRule::default(), order(0), serial("S-sdc")],
                &["sdb", "sda", "sdc"],
                vec![said("disk1", sda, sdb)],
                0,
            ),
            (
                "one rule's only disk leaves another its only one",
                vec![DiskRule::default(), large.clone(), serial("S-sda")],
                &["sdb", "sdc", "sda"],
                vec![],
                0,
            ),
            ("two for one disk", vec![large.clone(), large], &["sdc"], vec![], 1),
        ];
        for (name, rules, expected, warnings, problems) in rows {
            let layout: Vec<DiskLayout> = rules
                .into_iter()
                .enumerate()
                .map(|(index, rule)| DiskLayout {
                    node: NodeName::try_from(format!("disk{index}").as_str()).unwrap(),
                    ..wanted(rule)
                })
                .collect();
            let choice = choose(&layout, &machine);
            let taken: Vec<&str> = choice.disks.values().map(|it| it.name.as_str()).collect();
            assert_eq!(taken, expected, "{name}: {:?}", choice.problems);
            assert_eq!(choice.warnings, warnings, "{name}");
            assert_eq!(choice.problems.len(), problems, "{name}: {:?}", choice.problems);
        }
    }

    /// The kernel names disks as it finds them, in another order each time; what they are and where they hang stays.
    #[test]
    fn the_same_disk_whatever_the_kernel_calls_it() {
        let kinds = [
            ("SSD", "ata", 240, false, "pci0/0000:00:1f.2/ata1/x"),
            ("HDD", "ata", 4000, true, "pci0/0000:00:1f.2/ata2/x"),
            ("NVME", "nvme", 500, false, "pci0/0000:01:00.0/nvme/nvme0/x"),
            ("VIRT", "virtio", 500, true, "pci0/0000:02:00.0/virtio3/x"),
            ("STICK", "usb", 64, false, "pci0/0000:00:14.0/usb1/1-1/x"),
        ];
        let rules = [
            ("serial", serial("S-HDD"), "HDD"),
            ("wwn", DiskRule { wwn: Some("naa.NVME".into()), ..DiskRule::default() }, "NVME"),
            ("path", path("pci0/0000:02:00.0/virtio3/x"), "VIRT"),
            (
                "size range",
                DiskRule {
                    min_size: Some(Size(300 << 30)),
                    max_size: Some(Size(600 << 30)),
                    rotational: Some(false),
                    ..DiskRule::default()
                },
                "NVME",
            ),
            ("model", DiskRule { model: Some("SS?".into()), ..DiskRule::default() }, "SSD"),
            (
                "rotational, large",
                DiskRule { rotational: Some(true), min_size: Some(Size(1 << 40)), ..DiskRule::default() },
                "HDD",
            ),
            ("order", order(2), "NVME"),
            ("the stick, named", serial("S-STICK"), "STICK"),
        ];
        // Every order of five.
        let mut orders: Vec<Vec<usize>> = vec![vec![]];
        for _ in 0..kinds.len() {
            orders = orders
                .into_iter()
                .flat_map(|order| {
                    let rest: Vec<usize> = (0..kinds.len()).filter(|next| !order.contains(next)).collect();
                    rest.into_iter().map(move |next| order.iter().copied().chain([next]).collect())
                })
                .collect();
        }
        assert_eq!(orders.len(), 120);
        for order in orders {
            let machine: Vec<BlockDevice> = order
                .iter()
                .enumerate()
                .map(|(place, kind)| {
                    let (model, bus, gib, rotational, sysfs) = kinds[*kind];
                    let letter = char::from(b'a' + u8::try_from(place).unwrap());
                    BlockDevice {
                        model: model.into(),
                        serial: format!("S-{model}"),
                        wwn: format!("naa.{model}"),
                        rotational,
                        removable: bus == "usb",
                        sysfs: sysfs.into(),
                        ..disk(&format!("sd{letter}"), bus, gib)
                    }
                })
                .collect();
            for (name, rule, expected) in &rules {
                let choice = choose(&[wanted(rule.clone())], &machine);
                let taken: Vec<&str> = choice.disks.values().map(|it| it.model.as_str()).collect();
                assert_eq!(taken, [*expected], "{name} in {order:?}: {:?}", choice.problems);
            }
        }
    }
}
