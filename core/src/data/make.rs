//! Constructors for what plugins make: a field that a later version appends has its default in them, so that a
//! plugin's source builds against any version of the same major.

use std::collections::BTreeMap;

use super::{
    BytePath, DiskLayout, DiskRule, FileSystemLayout, HostName, Identity, MountLayout, NetworkSettings, NodeName,
    PartitionLayout, Size,
};

impl DiskLayout {
    /// A disk with an empty table of this label; `sector_size` in bytes.
    pub fn new(node: NodeName, label: impl Into<String>, size: Size, sector_size: u32) -> Self {
        let (rule, partitions) = (DiskRule::default(), Vec::new());
        Self { node, label: label.into(), id: None, size, sector_size, rule, partitions }
    }
}

impl PartitionLayout {
    /// A partition of this type that leaves everything else open.
    pub fn new(node: NodeName, number: u32, kind: impl Into<String>) -> Self {
        Self {
            node,
            number,
            start: None,
            size: None,
            min_size: None,
            kind: kind.into(),
            name: None,
            uuid: None,
            attributes: None,
            bootable: false,
            preserve: false,
            preserve_label: None,
        }
    }
}

impl FileSystemLayout {
    /// A file system of this type on a node, without UUID, label or options.
    pub fn new(node: NodeName, on: NodeName, kind: impl Into<String>) -> Self {
        let options = BTreeMap::new();
        Self { node, on, kind: kind.into(), uuid: None, new_uuid: false, label: None, options }
    }
}

impl MountLayout {
    /// A mount without options.
    pub fn new(node: NodeName, at: impl Into<BytePath>) -> Self {
        Self { node, at: at.into(), options: String::new(), subvolume: None }
    }
}

impl Identity {
    /// A machine of this name; `found_in` says for people where the name was found.
    pub fn new(name: HostName, network: NetworkSettings, found_in: impl Into<String>) -> Self {
        Self { name, image: None, network, found_in: found_in.into() }
    }
}
