//! What only an image server needs: its own programs, the network, free ports, what it packs and boots.

use std::net::{IpAddr, Ipv4Addr};

use systemimager_core::Needs;
use systemimager_engine::boot::media::{self, Kind, Medium};
use systemimager_engine::boot::{Boots, INITRD, KERNEL, Network};
use systemimager_engine::config::DhcpMode;
use systemimager_engine::host::EngineHost;
use systemimager_engine::install;
use systemimager_engine::serve::interface;
use systemimager_engine::serve::site::{Flavor, mode};
use systemimager_engine::sys::ports::{self, Protocol};
use systemimager_engine::sys::tool::{self, Tool, find, search_dirs};
use systemimager_initrd::pack;

use super::Findings;
use crate::context::Context;

/// What serving and packing need besides plugins, with who needs it.
pub(super) fn own_needs() -> Vec<(String, Needs)> {
    let tool = |tool: Tool| systemimager_core::Program::new(tool.name(), tool.package());
    let serve = Needs { programs: vec![tool(Tool::Dnsmasq), tool(Tool::Ip)], ..Needs::default() };
    [("serve", serve), ("the installer", install::needs()), ("mkinitrd", pack::base::own_needs())]
        .map(|(by, needs)| (by.to_owned(), needs))
        .into()
}

/// Looks at the rest: libraries, programs of the miniature system, network boot, address and ports.
pub(super) fn look(context: &Context, host: &EngineHost, needs: &[(String, Needs)], found: &mut Findings) {
    let config = &context.config;
    for (by, needs) in needs.iter().filter(|(_, needs)| !needs.libraries.is_empty()) {
        let only = Needs { libraries: needs.libraries.clone(), ..Needs::default() };
        match pack::pack_needs(&[only], &[]) {
            Ok(_) => found.good(needs.libraries.join(", ")),
            Err(error) => found.no(format!("libraries of {by}"), format!("{error:#}")),
        }
    }
    for name in ["systemimager-init", "systemimager-agent"] {
        match config.boot_program(name) {
            Ok(path) => found.good(format!("{name} ({})", path.display())),
            Err(error) => found.no(name, format!("{error:#}")),
        }
    }
    let settings = &config.settings.server;
    match interface::addresses().and_then(|all| interface::choose(&all, settings).map_err(anyhow::Error::msg)) {
        Ok(place) => found.good(format!("{} on {}", place.network, place.interface)),
        Err(error) => found.no("address", format!("{error:#}")),
    }
    if let Ok(registry) = context.registry() {
        // The address makes no difference to what has to be there.
        let network = Network::new(config, Ipv4Addr::LOCALHOST.into());
        match network.plan(registry, host, None, Boots::LocalDisk) {
            Ok(_) => found.good("boot files for the network"),
            Err(error) => found.no("boot files for the network", format!("{error:#}")),
        }
    }
    sites(context, found);
    match media_need(context, host) {
        None => found.good("what media are made with"),
        Some(lacks) => found.optional.push(format!("makeautoinstalldiskette, makeautoinstallcd: {lacks}")),
    }
    let taken = wanted(config.settings.dhcp.mode, settings.http_port)
        .into_iter()
        .filter_map(|(protocol, port)| {
            Some((protocol, port, ports::taken(protocol, IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)?))
        })
        .collect();
    ports_that_are(taken, settings.http_port, found);
}

/// A DHCP server of the site's is no part of an image server; what `makedhcpserver` set up has to have its program.
fn sites(context: &Context, found: &mut Findings) {
    let config = &context.config;
    if let Some(why) = mode::contradiction(config) {
        found.no("DHCP", why);
    }
    let written = mode::sites(config);
    for flavor in Flavor::ALL {
        let tool = flavor.tool();
        let by = written.iter().find(|(it, ..)| *it == flavor).map(|(_, file, _)| file.display().to_string());
        match (find(tool, &search_dirs()), by) {
            (Ok(path), Some(file)) => found.good(format!("{} ({}), set up by {file}", tool.name(), path.display())),
            (Err(_), Some(_)) => found.package(tool.name(), tool.package()),
            // Told with what the server itself needs.
            (_, None) if tool == Tool::Dnsmasq => {}
            (Ok(path), None) => found.good(format!("{} ({}), for makedhcpserver", tool.name(), path.display())),
            (Err(_), None) => {
                found.good(format!("no {} ({}): only a site's own DHCP would need it", tool.name(), tool.package()));
            }
        }
    }
}

/// What is missing to make autoinstall media.
fn media_need(context: &Context, host: &EngineHost) -> Option<String> {
    let dirs = tool::search_dirs();
    let programs = media::TOOLS.iter().filter_map(|it| tool::find(*it, &dirs).err()).map(|error| error.to_string());
    let files = [Kind::Usb, Kind::Cd].into_iter().filter_map(|kind| {
        // What they hold makes no difference to what has to be there.
        let medium = Medium {
            kind,
            id: Medium::new_id(),
            server: None,
            http_port: 0,
            append: String::new(),
            kernel: KERNEL.into(),
            initrd: INITRD.into(),
            local_cfg: None,
        };
        medium.plan(context.registry().ok()?, host).err().map(|error| format!("{error:#}"))
    });
    let all: Vec<String> = programs.chain(files).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// The ports that `serve` takes for itself.
fn wanted(mode: DhcpMode, http_port: u16) -> Vec<(Protocol, u16)> {
    let dhcp: &[u16] = match mode {
        DhcpMode::Server => &[67],
        // That of PXE boot servers too.
        DhcpMode::Proxy => &[67, 4011],
        DhcpMode::Off => &[],
    };
    let udp = dhcp.iter().chain(&[69]).map(|port| (Protocol::Udp, *port));
    udp.chain([(Protocol::Tcp, http_port)]).collect()
}

/// Tells of ports that are taken, each with its owner in words.
fn ports_that_are(taken: Vec<(Protocol, u16, String)>, http_port: u16, found: &mut Findings) {
    let ours = |(protocol, port, owner): &(Protocol, u16, String)| {
        *protocol == Protocol::Tcp && *port == http_port && owner.contains(" by systemimager (process ")
    };
    if taken.is_empty() {
        found.good("ports are free");
    } else if taken.iter().any(ours) {
        // The others are its children's, or it would not run.
        found.good("ports are held by systemimager serve, which runs");
    } else {
        for (protocol, port, owner) in taken {
            found.no(format!("{protocol} port {port}"), format!("{owner}; stop it"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_follow_the_mode() {
        let (udp, tcp) = (|port| (Protocol::Udp, port), |port| (Protocol::Tcp, port));
        for (mode, expected) in [
            (DhcpMode::Server, vec![udp(67), udp(69), tcp(8069)]),
            (DhcpMode::Proxy, vec![udp(67), udp(4011), udp(69), tcp(8069)]),
            (DhcpMode::Off, vec![udp(69), tcp(8069)]),
        ] {
            assert_eq!(wanted(mode, 8069), expected, "{mode}");
        }
    }

    #[test]
    fn a_port_of_another_is_told_and_our_own_is_not() {
        let dns = |by: &str| (Protocol::Udp, 67, format!("UDP port 67 is taken by {by}"));
        let http = |by: &str| (Protocol::Tcp, 8069, format!("TCP port 8069 is taken by {by}"));
        let rows = [
            ("free", vec![], "ok   ports are free"),
            (
                "another's",
                vec![dns("dhcpd (process 7)")],
                "NO   UDP port 67: UDP port 67 is taken by dhcpd (process 7); stop it",
            ),
            (
                "ours",
                vec![dns("dnsmasq (process 7)"), http("systemimager (process 6: systemimager serve)")],
                "ok   ports are held by systemimager serve, which runs",
            ),
        ];
        for (name, taken, expected) in rows {
            let mut found = Findings::default();
            ports_that_are(taken, 8069, &mut found);
            assert_eq!(found.lines(), [expected], "{name}");
        }
    }
}
