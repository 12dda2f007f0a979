//! Lists of MAC addresses (`macs.csv`, `addclients --macs`), and after one the list that it is merged into.

use std::path::Path;

use identity_hosts::Hosts;
use systemimager_core::contract::IdentityWho;
use systemimager_core::testing::RecordedHost;
use systemimager_core::{HostFacts, HostIdentity as _};
use systemimager_engine::store::declared_list::{merge, parse, render};
use systemimager_engine::store::macs::Macs;

use crate::seen;
use crate::support::texts;

pub fn target(data: &[u8]) {
    let Some(all) = texts(data) else { return };
    let file = Path::new("macs.csv");
    let facts = |mac: &str| HostFacts {
        macs_file: all[0].to_owned(),
        boot_mac: Some(mac.to_owned()),
        macs: vec!["52:54:00:12:34:56".into()],
        ..HostFacts::default()
    };
    let who = |mac: &str| Hosts.who(&RecordedHost::new(), IdentityWho { facts: facts(mac), sources: Vec::new() });
    if let Err(error) = who("52:54:00:12:34:57") {
        seen::lines(&error.message);
    }
    let macs: Macs = match parse(file, all[0]) {
        Ok(macs) => macs,
        Err(why) => return seen::lines(&why),
    };
    assert_eq!(parse(file, &render(&macs)).expect("what is written can be read"), macs);
    // Server and machines read the same list alike.
    for (host, mac) in macs.iter().take(4) {
        let found = who(&mac.to_string()).expect("a right list").expect("it is in the list");
        assert_eq!(&found.name, host, "{mac}");
    }
    let old = all.get(1).and_then(|text| parse(file, text).ok()).unwrap_or_default();
    if let Ok(merged) = merge(&old, &macs) {
        assert!(macs.iter().all(|(host, mac)| merged.get(host) == Some(mac)));
        assert_eq!(parse(file, &render(&merged)).expect("each MAC once"), merged);
    }
    assert_eq!(merge(&Macs::new(), &macs), Ok(macs));
}
