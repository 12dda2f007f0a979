//! Parsers of the agent, for [`crate::fuzzing`] alone.

use std::collections::BTreeMap;

use anyhow::Result;
use systemimager_core::{Lease, Size};

use super::media::volume;
use super::{dhcp, hardware, network};

/// The lease in a DHCP server's answer to a client with this MAC and number of exchange; `None`: it is none to it.
pub fn dhcp_lease(datagram: &[u8], mac: [u8; 6], xid: u32) -> Option<Lease> {
    dhcp::lease_in(datagram, mac, xid)
}

/// The resolv.conf that is made of a lease.
pub fn resolver(lease: &Lease) -> String {
    network::resolv_conf(lease)
}

/// The MAC address in `BOOTIF=` of a kernel command line.
///
/// # Errors
/// It is none.
pub fn boot_mac(value: &str) -> Result<String> {
    network::boot_mac(value)
}

/// Whether a kernel command line asks for what is not set up.
///
/// # Errors
/// It does.
pub fn refuse_stacked(command_line: &BTreeMap<String, String>) -> Result<()> {
    network::refuse_stacked(command_line)
}

/// The file systems, as mount(2) names them, that a device with these first bytes may hold.
pub fn volumes(head: &[u8]) -> Vec<&'static str> {
    volume::of(head).into_iter().map(volume::Volume::fstype).collect()
}

/// See [`crate::fuzzing::memory`].
pub(crate) fn total(meminfo: &str) -> Size {
    hardware::memory(meminfo)
}
