//! rsync with compression: for a site whose machines hang on slow lines.
//!
//! The image server offers its trees by an rsync daemon; machines pull them with rsync(1).

use std::fmt::Write as _;

use systemimager_core::{
    Arg, BytePath, Bytes, Capabilities, ErrorKind, Exit, Host, Needs, Offer, Piece, PluginError, Probe, Program,
    Progress, PullReport, PullRequest, Result, Role, Service, ServiceFile, Spawn, Transport, declare_plugin,
};

/// The plugin.
pub struct Plugin;

declare_plugin! {
    kind: Transport,
    id: slow_line,
    about: "rsync daemons, compressed: for slow lines",
    make: Plugin,
}

/// The port when the master names none; another one than that of other transports.
const PORT: u16 = 8737;
/// The name under which the secret is presented.
const USER: &str = "systemimager";
/// How long one wait for output lasts, milliseconds: cancellation is looked at in between.
const WAIT_MS: u32 = 500;

impl Transport for Plugin {
    fn capabilities(&self, _: &dyn Host, (): ()) -> Result<Capabilities> {
        Ok(Capabilities {
            delta: true,
            delete: true,
            resume: true,
            // It leaves the tree exactly as the source has it: it may be the last of a chain.
            reconciles: true,
            default_port: PORT,
            ..Capabilities::default()
        })
    }

    fn needs(&self, _: &dyn Host, _: Role) -> Result<Needs> {
        Ok(Needs { programs: vec![Program::new("rsync", "rsync")], ..Needs::default() })
    }

    /// Pure. Starts nothing: the engine writes the files, runs argv, waits until it is ready and stops it.
    fn offer(&self, _: &dyn Host, request: Offer) -> Result<Service> {
        if request.finish.is_some() {
            return Err(PluginError::unsupported("this transport offers images; capture with another transport"));
        }
        let work = value("the working directory", &request.work_dir)?;
        let mut config = "log file = /proc/self/fd/2\nuid = 0\ngid = 0\nuse chroot = yes\nread only = yes\nlist = no\n\
                          numeric ids = yes\nhosts deny = *\n"
            .to_owned();
        let mut files = Vec::new();
        for export in &request.exports {
            let name = plain("the name of an export", &export.name)?;
            let tree = value("the tree", &export.tree)?;
            // Writing to a String does not fail.
            let _ = write!(config, "\n[{name}]\npath = {tree}\n");
            for address in &export.allow {
                if !address.bytes().all(|byte| byte.is_ascii_hexdigit() || b".:/".contains(&byte)) || address.is_empty()
                {
                    return Err(PluginError::invalid(format!(
                        "{address:?} is no address or prefix; {name} is not offered"
                    )));
                }
            }
            // Nobody, unless named: "hosts deny" above holds where there is no line.
            if !export.allow.is_empty() {
                let _ = writeln!(config, "hosts allow = {}", export.allow.join(" "));
            }
            // One for all, or for each machine its own: where there are any, nobody comes in without.
            let anybodys = export.secret.iter().map(|secret| (USER, secret));
            let own = export.secrets.iter().map(|own| (own.user.as_str(), &own.secret));
            let (mut users, mut contents) = (Vec::new(), Vec::new());
            for (user, secret) in anybodys.chain(own) {
                if user.is_empty() || !user.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
                    return Err(PluginError::invalid(format!("{user:?} is no name of a user; {name} is not offered")));
                }
                users.push(user);
                // Only the engine has the secret's bytes; it puts them in when it writes the file.
                contents.extend([
                    Piece::Text(format!("{user}:")),
                    Piece::Secret(secret.clone()),
                    Piece::Text("\n".into()),
                ]);
            }
            if !users.is_empty() {
                let path = request.work_dir.join(format!("{name}.secrets"));
                let users = users.join(",");
                let _ = write!(config, "auth users = {users}\nsecrets file = {work}/{name}.secrets\n");
                files.push(ServiceFile { path, mode: 0o600, contents });
            }
        }
        let path = request.work_dir.join("rsyncd.conf");
        files.push(ServiceFile { path, mode: 0o600, contents: vec![Piece::Text(config)] });
        let mut argv = Arg::words(["rsync", "--daemon", "--no-detach"]);
        argv.push(format!("--config={work}/rsyncd.conf").into());
        argv.push(format!("--port={}", request.port).into());
        if let Some(address) = request.bind {
            argv.push(format!("--address={address}").into());
        }
        // 15 is SIGTERM. The daemon reads its files anew for each connection.
        let ready = Probe::Tcp(request.port);
        Ok(Service { files, argv, ready, stop_signal: 15, finished: None, rereads: true })
    }

    /// Moves the bytes. It runs for long: it tells how far it is, and looks whether it is to end.
    fn pull(&self, host: &dyn Host, request: PullRequest) -> Result<PullReport> {
        let spawn = command(&request)?;
        let process = host.spawn(&spawn)?;
        let mut report = PullReport::default();
        let mut stopped = false;
        loop {
            if host.cancelled() && !stopped {
                host.stop(process)?;
                stopped = true;
            }
            let chunk = host.read_output(process, WAIT_MS)?;
            let lines = chunk.stdout.iter().filter(|byte| **byte == b'\n').count();
            report.files += u64::try_from(lines).unwrap_or_default();
            host.progress(&Progress { files: report.files, ..Progress::default() });
            if chunk.ended {
                break;
            }
        }
        let exit = host.wait(process)?;
        if stopped {
            return Err(PluginError::new(ErrorKind::Cancelled, "the transfer was cancelled"));
        }
        judge(&request, &exit).map(|()| report)
    }
}

/// What a pull runs. Names are bytes throughout, and no shell sees them.
fn command(request: &PullRequest) -> Result<Spawn> {
    if request.only.is_some() || request.basis.is_some() || request.dry_run {
        return Err(PluginError::unsupported("this transport pulls whole trees only; name another one for that"));
    }
    let from = &request.from;
    let (server, export) = (plain("the server", &from.server)?, plain("the export", &from.export)?);
    let into = value("the directory to pull into", &request.into)?;
    // One line for each file: that is the progress.
    let mut argv = Arg::words(["rsync", "-aHAXS", "--numeric-ids", "--compress", "--partial", "--out-format=%i"]);
    argv.push(format!("--timeout={}", request.timeout_secs.max(1)).into());
    if request.delete {
        argv.push("--delete".into());
    }
    if request.delete_excluded {
        argv.push("--delete-excluded".into());
    }
    if request.checksum {
        argv.push("--checksum".into());
    }
    for pattern in &request.exclude {
        let mut word = BytePath::from("--exclude=").as_bytes().to_vec();
        word.extend_from_slice(pattern.as_bytes());
        argv.push(Arg::Text(BytePath::new(word)));
    }
    let user = from.user.as_deref().unwrap_or(USER);
    argv.push(format!("rsync://{user}@{server}:{}/{export}/", from.port.unwrap_or(PORT)).into());
    argv.push(format!("{into}/").into());
    Ok(match &from.secret {
        // By name again: the engine puts the bytes into the program's environment.
        Some(secret) => Spawn { argv, secret_env: vec![("RSYNC_PASSWORD".into(), secret.clone())], ..Spawn::default() },
        // Never a question at a terminal.
        None => Spawn {
            argv,
            env: vec![("RSYNC_PASSWORD".into(), String::new())],
            stdin: Some(Bytes::default()),
            ..Spawn::default()
        },
    })
}

/// How rsync ended, as one of the contract's kinds: the engine decides by the kind whether to try again.
fn judge(request: &PullRequest, exit: &Exit) -> Result<()> {
    let from = &request.from;
    let said = exit.stderr.trim();
    let (kind, why) = match exit.code {
        Some(0) => return Ok(()),
        Some(5) if said.contains("auth failed") => (ErrorKind::Denied, "it refused the secret"),
        Some(5) => (ErrorKind::NotFound, "it does not offer that, or not to this machine"),
        Some(11) if said.contains("No space left") => (ErrorKind::NoSpace, "the target is full"),
        Some(10 | 12 | 30 | 35) => (ErrorKind::Unreachable, "it does not answer, or went away"),
        _ => (ErrorKind::Failed, "rsync failed"),
    };
    let message =
        format!("pulling {:?} from {:?}: {why}; see that it runs and admits this machine", from.export, from.server);
    Err(PluginError::new(kind, message).with("rsync", said))
}

/// A word that may stand in a URL and in brackets.
fn plain<'a>(what: &str, text: &'a str) -> Result<&'a str> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if text.is_empty() || text.starts_with(['.', '-']) || !text.bytes().all(fine) {
        return Err(PluginError::invalid(format!("{what}, {text:?}, has to be letters, digits, '.', '_' and '-'")));
    }
    Ok(text)
}

/// A path that may stand in rsyncd.conf(5), which has no quoting.
fn value<'a>(what: &str, path: &'a BytePath) -> Result<&'a str> {
    let text = std::str::from_utf8(path.as_bytes()).unwrap_or_default();
    let odd = |letter: char| letter.is_control() || letter == '%' || letter == '\\';
    if !text.starts_with('/') || text.chars().any(odd) || text.split('/').any(|part| part == ".." || part == ".") {
        return Err(PluginError::invalid(format!(
            "{what}, {path}, is no plain absolute path; rsyncd.conf cannot hold it"
        )));
    }
    Ok(text.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use systemimager_core::testing::{RecordedHost, assert_conforms};

    use super::*;

    #[test]
    fn keeps_the_contract() {
        assert_conforms();
    }

    fn request() -> PullRequest {
        serde_json::from_value(json!({"from": {"server": "10.0.0.1", "export": "web", "secret": "s"}, "into": "/a"}))
            .unwrap()
    }

    #[test]
    fn a_pull_is_counted_and_its_secret_is_no_argument() {
        let host = RecordedHost::new().program(&[">f\n>f\n", ">f\n"], Exit { code: Some(0), ..Exit::default() });
        assert_eq!(Plugin.pull(&host, request()).unwrap().files, 3);
        let spawned = host.spawned.lock().unwrap();
        assert_eq!(spawned[0].secret_env[0].1.0, "s");
        assert_eq!(spawned[0].argv.last(), Some(&Arg::from("/a/")));
    }

    #[test]
    fn each_end_has_its_kind() {
        for (code, stderr, kind) in [
            (5, "@ERROR: auth failed on module web", ErrorKind::Denied),
            (5, "@ERROR: Unknown module", ErrorKind::NotFound),
            (30, "", ErrorKind::Unreachable),
            (1, "", ErrorKind::Failed),
        ] {
            let exit = Exit { code: Some(code), stderr: stderr.into(), ..Exit::default() };
            let host = RecordedHost::new().program(&[], exit);
            assert_eq!(Plugin.pull(&host, request()).unwrap_err().kind, kind, "{code}");
        }
    }
}
