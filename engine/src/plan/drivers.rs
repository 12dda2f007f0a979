//! This machine's disk controllers held against the image's kernel and initramfs, before anything is
//! partitioned: what the initramfs lacks is rebuilt into it, what the kernel lacks is refused by name.
//!
//! Pure.

use std::collections::BTreeSet;

use systemimager_core::ImageFacts;

use crate::facts::drivers::{Missing, missing_storage_modules, undriven};

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
pub fn check(facts: &ImageFacts, modaliases: &[String]) -> Drivers {
    let mut found = Drivers::default();
    let Some(kernel) = facts.kernels.first() else {
        found.problems.push(format!(
            "the image {} has no kernel in /boot: a machine installed with it could not boot; install one on the \
             master client and capture it again",
            facts.name
        ));
        return found;
    };
    for device in undriven(kernel, modaliases) {
        found.problems.push(format!(
            "the image's kernel {} has no driver for the disk controller {device}; \
             install a kernel that has one on the master client, and capture it again",
            kernel.release
        ));
    }
    let missing: BTreeSet<String> =
        missing_storage_modules(kernel, modaliases).into_iter().map(|Missing { module, .. }| module).collect();
    if kernel.initramfs.is_some() && kernel.initramfs_modules.is_none() {
        found.warnings.push(format!(
            "the initramfs of kernel {} could not be read: whether it drives this machine's disks is not known",
            kernel.release
        ));
    } else if kernel.initramfs.is_some() {
        found.missing = missing.into_iter().collect();
    } else if !missing.is_empty() {
        found.problems.push(format!(
            "the image's kernel {} has no initramfs, and {} not built in, which this machine's disks need; \
             make an initramfs on the master client and capture it again",
            kernel.release,
            missing.into_iter().collect::<Vec<_>>().join(", ") + " is"
        ));
    }
    found
}
