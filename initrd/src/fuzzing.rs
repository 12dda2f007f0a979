//! Private parsers, for the fuzz targets of `fuzz/` alone: each of them reads what comes from outside, and is reached
//! in the product only through files or sockets. No part of the library; nothing else may use it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use systemimager_core::Size;

pub use crate::agent::fuzzing::*;
use crate::pack::{firmware, fit, kernel, libraries, modules};

/// The release in the header of a kernel image.
pub fn kernel_release(image: &[u8]) -> Option<String> {
    kernel::from_header(image)
}

/// The releases whose modules an initrd has.
pub fn initrd_releases(bytes: &[u8]) -> Option<BTreeSet<String>> {
    fit::in_bytes(bytes).ok().flatten()
}

/// The dynamic loader's cache, as `ldconfig -p` prints it.
pub fn library_cache(text: &str) -> BTreeMap<String, Vec<PathBuf>> {
    libraries::parse_cache(text)
}

/// The modules that `modules.dep` and `modules.softdep` name: their files, and what each of them asks for.
pub fn module_files(dep: &str, soft: &str) -> (BTreeMap<String, String>, BTreeSet<String>) {
    let (files, needs) = modules::parse_dependencies(dep);
    let wishes = modules::parse_soft(soft);
    let asked = needs.values().chain(wishes.values()).flatten().cloned().collect();
    (files, asked)
}

/// The firmware that a kernel module names.
pub fn firmware_of(module: &[u8]) -> Vec<String> {
    firmware::in_module(module)
}

/// The memory of a machine, by /proc/meminfo.
pub fn memory(meminfo: &str) -> Size {
    crate::agent::fuzzing::total(meminfo)
}
