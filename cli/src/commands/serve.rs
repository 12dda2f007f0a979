//! `serve`: the image server in one foreground command.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use anyhow::{Context as _, Result, bail};
use systemimager_engine::account;
use systemimager_engine::boot::Network;
use systemimager_engine::host::Secrets;
use systemimager_engine::serve::desk::Desk;
use systemimager_engine::serve::interface;
use systemimager_engine::serve::server::{Happening, Running, Server};
use systemimager_engine::serve::site::mode;
use systemimager_engine::store::server_keys::ServerKeys;
use systemimager_engine::sys::signals::on_signals;
use systemimager_engine::sys::{Signal, notify};

use crate::context::Context;
use crate::http::{self, Shared};

/// Be the image server: DHCP, TFTP, HTTP and the transports, in the foreground
///
/// Ends with an error when one of its parts cannot be started at the beginning. One that ends later is told of and
/// started again, after half a second at first and half a minute at most, while the others serve on; `status` shows it
/// until it has run for a minute. SIGTERM and SIGINT end all of them in order. What changes in masters, links and
/// hosts is noticed within seconds, or at once after SIGHUP.
///
/// Where the network has a DHCP server of its own, set `mode = "proxy"` below `[dhcp]` in systemimager.toml: then
/// machines get their addresses and names from that, and from here only what to boot. With `mode = "off"` that
/// server has to name the boot file too.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  systemimager serve\n  systemctl enable --now systemimager\n\n\
    The second is for the unit that is installed with the program, PREFIX/lib/systemd/system/systemimager.service: \
    systemd knows it by its name for the prefixes /usr and /usr/local, and by its path for others.")]
pub struct Serve {}

impl Serve {
    /// Serves until a signal or a failure.
    pub fn run(self, context: &Context) -> Result<()> {
        let config = &account::settle(&context.config)?;
        // Before any thread is made. Until the server runs, what is asked is kept, and read at its first look.
        let (told, signals) = mpsc::channel();
        on_signals(move |signal| {
            let _ = told.send(signal);
        })
        .context("preparing to be told by signals")?;
        if let Some(why) = mode::contradiction(config) {
            bail!("{why}");
        }
        let settings = &config.settings.server;
        let place = interface::choose(&interface::addresses()?, settings).map_err(anyhow::Error::msg)?;
        let registry = context.registry()?;
        let address = SocketAddr::new(place.network.address, settings.http_port);
        let listener = http::bind(address)?;
        let network_boot = Network::new(config, place.network.address);
        let keys = ServerKeys::open(config)?;
        let shared = Arc::new(Shared {
            config: config.clone(),
            registry: registry.clone(),
            host: context.host(Secrets::default()),
            desk: Desk::open(config, registry.clone(), context.host(Secrets::default()), network_boot)?,
            changed: tokio::sync::watch::channel(()).0,
            bundles: http::Bundles::default(),
            facts: http::Facts::default(),
            readings: http::Readings::default(),
            keys: keys.clone(),
            server: std::sync::OnceLock::new(),
        });
        let host = context.host(Secrets::default());
        let (interface, network) = (place.interface.clone(), place.network);
        let (mut server, send, happenings) = Server::start(config, registry, host, place, keys)?;
        let runtime = http::start(listener, Arc::clone(&shared), send.clone())?;
        std::thread::Builder::new()
            .name("told".into())
            .spawn(move || pass_on(&signals, &send))
            .context("starting the thread that passes signals on")?;
        tell(context, &server.running())?;
        context.say(format_args!("ready: {network} on {interface}, HTTP on port {}", settings.http_port));
        manager("READY=1");
        let result = server.follow(&happenings, &mut |running| {
            // Nobody is left to tell when the reader of our output is gone.
            let _ = tell(context, running);
        });
        manager("STOPPING=1");
        // First whoever asks, then what answers: nobody gets half an answer from a server at its end.
        runtime.shutdown_timeout(std::time::Duration::from_secs(2));
        let stopped = server.stop();
        shared.desk.machines.flush().context("writing down what machines reported")?;
        result.and(stopped)
    }
}

/// Tells systemd, if it started us. That it cannot be told is its loss: machines are served all the same.
fn manager(state: &str) {
    if let Err(error) = notify::notify(state) {
        tracing::warn!("telling the service manager {state}: {error}");
    }
}

/// Signals as happenings; ends with the server.
fn pass_on(signals: &Receiver<Signal>, send: &Sender<Happening>) {
    for signal in signals {
        let happening = match signal {
            Signal::HUP => Happening::Reload,
            Signal::INT => Happening::Stop("SIGINT"),
            _ => Happening::Stop("SIGTERM"),
        };
        if send.send(happening).is_err() {
            return;
        }
    }
}

fn tell(context: &Context, running: &[Running]) -> Result<()> {
    context.answer(&serde_json::json!({ "serving": running }))?;
    for child in running {
        context.say(format_args!("  {} (process {})", child.name, child.pid));
    }
    Ok(())
}
