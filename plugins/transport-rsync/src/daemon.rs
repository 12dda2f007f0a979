//! rsyncd.conf(5) for an offer. Pure: text out, nothing written here.
//!
//! The daemon runs as root, shows its modules to nobody, is read-only, and locks each connection into
//! its tree (chroot), so that neither a link nor a path in a request leads out of it.

use std::collections::BTreeSet;

use systemimager_core::{
    Arg, BytePath, Export, Finished, Offer, Piece, PluginError, Probe, Result, Service, ServiceFile,
};

use systemimager_rsync::offer::{admitted, export_name, is_plain};

use crate::USER;

/// Seconds after which the daemon gives up a connection on which nothing moves. Generous: a client
/// may compare a huge file meanwhile.
const IDLE_SECS: u32 = 900;
/// SIGTERM.
const STOP: i32 = 15;

/// The service that offers these trees.
pub fn service(offer: &Offer) -> Result<Service> {
    let work = &offer.work_dir;
    conf_value("the working directory", work)?;
    let mut seen = BTreeSet::new();
    let mut conf = global();
    let mut files = Vec::new();
    for export in &offer.exports {
        add(&mut conf, &mut files, &mut seen, work, export, None)?;
    }
    let finished = match &offer.finish {
        None => None,
        Some(name) => {
            // A module without contents, with a log of its own: its first line is the message.
            let log = work.join(format!("{name}.finished"));
            let tree = work.join(format!("{name}.tree"));
            files.push(ServiceFile { path: tree.join("finished"), mode: 0o444, contents: Vec::new() });
            let allow: BTreeSet<String> = offer.exports.iter().flat_map(|export| export.allow.clone()).collect();
            let export = Export {
                name: name.clone(),
                tree,
                allow: allow.into_iter().collect(),
                secret: offer.exports.iter().find_map(|export| export.secret.clone()),
                ..Export::default()
            };
            add(&mut conf, &mut files, &mut seen, work, &export, Some(&log))?;
            Some(Finished::FileNotEmpty(log))
        }
    };
    let path = work.join("rsyncd.conf");
    let mut config = BytePath::from("--config=").as_bytes().to_vec();
    config.extend_from_slice(path.as_bytes());
    files.push(ServiceFile { path, mode: 0o600, contents: vec![Piece::Text(conf)] });
    let mut argv = Arg::words(["rsync", "--daemon", "--no-detach"]);
    argv.push(Arg::Text(BytePath::new(config)));
    argv.push(format!("--port={}", offer.port).into());
    if let Some(address) = offer.bind {
        argv.push(format!("--address={address}").into());
    }
    Ok(Service { files, argv, ready: Probe::Tcp(offer.port), stop_signal: STOP, finished, rereads: true })
}

/// What holds for all modules. No pid file and no lock file: one left behind by a crash would keep
/// the next daemon from starting, and the supervisor knows the process anyway. Everything is logged
/// to standard error, where the supervisor reads it. Small messages are sent at once: setting up a connection takes
/// a sixth of a second otherwise.
fn global() -> String {
    format!(
        "# Made by systemimager for this one run; changes are lost.\n\
         log file = /proc/self/fd/2\n\
         uid = 0\n\
         gid = 0\n\
         use chroot = yes\n\
         read only = yes\n\
         list = no\n\
         numeric ids = yes\n\
         munge symlinks = no\n\
         reverse lookup = no\n\
         strict modes = yes\n\
         open noatime = yes\n\
         socket options = TCP_NODELAY\n\
         timeout = {IDLE_SECS}\n\
         hosts deny = *\n"
    )
}

fn add(
    conf: &mut String,
    files: &mut Vec<ServiceFile>,
    seen: &mut BTreeSet<String>,
    work: &BytePath,
    export: &Export,
    log: Option<&BytePath>,
) -> Result<()> {
    let name = &export.name;
    module_name(name)?;
    if !seen.insert(name.to_ascii_lowercase()) {
        return Err(PluginError::invalid(format!(
            "two trees on offer are called {name}; rsync does not tell upper from lower case, rename one"
        )));
    }
    let tree = conf_value(&format!("the tree of {name}"), &export.tree)?;
    conf.push_str(&format!("\n[{name}]\npath = {tree}\n"));
    let mut allow = Vec::new();
    for address in &export.allow {
        allow.push(admitted(name, address)?);
    }
    if !allow.is_empty() {
        conf.push_str(&format!("hosts allow = {}\n", allow.join(" ")));
    }
    if let Some(log) = log {
        conf.push_str(&format!("log file = {}\n", conf_value("the log", log)?));
    }
    let (mut names, mut contents) = (Vec::new(), Vec::new());
    let anybodys = export.secret.iter().map(|secret| (USER, secret));
    for (user, secret) in anybodys.chain(export.secrets.iter().map(|it| (it.user.as_str(), &it.secret))) {
        let user = user_name(user)?;
        names.push(user);
        contents.extend([Piece::Text(format!("{user}:")), Piece::Secret(secret.clone()), Piece::Text("\n".to_owned())]);
    }
    if !names.is_empty() {
        let path = work.join(format!("{name}.secrets"));
        conf.push_str(&format!(
            "auth users = {}\nsecrets file = {}\n",
            names.join(","),
            conf_value("the secrets", &path)?
        ));
        files.push(ServiceFile { path, mode: 0o600, contents });
    }
    Ok(())
}

/// Whose secret it is, as it stands in a list and before a colon.
pub fn user_name(user: &str) -> Result<&str> {
    if !is_plain(user) {
        return Err(PluginError::invalid(format!(
            "{user:?} cannot be whose secret it is; use letters, digits, '.', '_' and '-'"
        )));
    }
    Ok(user)
}

/// A module's name, as it stands in brackets and in URLs.
pub fn module_name(name: &str) -> Result<()> {
    export_name(name)?;
    // [global] is the section of common settings.
    if name.eq_ignore_ascii_case("global") {
        return Err(PluginError::invalid("an rsync module cannot be called \"global\"; rename the image"));
    }
    Ok(())
}

/// A path as a value: the file has no way to quote, so what would be read otherwise is refused.
fn conf_value<'a>(what: &str, path: &'a BytePath) -> Result<&'a str> {
    let no = |why: &str| {
        PluginError::invalid(format!("{what}, {path}, {why}; rsyncd.conf cannot hold that, choose another path"))
    };
    let text = std::str::from_utf8(path.as_bytes()).map_err(|_| no("is not UTF-8"))?;
    if !text.starts_with('/') {
        return Err(no("is not absolute"));
    }
    if text.chars().any(char::is_control) {
        return Err(no("holds a control character"));
    }
    if text.contains('%') {
        return Err(no("holds '%', which would be expanded"));
    }
    if text.contains("/./") {
        return Err(no("holds \"/./\", which has a meaning of its own"));
    }
    if text.ends_with('\\') {
        return Err(no("ends in a backslash"));
    }
    if text.trim() != text {
        return Err(no("ends in a blank"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::{Secret, UserSecret};

    fn offer(name: &str, tree: &str, allow: &[&str]) -> Offer {
        Offer {
            exports: vec![Export {
                name: name.into(),
                tree: tree.into(),
                allow: allow.iter().map(|text| (*text).to_owned()).collect(),
                secret: Some(Secret("capture".into())),
                ..Export::default()
            }],
            bind: Some("127.0.0.1".parse().unwrap()),
            port: 8730,
            work_dir: "/run/x".into(),
            finish: Some("done".into()),
            ..Offer::default()
        }
    }

    #[test]
    fn each_has_a_secret_of_their_own() {
        let own = |user: &str| UserSecret { user: user.into(), secret: Secret(format!("of {user}")) };
        let offer = |secrets: Vec<UserSecret>| Offer {
            exports: vec![Export {
                name: "web".into(),
                tree: "/srv/web".into(),
                allow: vec!["10.0.0.5".into()],
                secrets,
                ..Export::default()
            }],
            port: 873,
            work_dir: "/run/x".into(),
            ..Offer::default()
        };
        let made = service(&offer(vec![own("k1"), own("k2")])).unwrap();
        let file = |name: &str| made.files.iter().find(|file| file.path == name.into()).unwrap();
        let [Piece::Text(conf)] = &file("/run/x/rsyncd.conf").contents[..] else { panic!("{made:?}") };
        assert!(
            conf.contains("hosts allow = 10.0.0.5\nauth users = k1,k2\nsecrets file = /run/x/web.secrets\n"),
            "{conf}"
        );
        let secrets = file("/run/x/web.secrets");
        assert_eq!(secrets.mode, 0o600);
        let pieces: Vec<String> = secrets
            .contents
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.clone(),
                Piece::Secret(secret) => format!("<{}>", secret.0),
            })
            .collect();
        assert_eq!(pieces.concat(), "k1:<of k1>\nk2:<of k2>\n");
        for odd in ["", "a:b", "a,b", "a b", "@wheel"] {
            let error = service(&offer(vec![own(odd)])).unwrap_err();
            assert!(error.message.contains("cannot be whose secret it is"), "{odd:?}: {error}");
        }
    }

    #[test]
    fn golden() {
        let service = service(&offer("root", "/run/x y/root", &["10.0.0.5", "fd77::/64"])).unwrap();
        let conf = service.files.iter().find(|file| file.path == "/run/x/rsyncd.conf".into()).unwrap();
        let module = "[root]\npath = /run/x y/root\nhosts allow = 10.0.0.5 fd77::/64\n\
                      auth users = systemimager\nsecrets file = /run/x/root.secrets\n\n\
                      [done]\npath = /run/x/done.tree\nhosts allow = 10.0.0.5 fd77::/64\n\
                      log file = /run/x/done.finished\n\
                      auth users = systemimager\nsecrets file = /run/x/done.secrets\n";
        assert_eq!(conf.contents, vec![Piece::Text(format!("{}\n{module}", global()))]);
        assert_eq!(conf.mode, 0o600);
        assert_eq!(
            service.argv,
            Arg::words([
                "rsync",
                "--daemon",
                "--no-detach",
                "--config=/run/x/rsyncd.conf",
                "--port=8730",
                "--address=127.0.0.1"
            ])
        );
        assert_eq!(service.finished, Some(Finished::FileNotEmpty("/run/x/done.finished".into())));
        // The secret is a reference, in a file that only root may read.
        let secrets = service.files.iter().find(|file| file.path == "/run/x/root.secrets".into()).unwrap();
        assert_eq!(secrets.mode, 0o600);
        assert_eq!(secrets.contents[1], Piece::Secret(Secret("capture".into())));
    }

    #[test]
    fn nobody_is_admitted_unless_named() {
        let service = service(&offer("root", "/r", &[])).unwrap();
        let text = format!("{:?}", service.files);
        assert!(text.contains("hosts deny = *") && !text.contains("hosts allow"), "{text}");
    }

    #[test]
    fn what_the_file_cannot_hold_is_refused() {
        let rows: &[(&str, &str, &str, &str)] = &[
            ("newline", "root", "/a\nuid = 0", "holds a control character"),
            ("percent", "root", "/a%HOME%", "which would be expanded"),
            ("relative", "root", "a", "is not absolute"),
            ("backslash", "root", "/a\\", "ends in a backslash"),
            ("blank", "root", "/a ", "ends in a blank"),
            ("inner", "root", "/a/./b", "meaning of its own"),
            ("bracket", "a]b", "/a", "cannot be the name of a tree on offer"),
            ("slash", "a/b", "/a", "cannot be the name of a tree on offer"),
            ("global", "Global", "/a", "cannot be called \"global\""),
            ("as finish", "DONE", "/a", "two trees on offer are called done"),
        ];
        for (name, export, tree, says) in rows {
            let error = service(&offer(export, tree, &["10.0.0.1"])).unwrap_err().to_string();
            assert!(error.contains(says), "{name}: {error}");
        }
        for bad in ["example.org", "10.0.0.0/33", "10.0.0.1 0.0.0.0/0", "*", "", "10.0.0.1/", "fe80::/129"] {
            let error = service(&offer("root", "/a", &[bad])).unwrap_err().to_string();
            assert!(error.contains("is neither an address nor a prefix"), "{bad}: {error}");
        }
    }
}
