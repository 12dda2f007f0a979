//! Debian's and Ubuntu's own tools: ifupdown (interfaces(5)) and netplan (netplan(5)).

use systemimager_core::Step;

use super::settings::{Settings, joined};
use super::{INTERFACE, file, named_by_mac};
use crate::detect::Found;

/// `/etc/network/interfaces` as a whole.
///
/// interfaces(5) knows patterns for MAC addresses (`auto mac/…=NAME`), but lists no such interface before
/// it is there: ifupdown-pre.service then sees nothing to wait for, and boot races against the driver.
/// `allow-hotplug` does not work with them at all. With a name of its own the interface is waited for
/// (`auto`) and configured when it comes later (`allow-hotplug`); ifup locks, so the second does nothing.
pub fn interfaces(settings: &Settings, found: &Found) -> Vec<Step> {
    let mut text = format!(
        "# Written by SystemImager. {INTERFACE} is the interface with the MAC address {}, named so by\n\
         # /etc/udev/rules.d/70-systemimager-net.rules.\n",
        settings.mac
    );
    if found.interfaces_d.is_empty() {
        text.push_str("source /etc/network/interfaces.d/*\n");
    } else {
        text.push_str("# Not included, because they are about the master client's interfaces:\n");
        for file in &found.interfaces_d {
            text.push_str(&format!("#   {file}\n"));
        }
    }
    text.push_str(&format!("\nauto lo\niface lo inet loopback\n\nauto {INTERFACE}\nallow-hotplug {INTERFACE}\n"));
    match &settings.fixed {
        None => text.push_str(&format!("iface {INTERFACE} inet dhcp\n")),
        Some(fixed) => {
            let family = if fixed.address.is_ipv6() { "inet6" } else { "inet" };
            text.push_str(&format!("iface {INTERFACE} {family} static\n    address {}\n", fixed.with_prefix()));
            if let Some(router) = fixed.router {
                text.push_str(&format!("    gateway {router}\n"));
            }
            // For resolvconf and systemd-resolved, where they are there.
            if !settings.name_servers.is_empty() {
                text.push_str(&format!("    dns-nameservers {}\n", joined(&settings.name_servers, " ")));
            }
            if let Some(domain) = &settings.domain {
                text.push_str(&format!("    dns-search {domain}\n"));
            }
        }
    }
    let mut steps = named_by_mac(settings).to_vec();
    steps.push(file("the network, for ifupdown", "/etc/network/interfaces", text, 0o644));
    steps
}

/// A file of our own for netplan, readable by root only as newer ones demand.
pub fn netplan(settings: &Settings) -> Vec<Step> {
    let mut text = format!(
        "# Written by SystemImager.\nnetwork:\n  version: 2\n  ethernets:\n    systemimager:\n      match:\n        \
         macaddress: \"{}\"\n",
        settings.mac
    );
    match &settings.fixed {
        // Clones may share the machine-id that the default identifier is made of.
        None => text.push_str("      dhcp4: true\n      dhcp-identifier: mac\n"),
        Some(fixed) => {
            text.push_str(&format!("      addresses:\n        - \"{}\"\n", fixed.with_prefix()));
            if let Some(router) = fixed.router {
                // Older ones do not know `to: default`.
                let all = if router.is_ipv6() { "::/0" } else { "0.0.0.0/0" };
                text.push_str(&format!("      routes:\n        - to: \"{all}\"\n          via: \"{router}\"\n"));
            }
            if !settings.name_servers.is_empty() || settings.domain.is_some() {
                text.push_str("      nameservers:\n");
            }
            if let Some(domain) = &settings.domain {
                text.push_str(&format!("        search: [\"{domain}\"]\n"));
            }
            if !settings.name_servers.is_empty() {
                let quoted = settings.name_servers.iter().map(|server| format!("\"{server}\""));
                text.push_str(&format!("        addresses: [{}]\n", joined(quoted, ", ")));
            }
        }
    }
    vec![file("the network, for netplan", "/etc/netplan/99-systemimager.yaml", text, 0o600)]
}
