//! Transport by rsync: a daemon offers trees read-only, a client pulls them.
//!
//! [`daemon`] writes the daemon's configuration for an offer; how rsync is asked and understood stands in
//! `systemimager-rsync`.

mod daemon;

use systemimager_core::contract::Transport;
use systemimager_core::{
    Arg, Capabilities, Host, Needs, Offer, Program, PullReport, PullRequest, Result, Role, Service, Source, Spawn,
    declare_plugin,
};
use systemimager_rsync::client;
use systemimager_rsync::request::{Way, server};
use systemimager_rsync::stream::Stream;
use systemimager_rsync::verdict;

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
/// The name under which a secret is presented that is nobody's in particular; a daemon's `auth users`.
const USER: &str = "systemimager";

impl Transport for Rsync {
    fn capabilities(&self, _: &dyn Host, (): ()) -> Result<Capabilities> {
        Ok(client::capabilities(false, PORT))
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
        let (exit, outcome) = client::pull(host, &request, way, Stream::new(&request))?;
        verdict::of_pull(host.cancelled(), &request.from, &exit, outcome)
    }

    fn finish(&self, host: &dyn Host, request: Source) -> Result<()> {
        let (exit, outcome) = client::finish(host, &request, way)?;
        verdict::of_pull(host.cancelled(), &request, &exit, outcome).map(drop)
    }
}

/// What to ask for: a module of a daemon. Without a secret the password is empty rather than absent: rsync would ask at the
/// terminal.
fn way(from: &Source, patience: u32) -> Result<Way> {
    daemon::module_name(&from.export)?;
    let (server, port) = (server(&from.server)?, from.port.unwrap_or(PORT));
    let spawn = match &from.secret {
        Some(secret) => Spawn { secret_env: vec![("RSYNC_PASSWORD".into(), secret.clone())], ..Spawn::default() },
        None => Spawn { env: vec![("RSYNC_PASSWORD".into(), String::new())], ..Spawn::default() },
    };
    let mut options = Arg::words(["--no-motd", "--sockopts=TCP_NODELAY"]);
    options.push(format!("--contimeout={}", patience).into());
    let user = daemon::user_name(from.user.as_deref().unwrap_or(USER))?;
    Ok(Way { source: format!("rsync://{user}@{server}:{port}/{}/", from.export), options, spawn })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;
    use systemimager_core::testing::RecordedHost;
    use systemimager_core::{BytePath, ErrorKind, Exit};

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
    fn cancellation_is_told() {
        let host = RecordedHost::new().program(&["x\n"], Exit { signal: Some(15), ..Exit::default() });
        host.cancel.store(true, Ordering::Relaxed);
        assert_eq!(Rsync.pull(&host, request()).unwrap_err().kind, ErrorKind::Cancelled);
    }

    #[test]
    fn modules_of_daemons() {
        let from =
            |server: &str, export: &str| Source { server: server.into(), export: export.into(), ..Source::default() };
        let source = |from: &Source| way(from, 5).map(|way| way.source);
        assert_eq!(source(&from("fd77::1", "web")).unwrap(), "rsync://systemimager@[fd77::1]:873/web/");
        let own = Source { user: Some("k1".into()), ..from("h", "web") };
        assert_eq!(source(&own).unwrap(), "rsync://k1@h:873/web/");
        let odd = Source { user: Some("a@b:c".into()), ..own };
        assert!(source(&odd).unwrap_err().to_string().contains("cannot be whose secret it is"));
        for (server, export, says) in
            [("a/b", "web", "neither an address nor a name"), ("h", "../x", "cannot be the name of a tree on offer")]
        {
            let error = source(&from(server, export)).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn finishing_opens_the_export_and_pulls_nothing() {
        let host = RecordedHost::new().program(&["drwxr-xr-x\n"], exit(0));
        let from = Source { server: "h".into(), port: Some(8730), export: "finished".into(), ..Source::default() };
        Rsync.finish(&host, from).unwrap();
        let spawned = host.spawned.lock().unwrap();
        assert_eq!(spawned[0].argv.last(), Some(&Arg::from("rsync://systemimager@h:8730/finished/")));
        // Never a question at a terminal.
        assert_eq!(spawned[0].env, vec![("RSYNC_PASSWORD".to_owned(), String::new())]);
    }
}
