//! A datagram from a DHCP server: the lease, and all that a machine is configured by it.

use systemimager_core::contract::IdentityWho;
use systemimager_core::testing::RecordedHost;
use systemimager_core::{HostFacts, HostIdentity as _, Lease};
use systemimager_initrd::fuzzing::{dhcp_lease, resolver};

use crate::seen;
use crate::targets::identity::written;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
const XID: u32 = 0x1234_5678;

pub fn target(data: &[u8]) {
    // An answer to this client, whatever else it says: what is none is passed over, which is soon seen.
    let mut datagram = data.to_vec();
    for (at, bytes) in [(0, [2, 1, 6].as_slice()), (4, &XID.to_be_bytes()), (28, &MAC), (236, &[99, 130, 83, 99])] {
        if let Some(place) = datagram.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }
    assert!(dhcp_lease(&datagram, MAC, XID ^ 1).is_none(), "an answer to another exchange");
    let Some(lease) = dhcp_lease(&datagram, MAC, XID) else { return };
    let json = serde_json::to_vec(&lease).expect("JSON");
    assert_eq!(serde_json::from_slice::<Lease>(&json).expect("read again"), lease);
    for text in [&lease.host_name, &lease.domain].into_iter().flatten() {
        seen::one_line(text);
    }
    for line in resolver(&lease).lines() {
        seen::one_line(line);
        let rest = line.strip_prefix("search ").or_else(|| line.strip_prefix("nameserver "));
        assert!(rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(' ')), "{line:?}");
    }
    let facts = HostFacts { leases: vec![lease], boot_mac: Some("52:54:00:00:00:01".into()), ..HostFacts::default() };
    let host = RecordedHost::new();
    match identity_hosts::Hosts.who(&host, IdentityWho { facts, sources: Vec::new() }) {
        Ok(Some(identity)) => written(&host, &identity),
        Ok(None) => {}
        Err(error) => seen::lines(&error.message),
    }
}
