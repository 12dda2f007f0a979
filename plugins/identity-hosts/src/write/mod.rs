//! Steps that write an identity into a target: host name, hosts file, network. Pure.
//!
//! One file a network tool; each writes files of its own name where the tool allows for that, and a file
//! of the tool's where it does not.

mod debian;
mod names;
mod network_manager;
mod red_hat;
mod settings;
mod suse;
mod systemd;

use systemimager_core::contract::IdentityWrite;
use systemimager_core::{Action, BytePath, Contents, NetworkMode, Phase, PluginError, Result, Step};

use crate::ID;
use crate::detect::{Found, TOOLS};
use settings::Settings;

/// Name of the interface in tools that know no MAC addresses; a udev rule gives it.
const INTERFACE: &str = "lan0";

/// The steps.
///
/// # Errors
/// `Unsupported`: the image's network tool is none that is known, or its network has bonds and the like. `Invalid`: no address where one has to
/// be written, or values that make no configuration.
pub fn plan(request: &IdentityWrite) -> Result<Vec<Step>> {
    let found = request.image.identity.get(ID).map(Found::from_facts).ok_or_else(|| {
        PluginError::invalid(format!(
            "the image {} was not looked at by the identity plugin hosts; put that plugin into the image server's plugin directory and start the install again",
            request.image.name
        ))
    })?;
    let mut steps = names::plan(request, &found);
    if request.mode == NetworkMode::Keep {
        return Ok(steps);
    }
    if !found.stacked.is_empty() {
        let list: Vec<String> = found.stacked.iter().map(ToString::to_string).collect();
        return Err(PluginError::unsupported(format!(
            "the network of the image {} has {}; bonds, teams, VLANs and bridges are not set up yet: leave the network as \
             it was captured, with [network] mode = \"keep\" in its master file, or take them out of the image",
            request.image.name,
            list.join(", ")
        )));
    }
    let tool = found.network.as_deref().unwrap_or_default();
    let settings = Settings::new(&request.identity, request.mode)?;
    let written = match tool {
        "ifupdown" => debian::interfaces(&settings, &found),
        "netplan" => debian::netplan(&settings),
        "NetworkManager" => network_manager::keyfile(&settings),
        "systemd-networkd" => systemd::networkd(&settings),
        "wicked" => suse::wicked(&settings),
        "network-scripts" => red_hat::network_scripts(&settings),
        _ => {
            let what =
                if tool.is_empty() { "no tool that".to_owned() } else { format!("{tool}, which is not one that") };
            return Err(PluginError::unsupported(format!(
                "the image {} configures its network with {what} the identity plugin hosts knows ({}); enable one of them \
                 in the image, or leave it \
                 as it was captured: [network] mode = \"keep\" in its master file",
                request.image.name,
                TOOLS.join(", ")
            )));
        }
    };
    for path in &found.others {
        steps.push(Step::new(
            Phase::Identity,
            format!("remove what the master client's network was configured by: {path}"),
            Action::Remove { path: path.as_str().into() },
        ));
    }
    steps.extend(written);
    if !found.resolver && settings.is_static() && !settings.name_servers.is_empty() {
        steps.push(file("name servers", "/etc/resolv.conf", resolv_conf(&settings), 0o644));
    }
    Ok(steps)
}

/// resolv.conf(5).
fn resolv_conf(settings: &Settings) -> String {
    let mut text = String::new();
    if let Some(domain) = &settings.domain {
        text.push_str(&format!("search {domain}\n"));
    }
    for server in &settings.name_servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    text
}

fn file(what: &str, path: &str, text: String, mode: u32) -> Step {
    Step::new(
        Phase::Identity,
        format!("write {path}: {what}"),
        Action::WriteFile { path: path.into(), contents: Contents::Bytes(text.into()), mode },
    )
}

fn directory(path: &str, mode: u32) -> Step {
    Step::new(
        Phase::Identity,
        format!("make {path} if absent"),
        Action::MakeDirectory { path: BytePath::from(path), mode },
    )
}

/// A udev rule that gives the interface with this MAC address a name of its own, for tools that know
/// interfaces by name only. `DRIVERS` leaves out VLANs and bridges, which share the address of what they
/// stand on; systemd's own naming (80-net-setup-link.rules) leaves a name that was given alone.
fn named_by_mac(settings: &Settings) -> [Step; 2] {
    let rule = format!(
        "# Written by SystemImager: the name by which this machine's network is configured.\n\
         SUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", ATTR{{type}}==\"1\", ATTR{{address}}==\"{}\", NAME=\"{INTERFACE}\"\n",
        settings.mac
    );
    [
        directory("/etc/udev/rules.d", 0o755),
        file("the interface is named by its MAC address", "/etc/udev/rules.d/70-systemimager-net.rules", rule, 0o644),
    ]
}

#[cfg(test)]
mod tests;
