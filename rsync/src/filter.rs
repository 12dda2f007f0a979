//! Exclusions as rsync's filter rules (rsync(1), FILTER RULES). Pure.
//!
//! The contract speaks glob(7); rsync differs in three points that are evened out here: `**` crosses
//! slashes, an unclosed bracket matches nothing, and a backslash quotes only in patterns with wildcards.

use systemimager_core::{BytePath, PluginError, Result};

/// One argument: `--filter=- PATTERN`.
pub fn rule(pattern: &BytePath) -> Result<BytePath> {
    let mut argument = b"--filter=- ".to_vec();
    argument.extend(translate(pattern)?);
    Ok(BytePath::new(argument))
}

/// A piece of a pattern.
enum Token<'a> {
    Literal(u8),
    Wild(&'a [u8]),
}

fn translate(pattern: &BytePath) -> Result<Vec<u8>> {
    let mut bytes = pattern.as_bytes();
    // A trailing slash would restrict rsync to directories; here it means the same as without.
    while bytes.len() > 1 && bytes.ends_with(b"/") {
        bytes = &bytes[..bytes.len() - 1];
    }
    if bytes.is_empty() || bytes == b"/" {
        return Err(PluginError::invalid(format!(
            "{:?} leaves nothing to pull; name a path below the root",
            pattern.to_string()
        )));
    }
    let tokens = tokens(bytes);
    let special = |byte: u8| matches!(byte, b'*' | b'?' | b'[');
    let wild = tokens.iter().any(|token| match token {
        Token::Wild(_) => true,
        Token::Literal(byte) => special(*byte),
    });
    let mut out = Vec::with_capacity(bytes.len() + 8);
    for token in tokens {
        match token {
            Token::Wild(text) => out.extend_from_slice(text),
            Token::Literal(byte) => {
                if wild && (special(byte) || byte == b'\\') {
                    out.push(b'\\');
                }
                out.push(byte);
            }
        }
    }
    Ok(out)
}

fn tokens(bytes: &[u8]) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = bytes;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'\\' => match tail.split_first() {
                Some((quoted, tail)) => {
                    tokens.push(Token::Literal(*quoted));
                    rest = tail;
                }
                None => tokens.push(Token::Literal(b'\\')),
            },
            b'*' => {
                while let Some((b'*', tail)) = rest.split_first() {
                    rest = tail;
                }
                tokens.push(Token::Wild(b"*"));
            }
            b'?' => tokens.push(Token::Wild(b"?")),
            b'[' => match bracket(tail) {
                Some(length) => {
                    let start = bytes.len() - tail.len() - 1;
                    tokens.push(Token::Wild(bytes.get(start..start + 1 + length).unwrap_or_default()));
                    rest = tail.get(length..).unwrap_or_default();
                }
                None => tokens.push(Token::Literal(b'[')),
            },
            other => tokens.push(Token::Literal(*other)),
        }
    }
    tokens
}

/// How long the rest of a bracket expression is, the closing bracket included; `None`: it is not closed
/// within this part of the path.
fn bracket(tail: &[u8]) -> Option<usize> {
    let mut at = usize::from(matches!(tail.first(), Some(b'!' | b'^')));
    // A bracket right at the beginning stands for itself.
    let mut first = true;
    loop {
        match tail.get(at)? {
            b']' if !first => return Some(at + 1),
            b'/' => return None,
            b'\\' => at += 2,
            _ => at += 1,
        }
        first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (name, pattern, expected) in [
            ("anchored", "/var/tmp", "/var/tmp"),
            ("contents only", "/var/tmp/*", "/var/tmp/*"),
            ("anywhere", "*.o", "*.o"),
            ("trailing slash", "/proc/", "/proc"),
            ("a dash first", "-x", "-x"),
            ("blanks", " a ", " a "),
            ("newline", "a\nb", "a\nb"),
            ("double star", "/a/**/b", "/a/*/b"),
            ("plain backslash", "a\\b", "ab"),
            ("quoted star", "a\\*b", "a\\*b"),
            ("quoted backslash", "a\\\\b", "a\\b"),
            ("quoted backslash with wildcard", "a\\\\*", "a\\\\*"),
            ("class", "[a-z]x[!0-9]", "[a-z]x[!0-9]"),
            ("bracket in class", "[]x]", "[]x]"),
            ("unclosed", "[abc", "\\[abc"),
            ("unclosed before slash", "[a/b]", "\\[a/b]"),
            ("last backslash", "a\\", "a\\"),
        ] {
            assert_eq!(BytePath::new(translate(&pattern.into()).unwrap()), BytePath::from(expected), "{name}");
        }
        for bad in ["", "/", "//"] {
            assert!(translate(&bad.into()).unwrap_err().message.contains("leaves nothing to pull"), "{bad}");
        }
    }
}
