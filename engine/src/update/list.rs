//! Lists of what an update leaves alone: a pattern a line, `#` begins a comment, empty lines mean nothing. Pure.

use systemimager_core::BytePath;

/// Longest list, bytes.
pub const LONGEST: usize = 1 << 20;

/// Reads a list; `name` is how errors call it.
///
/// # Errors
/// Each line that is wrong, by its number.
pub fn parse(name: &str, text: &[u8]) -> Result<Vec<BytePath>, Vec<String>> {
    if text.len() > LONGEST {
        return Err(vec![format!("{name} is larger than {} KiB; that is no list of patterns", LONGEST >> 10)]);
    }
    let (mut patterns, mut wrong) = (Vec::new(), Vec::new());
    for (at, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        match pattern(line) {
            Ok(pattern) => patterns.push(pattern),
            Err(why) => wrong.push(format!("{name}, line {}: {why}", at + 1)),
        }
    }
    if wrong.is_empty() { Ok(patterns) } else { Err(wrong) }
}

/// One pattern, as in [`PullRequest::exclude`](systemimager_core::PullRequest::exclude).
///
/// # Errors
/// Why it is none, or would leave everything alone.
pub fn pattern(line: &[u8]) -> Result<BytePath, String> {
    let shown = || BytePath::new(line);
    if line.iter().any(u8::is_ascii_control) {
        return Err("control characters cannot stand in a pattern; match them with ?".into());
    }
    if line.split(|byte| *byte == b'/').any(|part| part == b"..") {
        return Err(format!("{} leads out of the tree; write the path from the root", shown()));
    }
    if line.iter().all(|byte| matches!(byte, b'/' | b'*' | b'?' | b'.')) {
        return Err(format!("{:?} would leave everything as it is; name what is to stay", shown().to_string()));
    }
    Ok(shown())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let fine = |names: &[&str]| Ok(names.iter().map(|name| BytePath::from(*name)).collect());
        type Row<'a> = (&'a str, &'a [u8], Result<Vec<BytePath>, &'a str>);
        let rows: &[Row<'_>] = &[
            ("empty", b"", fine(&[])),
            ("comments and blanks", b"# a\n\n  /var/lib/x/* \n#/no\n", fine(&["/var/lib/x/*"])),
            ("a name anywhere", b"*.bak", fine(&["*.bak"])),
            ("a dollar is a dollar", b"/$HOME/`id`", fine(&["/$HOME/`id`"])),
            ("carriage returns", b"/a\r\n/b\r\n", fine(&["/a", "/b"])),
            ("out of the tree", b"/ok\n/a/../../b\n", Err("l, line 2: /a/../../b leads out of the tree")),
            ("everything", b"/*\n", Err("l, line 1: \"/*\" would leave everything")),
            ("NUL", b"/a\0b\n", Err("l, line 1: control characters")),
        ];
        for (name, text, expected) in rows {
            match (parse("l", text), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, *expected, "{name}"),
                (Err(found), Err(says)) => assert!(found[0].starts_with(says), "{name}: {found:?}"),
                (found, _) => panic!("{name}: {found:?}"),
            }
        }
        assert!(parse("l", &vec![b'a'; LONGEST + 1]).unwrap_err()[0].contains("larger than 1024 KiB"));
    }
}
