//! What a machine is made of, as its agent found it. Posted to the server, kept as a file, given to `plan`.

use serde::{Deserialize, Serialize};

use super::size::Size;
use super::{BytePath, Lease};

/// What stands on a disk or partition, by the mark that it left there: a file system, swap, a part of an array or
/// volume group, a partition table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// As libblkid names it: `ext4`, `swap`, `linux_raid_member`, `LVM2_member`, `crypto_LUKS`, `gpt`.
    pub kind: String,
    /// Its UUID (of an md member: the array's), or empty.
    #[serde(default)]
    pub uuid: String,
    /// Its label, or empty.
    #[serde(default)]
    pub label: String,
    /// What it is a part of, where that may lie on other disks too, in the same words on each of them: `the volume
    /// group vg0 (67ZhLr-…)`. Empty for what stands alone.
    #[serde(default)]
    pub part_of: String,
}

/// A device that the kernel has made of disks or partitions: an md array, an LVM volume, an opened LUKS container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Kernel name, `dm-0`.
    pub name: String,
    /// What people call it, `vg0-root`, or the kernel name.
    pub title: String,
    /// Kernel names of the disks and partitions at the bottom of it.
    #[serde(default)]
    pub on: Vec<String>,
}

/// A partition that was found on a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionInfo {
    /// Kernel name, `sda1`.
    pub name: String,
    /// Number.
    pub number: u32,
    /// Offset on the disk.
    pub start: Size,
    /// Size.
    pub size: Size,
    /// What stands on it.
    #[serde(default)]
    pub signatures: Vec<Signature>,
    /// Its type in the table: a GUID in small letters for gpt, hexadecimal without 0x for dos.
    #[serde(default)]
    pub kind: String,
    /// Its UUID in a gpt table.
    #[serde(default)]
    pub uuid: String,
    /// Its name in a gpt table.
    #[serde(default)]
    pub label: String,
    /// Its flags in the table: the attribute bits of gpt; 0x80 for the active one of dos.
    #[serde(default)]
    pub flags: u64,
}

/// A disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockDevice {
    /// Kernel name, `sda`.
    pub name: String,
    /// Device, `/dev/sda`.
    pub path: BytePath,
    /// Size.
    pub size: Size,
    /// Bytes of a logical sector.
    pub sector_size: u32,
    /// Can be taken out.
    pub removable: bool,
    /// Cannot be written.
    pub read_only: bool,
    /// Spins (or says so).
    pub rotational: bool,
    /// Model, trimmed.
    #[serde(default)]
    pub model: String,
    /// Serial number, trimmed.
    #[serde(default)]
    pub serial: String,
    /// World wide name.
    #[serde(default)]
    pub wwn: String,
    /// `usb`, `ata`, `scsi`, `virtio`, `nvme`, `mmc`, or empty.
    #[serde(default)]
    pub bus: String,
    /// Path of the device in sysfs below /sys/devices: orders disks the same at each boot.
    #[serde(default)]
    pub sysfs: String,
    /// modaliases of the device and all it hangs on: what drivers the kernel needs to see it.
    #[serde(default)]
    pub modaliases: Vec<String>,
    /// Kernel modules that drive it and what it hangs on, in the kernel that looked (built-in ones have no name here).
    #[serde(default)]
    pub drivers: Vec<String>,
    /// Partitions found on it.
    #[serde(default)]
    pub partitions: Vec<PartitionInfo>,
    /// Where it, a partition of it or what is made of them is mounted.
    #[serde(default)]
    pub in_use: Vec<String>,
    /// Names that udev gives it below /dev/disk/by-path, as far as they can be told from sysfs.
    #[serde(default)]
    pub by_path: Vec<String>,
    /// Devices that are made of it or of its partitions, the uppermost first.
    #[serde(default)]
    pub holders: Vec<Holder>,
    /// It was looked at: `table`, `table_id` and all `signatures` say what stands on it, and `kind`, `uuid`, `label` and
    /// `flags` what its table says of each partition. Otherwise that is unknown.
    #[serde(default)]
    pub looked_at: bool,
    /// What stands on the whole disk besides a partition table.
    #[serde(default)]
    pub signatures: Vec<Signature>,
    /// Its partition table, `gpt` or `dos`; empty: none, or one of another make.
    #[serde(default)]
    pub table: String,
    /// Identifier of that table as layouts have it (GUID, or 0x… of MBR).
    #[serde(default)]
    pub table_id: String,
}

/// A network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkInterface {
    /// Kernel name.
    pub name: String,
    /// MAC address, lower case with colons.
    pub mac: String,
    /// A carrier is there.
    pub link: bool,
    /// modaliases of the device and all it hangs on.
    #[serde(default)]
    pub modaliases: Vec<String>,
}

/// A machine's hardware.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// `x86_64`.
    pub arch: String,
    /// `bios` or `uefi`.
    pub firmware: String,
    /// The firmware's boot entries can be written (efivarfs).
    #[serde(default)]
    pub efivars: bool,
    /// Bytes of memory.
    pub memory: Size,
    /// Disks, ordered by their place on the buses.
    pub disks: Vec<BlockDevice>,
    /// Network interfaces with a MAC address.
    pub interfaces: Vec<NetworkInterface>,
    /// DMI facts (`product_name`, `product_serial`, …).
    #[serde(default)]
    pub dmi: std::collections::BTreeMap<String, String>,
    /// All modaliases of the machine.
    #[serde(default)]
    pub modaliases: Vec<String>,
    /// What DHCP told the machine on the interface it booted from, so that its plan can be made elsewhere.
    #[serde(default)]
    pub lease: Option<Lease>,
}
