//! Whether an image can drive a machine's disks: its kernel's aliases and its initramfs, held against
//! what drives the disks in the miniature system. Pure.

use std::collections::BTreeSet;

use systemimager_core::{BlockDevice, Kernel};

use crate::sys::modules::Aliases;

/// How an image stands to the drivers that a disk needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fit {
    /// Modules that exist in the image but not in its initramfs.
    pub missing: BTreeSet<String>,
    /// Drivers (or device names, where none is known) that the image's kernel has in no form.
    pub absent: BTreeSet<String>,
}

/// Looks at one disk. The drivers bound to it count where they are known; else every module that the
/// image's kernel would load for its devices.
pub fn fit(kernel: &Kernel, disk: &BlockDevice) -> Fit {
    let in_initramfs: BTreeSet<String> =
        kernel.initramfs_modules.iter().flatten().chain(&kernel.builtin).map(|name| canonical(name)).collect();
    let exist: BTreeSet<String> = kernel.storage_aliases.iter().map(|(_, module)| canonical(module)).collect();
    let text: String =
        kernel.storage_aliases.iter().map(|(pattern, module)| format!("alias {pattern} {module}\n")).collect();
    let aliases = Aliases::parse(text.as_bytes());
    let by_alias = |alias: &String| aliases.modules_for(alias).into_iter().map(|it| canonical(&it)).collect::<Vec<_>>();
    let mut fit = Fit::default();
    if disk.drivers.is_empty() {
        for module in disk.modaliases.iter().flat_map(by_alias) {
            if !in_initramfs.contains(&module) {
                fit.missing.insert(module);
            }
        }
        return fit;
    }
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
            None => {
                fit.absent.insert(driver);
            }
        }
    }
    fit
}

/// Modules are named with `-` in files and `_` in the kernel.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, drivers, modaliases, what is missing, what is absent.
    type Row<'a> = (&'a str, &'a [&'a str], &'a [&'a str], &'a [&'a str], &'a [&'a str]);

    #[test]
    fn each_way_a_driver_may_be_there() {
        let kernel = Kernel {
            initramfs_modules: Some(vec!["virtio_blk".into(), "sd_mod".into()]),
            builtin: vec!["nvme-core".into()],
            storage_aliases: vec![
                ("pci:v*d*sv*sd*bc01sc06i01*".into(), "ahci".into()),
                ("virtio:d00000002v*".into(), "virtio_blk".into()),
                ("pci:v00001000d*".into(), "mpt3sas".into()),
            ],
            ..Kernel::default()
        };
        let rows: [Row<'_>; 6] = [
            ("in the initramfs", &["virtio-blk"], &[], &[], &[]),
            ("built in", &["nvme_core"], &[], &[], &[]),
            ("only in the image", &["sd_mod", "ahci"], &[], &["ahci"], &[]),
            ("nowhere", &["megaraid_sas"], &[], &[], &["megaraid_sas"]),
            ("another module drives it", &["mpt2sas"], &["pci:v00001000d0097"], &["mpt3sas"], &[]),
            ("bound drivers unknown", &[], &["pci:v8086d2922sv0sd0bc01sc06i01"], &["ahci"], &[]),
        ];
        for (name, drivers, aliases, missing, absent) in rows {
            let disk = BlockDevice {
                drivers: drivers.iter().map(|it| (*it).to_owned()).collect(),
                modaliases: aliases.iter().map(|it| (*it).to_owned()).collect(),
                ..BlockDevice::default()
            };
            let set = |list: &[&str]| list.iter().map(|it| (*it).to_owned()).collect::<BTreeSet<_>>();
            assert_eq!(fit(&kernel, &disk), Fit { missing: set(missing), absent: set(absent) }, "{name}");
        }
    }
}
