//! File systems on disks that are left alone, with a UUID that the layout is about to give another one: what an older
//! install of the same image left there. The boot loader, the kernel and fstab know file systems by UUID; with two of
//! one UUID the machine would start from either.
//!
//! Pure, from the facts about the machine.

use std::collections::BTreeMap;

use systemimager_core::{BlockDevice, Layout, NodeName};

use super::disks::describe;

/// A problem for each.
pub fn check(layout: &Layout, chosen: &BTreeMap<NodeName, BlockDevice>, found: &[BlockDevice]) -> Vec<String> {
    let others = || found.iter().filter(|disk| !chosen.values().any(|it| it.name == disk.name));
    let mut problems = Vec::new();
    for fs in layout.filesystems.iter().filter(|fs| !fs.new_uuid) {
        let Some(uuid) = fs.uuid.as_deref().filter(|uuid| !uuid.is_empty()) else { continue };
        let has_it = |marks: &[systemimager_core::Signature]| marks.iter().any(|it| it.uuid.eq_ignore_ascii_case(uuid));
        for disk in others() {
            let whole = has_it(&disk.signatures).then(|| disk.name.clone());
            let parts = disk.partitions.iter().filter(|it| has_it(&it.signatures)).map(|it| it.name.clone());
            for name in whole.into_iter().chain(parts) {
                problems.push(format!(
                    "{}: /dev/{name} on {} has the UUID {uuid} already, left there by an earlier install, it seems; the \
                     machine would start from the one or the other. Erase that one (wipefs --all /dev/{name}), take the \
                     disk out, or name it in the master file",
                    fs.node,
                    describe(disk)
                ));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::{PartitionInfo, Signature};

    fn disk(name: &str, uuid: &str) -> BlockDevice {
        let signatures = vec![Signature { kind: "ext4".into(), uuid: uuid.into(), ..Signature::default() }];
        let name1 = format!("{name}1");
        let partition = PartitionInfo { name: name1, signatures, ..PartitionInfo::default() };
        BlockDevice {
            name: name.into(),
            path: format!("/dev/{name}").into(),
            partitions: vec![partition],
            ..BlockDevice::default()
        }
    }

    #[test]
    fn an_older_install_on_another_disk_is_refused() {
        let layout = |more: &str| -> Layout {
            let text = format!(r#"{{"filesystem": [{{"node": "root", "on": "disk0", "type": "ext4", {more}}}]}}"#);
            serde_json::from_str(&text).unwrap()
        };
        let named = layout(r#""uuid": "1-AB""#);
        let (old, other) =
            (|| vec![disk("sda", "1-ab"), disk("sdb", "1-ab")], vec![disk("sda", "1-ab"), disk("sdb", "2")]);
        for (name, layout, found, count) in [
            ("on the chosen disk", &named, other, 0),
            ("on another", &named, old(), 1),
            ("with a new UUID each time", &layout(r#""uuid": "1-AB", "new_uuid": true"#), old(), 0),
            ("with none", &layout(r#""label": "x""#), old(), 0),
        ] {
            let chosen = BTreeMap::from([(NodeName::try_from("disk0").unwrap(), found[0].clone())]);
            let problems = check(layout, &chosen, &found);
            assert_eq!(problems.len(), count, "{name}: {problems:?}");
            let says = "root: /dev/sdb1 on /dev/sdb (unnamed, 0 B, unknown bus) has the UUID 1-AB already";
            assert!(problems.iter().all(|it| it.starts_with(says)), "{name}: {problems:?}");
        }
    }
}
