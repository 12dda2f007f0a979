//! Transport by multicast: one stream for any number of machines, who may come when they like.
//!
//! - [`pack`] is an image as a manifest and blocks, [`block`] a block as it goes over the wire, [`wire`] what goes over it;
//! - [`send`] is the program that the image server keeps running, [`receive`] the helper of the side that pulls.
//!
//! Both sides know each other by their keys, and nobody else reads what goes over the wire. docs/multicast.md is the protocol.
//! Who has which key, and who may have which tree, is not decided here.

mod bits;
mod block;
mod codec;
#[doc(hidden)]
pub mod fuzzing;
mod pack;
mod receive;
mod send;
#[cfg(test)]
mod tests;
mod tree;
mod wire;

use std::io::Read as _;

use systemimager_core::contract::Transport;
use systemimager_core::host::run_to_end;
use systemimager_core::{
    Arg, Bytes, Capabilities, ErrorKind, HelperCall, HelperEnd, Host, Needs, Offer, Piece, PluginError, Probe,
    PullReport, PullRequest, Result, Role, Service, ServiceFile, Spawn, declare_plugin,
};

use crate::receive::talk::{self, KEY, Line, Lines};
use crate::send::config::{Config, Settings};
use crate::send::server;

/// The plugin.
pub struct Multicast;

declare_plugin! {
    kind: Transport,
    id: multicast,
    about: "one encrypted stream for any number of machines, who may come when they like",
    make: Multicast,
}

/// The TCP port when no other is named.
const PORT: u16 = 8067;
/// The helper on the side that offers, and the one on the side that pulls.
const SEND: &str = "send";
const RECEIVE: &str = "receive";
/// SIGTERM.
const STOP: i32 = 15;
/// How long one wait for output lasts, milliseconds: cancellation is looked at in between.
const WAIT_MS: u32 = 300;

impl Transport for Multicast {
    fn capabilities(&self, _: &dyn Host, (): ()) -> Result<Capabilities> {
        Ok(Capabilities {
            delta: true,
            delete: true,
            resume: true,
            dry_run: true,
            // What is offered may be edited meanwhile; another transport looks at it once more.
            reconciles: false,
            encrypted: true,
            flat: true,
            default_port: PORT,
        })
    }

    fn needs(&self, _: &dyn Host, _: Role) -> Result<Needs> {
        Ok(Needs::default())
    }

    fn offer(&self, _: &dyn Host, request: Offer) -> Result<Service> {
        if request.finish.is_some() {
            return Err(PluginError::unsupported(
                "images are offered to many machines by multicast, and a master client is one; capture it by another transport",
            ));
        }
        let Some(host_key) = &request.host_key else {
            return Err(PluginError::unsupported("this offer has no key by which the other side knows it"));
        };
        Settings::of(&request.settings)?;
        for export in &request.exports {
            for key in &export.keys {
                wire::key::public(&key.key)?;
            }
        }
        let config = serde_json::to_string_pretty(&Config::of(&request))
            .map_err(|error| PluginError::invalid(format!("the offer cannot be written down: {error}")))?;
        let file = |name: &str, contents| ServiceFile { path: request.work_dir.join(name), mode: 0o600, contents };
        let mut argv = Arg::words(["@self", SEND]);
        argv.push(Arg::Text(request.work_dir.clone()));
        Ok(Service {
            files: vec![
                file(server::HOST_KEY, vec![Piece::Secret(host_key.clone()), Piece::Text("\n".into())]),
                file(server::CONFIG, vec![Piece::Text(config)]),
            ],
            argv,
            ready: Probe::Tcp(request.port),
            stop_signal: STOP,
            finished: None,
            rereads: true,
        })
    }

    fn pull(&self, host: &dyn Host, request: PullRequest) -> Result<PullReport> {
        if request.dry_run && (request.checksum || request.links) {
            return Err(PluginError::unsupported(
                "by multicast it can be told what would change by size and time, and no more; ask by another transport",
            ));
        }
        let Some(identity) = request.from.identity.clone() else {
            return Err(PluginError::new(
                ErrorKind::Denied,
                format!(
                    "no key of one's own is known for {}, and without it nothing is asked for",
                    request.from.server
                ),
            ));
        };
        let input = serde_json::to_vec(&request)
            .map_err(|error| PluginError::invalid(format!("the request cannot be written down: {error}")))?;
        let spawn = Spawn {
            argv: Arg::words(["@self", RECEIVE]),
            secret_env: vec![(KEY.into(), identity)],
            stdin: Some(Bytes(input)),
            ..Spawn::default()
        };
        follow(host, &spawn)
    }

    fn helper(&self, _: &dyn Host, call: HelperCall) -> Result<HelperEnd> {
        match call.words.as_slice() {
            [word, directory] if word.as_bytes() == SEND.as_bytes() => {
                server::run(directory.as_path())?;
                Ok(HelperEnd::Exit(0))
            }
            [word] if word.as_bytes() == RECEIVE.as_bytes() => Ok(HelperEnd::Exit(receive_asked())),
            _ => {
                Err(PluginError::invalid("this is a helper of the image server and of pulls; nobody starts it by hand"))
            }
        }
    }
}

/// Runs the helper that receives, to its end.
fn follow(host: &dyn Host, spawn: &Spawn) -> Result<PullReport> {
    let (mut lines, mut ended) = (Lines::default(), None);
    let exit = run_to_end(host, spawn, WAIT_MS, &mut |bytes| {
        for line in lines.push(bytes) {
            match line {
                Line::Progress(progress) => host.progress(&progress),
                Line::Log(level, text) => host.log(level, &text),
                Line::Report(report) => ended = Some(Ok(*report)),
                Line::Error(error) => ended = Some(Err(error)),
            }
        }
    })?;
    // What was whole in that very moment is whole.
    if host.cancelled() && !matches!(ended, Some(Ok(_))) {
        return Err(PluginError::new(ErrorKind::Cancelled, "the transfer was cancelled; what has come stays"));
    }
    ended.unwrap_or_else(|| {
        let how = exit.code.map_or_else(
            || format!("signal {}", exit.signal.unwrap_or_default()),
            |code| format!("exit status {code}"),
        );
        Err(PluginError::failed(format!("receiving ended by {how}: {}", exit.stderr.trim())))
    })
}

/// The helper that receives: what it was asked stands on standard input.
fn receive_asked() -> i32 {
    let pulled = || -> Result<PullReport> {
        let mut input = Vec::new();
        std::io::stdin()
            .read_to_end(&mut input)
            .map_err(|error| PluginError::failed(format!("reading what is asked: {error}")))?;
        let request = serde_json::from_slice(&input)
            .map_err(|error| PluginError::invalid(format!("what is asked is no request: {error}")))?;
        receive::pull::pull(request, &std::env::var(KEY).unwrap_or_default())
    };
    match pulled() {
        Ok(report) => {
            talk::say(&Line::Report(Box::new(report)));
            0
        }
        Err(error) => {
            talk::say(&Line::Error(error));
            1
        }
    }
}
