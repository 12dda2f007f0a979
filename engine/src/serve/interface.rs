//! Which interface and address of this machine the installation network is on.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use serde::Deserialize;

use crate::config::{SETTINGS_FILE, ServerSettings};
use crate::store::addresses::Network;
use crate::sys::{Cmd, Tool};

/// An address that this machine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The interface.
    pub interface: String,
    /// Address and prefix.
    pub network: Network,
}

/// Where the server serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The interface.
    pub interface: String,
    /// The server's address there, and the network.
    pub network: Network,
    /// A unique local IPv6 network (RFC 4193) on the same interface. Loaders that speak IPv6 wait long for an
    /// advertisement of it before they go on.
    pub ula: Option<Network>,
}

/// Of `ip -json address show`: what is used here.
#[derive(Debug, Deserialize)]
struct Link {
    ifname: String,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    addr_info: Vec<Info>,
}

#[derive(Debug, Deserialize)]
struct Info {
    #[serde(default)]
    local: Option<IpAddr>,
    #[serde(default)]
    prefixlen: u8,
    #[serde(default)]
    scope: String,
}

/// The addresses of global scope that are not loopback's, from the output of `ip -json address show`.
///
/// # Errors
/// It is not that.
pub fn parse(json: &[u8]) -> Result<Vec<Address>> {
    let links: Vec<Link> = serde_json::from_slice(json).context("reading the output of ip -json address show")?;
    let mut addresses = Vec::new();
    for link in links.into_iter().filter(|link| !link.flags.iter().any(|flag| flag == "LOOPBACK")) {
        for info in link.addr_info.iter().filter(|info| info.scope == "global") {
            if let Some(local) = info.local {
                let network = Network::new(local, info.prefixlen).map_err(|error| anyhow!("ip reports {error}"))?;
                addresses.push(Address { interface: link.ifname.clone(), network });
            }
        }
    }
    Ok(addresses)
}

/// The addresses of this machine.
///
/// # Errors
/// `ip` is missing or fails.
pub fn addresses() -> Result<Vec<Address>> {
    let output = Cmd::tool(Tool::Ip).args(["-json", "address", "show"]).timeout(Duration::from_secs(10)).read()?;
    parse(&output)
}

/// Chooses among them by the settings; without settings there must be only one IPv4 address.
///
/// # Errors
/// None fits, or several do: names those that are there and the setting that decides.
pub fn choose(addresses: &[Address], settings: &ServerSettings) -> Result<Place, String> {
    let listed = |list: &[&Address]| match list {
        [] => "none".to_owned(),
        list => list.iter().map(|one| format!("{} on {}", one.network, one.interface)).collect::<Vec<_>>().join(", "),
    };
    let v4: Vec<&Address> = addresses.iter().filter(|one| one.network.address.is_ipv4()).collect();
    if let Some(address) = settings.address.filter(IpAddr::is_ipv6) {
        return Err(format!(
            "server.address = \"{address}\" in {SETTINGS_FILE}: bare machines are installed over IPv4; name an IPv4 address"
        ));
    }
    let fitting: Vec<&Address> = v4
        .iter()
        .copied()
        .filter(|one| settings.address.is_none_or(|address| address == one.network.address))
        .filter(|one| settings.interface.as_ref().is_none_or(|interface| *interface == one.interface))
        .collect();
    let asked = match (&settings.address, &settings.interface) {
        (Some(address), Some(interface)) => format!("the address {address} on {interface}"),
        (Some(address), None) => format!("the address {address}"),
        (None, Some(interface)) => format!("an IPv4 address on {interface}"),
        (None, None) => "an IPv4 address besides loopback's".to_owned(),
    };
    match fitting.as_slice() {
        [one] => Ok(Place {
            interface: one.interface.clone(),
            network: one.network,
            ula: addresses
                .iter()
                .filter(|other| other.interface == one.interface)
                .map(|other| other.network)
                .find(|network| matches!(network.address, IpAddr::V6(v6) if v6.octets()[0] & 0xfe == 0xfc)),
        }),
        [] => Err(format!(
            "this machine does not have {asked} (there: {}); set server.address or server.interface in {SETTINGS_FILE}",
            listed(&v4)
        )),
        several => Err(format!(
            "which network are machines installed on? This machine has {}; set server.address in {SETTINGS_FILE}",
            listed(several)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"[
      {"ifname":"lo","flags":["LOOPBACK","UP"],"addr_info":[{"family":"inet","local":"127.0.0.1","prefixlen":8,"scope":"host"}]},
      {"ifname":"eth0","flags":["UP"],"addr_info":[
        {"family":"inet","local":"10.77.0.1","prefixlen":24,"scope":"global"},
        {"family":"inet6","local":"fd77::1","prefixlen":64,"scope":"global"},
        {"family":"inet6","local":"fe80::1","prefixlen":64,"scope":"link"}]},
      {"ifname":"eth1","flags":["UP"],"addr_info":[{"family":"inet","local":"192.168.1.5","prefixlen":16,"scope":"global"}]},
      {"ifname":"eth2","flags":[],"addr_info":[]}]"#;

    fn settings(address: Option<&str>, interface: Option<&str>) -> ServerSettings {
        ServerSettings {
            address: address.map(|address| address.parse().unwrap()),
            interface: interface.map(str::to_owned),
            ..ServerSettings::default()
        }
    }

    /// Name, addresses, settings, and what comes of them: interface, network, whether there is a ULA.
    type Row<'a> = (&'a str, &'a [Address], ServerSettings, Result<(&'a str, &'a str, bool), &'a str>);

    #[test]
    fn chosen_or_explained() {
        let all = parse(JSON.as_bytes()).unwrap();
        let rows: [Row<'_>; 8] = [
            ("by address", &all, settings(Some("10.77.0.1"), None), Ok(("eth0", "10.77.0.1/24", true))),
            ("by interface", &all, settings(None, Some("eth1")), Ok(("eth1", "192.168.1.5/16", false))),
            ("the only one", &all[..2], settings(None, None), Ok(("eth0", "10.77.0.1/24", true))),
            (
                "ambiguous",
                &all,
                settings(None, None),
                Err(
                    "which network are machines installed on? This machine has 10.77.0.1/24 on eth0, 192.168.1.5/16 on eth1; \
                     set server.address in /etc/systemimager/systemimager.toml",
                ),
            ),
            (
                "no such address",
                &all,
                settings(Some("10.0.0.1"), None),
                Err(
                    "this machine does not have the address 10.0.0.1 (there: 10.77.0.1/24 on eth0, 192.168.1.5/16 on eth1); \
                     set server.address or server.interface in /etc/systemimager/systemimager.toml",
                ),
            ),
            (
                "both disagree",
                &all,
                settings(Some("10.77.0.1"), Some("eth1")),
                Err(
                    "this machine does not have the address 10.77.0.1 on eth1 (there: 10.77.0.1/24 on eth0, 192.168.1.5/16 on eth1); \
                     set server.address or server.interface in /etc/systemimager/systemimager.toml",
                ),
            ),
            (
                "none",
                &[],
                settings(None, None),
                Err("this machine does not have an IPv4 address besides loopback's (there: none); \
                     set server.address or server.interface in /etc/systemimager/systemimager.toml"),
            ),
            (
                "IPv6",
                &all,
                settings(Some("fd77::1"), None),
                Err(
                    "server.address = \"fd77::1\" in /etc/systemimager/systemimager.toml: bare machines are installed over IPv4; \
                     name an IPv4 address",
                ),
            ),
        ];
        for (name, addresses, settings, expected) in rows {
            let place = choose(addresses, &settings);
            match (place, expected) {
                (Ok(place), Ok((interface, network, ula))) => {
                    assert_eq!(
                        (place.interface.as_str(), place.network.to_string(), place.ula.is_some()),
                        (interface, network.into(), ula),
                        "{name}"
                    );
                }
                (place, expected) => {
                    assert_eq!(place.map(|_| ()), expected.map(|_| ()).map_err(str::to_owned), "{name}")
                }
            }
        }
        assert!(parse(b"x").is_err());
    }
}
