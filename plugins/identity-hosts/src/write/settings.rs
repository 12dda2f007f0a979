//! Network settings that are fit to be written: each value checked once, here. They came over the network.

use std::net::IpAddr;

use systemimager_core::{HostName, Identity, NetworkMode, PluginError, Result};

use crate::subnet;

/// Settings of one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// MAC address, lower case with colons.
    pub mac: String,
    /// Address to be written down; absent: DHCP.
    pub fixed: Option<Fixed>,
    /// Name servers; empty with DHCP.
    pub name_servers: Vec<IpAddr>,
    /// Domain to search; absent with DHCP.
    pub domain: Option<String>,
}

/// An address that is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    /// The address.
    pub address: IpAddr,
    /// Its prefix length.
    pub prefix: u8,
    /// Router, in the address's subnet.
    pub router: Option<IpAddr>,
}

impl Settings {
    /// Checks what an identity says. `mode` is not `Keep`.
    ///
    /// # Errors
    /// `Invalid`: no MAC address; no address or prefix length to write down; a router that the address
    /// cannot reach; a domain that is none.
    pub fn new(identity: &Identity, mode: NetworkMode) -> Result<Self> {
        let (name, network) = (&identity.name, &identity.network);
        let mac = network.mac.to_ascii_lowercase();
        let is_pair = |pair: &str| pair.len() == 2 && pair.bytes().all(|letter| letter.is_ascii_hexdigit());
        if mac.split(':').count() != 6 || !mac.split(':').all(is_pair) {
            return Err(PluginError::invalid(format!(
                "the interface of {name} has the MAC address {:?}, by which it cannot be told from others; six pairs of \
                 hexadecimal digits with colons are needed, or network = \"keep\" in the master file",
                network.mac
            )));
        }
        if mode == NetworkMode::Dhcp {
            return Ok(Self { mac, fixed: None, name_servers: Vec::new(), domain: None });
        }
        let (Some(address), Some(prefix)) = (network.address, network.prefix) else {
            return Err(PluginError::invalid(format!(
                "no address with a prefix length is known for {name}, so none can be written down; let DHCP give it one \
                 while it is installed, or write network = \"dhcp\" or \"keep\" into the master file"
            )));
        };
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if prefix > longest {
            return Err(PluginError::invalid(format!(
                "{name} has the address {address}/{prefix}; a prefix length is at most {longest}; correct the DHCP server"
            )));
        }
        if let Some(router) = network.router
            && !subnet::same(address, router, prefix)
        {
            return Err(PluginError::invalid(format!(
                "the router {router} of {name} is not in the subnet of {address}/{prefix} and could not be reached; \
                 correct the DHCP server, or write network = \"dhcp\" into the master file"
            )));
        }
        if let Some(domain) = &network.domain {
            HostName::try_from(domain.as_str())
                .map_err(|error| PluginError::invalid(format!("the domain of {name}: {error}; correct it")))?;
        }
        Ok(Self {
            mac,
            fixed: Some(Fixed { address, prefix, router: network.router }),
            name_servers: network.name_servers.clone(),
            domain: network.domain.clone(),
        })
    }

    /// An address is written down.
    pub fn is_static(&self) -> bool {
        self.fixed.is_some()
    }

    /// Name servers of one kind, v6 or v4.
    pub fn servers(&self, v6: bool) -> impl Iterator<Item = &IpAddr> {
        self.name_servers.iter().filter(move |server| server.is_ipv6() == v6)
    }
}

impl Fixed {
    /// `10.0.0.11/23`.
    pub fn with_prefix(&self) -> String {
        format!("{}/{}", self.address, self.prefix)
    }
}

/// Values with something between them.
pub fn joined<T: ToString>(values: impl IntoIterator<Item = T>, between: &str) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(between)
}
