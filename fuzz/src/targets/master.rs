//! Master files, and layouts as `prepareclient --layout` reads them.

use std::path::Path;

use systemimager_core::Layout;
use systemimager_engine::store::master_text::{check_plugins, parse, render};

use crate::seen;
use crate::support::with_registry;

pub fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(layout) = toml::from_str::<Layout>(text) {
        looked_at(&layout);
    }
    let file = Path::new("/tftpboot/systemimager/host.sh");
    let master = match parse(file, text) {
        Ok(master) => master,
        Err(error) => return seen::lines(&format!("{error:#}")),
    };
    looked_at(&master.layout);
    assert!(master.layout.check().is_ok());
    let written = render(&master);
    let again = parse(file, &written).unwrap_or_else(|error| panic!("{error:#}\n{written}"));
    assert_eq!(again, master, "{written}");
    let faults = with_registry(|registry| check_plugins(&master, registry, file, text));
    faults.iter().for_each(|fault| seen::lines(fault));
}

/// Also of a layout that is refused: its faults are told after all of it was looked at.
fn looked_at(layout: &Layout) {
    for error in layout.check().err().into_iter().flatten() {
        seen::one_line(&error.to_string());
    }
    let disks = layout
        .disks
        .iter()
        .flat_map(|disk| std::iter::once(&disk.node).chain(disk.partitions.iter().map(|partition| &partition.node)));
    let volumes = layout.volumes.iter().map(|volume| &volume.node);
    for node in disks.chain(volumes).chain(layout.filesystems.iter().map(|fs| &fs.node)) {
        let disk = layout.disk_of(node);
        assert!(disk.is_none_or(|disk| layout.disks.contains(disk)));
    }
    assert_eq!(layout.mounts_in_order().len(), layout.mounts.len());
    layout.mounted_at("/");
}
