//! A hosts file (hosts(5)), and after it a line `HOST ADDRESS [DOMAIN]` for each client that is added to it; and who a
//! machine is by it.

use identity_hosts::Hosts;
use systemimager_core::contract::IdentityWho;
use systemimager_core::testing::RecordedHost;
use systemimager_core::{HostFacts, HostIdentity as _, HostName, Lease};
use systemimager_engine::store::hosts_file::{BEGIN, Client, END, entries, with_clients};

use crate::seen;
use crate::support::parts;

pub fn target(data: &[u8]) {
    let all = parts(data);
    let text = all[0];
    let clients: Vec<Client> = all.get(1).map(|lines| clients(lines)).unwrap_or_default();
    let before = match entries(text) {
        Ok(entries) => entries,
        Err(why) => {
            assert_eq!(with_clients(text, &clients), Err(why.clone()), "what is refused is not changed");
            return seen::lines(&why);
        }
    };
    match with_clients(text, &clients) {
        Err(why) => assert!(!why.is_empty()),
        Ok(new) => {
            let after = entries(&new).expect("our own block is whole");
            let outside = |entries: &[systemimager_engine::store::hosts_file::Entry]| -> Vec<_> {
                entries.iter().filter(|it| !it.ours).map(|it| (it.address, it.names.clone())).collect()
            };
            assert_eq!(outside(&after), outside(&before), "the rest stays");
            for client in &clients {
                let named = after.iter().any(|it| it.address == client.address && it.names_host(&client.host));
                assert!(named, "{client:?} is not in {:?}", String::from_utf8_lossy(&new));
            }
            let twice = with_clients(&new, &clients).expect("what we wrote we take");
            assert_eq!(String::from_utf8_lossy(&twice), String::from_utf8_lossy(&new), "twice is the same as once");
            kept(text, &new);
        }
    }
    asked(&String::from_utf8_lossy(text), &clients);
}

fn clients(lines: &[u8]) -> Vec<Client> {
    let client = |line: &str| {
        let mut words = line.split_whitespace();
        let host = HostName::try_from(words.next()?).ok()?;
        let address = words.next()?.parse().ok()?;
        let domain = words.next().map(HostName::try_from).transpose().ok()?.map(String::from);
        Some(Client { host, address, domain })
    };
    let mut clients: Vec<Client> = Vec::new();
    for client in String::from_utf8_lossy(lines).lines().filter_map(client).take(20) {
        // Sets of hosts name each once, by its short name too.
        if clients.iter().all(|it| !it.host.short().eq_ignore_ascii_case(client.host.short())) {
            clients.push(client);
        }
    }
    clients
}

/// Every line outside the block is there as it was, in its order.
fn kept(before: &[u8], after: &[u8]) {
    let outside = |text: &[u8]| -> Vec<Vec<u8>> {
        let mut inside = false;
        let mut kept = Vec::new();
        for line in text.split(|byte| *byte == b'\n') {
            let mark = line.trim_ascii();
            if mark.starts_with(b"# systemimager begin") {
                inside = true;
            } else if mark == END.as_bytes() {
                inside = false;
            } else if !inside {
                kept.push(line.to_vec());
            }
        }
        while kept.last().is_some_and(Vec::is_empty) {
            kept.pop();
        }
        kept
    };
    assert_eq!(outside(before), outside(after));
    assert!(BEGIN.starts_with("# systemimager begin"));
}

/// The same file, as a machine reads it that has an address.
fn asked(text: &str, clients: &[Client]) {
    let address = clients.first().map_or_else(|| "10.0.0.11".parse().ok(), |client| Some(client.address));
    let lease = Lease {
        interface: "eth0".into(),
        mac: "52:54:00:00:00:01".into(),
        address,
        prefix: Some(24),
        ..Lease::default()
    };
    let facts = HostFacts { hosts_file: text.to_owned(), leases: vec![lease], ..HostFacts::default() };
    let host = RecordedHost::new();
    match Hosts.who(&host, IdentityWho { facts, sources: Vec::new() }) {
        Ok(Some(identity)) => {
            seen::one_line(&identity.found_in);
            seen::one_line(identity.network.domain.as_deref().unwrap_or_default());
        }
        Ok(None) => {}
        Err(error) => seen::lines(&error.message),
    }
}
