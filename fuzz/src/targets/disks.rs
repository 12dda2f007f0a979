//! A machine's hardware as it reports it, against the rules by which a master names disks.

use systemimager_core::{DiskLayout, Hardware, Layout, Size};
use systemimager_engine::plan;

use crate::support::{node, texts};

pub fn target(data: &[u8]) {
    let Some(all) = texts(data) else { return };
    let Ok(hardware) = serde_json::from_str::<Hardware>(all[0]) else { return };
    let json = serde_json::to_string(&hardware).expect("JSON");
    assert_eq!(serde_json::from_str::<Hardware>(&json).expect("read again"), hardware);
    let mut layout = Layout::default();
    for (index, rule) in all.iter().skip(1).take(8).enumerate() {
        let Ok(rule) = toml::from_str(rule) else { continue };
        let disk = DiskLayout::new(node(&format!("disk{index}")), "gpt", Size(1 << 30), 512);
        layout.disks.push(DiskLayout { rule, ..disk });
    }
    plan::enough(&layout, &hardware.disks);
    for disk in &hardware.disks {
        let order = systemimager_engine::hardware::bus_order(&disk.sysfs);
        assert!(order.len() <= disk.sysfs.len() + 1);
    }
}
