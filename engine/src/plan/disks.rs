//! Which disk of the machine each disk of the layout is.
//!
//! Pure. Removable and USB disks are never taken unless the rule names them by serial, wwn or path; a
//! disk that is in use is never taken.

use std::collections::BTreeMap;

use systemimager_core::{BlockDevice, DiskLayout, DiskRule, NodeName};

/// For people: `/dev/sda (QEMU HARDDISK, 8 GiB, ata)`.
pub fn describe(disk: &BlockDevice) -> String {
    let model = if disk.model.is_empty() { "unnamed" } else { &disk.model };
    let bus = if disk.bus.is_empty() { "unknown bus" } else { &disk.bus };
    format!("{} ({model}, {}, {bus})", disk.path, disk.size)
}

/// What was chosen.
#[derive(Debug, Default)]
pub struct Choice {
    /// The disk of the machine for each disk of the layout that found one.
    pub disks: BTreeMap<NodeName, BlockDevice>,
    /// For each disk of the layout that found none: the disks that are there, and why each did not fit.
    pub problems: Vec<String>,
    /// For each that was chosen among several though nothing names one of them: which, and what else fits.
    pub warnings: Vec<String>,
}

/// Chooses a disk for each, in three rounds: rules that name a disk (by serial, wwn or path), then those
/// with an `order`, then the others. Of several disks that fit, `order` takes the one with that number (from
/// 0, in the machine's order, those counted that another rule took); a rule without it takes the first that is
/// left. The machine's order may be another after a controller was added, hence the warning.
pub fn choose(wanted: &[DiskLayout], found: &[BlockDevice]) -> Choice {
    let mut choice = Choice::default();
    // What names a disk goes first, so that an "any disk" rule does not take it away.
    let mut rounds: Vec<&DiskLayout> = wanted.iter().collect();
    rounds.sort_by_key(|disk| (!names_one(&disk.rule), disk.rule.order.is_none()));
    let mut named: Vec<&str> = Vec::new();
    for disk in rounds {
        let mut fitting = Vec::new();
        let mut refused = Vec::new();
        for device in found {
            if choice.disks.values().any(|other| other.name == device.name) {
                refused.push(format!("{} is already taken", describe(device)));
                continue;
            }
            match unfit(&disk.rule, device) {
                Some(why) => refused.push(format!("{} {why}", describe(device))),
                None => fitting.push(device),
            }
        }
        let pick = match disk.rule.order {
            // Among disks that are already taken, the order counts them too: it is the machine's order.
            Some(order) => {
                nth(&disk.rule, found, order).filter(|device| fitting.iter().any(|it| it.name == device.name))
            }
            None => fitting.first().copied(),
        };
        let Some(device) = pick else {
            choice.problems.push(no_disk(disk, &fitting, &refused));
            continue;
        };
        if names_one(&disk.rule) {
            named.push(&device.name);
        }
        let others: Vec<String> = found
            .iter()
            .filter(|other| other.name != device.name && !named.contains(&other.name.as_str()))
            .filter(|other| unfit(&disk.rule, other).is_none())
            .map(describe)
            .collect();
        if !names_one(&disk.rule) && !others.is_empty() {
            choice.warnings.push(format!(
                "{} is {}, chosen by order; {} would fit too: name it by serial, wwn or path in the master file to \
                 be sure",
                disk.node,
                describe(device),
                others.join(" and ")
            ));
        }
        choice.disks.insert(disk.node.clone(), device.clone());
    }
    choice
}

fn names_one(rule: &DiskRule) -> bool {
    rule.serial.is_some() || rule.wwn.is_some() || rule.path.is_some()
}

fn nth<'a>(rule: &DiskRule, found: &'a [BlockDevice], order: u32) -> Option<&'a BlockDevice> {
    found.iter().filter(|device| unfit(rule, device).is_none()).nth(order as usize)
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
    if !names_one(rule) && (disk.removable || disk.bus == "usb") {
        return Some("is removable or on USB; name it by serial, wwn or path to use it".into());
    }
    let differs = |wanted: &Option<String>, have: &str, what: &str| match wanted {
        Some(wanted) if !wildcard(wanted, have) => Some(format!("has the {what} \"{have}\", not \"{wanted}\"")),
        _ => None,
    };
    differs(&rule.serial, &disk.serial, "serial number")
        .or_else(|| differs(&rule.wwn, &disk.wwn, "wwn"))
        .or_else(|| differs(&rule.path, &disk.sysfs, "path"))
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

fn no_disk(disk: &DiskLayout, fitting: &[&BlockDevice], refused: &[String]) -> String {
    let mut text = match disk.rule.order {
        Some(order) if !fitting.is_empty() => {
            format!("{}: there is no disk number {order} (counted from 0)", disk.node)
        }
        _ => format!("{}: no disk of this machine fits", disk.node),
    };
    if refused.is_empty() && fitting.is_empty() {
        text.push_str("; no disk was found at all: is its driver in the initrd?");
    }
    for device in fitting {
        text.push_str(&format!("\n  {} fits", describe(device)));
    }
    for line in refused {
        text.push_str(&format!("\n  {line}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::Size;

    fn disk(name: &str, bus: &str, gib: u64) -> BlockDevice {
        BlockDevice {
            name: name.into(),
            path: format!("/dev/{name}").into(),
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

    #[test]
    fn the_right_disk_or_none() {
        let mut stick = disk("sdb", "usb", 64);
        stick.removable = true;
        let mut used = disk("sdc", "ata", 8);
        used.in_use = vec!["/".into()];
        let machine = [stick.clone(), used, disk("sda", "ata", 8), disk("nvme0n1", "nvme", 16)];
        let rows: [(&str, DiskRule, Result<&str, &str>); 8] = [
            ("first that may be taken", DiskRule::default(), Ok("sda")),
            ("order", DiskRule { order: Some(1), ..DiskRule::default() }, Ok("nvme0n1")),
            ("order beyond", DiskRule { order: Some(2), ..DiskRule::default() }, Err("no disk number 2")),
            ("serial", DiskRule { serial: Some("S-nvme*".into()), ..DiskRule::default() }, Ok("nvme0n1")),
            ("USB by its serial", DiskRule { serial: Some("S-sdb".into()), ..DiskRule::default() }, Ok("sdb")),
            (
                "never one in use",
                DiskRule { serial: Some("S-sdc".into()), ..DiskRule::default() },
                Err("is in use (/)"),
            ),
            ("size", DiskRule { min_size: Some(Size(10 << 30)), ..DiskRule::default() }, Ok("nvme0n1")),
            (
                "none so large",
                DiskRule { min_size: Some(Size(1 << 40)), ..DiskRule::default() },
                Err("smaller than 1 TiB"),
            ),
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
        let none = choose(&[wanted(DiskRule::default())], &[]).problems;
        assert!(none[0].contains("no disk was found at all"), "{none:?}");
    }

    #[test]
    fn a_choice_among_several_is_said() {
        let machine = [disk("sda", "ata", 8), disk("sdb", "ata", 8), disk("sdc", "ata", 16)];
        let order = |order| DiskRule { order: Some(order), ..DiskRule::default() };
        let serial = |serial: &str| DiskRule { serial: Some(serial.into()), ..DiskRule::default() };
        let large = DiskRule { min_size: Some(Size(10 << 30)), ..DiskRule::default() };
        let (sda, sdb, sdc) =
            ("/dev/sda (unnamed, 8 GiB, ata)", "/dev/sdb (unnamed, 8 GiB, ata)", "/dev/sdc (unnamed, 16 GiB, ata)");
        let said = |node: &str, took: &str, others: &str| {
            format!(
                "{node} is {took}, chosen by order; {others} would fit too: name it by serial, wwn or path in the \
                 master file to be sure"
            )
        };
        // Name, rules, disks taken, warnings.
        type Row<'a> = (&'a str, Vec<DiskRule>, &'a [&'a str], Vec<String>);
        let rows: [Row<'_>; 6] = [
            ("order", vec![order(0)], &["sda"], vec![said("disk0", sda, &format!("{sdb} and {sdc}"))]),
            ("no rule", vec![DiskRule::default()], &["sda"], vec![said("disk0", sda, &format!("{sdb} and {sdc}"))]),
            ("the only one that fits", vec![large], &["sdc"], vec![]),
            ("named", vec![serial("S-sdb")], &["sdb"], vec![]),
            (
                "what is named is no choice",
                vec![DiskRule::default(), serial("S-sdc"), serial("S-sdb")],
                &["sda", "sdc", "sdb"],
                vec![],
            ),
            (
                "an order goes before none",
                vec![DiskRule::default(), order(0), serial("S-sdc")],
                &["sdb", "sda", "sdc"],
                vec![said("disk1", sda, sdb), said("disk0", sdb, sda)],
            ),
        ];
        for (name, rules, expected, warnings) in rows {
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
        }
    }
}
