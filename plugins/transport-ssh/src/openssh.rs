//! OpenSSH's own client in place of the [bridge](crate::bridge), for sites whose way to the other side needs it: a jump host, a
//! hardware key for that, whatever ssh_config(5) says. Pure.
//!
//! Who the other side is, and who asks, is known by the same keys as otherwise; the site's configuration has no say in that.

use systemimager_core::{Arg, ErrorKind, HelperEnd, HelperFile, HelperRun, PluginError, Result};

use crate::KEY;
use crate::bridge::{LATER, REFUSED};
use crate::reason::Reason;

/// What the other side is called among the keys that are known: no name that is looked up.
const ALIAS: &str = "systemimager";
/// Who knows a hardware key, or another that is not in a file (ssh-agent(1)).
pub const AGENT: &str = "SSH_AUTH_SOCK";
/// ssh's own exit status where it does not get through (ssh(1), EXIT STATUS).
const NO_WAY: i32 = 255;

/// What the helper goes on as: `SERVER PORT ACCOUNT SECONDS HOST-KEY`, and what rsync adds, as for the bridge.
///
/// # Errors
/// It is not started so, or without a key.
pub fn run(words: &[String]) -> Result<HelperEnd> {
    let [server, port, account, patience, host_key, _, command @ ..] = words else {
        return Err(PluginError::invalid("this helper is started by rsync, for the ssh transport of systemimager"));
    };
    let Ok(key) = std::env::var(KEY) else {
        return Err(PluginError::new(ErrorKind::Missing, "no key was given to ask with"));
    };
    Ok(HelperEnd::Runs(of(server, port, account, patience, host_key, command, key)))
}

fn of(
    server: &str,
    port: &str,
    account: &str,
    patience: &str,
    host_key: &str,
    command: &[String],
    key: String,
) -> HelperRun {
    let options = [
        // Versions before 8.5 do not know it.
        "IgnoreUnknown=KnownHostsCommand".to_owned(),
        "KnownHostsCommand=none".to_owned(),
        "IdentityAgent=none".to_owned(),
        "PubkeyAuthentication=yes".to_owned(),
        "PreferredAuthentications=publickey".to_owned(),
        "BatchMode=yes".to_owned(),
        "IdentitiesOnly=yes".to_owned(),
        "StrictHostKeyChecking=yes".to_owned(),
        format!("UserKnownHostsFile={}known_hosts", HelperRun::FILES),
        "GlobalKnownHostsFile=/dev/null".to_owned(),
        format!("HostKeyAlias={ALIAS}"),
        "HostKeyAlgorithms=ssh-ed25519".to_owned(),
        "UpdateHostKeys=no".to_owned(),
        "VerifyHostKeyDNS=no".to_owned(),
        "ForwardAgent=no".to_owned(),
        "ControlPath=none".to_owned(),
        "Compression=no".to_owned(),
        format!("ConnectTimeout={patience}"),
    ];
    let identity = format!("{}key", HelperRun::FILES);
    let mut argv = Arg::words(["ssh", "-T", "-x", "-a", "-p", port, "-l", account, "-i", &identity]);
    argv.extend(options.iter().flat_map(|option| Arg::words(["-o", option.as_str()])));
    argv.extend(Arg::words(["--", server]));
    argv.extend(command.iter().map(|word| Arg::from(word.as_str())));
    let file =
        |name: &str, contents: String| HelperFile { name: name.to_owned(), contents: contents.into_bytes().into() };
    let told = |status: i32, reason: Reason| (status, reason.said_before().to_string());
    HelperRun {
        argv,
        files: vec![file("key", key), file("known_hosts", format!("{ALIAS} ssh-ed25519 {host_key}\n"))],
        env: std::env::var(AGENT).ok().map(|agent| (AGENT.to_owned(), agent)).into_iter().collect(),
        told: vec![
            told(REFUSED, Reason::denied(format!("{server} port {port} refused what was asked"))),
            told(LATER, Reason::unreachable(format!("{server} port {port} cannot serve just now"))),
            told(NO_WAY, Reason::unreachable(format!("ssh does not get through to {server} port {port}"))),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_ours_whatever_the_site_says() {
        let command = ["rsync", "--server", ".", "/web/"].map(str::to_owned);
        let run = of("fd77::1", "8022", "root", "30", "AAAA", &command, "private".into());
        let words: Vec<String> = run
            .argv
            .iter()
            .map(|arg| match arg {
                Arg::Text(word) => word.to_string(),
                other => panic!("{other:?}"),
            })
            .collect();
        let line = words.join(" ");
        for part in [
            "-l root -i @files/key ",
            "-o StrictHostKeyChecking=yes -o UserKnownHostsFile=@files/known_hosts ",
            "-o HostKeyAlias=systemimager ",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
        assert_eq!(&*run.files[1].contents, b"systemimager ssh-ed25519 AAAA\n");
        assert_eq!(&*run.files[0].contents, b"private");
        assert_eq!(run.argv[run.argv.len() - 5..], Arg::words(["fd77::1", "rsync", "--server", ".", "/web/"]));
    }
}
