//! Transport by rsync's own protocol over ssh: nobody on the way reads or forges what is moved.
//!
//! - [`sshd`] writes what OpenSSH's sshd needs for an offer: a key of the machine, and for each key that is let in one program
//!   and nothing else.
//! - [`bridge`] is the program that rsync starts on the side that pulls: an ssh client without a shell, a user or files.
//! - [`openssh`] is OpenSSH's client in its place, where this side's settings say `engine = "openssh"`.
//! - [`reason`] carries why it failed from there to here.
//!
//! How rsync is asked, understood and answered stands in `systemimager-rsync`. Who has which key, and who may have which tree,
//! is not decided here.

mod bridge;
mod openssh;
mod reason;
mod sshd;

use systemimager_core::contract::Transport;
use systemimager_core::{
    Answer, Arg, Asked, Capabilities, ErrorKind, HelperCall, HelperEnd, HelperLine, Host, Needs, Offer, PluginError,
    Program, PullReport, PullRequest, Result, Role, Service, Source, Spawn, declare_plugin,
};
use systemimager_rsync::client;
use systemimager_rsync::offer::export_name;
use systemimager_rsync::request::{self, Way};
use systemimager_rsync::stream::Stream;
use systemimager_rsync::{server, verdict};

/// The plugin.
pub struct Ssh;

declare_plugin! {
    kind: Transport,
    id: ssh,
    about: "rsync over ssh: encrypted, both sides known by their keys, only differences move",
    make: Ssh,
}

/// The port of a service of ours; the system's own sshd has another.
const PORT: u16 = 8022;
/// The variable by which the bridge gets the key of who pulls.
const KEY: &str = "SYSTEMIMAGER_SSH_KEY";
/// The helper on the side that pulls.
const BRIDGE: &str = "bridge";
/// The same by OpenSSH's client.
const OPENSSH: &str = "openssh";
/// The setting that says which of them.
const ENGINE: &str = "engine";
/// The helper on the side that offers.
const LISTEN: &str = "listen";

impl Transport for Ssh {
    fn capabilities(&self, _: &dyn Host, (): ()) -> Result<Capabilities> {
        Ok(client::capabilities(true, PORT))
    }

    fn needs(&self, _: &dyn Host, role: Role) -> Result<Needs> {
        let mut programs = vec![Program::new("rsync", "rsync")];
        match role {
            // What only pulls needs no program of ssh's.
            Role::Installer | Role::InstalledClient => {}
            // It knows no --version before 9.x, and -V in none of the older: its configuration is tried when it starts.
            Role::MasterClient | Role::Server => programs.push(Program::new("sshd", "openssh-server")),
        }
        Ok(Needs { programs, ..Needs::default() })
    }

    fn offer(&self, _: &dyn Host, request: Offer) -> Result<Service> {
        sshd::service(&request)
    }

    fn pull(&self, host: &dyn Host, request: PullRequest) -> Result<PullReport> {
        let (exit, outcome) = client::pull(host, &request, way, Stream::new(&request).below(Answer::TREE))?;
        reason::of(&request.from, &exit, host.cancelled())?;
        verdict::of_pull(host.cancelled(), &request.from, &exit, outcome)
    }

    fn finish(&self, host: &dyn Host, request: Source) -> Result<()> {
        let (exit, outcome) = client::finish(host, &request, way)?;
        reason::of(&request, &exit, host.cancelled())?;
        verdict::of_pull(host.cancelled(), &request, &exit, outcome).map(drop)
    }

    fn answer(&self, _: &dyn Host, request: Asked) -> Result<Answer> {
        server::sender(&request)
    }

    fn helper(&self, _: &dyn Host, call: HelperCall) -> Result<HelperEnd> {
        let words: Vec<String> = call.words.iter().map(ToString::to_string).collect();
        match words.split_first() {
            Some((word, rest)) if word == BRIDGE => Ok(HelperEnd::Exit(bridge::run(rest))),
            Some((word, rest)) if word == OPENSSH => openssh::run(rest),
            Some((word, rest)) if word == LISTEN => sshd::listen(rest).map(HelperEnd::Becomes),
            _ => {
                Err(PluginError::invalid("this is a helper of rsync and of the image server; nobody starts it by hand"))
            }
        }
    }
}

/// How the bridge is asked for an export: rsync starts it, with the words that the other side's rsync is to have.
fn way(from: &Source, patience: u32) -> Result<Way> {
    export_name(&from.export)?;
    let server = request::server(&from.server)?;
    let lacks = |what: &str| {
        PluginError::new(
            ErrorKind::Denied,
            format!(
                "{what} is known for {server}, and without it nothing is asked for by ssh; this program was given none for this \
                 transfer"
            ),
        )
    };
    let host_key = from.host_key.as_deref().ok_or_else(|| lacks("no key of the other side"))?;
    let host_key = bridge::public_key(host_key)?;
    let identity = from.identity.clone().ok_or_else(|| lacks("no key of one's own"))?;
    let mut env = Vec::new();
    let helper = match engine(from)? {
        OPENSSH => {
            env.extend(std::env::var(openssh::AGENT).ok().map(|agent| (openssh::AGENT.to_owned(), agent)));
            OPENSSH
        }
        _ => BRIDGE,
    };
    let words = vec![
        helper.to_owned(),
        from.server.clone(),
        from.port.unwrap_or(PORT).to_string(),
        sshd::account(from.account.as_deref())?.to_owned(),
        patience.to_string(),
        host_key,
    ];
    let spawn = Spawn {
        helpers: vec![HelperLine { env: "RSYNC_RSH".into(), words }],
        secret_env: vec![(KEY.into(), identity)],
        env,
        ..Spawn::default()
    };
    // The host is no name for anybody: the bridge knows where to. Whatever rsync was built with: the other side reads the words as
    // they are.
    Ok(Way { source: format!("server:/{}/", from.export), options: Arg::words(["--no-s"]), spawn })
}

/// Which client asks, by this side's settings.
fn engine(from: &Source) -> Result<&str> {
    if let Some(odd) = from.settings.keys().find(|name| *name != ENGINE) {
        return Err(PluginError::invalid(format!(
            "[transport.ssh] {odd}: there is no such setting; there is {ENGINE}"
        )));
    }
    match from.settings.get(ENGINE).map(String::as_str) {
        None => Ok("libssh2"),
        Some(known) if ["libssh2", OPENSSH].contains(&known) => Ok(known),
        Some(other) => Err(PluginError::invalid(format!(
            "[transport.ssh] {ENGINE} = {other:?}: it is \"libssh2\", which needs no ssh client, or \"{OPENSSH}\""
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::testing::RecordedHost;
    use systemimager_core::{Exit, Secret};

    const HOST_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGmaSFjmDSJyJ2Uuo7X5zFVRIYk2HUHLGyKTFpB9rZbN";

    fn request() -> PullRequest {
        let from = Source {
            server: "fd77::5".into(),
            export: "web".into(),
            identity: Some(Secret("key".into())),
            host_key: Some(HOST_KEY.into()),
            ..Source::default()
        };
        PullRequest { from, into: "/to".into(), ..PullRequest::default() }
    }

    #[test]
    fn a_pull_goes_over_the_bridge() {
        let lines = [
            "2026/11/23 00:44:04 [31808] rsync: [sender] send_files failed to open \"/tree/x\": Permission denied (13)\n",
            "2026/11/23 00:44:04 [31808] Number of files: 3 (reg: 2, dir: 1)\n",
        ];
        let host = RecordedHost::new().program(&lines, Exit { code: Some(23), ..Exit::default() });
        let report = Ssh.pull(&host, request()).unwrap();
        assert_eq!((report.files, report.failed[0].path.to_string()), (3, "/x".to_owned()));
        let spawned = host.spawned.lock().unwrap();
        assert_eq!(spawned[0].argv[spawned[0].argv.len() - 2..], Arg::words(["server:/web/", "/to/"]));
        let line = &spawned[0].helpers[0];
        let key = HOST_KEY.split_once(' ').unwrap().1;
        assert_eq!(
            (line.env.as_str(), line.words.join(" ")),
            ("RSYNC_RSH", format!("bridge fd77::5 8022 root 30 {key}"))
        );
        assert_eq!(spawned[0].secret_env, [(KEY.to_owned(), Secret("key".into()))]);
    }

    #[test]
    fn the_settings_say_which_client() {
        let with = |name: &str, value: &str| {
            let settings = [(name.to_owned(), value.to_owned())].into();
            way(&Source { settings, ..request().from }, 30)
        };
        let helper = |way: Result<Way>| way.unwrap().spawn.helpers[0].words[0].clone();
        assert_eq!(helper(way(&request().from, 30)), "bridge");
        assert_eq!(helper(with("engine", "libssh2")), "bridge");
        assert_eq!(helper(with("engine", "openssh")), "openssh");
        assert!(with("engine", "putty").unwrap_err().message.contains("it is \"libssh2\""));
        assert!(with("Engine", "openssh").unwrap_err().message.contains("there is no such setting"));
    }

    #[test]
    fn without_keys_nothing_is_asked_for() {
        type Spoil = fn(&mut Source);
        let rows: &[(&str, Spoil, &str)] = &[
            ("no host key", |from| from.host_key = None, "no key of the other side is known for [fd77::5]"),
            ("no identity", |from| from.identity = None, "no key of one's own"),
            ("another kind", |from| from.host_key = Some("ssh-rsa AAAA".into()), "is no ssh-ed25519 key"),
            ("no key", |from| from.host_key = Some("ssh-ed25519 $(id)".into()), "is no ssh-ed25519 key"),
            ("an odd server", |from| from.server = "-oProxyCommand=id".into(), "neither an address nor a name"),
            ("an odd account", |from| from.account = Some("-l root".into()), "cannot be the account"),
            ("an odd export", |from| from.export = "../x".into(), "cannot be the name of a tree"),
        ];
        for (name, spoil, says) in rows {
            let mut request = request();
            spoil(&mut request.from);
            let host = RecordedHost::new();
            let error = Ssh.pull(&host, request).unwrap_err().to_string();
            assert!(error.contains(says), "{name}: {error}");
            assert!(host.spawned.lock().unwrap().is_empty(), "{name}");
        }
    }

    #[test]
    fn why_the_bridge_failed_is_told() {
        let stderr = "x\nsystemimager-ssh: denied: 10.0.0.5 has another key\nrsync: connection unexpectedly closed\n";
        let exit = Exit { code: Some(12), stderr: stderr.into(), ..Exit::default() };
        let host = RecordedHost::new().program(&[], exit);
        let error = Ssh.pull(&host, request()).unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Denied, "10.0.0.5 has another key"));
    }

    #[test]
    fn a_helper_knows_its_words() {
        let host = RecordedHost::new();
        for words in [vec![], vec!["sh"], vec!["bridge-x"]] {
            let call = HelperCall { words: words.into_iter().map(Into::into).collect() };
            assert!(Ssh.helper(&host, call).unwrap_err().message.contains("nobody starts it by hand"));
        }
    }
}
