//! FileSystem: how a file system is described, made and mounted.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::data::{BytePath, FileSystemLayout, ImageFacts, MountLayout, Needs, Place, Role, Size, Step};

/// A type that a plugin serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystemType {
    /// As in mount(8) and fstab: `ext4`, `swap`.
    pub name: String,
    /// It holds files and can be mounted (swap cannot).
    pub mountable: bool,
}

/// A file system that exists, to be described.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystemDescribe {
    /// The device it is on.
    pub device: BytePath,
    /// Its type.
    pub fstype: String,
}

/// What is found of a file system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystemFacts {
    /// UUID, as in fstab.
    pub uuid: Option<String>,
    /// Label, if it has one.
    pub label: Option<String>,
    /// What has to be given again when it is made anew ([`FileSystemLayout::options`]).
    pub options: BTreeMap<String, String>,
}

/// A file system to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystemMake {
    /// What it is to be; `on` names the node it is made on.
    pub filesystem: FileSystemLayout,
    /// The image whose tools and boot loader will have to read it.
    pub image: ImageFacts,
    /// The boot loader that reads it before any kernel does, by its id in [`ImageFacts::bootloaders`]: it holds the
    /// kernel. Absent: none reads it, or nobody said.
    #[serde(default)]
    pub boot_loader: Option<String>,
    /// How large `filesystem.on` is on this machine, in bytes: its partition as the partitioner fitted it. Absent:
    /// nobody knows yet, or the program is older than this field.
    #[serde(default)]
    pub size: Option<Size>,
}

/// A tree in which the tools of a file system are looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystemDetect {
    /// Where.
    pub place: Place,
}

/// Mounts of one file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystemMount {
    /// The file system.
    pub filesystem: FileSystemLayout,
    /// The mount.
    pub mount: MountLayout,
}

crate::contract::macros::contract! {
    /// Describes, makes and mounts file systems of the types it serves.
    pub trait FileSystem, remote RemoteFileSystem, dispatch dispatch_filesystem;
    required {
        /// The types it serves.
        fn types(()) -> Vec<FileSystemType>;
        /// What it needs on a machine in this role.
        fn needs(Role) -> Needs;
        /// Describes a file system that exists (it may be mounted).
        ///
        /// # Errors
        /// `Unsupported` for a type it does not serve, `Missing`, `Failed`.
        fn describe(FileSystemDescribe) -> FileSystemFacts;
        /// Steps that make the file system on its node. They destroy `filesystem.on` and provide
        /// `filesystem.node`. Pure.
        ///
        /// # Errors
        /// `Invalid` for options, a label or a UUID that the type cannot have.
        fn plan_make(FileSystemMake) -> Vec<Step>;
        /// Steps that mount it below the target; none for what is not mounted (swap). Pure.
        fn plan_mount(FileSystemMount) -> Vec<Step>;
    }
    optional {
        /// Looks at a tree: which versions of its tools it has, and what else `plan_make` wants to know.
        /// The facts go into [`ImageFacts::filesystems`].
        fn detect(FileSystemDetect) -> BTreeMap<String, String>;
    }
}
