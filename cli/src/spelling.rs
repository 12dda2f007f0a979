//! The paper's spelling: commands by their own names (`getimage` as a link to `systemimager`), and
//! options with a single dash (`-master-client=…`). Both become what clap reads.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// Names that the program may be called by, as links to it.
pub const COMMANDS: [&str; 12] = [
    "prepareclient",
    "getimage",
    "addclients",
    "lsimage",
    "cpimage",
    "mvimage",
    "rmimage",
    "updateclient",
    "makedhcpserver",
    "makedhcpstatic",
    "makeautoinstalldiskette",
    "makeautoinstallcd",
];

/// Words as clap reads them. `-word`, of two letters or more that are not all the same letter or a
/// known bundle of short options, becomes `--word`; what follows a lone `--` is left alone.
pub fn gnu(words: Vec<OsString>) -> Vec<OsString> {
    let mut words = words.into_iter();
    let Some(program) = words.next() else { return Vec::new() };
    let name = Path::new(&program).file_name().map(|name| name.to_string_lossy().into_owned());
    let mut result = vec![OsString::from("systemimager")];
    if let Some(name) = name.filter(|name| COMMANDS.contains(&name.as_str())) {
        result.push(name.into());
    }
    let mut options = true;
    let mut words = words.peekable();
    // A copy of the program under a command's name that starts itself anew says the command too.
    if result.len() > 1 && words.peek() == result.last() {
        words.next();
    }
    for word in words {
        if word == "--" {
            options = false;
        }
        result.push(if options { long(word) } else { word });
    }
    result
}

fn long(word: OsString) -> OsString {
    let bytes = word.as_bytes();
    let rest = match bytes.strip_prefix(b"-") {
        Some(rest) if !rest.starts_with(b"-") => rest,
        _ => return word,
    };
    let name = rest.split(|byte| *byte == b'=').next().unwrap_or(rest);
    // -v, -vv, -h, -V are short options; the paper's spelling has a word of at least three letters.
    let is_word = name.len() >= 2
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
        && name.first().is_some_and(u8::is_ascii_alphabetic)
        && !name.iter().all(|byte| *byte == b'v');
    if is_word { OsString::from_vec([b"--", rest].concat()) } else { word }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_papers_spelling() {
        let rows: [(&str, &[&str], &[&str]); 7] = [
            (
                "link name and single dashes",
                &["/usr/sbin/getimage", "-master-client=192.168.1.1", "-image=web_v1"],
                &["systemimager", "getimage", "--master-client=192.168.1.1", "--image=web_v1"],
            ),
            ("a link that names itself", &["prepareclient", "prepareclient"], &["systemimager", "prepareclient"]),
            ("GNU", &["systemimager", "getimage", "--image", "a"], &["systemimager", "getimage", "--image", "a"]),
            ("short options", &["x", "status", "-v", "-vv", "-h"], &["systemimager", "status", "-v", "-vv", "-h"]),
            ("after --", &["x", "pull", "--", "-image"], &["systemimager", "pull", "--", "-image"]),
            ("a lone dash, a number", &["x", "pull", "-", "-1"], &["systemimager", "pull", "-", "-1"]),
            ("values", &["x", "plan", "-host", "-odd name"], &["systemimager", "plan", "--host", "-odd name"]),
        ];
        for (name, input, expected) in rows {
            let words = gnu(input.iter().map(OsString::from).collect());
            assert_eq!(words, expected.iter().map(OsString::from).collect::<Vec<_>>(), "{name}");
        }
    }
}
