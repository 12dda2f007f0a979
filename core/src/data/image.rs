//! What planning needs to know of an image, and how machines are made to boot.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::size::Size;
use super::{BytePath, Bytes, NodeName, Step};

/// A kernel of an image, with what it can drive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// Release, the name below /lib/modules.
    pub release: String,
    /// Path of the kernel, absolute in the image.
    pub path: BytePath,
    /// Path of its initramfs.
    #[serde(default)]
    pub initramfs: Option<BytePath>,
    /// Modules in the initramfs; absent: it could not be read.
    #[serde(default)]
    pub initramfs_modules: Option<Vec<String>>,
    /// Modules built into the kernel, by name, as its `modules.builtin` lists them. Those that it could load from below
    /// /lib/modules are not among them.
    #[serde(default)]
    pub builtin: Vec<String>,
    /// The kernel can load these file systems and drivers at all: `alias pattern` → module, storage drivers only.
    #[serde(default)]
    pub storage_aliases: Vec<(String, String)>,
    /// The modules directory is there.
    #[serde(default)]
    pub has_modules: bool,
    /// `storage_aliases` holds the patterns of drivers that are built in as well: a device without a match
    /// is one that this kernel does not drive. Kernels before 5.2 do not tell.
    #[serde(default)]
    pub builtin_aliases: bool,
    /// As `storage_aliases`, of drivers of wired network interfaces. Empty: nobody said.
    #[serde(default)]
    pub network_aliases: Vec<(String, String)>,
    /// File systems that the kernel mounts: `fs-xfs` → module `xfs`, built in or not. Empty: nobody said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filesystem_aliases: Vec<(String, String)>,
}

/// An entry of an image's /etc/fstab, fstab(5), with its escapes undone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FstabEntry {
    /// What is mounted, as it is written but without quotes: `UUID=…`, `/dev/sda1`, `tmpfs`, `server:/export`.
    pub spec: String,
    /// Where; `none` for swap.
    pub file: BytePath,
    /// Type: `ext4`, `swap`, `auto`; may be a list.
    pub fstype: String,
    /// Options, in order.
    #[serde(default)]
    pub options: Vec<String>,
}

/// What is known of an image without the image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// Its name.
    pub name: String,
    /// `x86_64`.
    pub arch: String,
    /// `ID`, `VERSION_ID`, … of os-release.
    #[serde(default)]
    pub os: BTreeMap<String, String>,
    /// Kernels, the newest first.
    #[serde(default)]
    pub kernels: Vec<Kernel>,
    /// What each boot loader plugin found, by its id; absent: not in the image. Some keys are for others. `ext2-incompat`,
    /// for plugins of file systems: the mask of incompatible features of ext2, ext3 and ext4 that it reads, as `0x163d6`.
    /// For updates, absolute paths, one a line, each with all below it: `reads`, what the loader is made from (a change
    /// there calls for `refresh`), and `writes`, what it keeps of its own on each machine (other there than in the image).
    #[serde(default)]
    pub bootloaders: BTreeMap<String, BTreeMap<String, String>>,
    /// What the identity plugins found: which tool configures the network, and the like.
    #[serde(default)]
    pub identity: BTreeMap<String, BTreeMap<String, String>>,
    /// Tools to rebuild an initramfs: `update-initramfs`, `dracut`, `mkinitcpio`; absent: none.
    #[serde(default)]
    pub initramfs_tool: Option<String>,
    /// SELinux is configured: the target is relabelled at first boot.
    #[serde(default)]
    pub selinux: bool,
    /// Bytes that its files take.
    #[serde(default)]
    pub bytes: Size,
    /// Files, directories and links.
    #[serde(default)]
    pub inodes: u64,
    /// Which tree of the image server this was read from: device and inode as text. It is another one after the image
    /// was captured anew; empty: nobody said.
    #[serde(default)]
    pub tree: String,
    /// Something that the kernel can start as the first process is there.
    #[serde(default)]
    pub has_init: bool,
    /// /etc/fstab is there.
    #[serde(default)]
    pub has_fstab: bool,
    /// Its entries, in order.
    #[serde(default)]
    pub fstab: Vec<FstabEntry>,
    /// Its list of what an update leaves alone on machines (/etc/systemimager/update.exclude), as it is; absent: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_exclude: Option<Bytes>,
    /// What each file system plugin found of its tools, by its id; absent: it did not look.
    #[serde(default)]
    pub filesystems: BTreeMap<String, BTreeMap<String, String>>,
}

/// Something a machine can boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootEntry {
    /// Name, unique among the entries: `autoinstall`.
    pub name: String,
    /// What a menu shows.
    pub title: String,
    /// Kernel: a path below the boot target's root; absent: boot the local disk.
    #[serde(default)]
    pub kernel: Option<String>,
    /// Initrd.
    #[serde(default)]
    pub initrd: Option<String>,
    /// Kernel command line.
    #[serde(default)]
    pub command_line: String,
}

/// What is to be made bootable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "target")]
pub enum BootTarget {
    /// The installed system on its disks.
    Disk {
        /// Nodes of the disks that get boot code.
        disks: Vec<NodeName>,
        /// Firmware: `bios` or `uefi`.
        firmware: String,
        /// What is known of the image.
        image: Box<ImageFacts>,
        /// Modules that the initramfs lacks for this machine's disks: it is rebuilt with them.
        missing_modules: Vec<String>,
    },
    /// Network boot: files below a TFTP root. Steps write there; `path`s are absolute with it as root.
    Network {
        /// Address of the image server.
        server: String,
        /// HTTP port of the image server, for loaders that fetch by HTTP.
        http_port: u16,
        /// The machine this is for (MAC); absent: all that have nothing of their own.
        #[serde(default)]
        mac: Option<String>,
    },
    /// A medium: files below its root, which are written first, then programs that make it boot. The node `medium` is all
    /// of it, a device or a file.
    ///
    /// - `usb`: the medium has a partition table of the kind dos with one active partition, in which a FAT file system
    ///   begins 1 MiB (1048576 bytes) into the medium. Programs run when the files lie in it.
    /// - `cd`: programs make the node `medium`, a file, out of the target, a directory with the files. It also has a file
    ///   `/efi.img`, a FAT image with the same files in it, for UEFI firmware (El Torito).
    Media {
        /// `usb` or `cd`.
        kind: String,
    },
}

/// A file that firmware of some kind asks for first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootFile {
    /// Client architecture as of RFC 4578 (0 is BIOS, 7 and 9 are x86-64 UEFI).
    pub client_arch: u16,
    /// Name below the TFTP root.
    pub name: String,
}

/// How a boot target is made to boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootPlan {
    /// What to do.
    pub steps: Vec<Step>,
    /// For a network target: what DHCP names as the boot file.
    #[serde(default)]
    pub boot_files: Vec<BootFile>,
}
