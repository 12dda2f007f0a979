//! Transport by rsync: a daemon offers trees read-only, a client pulls them.
//!
//! - [`daemon`] writes the daemon's configuration for an offer.
//! - [`request`] turns a pull into an argv, [`filter`] its exclusions into rsync's rules.
//! - [`stream`] reads what rsync prints, [`verdict`] judges how it ended.
//!
//! It must not start a shell, must not pass a secret in an argument, and must not decide whether a
//! file that could not be read matters: that is the caller's to judge from the report.

mod daemon;
mod filter;
mod request;
mod stream;
mod verdict;

use systemimager_core::contract::Transport;
use systemimager_core::{
    Capabilities, ErrorKind, Exit, Host, Needs, Offer, PluginError, Program, PullReport, PullRequest, Result, Role,
    Service, Source, Spawn, declare_plugin,
};

use stream::Stream;

/// The plugin.
pub struct Rsync;

declare_plugin! {
    kind: Transport,
    id: rsync,
    about: "rsync daemons: unencrypted, only differences move",
    make: Rsync,
}

/// Port of rsync daemons (IANA).
const PORT: u16 = 873;
/// How long one wait for output lasts: cancellation is looked at in between, milliseconds.
const WAIT_MS: u32 = 500;

impl Transport for Rsync {
    fn capabilities(&self, _: &dyn Host, (): ()) -> Result<Capabilities> {
        Ok(Capabilities {
            delta: true,
            delete: true,
            resume: true,
            dry_run: true,
            reconciles: true,
            encrypted: false,
            default_port: PORT,
        })
    }

    fn needs(&self, _: &dyn Host, role: Role) -> Result<Needs> {
        match role {
            Role::MasterClient | Role::Server | Role::Installer | Role::InstalledClient => {
                Ok(Needs { programs: vec![Program::new("rsync", "rsync")], ..Needs::default() })
            }
        }
    }

    fn offer(&self, _: &dyn Host, request: Offer) -> Result<Service> {
        daemon::service(&request)
    }

    fn pull(&self, host: &dyn Host, request: PullRequest) -> Result<PullReport> {
        let spawn = request::pull(&request, PORT)?;
        let mut stream = Stream::new(&request);
        let exit = run(host, &spawn, &mut stream)?;
        verdict::of_pull(host.cancelled(), &request.from, &exit, stream.finish())
    }

    fn finish(&self, host: &dyn Host, request: Source) -> Result<()> {
        let spawn = request::list(&request, PORT)?;
        let mut stream = Stream::of_list();
        let exit = run(host, &spawn, &mut stream)?;
        verdict::of_pull(host.cancelled(), &request, &exit, stream.finish()).map(drop)
    }
}

/// Runs rsync to its end, feeding the stream what it prints.
fn run(host: &dyn Host, spawn: &Spawn, stream: &mut Stream) -> Result<Exit> {
    let process = host.spawn(spawn)?;
    let mut stopped = false;
    loop {
        if host.cancelled() && !stopped {
            host.stop(process)?;
            stopped = true;
        }
        let chunk = match host.read_output(process, WAIT_MS) {
            Ok(chunk) => chunk,
            Err(error) => {
                // Nobody reads it any more: it must not linger on a full pipe.
                host.stop(process)?;
                host.wait(process)?;
                return Err(error);
            }
        };
        if let Some(progress) = stream.push(&chunk.stdout) {
            host.progress(&progress);
        }
        if chunk.ended {
            break;
        }
    }
    let exit = host.wait(process)?;
    if exit.code.is_none() && !host.cancelled() {
        return Err(PluginError::new(
            ErrorKind::Failed,
            format!("rsync was ended by signal {}; start the transfer again", exit.signal.unwrap_or_default()),
        ));
    }
    Ok(exit)
}
