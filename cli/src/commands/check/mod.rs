//! `check`: settings, masters, host links and plugins, with file, line and column of what is wrong.

mod security;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::{Result, bail};
use serde::Serialize;
use systemimager_core::{HostName, ImageFacts, ImageName, OverrideName, Registry};
use systemimager_engine::account;
use systemimager_engine::facts::image_facts;
use systemimager_engine::host::Secrets;
use systemimager_engine::serve::exports;
use systemimager_engine::serve::site::mode;
use systemimager_engine::store::clients::declared;
use systemimager_engine::store::host_links::{self, HostLink};
use systemimager_engine::store::image_store::ImageStore;
use systemimager_engine::store::master::Master;
use systemimager_engine::store::master_text::{check_file_systems, check_plugins, master_path};
use systemimager_engine::store::{hooks, overrides};

use crate::context::Context;

/// Where images would be offered: the address is chosen when serving starts, and makes no difference to what is checked.
const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Check settings, masters, links and plugins
///
/// Exit status 1 when something is wrong. Changes nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  systemimager check\n  systemimager check --security")]
pub struct Check {
    /// List what the server has open to whom, instead; NO, and exit status 1, for what others than root could change or read
    #[arg(long)]
    security: bool,
}

/// What was found.
#[derive(Debug, Default, Serialize)]
struct Findings {
    /// What is wrong, each with its place.
    wrong: Vec<String>,
    /// What was looked at and found good, for people.
    good: Vec<String>,
    /// Images that are there.
    images: Vec<String>,
}

impl Check {
    /// Checks all of it. The settings were read before: what is wrong with them has ended the program.
    pub fn run(self, context: &Context) -> Result<()> {
        if self.security {
            return security::run(context);
        }
        let config = &context.config;
        let mut found = Findings::default();
        found.good.push(if config.settings_file().is_file() {
            format!("settings {}", config.settings_file().display())
        } else {
            format!("settings: none in {}, all as by default", config.settings_file().display())
        });
        found.wrong.extend(mode::contradiction(config));
        masters(context, &mut found)?;
        links(context, &mut found)?;
        context.answer(&found)?;
        found.good.iter().for_each(|line| context.say(format_args!("ok  {line}")));
        found.wrong.iter().for_each(|line| context.say(format_args!("NO  {line}")));
        match found.wrong.len() {
            0 => Ok(()),
            1 => bail!("one thing is wrong"),
            several => bail!("{several} things are wrong"),
        }
    }
}

fn masters(context: &Context, found: &mut Findings) -> Result<()> {
    let config = &context.config;
    let registry = match context.registry() {
        Ok(registry) => {
            found.good.push(format!("{} plugins", registry.all().len()));
            Some(registry)
        }
        Err(error) => {
            found.wrong.push(format!("{error:#}"));
            None
        }
    };
    for image in ImageStore::new(config).names()? {
        found.images.push(image.to_string());
        // A link that dangles is a file that is there, and told with the masters.
        if master_path(config, &image).symlink_metadata().is_err() {
            found.wrong.push(format!(
                "{}: absent, and there is an image {image}; write it with getimage --update-master yes",
                master_path(config, &image).display()
            ));
        }
    }
    let masters = exports::masters(config)?;
    found.wrong.extend(masters.faults.iter().flat_map(|fault| fault.lines()).map(str::to_owned));
    let mut known = BTreeMap::new();
    let mut judge = |file: &Path, text: &str, master: &Master| {
        let mut faults = registry.map(|registry| check_plugins(master, registry, file, text)).unwrap_or_default();
        if let Some(registry) = registry.filter(|_| !master.layout.filesystems.is_empty()) {
            let facts = known.entry(master.image.clone()).or_insert_with(|| facts(context, registry, &master.image));
            match facts {
                Ok(Some(facts)) => faults.extend(check_file_systems(master, facts, registry, file, text)),
                Ok(None) => {}
                Err(why) => faults.push(format!("{}: {why}", file.display())),
            }
        }
        faults.extend(site(context, file, master));
        if faults.is_empty() {
            found.good.push(file.display().to_string());
        }
        found.wrong.extend(faults);
    };
    for (place, master) in &masters.good {
        judge(&place.file, &place.text, master);
    }
    if let Some(registry) = registry {
        offers(context, registry, masters.good.into_iter().map(|(_, master)| master).collect(), found);
    }
    Ok(())
}

/// What is wrong with the hooks that a master names, and with its overrides on its image. That one is absent is told with
/// what cannot be offered.
fn site(context: &Context, file: &Path, master: &Master) -> Vec<String> {
    let config = &context.config;
    let hooks = master.hooks.iter().filter_map(|hook| hooks::check(config, &hook.run).err());
    let mut faults: Vec<String> = hooks.map(|error| format!("{}: {error:#}", file.display())).collect();
    let image = ImageStore::new(config).path(&master.image);
    if image.is_dir()
        && let Err(problems) = overrides::layers(config, &overrides::there(config, master), &image)
    {
        faults.extend(problems.iter().map(|problem| format!("{}: {problem}", file.display())));
    }
    faults
}

/// What file systems have to go with; `None`: the image is not there.
fn facts(context: &Context, registry: &Registry, image: &ImageName) -> Result<Option<ImageFacts>, String> {
    let store = ImageStore::new(&context.config);
    let read = || {
        if !store.exists(image)? {
            return Ok(None);
        }
        // Held, so that a capture that replaces it does not take it away while it is read.
        let reading = store.read(image, "check")?;
        image_facts(image, reading.path(), registry, &context.host(Secrets::default())).map(Some)
    };
    read().map_err(|error: anyhow::Error| format!("{error:#}"))
}

/// What `serve` could not offer.
fn offers(context: &Context, registry: &Registry, mut masters: Vec<Master>, found: &mut Findings) {
    // Transports that are absent were told with the masters that name them.
    for master in &mut masters {
        master.transports.retain(|id| registry.transport(id).is_ok());
    }
    // What is wrong with the machines is told with their links.
    let clients = declared(&context.config).unwrap_or_default();
    let host = context.host(Secrets::default());
    let config = match account::settle(&context.config) {
        Ok(config) => config,
        Err(error) => return found.wrong.push(format!("{error:#}")),
    };
    let services = exports::services(&config, registry, &host, &masters, &clients, ANY);
    if services.faults.is_empty() && !services.offered.is_empty() {
        found.good.push(format!("offers by {}", services.offered.keys().cloned().collect::<Vec<_>>().join(", ")));
    }
    found.wrong.extend(services.faults);
}

/// A host's own override, on the image that the host gets.
fn own_override(context: &Context, host: &HostName, found: &mut Findings) {
    let config = &context.config;
    // What is wrong with links and masters is told with them.
    let Some(own) = overrides::of_host(config, host) else { return };
    let Ok(Some(place)) = host_links::master_of(config, host) else { return };
    let Ok(master) = place.master() else { return };
    let image = ImageStore::new(config).path(&master.image);
    let named = overrides::there(config, &master);
    let fits = |names: &[OverrideName]| overrides::layers(config, names, &image);
    // Those that the master names were looked at with it.
    if image.is_dir()
        && fits(&named).is_ok()
        && let Err(problems) = fits(&overrides::with_own(&named, Some(own)))
    {
        found.wrong.extend(problems);
    }
}

fn links(context: &Context, found: &mut Findings) -> Result<()> {
    let config = &context.config;
    let clients = match declared(config) {
        Ok(clients) => clients,
        Err(error) => {
            found.wrong.push(format!("{error:#}"));
            return Ok(());
        }
    };
    let before = found.wrong.len();
    for client in &clients {
        match &client.link {
            HostLink::Other { why } => found.wrong.push(why.clone()),
            HostLink::Link { image } => {
                let link = host_links::path(config, &client.host);
                if let Err(error) = host_links::master_of(config, &client.host) {
                    found.wrong.push(format!("{error:#}"));
                } else if !ImageStore::new(config).exists(image)? {
                    found.wrong.push(format!(
                        "{}: leads to the image {image}, which is not there; capture it, or run addclients with another",
                        link.display()
                    ));
                }
            }
            HostLink::Copy => {}
        }
        own_override(context, &client.host, found);
    }
    if found.wrong.len() == before {
        found.good.push(format!("{} machines", clients.len()));
    }
    Ok(())
}
