//! Leases as servers write them down, in each of the forms; who gets a static entry by them, and the configurations that
//! the entries are put into.

use std::path::Path;

use systemimager_engine::serve::site::leases::read;
use systemimager_engine::serve::site::statics::{Input, Known, plan};
use systemimager_engine::serve::site::{self, Flavor};

use crate::seen;

pub fn target(data: &[u8]) {
    let network = "10.0.0.1/24".parse().expect("a network");
    let known = [
        Known { host: "www1".try_into().expect("a name"), address: "10.0.0.11".parse().ok(), mac: None },
        Known {
            host: "www2".try_into().expect("a name"),
            address: "10.0.0.12".parse().ok(),
            mac: "52:54:00:00:00:02".parse().ok(),
        },
    ];
    for flavor in Flavor::ALL {
        let read = read(flavor, Path::new("leases"), data);
        read.faults.iter().for_each(|fault| seen::one_line(fault));
        assert!(read.leases.windows(2).all(|pair| pair[0].address < pair[1].address), "an address has one lease");
        let leases = [("leases".to_owned(), read.leases)];
        let statics = plan(&Input {
            network,
            server: "10.0.0.1".parse().ok(),
            leases: &leases,
            known: &known,
            entries: &[],
            now: 1_000_000_000,
            expired: data.len().is_multiple_of(2),
            prefer: None,
        });
        statics.skipped.iter().chain(&statics.conflicts).for_each(|line| seen::one_line(line));
        for (index, entry) in statics.entries.iter().enumerate() {
            assert!(network.holds_host(entry.address.into()), "{entry:?}");
            let others = statics.entries.iter().skip(index + 1);
            for other in others {
                let alike = other.mac == entry.mac || other.address == entry.address || other.host == entry.host;
                assert!(!alike, "{entry:?} {other:?}");
            }
        }
        let base = "{ \"Dhcp4\": { \"subnet4\": [ { \"subnet\": \"10.0.0.0/24\" } ] } }";
        let before = if flavor == Flavor::Kea { base } else { "" };
        let written = site::with_entries(flavor, Path::new("conf"), before, network, &statics.entries).expect("put in");
        let found = site::read(flavor, Path::new("conf"), &written).expect("what is written can be read");
        let ours: Vec<_> = found.entries.iter().map(|it| (it.mac, it.address, it.ours)).collect();
        let wanted: Vec<_> = statics.entries.iter().map(|it| (Some(it.mac), Some(it.address), true)).collect();
        assert_eq!(ours, wanted);
    }
}
