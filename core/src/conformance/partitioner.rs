//! Partitioners: tables are fitted to larger, smaller and odd disks, and written as they were fitted.

use super::steps::Bounds;
use super::{Check, HOSTILE, NONSENSE, NOWHERE, READING, Rules, any, node, shown};
use crate::contract::{PartitionerCapture, PartitionerFit, PartitionerPlan};
use crate::data::{BlockDevice, DiskLayout, NodeName, PartitionLayout, Phase, Role, Size, Step};
use crate::error::ErrorKind;

const GIB: u64 = 1 << 30;
const PLANS: Rules = Rules::pure(&[ErrorKind::Invalid, ErrorKind::Unsupported]);

impl Check<'_> {
    pub(super) fn partitioner(&mut self) {
        let labels = self.ask("labels", "labels", &(), Rules::pure(&[]).answers(), |labels: &Vec<String>, _| {
            if labels.is_empty() {
                Err("it has to name the labels that it serves".into())
            } else {
                Ok(labels.join(", "))
            }
        });
        let (Some(disk_node), Some(first), Some(second)) = (node("disk0"), node("disk0p1"), node("disk0p2")) else {
            return;
        };
        let capture = PartitionerCapture { disk: disk(8 * GIB, 512), node: disk_node.clone() };
        self.ask("capture of an absent disk", "capture", &capture, Rules::reads(READING).refuses(), any::<DiskLayout>);
        let Some(unknown) = layout(&disk_node, NONSENSE, &[]) else { return };
        self.ask(
            "fit of an unknown label",
            "fit",
            &fit(&unknown, disk(8 * GIB, 512)),
            PLANS.refuses(),
            any::<DiskLayout>,
        );
        let plan = PartitionerPlan { layout: unknown };
        self.ask("plan of an unknown label", "plan", &plan, PLANS.refuses(), any::<Vec<Step>>);
        for label in labels.unwrap_or_default() {
            self.one_label(&label, &disk_node, [&first, &second]);
        }
    }

    fn one_label(&mut self, label: &str, disk_node: &NodeName, nodes: [&NodeName; 2]) {
        // What a partition's type looks like is known for these; others are only asked for an empty table.
        let kind = match label {
            "gpt" => Some("0FC63DAF-8483-4772-8E79-3D69D8477DE4"),
            "dos" => Some("83"),
            _ => None,
        };
        let [first, second] = nodes;
        let two = kind.map(|kind| {
            [
                serde_json::json!({ "node": first, "number": 1, "size": Size(GIB), "type": kind }),
                serde_json::json!({ "node": second, "number": 2, "type": kind }),
            ]
        });
        let Some(wanted) = layout(disk_node, label, two.as_ref().map_or(&[], |two| two.as_slice())) else { return };
        for (size, sector) in [(8 * GIB, 512), (64 * GIB, 512), (8 * GIB, 4096)] {
            let what = format!("fit of {label} to {} with sectors of {sector}", Size(size));
            let request = fit(&wanted, disk(size, sector));
            let fitted = self
                .ask(what, "fit", &request, PLANS.answers(), |fitted: &DiskLayout, _| judge_fit(&wanted, fitted, size));
            let Some(fitted) = fitted else { continue };
            let programs = self.programs.get(&Role::Installer).cloned().unwrap_or_default();
            let what = format!("plan of {label} on {} with sectors of {sector}", Size(size));
            let request = PartitionerPlan { layout: fitted.clone() };
            self.ask(what, "plan", &request, PLANS.answers(), |steps: &Vec<Step>, _| {
                let new: Vec<_> = fitted.partitions.iter().map(|one| one.node.clone()).collect();
                let there = vec![disk_node.clone()];
                let told = Bounds {
                    phase: Phase::Partition,
                    there,
                    new: new.clone(),
                    programs: Some(&programs),
                    devices: &[],
                }
                .judge(steps)?;
                if !steps.iter().any(|step| step.destroys.contains(disk_node)) {
                    return Err(format!("no step says that it destroys {disk_node}; add .destroying"));
                }
                let lost = new.iter().find(|node| !steps.iter().any(|step| step.provides.contains(node)));
                lost.map_or(Ok(told), |lost| Err(format!("no step provides {lost}; nothing could be made on it")))
            });
        }
        if kind.is_some() {
            let small = fit(&wanted, disk(GIB / 2, 512));
            self.ask(
                format!("fit of {label} to a disk that is too small"),
                "fit",
                &small,
                PLANS.refuses(),
                any::<DiskLayout>,
            );
        }
        self.odd_layouts(label, &wanted);
    }

    fn odd_layouts(&mut self, label: &str, wanted: &DiskLayout) {
        type Spoil = fn(&mut PartitionLayout);
        let spoils: [(&str, Spoil); 5] = [
            ("the number 0", |one| one.number = 0),
            ("a number that is there twice", |one| one.number = 2),
            ("a size of 0", |one| one.size = Some(Size(0))),
            ("the largest size", |one| one.size = Some(Size(u64::MAX))),
            ("the largest start", |one| one.start = Some(Size(u64::MAX - 1))),
        ];
        for (what, spoil) in spoils {
            let mut odd = wanted.clone();
            if let Some(first) = odd.partitions.first_mut() {
                spoil(first);
                self.odd(format!("{label} with {what}"), &odd, PLANS.refuses());
            }
        }
        for word in HOSTILE {
            let mut odd = wanted.clone();
            odd.id = Some(word.into());
            for one in &mut odd.partitions {
                (one.name, one.uuid, one.attributes) = (Some(word.into()), Some(word.into()), Some(word.into()));
                one.kind = word.into();
            }
            self.odd(format!("{label} with {} everywhere", shown(word)), &odd, PLANS);
        }
        for sector in [0, 1, 513, u32::MAX] {
            let request = fit(wanted, disk(8 * GIB, sector));
            self.ask(format!("fit of {label} to sectors of {sector}"), "fit", &request, PLANS, any::<DiskLayout>);
        }
    }

    fn odd(&mut self, what: String, odd: &DiskLayout, rules: Rules) {
        self.ask(format!("fit of {what}"), "fit", &fit(odd, disk(8 * GIB, 512)), rules, any::<DiskLayout>);
        let plan = PartitionerPlan { layout: odd.clone() };
        self.ask(format!("plan of {what}"), "plan", &plan, rules, any::<Vec<Step>>);
    }
}

fn judge_fit(wanted: &DiskLayout, fitted: &DiskLayout, size: u64) -> Result<String, String> {
    if (&fitted.node, &fitted.label) != (&wanted.node, &wanted.label) {
        return Err("it is another disk, or has another label, than the one asked for".into());
    }
    let mut ranges = Vec::new();
    for before in &wanted.partitions {
        let Some(after) = fitted.partitions.iter().find(|one| one.number == before.number && one.node == before.node)
        else {
            return Err(format!("the partition {} is lost", before.node));
        };
        let (Some(start), Some(length)) = (after.start, after.size) else {
            return Err(format!("the partition {} has no start or no size after fitting", before.node));
        };
        let end = start.0.checked_add(length.0).filter(|end| *end <= size);
        let Some(end) = end else { return Err(format!("the partition {} ends behind the disk", before.node)) };
        if before.size.is_some_and(|asked| length < asked) {
            return Err(format!("the partition {} became smaller than asked", before.node));
        }
        if before.size.is_none() && length.0 < size / 2 {
            return Err(format!("the open partition {} does not get what is left", before.node));
        }
        ranges.push((start.0, end));
    }
    ranges.sort_unstable();
    if ranges.windows(2).any(|pair| matches!(pair, [a, b] if a.1 > b.0)) {
        return Err("partitions overlap".into());
    }
    Ok(fitted
        .partitions
        .iter()
        .filter_map(|one| Some(format!("{} {}", one.node, one.size?)))
        .collect::<Vec<_>>()
        .join(", "))
}

fn disk(size: u64, sector_size: u32) -> BlockDevice {
    BlockDevice { name: NONSENSE.into(), path: NOWHERE.into(), size: Size(size), sector_size, ..BlockDevice::default() }
}

fn fit(layout: &DiskLayout, disk: BlockDevice) -> PartitionerFit {
    PartitionerFit { layout: layout.clone(), disk }
}

/// From JSON, as masters are: fields that a later version appends have their defaults.
fn layout(node: &NodeName, label: &str, partitions: &[serde_json::Value]) -> Option<DiskLayout> {
    let json = serde_json::json!({ "node": node, "label": label, "size": Size(8 * GIB), "partition": partitions });
    serde_json::from_value(json).ok()
}
