//! What the other side's rsync is told to do, where somebody else chooses the words: a list of what only reads, and of nothing
//! else (rsync(1), `--server`, which it does not document; seen of 3.1 to 3.5). Pure.
//!
//! Words are compared and put together anew, never handed to a shell. What is not on the list is refused, whatever it means.

use systemimager_core::{Answer, Arg, Asked, ErrorKind, PluginError, Result};

/// Longest command, bytes: rsync's own have some two hundred.
const LONGEST: usize = 4096;
/// Options without a value.
const PLAIN: [&str; 20] = [
    "--numeric-ids",
    "--list-only",
    "--from0",
    "--files-from=-",
    "--no-implied-dirs",
    "--delete-missing-args",
    "--ignore-missing-args",
    "--size-only",
    "--ignore-times",
    "--checksum",
    "--dirs",
    "--relative",
    "--no-relative",
    "--no-R",
    "--no-r",
    "--no-W",
    "--open-noatime",
    "--old-compress",
    "--new-compress",
    "--no-msgs2stderr",
];
/// Options with a number.
const NUMBERED: [&str; 8] = [
    "--timeout=",
    "--bwlimit=",
    "--block-size=",
    "--compress-level=",
    "--modify-window=",
    "--max-size=",
    "--min-size=",
    "--checksum-seed=",
];
/// Options with names: of checksums and compressions, and of what is to be told.
const NAMED: [&str; 4] = ["--info=", "--debug=", "--checksum-choice=", "--compress-choice="];
/// Letters of a bundle. Not among them: `L` and `k`, which follow links; `s`, by which the words would come later, unseen.
const LETTERS: &[u8] = b"vqnlHogDtpAXSrRcdzuIWxNUOJm";

/// What is run for such a command, and for which export: rsync, as the side that sends what is at [`Answer::TREE`].
///
/// # Errors
/// `Denied`: it asks for anything else than to read one of these exports whole, or in words that are not known. Names the word.
pub fn sender(asked: &Asked) -> Result<Answer> {
    let command: &[u8] = &asked.command;
    if command.len() > LONGEST {
        return Err(denied(format!("a command of {} bytes", command.len())));
    }
    let odd = |byte: &u8| !(byte.is_ascii_alphanumeric() || b" ./_=,:+@-".contains(byte));
    if let Some(byte) = command.iter().find(|byte| odd(byte)) {
        return Err(denied(format!("a command with the character {:?}", char::from(*byte))));
    }
    let text = String::from_utf8_lossy(command);
    let mut words = text.split(' ').filter(|word| !word.is_empty());
    for expected in ["rsync", "--server", "--sender"] {
        match words.next() {
            Some(word) if word == expected => {}
            Some(word) => return Err(denied(format!("{word:?}, where {expected:?} belongs"))),
            None => return Err(denied("a session without a command of rsync's".to_owned())),
        }
    }
    let mut argv = Arg::words(["rsync", "--server", "--sender"]);
    loop {
        match words.next() {
            Some(".") => break,
            Some(word) if is_option(word) => argv.push(word.into()),
            Some(word) => return Err(denied(format!("{word:?}"))),
            None => return Err(denied("a command without a path".to_owned())),
        }
    }
    let (Some(path), more) = (words.next(), words.next()) else {
        return Err(denied("a command without a path".to_owned()));
    };
    if let Some(word) = more {
        return Err(denied(format!("a second path, {word:?}")));
    }
    let name = path.strip_prefix('/').unwrap_or(path);
    let name = name.strip_suffix('/').unwrap_or(name);
    let Some(export) = asked.exports.iter().find(|export| *export == name) else {
        let have = asked.exports.iter().map(|export| format!("/{export}/")).collect::<Vec<_>>().join(", ");
        return Err(denied(format!("the path {path:?} (this key is for {have})")));
    };
    argv.extend([".".into(), format!("{}/", Answer::TREE).into()]);
    Ok(Answer { export: export.clone(), argv })
}

fn denied(what: String) -> PluginError {
    let message =
        format!("{what} is not taken here; this key is for reading whole trees by rsync, and for nothing else");
    PluginError::new(ErrorKind::Denied, message)
}

fn is_option(word: &str) -> bool {
    if PLAIN.contains(&word) {
        return true;
    }
    let value = |names: &[&str]| names.iter().find_map(|name| word.strip_prefix(name));
    if let Some(number) = value(&NUMBERED) {
        // `@-1` is the nanosecond, in versions that know it.
        let digits = number.strip_prefix('@').unwrap_or(number);
        let digits = digits.strip_prefix('-').unwrap_or(digits);
        return !digits.is_empty() && digits.len() <= 12 && digits.bytes().all(|byte| byte.is_ascii_digit());
    }
    if let Some(names) = value(&NAMED) {
        return !names.is_empty() && names.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b',');
    }
    let Some(letters) = word.strip_prefix('-').filter(|rest| !rest.starts_with('-')) else { return false };
    // `e` ends them: what follows says what the other version can do.
    let (letters, able) = letters.split_once('e').map_or((letters, None), |(letters, able)| (letters, Some(able)));
    // `.LsfxCIvu`, or `31.14.LsfxCIvu` of a version that is not out yet.
    let able_is_fine = able.is_none_or(|able| {
        let letters = able.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '.');
        able.len() > letters.len() && letters.bytes().all(|byte| byte.is_ascii_alphabetic())
    });
    (!letters.is_empty() || able.is_some()) && letters.bytes().all(|byte| LETTERS.contains(&byte)) && able_is_fine
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(command: impl AsRef<[u8]>) -> Result<Answer> {
        sender(&Asked { exports: vec!["web".into(), "facts".into()], command: command.as_ref().to_vec().into() })
    }

    fn words(argv: &[Arg]) -> String {
        let text = |arg: &Arg| match arg {
            Arg::Text(text) => text.to_string(),
            other => panic!("{other:?}"),
        };
        argv.iter().map(text).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_our_own_pulls_send() {
        // Recorded of rsync 3.5.0 with the options of `request`.
        for options in [
            "-lHogDtpAXrSe.iLsfxCIvu --timeout=60 --numeric-ids --info=STATS2",
            "-nlHogDtpAXrce.LsfxCIvu --timeout=60 --numeric-ids --info=STATS2",
            "-lHogDtpAXrze.iLsfxCIvu --timeout=60 --numeric-ids --info=STATS2",
            "-lHogDtpAXrRe.iLsfxCIvu --timeout=60 --delete-missing-args --numeric-ids --info=STATS2 --files-from=- --from0",
            "-lHogDtpAXRe.LsfxCIvu --timeout=60 --ignore-missing-args --numeric-ids --info=STATS2 --files-from=- --from0 \
             --no-implied-dirs",
            "-de.LsfxCIvu --list-only --timeout=30",
        ] {
            let command = format!("rsync --server --sender {options} . /facts/");
            let answer = ask(command).unwrap_or_else(|error| panic!("{options}: {error}"));
            assert_eq!(words(&answer.argv), format!("rsync --server --sender {options} . /tree/"));
            assert_eq!(answer.export, "facts");
        }
    }

    #[test]
    fn all_else_is_refused() {
        let rows: &[(&str, &str, &str)] = &[
            ("nothing", "", "a session without a command"),
            ("a shell", "sh -c id", "\"sh\", where \"rsync\" belongs"),
            ("to be written to", "rsync --server -lre.iLsfxCIvu . /", "where \"--sender\" belongs"),
            ("a daemon", "rsync --server --daemon .", "where \"--sender\" belongs"),
            ("another program", "rsync --server --sender -e.L --rsh=sh . /", "\"--rsh=sh\""),
            ("a program of its own", "rsync --server --sender --rsync-path=/bin/sh . /", "\"--rsync-path=/bin/sh\""),
            ("words that come later", "rsync --server --sender -sre.LsfxCIvu", "\"-sre.LsfxCIvu\""),
            ("links are followed", "rsync --server --sender -lLre.Lsf . /", "\"-lLre.Lsf\""),
            ("links to directories", "rsync --server --sender -kre.Lsf . /", "\"-kre.Lsf\""),
            ("sources go", "rsync --server --sender -re.L --remove-source-files . /", "\"--remove-source-files\""),
            ("a log", "rsync --server --sender -re.L --log-file=/etc/passwd . /", "\"--log-file=/etc/passwd\""),
            (
                "a list of the server's",
                "rsync --server --sender -re.L --files-from=/etc/shadow . /",
                "\"--files-from=/etc",
            ),
            (
                "patterns of the server's",
                "rsync --server --sender -re.L --exclude-from=/etc/x . /",
                "\"--exclude-from=",
            ),
            (
                "a path below",
                "rsync --server --sender -re.L . /web/etc",
                "the path \"/web/etc\" (this key is for /web/, /facts/)",
            ),
            ("upwards", "rsync --server --sender -re.L . /web/../", "the path \"/web/../\""),
            ("another export", "rsync --server --sender -re.L . /db/", "the path \"/db/\""),
            ("the root", "rsync --server --sender -re.L . /", "the path \"/\""),
            ("two paths", "rsync --server --sender -re.L . /web/ /etc", "a second path, \"/etc\""),
            ("no path", "rsync --server --sender -re.L .", "without a path"),
            ("no dot", "rsync --server --sender -re.L /", "\"/\""),
            ("a shell's words", "rsync --server --sender -re.L . /;id", "the character ';'"),
            ("a shell's variable", "rsync --server --sender -re.L . $HOME", "the character '$'"),
            ("quotes", "rsync --server --sender '-re.L' . /", "the character '\\''"),
            ("a new line", "rsync --server --sender -re.L . /\nid", "the character '\\n'"),
            ("NUL", "rsync --server --sender -re.L . /\0", "the character '\\0'"),
            ("an odd number", "rsync --server --sender --timeout=1x . /", "\"--timeout=1x\""),
            ("no number", "rsync --server --sender --timeout= . /", "\"--timeout=\""),
            ("no letters", "rsync --server --sender - . /", "\"-\""),
            ("the end of options", "rsync --server --sender -- . /", "\"--\""),
        ];
        for (name, command, says) in rows {
            let error = ask(command).map(|answer| words(&answer.argv)).expect_err(name);
            assert_eq!(error.kind, ErrorKind::Denied, "{name}");
            assert!(error.message.contains(says), "{name}: {error}");
        }
        // Injections, traversals, unknown options: each position of what our own pulls send, and more.
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/rsync_server");
        let files = std::fs::read_dir(corpus).unwrap().flatten().map(|entry| entry.path());
        let files = files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("hostile-"));
        let files: Vec<Vec<u8>> = files.map(|path| std::fs::read(path).unwrap()).collect();
        let hostile: Vec<&[u8]> = files.iter().flat_map(|file| file.split(|byte| *byte == 0xfe)).collect();
        assert!(hostile.len() >= 1000, "{}", hostile.len());
        for command in hostile {
            assert!(ask(command).is_err(), "{}", String::from_utf8_lossy(command));
        }
        let long = [b"rsync --server --sender ".as_slice(), &b"-r ".repeat(2000), b". /"].concat();
        assert!(ask(long).unwrap_err().message.contains("a command of 6027 bytes"));
    }
}
