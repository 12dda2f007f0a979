//! Parsers of an image's files, for [`crate::fuzzing`] alone.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use anyhow::Result;

use super::{initramfs, kernels};

/// (pattern, module) pairs, as of `modules.alias`.
pub type Aliases = Vec<(String, String)>;

/// The modules in the plain archives at the beginning of an initramfs, and where what is compressed begins.
///
/// # Errors
/// It is no initramfs.
pub fn initramfs(bytes: &[u8]) -> Result<(BTreeSet<String>, Option<u64>)> {
    let mut names = BTreeSet::new();
    let packed = initramfs::in_bytes(bytes, &mut names)?;
    Ok((names, packed))
}

/// The architecture that an ELF header names.
pub fn architecture(header: &[u8; 20]) -> Option<&'static str> {
    super::machine(header)
}

/// Whether SELinux labels files, by /etc/selinux/config.
pub fn labels(config: &str) -> bool {
    super::selinux(config)
}

/// What storage and network devices a kernel knows, by `modules.dep` and `modules.alias`, `modules.builtin` and its
/// `.modinfo`.
pub fn aliases(dep: &str, alias: &str, builtin: &str, info: &str) -> (Aliases, Aliases) {
    kernels::devices(dep, alias, builtin, info)
}

/// See [`crate::fuzzing::newer`].
pub(crate) fn releases(one: &str, other: &str) -> Ordering {
    kernels::newer(one, other)
}
