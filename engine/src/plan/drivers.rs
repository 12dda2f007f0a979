//! This machine's disk controllers held against the image's kernel and initramfs, before anything is
//! partitioned: what the initramfs lacks is rebuilt into it, what the kernel lacks is refused by name.
//! An initramfs that cannot be read counts as one that holds no driver at all.
//!
//! Pure.

use std::collections::BTreeSet;

use systemimager_core::{BlockDevice, ImageFacts};

use super::disks::describe;
use crate::facts::drivers::fit;

/// What was found.
#[derive(Debug, Default)]
pub struct Drivers {
    /// Modules that the initramfs has to get.
    pub missing: Vec<String>,
    /// Devices that nothing in the image drives, and the like.
    pub problems: Vec<String>,
    /// What could not be checked.
    pub warnings: Vec<String>,
}

/// Checks the newest kernel of the image, which its boot loader starts by default.
pub fn check<'a>(facts: &ImageFacts, disks: impl IntoIterator<Item = &'a BlockDevice>) -> Drivers {
    let mut found = Drivers::default();
    let Some(kernel) = facts.kernels.first() else {
        found.problems.push(format!(
            "the image {} has no kernel in /boot: a machine installed with it could not boot; install one on the \
             master client and capture it again",
            facts.name
        ));
        return found;
    };
    let mut missing = BTreeSet::new();
    let mut devices = Vec::new();
    for disk in disks {
        let fit = fit(kernel, disk);
        for driver in fit.absent {
            found.problems.push(format!(
                "the image's kernel {} has no driver for {}: it needs {driver}; \
                 install a kernel that has it on the master client, and capture it again",
                kernel.release,
                describe(disk)
            ));
        }
        for what in fit.unknown {
            found.warnings.push(format!(
                "whether the image's kernel {} drives {} is not known: nothing in the image names {what}; \
                 see that it is built into that kernel",
                kernel.release,
                describe(disk)
            ));
        }
        if !fit.missing.is_empty() {
            devices.push(describe(disk));
        }
        missing.extend(fit.missing);
    }
    let names = missing.iter().cloned().collect::<Vec<_>>().join(", ");
    match (&kernel.initramfs, &kernel.initramfs_modules) {
        // The boot loader's plugin says it where there is no tool to put them in.
        (Some(_), Some(_)) => found.missing = missing.into_iter().collect(),
        (Some(path), None) if missing.is_empty() => found.warnings.push(format!(
            "the initramfs {path} could not be read; no driver of this machine's disks is known to have to be in it"
        )),
        (Some(path), None) if facts.initramfs_tool.is_none() => found.problems.push(format!(
            "the initramfs {path} could not be read, and the image has no tool to make it anew with {names} for {}; \
             install initramfs-tools, dracut or mkinitcpio on the master client, and capture it again",
            devices.join(" and ")
        )),
        (Some(path), None) => {
            found.warnings.push(format!(
                "the initramfs {path} could not be read: it is made anew with all that this machine's disks need \
                 ({names})"
            ));
            found.missing = missing.into_iter().collect();
        }
        (None, _) if missing.is_empty() => {}
        (None, _) => found.problems.push(format!(
            "the image's kernel {} has no initramfs, and this machine's disks need {names}, which it has as modules; \
             make an initramfs on the master client and capture it again",
            kernel.release
        )),
    }
    found
}
