//! Disks that are going to be wiped and carry parts of what lies on other disks too: an array, a volume group.
//!
//! Pure, from the facts about the machine. What stands on chosen disks alone is taken apart; what reaches onto others
//! is refused, since wiping one part breaks the rest.

use std::collections::{BTreeMap, BTreeSet};

use systemimager_core::{BlockDevice, NodeName};

use super::disks::describe;

/// A problem for each thing that lies on a chosen disk and on one that is not.
pub fn check(chosen: &BTreeMap<NodeName, BlockDevice>, found: &[BlockDevice]) -> Vec<String> {
    let is_chosen = |disk: &BlockDevice| chosen.values().any(|it| it.name == disk.name);
    let mut problems = Vec::new();
    for (node, disk) in chosen {
        // What it is a part of, and the other disks.
        let mut shared: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for part_of in parts(disk) {
            let others = found.iter().filter(|it| !is_chosen(it) && parts(it).any(|it| it == part_of)).map(describe);
            shared.entry(part_of).or_default().extend(others);
        }
        for holder in &disk.holders {
            let own = |name: &str| chosen.values().any(|it| has(it, name));
            let foreign = holder
                .on
                .iter()
                .filter(|name| !own(name))
                .map(|name| found.iter().find(|it| has(it, name)).map_or_else(|| format!("/dev/{name}"), describe));
            shared.entry(&holder.title).or_default().extend(foreign);
        }
        for (what, others) in shared.into_iter().filter(|(_, others)| !others.is_empty()) {
            let others = others.into_iter().collect::<Vec<_>>().join(" and ");
            problems.push(format!(
                "{node}: {} holds a part of {what}, which also lies on {others}; wiping one of them breaks what is on \
                 the other. Take it apart first (or erase the other too: wipefs --all), or give the master all its \
                 disks",
                describe(disk)
            ));
        }
    }
    problems
}

fn parts(disk: &BlockDevice) -> impl Iterator<Item = &str> {
    let inside = disk.partitions.iter().flat_map(|it| &it.signatures);
    disk.signatures.iter().chain(inside).map(|it| it.part_of.as_str()).filter(|it| !it.is_empty())
}

fn has(disk: &BlockDevice, name: &str) -> bool {
    disk.name == name || disk.partitions.iter().any(|it| it.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::{Holder, PartitionInfo, Signature};

    fn disk(name: &str, part_of: &str, on: &[&str]) -> BlockDevice {
        let signature = |part_of: &str| Signature { part_of: part_of.into(), ..Signature::default() };
        let partition =
            PartitionInfo { name: format!("{name}1"), signatures: vec![signature("")], ..PartitionInfo::default() };
        let second = PartitionInfo {
            name: format!("{name}2"),
            signatures: vec![signature(part_of)],
            ..PartitionInfo::default()
        };
        let on: Vec<String> = on.iter().map(|it| (*it).to_owned()).collect();
        let holders =
            if on.is_empty() { vec![] } else { vec![Holder { name: "dm-0".into(), title: "vg0-root".into(), on }] };
        BlockDevice {
            name: name.into(),
            path: format!("/dev/{name}").into(),
            partitions: vec![partition, second],
            holders,
            ..BlockDevice::default()
        }
    }

    #[test]
    fn what_reaches_onto_other_disks_is_refused() {
        let vg = "the volume group vg0 (67ZhLr)";
        let sdb = "/dev/sdb (unnamed, 0 B, unknown bus)";
        // Name, disks found, how many of them are chosen, what is said.
        type Row<'a> = (&'a str, Vec<BlockDevice>, usize, Vec<String>);
        let both = vec![disk("sda", vg, &[]), disk("sdb", vg, &[])];
        let held = vec![disk("sda", "", &["sda2", "sdb"]), disk("sdb", "", &["sda2", "sdb"])];
        let rows: Vec<Row> = vec![
            ("nothing shared", vec![disk("sda", "", &[]), disk("sdb", "", &[])], 1, vec![]),
            ("its own", vec![disk("sda", vg, &["sda2"]), disk("sdb", "", &[])], 1, vec![]),
            ("a group on two", both.clone(), 1, vec![format!("holds a part of {vg}, which also lies on {sdb};")]),
            ("both are chosen", both, 2, vec![]),
            ("held", held.clone(), 1, vec![format!("holds a part of vg0-root, which also lies on {sdb};")]),
            ("held, both chosen", held, 2, vec![]),
            (
                "by what is not listed",
                vec![disk("sda", "", &["sda1", "loop7"])],
                1,
                vec!["holds a part of vg0-root, which also lies on /dev/loop7;".into()],
            ),
        ];
        for (name, found, count, expected) in rows {
            let chosen: BTreeMap<_, _> = found
                .iter()
                .take(count)
                .enumerate()
                .map(|(index, it)| (NodeName::try_from(format!("disk{index}").as_str()).unwrap(), it.clone()))
                .collect();
            let problems = check(&chosen, &found);
            assert_eq!(problems.len(), expected.len(), "{name}: {problems:?}");
            for (problem, expected) in problems.iter().zip(expected) {
                assert!(problem.starts_with("disk0: /dev/sda (") && problem.contains(&expected), "{name}: {problem}");
            }
        }
    }
}
