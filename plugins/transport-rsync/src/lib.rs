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
            flat: true,
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;
    use systemimager_core::testing::RecordedHost;
    use systemimager_core::{Arg, BytePath, ErrorKind};

    fn request() -> PullRequest {
        serde_json::from_value(serde_json::json!({
            "from": {"server": "10.0.0.5", "export": "web", "secret": "capture"}, "into": "/to",
        }))
        .unwrap()
    }

    fn exit(code: i32) -> Exit {
        Exit { code: Some(code), ..Exit::default() }
    }

    #[test]
    fn a_pull_is_reported() {
        // Recorded from rsync 3.5.0.
        let host = RecordedHost::new().program(
            &[
                "2026/11/23 00:44:04 [31805] receiving file list\n",
                "\r      5,712,369  99%  298.65MB/s    0:00:18 (xfr#235, ir-chk=1004/2767)",
                "\n2026/11/23 00:44:04 [31808] rsync: [sender] send_files failed to open \"/x\" (in web): ",
                "Permission denied (13)\n2026/11/23 00:44:04 [31808] Number of files: 3 (reg: 2, dir: 1)\n",
            ],
            exit(23),
        );
        let report = Rsync.pull(&host, request()).unwrap();
        assert_eq!((report.files, report.failed.len()), (3, 1));
        assert_eq!(report.failed[0].path, BytePath::from("/x"));
        let progressed = host.progressed.lock().unwrap();
        assert_eq!((progressed[0].bytes, progressed[0].files), (5_712_369, 1763));
        let spawned = host.spawned.lock().unwrap();
        // The secret is a name here, and no argument.
        assert_eq!(spawned[0].secret_env[0].1.0, "capture");
        assert!(!spawned[0].argv.iter().any(|arg| format!("{arg:?}").contains("capture")));
    }

    #[test]
    fn cancellation_ends_it() {
        let host = RecordedHost::new().program(&["x\n"], Exit { signal: Some(15), ..Exit::default() });
        host.cancel.store(true, Ordering::Relaxed);
        assert_eq!(Rsync.pull(&host, request()).unwrap_err().kind, ErrorKind::Cancelled);
    }

    #[test]
    fn a_signal_from_elsewhere_is_told() {
        let host = RecordedHost::new().program(&[], Exit { signal: Some(9), ..Exit::default() });
        let error = Rsync.pull(&host, request()).unwrap_err();
        assert_eq!((error.kind, error.message.contains("signal 9")), (ErrorKind::Failed, true), "{error}");
    }

    #[test]
    fn finishing_opens_the_export_and_pulls_nothing() {
        let host = RecordedHost::new().program(&["drwxr-xr-x\n"], exit(0));
        let from = Source { server: "h".into(), port: Some(8730), export: "finished".into(), secret: None };
        Rsync.finish(&host, from).unwrap();
        let spawned = host.spawned.lock().unwrap();
        assert_eq!(spawned[0].argv.last(), Some(&Arg::from("rsync://systemimager@h:8730/finished/")));
        // Never a question at a terminal.
        assert_eq!(spawned[0].env, vec![("RSYNC_PASSWORD".to_owned(), String::new())]);
    }
}
