//! A pull as an argv. Pure.

use systemimager_core::{Arg, BytePath, Bytes, PluginError, PullRequest, Result, Spawn};

use crate::filter;

/// How rsync reaches the other side.
#[derive(Debug, Clone, Default)]
pub struct Way {
    /// The source argument: `rsync://HOST/MODULE/`, `HOST:/`.
    pub source: String,
    /// Options that go with it.
    pub options: Vec<Arg>,
    /// Environment and helpers; the rest is filled in here.
    pub spawn: Spawn,
}

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
///
/// # Errors
/// `Invalid`: a target that is not absolute, a pattern that leaves nothing. `Unsupported`: a basis.
pub fn pull(request: &PullRequest, way: &Way) -> Result<Spawn> {
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
        "--outbuf=L",
        // Errors come in one stream with everything else, so that none is lost however many there are.
        "--log-file=/proc/self/fd/1",
        "--log-file-format=",
    ]);
    // Of a dry run only what differs: progress comes from another process of rsync's, and would get between the lines.
    argv.push(if request.dry_run { "--info=stats2" } else { "--info=progress2,stats2" }.into());
    argv.push(format!("--timeout={}", request.timeout_secs.max(1)).into());
    argv.extend(way.options.iter().cloned());
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
    argv.push(way.source.as_str().into());
    let mut into = request.into.as_bytes().to_vec();
    if !into.ends_with(b"/") {
        into.push(b'/');
    }
    argv.push(Arg::Text(BytePath::new(into)));
    Ok(Spawn { argv, stdin, ..way.spawn.clone() })
}

/// What opens an export and looks at its root, no more.
pub fn list(way: &Way) -> Spawn {
    let words = ["rsync", "--timeout=30", "--log-file=/proc/self/fd/1", "--log-file-format=", "--list-only"];
    let mut argv = Arg::words(words);
    argv.extend(way.options.iter().cloned());
    argv.push(way.source.as_str().into());
    Spawn { argv, ..way.spawn.clone() }
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

/// The name or address of a machine, as it may stand in rsync's arguments.
///
/// # Errors
/// `Invalid`: it is neither, or would be taken for something else.
pub fn server(server: &str) -> Result<String> {
    let fine = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_' | ':' | '%');
    if server.is_empty() || server.starts_with('-') || !server.chars().all(fine) {
        return Err(PluginError::invalid(format!("{server:?} is neither an address nor a name of a machine")));
    }
    Ok(if server.contains(':') { format!("[{server}]") } else { server.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way() -> Way {
        Way {
            source: "h:/".into(),
            options: Arg::words(["--rsh=x"]),
            spawn: Spawn { env: vec![("A".into(), "b".into())], ..Spawn::default() },
        }
    }

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
        let spawn = pull(&request(), &way()).unwrap();
        let words = words(&spawn);
        assert_eq!(words[words.len() - 2..], ["h:/", "/images/.staging/web/"]);
        assert!(words.iter().any(|word| word == "--rsh=x"), "{words:?}");
        assert_eq!(spawn.env, vec![("A".to_owned(), "b".to_owned())]);
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
        let spawn = pull(&asked, &way()).unwrap();
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
        ] {
            assert!(words.iter().any(|word| word == there), "{there} in {words:?}");
        }
        assert_eq!(spawn.stdin.unwrap().0, b"./etc/a\nb\0./#c\0./\xff\0");
        assert!(!words.iter().any(|word| word == "--compress"), "nothing moves: {words:?}");
        (asked.dry_run, asked.links) = (false, false);
        let words = self::words(&pull(&asked, &way()).unwrap());
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
        let spawn = pull(&asked, &way()).unwrap();
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
            let words = self::words(&pull(&PullRequest { only, ..asked.clone() }, &way()).unwrap());
            assert!(words.iter().any(|word| word == "--trust-sender"), "{words:?}");
        }
        asked.only = Some(vec!["/".into()]);
        let spawn = pull(&asked, &way()).unwrap();
        assert_eq!(spawn.stdin.as_ref().unwrap().0, b"./\0");
        assert!(self::words(&spawn).iter().any(|word| word == "--filter=- /*"));
    }

    type Spoil = fn(&mut PullRequest);

    #[test]
    fn refused() {
        let rows: &[(&str, Spoil, &str)] = &[
            ("relative", |r| r.into = "x".into(), "is not absolute"),
            ("basis", |r| r.basis = Some("/x".into()), "copy that tree first"),
            ("everything excluded", |r| r.exclude = vec!["/".into()], "leaves nothing to pull"),
        ];
        for (name, spoil, says) in rows {
            let mut asked = request();
            spoil(&mut asked);
            let error = pull(&asked, &way()).unwrap_err().to_string();
            assert!(error.contains(says), "{name}: {error}");
        }
    }

    #[test]
    fn servers() {
        assert_eq!(server("fd77::1").unwrap(), "[fd77::1]");
        assert_eq!(server("www1.example.org").unwrap(), "www1.example.org");
        for bad in ["", "a/b", "-e", "root@a", "a b", "a;b", "$(x)"] {
            assert!(server(bad).unwrap_err().to_string().contains("neither an address nor a name"), "{bad}");
        }
    }
}
