//! Made by `cargo xtask freeze-contract`: answers as it was written down.

#[allow(unused_imports, reason = "each kind uses some")]
use std::collections::BTreeMap;

#[allow(unused_imports, reason = "each kind uses some")]
use systemimager_core::{contract::*, *};

/// The plugin.
pub struct Frozen;

declare_plugin! {
    kind: Partitioner,
    id: frozen,
    about: "as it was when it was frozen",
    make: Frozen,
}

impl Partitioner for Frozen {
    fn capture(&self, host: &dyn Host, request: PartitionerCapture) -> Result<DiskLayout> {
        contract_frozen::replay(host, "Partitioner.capture", &request)
    }
    fn fit(&self, host: &dyn Host, request: PartitionerFit) -> Result<DiskLayout> {
        contract_frozen::replay(host, "Partitioner.fit", &request)
    }
    fn labels(&self, host: &dyn Host, request: ()) -> Result<Vec<String>> {
        contract_frozen::replay(host, "Partitioner.labels", &request)
    }
    fn needs(&self, host: &dyn Host, request: Role) -> Result<Needs> {
        contract_frozen::replay(host, "Partitioner.needs", &request)
    }
    fn plan(&self, host: &dyn Host, request: PartitionerPlan) -> Result<Vec<Step>> {
        contract_frozen::replay(host, "Partitioner.plan", &request)
    }
}
