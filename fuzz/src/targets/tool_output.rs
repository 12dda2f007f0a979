//! What programs print and the kernel's tables say, each tried with all bytes: wipefs, dumpe2fs, blkid, /proc/net,
//! /proc/meminfo, and edits of a text file.

use std::collections::BTreeSet;

use fs_ext2::Ext2;
use fs_swap::Swap;
use systemimager_core::contract::{FileSystemDescribe, FileSystemMake};
use systemimager_core::{FileSystem, FileSystemLayout, ImageFacts};
use systemimager_engine::fuzzing::{peers, signatures};
use systemimager_engine::sys::ports::{Protocol, sockets};
use systemimager_engine::tree::edit::{set_block, set_line};
use systemimager_initrd::fuzzing::memory;

use crate::seen;
use crate::support::{Same, node};

pub fn target(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for mark in signatures(&text).unwrap_or_default() {
        let _ = mark.is_table();
    }
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        assert!(sockets(&text, protocol).len() <= text.lines().count());
    }
    peers(&text, 873);
    memory(&text);
    described(&Ext2, "ext4", data);
    described(&Swap, "swap", data);

    let line = set_line(data, "key=", "key=value");
    assert_eq!(set_line(&line, "key=", "key=value"), line, "twice is the same as once");
    assert_eq!(line.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"key=")).count(), 1);
    let block = set_block(data, "# begin", "# end", "a\nb\n");
    assert_eq!(set_block(&block, "# begin", "# end", "a\nb\n"), block, "twice is the same as once");
}

/// What describes a file system is of use to make it again, here and in a master file.
fn described(plugin: &dyn FileSystem, kind: &str, output: &[u8]) {
    let host = Same { bytes: output.to_vec() };
    let request = FileSystemDescribe { device: "/dev/sda1".into(), fstype: kind.into() };
    let found = match plugin.describe(&host, request) {
        Ok(found) => found,
        Err(error) => return seen::lines(&error.message),
    };
    let filesystem = FileSystemLayout {
        uuid: found.uuid,
        label: found.label,
        options: found.options,
        ..FileSystemLayout::new(node("root"), node("disk0p1"), kind)
    };
    let request = FileSystemMake { filesystem, image: ImageFacts::default(), boot_loader: None, size: None };
    match plugin.plan_make(&host, request) {
        Ok(steps) => seen::steps(&steps, &BTreeSet::from([node("disk0p1")])),
        Err(error) => seen::lines(&error.message),
    }
}
