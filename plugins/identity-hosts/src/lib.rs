//! Who a machine is by the kernel command line, a medium's local.cfg, its MAC addresses, the image server's hosts file and its DHCP lease; and
//! how that is written into what was installed: host name, hosts file, network. And what a machine must not share with
//! the one that its image was captured from.
//!
//! The network is configured in the tool that the image itself uses, for the interface with the MAC
//! address that was found while installing: names like `ens3` differ from machine to machine. It must
//! not resolve names or ask any server; all it judges by comes with the request.

mod detect;
mod hosts_file;
mod local_cfg;
mod macs;
mod own;
mod scrub;
mod stacked;
mod subnet;
mod tree;
mod who;
mod write;

use std::collections::BTreeMap;

use systemimager_core::contract::{
    HostIdentity, IdentityDetect, IdentityOwn, IdentityScrub, IdentityWho, IdentityWrite,
};
use systemimager_core::{BytePath, Host, Identity, Level, Needs, Result, Role, Step, declare_plugin};

use tree::Tree;

/// The plugin.
pub struct Hosts;

/// The id under which the facts of [`Hosts`] stand in [`systemimager_core::ImageFacts::identity`].
const ID: &str = "hosts";

declare_plugin! {
    kind: HostIdentity,
    id: hosts,
    about: "kernel command line, local.cfg, MACs, hosts file, DHCP lease",
    make: Hosts,
}

impl HostIdentity for Hosts {
    /// Nothing in any role: names are text, and the image brings the tools it is configured for.
    fn needs(&self, _: &dyn Host, _: Role) -> Result<Needs> {
        Ok(Needs::default())
    }

    fn who(&self, host: &dyn Host, request: IdentityWho) -> Result<Option<Identity>> {
        let Some(answer) = who::who(&request.facts, &request.sources)? else { return Ok(None) };
        if let Some(warning) = &answer.warning {
            host.log(Level::Warn, warning);
        }
        Ok(Some(answer.identity))
    }

    fn detect(&self, host: &dyn Host, request: IdentityDetect) -> Result<BTreeMap<String, String>> {
        let mut facts = detect::detect(host, &request.place)?.into_facts();
        facts.extend(scrub::find::find(&Tree { host, place: &request.place })?.into_facts());
        Ok(facts)
    }

    fn plan_write(&self, _: &dyn Host, request: IdentityWrite) -> Result<Vec<Step>> {
        write::plan(&request)
    }

    fn plan_scrub(&self, _: &dyn Host, request: IdentityScrub) -> Result<Vec<Step>> {
        scrub::plan(&request)
    }

    fn own_paths(&self, _: &dyn Host, _: IdentityOwn) -> Result<Vec<BytePath>> {
        Ok(own::paths())
    }
}
