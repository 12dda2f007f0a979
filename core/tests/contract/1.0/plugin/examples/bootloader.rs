//! Made by `cargo xtask freeze-contract`: answers as it was written down.

#[allow(unused_imports, reason = "each kind uses some")]
use std::collections::BTreeMap;

#[allow(unused_imports, reason = "each kind uses some")]
use systemimager_core::{contract::*, *};

/// The plugin.
pub struct Frozen;

declare_plugin! {
    kind: Bootloader,
    id: frozen,
    about: "as it was when it was frozen",
    make: Frozen,
}

impl Bootloader for Frozen {
    fn detect(&self, host: &dyn Host, request: BootloaderDetect) -> Result<Option<BTreeMap<String, String>>> {
        contract_frozen::replay(host, "Bootloader.detect", &request)
    }
    fn needs(&self, host: &dyn Host, request: Role) -> Result<Needs> {
        contract_frozen::replay(host, "Bootloader.needs", &request)
    }
    fn plan(&self, host: &dyn Host, request: BootloaderPlan) -> Result<BootPlan> {
        contract_frozen::replay(host, "Bootloader.plan", &request)
    }
    fn boot_once(&self, host: &dyn Host, request: BootOnce) -> Result<Vec<Step>> {
        contract_frozen::replay(host, "Bootloader.boot_once", &request)
    }
    fn refresh(&self, host: &dyn Host, request: BootloaderRefresh) -> Result<Vec<Step>> {
        contract_frozen::replay(host, "Bootloader.refresh", &request)
    }
}
