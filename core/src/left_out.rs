//! What is left out of a pull: patterns with the meaning of [`PullRequest::exclude`](crate::PullRequest::exclude), for
//! transports (and the engine) that hold paths against them themselves. Pure.

use crate::data::BytePath;

/// Patterns that paths are held against here, where no transport does it.
pub struct LeftOut(Vec<glob::Pattern>);

impl LeftOut {
    /// As [`PullRequest::exclude`](crate::PullRequest::exclude) means them.
    pub fn new(patterns: &[BytePath]) -> Self {
        let one = |pattern: &BytePath| {
            let text = String::from_utf8_lossy(trimmed(pattern)).into_owned();
            let (above, text) = match text.strip_prefix('/') {
                Some(anchored) => ("", anchored.to_owned()),
                None => ("**/", text),
            };
            let mut translated = String::from(above);
            let mut letters = text.chars();
            while let Some(letter) = letters.next() {
                match letter {
                    // The library quotes by brackets alone.
                    '\\' => {
                        let quoted = letters.next().unwrap_or('\\').to_string();
                        translated.push_str(&glob::Pattern::escape(&quoted));
                    }
                    other => translated.push(other),
                }
            }
            // An unclosed bracket matches nothing.
            glob::Pattern::new(&translated).ok()
        };
        Self(patterns.iter().filter_map(one).collect())
    }

    /// Whether a path is left out, or lies below one that is.
    pub fn has(&self, path: &BytePath) -> bool {
        let options = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::default() };
        let text = String::from_utf8_lossy(trimmed(path)).into_owned();
        let mut rest = text.trim_start_matches('/');
        while !rest.is_empty() {
            if self.0.iter().any(|pattern| pattern.matches_with(rest, options)) {
                return true;
            }
            rest = rest.rsplit_once('/').map_or("", |(above, _)| above);
        }
        false
    }
}

fn trimmed(path: &BytePath) -> &[u8] {
    let mut bytes = path.as_bytes();
    while let [head @ .., b'/'] = bytes {
        bytes = head;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out() {
        for (pattern, path, expected) in [
            ("/srv/site", "/srv/site", true),
            ("/srv/site", "/srv/site/a/b", true),
            ("/srv/site/", "/srv/site", true),
            ("/srv/site", "/srv/site2", false),
            ("/srv/*", "/srv", false),
            ("/srv/*", "/srv/a/b", true),
            ("/s*v", "/s/v", false),
            ("*.bak", "/etc/x.bak", true),
            ("*.bak", "/etc/x.bak/y", true),
            ("conf/x", "/etc/conf/x", true),
            ("conf/x", "/etc/conf/y", false),
            ("/a\\*b", "/a*b", true),
            ("/a\\*b", "/axb", false),
            ("/a\\[1]\\\\", "/a[1]\\", true),
            ("/a[12]", "/a2", true),
            ("/a[", "/a[", false),
        ] {
            assert_eq!(LeftOut::new(&[pattern.into()]).has(&path.into()), expected, "{pattern} {path}");
        }
    }
}
