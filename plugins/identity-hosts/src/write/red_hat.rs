//! The network scripts of older Red Hats (sysconfig.txt of initscripts). They know MAC addresses: with
//! `HWADDR` the interface is renamed to `DEVICE` by their own udev rule.

use systemimager_core::Step;

use super::settings::Settings;
use super::{INTERFACE, file};

/// ifcfg-lan0.
pub fn network_scripts(settings: &Settings) -> Vec<Step> {
    let mut text = format!(
        "# Written by SystemImager.\nDEVICE={INTERFACE}\nHWADDR={}\nTYPE=Ethernet\nONBOOT=yes\n",
        settings.mac.to_ascii_uppercase()
    );
    match &settings.fixed {
        None => text.push_str("BOOTPROTO=dhcp\n"),
        Some(fixed) => {
            text.push_str("BOOTPROTO=none\n");
            if fixed.address.is_ipv6() {
                text.push_str(&format!("IPV6INIT=yes\nIPV6_AUTOCONF=no\nIPV6ADDR={}\n", fixed.with_prefix()));
            } else {
                text.push_str(&format!("IPADDR={}\nPREFIX={}\n", fixed.address, fixed.prefix));
            }
            if let Some(router) = fixed.router {
                let key = if router.is_ipv6() { "IPV6_DEFAULTGW" } else { "GATEWAY" };
                text.push_str(&format!("{key}={router}\n"));
            }
            for (number, server) in settings.name_servers.iter().enumerate() {
                text.push_str(&format!("DNS{}={server}\n", number + 1));
            }
            if let Some(domain) = &settings.domain {
                text.push_str(&format!("DOMAIN={domain}\n"));
            }
        }
    }
    let path = format!("/etc/sysconfig/network-scripts/ifcfg-{INTERFACE}");
    vec![file("the network, for the network scripts", &path, text, 0o644)]
}
