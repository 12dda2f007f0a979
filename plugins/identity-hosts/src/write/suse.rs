//! SUSE's wicked (ifcfg(5), ifroute(5), netconfig(8)).

use systemimager_core::{Action, Phase, Step};

use super::settings::{Settings, joined};
use super::{INTERFACE, file, named_by_mac};

/// The interface's settings, its default route, name servers.
pub fn wicked(settings: &Settings) -> Vec<Step> {
    let mut steps = named_by_mac(settings).to_vec();
    let mut text = "# Written by SystemImager.\nSTARTMODE='auto'\n".to_owned();
    let Some(fixed) = &settings.fixed else {
        // Clones may share what the default identifier is made of; 01 is Ethernet (RFC 2132, 9.14).
        text.push_str(&format!("BOOTPROTO='dhcp'\nDHCLIENT_CLIENT_ID='01:{}'\n", settings.mac));
        steps.push(interface(text));
        return steps;
    };
    text.push_str(&format!("BOOTPROTO='static'\nIPADDR='{}'\n", fixed.with_prefix()));
    steps.push(interface(text));
    if let Some(router) = fixed.router {
        let path = format!("/etc/sysconfig/network/ifroute-{INTERFACE}");
        steps.push(file("the default route", &path, format!("default {router} - {INTERFACE}\n"), 0o644));
    }
    let mut set = |key: &str, value: String| {
        let action = Action::SetLine {
            path: "/etc/sysconfig/network/config".into(),
            prefix: format!("{key}="),
            line: format!("{key}=\"{value}\""),
        };
        steps.push(Step::new(Phase::Identity, format!("set {key}"), action));
    };
    if !settings.name_servers.is_empty() {
        set("NETCONFIG_DNS_STATIC_SERVERS", joined(&settings.name_servers, " "));
    }
    if let Some(domain) = &settings.domain {
        set("NETCONFIG_DNS_STATIC_SEARCHLIST", domain.clone());
    }
    steps
}

fn interface(text: String) -> Step {
    let path = format!("/etc/sysconfig/network/ifcfg-{INTERFACE}");
    file("the network, for wicked", &path, text, 0o644)
}
