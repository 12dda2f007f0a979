//! Made by `cargo xtask freeze-contract`: answers as it was written down.

#[allow(unused_imports, reason = "each kind uses some")]
use std::collections::BTreeMap;

#[allow(unused_imports, reason = "each kind uses some")]
use systemimager_core::{contract::*, *};

/// The plugin.
pub struct Frozen;

declare_plugin! {
    kind: HostIdentity,
    id: frozen,
    about: "as it was when it was frozen",
    make: Frozen,
}

impl HostIdentity for Frozen {
    fn detect(&self, host: &dyn Host, request: IdentityDetect) -> Result<BTreeMap<String, String>> {
        contract_frozen::replay(host, "HostIdentity.detect", &request)
    }
    fn needs(&self, host: &dyn Host, request: Role) -> Result<Needs> {
        contract_frozen::replay(host, "HostIdentity.needs", &request)
    }
    fn plan_write(&self, host: &dyn Host, request: IdentityWrite) -> Result<Vec<Step>> {
        contract_frozen::replay(host, "HostIdentity.plan_write", &request)
    }
    fn who(&self, host: &dyn Host, request: IdentityWho) -> Result<Option<Identity>> {
        contract_frozen::replay(host, "HostIdentity.who", &request)
    }
    fn plan_scrub(&self, host: &dyn Host, request: IdentityScrub) -> Result<Vec<Step>> {
        contract_frozen::replay(host, "HostIdentity.plan_scrub", &request)
    }
}
