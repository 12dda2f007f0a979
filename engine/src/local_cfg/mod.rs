//! `local.cfg`: what a medium says of the machine it is put into, as `VARIABLE=value` lines. The paper's format, with the
//! names of classic SystemImager; docs/media.md lists them.
//!
//! It is read and never evaluated. All problems are told, each with its line: a wrong value is an error, since an install
//! under another name or at another address is worse than none; an unknown name is a warning. Pure: finding the file is
//! the miniature system's business.

mod lines;
mod names;

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use systemimager_core::{HostName, ImageName, Lease};

use lines::Assignment;
use names::Variable;

/// Largest file that is read, bytes.
pub const LARGEST: usize = 64 * 1024;
/// Problems that are told one by one; of the others the number.
const MOST_TOLD: usize = 20;
/// Most name servers: what resolv.conf(5) takes.
const MOST_NAME_SERVERS: usize = 3;

/// Something that is wrong, and in which line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// What, and what to do.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "line {}: {}", self.line, self.what)
    }
}

/// All that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told: Vec<String> = self.0.iter().take(MOST_TOLD).map(Problem::to_string).collect();
        out.write_str(&told.join("\n"))?;
        match self.0.len().saturating_sub(MOST_TOLD) {
            0 => Ok(()),
            more => write!(out, "\nand {more} more"),
        }
    }
}

/// Which interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// As the miniature system's kernel names it.
    Name(String),
    /// By its MAC address, lower case with colons.
    Mac(String),
}

impl Device {
    /// Whether an interface of this name and MAC address is meant.
    pub fn is(&self, name: &str, mac: &str) -> bool {
        match self {
            Device::Name(wanted) => wanted == name,
            Device::Mac(wanted) => wanted.eq_ignore_ascii_case(mac),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Name(text) | Device::Mac(text) => out.write_str(text),
        }
    }
}

/// What a file says. What it leaves out is found out as without it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalCfg {
    /// `HOSTNAME`.
    pub host: Option<HostName>,
    /// `DOMAINNAME`.
    pub domain: Option<HostName>,
    /// `DEVICE`.
    pub device: Option<Device>,
    /// `IPADDR` with its prefix length: no DHCP server is asked then.
    pub address: Option<(Ipv4Addr, u8)>,
    /// `GATEWAY`.
    pub gateway: Option<Ipv4Addr>,
    /// `NAMESERVERS`.
    pub name_servers: Vec<Ipv4Addr>,
    /// `IMAGESERVER`, an address or a name.
    pub server: Option<String>,
    /// `IMAGESERVER_PORT`.
    pub port: Option<u16>,
    /// `IMAGENAME`.
    pub image: Option<ImageName>,
    /// Name and value of each line that says something, by line.
    said: BTreeMap<usize, (&'static str, String)>,
}

impl LocalCfg {
    /// The file as plugins get it: `NAME=value` without quotes, blanks or comments, each in the line it has in the file.
    #[must_use]
    pub fn plain(&self) -> String {
        let mut text = String::new();
        let mut at = 1;
        for (line, (name, value)) in &self.said {
            text.extend(std::iter::repeat_n('\n', line.saturating_sub(at)));
            text.push_str(&format!("{name}={value}\n"));
            at = line + 1;
        }
        text
    }

    /// The names that it sets, in the order of its lines.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        self.said.values().map(|(name, _)| *name).collect()
    }

    /// The network that it describes in whole, for this interface; `None`: a DHCP server is to be asked.
    #[must_use]
    pub fn lease(&self, interface: &str, mac: &str) -> Option<Lease> {
        let (address, prefix) = self.address?;
        let lease = Lease {
            interface: interface.to_owned(),
            mac: mac.to_owned(),
            address: Some(address.into()),
            prefix: Some(prefix),
            ..Lease::default()
        };
        Some(self.over(lease))
    }

    /// A lease with what this file says instead.
    #[must_use]
    pub fn over(&self, mut lease: Lease) -> Lease {
        if let Some(gateway) = self.gateway {
            lease.routers = vec![gateway.into()];
        }
        if !self.name_servers.is_empty() {
            lease.name_servers = self.name_servers.iter().map(|server| (*server).into()).collect();
        }
        if let Some(domain) = &self.domain {
            lease.domain = Some(domain.to_string());
        }
        lease
    }
}

/// Reads a file's bytes: what it says, and what to warn of.
///
/// # Errors
/// Every line that cannot be read, and every value that cannot be.
pub fn parse(bytes: &[u8]) -> Result<(LocalCfg, Vec<Problem>), Problems> {
    if bytes.len() > LARGEST {
        let what = format!("the file has more than {LARGEST} bytes; a local.cfg has a few lines, and this is none");
        return Err(Problems(vec![Problem { line: 1, what }]));
    }
    let mut read = Reading::default();
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    for (line, text) in bytes.split(|byte| *byte == b'\n').zip(1..).map(|(text, line)| (line, text)) {
        match lines::assignment(text) {
            Ok(Some(assignment)) => read.take(line, assignment),
            Ok(None) => {}
            Err(what) => read.wrong(line, what),
        }
    }
    read.finish()
}

/// A file that is being read.
#[derive(Default)]
struct Reading {
    cfg: LocalCfg,
    /// Values that only mean something together, with their lines.
    netmask: Option<(usize, u8)>,
    /// The prefix length that stands at the address.
    slash: Option<(usize, u8)>,
    address: Option<(usize, Ipv4Addr)>,
    network: Option<(usize, Ipv4Addr)>,
    broadcast: Option<(usize, Ipv4Addr)>,
    gateway_device: Option<(usize, Device)>,
    first: BTreeMap<&'static str, usize>,
    wrong: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Reading {
    fn wrong(&mut self, line: usize, what: impl Into<String>) {
        self.wrong.push(Problem { line, what: what.into() });
    }

    fn take(&mut self, line: usize, assignment: Assignment) {
        let Assignment { name, value } = assignment;
        let variable = match names::known(&name) {
            Ok(variable) => variable,
            Err(what) => return self.warnings.push(Problem { line, what }),
        };
        // As a variable that is set to nothing in a shell: it is not there.
        if value.is_empty() {
            return;
        }
        let name = variable.name();
        if let Some(before) = self.first.insert(name, line) {
            return self.wrong(line, format!("{name} is given again, after line {before}; leave one of them"));
        }
        match self.set(variable, line, &value) {
            Ok(()) => {
                self.cfg.said.insert(line, (name, value));
            }
            Err(why) => self.wrong(line, format!("{name}: {why}")),
        }
    }

    fn set(&mut self, variable: Variable, line: usize, value: &str) -> Result<(), String> {
        let cfg = &mut self.cfg;
        match variable {
            Variable::Hostname => cfg.host = Some(value.parse().map_err(display)?),
            Variable::Domainname => cfg.domain = Some(value.parse().map_err(display)?),
            Variable::Device => cfg.device = Some(device(value)?),
            Variable::Gatewaydev => self.gateway_device = Some((line, device(value)?)),
            Variable::Ipaddr => match value.split_once('/') {
                None => self.address = Some((line, address(value)?)),
                Some((address_part, prefix)) => {
                    self.address = Some((line, address(address_part)?));
                    self.slash = Some((line, prefix_length(prefix)?));
                }
            },
            Variable::Netmask => self.netmask = Some((line, netmask(value)?)),
            Variable::Network => self.network = Some((line, address(value)?)),
            Variable::Broadcast => self.broadcast = Some((line, address(value)?)),
            Variable::Gateway => cfg.gateway = Some(address(value)?),
            Variable::Nameservers => {
                let words = value.split([' ', ',', '\t']).filter(|word| !word.is_empty());
                let servers = words.map(address).collect::<Result<Vec<_>, _>>()?;
                if servers.len() > MOST_NAME_SERVERS {
                    return Err(format!("{} name servers; a machine asks at most {MOST_NAME_SERVERS}", servers.len()));
                }
                cfg.name_servers = servers;
            }
            Variable::Imageserver => cfg.server = Some(server(value)?),
            Variable::ImageserverPort => {
                let port = value.parse().ok().filter(|port| *port != 0);
                cfg.port = Some(port.ok_or_else(|| format!("{value:?} is not a port; give a number from 1 to 65535"))?);
            }
            Variable::Imagename => cfg.image = Some(value.parse().map_err(display)?),
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(LocalCfg, Vec<Problem>), Problems> {
        self.together();
        if !self.wrong.is_empty() {
            self.wrong.sort_by_key(|problem| problem.line);
            return Err(Problems(self.wrong));
        }
        Ok((self.cfg, self.warnings))
    }

    /// What only means something together.
    fn together(&mut self) {
        if let (Some((line, slash)), Some((other, mask))) = (self.slash, self.netmask)
            && slash != mask
        {
            self.wrong(
                line,
                format!("IPADDR says /{slash}, and NETMASK in line {other} is /{mask}; leave one of them"),
            );
        }
        let prefix = self.slash.or(self.netmask);
        let (line, at) = match (self.address, prefix) {
            (Some((line, address)), Some((_, prefix))) => (line, (address, prefix)),
            (Some((line, address)), None) => {
                return self.wrong(
                    line,
                    format!("IPADDR has no netmask; write IPADDR={address}/24, or NETMASK=255.255.255.0 beside it"),
                );
            }
            (None, _) => {
                let lonely = [self.netmask.map(|it| ("NETMASK", it.0)), self.network.map(|it| ("NETWORK", it.0))];
                let broadcast = self.broadcast.map(|it| ("BROADCAST", it.0));
                for (name, line) in lonely.into_iter().chain([broadcast]).flatten() {
                    self.wrong(line, format!("{name} says nothing without IPADDR; give the address, or leave it out"));
                }
                self.same_device();
                return;
            }
        };
        self.cfg.address = Some(at);
        let (network, broadcast) = ends(at);
        let host = prefix.is_some_and(|(_, prefix)| prefix >= 31);
        if !host && (at.0 == network || at.0 == broadcast) {
            self.wrong(
                line,
                format!("IPADDR={} is the network {network}/{} itself, or its broadcast address", at.0, at.1),
            );
        }
        for (name, given, expected) in [("NETWORK", self.network, network), ("BROADCAST", self.broadcast, broadcast)] {
            if let Some((line, given)) = given.filter(|(_, given)| *given != expected) {
                self.wrong(
                    line,
                    format!(
                        "{name}={given}, but by IPADDR and its netmask it is {expected}; correct the one that is wrong"
                    ),
                );
            }
        }
        if let (Some(gateway), Some(line)) = (self.cfg.gateway, self.first.get("GATEWAY").copied()) {
            if gateway == at.0 {
                self.wrong(line, format!("GATEWAY={gateway} is the machine's own address"));
            } else if ends((gateway, at.1)) != (network, broadcast) {
                self.wrong(line, format!("GATEWAY={gateway} is not in the machine's network {network}/{}", at.1));
            }
        }
        self.same_device();
    }

    fn same_device(&mut self) {
        if let (Some((line, gateway)), Some(device)) = (&self.gateway_device, &self.cfg.device)
            && gateway != device
        {
            let (line, what) = (
                *line,
                format!("GATEWAYDEV={gateway}, and DEVICE={device}: while it is installed a machine has one interface"),
            );
            self.wrong(line, what);
        }
    }
}

fn display(error: impl fmt::Display) -> String {
    error.to_string()
}

/// First and last address of a network.
fn ends((address, prefix): (Ipv4Addr, u8)) -> (Ipv4Addr, Ipv4Addr) {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
    let bits = address.to_bits();
    (Ipv4Addr::from_bits(bits & mask), Ipv4Addr::from_bits(bits | !mask))
}

/// One that a machine or a router can have.
fn address(text: &str) -> Result<Ipv4Addr, String> {
    let address: Ipv4Addr = text.parse().map_err(|_| format!("{text:?} is not an IPv4 address such as 10.0.0.11"))?;
    if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
        return Err(format!("{address} is no address that a machine on a network can have"));
    }
    Ok(address)
}

fn prefix_length(text: &str) -> Result<u8, String> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|prefix| plain && (1..=32).contains(prefix))
        .ok_or_else(|| format!("{text:?} is not a prefix length from 1 to 32"))
}

/// `255.255.255.0`, or `24`.
fn netmask(text: &str) -> Result<u8, String> {
    if !text.contains('.') {
        return prefix_length(text.strip_prefix('/').unwrap_or(text));
    }
    let bits = text.parse::<Ipv4Addr>().ok().map(Ipv4Addr::to_bits);
    bits.filter(|bits| *bits != 0 && bits.leading_ones() + bits.trailing_zeros() == 32)
        .and_then(|bits| u8::try_from(bits.leading_ones()).ok())
        .ok_or_else(|| format!("{text:?} is not a netmask such as 255.255.255.0"))
}

/// An interface by the kernel's name (dev_valid_name() of the kernel), or by its MAC.
fn device(text: &str) -> Result<Device, String> {
    let octets: Vec<&str> = text.split([':', '-']).collect();
    let hex = |octet: &&str| octet.len() == 2 && octet.bytes().all(|byte| byte.is_ascii_hexdigit());
    if octets.len() == 6 && octets.iter().all(hex) {
        return Ok(Device::Mac(octets.join(":").to_ascii_lowercase()));
    }
    let fine = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    if text.len() > 15 || text.starts_with(['.', '-']) || !text.chars().all(fine) {
        return Err(format!(
            "{text:?} is neither an interface such as eth0 nor a MAC address such as 52:54:00:12:34:56"
        ));
    }
    Ok(Device::Name(text.to_owned()))
}

/// The image server: an address or a name.
///
/// # Errors
/// It is neither.
pub fn server(text: &str) -> Result<String, String> {
    if text.parse::<Ipv4Addr>().is_ok() {
        return address(text).map(|it| it.to_string());
    }
    let numeric = text.chars().all(|letter| letter.is_ascii_digit() || letter == '.');
    match HostName::try_from(text) {
        Ok(name) if !numeric => Ok(name.into()),
        _ => Err(format!("{text:?} is neither an IPv4 address nor a host name; a port goes into IMAGESERVER_PORT")),
    }
}

#[cfg(test)]
mod tests;
