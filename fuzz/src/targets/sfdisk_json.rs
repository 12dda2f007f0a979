//! What `sfdisk --json` prints of a disk that anybody may have written: a layout, fitted to other disks, and the script
//! that is made of it.

use std::collections::BTreeSet;

use part_sfdisk::Sfdisk;
use systemimager_core::contract::{PartitionerCapture, PartitionerFit, PartitionerPlan};
use systemimager_core::{Action, BlockDevice, DiskLayout, NodeName, Partitioner as _, Size};

use crate::seen;
use crate::support::{Same, node};

pub fn target(data: &[u8]) {
    let host = Same { bytes: data.to_vec() };
    let request = PartitionerCapture { disk: disk(8 << 30, 512), node: node("disk0") };
    let layout = match Sfdisk.capture(&host, request) {
        Ok(layout) => layout,
        Err(error) => return seen::lines(&error.message),
    };
    let json = serde_json::to_vec(&layout).expect("JSON");
    assert_eq!(serde_json::from_slice::<DiskLayout>(&json).expect("read again"), layout);
    planned(&host, &layout);
    for (size, sector) in [(8 << 30, 512), (64 << 30, 512), (1 << 30, 512), (8 << 30, 4096), (3 << 40, 512)] {
        let mut layout = layout.clone();
        for open in [false, true] {
            if let Some(last) = layout.partitions.last_mut().filter(|_| open) {
                last.size = None;
            }
            let request = PartitionerFit { layout: layout.clone(), disk: disk(size, sector) };
            if let Ok(fitted) = Sfdisk.fit(&host, request) {
                within(&fitted, size);
                assert!(planned(&host, &fitted), "what was fitted can be planned");
            }
        }
    }
}

/// Whether there is a plan; if so it touches this disk alone, in as many lines as it has partitions.
fn planned(host: &Same, layout: &DiskLayout) -> bool {
    let Ok(steps) = Sfdisk.plan(host, PartitionerPlan { layout: layout.clone() }) else { return false };
    let own: BTreeSet<NodeName> =
        layout.partitions.iter().map(|it| it.node.clone()).chain([layout.node.clone()]).collect();
    seen::steps(&steps, &own);
    for step in &steps {
        if let Action::Run { stdin: Some(script), .. } = &step.action {
            let (head, body) = script.split_once("\n\n").expect("a head and a body");
            assert!(head.lines().count() <= 4, "{script}");
            assert_eq!(body.lines().count(), layout.partitions.len(), "{script}");
        }
    }
    true
}

fn within(layout: &DiskLayout, disk: u64) {
    for partition in &layout.partitions {
        let (start, size) = (partition.start.expect("a start").0, partition.size.expect("a size").0);
        assert!(size > 0 && start.checked_add(size).is_some_and(|end| end <= disk), "{partition:?}");
    }
}

fn disk(size: u64, sector_size: u32) -> BlockDevice {
    BlockDevice { name: "sda".into(), path: "/dev/sda".into(), size: Size(size), sector_size, ..BlockDevice::default() }
}
