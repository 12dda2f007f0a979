//! systemd-networkd (systemd.network(5)).

use systemimager_core::Step;

use super::settings::Settings;
use super::{directory, file};

/// A file that sorts before those of others, because the first that matches counts.
pub fn networkd(settings: &Settings) -> Vec<Step> {
    // The type leaves out VLANs and bridges, which share the address of what they stand on.
    let mut text =
        format!("# Written by SystemImager.\n[Match]\nMACAddress={}\nType=ether\n\n[Network]\n", settings.mac);
    match &settings.fixed {
        // Clones may share the machine-id that the default identifier is made of.
        None => text.push_str("DHCP=yes\n\n[DHCPv4]\nClientIdentifier=mac\n"),
        Some(fixed) => {
            text.push_str(&format!("Address={}\n", fixed.with_prefix()));
            if let Some(router) = fixed.router {
                text.push_str(&format!("Gateway={router}\n"));
            }
            for server in &settings.name_servers {
                text.push_str(&format!("DNS={server}\n"));
            }
            if let Some(domain) = &settings.domain {
                text.push_str(&format!("Domains={domain}\n"));
            }
        }
    }
    vec![
        directory("/etc/systemd/network", 0o755),
        file("the network, for systemd-networkd", "/etc/systemd/network/00-systemimager.network", text, 0o644),
    ]
}
