//! All that is known of who a machine is, as JSON, and after it what the identity plugin knows of an image: who it is,
//! and what is written into the target for it.

use std::collections::{BTreeMap, BTreeSet};

use identity_hosts::Hosts;
use systemimager_core::contract::{IdentityScrub, IdentityWho, IdentityWrite};
use systemimager_core::testing::RecordedHost;
use systemimager_core::{Host, HostFacts, HostIdentity as _, Identity, ImageFacts, Level, NetworkMode};

use crate::seen;
use crate::support::{somebody, texts};

const TOOLS: [&str; 6] = ["ifupdown", "netplan", "NetworkManager", "systemd-networkd", "wicked", "network-scripts"];

pub fn target(data: &[u8]) {
    let Some(all) = texts(data) else { return };
    let host = RecordedHost::new();
    if let Some(found) = all.get(1).and_then(|text| serde_json::from_str(text).ok()) {
        planned(&host, &somebody(), &found);
    }
    let Ok(facts) = serde_json::from_str::<HostFacts>(all[0]) else { return };
    let json = serde_json::to_vec(&facts).expect("JSON");
    assert_eq!(serde_json::from_slice::<HostFacts>(&json).expect("read again"), facts);
    for sources in [&[][..], &["lease", "hosts-file"], &["macs", "boot-mac", "command-line"]] {
        let sources = sources.iter().map(|source| (*source).to_owned()).collect();
        match Hosts.who(&host, IdentityWho { facts: facts.clone(), sources }) {
            Ok(Some(identity)) => written(&host, &identity),
            Ok(None) => {}
            Err(error) => seen::lines(&error.message),
        }
    }
    for (level, line) in host.logged.lock().expect("nobody panicked").iter() {
        assert!(*level >= Level::Error);
        seen::one_line(line);
    }
}

/// Whoever it is: what is written by any network tool is text, in lines of our own making.
pub fn written(host: &dyn Host, identity: &Identity) {
    seen::one_line(&identity.found_in);
    for tool in TOOLS {
        planned(host, identity, &[("network".to_owned(), tool.to_owned())].into());
    }
}

/// The steps for an image of which the plugin has found this.
pub fn planned(host: &dyn Host, identity: &Identity, found: &BTreeMap<String, String>) {
    let image = ImageFacts {
        name: "web".into(),
        identity: [("hosts".to_owned(), found.clone())].into(),
        ..ImageFacts::default()
    };
    for mode in [NetworkMode::Static, NetworkMode::Dhcp, NetworkMode::Keep] {
        let request = IdentityWrite { identity: identity.clone(), mode, image: image.clone() };
        match Hosts.plan_write(host, request) {
            Ok(steps) => seen::steps(&steps, &BTreeSet::new()),
            Err(error) => seen::lines(&error.message),
        }
    }
    let request = IdentityScrub { image, what: Vec::new(), identity: Some(identity.clone()) };
    match Hosts.plan_scrub(host, request) {
        Ok(steps) => seen::steps(&steps, &BTreeSet::new()),
        Err(error) => seen::lines(&error.message),
    }
}
