//! ext2, ext3 and ext4: described with dumpe2fs(8), made with mke2fs(8), mounted by type.
//!
//! A file system is made with exactly the features it was captured with, or, where a master names none, with those that
//! the image's own e2fsck and boot loader read; never with what the installer's mke2fs finds good: an older GRUB cannot
//! read a newer default. It must not look at any other type.

mod describe;
mod features;
mod limits;
mod make;
mod mount;
mod options;

use std::collections::BTreeMap;

use systemimager_core::contract::{
    FileSystem, FileSystemDescribe, FileSystemDetect, FileSystemFacts, FileSystemMake, FileSystemMount, FileSystemType,
};
use systemimager_core::{Host, Needs, PluginError, Program, Result, Role, Step, declare_plugin};

/// The plugin.
pub struct Ext2;

declare_plugin! {
    kind: FileSystem,
    id: ext2,
    about: "ext2, ext3 and ext4",
    make: Ext2,
}

/// The id under which the facts of [`Ext2`] stand in [`systemimager_core::ImageFacts::filesystems`].
const ID: &str = "ext2";

const TYPES: [&str; 3] = ["ext2", "ext3", "ext4"];

impl FileSystem for Ext2 {
    fn types(&self, _: &dyn Host, (): ()) -> Result<Vec<FileSystemType>> {
        Ok(TYPES.into_iter().map(|name| FileSystemType { name: name.into(), mountable: true }).collect())
    }

    fn needs(&self, _: &dyn Host, role: Role) -> Result<Needs> {
        let program = |name| Program::new(name, "e2fsprogs").probed(&["-V"]);
        Ok(match role {
            Role::MasterClient => Needs { programs: vec![program("dumpe2fs")], ..Needs::default() },
            Role::Installer => Needs {
                programs: vec![program("mke2fs")],
                // Serves ext2 and ext3 too. It asks the kernel for crc32c by name when it mounts, which no
                // dependency shows: without crc32c_generic the mount fails.
                modules: vec!["ext4".into(), "crc32c_generic".into()],
                files: vec!["/etc/mke2fs.conf".into()],
                ..Needs::default()
            },
            Role::Server | Role::InstalledClient => Needs::default(),
        })
    }

    fn describe(&self, host: &dyn Host, request: FileSystemDescribe) -> Result<FileSystemFacts> {
        served(&request.fstype)?;
        describe::describe(host, &request)
    }

    fn plan_make(&self, _: &dyn Host, request: FileSystemMake) -> Result<Vec<Step>> {
        served(&request.filesystem.kind)?;
        make::plan(&request.filesystem, &limits::Readers::of(&request, ID))
    }

    fn plan_mount(&self, _: &dyn Host, request: FileSystemMount) -> Result<Vec<Step>> {
        served(&request.filesystem.kind)?;
        mount::plan(&request.filesystem, &request.mount)
    }

    fn detect(&self, host: &dyn Host, request: FileSystemDetect) -> Result<BTreeMap<String, String>> {
        limits::detect(host, &request.place)
    }
}

fn served(kind: &str) -> Result<()> {
    if TYPES.contains(&kind) {
        return Ok(());
    }
    Err(PluginError::unsupported(format!("{kind} is not one of {}; it needs a plugin of its own", TYPES.join(", "))))
}
