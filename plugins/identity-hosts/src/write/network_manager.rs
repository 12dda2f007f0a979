//! NetworkManager (nm-settings-keyfile(5)).

use systemimager_core::Step;

use super::settings::{Fixed, Settings, joined};
use super::{directory, file};

/// A connection that is preferred to others for the same interface. NetworkManager reads only files that
/// nobody but root can read.
pub fn keyfile(settings: &Settings) -> Vec<Step> {
    let mut text = format!(
        "# Written by SystemImager.\n[connection]\nid=systemimager\ntype=ethernet\nautoconnect=true\n\
         autoconnect-priority=100\n\n[ethernet]\nmac-address={}\n",
        settings.mac
    );
    match &settings.fixed {
        // Clones may share the machine-id that the default identifier may be made of.
        None => text.push_str("\n[ipv4]\nmethod=auto\ndhcp-client-id=mac\n\n[ipv6]\nmethod=auto\n"),
        Some(fixed) if fixed.address.is_ipv4() => {
            text.push_str(&manual(settings, fixed, "ipv4"));
            text.push_str("\n[ipv6]\nmethod=auto\n");
        }
        Some(fixed) => {
            text.push_str("\n[ipv4]\nmethod=disabled\n");
            text.push_str(&manual(settings, fixed, "ipv6"));
        }
    }
    vec![
        directory("/etc/NetworkManager/system-connections", 0o700),
        file(
            "the network, for NetworkManager",
            "/etc/NetworkManager/system-connections/systemimager.nmconnection",
            text,
            0o600,
        ),
    ]
}

fn manual(settings: &Settings, fixed: &Fixed, section: &str) -> String {
    let mut text = format!("\n[{section}]\nmethod=manual\naddress1={}", fixed.with_prefix());
    if let Some(router) = fixed.router {
        text.push_str(&format!(",{router}"));
    }
    text.push('\n');
    let servers = joined(settings.servers(fixed.address.is_ipv6()), ";");
    if !servers.is_empty() {
        text.push_str(&format!("dns={servers};\n"));
    }
    if let Some(domain) = &settings.domain {
        text.push_str(&format!("dns-search={domain};\n"));
    }
    text
}
