//! A pull as an argv. Pure.

use systemimager_core::{Arg, BytePath, Bytes, PluginError, PullRequest, Result, Source, Spawn};

use crate::daemon::module_name;
use crate::filter;

/// The name under which the secret is presented; a daemon's `auth users`.
pub const USER: &str = "systemimager";
/// What begins a line that tells of a change: no name can be taken for it.
pub const CHANGE_MARK: &str = "si:";

/// Paths longer than this are refused by rsync's own check of what it asked for (3.5.0: from some 3,500 bytes on).
const LONG_PATH: usize = 3000;
/// With more paths than this, that check takes longer than it is worth: its time grows with their square.
const MANY_PATHS: usize = 1000;

/// What a pull runs.
///
/// Names are bytes throughout: arguments are a list, `only` goes over standard input NUL-separated,
/// and output escapes what is not printable as `\#ooo` (rsync(1), `--8-bit-output`).
pub fn pull(request: &PullRequest, default_port: u16) -> Result<Spawn> {
    if !request.into.as_bytes().starts_with(b"/") {
        return Err(PluginError::invalid(format!("the directory to pull into, {}, is not absolute", request.into)));
    }
    if request.basis.is_some() {
        // rsync 3.5.0 --copy-dest fills holes and loses attributes of links, fifos and of files whose
        // owner is set afterwards.
        return Err(PluginError::unsupported(
            "rsync does not copy holes and all attributes from a basis; copy that tree first and pull over the copy",
        ));
    }
    let mut argv = Arg::words([
        "rsync",
        "--archive",
        "--hard-links",
        "--acls",
        "--xattrs",
        "--numeric-ids",
        "--partial",
        // Times are compared to the nanosecond.
        "--modify-window=-1",
        "--8-bit-output",
        "--no-motd",
        "--sockopts=TCP_NODELAY",
        "--outbuf=L",
        // Errors come in one stream with everything else, so that none is lost however many there are.
        "--log-file=/proc/self/fd/1",
        "--log-file-format=",
    ]);
    // Of a dry run only what differs: progress comes from another process of rsync's, and would get between the lines.
    argv.push(if request.dry_run { "--info=stats2" } else { "--info=progress2,stats2" }.into());
    argv.push(format!("--timeout={}", request.timeout_secs.max(1)).into());
    argv.push(format!("--contimeout={}", request.timeout_secs.clamp(1, 30)).into());
    // Flat, nothing is deleted but what is named, and what is in the way.
    if request.delete && !request.flat {
        argv.push("--delete".into());
    }
    if request.delete_excluded && !request.flat {
        argv.push("--delete-excluded".into());
    }
    if request.checksum {
        argv.push("--checksum".into());
    }
    if !request.dense {
        // Writes 1 KiB at a time (3.5.0): a pull of what lies in memory takes half as long again.
        argv.push("--sparse".into());
    }
    if request.compress && !request.dry_run {
        argv.push("--compress".into());
    }
    if request.dry_run {
        argv.push("--dry-run".into());
        // A list in one piece is shorter, and found sooner, than one that comes in parts between which files move.
        argv.push("--no-inc-recursive".into());
        argv.push(format!("--out-format={CHANGE_MARK}%i %l %n//%L").into());
        if request.links {
            // Twice: names what does not differ too.
            argv.extend(Arg::words(["--itemize-changes", "--itemize-changes"]));
        }
    }
    for pattern in &request.exclude {
        argv.push(Arg::Text(filter::rule(pattern)?));
    }
    let stdin = match &request.only {
        None => None,
        Some(paths) => {
            argv.push(if request.flat { "--force" } else { "--recursive" }.into());
            if request.leave_above {
                argv.push("--no-implied-dirs".into());
            }
            argv.extend(Arg::words(["--from0", "--files-from=-"]));
            // Its check takes each name for a pattern in which a backslash quotes, and holds each that comes against all.
            let refused = |path: &BytePath| path.as_bytes().len() > LONG_PATH || path.as_bytes().contains(&b'\\');
            if paths.len() > MANY_PATHS || paths.iter().any(refused) {
                // rsync(1), 3.2.7: the check is left out. What a sender adds stays below the target all the same.
                argv.push("--trust-sender".into());
            }
            argv.push(if request.delete { "--delete-missing-args" } else { "--ignore-missing-args" }.into());
            let mut list = only(paths.iter().filter(|path| !request.flat || !is_root(path)));
            if list.is_empty() && paths.iter().any(is_root) {
                // Flat, the root brings the names in it along; its own attributes come with any other path.
                list.extend_from_slice(b"./\0");
                argv.push("--filter=- /*".into());
            }
            Some(Bytes(list))
        }
    };
    argv.push(url(&request.from, default_port)?.into());
    let mut into = request.into.as_bytes().to_vec();
    if !into.ends_with(b"/") {
        into.push(b'/');
    }
    argv.push(Arg::Text(BytePath::new(into)));
    Ok(Spawn { argv, stdin, ..authenticated(&request.from) })
}

/// What opens an export and looks at its root, no more.
pub fn list(from: &Source, default_port: u16) -> Result<Spawn> {
    let mut argv = Arg::words([
        "rsync",
        "--no-motd",
        "--sockopts=TCP_NODELAY",
        "--timeout=30",
        "--contimeout=15",
        "--log-file=/proc/self/fd/1",
        "--log-file-format=",
        "--list-only",
    ]);
    argv.push(url(from, default_port)?.into());
    Ok(Spawn { argv, ..authenticated(from) })
}

/// Without a secret the password is empty rather than absent: rsync would ask at the terminal.
fn authenticated(from: &Source) -> Spawn {
    match &from.secret {
        Some(secret) => Spawn { secret_env: vec![("RSYNC_PASSWORD".into(), secret.clone())], ..Spawn::default() },
        None => Spawn { env: vec![("RSYNC_PASSWORD".into(), String::new())], ..Spawn::default() },
    }
}

fn is_root(path: &BytePath) -> bool {
    path.as_bytes().iter().all(|byte| *byte == b'/')
}

fn only<'a>(paths: impl IntoIterator<Item = &'a BytePath>) -> Vec<u8> {
    let mut list = Vec::new();
    for path in paths {
        // Anchored with `./`, so that no name is taken for a comment.
        list.extend_from_slice(b"./");
        let bytes = path.as_bytes();
        list.extend_from_slice(&bytes[bytes.iter().take_while(|byte| **byte == b'/').count()..]);
        list.push(0);
    }
    list
}

fn url(from: &Source, default_port: u16) -> Result<String> {
    module_name(&from.export)?;
    let server = &from.server;
    let fine = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_' | ':' | '%');
    if server.is_empty() || server.starts_with('-') || !server.chars().all(fine) {
        return Err(PluginError::invalid(format!("{server:?} is neither an address nor a name of a machine")));
    }
    let server = if server.contains(':') { format!("[{server}]") } else { server.clone() };
    Ok(format!("rsync://{USER}@{server}:{}/{}/", from.port.unwrap_or(default_port), from.export))
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::Secret;

    pub fn request() -> PullRequest {
        serde_json::from_value(serde_json::json!({
            "from": {"server": "10.0.0.5", "export": "web", "secret": "capture"},
            "into": "/images/.staging/web",
        }))
        .unwrap()
    }

    fn words(spawn: &Spawn) -> Vec<String> {
        spawn
            .argv
            .iter()
            .map(|arg| match arg {
                Arg::Text(text) => text.to_string(),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn plain() {
        let spawn = pull(&request(), 873).unwrap();
        let words = words(&spawn);
        assert_eq!(words[words.len() - 2..], ["rsync://systemimager@10.0.0.5:873/web/", "/images/.staging/web/"]);
        assert_eq!(spawn.secret_env, vec![("RSYNC_PASSWORD".to_owned(), Secret("capture".into()))]);
        for absent in ["--delete", "--checksum", "--dry-run", "--files-from=-", "--copy-dest", "--link-dest"] {
            assert!(!words.iter().any(|word| word.starts_with(absent)), "{absent}");
        }
    }

    #[test]
    fn options() {
        let mut asked = request();
        asked.delete = true;
        asked.checksum = true;
        (asked.dry_run, asked.links, asked.compress) = (true, true, true);
        asked.exclude = vec!["/var/tmp/*".into(), "-x".into()];
        asked.only = Some(vec!["/etc/a\nb".into(), "#c".into(), BytePath::new(b"\xff".as_slice())]);
        asked.from.server = "fd77::1".into();
        asked.from.port = Some(8730);
        let spawn = pull(&asked, 873).unwrap();
        let words = words(&spawn);
        for there in [
            "--delete",
            "--checksum",
            "--dry-run",
            "--no-inc-recursive",
            "--out-format=si:%i %l %n//%L",
            "--itemize-changes",
            "--filter=- /var/tmp/*",
            "--filter=- -x",
            "--files-from=-",
            "--from0",
            "--delete-missing-args",
            "rsync://systemimager@[fd77::1]:8730/web/",
        ] {
            assert!(words.iter().any(|word| word == there), "{there} in {words:?}");
        }
        assert_eq!(spawn.stdin.unwrap().0, b"./etc/a\nb\0./#c\0./\xff\0");
        assert!(!words.iter().any(|word| word == "--compress"), "nothing moves: {words:?}");
        (asked.dry_run, asked.links) = (false, false);
        let words = self::words(&pull(&asked, 873).unwrap());
        assert!(
            words.iter().any(|word| word == "--compress") && words.iter().any(|word| word == "--sparse"),
            "{words:?}"
        );
        assert!(!words.iter().any(|word| word == "--no-inc-recursive"), "{words:?}");
    }

    #[test]
    fn flat() {
        let mut asked = request();
        (asked.delete, asked.delete_excluded, asked.flat, asked.dense) = (true, true, true, true);
        asked.only = Some(vec!["/".into(), "/etc".into()]);
        let spawn = pull(&asked, 873).unwrap();
        assert_eq!(spawn.stdin.as_ref().unwrap().0, b"./etc\0", "the root would bring the names in it along");
        let words = words(&spawn);
        for there in ["--force", "--files-from=-", "--delete-missing-args"] {
            assert!(words.iter().any(|word| word == there), "{there} in {words:?}");
        }
        for absent in ["--recursive", "--delete", "--delete-excluded", "--sparse", "--compress"] {
            assert!(!words.iter().any(|word| word == absent), "{absent} in {words:?}");
        }
        assert!(!words.iter().any(|word| word == "--trust-sender"), "{words:?}");
        asked.only = Some(vec!["/".into(), format!("/{}", "d/".repeat(2000)).into()]);
        let quoted = Some(vec![BytePath::from("/a\\*b")]);
        let many = Some((0..2000).map(|number| BytePath::from(format!("/{number}"))).collect());
        for only in [asked.only.clone(), quoted, many] {
            let words = self::words(&pull(&PullRequest { only, ..asked.clone() }, 873).unwrap());
            assert!(words.iter().any(|word| word == "--trust-sender"), "{words:?}");
        }
        asked.only = Some(vec!["/".into()]);
        let spawn = pull(&asked, 873).unwrap();
        assert_eq!(spawn.stdin.as_ref().unwrap().0, b"./\0");
        assert!(self::words(&spawn).iter().any(|word| word == "--filter=- /*"));
    }

    type Spoil = fn(&mut PullRequest);

    #[test]
    fn refused() {
        let rows: &[(&str, Spoil, &str)] = &[
            ("relative", |r| r.into = "x".into(), "is not absolute"),
            ("server with slash", |r| r.from.server = "a/b".into(), "neither an address nor a name"),
            ("server as option", |r| r.from.server = "-e".into(), "neither an address nor a name"),
            ("two users", |r| r.from.server = "root@a".into(), "neither an address nor a name"),
            ("export", |r| r.from.export = "../x".into(), "cannot be the name of an rsync module"),
            ("basis", |r| r.basis = Some("/x".into()), "copy that tree first"),
            ("everything excluded", |r| r.exclude = vec!["/".into()], "leaves nothing to pull"),
        ];
        for (name, spoil, says) in rows {
            let mut asked = request();
            spoil(&mut asked);
            let error = pull(&asked, 873).unwrap_err().to_string();
            assert!(error.contains(says), "{name}: {error}");
        }
    }
}
