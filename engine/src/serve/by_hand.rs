//! One image, offered by hand by one transport, in the foreground: the counterpart of a pull by hand.

use std::net::IpAddr;
use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use systemimager_core::{Export, Host as _, ImageName, Offer, Registry, Role, Secret, ServiceState};

use super::sessions::told_in;
use crate::capture::facts::SECRET;
use crate::capture::pairing;
use crate::config::Config;
use crate::door::Door;
use crate::helper;
use crate::host::EngineHost;
use crate::offer::{Offering, remove};
use crate::store::image_store::ImageStore;
use crate::sys::{Supervisor, tool};

/// How often it is looked whether anything happened.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What is offered, to whom.
pub struct ByHand<'a> {
    /// Settings and paths.
    pub config: &'a Config,
    /// The plugins.
    pub registry: &'a Registry,
    /// Cancels it.
    pub host: &'a EngineHost,
    /// The image.
    pub image: &'a ImageName,
    /// The transport.
    pub transport: &'a str,
    /// The address to listen on.
    pub address: IpAddr,
    /// The port; absent: the transport's.
    pub port: Option<u16>,
    /// Addresses and prefixes that may have it.
    pub allow: Vec<String>,
    /// What they have to know.
    pub secret: &'a str,
    /// A directory of its own.
    pub run_dir: &'a Path,
}

/// Offers until it is cancelled or `look` says that it is enough. `ready` hears the port when it can be pulled; `look` what the
/// transport tells, if it does, now and then.
///
/// # Errors
/// There is no such image or transport, the transport cannot offer it, its service does not start or dies.
pub fn offer(
    asked: &ByHand<'_>,
    ready: &mut dyn FnMut(u16) -> Result<()>,
    look: &mut dyn FnMut(Option<&ServiceState>) -> Result<bool>,
) -> Result<()> {
    let ByHand { config, registry, host, image, transport: id, .. } = *asked;
    let transport = registry.transport(id)?;
    let able = transport.capabilities(host, ())?;
    for program in transport.needs(host, Role::Server)?.programs {
        if !tool::is_there(&program.name) {
            bail!(
                "the transport {id} needs the program {} here; install the package {}",
                program.name,
                program.package
            );
        }
    }
    let reading = ImageStore::new(config).read(image, "offering it by hand")?;
    // As between a master client and its image server, the other way round: whoever offers has the host's key.
    let (secrets, keys, host_key) = pairing::for_offer(&able, asked.secret.as_bytes())?;
    let export = Export {
        name: image.to_string(),
        tree: reading.path().into(),
        allow: asked.allow.clone(),
        secret: Some(Secret(SECRET.to_owned())),
        keys,
        ..Export::default()
    };
    let port = asked.port.unwrap_or(able.default_port);
    let door = asked.run_dir.join("door");
    let work_dir = asked.run_dir.join("service");
    let offer = Offer {
        exports: vec![export],
        bind: Some(asked.address),
        port,
        work_dir: work_dir.as_path().into(),
        host_key,
        door: Door::words(&door)?,
        settings: config.settings.of_transport(id),
        ..Offer::default()
    };
    let service = transport.offer(host, offer.clone())?;
    let _door = Door::open(registry, id, &offer, &door, None)?;
    let state = work_dir.join(Offer::STATE_FILE);
    // What an earlier one told.
    remove(&state).with_context(|| format!("removing {}", state.display()))?;
    let (supervisor, exits) = Supervisor::start().context("starting the supervisor")?;
    let name = format!("transport {id}");
    let helper = helper::words(registry, id)?;
    let offering = Offering::start(&service, &secrets, &supervisor, &name, &helper).with_context(|| {
        format!("offering {image} at {} port {port}; name another with --port if it is taken", asked.address)
    })?;
    ready(port)?;
    loop {
        match exits.recv_timeout(LOOK_EVERY) {
            Ok(exit) => bail!("{exit}; start it again"),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => bail!("the supervisor of {name} is gone"),
        }
        if look(told_in(&work_dir).as_ref())? || host.cancelled() {
            break;
        }
    }
    offering.stop()
}
