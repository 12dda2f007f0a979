//! OpenSSH's sshd for an offer: sshd_config(5) and authorized_keys (sshd(8)). Pure but for [`listen`].
//!
//! It is a server of its own beside the system's, with a key and a port of its own, and lets in nobody but the keys of the
//! offer. A key leads to one program, which is told what it is for; nothing that the other side sends has a part in that line,
//! and there is no terminal, no forwarding and no other way in.

use std::collections::BTreeMap;
use std::path::Path;

use systemimager_core::{Arg, ErrorKind, Finished, Offer, Piece, PluginError, Probe, Result, Service, ServiceFile};
use systemimager_rsync::offer::{admitted, export_name, is_plain};

use crate::{LISTEN, bridge};

/// Who sessions run as unless another is named.
const ROOT: &str = "root";
/// What reads out the keys, as root: sshd itself reads them with the account's rights.
const READERS: [&str; 2] = ["/usr/bin/cat", "/bin/cat"];
/// SIGTERM.
const STOP: i32 = 15;
/// Where sshd locks its part without rights in; some distributions make it with the system's own service only.
const SEPARATION: &str = "/run/sshd";
/// PAM's rules for sshd.
const PAM: &str = "/etc/pam.d/sshd";
/// Ciphers that both sides know: those that are sealed, and one for older versions. Who pulls says which comes first.
const CIPHERS: &str = "chacha20-poly1305@openssh.com,aes256-gcm@openssh.com,aes128-gcm@openssh.com,aes256-ctr";

/// The service that offers these trees.
pub fn service(offer: &Offer) -> Result<Service> {
    let work = &offer.work_dir;
    let Some(host_key) = &offer.host_key else {
        return Err(PluginError::unsupported("this offer has no key by which the other side knows it; ssh needs one"));
    };
    if offer.door.is_empty() {
        return Err(PluginError::unsupported("this offer has no program that answers who was let in; ssh needs one"));
    }
    for word in &offer.door {
        plain("the program that answers who is let in", word)?;
    }
    let account = account(offer.account.as_deref())?;
    let directory = plain("the working directory", &work.to_string())?.to_owned();
    let file = |name: &str, text: String| ServiceFile {
        path: work.join(name),
        mode: 0o600,
        contents: vec![Piece::Text(text)],
    };
    let finished = offer.finish.as_ref().map(|name| work.join(format!("{name}.finished")));
    let mut files = vec![
        file("sshd_config", config(offer, account, &directory)),
        file("authorized_keys", keys(offer)?),
        ServiceFile {
            path: work.join("host_key"),
            mode: 0o600,
            contents: vec![Piece::Secret(host_key.clone()), Piece::Text("\n".to_owned())],
        },
    ];
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let mut argv = Arg::words(["@self", LISTEN, &format!("{directory}/sshd_config")]);
    if account != ROOT {
        argv.push(format!("{directory}/authorized_keys").into());
    }
    Ok(Service {
        files,
        argv,
        ready: Probe::Tcp(offer.port),
        stop_signal: STOP,
        finished: finished.map(Finished::FileNotEmpty),
        rereads: true,
    })
}

/// The account that sessions run as.
///
/// # Errors
/// `Invalid`: no account is called so (useradd(8)).
pub fn account(name: Option<&str>) -> Result<&str> {
    let name = name.unwrap_or(ROOT);
    if name.len() > 32 || name.starts_with('-') || !is_plain(name) {
        return Err(PluginError::invalid(format!("{name:?} cannot be the account that sessions run as")));
    }
    Ok(name)
}

/// A word that stands in files without quotes.
fn plain<'a>(what: &str, word: &'a str) -> Result<&'a str> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"/._+=:@-".contains(&byte);
    if word.is_empty() || !word.bytes().all(fine) {
        return Err(PluginError::invalid(format!(
            "{what}, {word:?}, cannot stand in a configuration of sshd; use a path of letters, digits and /._+=:@-"
        )));
    }
    Ok(word)
}

fn config(offer: &Offer, account: &str, work: &str) -> String {
    let listen = match offer.bind {
        Some(address) if address.is_ipv6() => format!("ListenAddress [{address}]:{}", offer.port),
        Some(address) => format!("ListenAddress {address}:{}", offer.port),
        None => format!("Port {}", offer.port),
    };
    // Who is not root does not read them.
    let (keys, root) = match account == ROOT {
        true => (format!("AuthorizedKeysFile {work}/authorized_keys"), "forced-commands-only"),
        false => ("AuthorizedKeysFile none\nAuthorizedKeysCommandUser root".to_owned(), "no"),
    };
    format!(
        "# Made by systemimager for this one run; changes are lost.\n\
         {listen}\n\
         HostKey {work}/host_key\n\
         {keys}\n\
         PidFile none\n\
         # They lie in a directory that only root enters; sshd would refuse /var/tmp above it.\n\
         StrictModes no\n\
         AllowUsers {account}\n\
         PermitRootLogin {root}\n\
         PubkeyAuthentication yes\n\
         # Whatever else a version knows, and by whatever name.\n\
         AuthenticationMethods publickey\n\
         PasswordAuthentication no\n\
         KbdInteractiveAuthentication no\n\
         HostbasedAuthentication no\n\
         UseDNS no\n\
         DisableForwarding yes\n\
         PermitTTY no\n\
         PermitUserRC no\n\
         PermitUserEnvironment no\n\
         Compression no\n\
         Ciphers {CIPHERS}\n\
         KexAlgorithms curve25519-sha256,curve25519-sha256@libssh.org\n\
         PrintMotd no\n\
         MaxAuthTries 2\n\
         MaxSessions 1\n\
         # All machines of a room may be switched on at once.\n\
         MaxStartups 1000\n\
         LoginGraceTime 30\n\
         ClientAliveInterval 60\n\
         ClientAliveCountMax 15\n\
         # Also tells of keys that are not let in.\n\
         LogLevel VERBOSE\n"
    )
}

/// What one key opens.
#[derive(Default)]
struct Opens {
    exports: Vec<String>,
    from: Vec<String>,
}

/// A line a key: whoever holds it may have these trees, and from these addresses only.
fn keys(offer: &Offer) -> Result<String> {
    let mut by_key: BTreeMap<String, Opens> = BTreeMap::new();
    for export in &offer.exports {
        export_name(&export.name)?;
        let mut allow = Vec::new();
        for address in &export.allow {
            allow.push(admitted(&export.name, address)?);
        }
        // Nobody: not anybody.
        if allow.is_empty() {
            continue;
        }
        for key in &export.keys {
            let opens = by_key.entry(bridge::public_key(&key.key)?).or_default();
            // Until when it opens something is looked at where it is asked for: sshd's own words for times differ by its version.
            opens.exports.push(export.name.clone());
            for address in if key.from.is_empty() { &allow } else { &key.from } {
                let address = admitted(&export.name, address)?;
                if !opens.from.contains(&address) {
                    opens.from.push(address);
                }
            }
        }
    }
    let finish = offer.finish.as_deref().map(|name| export_name(name).map(|()| name)).transpose()?;
    let mut text = String::from("# Made by systemimager for this one run; changes are lost.\n");
    for (key, opens) in by_key {
        let words = offer.door.iter().chain(&opens.exports).map(String::as_str).chain(finish);
        text.push_str(&format!(
            "restrict,from=\"{}\",command=\"{}\" ssh-ed25519 {key}\n",
            opens.from.join(","),
            words.collect::<Vec<_>>().join(" ")
        ));
    }
    Ok(text)
}

/// What the helper becomes, with the configuration that it is told, and the file of keys where they are read out.
///
/// # Errors
/// It is not told a file; its directory cannot be made.
pub fn listen(words: &[String]) -> Result<Vec<Arg>> {
    let (file, keys) = match words {
        [file] => (file, None),
        [file, keys] => (file, Some(keys)),
        _ => return Err(PluginError::invalid("sshd is started with one configuration file")),
    };
    let separation = Path::new(SEPARATION);
    if separation.parent().is_some_and(Path::is_dir) && !separation.is_dir() {
        std::fs::create_dir(separation)
            .map_err(|error| PluginError::failed(format!("making {SEPARATION}, which sshd wants: {error}")))?;
    }
    // Where there are rules for it, so that an account without a password is not taken for one that is locked.
    let pam = format!("UsePAM={}", if Path::new(PAM).exists() { "yes" } else { "no" });
    let mut argv = Arg::words(["sshd", "-D", "-e", "-f", file, "-o", &pam]);
    if let Some(keys) = keys {
        let reader = READERS.iter().find(|place| Path::new(place).exists());
        let Some(reader) = reader else {
            return Err(PluginError::new(
                ErrorKind::Missing,
                "there is no cat(1) in /usr/bin or /bin; install coreutils",
            ));
        };
        argv.extend(Arg::words(["-o", &format!("AuthorizedKeysCommand={reader} {keys}")]));
    }
    Ok(argv)
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::{AdmittedKey, BytePath, Export, Secret};

    const ONE: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIGmaSFjmDSJyJ2Uuo7X5zFVRIYk2HUHLGyKTFpB9rZbN";
    const TWO: &str = "AAAAC3NzaC1lZDI1NTE5AAAAINuk1cQJmZAcD0jN6gq6tK2w8oTBNZEq4CkH3CNQ4ezR";

    fn export(name: &str, allow: &[&str], keys: &[(&str, Option<&str>)]) -> Export {
        Export {
            name: name.into(),
            tree: "/srv/x".into(),
            allow: allow.iter().map(|text| (*text).to_owned()).collect(),
            keys: keys
                .iter()
                .map(|(key, from)| AdmittedKey {
                    key: format!("ssh-ed25519 {key}"),
                    from: from.iter().map(|it| (*it).to_owned()).collect(),
                    ..AdmittedKey::default()
                })
                .collect(),
            ..Export::default()
        }
    }

    fn offer(exports: Vec<Export>) -> Offer {
        Offer {
            exports,
            bind: Some("::".parse().unwrap()),
            port: 8022,
            work_dir: "/run/x/service".into(),
            finish: Some("finished".into()),
            host_key: Some(Secret("host".into())),
            door: vec!["/usr/bin/systemimager".into(), "door".into(), "/run/x/door".into()],
            ..Offer::default()
        }
    }

    fn text(service: &Service, name: &str) -> String {
        let file = service.files.iter().find(|file| file.path == BytePath::from("/run/x/service").join(name)).unwrap();
        assert_eq!(file.mode, 0o600, "{name}");
        match &file.contents[..] {
            [Piece::Text(text)] => text.clone(),
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn golden() {
        let exports = vec![
            export("web", &["10.0.0.5", "fd77::/64"], &[(ONE, None), (TWO, Some("10.0.0.7"))]),
            export("facts", &["10.0.0.5"], &[(ONE, None)]),
        ];
        let service = service(&offer(exports)).unwrap();
        let config = text(&service, "sshd_config");
        assert!(config.contains("\nListenAddress [::]:8022\nHostKey /run/x/service/host_key\n"), "{config}");
        for line in ["AllowUsers root", "PermitRootLogin forced-commands-only", "DisableForwarding yes"] {
            assert!(config.lines().any(|it| it == line), "{line} in {config}");
        }
        let door = "command=\"/usr/bin/systemimager door /run/x/door";
        assert_eq!(
            text(&service, "authorized_keys"),
            format!(
                "# Made by systemimager for this one run; changes are lost.\n\
                 restrict,from=\"10.0.0.5,fd77::/64\",{door} web facts finished\" ssh-ed25519 {ONE}\n\
                 restrict,from=\"10.0.0.7\",{door} web finished\" ssh-ed25519 {TWO}\n"
            )
        );
        let key = service.files.iter().find(|file| file.path == "/run/x/service/host_key".into()).unwrap();
        assert_eq!((key.mode, &key.contents[0]), (0o600, &Piece::Secret(Secret("host".into()))));
        assert_eq!(service.argv, Arg::words(["@self", "listen", "/run/x/service/sshd_config"]));
        assert_eq!(service.finished, Some(Finished::FileNotEmpty("/run/x/service/finished.finished".into())));
    }

    #[test]
    fn an_account_reads_no_keys() {
        let offer =
            Offer { account: Some("systemimager".into()), ..offer(vec![export("web", &["10.0.0.5"], &[(ONE, None)])]) };
        let service = service(&offer).unwrap();
        let config = text(&service, "sshd_config");
        for line in ["AllowUsers systemimager", "PermitRootLogin no", "AuthorizedKeysFile none"] {
            assert!(config.lines().any(|it| it == line), "{line} in {config}");
        }
        let words = ["@self", "listen", "/run/x/service/sshd_config", "/run/x/service/authorized_keys"];
        assert_eq!(service.argv, Arg::words(words));
        let argv = listen(&words[2..].iter().map(|&word| word.to_owned()).collect::<Vec<_>>()).unwrap();
        assert_eq!(argv[argv.len() - 2], Arg::from("-o"));
        assert!(format!("{:?}", argv[argv.len() - 1]).contains("bin/cat /run/x/service/authorized_keys"), "{argv:?}");
    }

    #[test]
    fn nobody_is_let_in_unless_named() {
        for exports in [vec![], vec![export("web", &["10.0.0.5"], &[])], vec![export("web", &[], &[(ONE, None)])]] {
            let service = service(&offer(exports)).unwrap();
            assert_eq!(text(&service, "authorized_keys").lines().count(), 1);
        }
    }

    #[test]
    fn what_cannot_stand_there_is_refused() {
        type Spoil = fn(&mut Offer);
        let rows: &[(&str, Spoil, ErrorKind, &str)] = &[
            ("no key", |offer| offer.host_key = None, ErrorKind::Unsupported, "has no key"),
            ("no door", |offer| offer.door.clear(), ErrorKind::Unsupported, "no program that answers"),
            ("a door with blanks", |offer| offer.door.push("a b".into()), ErrorKind::Invalid, "cannot stand in"),
            ("a door with quotes", |offer| offer.door.push("\",x".into()), ErrorKind::Invalid, "cannot stand in"),
            ("a directory", |offer| offer.work_dir = "/a\nPort 22".into(), ErrorKind::Invalid, "cannot stand in"),
            ("an export", |offer| offer.exports[0].name = "a\" x".into(), ErrorKind::Invalid, "name of a tree"),
            ("an address", |offer| offer.exports[0].allow = vec!["*".into()], ErrorKind::Invalid, "neither an address"),
            (
                "a key",
                |offer| offer.exports[0].keys[0].key = "ssh-ed25519 x\n".into(),
                ErrorKind::Invalid,
                "no ssh-ed25519",
            ),
            ("an account", |offer| offer.account = Some("a b".into()), ErrorKind::Invalid, "cannot be the account"),
            ("the end", |offer| offer.finish = Some("a b".into()), ErrorKind::Invalid, "name of a tree"),
        ];
        for (name, spoil, kind, says) in rows {
            let mut offer = offer(vec![export("web", &["10.0.0.5"], &[(ONE, None)])]);
            spoil(&mut offer);
            let error = service(&offer).unwrap_err();
            assert_eq!(error.kind, *kind, "{name}: {error}");
            assert!(error.message.contains(says), "{name}: {error}");
        }
    }
}
