//! Who this machine is: what is known is put before the identity plugins, and one of them answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use systemimager_core::contract::IdentityWho;
use systemimager_core::{HostFacts, Identity, Registry};
use systemimager_engine::host::EngineHost;
use systemimager_engine::store::master::Master;
use systemimager_engine::store::master_text;

use super::http::{NotThere, Server};

/// Asks every identity plugin in the order of their names, with its own sources; the first that knows counts.
///
/// # Errors
/// None knows, or one finds a fact that would decide malformed.
pub fn first_answer(registry: &Registry, host: &EngineHost, facts: &HostFacts) -> Result<Identity> {
    let plugins = registry.identities();
    if plugins.is_empty() {
        bail!("there is no host-identity plugin in this initrd; put one on the server and run systemimager mkinitrd");
    }
    for (id, plugin) in &plugins {
        let request = IdentityWho { facts: facts.clone(), sources: Vec::new() };
        if let Some(identity) = plugin.who(host, request).with_context(|| format!("host-identity {id}"))? {
            return Ok(identity);
        }
    }
    bail!("{}", unknown(facts))
}

/// Asks as the master says. The answer must be the one by which the master was found.
///
/// # Errors
/// The master's sources do not know this machine, or by another name.
pub fn as_master_says(
    registry: &Registry,
    host: &EngineHost,
    facts: &HostFacts,
    master: &Master,
    first: &Identity,
) -> Result<Identity> {
    let id = &master.identity.plugin;
    let request = IdentityWho { facts: facts.clone(), sources: master.identity.sources.clone() };
    let identity = registry.identity(id)?.who(host, request).with_context(|| format!("host-identity {id}"))?;
    let Some(identity) = identity else {
        bail!("the master file's identity sources ({}) do not know this machine; {}", sources(master), unknown(facts));
    };
    if identity.name != first.name {
        bail!(
            "this machine is {} by {}, and {} by the sources of the master file ({}); correct the hosts file or the master file",
            first.name,
            first.found_in,
            identity.name,
            sources(master)
        );
    }
    Ok(identity)
}

fn sources(master: &Master) -> String {
    if master.identity.sources.is_empty() { "all of them".into() } else { master.identity.sources.join(", ") }
}

fn unknown(facts: &HostFacts) -> String {
    let address = facts.leases.first().and_then(|lease| lease.address).map_or("none".to_owned(), |it| it.to_string());
    format!(
        "nothing tells who this machine is (MACs {}, address {address}); on the server run \
         systemimager addclients for it, or give si.host=NAME on the kernel command line",
        facts.macs.join(", ")
    )
}

/// Fetches the master file: of the image that was asked for, else of the host.
///
/// # Errors
/// There is none; it has an error (file, line, column).
pub fn fetch_master(server: &Server, identity: &Identity) -> Result<Master> {
    let (name, text) = match &identity.image {
        Some(image) => (format!("{image}.master"), server.text(&format!("/v1/images/{image}/master"))?),
        None => by_host(server, identity)?,
    };
    let master = master_text::parse(Path::new(&name), &text)?;
    if let Some(image) = identity.image.as_ref().filter(|image| **image != master.image) {
        bail!("{name} installs the image {}, and {image} was asked for; correct the master file", master.image);
    }
    Ok(master)
}

fn by_host(server: &Server, identity: &Identity) -> Result<(String, String)> {
    let file = |name: &str| format!("{name}.sh");
    let path = |name: &str| format!("/v1/hosts/{name}/master");
    let full = identity.name.as_str();
    let short = identity.name.short();
    match server.text(&path(full)) {
        Ok(text) => Ok((file(full), text)),
        // Host links carry the name that addclients was given, which may be without the domain.
        Err(error) if short != full && error.is::<NotThere>() => match server.text(&path(short)) {
            Ok(text) => Ok((file(short), text)),
            Err(_) => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// The facts that need no network.
pub fn local_facts(command_line: &BTreeMap<String, String>) -> HostFacts {
    let local: PathBuf = "/local.cfg".into();
    HostFacts {
        command_line: command_line.clone(),
        local_cfg: std::fs::read_to_string(local).ok(),
        ..HostFacts::default()
    }
}
