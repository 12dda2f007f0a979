//! The image server's settings, and after them what `ip -json address show` prints: the network that machines are
//! installed on, and the configuration of dnsmasq that is made of all that.

use std::path::Path;

use systemimager_core::{BootFile, HostName};
use systemimager_engine::config::parse_settings;
use systemimager_engine::serve::dnsmasq::{self, Input};
use systemimager_engine::serve::interface::{Address, Place, choose, parse};
use systemimager_engine::store::clients::Client;
use systemimager_engine::store::host_links::HostLink;

use crate::seen;
use crate::support::parts;

const ADDRESSES: &[u8] = br#"[{"ifname":"eth0","addr_info":[{"local":"10.0.0.1","prefixlen":24,"scope":"global"}]}]"#;

pub fn target(data: &[u8]) {
    let all = parts(data);
    let addresses: Vec<Address> = match parse(all.get(1).copied().unwrap_or(ADDRESSES)) {
        Ok(addresses) => addresses,
        Err(error) => return seen::one_line(&format!("{error:#}")),
    };
    let Ok(text) = std::str::from_utf8(all[0]) else { return };
    let settings = match parse_settings(Path::new("systemimager.toml"), text) {
        Ok(settings) => settings,
        Err(error) => return seen::lines(&format!("{error:#}")),
    };
    let place: Place = match choose(&addresses, &settings.server) {
        Ok(place) => place,
        Err(why) => return seen::one_line(&why),
    };
    let client = Client {
        host: HostName::try_from("www1").expect("a name"),
        link: HostLink::Copy,
        address: "10.0.0.11".parse().ok(),
        full_name: None,
        mac: "52:54:00:00:00:01".parse().ok(),
    };
    let input = Input {
        place: &place,
        dhcp: &settings.dhcp,
        clients: &[client],
        boot_files: &[BootFile { client_arch: 0, name: "pxelinux.0".into() }],
        tftp_root: settings.paths.tftp.clone(),
        lease_file: settings.paths.state.join("leases"),
        pid_file: settings.paths.run.join("dnsmasq.pid"),
        user: Some("nobody"),
    };
    match dnsmasq::config(&input) {
        Ok(output) => {
            for line in output.text.lines() {
                seen::one_line(line);
                let key = line.split('=').next().unwrap_or_default();
                assert!(line.starts_with('#') || KEYS.contains(&key), "{line:?} is none of our lines");
            }
            output.warnings.iter().chain(&output.notes).for_each(|line| seen::one_line(line));
        }
        Err(why) => seen::one_line(&why),
    }
}

/// What our configuration may say.
const KEYS: [&str; 24] = [
    "port",
    "interface",
    "bind-interfaces",
    "no-resolv",
    "no-hosts",
    "pid-file",
    "enable-tftp",
    "tftp-root",
    "user",
    "group",
    "dhcp-leasefile",
    "dhcp-authoritative",
    "dhcp-sequential-ip",
    "log-dhcp",
    "dhcp-range",
    "dhcp-host",
    "dhcp-ignore",
    "dhcp-match",
    "dhcp-boot",
    "dhcp-option",
    "domain",
    "enable-ra",
    "ra-param",
    "pxe-service",
];
