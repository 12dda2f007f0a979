//! Files of an image, each a part that begins with a line of its path: what the plugins find in it, and the steps that
//! are made of that.

use std::collections::{BTreeMap, BTreeSet};

use boot_grub::Grub;
use boot_lilo::Lilo;
use fs_ext2::Ext2;
use identity_hosts::Hosts;
use systemimager_core::contract::{
    BootOnce, BootloaderDetect, BootloaderPlan, BootloaderRefresh, FileSystemDetect, FileSystemMake, IdentityDetect,
};
use systemimager_core::testing::RecordedHost;
use systemimager_core::{
    BlockDevice, BootEntry, BootTarget, Booted, BootedMount, Bootloader, BytePath, Bytes, DiskLayout, FileSystem as _,
    FileSystemLayout, HostIdentity as _, ImageFacts, Kernel, Layout, MountLayout, Place, Size,
};

use crate::seen;
use crate::support::{node, parts, somebody};
use crate::targets::identity::planned;

pub fn target(data: &[u8]) {
    let mut host = RecordedHost::new();
    for part in parts(data) {
        let at = part.iter().position(|byte| *byte == b'\n').unwrap_or(part.len());
        let (path, contents) = part.split_at(at);
        // A tree holds no other names.
        let real = path.starts_with(b"/") && !path.contains(&0) && !path.ends_with(b"/");
        if real && path.split(|byte| *byte == b'/').all(|name| name != b".." && name != b".") {
            let contents = contents.strip_prefix(b"\n").unwrap_or(contents);
            host.files.insert(BytePath::new(path), Bytes(contents.to_vec()));
        }
    }
    let place = Place::Tree { root: "/image".into() };
    match Hosts.detect(&host, IdentityDetect { place: place.clone() }) {
        Ok(found) => planned(&host, &somebody(), &found),
        Err(error) => seen::lines(&error.message),
    }
    let readers = Ext2.detect(&host, FileSystemDetect { place: place.clone() }).unwrap_or_default();
    let mut boots = BTreeMap::new();
    let loaders: [(&str, &dyn Bootloader); 2] = [("grub", &Grub), ("lilo", &Lilo)];
    for (id, loader) in loaders {
        match loader.detect(&host, BootloaderDetect { place: place.clone() }) {
            Ok(found) => boots.extend(found.map(|found| (id.to_owned(), found))),
            Err(error) => return seen::lines(&error.message),
        }
    }
    let kernel =
        Kernel { release: "6.1.0".into(), initramfs: Some("/boot/initrd.img-6.1.0".into()), ..Kernel::default() };
    let image = ImageFacts {
        name: "web".into(),
        bootloaders: boots,
        filesystems: [("ext2".to_owned(), readers)].into(),
        kernels: vec![kernel],
        initramfs_tool: Some("update-initramfs".into()),
        ..ImageFacts::default()
    };
    let target = BootTarget::Disk {
        disks: vec![node("disk0")],
        firmware: "bios".into(),
        image: Box::new(image.clone()),
        missing_modules: vec!["ahci".into()],
    };
    let device = BlockDevice { name: "vda".into(), path: "/dev/vda".into(), ..BlockDevice::default() };
    let disk = DiskLayout::new(node("disk0"), "none", Size(1 << 30), 512);
    let layout = Layout {
        disks: vec![disk],
        filesystems: vec![FileSystemLayout::new(node("root"), node("disk0"), "ext2")],
        mounts: vec![MountLayout::new(node("root"), "/")],
        ..Layout::default()
    };
    let mut booted = Booted { firmware: "bios".into(), disks: vec![device.clone()], ..Booted::new(place) };
    booted.mounts = vec![BootedMount { at: "/".into(), device: "/dev/vda".into(), ..BootedMount::default() }];
    let request = BootloaderPlan {
        layout: Some(layout),
        devices: BTreeMap::from([(node("disk0"), device)]),
        ..BootloaderPlan::new(target)
    };
    let entry = BootEntry { name: "again".into(), kernel: Some("/boot/kernel".into()), ..BootEntry::default() };
    for (_, loader) in loaders {
        match loader.plan(&host, request.clone()) {
            Ok(plan) => seen::steps(&plan.steps, &BTreeSet::from([node("disk0")])),
            Err(error) => seen::lines(&error.message),
        }
        let once = BootOnce { entry: entry.clone(), persistent: false, booted: Some(booted.clone()) };
        let refresh = BootloaderRefresh {
            image: image.clone(),
            missing_modules: Vec::new(),
            booted: Some(booted.clone()),
            changed: None,
        };
        for steps in [loader.boot_once(&host, once), loader.refresh(&host, refresh)] {
            match steps {
                Ok(steps) => seen::steps(&steps, &BTreeSet::new()),
                Err(error) => seen::lines(&error.message),
            }
        }
    }
    let filesystem = FileSystemLayout::new(node("root"), node("disk0p1"), "ext4");
    let request = FileSystemMake { filesystem, image, boot_loader: Some("grub".into()), size: None };
    match Ext2.plan_make(&host, request) {
        Ok(steps) => seen::steps(&steps, &BTreeSet::from([node("disk0p1")])),
        Err(error) => seen::lines(&error.message),
    }
}
