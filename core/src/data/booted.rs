//! What a system that is installed already boots from: what a boot loader has to know to plan on it.

use serde::{Deserialize, Serialize};

use super::{BlockDevice, BytePath, Place};

/// A file system of such a system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootedMount {
    /// Where it is mounted, absolute in the system's own tree: `/boot`.
    pub at: BytePath,
    /// The device it is on: `/dev/sda1`, `/dev/mapper/vg0-root`; empty for those without one.
    pub device: BytePath,
    /// Type, as in mount(8).
    pub fstype: String,
    /// UUID as in fstab; empty: none, or it could not be read.
    #[serde(default)]
    pub uuid: String,
    /// What the device is made of, if it is neither disk nor partition: `LVM (vg0-root)`, `md (md0)`.
    #[serde(default)]
    pub made_of: String,
}

/// An installed system, running or mounted as a tree, and the machine that it boots on. Steps for it name devices, since
/// they are carried out at once, where they were planned; no others than stand here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Booted {
    /// Where it is.
    pub place: Place,
    /// Firmware of the machine: `bios` or `uefi`; empty: nobody said.
    #[serde(default)]
    pub firmware: String,
    /// The firmware's boot entries can be written (efivarfs).
    #[serde(default)]
    pub efivars: bool,
    /// The disks below the file system that holds /boot: they hold boot code.
    #[serde(default)]
    pub disks: Vec<BlockDevice>,
    /// Its mounted file systems, `/` first.
    #[serde(default)]
    pub mounts: Vec<BootedMount>,
}

impl Booted {
    /// A system of which nothing else is known.
    pub fn new(place: Place) -> Self {
        Self { place, firmware: String::new(), efivars: false, disks: Vec::new(), mounts: Vec::new() }
    }

    /// The file system that a path of the system lies on.
    pub fn mount_of(&self, path: &str) -> Option<&BootedMount> {
        let holds = |mount: &&BootedMount| {
            let at = mount.at.as_bytes();
            let at = at.strip_suffix(b"/").unwrap_or(at);
            path.as_bytes().strip_prefix(at).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        // Of two on one directory the later hides the earlier.
        self.mounts.iter().filter(holds).max_by_key(|mount| mount.at.as_bytes().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_lies_on_the_deepest_mount() {
        let mount = |at: &str| BootedMount { at: at.into(), ..BootedMount::default() };
        let booted = Booted { mounts: ["/", "/boot", "/boot/efi"].map(mount).into(), ..Booted::new(Place::Running) };
        for (path, at) in [
            ("/", "/"),
            ("/etc", "/"),
            ("/bootx", "/"),
            ("/boot", "/boot"),
            ("/boot/grub", "/boot"),
            ("/boot/efi/EFI", "/boot/efi"),
        ] {
            assert_eq!(booted.mount_of(path).map(|mount| mount.at.to_string()).as_deref(), Some(at), "{path}");
        }
        assert_eq!(Booted::new(Place::Running).mount_of("/"), None);
    }
}
