//! Whether an image can drive a machine's disks and network interfaces: its kernel's aliases and its
//! initramfs, held against what drives them in the miniature system. Pure.

use std::collections::BTreeSet;

use systemimager_core::{BlockDevice, Kernel, NetworkInterface};

use crate::sys::modules::Aliases;

/// How an image stands to the drivers that a disk needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fit {
    /// Modules that exist in the image but not in its initramfs.
    pub missing: BTreeSet<String>,
    /// Drivers (or modaliases of controllers, where no driver is known) that the image's kernel has in no form.
    pub absent: BTreeSet<String>,
    /// Drivers or devices of which the image does not tell whether its kernel has them.
    pub unknown: BTreeSet<String>,
}

/// Looks at one disk. The drivers bound to it count where they are known; else every module that the
/// image's kernel would load for its devices.
///
/// A driver may be built into the image's kernel without a word of it, so a disk is only called
/// undriven where that is certain: a bound driver that is neither a module nor built in; or, where
/// none is known, a storage controller (by its class) that no pattern fits, of a kernel whose built-in
/// drivers tell their patterns too. That no pattern fits a bridge on the way to it means nothing. All else
/// that fits nothing is [`Fit::unknown`].
pub fn fit(kernel: &Kernel, disk: &BlockDevice) -> Fit {
    let in_initramfs: BTreeSet<String> =
        kernel.initramfs_modules.iter().flatten().chain(&kernel.builtin).map(|name| canonical(name)).collect();
    let exist: BTreeSet<String> = kernel.storage_aliases.iter().map(|(_, module)| canonical(module)).collect();
    let aliases = parsed(&kernel.storage_aliases);
    let by_alias = |alias: &String| aliases.modules_for(alias).into_iter().map(|it| canonical(&it)).collect::<Vec<_>>();
    let mut fit = Fit::default();
    if disk.drivers.is_empty() {
        let tells_all = kernel.builtin_aliases && kernel.has_modules;
        let mut driven = false;
        for alias in &disk.modaliases {
            let modules = by_alias(alias);
            if modules.is_empty() && is_controller(alias) {
                if tells_all { &mut fit.absent } else { &mut fit.unknown }.insert(alias.clone());
            }
            driven |= !modules.is_empty();
            fit.missing.extend(modules.into_iter().filter(|module| !in_initramfs.contains(module)));
        }
        if !driven && fit.absent.is_empty() && fit.unknown.is_empty() {
            fit.unknown.insert(disk.modaliases.first().cloned().unwrap_or_else(|| "its drivers".into()));
        }
        return fit;
    }
    let tells_nothing = kernel.storage_aliases.is_empty() && kernel.builtin.is_empty();
    for driver in disk.drivers.iter().map(|name| canonical(name)) {
        if in_initramfs.contains(&driver) {
            continue;
        }
        if exist.contains(&driver) {
            fit.missing.insert(driver);
            continue;
        }
        // Another kernel may drive the same device by another module.
        let others: Vec<String> = disk.modaliases.iter().flat_map(by_alias).collect();
        match others.iter().find(|it| in_initramfs.contains(*it)).or(others.first()) {
            Some(other) if in_initramfs.contains(other) => {}
            Some(other) => {
                fit.missing.insert(other.clone());
            }
            // A kernel without a modules directory may have everything built in.
            None if tells_nothing => {
                fit.unknown.insert(driver);
            }
            None => {
                fit.absent.insert(driver);
            }
        }
    }
    fit
}

/// How an image's kernel stands to a network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkFit {
    /// It has a driver, as a module or built in. The initramfs need not have it.
    Driven,
    /// It has none; the device.
    Absent(String),
    /// The image does not tell; what is not named in it.
    Unknown(String),
}

/// Looks at one network interface. It is driven if a network driver fits it or something it hangs on
/// (a port of a larger card has a bus of its own). It is only called undriven where that is certain: a device that
/// is a network interface by its class, and a kernel whose built-in drivers tell their patterns too.
pub fn network_fit(kernel: &Kernel, interface: &NetworkInterface) -> NetworkFit {
    let aliases = parsed(&kernel.network_aliases);
    if interface.modaliases.iter().any(|alias| !aliases.modules_for(alias).is_empty()) {
        return NetworkFit::Driven;
    }
    // What it hangs on says little: the PCI device of a virtio interface is of the same class, and its driver
    // is no network driver.
    let Some(device) = interface.modaliases.first() else { return NetworkFit::Unknown("its device".into()) };
    let tells_all = kernel.builtin_aliases && kernel.has_modules && !kernel.network_aliases.is_empty();
    if tells_all && is_network(device) {
        NetworkFit::Absent(device.clone())
    } else {
        NetworkFit::Unknown(device.clone())
    }
}

/// How an image's kernel stands to a file system that it has to mount before it has another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileSystemFit {
    /// It mounts it, with what is built in or in the initramfs; or the image does not tell.
    Mounts,
    /// The module exists, and is not in the initramfs.
    Missing(String),
    /// It has no such module.
    Absent,
    /// Nothing in the image names it, but it may be built in without a word of it.
    Unknown,
}

/// Looks at the type of the root file system, or of one that is mounted as early.
pub fn file_system_fit(kernel: &Kernel, kind: &str) -> FileSystemFit {
    if kernel.filesystem_aliases.is_empty() {
        return FileSystemFit::Mounts;
    }
    let wanted = format!("fs-{kind}");
    let modules: Vec<String> = kernel
        .filesystem_aliases
        .iter()
        .filter(|(pattern, _)| *pattern == wanted)
        .map(|(_, module)| canonical(module))
        .collect();
    let at_hand = |module: &String| {
        kernel.initramfs_modules.iter().flatten().chain(&kernel.builtin).any(|it| canonical(it) == *module)
    };
    match modules.first() {
        None if kernel.builtin_aliases && kernel.has_modules => FileSystemFit::Absent,
        None => FileSystemFit::Unknown,
        Some(_) if modules.iter().any(at_hand) => FileSystemFit::Mounts,
        Some(first) => FileSystemFit::Missing(first.clone()),
    }
}

fn parsed(aliases: &[(String, String)]) -> Aliases {
    let text: String = aliases.iter().map(|(pattern, module)| format!("alias {pattern} {module}\n")).collect();
    Aliases::parse(text.as_bytes())
}

/// A device that is a network interface by its class: PCI class 02 (pci.ids), a virtio network device (1;
/// virtio 1.2, section 5), Xen's, and Hyper-V's (HV_NIC_GUID in include/linux/hyperv.h of the kernel).
fn is_network(modalias: &str) -> bool {
    (modalias.starts_with("pci:") && modalias.contains("bc02sc"))
        || modalias.starts_with("virtio:d00000001v")
        || modalias == "xen:vif"
        || modalias == "vmbus:635161f83edfc546913ff2d2f965ed0e"
}

/// A device that is a storage controller by its class: PCI class 01 (pci.ids), virtio block (2) and SCSI
/// (8) devices (virtio 1.2, section 5).
fn is_controller(modalias: &str) -> bool {
    (modalias.starts_with("pci:") && modalias.contains("bc01sc"))
        || modalias.starts_with("virtio:d00000002v")
        || modalias.starts_with("virtio:d00000008v")
}

/// Modules are named with `-` in files and `_` in the kernel.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_file_system_is_mounted_or_not() {
        let aliases = |all: &[(&str, &str)]| all.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let kernel = Kernel {
            filesystem_aliases: aliases(&[
                ("fs-xfs", "xfs"),
                ("fs-ext3", "ext4"),
                ("fs-ext4", "ext4"),
                ("fs-jfs", "jfs"),
            ]),
            builtin: vec!["ext4".into()],
            initramfs_modules: Some(vec!["jfs".into()]),
            has_modules: true,
            builtin_aliases: true,
            ..Kernel::default()
        };
        for (kind, expected) in [
            ("ext3", FileSystemFit::Mounts),
            ("jfs", FileSystemFit::Mounts),
            ("xfs", FileSystemFit::Missing("xfs".into())),
            ("btrfs", FileSystemFit::Absent),
        ] {
            assert_eq!(file_system_fit(&kernel, kind), expected, "{kind}");
        }
        assert_eq!(file_system_fit(&Kernel { builtin_aliases: false, ..kernel }, "btrfs"), FileSystemFit::Unknown);
        assert_eq!(file_system_fit(&Kernel::default(), "btrfs"), FileSystemFit::Mounts, "an image that does not tell");
    }

    const AHCI: &str = "pci:v00008086d00002922sv0sd0bc01sc06i01";
    const RAID: &str = "pci:v0000103Cd0000323Asv0sd0bc01sc04i00";
    const BRIDGE: &str = "pci:v00008086d0000244Esv0sd0bc06sc04i01";

    fn set(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|it| (*it).to_owned()).collect()
    }

    fn disk(drivers: &[&str], aliases: &[&str]) -> BlockDevice {
        BlockDevice {
            drivers: drivers.iter().map(|it| (*it).to_owned()).collect(),
            modaliases: aliases.iter().map(|it| (*it).to_owned()).collect(),
            ..BlockDevice::default()
        }
    }

    fn kernel() -> Kernel {
        Kernel {
            initramfs_modules: Some(vec!["virtio_blk".into(), "sd_mod".into()]),
            builtin: vec!["nvme-core".into(), "nvme".into()],
            storage_aliases: vec![
                ("pci:v*d*sv*sd*bc01sc06i01*".into(), "ahci".into()),
                ("pci:v*d*sv*sd*bc01sc08i02*".into(), "nvme".into()),
                ("virtio:d00000002v*".into(), "virtio_blk".into()),
                ("pci:v00001000d*".into(), "mpt3sas".into()),
            ],
            has_modules: true,
            builtin_aliases: true,
            ..Kernel::default()
        }
    }

    /// Name, drivers, modaliases, what is missing, what is absent, what is not known.
    type Row<'a> = (&'a str, &'a [&'a str], &'a [&'a str], &'a [&'a str], &'a [&'a str], &'a [&'a str]);

    #[test]
    fn each_way_a_driver_may_be_there() {
        let nvme = "pci:v0000144Dd0000A808sv0sd0bc01sc08i02";
        let rows: [Row<'_>; 12] = [
            ("in the initramfs", &["virtio-blk"], &[], &[], &[], &[]),
            ("built in", &["nvme_core"], &[], &[], &[], &[]),
            ("only in the image", &["sd_mod", "ahci"], &[], &["ahci"], &[], &[]),
            ("nowhere", &["megaraid_sas"], &[], &[], &["megaraid_sas"], &[]),
            ("another module drives it", &["mpt2sas"], &["pci:v00001000d0097"], &["mpt3sas"], &[], &[]),
            ("bound drivers unknown", &[], &[AHCI, BRIDGE], &["ahci"], &[], &[]),
            ("unknown, built in", &[], &[nvme], &[], &[], &[]),
            ("a controller of no driver", &[], &[RAID, BRIDGE], &[], &[RAID], &[]),
            ("one of two controllers", &[], &[AHCI, RAID], &["ahci"], &[RAID], &[]),
            ("virtio of no driver", &[], &["virtio:d00000008v00001AF4"], &[], &["virtio:d00000008v00001AF4"], &[]),
            ("no controller that is known as one", &[], &[BRIDGE], &[], &[], &[BRIDGE]),
            ("nothing known of the disk", &[], &[], &[], &[], &["its drivers"]),
        ];
        for (name, drivers, aliases, missing, absent, unknown) in rows {
            let expected = Fit { missing: set(missing), absent: set(absent), unknown: set(unknown) };
            assert_eq!(fit(&kernel(), &disk(drivers, aliases)), expected, "{name}");
        }
    }

    #[test]
    fn what_is_not_certain_is_not_called_absent() {
        let unknown = |what: &str| Fit { unknown: set(&[what]), ..Fit::default() };
        let old = Kernel { builtin_aliases: false, ..kernel() };
        assert_eq!(fit(&old, &disk(&[], &[RAID])), unknown(RAID), "it may be built in");
        assert_eq!(fit(&Kernel::default(), &disk(&["ahci"], &[])), unknown("ahci"), "a kernel without modules");
        let unreadable = Kernel { initramfs_modules: None, ..kernel() };
        let all = Fit { missing: set(&["ahci", "virtio_blk"]), ..Fit::default() };
        assert_eq!(
            fit(&unreadable, &disk(&["ahci", "virtio_blk", "nvme"], &[])),
            all,
            "only what is built in is there"
        );
    }

    #[test]
    fn each_way_a_network_driver_may_be_there() {
        let e1000 = "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00";
        let other = "pci:v000014E4d00001657sv00001AF4sd00001100bc02sc00i00";
        let virtio = "virtio:d00000001v00001AF4";
        let virtio_pci = "pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00";
        let usb = "usb:v0B95p1790d0100dc00dsc00dp00icFFiscFFip00in00";
        let kernel = Kernel {
            network_aliases: vec![
                ("pci:v00008086d0000100Esv*sd*bc*sc*i*".into(), "e1000".into()),
                ("virtio:d00000001v*".into(), "virtio-net".into()),
            ],
            ..kernel()
        };
        let nameless = Kernel { network_aliases: Vec::new(), ..kernel.clone() };
        let old = Kernel { builtin_aliases: false, ..kernel.clone() };
        let (driven, absent, unknown) = (
            NetworkFit::Driven,
            |what: &str| NetworkFit::Absent(what.into()),
            |what: &str| NetworkFit::Unknown(what.into()),
        );
        let rows: [(&str, &Kernel, &[&str], NetworkFit); 12] = [
            ("a module", &kernel, &[e1000, BRIDGE], driven.clone()),
            ("by its own bus", &kernel, &[virtio, virtio_pci], driven.clone()),
            ("a port of a card", &kernel, &["auxiliary:x.eth", e1000], driven),
            ("by class, of no driver", &kernel, &[other, BRIDGE], absent(other)),
            (
                "virtio of no driver",
                &Kernel { network_aliases: kernel.network_aliases[..1].to_vec(), ..kernel.clone() },
                &[virtio, virtio_pci],
                absent(virtio),
            ),
            ("Xen's", &kernel, &["xen:vif"], absent("xen:vif")),
            ("vendor's class: perhaps another driver", &kernel, &[usb], unknown(usb)),
            ("on a known bus, itself unknown", &kernel, &["platform:nic", other], unknown("platform:nic")),
            ("may be built in", &old, &[other], unknown(other)),
            ("facts without network drivers", &nameless, &[other], unknown(other)),
            ("no modules directory", &Kernel::default(), &[other], unknown(other)),
            ("nothing known of it", &kernel, &[], unknown("its device")),
        ];
        for (name, kernel, aliases, expected) in rows {
            let interface = NetworkInterface {
                modaliases: aliases.iter().map(|it| (*it).to_owned()).collect(),
                ..NetworkInterface::default()
            };
            assert_eq!(network_fit(kernel, &interface), expected, "{name}");
        }
    }
}
