//! Leases that a DHCP server handed out, as it wrote them down: a reader a flavour. Pure.
//!
//! A server may be writing while we read, and files are damaged: each reader gives what it can read, and says by line
//! what it cannot. What to make of that is the caller's business.

use std::net::Ipv4Addr;
use std::path::Path;

use super::Flavor;
use crate::store::macs::Mac;

mod dnsmasq;
mod isc;
mod kea;

/// When a lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// Never.
    Never,
    /// At this time, seconds since 1970.
    At(u64),
    /// It was given back, taken back or declined: nobody has the address.
    Gone,
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Where it stands: line, from 1.
    pub line: usize,
    /// The address.
    pub address: Ipv4Addr,
    /// Whose it is; absent: no Ethernet address is said.
    pub mac: Option<Mac>,
    /// What the machine called itself.
    pub name: Option<String>,
    /// Its end.
    pub ends: Ends,
}

/// What was read of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Read {
    /// The last word on each address, by address.
    pub leases: Vec<Lease>,
    /// `FILE:LINE: what cannot be read`.
    pub faults: Vec<String>,
}

/// Reads a leases file.
pub fn read(flavor: Flavor, file: &Path, bytes: &[u8]) -> Read {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_suffix('\0').map_or(text, |_| text.trim_end_matches('\0')),
        Err(error) => {
            let line = 1 + bytes.iter().take(error.valid_up_to()).filter(|byte| **byte == b'\n').count();
            let why = "this is no text (UTF-8); if the file is damaged, restore it or remove the damaged part";
            return Read { leases: Vec::new(), faults: vec![super::at(file, line, why)] };
        }
    };
    let (mut all, faults) = match flavor {
        Flavor::Isc => isc::parse(text),
        Flavor::Dnsmasq => dnsmasq::parse(text),
        Flavor::Kea => kea::parse(text),
    };
    // Servers append; what comes later replaces what is said before of an address.
    all.sort_by_key(|lease| (lease.address, lease.line));
    let mut leases: Vec<Lease> = Vec::new();
    for lease in all {
        match leases.last_mut() {
            Some(last) if last.address == lease.address => *last = lease,
            _ => leases.push(lease),
        }
    }
    let faults = faults.into_iter().map(|(line, why)| super::at(file, line, why)).collect();
    Read { leases, faults }
}

/// What a reader gives: leases in the order of the file, and lines that cannot be read.
type Parsed = (Vec<Lease>, Vec<(usize, String)>);

/// A text from a file, as it can be told.
fn quoted(text: &str) -> String {
    let short: String = text.chars().take(60).collect();
    format!("{short:?}")
}

#[cfg(test)]
mod tests;
