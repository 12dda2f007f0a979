//! How program arguments and paths are shown in messages: such that pasting them into a shell would
//! mean the same bytes, and such that a hostile file name cannot write to the terminal.
//!
//! For people only: nothing is ever run through a shell, and nothing parses this form.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;

/// One argument, quoted where it needs to be: `a`, `'a b'`, `$'a\n\xff'`.
pub fn quote(arg: impl AsRef<OsStr>) -> String {
    let arg = arg.as_ref();
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"_-./=:,@%+".contains(b);
    match arg.to_str() {
        Some(text) if !text.is_empty() && arg.as_bytes().iter().all(plain) => text.to_owned(),
        Some(text) if !text.contains(|c: char| c.is_control() || c == '\'') => format!("'{text}'"),
        _ => escaped(arg.as_bytes()),
    }
}

/// Words separated by blanks, each quoted.
pub fn quote_all(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> String {
    let words: Vec<String> = args.into_iter().map(quote).collect();
    words.join(" ")
}

/// Bash's `$'…'`.
fn escaped(bytes: &[u8]) -> String {
    let mut out = String::from("$'");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                '\\' | '\'' => {
                    out.push('\\');
                    out.push(c);
                }
                c if c.is_control() => {
                    let _ = write!(out, "\\u{:04x}", u32::from(c));
                }
                c => out.push(c),
            }
        }
        for b in chunk.invalid() {
            let _ = write!(out, "\\x{b:02x}");
        }
    }
    out.push('\'');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting() {
        let rows: &[(&str, &[u8], &str)] = &[
            ("plain", b"/dev/sda1", "/dev/sda1"),
            ("option", b"--label=x:y", "--label=x:y"),
            ("empty", b"", "''"),
            ("blank", b"a b", "'a b'"),
            ("dollar", b"$(reboot)", "'$(reboot)'"),
            ("single quote", b"it's", "$'it\\'s'"),
            ("newline", b"a\nb", "$'a\\nb'"),
            ("escape sequence", b"\x1b[2J", "$'\\u001b[2J'"),
            ("not utf-8", b"a\xff", "$'a\\xff'"),
            ("utf-8", "grün".as_bytes(), "'grün'"),
        ];
        for (name, input, expected) in rows {
            assert_eq!(quote(OsStr::from_bytes(input)), *expected, "{name}");
        }
        assert_eq!(quote_all(["mkfs", "-L", "a b"]), "mkfs -L 'a b'");
    }
}
