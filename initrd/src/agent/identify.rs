//! Who this machine is: what is known is put before the identity plugins, and one of them answers.

use std::collections::BTreeMap;
use std::path::Path;

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
         systemimager addclients for it, or give HOSTNAME in a local.cfg or si.host=NAME on the kernel command line",
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

/// The server's list of which host has which MAC; empty if it has none.
///
/// # Errors
/// The server does not answer.
pub fn macs_file(server: &Server) -> Result<String> {
    match server.text("/v1/macs") {
        Err(error) if error.is::<NotThere>() => Ok(String::new()),
        answer => answer,
    }
}

/// How often the master may name other sources, which know the machine by another name with another master.
const ROUNDS: usize = 3;

/// The master file of this machine, and who it is by the sources that the master itself orders. Where these know it by
/// another name, that name's master counts, until one agrees with itself.
///
/// # Errors
/// As [`fetch_master`]; or the masters send the machine in a circle.
pub fn master_of(
    registry: &Registry,
    host: &EngineHost,
    facts: &HostFacts,
    server: &Server,
    first: Identity,
) -> Result<(Identity, Master)> {
    settle(first, &|identity| fetch_master(server, identity), &|master| {
        let settings = &master.identity;
        let Ok(plugin) = registry.identity(&settings.plugin) else { return Ok(None) };
        let request = IdentityWho { facts: facts.clone(), sources: settings.sources.clone() };
        plugin.who(host, request).with_context(|| format!("host-identity {}", settings.plugin))
    })
}

/// `again`: who the machine is by a master's sources; `None` if they do not know it, which is told later.
fn settle(
    first: Identity,
    fetch: &dyn Fn(&Identity) -> Result<Master>,
    again: &dyn Fn(&Master) -> Result<Option<Identity>>,
) -> Result<(Identity, Master)> {
    let mut identity = first;
    let mut known = Vec::new();
    for _ in 0..ROUNDS {
        let master = fetch(&identity)?;
        match again(&master)? {
            Some(other) if other.name != identity.name => {
                known.push(format!("{} by {} (gets {})", identity.name, identity.found_in, master.image));
                identity = other;
            }
            // What it was found by stays: the master's sources may know less.
            _ => return Ok((identity, master)),
        }
    }
    bail!(
        "the master files send this machine in a circle: it is {}, and now {} by {}; let the identity sources of these \
         master files know it by one name",
        known.join(", then "),
        identity.name,
        identity.found_in
    )
}

/// The facts that need no network. `local_cfg` as plugins get it.
pub fn local_facts(command_line: &BTreeMap<String, String>, local_cfg: Option<String>) -> HostFacts {
    HostFacts { command_line: command_line.clone(), local_cfg, ..HostFacts::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::{HostName, NetworkSettings};

    fn identity(name: &str) -> Identity {
        Identity {
            name: HostName::try_from(name).expect("a name"),
            image: None,
            network: NetworkSettings::default(),
            found_in: "test".into(),
        }
    }

    /// A master whose image is called as the host that it is for.
    fn master(of: &str) -> Master {
        let text = format!(
            "format = 1\nimage = \"{of}\"\ntransports = [\"t\"]\npartitioner = \"p\"\nbootloader = \"none\"\n\
             [identity]\nplugin = \"i\"\n"
        );
        master_text::parse(Path::new("m"), &text).expect("a master")
    }

    #[test]
    fn the_order_of_the_master_counts() {
        // Who the machine is by the sources of each host's master.
        type Says = fn(&str) -> Option<&'static str>;
        let rows: [(&str, Says, Result<&str, &str>); 4] = [
            ("agrees", |_| Some("www3"), Ok("www3 www3")),
            ("does not know", |_| None, Ok("www3 www3")),
            ("knows another name", |_| Some("www4"), Ok("www4 www4")),
            (
                "in a circle",
                |of| Some(if of == "www3" { "www4" } else { "www3" }),
                Err(
                    "the master files send this machine in a circle: it is www3 by test (gets www3), then www4 by test",
                ),
            ),
        ];
        for (name, says, expected) in rows {
            let fetch = |identity: &Identity| Ok(master(identity.name.as_str()));
            let again = |master: &Master| Ok(says(master.image.as_str()).map(identity));
            match (settle(identity("www3"), &fetch, &again), expected) {
                (Ok((who, master)), Ok(expected)) => assert_eq!(format!("{} {}", who.name, master.image), expected),
                (Err(error), Err(says)) => assert!(error.to_string().starts_with(says), "{name}: {error}"),
                (got, _) => panic!("{name}: {got:?}"),
            }
        }
    }
}
