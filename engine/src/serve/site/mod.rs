//! The configuration of a site's own DHCP server, so that it serves the machines that are to be installed: a subnet
//! with boot files, and static entries.
//!
//! A file a flavour ([`isc`], [`dnsmasq`], [`kea`]); what they have in common is here. All of it is pure, text in and
//! text out, but for [`replace`], which alone looks at files and has the server's own program check them. What others
//! wrote into a configuration stays byte for byte; ours stands in a marked block, or in marked members.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::Path;

use serde::Serialize;
use systemimager_core::{BootFile, HostName};

use crate::store::addresses::Network;
use crate::store::macs::Mac;
use crate::sys::Tool;

mod block;
pub mod difference;
pub mod dnsmasq;
pub mod isc;
mod isc_words;
mod json_text;
pub mod kea;
pub mod leases;
pub mod mode;
pub mod replace;
pub mod statics;

/// What `option 93` of firmware that boots by HTTP is at least (IANA's registry of processor architectures): it takes
/// only offers of vendor class `HTTPClient` (UEFI 2.10, section 24.7).
pub const FIRST_HTTP_ARCH: u16 = 15;

/// Which program serves DHCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Flavor {
    /// ISC dhcpd (dhcpd.conf(5)), as in the paper.
    Isc,
    /// dnsmasq (dnsmasq(8)).
    Dnsmasq,
    /// Kea (its Administrator Reference Manual, "The DHCPv4 Server").
    Kea,
}

impl Flavor {
    /// All of them.
    pub const ALL: [Flavor; 3] = [Flavor::Isc, Flavor::Dnsmasq, Flavor::Kea];

    /// What it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Flavor::Isc => "isc",
            Flavor::Dnsmasq => "dnsmasq",
            Flavor::Kea => "kea",
        }
    }

    /// The server's program, which also checks configurations.
    pub fn tool(self) -> Tool {
        match self {
            Flavor::Isc => Tool::Dhcpd,
            Flavor::Dnsmasq => Tool::Dnsmasq,
            Flavor::Kea => Tool::KeaDhcp4,
        }
    }

    /// Where its configuration lies, before `--root`; the first is written where none of them is there.
    pub fn files(self) -> &'static [&'static str] {
        match self {
            Flavor::Isc => &["/etc/dhcp/dhcpd.conf", "/etc/dhcpd.conf"],
            Flavor::Dnsmasq => &["/etc/dnsmasq.d/systemimager.conf"],
            Flavor::Kea => &["/etc/kea/kea-dhcp4.conf"],
        }
    }

    /// Where it keeps its leases, before `--root`.
    pub fn lease_files(self) -> &'static [&'static str] {
        match self {
            Flavor::Isc => &["/var/lib/dhcp/dhcpd.leases", "/var/lib/dhcpd/dhcpd.leases"],
            Flavor::Dnsmasq => &["/var/lib/misc/dnsmasq.leases", "/var/lib/dnsmasq/dnsmasq.leases"],
            Flavor::Kea => &["/var/lib/kea/kea-leases4.csv"],
        }
    }

    /// The systemd unit that has to be restarted, as Debian calls it.
    pub fn unit(self) -> &'static str {
        match self {
            Flavor::Isc => "isc-dhcp-server",
            Flavor::Dnsmasq => "dnsmasq",
            Flavor::Kea => "kea-dhcp4-server",
        }
    }
}

impl fmt::Display for Flavor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// Addresses without a gap: first and last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Span {
    /// The first.
    pub first: Ipv4Addr,
    /// The last, not before the first.
    pub last: Ipv4Addr,
}

impl Span {
    /// Whether an address is among them.
    pub fn holds(&self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address)
    }

    /// What is left of them without these addresses.
    pub fn without(&self, taken: &BTreeSet<Ipv4Addr>) -> Vec<Span> {
        let mut left = Vec::new();
        let mut first = Some(self.first);
        for address in taken.range(self.first..=self.last) {
            if let Some(first) = first.filter(|first| first < address)
                && let Some(last) = before(*address)
            {
                left.push(Span { first, last });
            }
            first = address.to_bits().checked_add(1).map(Ipv4Addr::from_bits);
        }
        if let Some(first) = first.filter(|first| *first <= self.last) {
            left.push(Span { first, last: self.last });
        }
        left
    }
}

fn before(address: Ipv4Addr) -> Option<Ipv4Addr> {
    address.to_bits().checked_sub(1).map(Ipv4Addr::from_bits)
}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let explain = || format!("{text:?} is no range of addresses; write for example 10.0.0.100-10.0.0.200");
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let first: Ipv4Addr = first.trim().parse().map_err(|_| explain())?;
        let last: Ipv4Addr = last.trim().parse().map_err(|_| explain())?;
        if last < first {
            return Err(format!("{text:?} ends before it begins; write the lower address first"));
        }
        Ok(Self { first, last })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{}", self.first, self.last)
    }
}

/// What a site's server is to serve.
#[derive(Debug, Clone, Serialize)]
pub struct Site {
    /// The subnet: any address in it, and the length of its prefix.
    #[serde(serialize_with = "shown")]
    pub network: Network,
    /// The image server: machines fetch what they boot from it.
    pub server: Ipv4Addr,
    /// The interface that the DHCP server serves; only Kea's configuration names it.
    pub interface: String,
    /// Addresses that are given to machines without a static entry.
    pub ranges: Vec<Span>,
    /// The router handed out.
    pub router: Option<Ipv4Addr>,
    /// The name servers handed out.
    pub name_servers: Vec<Ipv4Addr>,
    /// The domain handed out.
    pub domain: Option<HostName>,
    /// Seconds of a lease.
    pub lease_seconds: u32,
    /// What firmware is to ask for.
    pub boot_files: Vec<BootFile>,
}

fn shown<S: serde::Serializer>(network: &Network, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(network)
}

impl Site {
    /// That it makes sense as a whole, and that every word of it can stand in a configuration.
    ///
    /// # Errors
    /// All that is wrong, a line each.
    pub fn check(&self) -> Result<(), String> {
        let mut faults = Vec::new();
        let network = format!("{}/{}", self.network.base(), self.network.prefix);
        if !self.network.address.is_ipv4() || self.network.prefix > 30 {
            return Err(format!("{network} is no network for DHCP; name an IPv4 network with a prefix of at most 30"));
        }
        let mut ranges = self.ranges.clone();
        ranges.sort_unstable();
        for range in &ranges {
            for address in [range.first, range.last] {
                if !self.network.holds_host(address.into()) {
                    faults.push(format!("{address} of the range {range} is no host's address in {network}"));
                }
            }
            for (whose, address) in [("this image server's", Some(self.server)), ("the router's", self.router)] {
                if let Some(address) = address.filter(|address| range.holds(*address)) {
                    faults.push(format!("the range {range} holds {address}, which is {whose}; leave it out"));
                }
            }
        }
        for pair in ranges.windows(2) {
            if let [one, other] = pair
                && other.first <= one.last
            {
                faults.push(format!("the ranges {one} and {other} overlap; make one of them"));
            }
        }
        if let Some(router) = self.router.filter(|router| !self.network.holds_host((*router).into())) {
            faults.push(format!("the router {router} is no host's address in {network}"));
        }
        if self.lease_seconds == 0 {
            faults.push("a lease of 0 seconds ends before it begins; give it at least 1".into());
        }
        faults.extend(word("the interface", &self.interface).err());
        faults.extend(self.boot_files.iter().filter_map(|file| word("the boot file's name", &file.name).err()));
        if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
    }
}

/// A text that means itself in each of the configurations.
fn word<'a>(what: &str, text: &'a str) -> Result<&'a str, String> {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "._-/+@:".contains(letter);
    if !text.is_empty() && text.chars().all(fits) {
        return Ok(text);
    }
    Err(format!(
        "{what} is {text:?}, which not every configuration can hold; use letters, digits, '.', '_', '-', '/', ':', '+' \
         and '@'"
    ))
}

/// A machine that always gets the same address and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Reservation {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its name.
    pub host: HostName,
    /// Its Ethernet address.
    #[serde(serialize_with = "mac_shown")]
    pub mac: Mac,
}

fn mac_shown<S: serde::Serializer>(mac: &Mac, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(mac)
}

/// A static entry that a configuration has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Line, from 1.
    pub line: usize,
    /// What it calls the machine.
    pub name: Option<String>,
    /// The machine's Ethernet address.
    pub mac: Option<Mac>,
    /// What it gets.
    pub address: Option<Ipv4Addr>,
    /// It is ours.
    pub ours: bool,
}

/// What a configuration has of what is of interest here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Static entries.
    pub entries: Vec<Entry>,
    /// Ranges that were not written by us, with their lines.
    pub ranges: Vec<(usize, Span)>,
    /// The line where our subnet begins, if it is there.
    pub served: Option<usize>,
}

/// What a configuration has.
///
/// # Errors
/// `FILE:LINE: what is wrong`.
pub fn read(flavor: Flavor, file: &Path, text: &str) -> Result<Found, String> {
    match flavor {
        Flavor::Isc => isc::read(file, text),
        Flavor::Dnsmasq => dnsmasq::read(file, text),
        Flavor::Kea => kea::read(file, text),
    }
}

/// The configuration with this subnet in it, in the place of ours if there is one.
///
/// # Errors
/// `FILE:LINE: what is wrong`; or the site makes no sense, a line for each fault.
pub fn with_site(flavor: Flavor, file: &Path, text: &str, site: &Site) -> Result<String, String> {
    site.check()?;
    let new = match flavor {
        Flavor::Isc => isc::with_site(file, text, site),
        Flavor::Dnsmasq => dnsmasq::with_site(file, text, site),
        Flavor::Kea => kea::with_site(file, text, site),
    }?;
    still_read(flavor, file, new)
}

/// The configuration with these static entries in the place of ours.
///
/// # Errors
/// `FILE:LINE: what is wrong`.
pub fn with_entries(
    flavor: Flavor,
    file: &Path,
    text: &str,
    network: Network,
    entries: &[Reservation],
) -> Result<String, String> {
    let new = match flavor {
        Flavor::Isc => isc::with_entries(file, text, entries),
        Flavor::Dnsmasq => dnsmasq::with_entries(file, text, entries),
        Flavor::Kea => kea::with_entries(file, text, network, entries),
    }?;
    let new = still_read(flavor, file, new)?;
    let ours = read(flavor, file, &new)?.entries.into_iter().filter(|entry| entry.ours);
    let ours: Vec<_> = ours.filter_map(|entry| Some((entry.mac?, entry.address?))).collect();
    if ours.iter().copied().eq(entries.iter().map(|entry| (entry.mac, entry.address))) {
        return Ok(new);
    }
    Err(format!(
        "{}: what stands before our static entries has no end (a ';', perhaps), so that they would be part of it; mend it",
        file.display()
    ))
}

/// Marks of ours may stand where they are no remarks, such as in a string; what takes their place breaks it then.
fn still_read(flavor: Flavor, file: &Path, new: String) -> Result<String, String> {
    match read(flavor, file, &new) {
        Ok(_) => Ok(new),
        Err(why) => Err(format!("what would be written could not be read again, so it is not written: {why}")),
    }
}

/// `FILE:LINE: why`.
fn at(file: &Path, line: usize, why: impl fmt::Display) -> String {
    format!("{}:{line}: {why}", file.display())
}

#[cfg(test)]
mod tests;
