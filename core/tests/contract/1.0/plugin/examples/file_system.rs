//! Made by `cargo xtask freeze-contract`: answers as it was written down.

#[allow(unused_imports, reason = "each kind uses some")]
use std::collections::BTreeMap;

#[allow(unused_imports, reason = "each kind uses some")]
use systemimager_core::{contract::*, *};

/// The plugin.
pub struct Frozen;

declare_plugin! {
    kind: FileSystem,
    id: frozen,
    about: "as it was when it was frozen",
    make: Frozen,
}

impl FileSystem for Frozen {
    fn describe(&self, host: &dyn Host, request: FileSystemDescribe) -> Result<FileSystemFacts> {
        contract_frozen::replay(host, "FileSystem.describe", &request)
    }
    fn needs(&self, host: &dyn Host, request: Role) -> Result<Needs> {
        contract_frozen::replay(host, "FileSystem.needs", &request)
    }
    fn plan_make(&self, host: &dyn Host, request: FileSystemMake) -> Result<Vec<Step>> {
        contract_frozen::replay(host, "FileSystem.plan_make", &request)
    }
    fn plan_mount(&self, host: &dyn Host, request: FileSystemMount) -> Result<Vec<Step>> {
        contract_frozen::replay(host, "FileSystem.plan_mount", &request)
    }
    fn types(&self, host: &dyn Host, request: ()) -> Result<Vec<FileSystemType>> {
        contract_frozen::replay(host, "FileSystem.types", &request)
    }
    fn detect(&self, host: &dyn Host, request: FileSystemDetect) -> Result<BTreeMap<String, String>> {
        contract_frozen::replay(host, "FileSystem.detect", &request)
    }
}
