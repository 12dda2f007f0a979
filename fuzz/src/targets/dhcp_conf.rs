//! Configurations of DHCP servers that others wrote: our parts are put in, and theirs stay.

use std::path::Path;

use systemimager_core::BootFile;
use systemimager_engine::serve::site::{self, Flavor, Reservation, Site};

use crate::seen;

pub fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let file = Path::new("conf");
    let wanted = Site {
        network: "10.0.0.1/24".parse().expect("a network"),
        server: [10, 0, 0, 1].into(),
        interface: "eth0".into(),
        ranges: vec!["10.0.0.10-10.0.0.20".parse().expect("a range")],
        router: None,
        name_servers: Vec::new(),
        domain: None,
        lease_seconds: 600,
        boot_files: vec![BootFile { client_arch: 0, name: "x.0".into() }],
    };
    let entries = [Reservation {
        address: [10, 0, 0, 12].into(),
        host: "www1".try_into().expect("a name"),
        mac: "52:54:00:00:00:01".parse().expect("a MAC"),
    }];
    for flavor in Flavor::ALL {
        let before = match site::read(flavor, file, text) {
            Ok(before) => before,
            Err(why) => {
                seen::lines(&why);
                assert!(site::with_site(flavor, file, text, &wanted).is_err(), "what cannot be read is not changed");
                continue;
            }
        };
        let put = |text: &str| site::with_site(flavor, file, text, &wanted);
        let new = match put(text) {
            Ok(new) => new,
            Err(why) => {
                seen::lines(&why);
                continue;
            }
        };
        let after = site::read(flavor, file, &new).expect("read before it was given");
        assert!(after.served.is_some(), "{flavor}: {new}");
        // Where several things of Kea's share a line, how far they are indented depends on what is before them.
        let bare = |text: &str| match flavor {
            Flavor::Kea => text.split_whitespace().collect::<String>(),
            Flavor::Isc | Flavor::Dnsmasq => text.to_owned(),
        };
        let again = put(&new).expect("what we wrote we take");
        assert_eq!(bare(&again), bare(&new), "{flavor}: twice is the same as once");
        let others = |found: &site::Found| -> Vec<_> {
            let theirs = found.entries.iter().filter(|it| !it.ours);
            theirs.map(|it| (it.name.clone(), it.mac, it.address)).collect()
        };
        assert_eq!(others(&after), others(&before), "{flavor}: {new}");
        let fixed = site::with_entries(flavor, file, &new, wanted.network, &entries);
        let fixed = match fixed {
            Ok(fixed) => fixed,
            Err(why) => {
                seen::lines(&why);
                continue;
            }
        };
        let found = site::read(flavor, file, &fixed).expect("read before it was given");
        assert_eq!(others(&found), others(&before), "{flavor}: {fixed}");
        assert!(found.entries.iter().any(|it| it.ours && it.address == Some(entries[0].address)), "{flavor}: {fixed}");
    }
}
