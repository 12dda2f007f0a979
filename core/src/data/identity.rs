//! Who a machine is: the facts, and the answer.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{HostName, ImageName};

/// What a DHCP server said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Interface.
    pub interface: String,
    /// MAC address of the interface.
    pub mac: String,
    /// Address.
    pub address: Option<IpAddr>,
    /// Prefix length.
    pub prefix: Option<u8>,
    /// Routers.
    #[serde(default)]
    pub routers: Vec<IpAddr>,
    /// Name servers.
    #[serde(default)]
    pub name_servers: Vec<IpAddr>,
    /// Host name option, as sent: not yet a valid name.
    #[serde(default)]
    pub host_name: Option<String>,
    /// Domain option.
    #[serde(default)]
    pub domain: Option<String>,
    /// The server that gave the lease.
    #[serde(default)]
    pub server: Option<IpAddr>,
}

/// Everything by which a machine may be told from others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Kernel command line, `NAME=value` pairs; a word without `=` has an empty value.
    pub command_line: BTreeMap<String, String>,
    /// Leases, the boot interface's first.
    pub leases: Vec<Lease>,
    /// MAC of the interface the machine booted from, if known (BOOTIF).
    #[serde(default)]
    pub boot_mac: Option<String>,
    /// All MACs.
    pub macs: Vec<String>,
    /// The image server's hosts file, as text (the one in the TFTP tree).
    #[serde(default)]
    pub hosts_file: String,
    /// local.cfg, as text, if a medium had one: lines `NAME=value`, checked already, without quotes and comments, each in
    /// the line that it has in the file.
    #[serde(default)]
    pub local_cfg: Option<String>,
    /// DMI facts.
    #[serde(default)]
    pub dmi: BTreeMap<String, String>,
    /// Which host has which MAC, as text: lines `host,mac` as the image server keeps them (`addclients --macs`).
    #[serde(default)]
    pub macs_file: String,
}

/// Network settings of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSettings {
    /// MAC of the interface that they are for.
    pub mac: String,
    /// Name of that interface in the miniature system (the installed one may name it otherwise: match by MAC).
    pub interface: String,
    /// Address.
    pub address: Option<IpAddr>,
    /// Prefix length.
    pub prefix: Option<u8>,
    /// Default router.
    pub router: Option<IpAddr>,
    /// Name servers.
    #[serde(default)]
    pub name_servers: Vec<IpAddr>,
    /// Domain.
    #[serde(default)]
    pub domain: Option<String>,
}

/// How the installed machine gets its addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkMode {
    /// The address found while installing, written down.
    #[default]
    Static,
    /// DHCP at each boot.
    Dhcp,
    /// What the image has is left alone.
    Keep,
}

/// Who this machine is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its name.
    pub name: HostName,
    /// The image it asked for (kernel command line, local.cfg), if any; else its host link decides.
    #[serde(default)]
    pub image: Option<ImageName>,
    /// Its network.
    pub network: NetworkSettings,
    /// Where the name was found, for people: `hosts file, by 10.0.0.11`.
    pub found_in: String,
}
