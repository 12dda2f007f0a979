//! What somebody who was let in wants rsync to do: commands one after the other, between bytes that no command holds.
//!
//! Whatever is said, nothing is answered but rsync as the side that sends one of the trees that they may have, whole, with
//! options that only read. The corpus has a thousand that want something else.

use systemimager_core::{Answer, Arg, Asked};
use systemimager_rsync::server;

use crate::seen;

/// No byte of UTF-8.
const BETWEEN: u8 = 0xfe;
/// What no option that only reads is called by, in whatever spelling.
const NEVER: [&str; 21] = [
    "daemon",
    "rsh",
    "rsync-path",
    "config",
    "log-file",
    "remove",
    "exclude",
    "include",
    "filter",
    "write",
    "batch",
    "temp",
    "partial",
    "backup",
    "dest",
    "copy",
    "munge",
    "chown",
    "iconv",
    "secluded",
    "protect",
];

pub fn target(data: &[u8]) {
    let exports = vec!["web".to_owned(), "override.www1".to_owned()];
    for command in data.split(|byte| *byte == BETWEEN) {
        let asked = Asked { exports: exports.clone(), command: command.to_vec().into() };
        match server::sender(&asked) {
            Ok(answer) => judge(&asked, &answer),
            Err(error) => seen::one_line(&error.message),
        }
    }
}

fn judge(asked: &Asked, answer: &Answer) {
    assert!(asked.exports.contains(&answer.export), "{}", answer.export);
    let words: Vec<String> = answer
        .argv
        .iter()
        .map(|arg| match arg {
            Arg::Text(text) => text.to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    let [rsync, server, sender, options @ .., dot, tree] = words.as_slice() else { panic!("{words:?}") };
    assert_eq!([rsync, server, sender, dot, tree], ["rsync", "--server", "--sender", ".", "/tree/"], "{words:?}");
    for option in options {
        assert!(option.starts_with('-') && option != "-" && option != "--", "{words:?}");
        assert!(option.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-=.,@".contains(&byte)), "{words:?}");
        // What follows `e` in a bundle is no option: it says what the other version can do, in letters.
        // Nor is what follows `=`: a name of something to be told, say.
        let is_bundle = !option.starts_with("--");
        let letters = option.split(if is_bundle { 'e' } else { '=' }).next().unwrap_or_default();
        assert!(!NEVER.iter().any(|name| letters.contains(name)), "{words:?}");
        assert!(letters != "--files-from" || option == "--files-from=-", "{words:?}");
        if is_bundle {
            // `L`, `k` and `K` follow links, `s` has words come later, `T` and `M` take others.
            assert!(!letters.contains(['L', 'k', 'K', 's', 'T', 'M', 'b', 'P', 'F', 'f', 'C']), "{words:?}");
        }
    }
}
