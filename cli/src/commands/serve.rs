//! `serve`: the image server in one foreground command.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use systemimager_engine::host::Secrets;
use systemimager_engine::serve::interface;
use systemimager_engine::serve::machines::Machines;
use systemimager_engine::serve::server::{Running, Server};

use crate::context::Context;
use crate::http::{self, Shared};

/// Be the image server: DHCP, TFTP, HTTP and the transports, in the foreground
///
/// Ends with an error when one of its parts ends; SIGTERM and SIGINT end all of them in order. What changes
/// in masters, links and hosts is noticed within seconds, or at once after SIGHUP.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  systemimager serve\n  systemctl enable --now systemimager")]
pub struct Serve {}

impl Serve {
    /// Serves until a signal or a failure.
    pub fn run(self, context: &Context) -> Result<()> {
        let config = &context.config;
        let settings = &config.settings.server;
        let place = interface::choose(&interface::addresses()?, settings).map_err(anyhow::Error::msg)?;
        let registry = context.registry()?;
        let address = SocketAddr::new(place.network.address, settings.http_port);
        let listener = http::bind(address)?;
        let shared = Arc::new(Shared {
            config: config.clone(),
            registry: registry.clone(),
            host: context.host(Secrets::default()),
            machines: Machines::open(config)?,
            bundles: http::Bundles::default(),
        });
        let host = context.host(Secrets::default());
        let (interface, network) = (place.interface.clone(), place.network);
        let (mut server, send, happenings) = Server::start(config, registry, host, place)?;
        let runtime = http::start(listener, Arc::clone(&shared), send)?;
        context.say(format_args!("serving {network} on {interface}; HTTP on port {}", settings.http_port));
        tell(context, &server.running())?;
        let result = server.follow(&happenings, &mut |running| {
            // Nobody is left to tell when the reader of our output is gone.
            let _ = tell(context, running);
        });
        // First whoever asks, then what answers: nobody gets half an answer from a server at its end.
        runtime.shutdown_timeout(std::time::Duration::from_secs(2));
        let stopped = server.stop();
        shared.machines.flush().context("writing down what machines reported")?;
        result.and(stopped)
    }
}

fn tell(context: &Context, running: &[Running]) -> Result<()> {
    context.answer(&serde_json::json!({ "serving": running }))?;
    for child in running {
        context.say(format_args!("  {} (process {})", child.name, child.pid));
    }
    Ok(())
}
