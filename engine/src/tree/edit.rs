//! Changes to text files, as pure functions from bytes to bytes.

/// Puts `line` in place of each line that begins with `prefix`, or at the end if there is none. Only the
/// first of several is kept.
pub fn set_line(text: &[u8], prefix: &str, line: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + line.len() + 1);
    let mut done = false;
    for old in lines(text) {
        if old.starts_with(prefix.as_bytes()) {
            if !done {
                push_line(&mut out, line);
            }
            done = true;
        } else {
            out.extend_from_slice(old);
        }
    }
    if !done {
        end_line(&mut out);
        push_line(&mut out, line);
    }
    out
}

/// Puts `block` between the lines `begin` and `end`: in place of what stands there, or at the end.
pub fn set_block(text: &[u8], begin: &str, end: &str, block: &str) -> Vec<u8> {
    let mut whole = Vec::new();
    push_line(&mut whole, begin);
    whole.extend_from_slice(block.as_bytes());
    end_line(&mut whole);
    push_line(&mut whole, end);
    let is = |line: &[u8], wanted: &str| line.strip_suffix(b"\n").unwrap_or(line) == wanted.as_bytes();
    let lines: Vec<&[u8]> = lines(text).collect();
    // A begin without an end may stand before the block: what follows it is not ours.
    let opens = lines.iter().position(|line| is(line, begin));
    let last = opens.and_then(|opens| lines[opens..].iter().position(|line| is(line, end)).map(|last| opens + last));
    let first = last.and_then(|last| lines[..last].iter().rposition(|line| is(line, begin)));
    match (first, last) {
        (Some(first), Some(last)) => [lines[..first].concat(), whole, lines[last + 1..].concat()].concat(),
        // A begin without an end: what follows may be somebody's own lines, so nothing is taken away.
        _ => {
            let mut out = text.to_vec();
            end_line(&mut out);
            out.extend_from_slice(&whole);
            out
        }
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|byte| *byte == b'\n')
}

fn push_line(out: &mut Vec<u8>, line: &str) {
    out.extend_from_slice(line.as_bytes());
    out.push(b'\n');
}

fn end_line(out: &mut Vec<u8>) {
    if out.last().is_some_and(|byte| *byte != b'\n') {
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_set_once() {
        for (name, text, expected) in [
            ("replaced", "a\nkey=1\nb\n", "a\nkey=2\nb\n"),
            ("appended", "a\n", "a\nkey=2\n"),
            ("no newline at the end", "a", "a\nkey=2\n"),
            ("twice there", "key=1\nx\nkey=3\n", "key=2\nx\n"),
            ("empty", "", "key=2\n"),
        ] {
            assert_eq!(String::from_utf8(set_line(text.as_bytes(), "key=", "key=2")).unwrap(), expected, "{name}");
        }
    }

    #[test]
    fn blocks_are_set_once() {
        for (name, text, expected) in [
            ("replaced", "a\n#b\nold\n#e\nz\n", "a\n#b\nnew\n#e\nz\n"),
            ("appended", "a", "a\n#b\nnew\n#e\n"),
            ("begin without end", "#b\nmine\n", "#b\nmine\n#b\nnew\n#e\n"),
            ("the same again", "#b\nmine\n#b\nold\n#e\nz\n", "#b\nmine\n#b\nnew\n#e\nz\n"),
            ("empty", "", "#b\nnew\n#e\n"),
        ] {
            assert_eq!(String::from_utf8(set_block(text.as_bytes(), "#b", "#e", "new")).unwrap(), expected, "{name}");
        }
    }
}
