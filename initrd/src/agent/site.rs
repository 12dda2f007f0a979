//! What a site adds to an install: its overrides, looked at while nothing is touched yet, and its hooks that run before the
//! disks are looked at.

use std::time::Duration;

use anyhow::{Context, Result};
use systemimager_core::{Identity, Level, Registry, Source};
use systemimager_engine::host::EngineHost;
use systemimager_engine::install::SiteKeys;
use systemimager_engine::install::hook::{self, Hook};
use systemimager_engine::overrides::{self, Layer, Wire};
use systemimager_engine::plan::site::environment;
use systemimager_engine::report::Event;
use systemimager_engine::store::hooks::installed_path;
use systemimager_engine::store::master::{HookTime, Master};
use systemimager_engine::store::overrides::with_own;

use super::http::Server;
use super::{Agent, console, server_host};

/// How long a transport's server that is away is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// What of which overrides is going to be laid over the image on this machine.
///
/// # Errors
/// One of them is not to be had, or does not fit the image.
pub fn overrides(
    server: &Server,
    master: &Master,
    identity: &Identity,
    registry: &Registry,
    host: &EngineHost,
    keys: Option<&SiteKeys>,
) -> Result<Vec<Layer>> {
    let own = overrides::own(server, &format!("/v1/hosts/{}/overrides", identity.name))?;
    let Some(transport) = master.transports.last() else { return Ok(Vec::new()) };
    let image = Source { server: server_host(server), export: master.image.to_string(), ..Source::default() };
    let image = SiteKeys::of(keys, image);
    let wire = Wire { registry, host, transport, image, patience: PATIENCE };
    let layers = wire.look(&with_own(&master.overrides, own));
    let layers = layers.context("looking at the overrides of this machine; no disk was touched")?;
    for layer in &layers {
        console::line(format_args!("the override {} is laid over the image: {} paths", layer.name, layer.paths.len()));
    }
    Ok(layers)
}

impl Agent {
    /// Runs the hooks that come before an install, in order. They came with the bundle.
    ///
    /// # Errors
    /// One that is required failed.
    pub(super) fn pre_install(&self, server: &Server, master: &Master, identity: &Identity) -> Result<()> {
        for one in master.hooks_at(HookTime::PreInstall) {
            console::line(format_args!("running the hook {}", one.run));
            let program = installed_path(&one.run);
            let hook = Hook {
                name: &one.run,
                program: &program,
                environment: &environment(one, identity.name.as_str(), master.image.as_str()),
                required: one.is_required(),
            };
            let mut say = |line: String| {
                console::line(&line);
                self.report(Event::Log { level: Level::Info, line });
            };
            hook::here(&hook, &server_host(server), &mut say).context("before anything of this machine was touched")?;
        }
        Ok(())
    }
}
