//! Made by `cargo xtask freeze-contract`: answers as it was written down.

#[allow(unused_imports, reason = "each kind uses some")]
use std::collections::BTreeMap;

#[allow(unused_imports, reason = "each kind uses some")]
use systemimager_core::{contract::*, *};

/// The plugin.
pub struct Frozen;

declare_plugin! {
    kind: Transport,
    id: frozen,
    about: "as it was when it was frozen",
    make: Frozen,
}

impl Transport for Frozen {
    fn capabilities(&self, host: &dyn Host, request: ()) -> Result<Capabilities> {
        contract_frozen::replay(host, "Transport.capabilities", &request)
    }
    fn needs(&self, host: &dyn Host, request: Role) -> Result<Needs> {
        contract_frozen::replay(host, "Transport.needs", &request)
    }
    fn offer(&self, host: &dyn Host, request: Offer) -> Result<Service> {
        contract_frozen::replay(host, "Transport.offer", &request)
    }
    fn pull(&self, host: &dyn Host, request: PullRequest) -> Result<PullReport> {
        contract_frozen::replay(host, "Transport.pull", &request)
    }
    fn finish(&self, host: &dyn Host, request: Source) -> Result<()> {
        contract_frozen::replay(host, "Transport.finish", &request)
    }
}
