//! A mount table (proc(5)), and after it /proc/swaps: what is captured of a machine, what a disk is used for.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use systemimager_engine::capture::advice;
use systemimager_engine::capture::mount_table::{Backing, Question, decide};
use systemimager_engine::sys::block::{self, BlockDevice, Bus};
use systemimager_engine::sys::mountinfo::{self, MountInfo};
use systemimager_engine::sys::swaps;

use crate::seen;
use crate::support::parts;

pub fn target(data: &[u8]) {
    let all = parts(data);
    let swaps = all.get(1).copied().unwrap_or_default();
    let areas = swaps::parse(swaps);
    advice::swap_files(&areas, Path::new("/"));
    let mounts = match mountinfo::parse(all[0]) {
        Ok(mounts) => mounts,
        Err(error) => return seen::one_line(&error.to_string()),
    };
    let again = mountinfo::parse(&written(&mounts)).expect("what was read and is written can be read");
    assert_eq!(again, mounts);

    let served: BTreeSet<String> = ["ext4".to_owned(), "vfat".to_owned()].into();
    let backing = |mount: &MountInfo| match mount.device.1 % 4 {
        0 | 1 => Backing::Disk,
        2 => Backing::Removable,
        _ => Backing::Loop,
    };
    let sources = mounts.iter().map(|mount| mount.mount_point.as_path()).take(2);
    for source in [Path::new("/"), Path::new("/srv/tree")].into_iter().chain(sources) {
        let Ok(table) = decide(&Question { mounts: &mounts, source, served: &served, backing: &backing }) else {
            continue;
        };
        let told = table.taken.len() + table.left_out.len();
        assert!(told <= mounts.len() + 1, "{told} of {} mounts", mounts.len());
        for taken in &table.taken {
            assert!(taken.at.starts_with(source) && taken.inside.is_relative(), "{taken:?}");
            let whole_machine = source == Path::new("/");
            assert!(!whole_machine || served.contains(&taken.mount.fstype), "{taken:?}");
        }
    }
    for usage in block::uses(&disk(), &mounts, swaps) {
        seen::one_line(&usage.to_string());
    }
}

/// As the kernel writes it.
fn written(mounts: &[MountInfo]) -> Vec<u8> {
    let mut text = Vec::new();
    for mount in mounts {
        let list = |options: &[String]| match options {
            [] => ",".to_owned(),
            options => options.join(","),
        };
        let (major, minor) = mount.device;
        text.extend(format!("{} {} {major}:{minor} ", mount.id, mount.parent).bytes());
        let fields = [
            mount.root.as_os_str().as_bytes(),
            mount.mount_point.as_os_str().as_bytes(),
            list(&mount.options).as_bytes(),
            b"shared:1 -",
            mount.fstype.as_bytes(),
            mount.source.as_bytes(),
            list(&mount.super_options).as_bytes(),
        ]
        .map(|field| if field == b"shared:1 -" { field.to_vec() } else { escaped(field) });
        text.extend(fields.join(&b' '));
        text.push(b'\n');
    }
    text
}

fn escaped(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for byte in field {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => out.extend(format!("\\{byte:03o}").bytes()),
            byte => out.push(*byte),
        }
    }
    out
}

fn disk() -> BlockDevice {
    BlockDevice {
        name: "sda".into(),
        path: "/dev/sda".into(),
        device: (8, 0),
        size_bytes: 1 << 30,
        logical_sector_bytes: 512,
        removable: false,
        rotational: false,
        read_only: false,
        model: None,
        serial: None,
        wwn: None,
        bus: Bus::Ata,
        modaliases: Vec::new(),
        drivers: Vec::new(),
        partitions: Vec::new(),
        holders: Vec::new(),
        above: Vec::new(),
        by_path: Vec::new(),
    }
}
